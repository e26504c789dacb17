//! Whole runs beyond the recorded ones.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{parity_root, stderr, trainer};

fn log(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn train(out: &Path, extra: &[&str]) -> Vec<Value> {
    let mut arguments = vec![
        "train",
        "cases/sft-full-llama.yaml",
        "--output_dir",
        out.to_str().unwrap(),
    ];
    arguments.extend(extra);
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    log(out)
}

fn losses(rows: &[Value]) -> Vec<f64> {
    values(rows, "loss")
}

fn values(rows: &[Value], key: &str) -> Vec<f64> {
    rows.iter().filter_map(|row| row[key].as_f64()).collect()
}

/// The rows of a window count by their tokens, however they are divided into
/// forward passes.
#[test]
fn accumulation_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let runs: Vec<[Vec<f64>; 2]> = [("1", "8"), ("2", "4"), ("8", "1")]
        .into_iter()
        .map(|(rows, windows)| {
            let out = folder.path().join(rows);
            let extra = [
                "--micro_batch_size",
                rows,
                "--gradient_accumulation_steps",
                windows,
                "--max_steps",
                "4",
                "--logging_steps",
                "1",
            ];
            let log = train(&out, &extra);
            ["loss", "grad_norm"].map(|key| values(&log, key))
        })
        .collect();
    assert_eq!(runs[0][0].len(), 4);
    for run in &runs[1..] {
        for (a, b) in runs[0].iter().flatten().zip(run.iter().flatten()) {
            assert!((a - b).abs() <= 1e-6 * a.abs(), "{runs:?}");
        }
    }
}

/// Computing layers again takes less memory and changes not a bit, on packed rows and
/// over accumulated batches too.
#[test]
fn gradient_checkpointing_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let extra = [
            "--max_steps=3",
            "--sample_packing=true",
            "--gradient_accumulation_steps=2",
            "--gradient_checkpointing",
            name,
        ];
        let out = folder.path().join(name);
        let log = train(&out, &extra);
        let weights = fs::read(out.join("model.safetensors")).unwrap();
        (values(&log, "loss"), values(&log, "grad_norm"), weights)
    };
    assert!(run("true") == run("false"));
}

/// On flex, which has bfloat16, a run in it ends near that in float32.
#[cfg(feature = "flex")]
#[test]
fn a_run_in_bfloat16_learns_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, format: &str| {
        let extra = ["--backend=flex", "--max_steps=6", format];
        losses(&train(&folder.path().join(name), &extra))
    };
    let (half, full) = (run("half", "--bf16=true"), run("full", "--bf16=auto"));
    assert_ne!(half, full);
    for (a, b) in half.iter().zip(&full) {
        assert!((a - b).abs() <= 5e-3 * b, "{half:?} {full:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let extra = [
        "--shuffle_merged_datasets=true",
        "--curriculum_sampling=false",
        "--max_steps=3",
        "--sample_packing=true",
    ];
    let run = |name: &str, seed: &str| {
        let mut extra = extra.to_vec();
        extra.extend(["--seed", seed]);
        losses(&train(&folder.path().join(name), &extra))
    };
    assert_eq!(run("a", "1"), run("b", "1"));
    assert_ne!(run("c", "1"), run("d", "2"));
}

/// Every algorithm trains the model, alone and with rates of parts of it.
#[test]
fn optimizers_train() {
    let folder = tempfile::tempdir().unwrap();
    for (optimizer, rate, extra) in [
        ("adam", "3e-3", &["--embedding_lr=1e-3"][..]),
        ("adamw_8bit", "3e-3", &[]),
        ("adafactor", "1e-2", &[]),
        ("lion_8bit", "1e-3", &[]),
        ("muon", "3e-3", &["--adam_beta2=0.99"]),
        (
            "rmsprop",
            "1e-3",
            &["--optim_args=momentum=0.5,centered=true"],
        ),
        ("adagrad", "1e-2", &["--embedding_lr_scale=0.5"]),
        ("sgd", "0.3", &["--optim_args.momentum=0.9"]),
    ] {
        let chosen = ["--optimizer", optimizer, "--learning_rate", rate];
        let few = ["--max_steps=8", "--warmup_steps=0"];
        let extra = [&chosen[..], &few, extra].concat();
        let losses = losses(&train(&folder.path().join(optimizer), &extra));
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < first - 0.1, "{optimizer}: {losses:?}");
    }
}

/// The step count that sets the schedule is the number of steps that run, with
/// packing and over several epochs.
#[test]
fn the_schedule_ends_with_the_run() {
    for strategy in ["first_fit", "sequential", "best_fit_decreasing"] {
        let folder = tempfile::tempdir().unwrap();
        let extra = [
            "--max_steps=null",
            "--num_epochs=1.5",
            "--sample_packing=true",
            "--sequence_len=512",
            "--packing_strategy",
            strategy,
            "--shuffle_merged_datasets=true",
            "--curriculum_sampling=false",
            "--gradient_accumulation_steps=8",
            "--lr_scheduler=linear",
            "--warmup_steps=0",
        ];
        let rows = train(folder.path(), &extra);
        let state = fs::read_to_string(folder.path().join("trainer_state.json")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        let planned = state["max_steps"].as_u64().unwrap();
        let steps: Vec<&Value> = rows
            .iter()
            .filter(|row| row.get("loss").is_some())
            .collect();
        assert_eq!(steps.len() as u64, planned, "{strategy}");
        // The last step of a linear schedule over T steps has rate 1/T.
        let last = steps[steps.len() - 1]["learning_rate"].as_f64().unwrap();
        assert!(
            (last - 0.001 / planned as f64).abs() < 1e-12,
            "{strategy}: {last}"
        );
        let epoch = state["epoch"].as_f64().unwrap();
        assert!((1.45..1.6).contains(&epoch), "{strategy}: {epoch}");
    }
}

/// A saved model loads again, with the same logits as far as the loss tells.
#[test]
fn a_trained_model_trains_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let before = train(&first, &["--val_set_size=0.05", "--max_steps=2"]);
    let end = before
        .iter()
        .filter_map(|row| row["eval_loss"].as_f64())
        .next_back()
        .unwrap();
    let second = folder.path().join("second");
    let after = train(
        &second,
        &[
            "--base_model",
            first.to_str().unwrap(),
            "--val_set_size=0.05",
            "--max_steps=1",
        ],
    );
    let start = after
        .iter()
        .find_map(|row| row["eval_loss"].as_f64())
        .unwrap();
    assert!(
        (start - end).abs() < 1e-6,
        "saved at {end}, loaded at {start}"
    );
}

#[cfg(feature = "ndarray")]
#[test]
fn ndarray_gives_the_losses_of_flex() {
    let folder = tempfile::tempdir().unwrap();
    let run = |backend: &str| {
        losses(&train(
            &folder.path().join(backend),
            &["--backend", backend, "--max_steps=3"],
        ))
    };
    for (a, b) in run("flex").iter().zip(run("ndarray")) {
        assert!((a - b).abs() <= 1e-5 * a.abs(), "flex {a}, ndarray {b}");
    }
}

/// A rate that makes the weights overflow stops the run, and nothing is saved.
#[test]
fn a_diverging_run_stops_before_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = [
        "train",
        "cases/sft-full-llama.yaml",
        "--output_dir",
        out.to_str().unwrap(),
        "--learning_rate=1e30",
        "--warmup_steps=0",
        "--max_steps=5",
    ];
    let output = trainer(&parity_root(), &arguments);
    assert!(!output.status.success());
    let text = stderr(&output);
    let message = "step 2: the gradient norm is NaN; the step was not taken, its rows are in";
    assert!(text.contains(message), "{text}");
    assert!(out.join("nonfinite-step-2.json").exists());
    assert!(!out.join("model.safetensors").exists());
}

/// In file order, data that is read while training gives the run of data that
/// was prepared, and the same account of what was used.
#[test]
fn a_stream_trains_as_prepared_data_does() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = train(&folder.path().join("prepared"), &["--max_steps", "4"]);
    let out = folder.path().join("streamed");
    let streamed = train(&out, &["--max_steps", "4", "--streaming", "true"]);
    assert_eq!(losses(&prepared).len(), 4);
    assert_eq!(losses(&prepared), losses(&streamed));
    let ledger = fs::read_to_string(out.join("data_ledger.json")).unwrap();
    let ledger: Value = serde_json::from_str(&ledger).unwrap();
    assert!(ledger["train"]["tokens"].as_u64().unwrap() > 0, "{ledger}");
}
