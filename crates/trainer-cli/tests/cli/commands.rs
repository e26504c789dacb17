//! The commands that do not train.

use std::fs;

use crate::{parity_root, repository, stderr, stdout, trainer};

#[test]
fn the_committed_schema_is_the_current_one() {
    let output = trainer(&repository(), &["schema"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let committed = fs::read_to_string(repository().join("docs/config.schema.json")).unwrap();
    assert!(
        stdout(&output) == committed,
        "write it anew: cargo run --release -- schema > docs/config.schema.json"
    );
}

#[test]
fn every_example_is_valid_and_names_the_schema() {
    let mut checked = 0;
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next(),
            Some("# yaml-language-server: $schema=../docs/config.schema.json"),
            "{}",
            path.display()
        );
        let output = trainer(&repository(), &["check", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).is_empty(), "{}", stderr(&output));
        checked += 1;
    }
    assert!(checked >= 4);
}

#[test]
fn check_prints_values_with_their_origins() {
    let arguments = [
        "check",
        "cases/sft-full-llama.yaml",
        "--learning_rate",
        "3e-4",
        "--val_set_size=0.1",
    ];
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    for (key, value, origin) in [
        ("learning_rate", "0.0003", "--learning_rate"),
        ("val_set_size", "0.1", "--val_set_size"),
        ("warmup_steps", "2", "cases/sft-full-llama.yaml:13"),
        ("adam_beta2", "0.999", "default"),
    ] {
        let line = text
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default();
        assert!(
            line.contains(value) && line.contains(origin),
            "{key}: {line}\n{text}"
        );
    }
}

#[test]
fn help_names_every_command() {
    let output = trainer(&repository(), &["--help"]);
    let text = stdout(&output);
    for command in ["train", "check", "preprocess", "demo", "schema"] {
        assert!(text.contains(command), "{text}");
    }
}
