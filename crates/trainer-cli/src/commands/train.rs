//! `trainer train`: the whole way.

use trainer_config::Config;
use trainer_core::{Trained, setup_trainer};

use crate::args::Run;
use crate::progress::Progress;
use crate::session::{
    Failure, SavedTokenizer, load_config, load_model, load_samples, load_tokenizer, select_device,
};

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let config = load_config(run)?.config;
    train(&config)?;
    Ok(())
}

/// Trains as configured; what is wrong with the input is found before anything
/// is written.
pub(crate) fn train(config: &Config) -> Result<Trained, Failure> {
    let selected = select_device(config)?;
    let tokenizer = load_tokenizer(config)?;
    // Before the data, which may take long to tokenize for a model that is not there.
    let model = load_model(config, &selected.device)?;
    let prepared = load_samples(config, &tokenizer)?;
    eprintln!("{}", prepared.ledger);
    let trainer = setup_trainer(
        config,
        prepared.train,
        prepared.eval,
        model,
        Box::new(SavedTokenizer(tokenizer)),
        None,
        None,
        None,
    )?;
    eprintln!("backend {}", selected.backend);
    let trained = trainer.train(&mut Progress::new())?;
    eprintln!("model saved to {}", config.output_dir.display());
    Ok(trained)
}
