//! `trainer-config`: a file as types, mistakes at their lines, and a configuration made in a
//! program.

use std::path::Path;

use trainer_config::{Config, LrScheduler, Task, json_schema, load_str};

const FILE: &str = "base_model: models/llama
learning_rate: 2e-4
lr_scheduler: linear
datasets:
  - path: data.jsonl
    type: alpaca
";

#[test]
fn a_file_is_read_and_checked() {
    let loaded = load_str("run.yaml", FILE).unwrap();
    assert_eq!(loaded.config.lr_scheduler, LrScheduler::Linear);
    assert_eq!(loaded.config.preference.task(), Task::Sft);
    assert_eq!(loaded.origins.get("lr_scheduler").to_string(), "run.yaml:3");
    let errors = load_str("run.yaml", &FILE.replace("linear", "linar")).unwrap_err();
    assert_eq!(errors.count(), 1);
    let text = errors.to_string();
    assert!(
        text.contains("--> run.yaml:3:15") && text.contains("`linear`"),
        "{text}"
    );
    assert_eq!(json_schema()["properties"]["seed"]["default"], 42);
}

/// What a file's defaults keep on disk, those of a program do not.
#[test]
fn defaults_of_a_program_keep_nothing() {
    assert_eq!(Config::default().dataset_prepared_path, None);
    let loaded = load_str("run.yaml", FILE).unwrap().config;
    let folder = loaded.dataset_prepared_path.as_deref();
    assert_eq!(folder, Some(Path::new("last_run_prepared")));
}
