//! Prints the logits of a model for a row of tokens, as JSON: one list a token.
//!
//! ```sh
//! cargo run --release --example logits -- MODEL [--adapter FOLDER] ID...
//! ```
//!
//! `scripts/check_peft.py` holds them against those of PEFT.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use trainer_model::{LoraAdapter, ModelConfig, Tokens, load_causal_lm};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("no model folder given")?);
    let mut adapter: Option<PathBuf> = None;
    let mut ids: Vec<u32> = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--adapter" {
            adapter = arguments.next().map(PathBuf::from);
        } else {
            ids.push(argument.parse()?);
        }
    }
    let logits = logits(&folder, adapter.as_deref(), &ids)?;
    println!("{}", serde_json::to_string(&logits)?);
    Ok(())
}

fn logits(
    folder: &Path,
    adapter: Option<&Path>,
    ids: &[u32],
) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let config = ModelConfig::from_folder(folder, None)?;
    if ids.iter().any(|&id| id as usize >= config.vocab_size) {
        return Err(format!("token ids end at {}", config.vocab_size - 1).into());
    }
    let mut model = load_causal_lm(folder, &config, &Device::default())?;
    if let Some(adapter) = adapter {
        model = LoraAdapter::load(model, adapter)?.0;
    }
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let tokens = Tokens {
        rows: 1,
        width: ids.len(),
        input_ids: ids,
        position_ids: &positions,
        segment_ids: &vec![1; ids.len()],
    };
    let logits = model.logits(model.hidden(&model.input(&tokens)));
    let flat: Vec<f32> = logits.into_data().iter().collect();
    Ok(flat
        .chunks(config.vocab_size)
        .map(<[f32]>::to_vec)
        .collect())
}
