//! Which split a file belongs to by its name, as the `datasets` library tells them.

use std::path::Path;

/// The split that a path inside a data set's folder names: a word of the file's
/// name, else of the nearest folder that has one. `data/NAME-00000-of-00001.*`
/// is the split NAME, whatever it is. Two words that contradict each other are
/// the error.
pub(super) fn split_of(path: &Path) -> Result<Option<String>, (&'static str, &'static str)> {
    let names: Vec<_> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    if let [.., folder, file] = &names[..]
        && folder == "data"
        && let Some(split) = shard(file)
    {
        return Ok(Some(split.to_owned()));
    }
    for name in names.iter().rev() {
        let mut found = None;
        for word in name.to_lowercase().split(|c: char| !c.is_alphanumeric()) {
            let split = match word {
                "train" | "training" => "train",
                "validation" | "valid" | "val" | "dev" => "validation",
                "test" | "testing" | "eval" | "evaluation" => "test",
                _ => continue,
            };
            match found {
                Some(other) if other != split => return Err((other, split)),
                _ => found = Some(split),
            }
        }
        if let Some(split) = found {
            return Ok(Some(split.to_owned()));
        }
    }
    Ok(None)
}

/// `NAME` of `NAME-00000-of-00001`, with anything after it.
fn shard(file: &str) -> Option<&str> {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let (head, tail) = file.split_once("-of-")?;
    let (name, number) = head.rsplit_once('-')?;
    (digits(number) && digits(tail.get(..5)?) && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_by_name() {
        for (path, expected) in [
            ("train.jsonl", Ok(Some("train"))),
            ("my-dev_set.csv", Ok(Some("validation"))),
            ("eval/part1.json", Ok(Some("test"))),
            ("test/train.json", Ok(Some("train"))),
            (
                "data/train_sft-00000-of-00003-ab12.parquet",
                Ok(Some("train_sft")),
            ),
            ("parts/train_sft-00000-of-00003.parquet", Ok(Some("train"))),
            ("contest.json", Ok(None)),
            ("part-00000-of-00002.parquet", Ok(None)),
            ("train_test.json", Err(("train", "test"))),
        ] {
            let split = split_of(Path::new(path));
            assert_eq!(
                split,
                expected.map(|name| name.map(str::to_owned)),
                "{path}"
            );
        }
    }
}
