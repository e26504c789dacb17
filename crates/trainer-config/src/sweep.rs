//! Sweeps: a file that says which values of which keys are to be tried.
//!
//! Each key has a list of values; the runs are all combinations of them. Under the
//! key `_` stands a list of mappings: values that belong together. The runs come
//! in the order of the file, the last key changing first.

use std::path::Path;
use std::rc::Rc;

use crate::diagnostic::{ConfigErrors, Diagnostic};
use crate::load;
use crate::source::{Source, SourceKind};
use crate::yaml::{self, Kind, Node};

/// Key of the values that belong together.
const PAIRED: &str = "_";
/// Most runs of a sweep.
const MOST_RUNS: usize = 10_000;

/// One run: keys and their values, as on the command line.
pub type SweepRun = Vec<(String, String)>;

/// Reads a sweep. Keys and values are not checked against the schema: that is done
/// when they are loaded as overrides of a configuration.
///
/// # Errors
/// When the file cannot be read, is not YAML, has a key without values, or asks
/// for more than 10,000 runs.
pub fn load_sweep(path: &Path) -> Result<Vec<SweepRun>, ConfigErrors> {
    let text = load::read(path).map_err(|error| ConfigErrors::new(vec![error]))?;
    sweep(path, text.strip_prefix('\u{feff}').unwrap_or(&text))
}

fn sweep(path: &Path, text: &str) -> Result<Vec<SweepRun>, ConfigErrors> {
    let source = Rc::new(Source::new(SourceKind::File(path.to_path_buf()), text));
    let (node, errors) =
        yaml::parse(&source, text).map_err(|error| ConfigErrors::new(vec![error]))?;
    if !errors.is_empty() {
        return Err(ConfigErrors::new(errors));
    }
    let wrong = |node: &Node, message: String, note: &str, help: &str| {
        let error = Diagnostic::error(message).label(source.label(node.span, note));
        ConfigErrors::new(vec![error.help(help)])
    };
    let Some(node) = node.filter(|node| !node.is_null()) else {
        let error = Diagnostic::error("the sweep is empty").in_file(Some(path.to_path_buf()));
        return Err(ConfigErrors::new(vec![error.help(EXAMPLE)]));
    };
    let Kind::Mapping(entries) = &node.kind else {
        let message = format!(
            "a sweep is a mapping of keys to lists, not {}",
            node.describe()
        );
        return Err(wrong(&node, message, "", EXAMPLE));
    };
    let mut runs: Vec<SweepRun> = vec![Vec::new()];
    for (key, values) in entries {
        let name = &key.name;
        let Kind::Sequence(items) = &values.kind else {
            let message = format!(
                "`{name}` has {} where a list is expected",
                values.describe()
            );
            return Err(wrong(values, message, "expected a list", EXAMPLE));
        };
        if items.is_empty() {
            return Err(wrong(
                values,
                format!("`{name}` has no values"),
                "",
                EXAMPLE,
            ));
        }
        let mut choices: Vec<SweepRun> = Vec::with_capacity(items.len());
        for item in items {
            choices.push(match (name.as_str(), &item.kind) {
                (PAIRED, Kind::Mapping(pairs)) => {
                    let pairs = pairs.iter();
                    pairs
                        .map(|(key, value)| (key.name.clone(), written(value)))
                        .collect()
                }
                (PAIRED, _) => {
                    let message = format!("`_` lists mappings, this is {}", item.describe());
                    let help = "write `- {learning_rate: 1e-4, num_epochs: 2}`";
                    return Err(wrong(item, message, "expected a mapping", help));
                }
                (name, _) => vec![(name.to_owned(), written(item))],
            });
        }
        if runs.len().saturating_mul(choices.len()) > MOST_RUNS {
            let message = format!("the sweep has more than {MOST_RUNS} runs");
            return Err(wrong(values, message, "", "give fewer values"));
        }
        runs = runs
            .iter()
            .flat_map(|run| choices.iter().map(|choice| [&run[..], choice].concat()))
            .collect();
    }
    for run in &runs {
        let mut names: Vec<&str> = run.iter().map(|(key, _)| key.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("`{}` has two values in the same run", pair[0]);
            let help = "keep it either under `_` or beside it";
            return Err(wrong(&node, message, "", help));
        }
    }
    Ok(runs)
}

const EXAMPLE: &str = "write lists, such as `learning_rate: [1e-4, 3e-4]`";

/// A value as it is written on the command line: text as it is, what holds other
/// values as JSON, which is YAML.
fn written(node: &Node) -> String {
    match &node.kind {
        Kind::Scalar { text, .. } => text.clone(),
        _ => inside(node),
    }
}

fn inside(node: &Node) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match &node.kind {
        Kind::Scalar { text, plain: true } if !text.is_empty() => text.clone(),
        Kind::Scalar { plain: true, .. } => "null".to_owned(),
        Kind::Scalar { text, .. } => quoted(text),
        Kind::Sequence(items) => {
            let items: Vec<String> = items.iter().map(inside).collect();
            format!("[{}]", items.join(", "))
        }
        Kind::Mapping(entries) => {
            let entry = |(key, value): &(yaml::Key, Node)| {
                format!("{}: {}", quoted(&key.name), inside(value))
            };
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str) -> Result<Vec<String>, String> {
        let line = |run: &SweepRun| {
            let pairs: Vec<String> = run
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            pairs.join(" ")
        };
        sweep(Path::new("sweep.yaml"), text)
            .map(|runs| runs.iter().map(line).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_combined_and_pairs_kept_together() {
        let text = "\
learning_rate: [1e-4, 3e-4]
_:
  - {num_epochs: 1, sample_packing: true}
  - {num_epochs: 2, sample_packing: false}
";
        assert_eq!(
            runs(text).unwrap(),
            [
                "learning_rate=1e-4 num_epochs=1 sample_packing=true",
                "learning_rate=1e-4 num_epochs=2 sample_packing=false",
                "learning_rate=3e-4 num_epochs=1 sample_packing=true",
                "learning_rate=3e-4 num_epochs=2 sample_packing=false",
            ]
        );
        let text = "a: [1, 2]\nb: [x, y]\nc: [[1, 'z'], {k: null}]\n";
        let runs = runs(text).unwrap();
        assert_eq!(runs.len(), 8);
        assert_eq!(runs[1], "a=1 b=x c={\"k\": null}");
        assert_eq!(runs[0], "a=1 b=x c=[1, \"z\"]");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("", "the sweep is empty"),
            ("- 1", "a sweep is a mapping of keys to lists, not a list"),
            ("a: 1", "`a` has a number where a list is expected"),
            ("a: []", "`a` has no values"),
            ("_: [1]", "`_` lists mappings, this is a number"),
            ("a: [1]\n_: [{a: 2}]", "`a` has two values in the same run"),
            ("a: [1", ""),
        ] {
            let message = runs(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
        let ten = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
        let text: String = ["a", "b", "c", "d", "e"]
            .map(|key| format!("{key}: {ten}\n"))
            .concat();
        assert!(runs(&text).unwrap_err().contains("more than 10000 runs"));
    }
}
