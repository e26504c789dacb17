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
