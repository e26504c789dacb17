//! `trainer check`: does a run fit into memory, and how long will it take?

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::{repository, stderr, stdout, trainer};

/// MiB, as the table has them in one of its rows.
fn mebibytes(table: &str, row: &str) -> f64 {
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix(&format!("#   {row} ")))
        .unwrap_or_else(|| panic!("no {row} in\n{table}"));
    let mut words = line.split_whitespace();
    let number: f64 = words.next().unwrap().parse().unwrap();
    match words.next() {
        Some("GiB") => number * 1024.0,
        _ => number,
    }
}

/// The estimate is about what the run then takes. `scripts/check_memory_estimate.py`
/// measures more kinds of runs.
#[test]
fn memory_is_about_what_the_run_then_takes() {
    memory_is_estimated("examples/glossary.yaml");
}

#[test]
fn memory_of_pairs_is_about_what_the_run_then_takes() {
    memory_is_estimated("examples/dpo.yaml");
}

fn memory_is_estimated(file: &str) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let prepared = folder.path().join("prepared");
    let run = |verb: &str| {
        let arguments = [
            verb,
            file,
            "--num_epochs=1",
            "--output_dir",
            out.to_str().unwrap(),
            "--dataset_prepared_path",
            prepared.to_str().unwrap(),
        ];
        let output = trainer(&repository(), &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let unknown = run("check");
    assert!(unknown.contains("rows of sequence_len tokens"), "{unknown}");
    run("train");
    let known = run("check");
    assert!(known.contains("rows of the prepared data"), "{known}");
    assert!(mebibytes(&unknown, "activations") > mebibytes(&known, "activations"));
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let peaks = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|row| row["memory/max_active (GiB)"].as_f64());
    let measured = 1024.0 * peaks.fold(0.0, f64::max);
    let ratio = mebibytes(&known, "total") / measured;
    // Small runs differ by threads and libraries more than large ones.
    assert!((0.7..1.4).contains(&ratio), "{measured} MiB\n{known}");
    // All of it is a configuration still.
    let file = folder.path().join("again.yaml");
    fs::write(&file, &known).unwrap();
    let again = trainer(&repository(), &["check", file.to_str().unwrap()]);
    assert!(again.status.success(), "{}", stderr(&again));
}

#[test]
fn what_does_not_fit_is_said_with_what_to_change() {
    let output = trainer(
        &repository(),
        &[
            "check",
            "examples/glossary.yaml",
            "--micro_batch_size=50000",
            "--sequence_len=1000",
        ],
    );
    assert!(output.status.success());
    let message = stderr(&output);
    assert!(
        message.starts_with("warning: the run will not fit into memory: it takes about "),
        "{message}"
    );
    for way_out in [
        "  micro_batch_size: 1 (and gradient_accumulation_steps: 50000): ",
        "  gradient_checkpointing: true: ",
        "  sequence_len: 500: ",
    ] {
        assert!(message.contains(way_out), "{message}");
    }
    assert!(message.contains(" MiB, fits\n"), "{message}");
}

#[test]
fn a_disk_that_would_be_filled_is_told() {
    let output = trainer(
        &repository(),
        &[
            "check",
            "examples/glossary.yaml",
            "--save_steps=1",
            "--save_total_limit=1000000000",
        ],
    );
    assert!(output.status.success());
    let message = stderr(&output);
    assert!(
        message.starts_with("warning: the run may fill the disk of output_dir: it writes up to "),
        "{message}"
    );
    assert!(
        message.contains("\n  lower save_total_limit, "),
        "{message}"
    );
}

/// Where the system refuses memory, which it can be made to do.
#[cfg(target_os = "linux")]
#[test]
fn running_out_of_memory_is_told_with_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 1000000 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_trainer"))
        .args(["train", "examples/glossary.yaml"])
        .args(["--micro_batch_size=2000", "--pad_to_sequence_len=true"])
        .args(["--output_dir", out.to_str().unwrap()])
        .args(["--dataset_prepared_path", ""])
        .current_dir(repository())
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let end = message.split("error: ").last().unwrap();
    // Sizes differ from machine to machine.
    let (what, help) = end.split_once('\n').unwrap();
    assert!(
        what.starts_with("out of memory: this process uses ")
            && what.contains("; the system gave no "),
        "{message}"
    );
    insta::assert_snapshot!(help);
}

#[test]
fn a_probe_times_the_run_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let prepared = folder.path().join("prepared");
    for (file, keys) in [
        (
            "examples/glossary.yaml",
            &["--gradient_accumulation_steps=2"][..],
        ),
        ("crates/trainer-cli/tests/parity/cases/dpo-full.yaml", &[]),
        (
            "crates/trainer-cli/tests/parity/cases/sft-full-llama.yaml",
            &["--streaming=true"],
        ),
    ] {
        let (root, file) = match file.split_once("parity/") {
            Some((before, case)) => (repository().join(before).join("parity"), case),
            None => (repository(), file),
        };
        let mut arguments = vec!["check", "--probe", file];
        arguments.extend(keys);
        arguments.extend([
            "--output_dir",
            out.to_str().unwrap(),
            "--dataset_prepared_path",
            prepared.to_str().unwrap(),
        ]);
        let output = trainer(&root, &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        for part in [
            "# Probe: 3 micro-batches, after one to warm up\n",
            "\n#   whole run        about ",
            " tokens/s\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!out.exists() && !prepared.exists(), "{file}");
    }
}
