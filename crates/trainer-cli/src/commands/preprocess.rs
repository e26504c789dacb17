//! `trainer preprocess`: data sets to tokens, without a model.

use std::path::Path;

use crate::args::Run;
use crate::session::{Failure, load_layers, load_samples, load_tokenizer};

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    // The one flag that is no key of the file.
    let (export, overrides): (Vec<_>, Vec<_>) = run
        .overrides()?
        .into_iter()
        .partition(|(key, _)| matches!(key.as_str(), "export_jsonl" | "export-jsonl"));
    let config = load_layers(&run.config, overrides)?.config;
    let tokenizer = load_tokenizer(&config)?;
    let prepared = load_samples(&config, &tokenizer)?;
    println!("{}", prepared.ledger);
    if let Some((_, path)) = export.last() {
        trainer_data::export_jsonl(&prepared.train, Path::new(path))?;
        println!("{} rows written to {path}", prepared.train.len());
    }
    Ok(())
}
