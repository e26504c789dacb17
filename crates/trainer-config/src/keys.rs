//! Keys and values that Axolotl knows and this project does not have.
//!
//! The table is `axolotl_keys.tsv`, one line for each: the key, what it is
//! ([`Kind`]), values that ask for nothing we do not do anyway (besides `null` and
//! `false`, which ask for nothing in every case), and a hint. Keys of a data set
//! are written `datasets[].key`, values `key=value`; a `*` at the end stands for
//! the rest of the name.

use std::collections::HashMap;
use std::sync::LazyLock;

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
    pub(crate) fn accepts(&self, text: &str) -> bool {
        self.accepts.contains(&text)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    exact: HashMap<&'static str, Entry>,
    prefixes: Vec<(&'static str, Entry)>,
}

const TEXT: &str = include_str!("axolotl_keys.tsv");

pub(crate) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::default();
    for line in TEXT.lines().skip(1) {
        // The unit test below checks that no line is skipped here.
        let Some((key, entry)) = parse(line) else {
            continue;
        };
        match key.strip_suffix('*') {
            Some(prefix) => table.prefixes.push((prefix, entry)),
            None => {
                table.exact.insert(key, entry);
            }
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
            self.prefixes
                .iter()
                .find(|(prefix, _)| key.starts_with(prefix))
                .map(|(_, entry)| entry)
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
