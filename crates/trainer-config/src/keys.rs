//! Keys and values that Axolotl knows and this project does not have.
//!
//! The table is `axolotl_keys.tsv`, one line for each: the key, what it is
//! ([`Kind`]), values that ask for nothing we do not do anyway (besides `null` and
//! `false`, which ask for nothing in every case), and a hint. Among the values, `bool`
//! says that the key is a truth value, so that `0` and `n` are false, and `true` that
//! true, however it is written, asks for nothing either. Keys of a data set are written
//! `datasets[].key`, values `key=value`; a `*` stands for any text.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::scalar;

/// What a key or value of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It will be supported.
    Later,
    /// About a Python or CUDA library, and the run would not be what was asked for.
    Python,
    /// About a Python or CUDA library, without effect on the result.
    Ignored,
    /// Has another name now: the hint.
    Renamed,
    /// Axolotl itself does not take it any more.
    Removed,
    /// Other programs call it that: the hint is our name.
    Alias,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    accepts: Vec<&'static str>,
    pub(crate) hint: &'static str,
}

impl Entry {
    /// Whether a value asks for nothing.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        self.accepts.iter().any(|accepted| match *accepted {
            "bool" => scalar::flag(text) == Some(false),
            "true" => scalar::flag(text).is_some(),
            other if other == text => true,
            // 1, 1.0 and "1" are one value.
            other => scalar::number(other).is_some_and(|n| scalar::number(text) == Some(n)),
        })
    }

    /// The values that ask for nothing, as they stand in the table.
    pub(crate) fn accepted(&self) -> &[&'static str] {
        &self.accepts
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    exact: HashMap<&'static str, Entry>,
    patterns: Vec<(&'static str, Entry)>,
}

const TEXT: &str = include_str!("axolotl_keys.tsv");

pub(crate) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::default();
    for line in TEXT.lines().skip(1) {
        // The unit test below checks that no line is skipped here.
        let Some((key, entry)) = parse(line) else {
            continue;
        };
        if key.contains('*') {
            table.patterns.push((key, entry));
        } else {
            table.exact.insert(key, entry);
        }
    }
    table
});

fn parse(line: &'static str) -> Option<(&'static str, Entry)> {
    let mut columns = line.split('\t');
    let key = columns.next()?;
    let kind = match columns.next()? {
        "later" => Kind::Later,
        "python" => Kind::Python,
        "ignored" => Kind::Ignored,
        "renamed" => Kind::Renamed,
        "removed" => Kind::Removed,
        "alias" => Kind::Alias,
        _ => return None,
    };
    let accepts = columns
        .next()?
        .split(',')
        .filter(|value| !value.is_empty())
        .collect();
    let hint = columns.next()?;
    columns.next().is_none().then_some((
        key,
        Entry {
            kind,
            accepts,
            hint,
        },
    ))
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.exact.get(key).or_else(|| {
            let mut found = self.patterns.iter();
            let found = found.find(|(pattern, _)| matches(pattern, key));
            found.map(|(_, entry)| entry)
        })
    }

    /// Every key and pattern below `prefix` (`""` or `datasets[].`), for the JSON schema.
    pub(crate) fn below(&self, prefix: &str) -> impl Iterator<Item = (&'static str, &Entry)> {
        let exact = self.exact.iter().map(|(key, entry)| (*key, entry));
        let patterns = self.patterns.iter().map(|(key, entry)| (*key, entry));
        exact.chain(patterns).filter_map(move |(key, entry)| {
            let name = key.strip_prefix(prefix)?;
            (!name.contains(['.', '=', '['])).then_some((name, entry))
        })
    }

    /// Names one level below `prefix` (`""` or `datasets[].`), to be suggested.
    pub(crate) fn names(&self, prefix: &str) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.exact.iter().filter_map(move |(key, entry)| {
            let name = key.strip_prefix(prefix)?;
            (!name.contains(['.', '=', '[']) && entry.kind != Kind::Alias).then_some((name, entry))
        })
    }

    /// Values of a key, to be suggested.
    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.exact.iter().filter_map(move |(name, entry)| {
            Some((name.strip_prefix(key)?.strip_prefix('=')?, entry))
        })
    }

    /// Patterns of values of a key.
    pub(crate) fn value_patterns(&self, key: &str) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.patterns.iter().filter_map(move |(name, entry)| {
            Some((name.strip_prefix(key)?.strip_prefix('=')?, entry))
        })
    }
}

/// Whether a name fits a pattern, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

/// The closest of `names` to what was written, if any is close.
pub(crate) fn nearest<T>(written: &str, names: impl Iterator<Item = (T, bool)>) -> Option<T>
where
    T: AsRef<str>,
{
    let written = written.to_lowercase().replace('-', "_");
    let limit = (written.chars().count() / 3).clamp(1, 4);
    names
        .map(|(name, ours)| {
            (
                strsim::damerau_levenshtein(&written, name.as_ref()),
                !ours,
                name,
            )
        })
        .filter(|(distance, _, name)| *distance <= limit && *distance < name.as_ref().len())
        .min_by(|(d1, o1, n1), (d2, o2, n2)| (d1, o1, n1.as_ref()).cmp(&(d2, o2, n2.as_ref())))
        .map(|(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{ROOT, Shape};

    #[test]
    fn every_line_of_the_table_is_read() {
        let mut lines: Vec<&str> = TEXT.lines().skip(1).collect();
        for line in &lines {
            assert!(parse(line).is_some(), "{line}");
        }
        let count = lines.len();
        lines.sort_unstable_by_key(|line| line.split('\t').next());
        lines.dedup_by_key(|line| line.split('\t').next().map(str::to_owned));
        assert_eq!(lines.len(), count, "a key has two lines");
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, fits) in [
            ("liger_*", "liger_rope", true),
            ("liger_*", "a_liger_rope", false),
            ("x=*/*", "x=a/b", true),
            ("x=*/*", "x=ab", false),
            ("*end", "the end", true),
            ("*end", "the ends", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    /// What asks for nothing is told by its value, not by how it is written.
    #[test]
    fn values_that_ask_for_nothing() {
        let accepts = |key: &str, text: &str| TABLE.get(key).unwrap().accepts(text);
        for (key, nothing, something) in [
            (
                "use_eaft",
                &["0", "n", "F"][..],
                &["1", "yes", "y", "true", "20", "1.0"][..],
            ),
            ("use_dft", &["0"], &["1", "on"]),
            ("eaft_k", &["20", "20.0"], &["1", "0"]),
            ("eaft_alpha", &["1", "1.0"], &["20", "0.5"]),
            ("use_ray", &["0"], &["1"]),
            ("float32", &["1", "yes", "0"], &["2"]),
            ("world_size", &["1", "1.0"], &["2", "0"]),
            ("lisa_n_layers", &[], &["model.layers", "1", "0"]),
            ("relora", &["off", "0"], &["1", "magnitude"]),
            ("gptq", &["0"], &["1", "bitsandbytes"]),
            ("preprocess_iterable", &["n"], &["1", "10000"]),
            ("context_parallel_size", &["1"], &["2"]),
        ] {
            for text in nothing {
                assert!(accepts(key, text), "{key}: {text}");
            }
            for text in something {
                assert!(!accepts(key, text), "{key}: {text}");
            }
        }
    }

    /// A key that becomes supported leaves the table, and hints name real keys.
    #[test]
    fn no_line_is_about_a_supported_key() {
        for line in TEXT.lines().skip(1) {
            let key = line.split('\t').next().unwrap();
            let shape = match key.split_once("[].") {
                Some(("datasets", rest)) => match ROOT.property("datasets") {
                    Some(Shape::List { items, .. }) => items.property(rest),
                    _ => None,
                },
                _ => ROOT.property(key),
            };
            assert!(shape.is_none(), "{key} is supported");
            if let Some((_, entry)) = parse(line)
                && matches!(entry.kind, Kind::Renamed | Kind::Alias)
                && !key.contains('[')
                && !key.contains('=')
            {
                assert!(
                    ROOT.property(entry.hint).is_some() || TABLE.get(entry.hint).is_some(),
                    "{key}: no key {}",
                    entry.hint
                );
            }
        }
    }

    #[test]
    fn the_nearest_name_is_close_and_preferably_ours() {
        let names = || {
            [
                ("lora_r", false),
                ("learning_rate", true),
                ("seed", true),
                ("seek", false),
            ]
            .into_iter()
        };
        assert_eq!(nearest("learnig_rate", names()), Some("learning_rate"));
        assert_eq!(nearest("learning-rate", names()), Some("learning_rate"));
        assert_eq!(nearest("sees", names()), Some("seed"));
        assert_eq!(nearest("completely_else", names()), None);
    }
}
