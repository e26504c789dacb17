//! Prepares the data of a configuration and saves it for the `datasets` library
//! of Python, without a model:
//!
//! `cargo run -p trainer-data --example save_to_disk -- run.yaml FOLDER [EXPORT.jsonl]`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use trainer_config::Layers;
use trainer_data::{Tokenizer, export_jsonl, prepare, save_to_disk};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, folder, export @ ..] = &arguments[..] else {
        return Err("give a configuration and a folder".into());
    };
    let config = trainer_config::load(&Layers {
        file: Some(file.into()),
        ..Layers::default()
    })?
    .config;
    let tokenizer = Tokenizer::from_config(&config)?;
    let prepared = prepare(&config, &tokenizer)?;
    println!("{}", prepared.ledger);
    let samples = prepared.train.into();
    save_to_disk(&samples, Path::new(folder))?;
    if let [path] = export {
        export_jsonl(&samples, Path::new(path))?;
    }
    Ok(())
}
