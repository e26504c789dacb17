//! Numbers that are not finite, as a user meets them: runs that go back to a checkpoint of
//! their own, and commands that fail instead of printing NaN.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{parity_root, stderr, trainer};

/// Settings under which a rate that is far too high is halved until the run gets through:
/// the first step has a rate of 0, and is the one to go back to.
const GOES_BACK: &[&str] = &[
    "--on_nonfinite=rollback",
    "--on_nonfinite_limit=200",
    "--lr_scheduler=constant_with_warmup",
    "--warmup_steps=2",
    "--save_first_step=true",
    "--save_strategy=steps",
    "--save_steps=100",
    "--max_steps=5",
    "--logging_steps=1",
    "--quiet",
];

fn train(case: &str, out: &Path, extra: &[&str]) -> std::process::Output {
    let case = format!("cases/{case}.yaml");
    let out = out.to_str().unwrap();
    let mut arguments = vec!["train", &case, "--output_dir", out];
    arguments.extend(extra);
    trainer(&parity_root(), &arguments)
}

fn rows(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let rows = text.lines();
    rows.map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What of a row does not depend on the weights.
fn data(row: &Value) -> [Value; 5] {
    let keys = ["step", "epoch", "tokens/total", "tokens/trainable"];
    let [step, epoch, total, trainable] = keys.map(|key| row[key].clone());
    let kind = ["loss", "eval_loss", "train_loss"].map(|key| row.get(key).is_some());
    [step, epoch, total, trainable, kind.to_vec().into()]
}

/// Every objective and kind of data: after going back, a run sees the rows, and writes the
/// log, of one that never had to.
#[test]
fn every_kind_of_run_goes_back() {
    let evaluated = ["--val_set_size=2", "--eval_steps=1", "--eval_on_start=true"];
    let adapter = ["--save_total_limit=1"];
    let streamed = ["--streaming=true"];
    let kinds: [(&str, &[&str]); 8] = [
        ("sft-full-llama", &[]),
        ("sft-full-llama", &evaluated),
        ("sft-full-llama", &streamed),
        ("sft-lora-llama", &adapter),
        ("dpo-full", &evaluated),
        ("kto-full", &[]),
        ("orpo-full", &[]),
        ("reward-model", &[]),
    ];
    for (case, extra) in kinds {
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str, rate: &str| {
            let out = folder.path().join(name);
            let rate = format!("--learning_rate={rate}");
            let output = train(case, &out, &[GOES_BACK, extra, &[&rate]].concat());
            let said = stderr(&output);
            assert!(output.status.success(), "{case} {extra:?}: {said}");
            let returns = said.matches("going back to step 1, with").count();
            (rows(&out), returns, out)
        };
        let (expected, none, _) = run("calm", "1e-9");
        let (found, returns, out) = run("wild", "1e8");
        assert!(none == 0 && returns > 3, "{case}: {returns}");
        let data = |rows: &[Value]| rows.iter().map(data).collect::<Vec<_>>();
        assert_eq!(data(&found), data(&expected), "{case} {extra:?}");
        // Nothing of what was logged is missing or not finite.
        for row in &found {
            let loss = ["loss", "eval_loss", "train_loss"].map(|key| row.get(key).is_none());
            let finite = ["loss", "eval_loss", "train_loss"].map(|key| row[key].is_number());
            assert!(
                loss.iter().zip(finite).all(|(none, is)| *none || is),
                "{row}"
            );
        }
        let state = fs::read_to_string(out.join("trainer_state.json")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["log_history"], Value::from(found));
    }
}

/// A run without a checkpoint of its own has nowhere to go back to, whatever else is in the
/// folder: the model of the run before it stays that of the run before it.
#[test]
fn checkpoints_of_an_earlier_run_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let save = ["--save_strategy=steps", "--save_steps=4", "--quiet"];
    let output = train("sft-full-llama", &out, &save);
    assert!(output.status.success(), "{}", stderr(&output));
    let model = fs::read(out.join("model.safetensors")).unwrap();
    let wild = ["--learning_rate=1e36", "--warmup_steps=0"];
    let output = train(
        "sft-full-llama",
        &out,
        &[&save[..], &wild, &["--on_nonfinite=rollback"]].concat(),
    );
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("going back to step"), "{said}");
    let told = "there is no earlier checkpoint of this run to go back to";
    assert!(said.contains(told), "{said}");
    assert!(fs::read(out.join("model.safetensors")).unwrap() == model);
}

/// Nothing looks at the weights after the last step but this: they are not saved.
#[test]
fn weights_that_overflow_at_the_last_step_are_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let last = ["--learning_rate=1e39", "--warmup_steps=0", "--max_steps=1"];
    let output = train("sft-full-llama", &out, &last);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("has a value that is not finite: the model is not saved"),
        "{said}"
    );
    assert!(!out.join("model.safetensors").exists());
    // With evaluation data the evaluation says so first.
    let output = train(
        "sft-full-llama",
        &out,
        &[&last[..], &["--val_set_size=2"]].concat(),
    );
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let told = "the evaluation after step 1 gives no finite number: eval_loss is";
    assert!(said.contains(told), "{said}");
}

/// A model with a NaN among its weights fails wherever its numbers are looked at.
#[test]
fn a_model_with_a_nan_is_not_evaluated_or_probed() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(parity_root().join("models/llama")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
        }
    }
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let out = folder.path().join("out");
    let base = ["--base_model", model.to_str().unwrap()];
    let named = ["--output_dir", out.to_str().unwrap()];
    let case = "cases/sft-full-llama.yaml";
    let split = ["--val_set_size=2"];
    for verb in [
        &["evaluate", case, "--base_model", base[1]][..],
        &["check", case, "--probe", "--base_model", base[1]],
        &["train", case, "--max_steps=1", "--base_model", base[1]],
    ] {
        let output = trainer(&parity_root(), &[verb, &named, &split].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        assert!(
            said.contains("finite") || said.contains("NaN"),
            "{verb:?}: {said}"
        );
    }
}
