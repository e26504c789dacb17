//! Training with most of a model frozen.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use trainer_model::{ModelConfig, load_causal_lm, visit_values};

use crate::{parity_root, stderr, trainer};

fn train(out: &Path, extra: &[&str]) -> Result<(), String> {
    let out = out.to_str().unwrap();
    let mut arguments = vec!["train", "cases/sft-full-llama.yaml", "--output_dir", out];
    arguments.extend([
        "--max_steps=4",
        "--learning_rate=0.01",
        "--weight_decay=0.1",
    ]);
    arguments.extend(extra);
    let output = trainer(&parity_root(), &arguments);
    match output.status.success() {
        true => Ok(()),
        false => Err(stderr(&output)),
    }
}

/// Bits of all parameters, row by row.
fn rows(folder: &Path) -> BTreeMap<String, Vec<Vec<u32>>> {
    let config = ModelConfig::from_folder(folder, None).unwrap();
    let model = load_causal_lm(folder, &config, &Device::default()).unwrap();
    let mut all = BTreeMap::new();
    let visited: Result<(), ()> = visit_values(&model, |name, value| {
        let width = value.shape()[1..].iter().product::<usize>().max(1);
        let bits: Vec<u32> = value.read().into_iter().map(f32::to_bits).collect();
        all.insert(
            name.to_owned(),
            bits.chunks(width).map(<[u32]>::to_vec).collect(),
        );
        Ok(())
    });
    visited.unwrap();
    all
}

/// Whatever the rule of the optimizer and with weight decay, exactly the rows that are
/// named change, and rates of parts are theirs.
#[test]
fn frozen_rows_stay_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let before = rows(&parity_root().join("models/llama"));
    for (optimizer, more) in [
        ("adamw_torch", "--embedding_lr=0.02"),
        ("adafactor", "--embedding_lr_scale=2"),
        (
            "muon",
            "--lr_groups=[{name: mlp, modules: [up_proj], lr: 0.003}]",
        ),
        ("adamw_8bit", "--neftune_noise_alpha=5"),
    ] {
        let out = folder.path().join(optimizer);
        let patterns = "--unfrozen_parameters=['^lm_head.weight$[3:900]', '^lm_head.weight$[950]', \
                        model.layers.1.mlp.up_proj]";
        let name = format!("--optimizer={optimizer}");
        train(&out, &[patterns, &name, more]).unwrap();
        for (name, after) in rows(&out) {
            for (row, (after, before)) in after.iter().zip(&before[&name]).enumerate() {
                let trained = match name.as_str() {
                    "lm_head.weight" => (3..900).contains(&row) || row == 950,
                    "model.layers.1.mlp.up_proj.weight" => true,
                    _ => false,
                };
                assert_eq!(after != before, trained, "{optimizer}: {name}, row {row}");
            }
        }
    }
}

/// The rate of a part that is frozen is for nothing.
#[test]
fn rates_of_frozen_parts_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let head = "--unfrozen_parameters=[^model.layers.1]";
    for (more, expected) in [
        (
            "--embedding_lr=0.02",
            "no embedding and no output projection is trained here",
        ),
        (
            "--lr_groups=[{name: zero, modules: [layers.0.], lr: 0.003}]",
            "group `zero`: no trained parameter has layers.0. in its name; names are \
             such as `model.layers.1.self_attn.q_proj.weight`",
        ),
        ("--special_tokens.pad_token=<new>", ""),
        // The data has no such token.
        ("--tokens=[<new>]", ""),
        (
            "--unfrozen_parameters=[^model.layer.1]",
            "\"^model.layer.1\" matches the beginning of no parameter's name",
        ),
        ("--unfrozen_parameters=[]", "`unfrozen_parameters`"),
    ] {
        let result = train(folder.path(), &[head, more]);
        match expected {
            "" => result.unwrap(),
            expected => {
                let error = result.unwrap_err();
                assert!(error.contains(expected), "{more}: {error}");
            }
        }
    }
}
