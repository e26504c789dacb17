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

/// `trainer schema | head -1` is no error, and no panic.
#[test]
fn a_reader_may_have_read_enough() {
    for arguments in [&["schema"][..], &["completions", "bash"], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
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
    for command in [
        "train",
        "check",
        "preprocess",
        "preview",
        "inference",
        "chat",
        "export",
        "import",
        "evaluate",
        "sweep",
        "compare",
        "demo",
        "schema",
        "completions",
        "man",
    ] {
        assert!(text.contains(command), "{text}");
    }
}

/// Arguments of a run on the recorded data, with prepared data in a folder of
/// its own.
fn prep<'a>(command: &'a str, prepared: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    let case = "cases/prep-chat.yaml";
    let mut arguments = vec![command, case, "--dataset_prepared_path", prepared];
    arguments.extend(extra);
    arguments
}

#[test]
fn prepared_data_is_kept_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = folder.path().join("prepared");
    let prepared = prepared.to_str().unwrap();
    let run = |extra: &[&str]| {
        let output = trainer(&parity_root(), &prep("preprocess", prepared, extra));
        assert!(output.status.success(), "{}", stderr(&output));
        (stdout(&output), stderr(&output))
    };
    let (first, explained) = run(&["--explain-cache"]);
    assert!(
        explained.contains("there is no prepared data set"),
        "{explained}"
    );
    let (second, explained) = run(&["--explain-cache"]);
    assert!(explained.contains("is used"), "{explained}");
    assert_eq!(first, second);
    let (_, explained) = run(&["--explain-cache", "--sequence_len", "100"]);
    assert!(explained.contains("setting sequence_len: "), "{explained}");
}

#[test]
fn preview_shows_what_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = folder.path().join("prepared");
    let prepared = prepared.to_str().unwrap();
    let page = folder.path().join("page.html");
    let output = trainer(&parity_root(), &prep("preview", prepared, &["--rows", "2"]));
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.starts_with("⟦trained⟧ masked\n\nrow 1: "), "{text}");
    assert!(
        text.contains("row 2: ") && !text.contains("row 3: "),
        "{text}"
    );
    assert!(text.contains("efficiency  "), "{text}");
    let extra = ["--html", page.to_str().unwrap()];
    let output = trainer(&parity_root(), &prep("preview", prepared, &extra));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        fs::read_to_string(page)
            .unwrap()
            .contains("<span class=\"t\"")
    );
    let extra = ["--rows", "1", "--streaming", "true", "--max_steps", "5"];
    let output = trainer(&parity_root(), &prep("preview", prepared, &extra));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("row 1: "), "{}", stdout(&output));
    let output = trainer(&parity_root(), &prep("preview", prepared, &["--rows", "x"]));
    assert_eq!(
        stderr(&output),
        "error: --rows takes a number of rows, not \"x\"\n"
    );
}

/// The phases of a step are parts of it, and nothing is left behind.
#[test]
fn bench_divides_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for case in ["cases/sft-lora-llama.yaml", "cases/kto-full.yaml"] {
        let output = trainer(
            &parity_root(),
            &[
                "bench",
                "--json",
                "--quiet",
                case,
                "--steps=3",
                "--warmup=1",
                "--output_dir",
                out.to_str().unwrap(),
            ],
        );
        assert!(output.status.success(), "{}", stderr(&output));
        let bench: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        assert_eq!(bench["steps"], 3);
        let seconds = &bench["seconds"];
        for phase in ["data", "forward", "backward", "optimizer"] {
            assert!(number(&seconds[phase]) > 0.0, "{case}: {phase}");
        }
        let steps = bench["step_seconds"].as_array().unwrap();
        let all: f64 = steps.iter().map(number).sum();
        let tokens = number(&bench["tokens_per_second"]) * all / 3.0;
        assert!((tokens - number(&bench["tokens_per_step"])).abs() < 1e-6 * tokens);
        let work = number(&bench["flops_per_second"]) * all / 3.0;
        assert!((work - number(&bench["flops_per_step"])).abs() < 1e-6 * work);
        assert!(number(&bench["share_of_peak"]) > 0.0);
        assert!(!out.exists());
    }
    let output = trainer(
        &parity_root(),
        &["bench", "cases/kto-full.yaml", "--steps", "0"],
    );
    assert_eq!(stderr(&output), "error: --steps must be 1 or more\n");
}
