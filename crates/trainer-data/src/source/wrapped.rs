//! Rows that stand in a list inside an object: `{"data": [{..}, ..]}`.
//!
//! They are not read, since nothing says that such a list holds rows: a row of a
//! conversation looks the same. The message says which list it seems to be.

use std::io::Read;
use std::path::Path;

use super::input;

/// So much of a file is looked at.
const LOOK: u64 = 1 << 16;

/// What to do with rows that are the list under a key.
pub(super) fn advice(path: &Path, key: &str) -> String {
    let name = path
        .file_stem()
        .map_or_else(|| "rows".into(), |stem| stem.to_string_lossy());
    format!(
        "the rows seem to be the list under `{key}`: a file holds one object a line, or one list of objects; take the list out, such as with jq -c '.[\"{key}\"][]' {} > {name}.jsonl",
        path.display()
    )
}

/// The key of the first list of objects in a file that begins with an object.
pub(super) fn key(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    let file = input::open(path).ok()?;
    file.take(LOOK).read_to_end(&mut start).ok()?;
    let text = String::from_utf8_lossy(&start);
    let mut last: Option<&str> = None;
    let mut rest = text
        .trim_start_matches('\u{feff}')
        .trim_start()
        .strip_prefix('{')?;
    loop {
        rest = rest.trim_start();
        match rest.chars().next()? {
            '"' => {
                let end = closing_quote(rest)?;
                last = Some(&rest[1..end]);
                rest = &rest[end + 1..];
            }
            '{' => rest = behind_object(rest)?,
            '}' => return None,
            '[' => {
                let inside = rest[1..].trim_start();
                match inside.strip_prefix('{') {
                    Some(_) => return last.map(str::to_owned),
                    None => rest = &rest[rest.find(']')? + 1..],
                }
            }
            other => rest = &rest[other.len_utf8()..],
        }
    }
}

/// What follows the object that a text begins with.
fn behind_object(text: &str) -> Option<&str> {
    let mut rest = text;
    let mut depth = 0;
    loop {
        match rest.chars().next()? {
            '"' => rest = &rest[closing_quote(rest)?..],
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        rest = &rest[rest.chars().next()?.len_utf8()..];
        if depth == 0 {
            return Some(rest);
        }
    }
}

/// Where the text that begins with a quote ends.
fn closing_quote(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while *bytes.get(at)? != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_of_rows_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (text, expected) in [
            (
                "{\n  \"version\": 1,\n  \"data\": [\n    {\"a\": 1}",
                Some("data"),
            ),
            (
                "{\"a\\\"b\": \"x\", \"l\": [1, 2], \"rows\": [{",
                Some("rows"),
            ),
            ("{\"a\": {\"b\": [{\"}\": 1}]}, \"data\": [ {", Some("data")),
            ("{\"a\": {\"b\": [{", None),
            ("{\"a\": 1}", None),
            ("[{\"a\": 1}]", None),
            ("{\"a\": [[{", None),
            ("", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(super::key(&path).as_deref(), expected, "{text}");
        }
    }
}
