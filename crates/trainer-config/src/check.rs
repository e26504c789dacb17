//! A configuration made in Rust, held against the rules of a file.

use std::rc::Rc;

use serde_json::Value;

use crate::diagnostic::{ConfigErrors, Diagnostic, Severity};
use crate::rules::{self, Given};
use crate::schema::Config;
use crate::shape::ROOT;
use crate::source::{Source, SourceKind, Span};
use crate::validate::{Findings, Validator};
use crate::yaml::{Key, Kind, Node};

/// There are no lines to point at.
const NOWHERE: Span = Span {
    line: 1,
    column: 1,
    width: 1,
};

impl Config {
    /// Holds a configuration made in Rust against the rules of a file: ranges, keys that
    /// need or contradict one another, keys that nothing reads. `setup_trainer` of
    /// `trainer-core` does so first. What is returned are warnings.
    ///
    /// A field counts as set where it differs from its default. The model and the data
    /// may be missing, since a program can bring its own; of data sets that are not named,
    /// nothing is expected.
    ///
    /// ```
    /// use trainer_config::Config;
    ///
    /// let mut config = Config {
    ///     learning_rate: 2e-4,
    ///     use_pose: true,
    ///     ..Config::default()
    /// };
    /// let errors = config.check().unwrap_err();
    /// assert!(errors.to_string().contains("`use_pose` needs `pose_max_context_len`"));
    ///
    /// config.pose_max_context_len = Some(32_768);
    /// assert_eq!(config.check().unwrap(), []);
    /// ```
    ///
    /// # Errors
    /// Everything that is wrong. A field that follows from another one when a file is
    /// loaded (`gradient_accumulation_steps` from `batch_size`) has to hold what follows.
    pub fn check(&self) -> Result<Vec<Diagnostic>, ConfigErrors> {
        let fail = |diagnostics| Err(ConfigErrors::new(diagnostics));
        let json = match json_of(self) {
            Ok(json) => json,
            Err(message) => return fail(vec![Diagnostic::error(message)]),
        };
        let mut findings = Findings::default();
        values(self, &json, &mut findings);
        if !findings.diagnostics.is_empty() {
            return fail(findings.diagnostics);
        }
        let given = Given::by_values(&json);
        rules::apply(self, &given, None, &mut findings);
        let mut diagnostics = findings.diagnostics;
        diagnostics.extend(what_follows(self, &json, &given));
        match diagnostics.iter().any(|d| d.severity == Severity::Error) {
            true => fail(diagnostics),
            false => Ok(diagnostics),
        }
    }
}

/// The configuration with `batch_size`, which is not written.
fn json_of(config: &Config) -> Result<Value, String> {
    let mut json = serde_json::to_value(config).map_err(|error| error.to_string())?;
    if let (Some(size), Value::Object(entries)) = (config.batch_size, &mut json) {
        entries.insert("batch_size".to_owned(), size.into());
    }
    Ok(json)
}

/// Types and ranges, which a file is held against while it is read.
fn values(config: &Config, json: &Value, findings: &mut Findings) {
    let default = serde_json::to_value(Config::default()).unwrap_or_default();
    let source = Rc::new(Source::new(
        SourceKind::CommandLine("configuration".to_owned()),
        "",
    ));
    for (key, value) in json.as_object().into_iter().flatten() {
        let default = default.get(key).unwrap_or(&Value::Null);
        if value == default {
            continue;
        }
        if value.is_null() {
            findings.failed.insert(key.clone());
            let message = format!("`{key}` is not a finite number");
            findings.diagnostics.push(Diagnostic::error(message));
        } else if let Some(shape) = ROOT.property(key) {
            let mut validator = Validator {
                source: &source,
                findings,
            };
            validator.check(&node(value), shape, key, NOWHERE);
        }
    }
    for diagnostic in &mut findings.diagnostics {
        let notes = diagnostic.labels.drain(..).map(|label| label.note);
        let mut help: Vec<String> = notes.filter(|note| !note.is_empty()).collect();
        help.append(&mut diagnostic.help);
        diagnostic.help = help;
    }
    // JSON has no numbers but finite ones, so that others are lost on the way.
    let again = serde_json::from_value::<Config>(json.clone());
    if findings.diagnostics.is_empty() && again.ok().as_ref() != Some(config) {
        let message = "a number of the configuration is infinite or not a number";
        findings.diagnostics.push(Diagnostic::error(message));
    }
}

/// A value as it would stand in a file.
fn node(value: &Value) -> Node {
    let kind = match value {
        Value::String(text) => Kind::Scalar {
            text: text.clone(),
            plain: false,
        },
        Value::Array(items) => Kind::Sequence(items.iter().map(node).collect()),
        Value::Object(entries) => Kind::Mapping(
            entries
                .iter()
                .map(|(name, value)| {
                    let key = Key {
                        name: name.clone(),
                        span: NOWHERE,
                    };
                    (key, node(value))
                })
                .collect(),
        ),
        plain => Kind::Scalar {
            text: plain.to_string(),
            plain: true,
        },
    };
    Node::new(kind, NOWHERE)
}

/// Fields that would hold something else in a configuration that was loaded.
fn what_follows(config: &Config, json: &Value, given: &Given<'_>) -> Vec<Diagnostic> {
    let mut derived = config.clone();
    let mut pairs = Vec::new();
    rules::derive(&mut derived, given, |key, from| {
        pairs.push((key.to_owned(), from.to_owned()));
    });
    let derived = serde_json::to_value(&derived).unwrap_or_default();
    let mut found = Vec::new();
    for (key, from) in pairs {
        let pointer = format!("/{}", key.replace('.', "/"));
        let at = |json: &Value| json.pointer(&pointer).cloned().unwrap_or_default();
        let (here, wanted) = (at(json), at(&derived));
        if here == wanted {
            continue;
        }
        let why = match key == from {
            true => "a text is only for files".to_owned(),
            false => format!("it follows from `{from}`"),
        };
        found.push(
            Diagnostic::error(format!("`{key}` is {here}, and has to be {wanted}: {why}"))
                .help("a configuration that is loaded has it so by itself"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::schema::{
        CheckpointConfig, Dataset, OptimArgs, OptimizationConfig, Optimizer, PackingStrategy,
        SamplingConfig,
    };
    use crate::strategy::PromptStrategy;

    fn right() -> Config {
        Config {
            learning_rate: 1e-3,
            ..Config::default()
        }
    }

    fn messages(config: &Config) -> String {
        match config.check() {
            Ok(warnings) => warnings.iter().map(ToString::to_string).collect(),
            Err(errors) => errors.to_string(),
        }
    }

    #[test]
    fn a_configuration_that_is_right_has_nothing_to_say() {
        assert_eq!(right().check().unwrap(), []);
        let loaded = Config {
            optimizer: Optimizer::Muon,
            seed: u64::MAX,
            batch_size: Some(8),
            micro_batch_size: 2,
            gradient_accumulation_steps: 4,
            sample_packing: true,
            packing_strategy: PackingStrategy::Sequential,
            sample_packing_sequentially: true,
            ..right()
        };
        assert_eq!(messages(&loaded), "");
    }

    #[test]
    fn what_a_file_may_not_say_a_program_may_not_either() {
        for (config, expected) in [
            (Config::default(), "`learning_rate` is missing"),
            (
                Config {
                    use_pose: true,
                    ..right()
                },
                "`use_pose` needs `pose_max_context_len`",
            ),
            (
                Config {
                    batch_size: Some(64),
                    ..right()
                },
                "`gradient_accumulation_steps` is 1, and has to be 64: it follows from `batch_size`",
            ),
            (
                Config {
                    micro_batch_size: 0,
                    batch_size: Some(64),
                    ..right()
                },
                "`micro_batch_size` is out of range",
            ),
            (
                Config {
                    learning_rate: -1.0,
                    ..right()
                },
                "must be above 0",
            ),
            (
                Config {
                    weight_decay: f64::NAN,
                    ..right()
                },
                "`weight_decay` is not a finite number",
            ),
            (
                Config {
                    eval_steps: Some(f64::INFINITY),
                    ..right()
                },
                "infinite or not a number",
            ),
            (
                Config {
                    sample_packing: true,
                    curriculum_sampling: true,
                    ..right()
                },
                "`packing_strategy` is \"best_fit_decreasing\", and has to be \"first_fit\"",
            ),
            (
                Config {
                    optimization: OptimizationConfig {
                        optim_args: Some(OptimArgs::Text("momentum=0.9".into())),
                        ..OptimizationConfig::default()
                    },
                    optimizer: Optimizer::Sgd,
                    ..right()
                },
                "has to be {\"momentum\":0.9}: a text is only for files",
            ),
            (
                Config {
                    checkpoint: CheckpointConfig {
                        loss_watchdog_patience: 5,
                        ..CheckpointConfig::default()
                    },
                    ..right()
                },
                "`loss_watchdog_patience` needs `loss_watchdog_threshold: ...`",
            ),
            (
                Config {
                    sampling: SamplingConfig {
                        label_balance_window_optim_steps: 4,
                        ..SamplingConfig::default()
                    },
                    ..right()
                },
                "`label_balance_window_optim_steps` needs `balance_labels`",
            ),
            (
                Config {
                    datasets: vec![Dataset {
                        path: PathBuf::from("a.jsonl"),
                        strategy: Some(PromptStrategy::Alpaca),
                        split_thinking: Some(true),
                        ..Dataset::default()
                    }],
                    ..right()
                },
                "`datasets.0.split_thinking` has no effect with `type: alpaca`",
            ),
        ] {
            let found = messages(&config);
            assert!(found.contains(expected), "{expected}:\n{found}");
        }
    }

    #[test]
    fn data_of_the_program_is_not_asked_for() {
        let config = Config {
            eval_steps: Some(10.0),
            checkpoint: CheckpointConfig {
                load_best_model_at_end: true,
                ..CheckpointConfig::default()
            },
            train_on_inputs: true,
            ..right()
        };
        assert_eq!(messages(&config), "");
    }
}
