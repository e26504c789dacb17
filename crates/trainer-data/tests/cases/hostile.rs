//! Files made to break a reader: each is an error that names file and place,
//! and none of them fills the memory.

use std::io::Write;

use serde_json::{Value, json};
use trainer_config::{Dataset, MalformedRows, PromptStrategy};
use trainer_data::SkipReason;

use crate::support::{Lab, config, message_of_file as message};

fn gzip(write: impl FnOnce(&mut dyn Write)) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    write(&mut encoder);
    encoder.finish().unwrap()
}

fn zstd(write: impl FnOnce(&mut dyn Write)) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    write(&mut encoder);
    encoder.finish().unwrap()
}

#[test]
fn keys_that_stand_twice() {
    for (line, column, text) in [
        (2, 20, r#"{"text": "a", "text": "b"}"#),
        (2, 30, r#"{"text": "a", "m": [{"a":1,"a":2}]}"#),
    ] {
        let key = if text.contains("\"m\"") { "a" } else { "text" };
        let message = message("a.jsonl", format!("{{\"text\": \"x\"}}\n{text}"));
        assert_eq!(
            message,
            format!(
                "a.jsonl, line {line}, column {column}: the key `{key}` stands twice in one object; keep one of them"
            )
        );
    }
    assert_eq!(
        message("a.json", "[{\"text\": \"x\"},\n {\"b\": 1,\n  \"b\": 2}]"),
        "a.json, line 3, column 5: the key `b` stands twice in one object; keep one of them"
    );
}

#[test]
fn nul_bytes() {
    for (name, bytes) in [
        ("a.jsonl", &b"{\"text\": \"x\"}\n{\"text\": \"\0\"}"[..]),
        ("a.json", b"[{\"text\": \"x\"},\n{\"text\": \"\0\"}]"),
        ("a.txt", b"hello\n0123456789\0"),
    ] {
        assert_eq!(
            message(name, bytes),
            format!(
                "{name}, line 2: a NUL byte at byte 11 of the line: the file is binary, in UTF-16, or damaged; text files are UTF-8"
            )
        );
    }
    assert_eq!(
        message("a.csv", b"text,b\nx,y\nz,\0\n"),
        "a.csv, line 3: a NUL byte in value 2 of the row that starts here: the file is binary, in UTF-16, or damaged"
    );
    // The escape is a character like any other.
    let lab = Lab::new("</s>");
    let dataset = lab.rows(PromptStrategy::Completion, &[json!({"text": "a\0b"})]);
    assert_eq!(lab.prepare(&config(dataset)).unwrap().train[0].len(), 5);
}

#[test]
fn lone_surrogates() {
    for text in [r"\ud83d", r"\ud83dx", r"\ude00", r"\ud83d\u0041"] {
        let message = message(
            "a.jsonl",
            format!("{{\"text\": \"x\"}}\n{{\"text\": \"{text}\"}}"),
        );
        assert!(
            message.starts_with("a.jsonl, line 2, column ")
                && message.ends_with("malformed JSON: a `\\u` escape of half a character (a lone surrogate), which no text can hold; write both halves, or take it out"),
            "{message}"
        );
    }
}

#[test]
fn nesting() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for (name, text) in [
            ("a.jsonl", format!("{{\"text\": {deep}}}")),
            ("a.json", format!("[{{\"text\": {deep}}}]")),
        ] {
            let message = message(name, text);
            assert!(
                message.starts_with(&format!("{name}, line 1, column "))
                    && message.ends_with(": JSON nested deeper than 128 levels"),
                "{message}"
            );
        }
    }
}

#[test]
fn rows_of_other_schemas() {
    let rows = |second: Value| message("a.jsonl", format!("{}\n{second}", json!({"text": "a"})));
    assert_eq!(
        rows(json!({"text": ["a"]})),
        "a.jsonl, line 2: `text` has to be text, not a list"
    );
    assert_eq!(
        rows(json!({"body": "a"})),
        "a.jsonl, line 2: no column `text`, which `type: completion` needs; the row has `body`; `field` names the column of the text"
    );
    assert_eq!(
        rows(json!([1])),
        "a.jsonl, line 2: a row has to be a JSON object with one key a column, not a list"
    );
}

#[test]
fn arrays_that_are_not_closed() {
    for (text, expected) in [
        (
            "[{\"text\": \"a\"}",
            "line 1, column 14: the JSON ends too early (EOF while parsing a list)",
        ),
        (
            "[{\"text\": \"a\"},\n ]",
            "line 2, column 2: malformed JSON: trailing comma",
        ),
        (
            "[{\"text\": \"a\"} {\"text\": \"b\"}]",
            "line 1, column 16: malformed JSON: expected `,` or `]`",
        ),
        (
            "[{\"text\": \"a\"}]\n[]",
            "line 2, column 1: malformed JSON: trailing characters after the array",
        ),
    ] {
        assert_eq!(
            message("a.json", text),
            format!("a.json, {expected}; the file holds one array of JSON objects")
        );
    }
}

#[test]
fn bombs() {
    // 100 MiB of one line, of blank lines and of rows.
    let line = vec![b'a'; 1 << 20];
    let blank = vec![b'\n'; 1 << 20];
    let rows = b"{\"text\": \"aaaaaaaaaaaaaaaaaaaa\"}\n".repeat(1 << 15);
    let lab = Lab::new("</s>");
    for block in [&line, &blank, &rows] {
        let write = |out: &mut dyn Write| (0..100).for_each(|_| out.write_all(block).unwrap());
        let mut files = vec![("a.jsonl.zst", zstd(write))];
        // Rows that repeat are within what gzip may do to text.
        if block != &rows {
            files.push(("a.jsonl.gz", gzip(write)));
        }
        for (name, bytes) in files {
            let dataset = Dataset {
                path: lab.write(name, bytes),
                ..Dataset::default()
            };
            let error = trainer_data::source::open(&dataset)
                .and_then(|mut rows| rows.find_map(Result::err).map_or(Ok(()), Err))
                .unwrap_err();
            let message = lab.message(&error);
            assert!(
                message.starts_with(&format!("cannot unpack {name}: 0 MiB unpack to more than 6"))
                    && message.ends_with("MiB, over 500 times as much, as in a file made to fill the memory; if it is what you want, unpack it first"),
                "{message}"
            );
        }
    }
}

#[test]
fn compressed_files_that_are_damaged() {
    let whole = gzip(|out| {
        let line = |n: u32| format!("{{\"text\": \"{}\"}}\n", n.wrapping_mul(2_654_435_761));
        (0..4000).for_each(|n| out.write_all(line(n).as_bytes()).unwrap());
    });
    let cut = message("a.jsonl.gz", &whole[..whole.len() / 2]);
    assert!(cut.starts_with("cannot unpack a.jsonl.gz: "), "{cut}");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0xff;
    let flipped = message("a.jsonl.gz", flipped);
    assert!(flipped.contains("a.jsonl.gz"), "{flipped}");
    assert_eq!(
        message("a.jsonl.gz", "{\"text\": \"a\"}"),
        "cannot unpack a.jsonl.gz: its name says gzip, its first bytes do not; if it is not compressed, rename it"
    );
}

#[test]
fn a_line_of_100_mb_is_read() {
    let lab = Lab::new("</s>");
    let mut text = "{\"text\": \"".to_owned();
    text.extend(std::iter::repeat_n('a', 100 << 20));
    text.push_str("\"}\n{\"text\": 7}\n");
    let dataset = Dataset {
        path: lab.write("a.jsonl", text),
        ..Dataset::default()
    };
    let rows: Vec<_> = trainer_data::source::open(&dataset)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        rows[0].columns["text"].as_str().map(str::len),
        Some(100 << 20)
    );
    assert_eq!(rows[1].at.number, 2);
}

#[test]
fn malformed_rows_are_skipped_and_counted_if_asked_for() {
    let lab = Lab::new("</s>");
    let good = "{\"text\": \"a\"}";
    let text = format!(
        "{{\"text\": \n{good}\n{{\"text\": 7}}\n[1]\n{{\"body\": \"b\"}}\n{{\"text\": \"\\ud800\"}}\n{good}\n{{\"text\": \"a\", \"text\": \"b\"}}"
    );
    let mut config = config(Dataset {
        path: lab.write("a.jsonl", text),
        strategy: Some(PromptStrategy::Completion),
        ..Dataset::default()
    });
    assert!(lab.prepare(&config).is_err());
    config.malformed_rows = MalformedRows::Skip;
    let prepared = lab.prepare(&config).unwrap();
    assert_eq!(prepared.train.len(), 2);
    assert_eq!(
        prepared.ledger.datasets[0].skipped[&SkipReason::Malformed],
        6
    );
    // What breaks the file, and not a row, is an error all the same.
    for (name, bytes) in [
        ("b.jsonl", &b"{\"text\": \"a\"}\n\0\n{\"text\": \"b\"}"[..]),
        ("b.json", b"[{\"text\": \"a\"} {\"text\": \"b\"}]"),
        ("b.csv", b"text,n\na,1\nb\nc,3\n"),
        ("c.jsonl", b"{\"text\": 7}\n{\"text\":"),
    ] {
        config.datasets[0].path = lab.write(name, bytes);
        assert!(lab.prepare(&config).is_err(), "{name}");
    }
}
