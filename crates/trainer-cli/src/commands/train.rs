//! `trainer train`: the whole way.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use seqprep::Sample;
use serde_json::Value;
use trainer_config::Config;
use trainer_core::{OpenStream, RowStream, TrainData, Trained, TrainerError, setup_trainer};
use trainer_data::stream::SampleStream;
use trainer_data::{CacheOutcome, Ledger, Samples, Tokenizer};

use crate::args::Run;
use crate::progress::Progress;
use crate::session::{
    Failure, SavedTokenizer, explain, is_streamed, load_layers, load_model, load_samples,
    load_tokenizer, open_stream, select_device,
};
use crate::wishes::Wishes;

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
    let (model, adapter) = load_model(config, &tokenizer, &selected.device)?;
    let data = Data::load(config, &tokenizer)?;
    let trainer = setup_trainer(
        config,
        data.train,
        data.eval,
        model,
        Arc::new(SavedTokenizer(tokenizer)),
        None,
        None,
        adapter,
    )?;
    eprintln!("backend {}", selected.backend);
    // Only now is nothing wrong with the input.
    if let Some(ledger) = &data.ledger {
        ledger.save(&config.output_dir)?;
    }
    let wishes = Wishes::watch(&config.output_dir)?;
    let trained = trainer
        .train(&mut Progress::new(wishes))
        .map_err(|error| match error {
            TrainerError::Stopped { .. } => Failure::stopped(error.to_string()),
            error => error.into(),
        })?;
    if let Some(stream) = data.stream.borrow().as_ref() {
        let ledger = stream.borrow().ledger();
        eprintln!("{ledger}");
        ledger.save(&config.output_dir)?;
    }
    let what = if config.adapters.adapter.is_some() {
        "adapter"
    } else {
        "model"
    };
    eprintln!("{what} saved to {}", config.output_dir.display());
    Ok(trained)
}

/// What is trained and evaluated on.
struct Data {
    train: TrainData,
    eval: Samples,
    /// The account of the data; that of a stream is complete at the end of the run.
    ledger: Option<Ledger>,
    /// The stream, once the trainer has opened it.
    stream: Opened,
}

/// A stream that the trainer opens, where a checkpoint says.
type Opened = Rc<RefCell<Option<Rc<RefCell<SampleStream>>>>>;

/// Rows of a stream, whose account is looked at when the run is over.
struct Rows(Rc<RefCell<SampleStream>>);

impl Iterator for Rows {
    type Item = Result<Vec<Sample>, Box<dyn std::error::Error + Send + Sync>>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.0.borrow_mut().next()?;
        Some(row.map_err(Into::into))
    }
}

impl RowStream for Rows {
    fn cursor(&self) -> Value {
        // A cursor is made of numbers and texts: there is nothing to fail.
        serde_json::to_value(self.0.borrow().cursor()).unwrap_or_default()
    }
}

impl Data {
    fn load(config: &Config, tokenizer: &Tokenizer) -> Result<Self, Failure> {
        if is_streamed(config) {
            return Self::stream(config, tokenizer);
        }
        let prepared = prepared(config, tokenizer)?;
        Ok(Self {
            train: prepared.train.into(),
            eval: prepared.eval,
            ledger: Some(prepared.ledger),
            stream: Opened::default(),
        })
    }

    fn stream(config: &Config, tokenizer: &Tokenizer) -> Result<Self, Failure> {
        let opened = Opened::default();
        let (place, owned) = (Rc::clone(&opened), config.clone());
        let open: OpenStream = Box::new(move |cursor| {
            let cursor = cursor.map(serde_json::from_value).transpose()?;
            let stream = open_stream(&owned, cursor).map_err(|error| error.to_string())?;
            let stream = Rc::new(RefCell::new(stream));
            *place.borrow_mut() = Some(Rc::clone(&stream));
            Ok(Box::new(Rows(stream)))
        });
        let mut data = Self {
            train: TrainData::Stream(open),
            eval: Vec::new().into(),
            ledger: None,
            stream: opened,
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
            data.eval = prepared(&tests, tokenizer)?.train;
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
