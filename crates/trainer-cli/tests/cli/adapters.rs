//! Adapters through the whole program: trained, gone on with, merged.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::{parity_root, stderr, trainer};

/// A new adapter on the recorded data; `extra` comes last.
const NEW: [&str; 12] = [
    "--lora_model_dir=null",
    "--lora_target_linear=false",
    "--lora_target_modules=[q_proj,v_proj,down_proj]",
    "--lora_r=4",
    "--lora_alpha=16",
    "--lora_dropout=0.2",
    "--learning_rate=0.02",
    "--warmup_steps=0",
    "--lr_scheduler=constant",
    "--weight_decay=0",
    "--num_epochs=1",
    "--max_steps=12",
];

fn run(verb: &str, out: &Path, extra: &[&str]) -> Output {
    let mut arguments = vec![
        verb,
        "cases/sft-lora-llama.yaml",
        "--output_dir",
        out.to_str().unwrap(),
    ];
    arguments.extend(extra);
    trainer(&parity_root(), &arguments)
}

fn ran(verb: &str, out: &Path, extra: &[&str]) -> String {
    let output = run(verb, out, extra);
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

fn losses(folder: &Path) -> Vec<f64> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|row| row["loss"].as_f64())
        .collect()
}

/// The whole way: the loss falls, the run repeats to the bit with dropout on, the
/// adapter goes on where it was, and merges.
#[test]
fn trained_gone_on_with_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, next) = (
        folder.path().join("a"),
        folder.path().join("b"),
        folder.path().join("next"),
    );
    ran("train", &a, &NEW);
    let trained = losses(&a);
    assert!(trained[11] < trained[0] - 0.08, "{trained:?}");
    assert!(!a.join("model.safetensors").exists());

    ran("train", &b, &NEW);
    let weights = "adapter_model.safetensors";
    assert_eq!(losses(&b), trained);
    assert!(fs::read(a.join(weights)).unwrap() == fs::read(b.join(weights)).unwrap());

    let from = format!("--lora_model_dir={}", a.display());
    let mut extra = NEW.to_vec();
    extra.extend([from.as_str(), "--max_steps=1", "--lora_dropout=0"]);
    ran("train", &next, &extra);
    assert!(losses(&next)[0] < trained[0] - 0.08, "{:?}", losses(&next));

    let mut extra = NEW.to_vec();
    extra.push(&from);
    let merged = folder.path().join("merged");
    let out = format!("--out={}", merged.display());
    extra.push(&out);
    let message = ran("merge-lora", &folder.path().join("nothing"), &extra);
    assert!(
        message.contains("its logits differ from the adapter's by at most"),
        "{message}"
    );
    assert!(merged.join("config.json").is_file() && merged.join("tokenizer.json").is_file());

    // As a base model, it begins where the adapter ended.
    let base = format!("--base_model={}", merged.display());
    let mut extra = NEW.to_vec();
    extra.extend([base.as_str(), "--max_steps=1", "--lora_dropout=0"]);
    ran("train", &next, &extra);
    assert!(losses(&next)[0] < trained[0] - 0.08, "{:?}", losses(&next));
}

/// What does not fit is found before anything is written, under the keys' names.
#[test]
fn settings_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let message = |verb: &str, extra: &[&str]| {
        let output = run(verb, &out, extra);
        assert!(!output.status.success());
        assert!(!out.exists());
        stderr(&output)
    };
    let mut extra = NEW.to_vec();
    extra.push("--lora_target_modules=[qkv_proj]");
    let error = message("train", &extra);
    assert!(error.contains("error: lora_target_modules: \"qkv_proj\" matches no linear map of the model; it has q_proj, k_proj"), "{error}");

    let error = message("train", &["--lora_r=16"]);
    assert!(
        error.contains("error: lora_r: the adapter has rank 8 at model.layers.0.mlp.down_proj, not 16; remove the key: the adapter in lora_model_dir, models/llama-lora, brings its own"),
        "{error}"
    );
    let error = message("train", &["--lora_model_dir=models/llama"]);
    assert!(
        error.contains("models/llama: no adapter_config.json in this folder"),
        "{error}"
    );
    let output = trainer(&parity_root(), &["merge-lora", "cases/sft-full-llama.yaml"]);
    assert!(stderr(&output).contains("this configuration has no `adapter`"));
}

/// Magnitudes, factors made of weights, and frozen weights in 4 and 8 bits: a run learns, one that goes on from
/// a checkpoint ends with the same adapter to the bit, and merging works on the
/// weights as they were before quantization.
#[test]
fn kinds_learn_resume_and_merge() {
    let kinds: [&[&str]; 5] = [
        &["--peft_init_lora_weights=pissa_niter_4"],
        &["--peft_use_dora=true"],
        &["--adapter=qlora", "--load_in_4bit=true"],
        &["--load_in_8bit=true", "--gradient_checkpointing=true"],
        &[
            "--adapter=qlora",
            "--load_in_4bit=true",
            "--peft_use_dora=true",
        ],
    ];
    for kind in kinds {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let mut extra = NEW.to_vec();
        extra.extend(kind);
        ran("train", &whole, &extra);
        let trained = losses(&whole);
        assert!(trained[11] < trained[0] - 0.08, "{kind:?} {trained:?}");

        let mut first = extra.clone();
        first.extend(["--save_strategy=steps", "--save_steps=7"]);
        ran("train", &parts, &first);
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            fs::remove_file(parts.join(file)).unwrap();
        }
        first.push("--auto_resume_from_checkpoints=true");
        ran("train", &parts, &first);
        let weights = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
        assert!(weights(&whole) == weights(&parts), "{kind:?}");

        let merged = folder.path().join("merged");
        let out = format!("--out={}", merged.display());
        let mut merging = extra;
        merging.push(&out);
        let message = ran("merge-lora", &whole, &merging);
        assert!(message.contains("its logits differ"), "{message}");
        let base = format!("--base_model={}", merged.display());
        let mut extra = NEW.to_vec();
        extra.extend([base.as_str(), "--max_steps=1", "--lora_dropout=0"]);
        let next = folder.path().join("next");
        ran("train", &next, &extra);
        assert!(losses(&next)[0] < trained[0] - 0.08, "{kind:?}");
    }
}

/// A reward model is trained through factors and a head of its own, with weights in 4
/// bits, and its adapter names both.
#[test]
fn reward_model_with_factors() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = [
        "train",
        "cases/reward-model.yaml",
        "--output_dir",
        out.to_str().unwrap(),
        "--adapter=qlora",
        "--load_in_4bit=true",
        "--lora_r=4",
        "--lora_alpha=16",
        "--lora_dropout=0.1",
        "--lora_target_linear=true",
        "--learning_rate=0.003",
        "--lr_scheduler=constant",
        "--warmup_steps=0",
        "--num_epochs=20",
        "--max_steps=40",
    ];
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let losses = losses(&out);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(
        mean(&losses[32..]) < mean(&losses[..8]) - 0.05,
        "{losses:?}"
    );
    let config = fs::read_to_string(out.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(
        config["modules_to_save"],
        serde_json::json!(["classifier", "score"])
    );
    let weights = fs::read(out.join("adapter_model.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&weights[..weights.len().min(20_000)]).into_owned();
    assert!(header.contains("base_model.model.score.weight"), "{header}");
}
