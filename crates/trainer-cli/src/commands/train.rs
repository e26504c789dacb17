//! `trainer train`: the whole way.

use std::cell::RefCell;
use std::rc::Rc;

use seqprep::Sample;
use trainer_config::Config;
use trainer_core::{TrainData, Trained, setup_trainer};
use trainer_data::stream::SampleStream;
use trainer_data::{CacheOutcome, Ledger, Tokenizer};

use crate::args::Run;
use crate::progress::Progress;
use crate::session::{
    Failure, SavedTokenizer, explain, is_streamed, load_layers, load_model, load_samples,
    load_tokenizer, open_stream, select_device,
};

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([explained], overrides) = run.flags(["explain_cache"])?;
    let config = load_layers(&run.config, overrides)?.config;
    if explained.is_some() && !is_streamed(&config) {
        explain(&config, &load_tokenizer(&config)?)?;
    }
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
    let data = Data::load(config, &tokenizer)?;
    let trainer = setup_trainer(
        config,
        data.train,
        data.eval,
        model,
        Box::new(SavedTokenizer(tokenizer)),
        None,
        None,
        None,
    )?;
    eprintln!("backend {}", selected.backend);
    // Only now is nothing wrong with the input.
    data.ledger.save(&config.output_dir)?;
    let trained = trainer.train(&mut Progress::new())?;
    if let Some(stream) = data.stream {
        let ledger = stream.borrow().ledger();
        eprintln!("{ledger}");
        ledger.save(&config.output_dir)?;
    }
    eprintln!("model saved to {}", config.output_dir.display());
    Ok(trained)
}

/// What is trained and evaluated on.
struct Data {
    train: TrainData,
    eval: Vec<Sample>,
    ledger: Ledger,
    /// The stream, whose account is complete at the end of the run.
    stream: Option<Rc<RefCell<SampleStream>>>,
}

impl Data {
    fn load(config: &Config, tokenizer: &Tokenizer) -> Result<Self, Failure> {
        if is_streamed(config) {
            return Self::stream(config, tokenizer);
        }
        let prepared = prepared(config, tokenizer)?.into_memory()?;
        Ok(Self {
            train: prepared.train.into(),
            eval: prepared.eval,
            ledger: prepared.ledger,
            stream: None,
        })
    }

    fn stream(config: &Config, tokenizer: &Tokenizer) -> Result<Self, Failure> {
        let stream = Rc::new(RefCell::new(open_stream(config)?));
        let source = Rc::clone(&stream);
        let ledger = stream.borrow().ledger();
        let rows = std::iter::from_fn(move || source.borrow_mut().next());
        let mut data = Self {
            train: TrainData::Stream(Box::new(rows.map(|row| row.map_err(Into::into)))),
            eval: Vec::new(),
            ledger,
            stream: Some(stream),
        };
        if let Some(tests) = &config.test_datasets {
            // Evaluation data is finite: prepared as training data is elsewhere.
            let tests = Config {
                datasets: tests.clone(),
                test_datasets: None,
                pretraining_dataset: None,
                sequence_len: config.eval_sequence_len.unwrap_or(config.sequence_len),
                shuffle_merged_datasets: false,
                ..config.clone()
            };
            data.eval = prepared(&tests, tokenizer)?.train.into_vec()?;
        }
        Ok(data)
    }
}

/// Prepares the data and says so.
fn prepared(config: &Config, tokenizer: &Tokenizer) -> Result<trainer_data::PreparedData, Failure> {
    let (prepared, outcome) = load_samples(config, tokenizer)?;
    match &outcome {
        CacheOutcome::Loaded { entry } => eprintln!("prepared data from {}", entry.display()),
        CacheOutcome::NotStored { error } => {
            eprintln!("warning: the prepared data is not kept: {error}");
        }
        _ => {}
    }
    eprintln!("{}", prepared.ledger);
    Ok(prepared)
}
