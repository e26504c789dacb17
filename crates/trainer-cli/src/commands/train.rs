//! `trainer train`: the whole way.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use seqprep::Sample;
use serde_json::Value;
use trainer_config::{Config, Loaded, Task};
use trainer_core::{
    AnyModel, EvalData, Observer, OpenStream, RowStream, Several, TrainData, Trained, Trainer,
    TrainerError, check_settings, setup_trainer,
};
use trainer_data::stream::SampleStream;
use trainer_data::{CacheOutcome, Ledger, Tokenizer};

use crate::args::{Shown, Train};
use crate::failure::Failure;
use crate::fit::{self, Fit};
use crate::limits;
use crate::out_of_memory;
use crate::preflight;
use crate::progress::{JsonLines, Progress};
use crate::report::{About, DataShown, REPORT, Reporter};
use crate::session::{
    SavedTokenizer, explain, is_streamed, load_for_training, load_preferences, load_reference,
    load_samples, load_tokenizer, open_stream, select_device, test_config,
};
use crate::trackers::trackers;
use crate::vocabulary::UntrainedTokens;
use crate::wishes::Wishes;

pub(crate) fn run(arguments: &Train) -> Result<(), Failure> {
    let ([explained, tui], overrides) = arguments.run.flags(["explain_cache", "tui"])?;
    let (shown, overrides) = arguments.shown.with(overrides);
    let file = &arguments.run.config;
    let loaded = preflight::load(file, overrides)?;
    let config = &loaded.config;
    if explained.is_some() && !is_streamed(config) {
        explain(config, &load_tokenizer(config)?)?;
    }
    let view = match arguments.tui || tui.is_some() {
        true => View::Screen,
        false => View::Lines(shown),
    };
    out_of_memory::watch(fit::advice(config, file));
    train(&loaded, view)?;
    Ok(())
}

/// How a run is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum View {
    /// A bar, or lines.
    Lines(Shown),
    /// Live curves that fill the terminal.
    Screen,
}

impl View {
    /// What shows the run; the terminal is taken from here on.
    fn open(self, config: &Config) -> Result<Vec<Box<dyn Observer>>, Failure> {
        Ok(match self {
            Self::Lines(shown) if shown.json => {
                vec![Box::new(Progress::new(shown.quiet)), Box::new(JsonLines)]
            }
            Self::Lines(shown) => vec![Box::new(Progress::new(shown.quiet))],
            #[cfg(feature = "tui")]
            Self::Screen => vec![Box::new(crate::tui::Tui::open(&config.output_dir)?)],
            #[cfg(not(feature = "tui"))]
            Self::Screen => {
                return Err(Failure::new(format!(
                    "this program was built without --tui; build it with `--features tui`, \
                     or look at {}/metrics.jsonl",
                    config.output_dir.display()
                )));
            }
        })
    }
}

/// A trainer and what belongs to its run.
pub(crate) struct Ready {
    pub(crate) trainer: Trainer,
    backend: String,
    about: About,
    /// The account of the data; that of a stream is complete at the end of the run.
    ledger: Option<Ledger>,
    stream: Opened,
}

/// Everything up to the first step. Nothing is written but prepared data.
pub(crate) fn ready(loaded: &Loaded, shown: Shown) -> Result<Ready, Failure> {
    let config = &loaded.config;
    let selected = select_device(config)?;
    let tokenizer = load_tokenizer(config)?;
    // Before the data, which may take long to tokenize for a model that is not there.
    check_settings(config)?;
    let (mut model, adapter) = load_for_training(config, &tokenizer, &selected.device)?;
    let reference = load_reference(config, &tokenizer, &selected.device)?;
    let mut data = Data::load(config, &tokenizer, shown)?;
    fit_together(config, &tokenizer, &mut model, &mut data)?;
    let backend = selected.backend.to_string();
    let about = About::new(loaded, &backend, data.shown.take());
    let tokenizer = Arc::new(SavedTokenizer::new(tokenizer, &model));
    let trainer = setup_trainer(
        config, data.train, data.eval, model, tokenizer, None, reference, adapter,
    )?;
    Ok(Ready {
        trainer,
        backend,
        about,
        ledger: data.ledger,
        stream: data.stream,
    })
}

/// Looks at whether tokens and lengths of the data are those of the model.
pub(crate) fn fit_together(
    config: &Config,
    tokenizer: &Tokenizer,
    model: &mut AnyModel,
    data: &mut Data,
) -> Result<(), Failure> {
    limits::raise(config, &data.train, &data.eval, model);
    let untrained = UntrainedTokens::of(config, tokenizer, model)?;
    untrained.check(&data.train, &data.eval)?;
    *data.untrained.borrow_mut() = untrained;
    Ok(())
}

/// Trains as configured; what is wrong with the input is found before anything
/// is written.
pub(crate) fn train(loaded: &Loaded, view: View) -> Result<Trained, Failure> {
    let config = &loaded.config;
    let shown = match view {
        View::Lines(shown) => shown,
        View::Screen => Shown::default(),
    };
    let trackers = trackers(config)?;
    let Ready {
        mut trainer,
        backend,
        about,
        ledger,
        stream,
    } = ready(loaded, shown)?;
    shown.note(format!("backend {backend}"));
    // Data that is prepared tells how large batches are. What cannot be estimated is no
    // reason not to try.
    if let Some(warning) = Fit::of(config).ok().and_then(|fit| fit.warning()) {
        eprint!("{warning}");
    }
    // Only now is nothing wrong with the input, and no file is another run's.
    trainer.lock()?;
    if let Some(ledger) = &ledger {
        ledger.save(&config.output_dir)?;
    }
    let mut observers = Several(vec![Box::new(Wishes::watch(&config.output_dir)?)]);
    observers.0.extend(view.open(config)?);
    observers.0.extend(trackers);
    let account = Account {
        prepared: ledger,
        stream: Rc::clone(&stream),
    };
    observers.0.push(Box::new(Reporter::new(
        about,
        Box::new(move || account.ledger()),
    )));
    let trained = trainer.train(&mut observers).map_err(|error| match error {
        TrainerError::Stopped { .. } => Failure::stopped(error.to_string()),
        error => error.into(),
    })?;
    if let Some(stream) = stream.borrow().as_ref() {
        let ledger = stream.borrow().ledger();
        shown.note(&ledger);
        ledger.save(&config.output_dir)?;
    }
    let what = match config.adapters.adapter {
        Some(_) => "adapter",
        None => "model",
    };
    shown.note(format!(
        "{what} saved to {0}, report in {0}/{REPORT}",
        config.output_dir.display()
    ));
    Ok(trained)
}

/// Where the account of the data comes from.
struct Account {
    prepared: Option<Ledger>,
    stream: Opened,
}

impl Account {
    /// The account as it is now.
    fn ledger(&self) -> Option<Ledger> {
        let stream = self.stream.borrow();
        let streamed = stream.as_ref().map(|stream| stream.borrow().ledger());
        streamed.or_else(|| self.prepared.clone())
    }
}

/// What is trained and evaluated on.
pub(crate) struct Data {
    pub(crate) train: TrainData,
    pub(crate) eval: EvalData,
    /// The account of the data; that of a stream is complete at the end of the run.
    ledger: Option<Ledger>,
    /// What the report shows of it.
    shown: Option<DataShown>,
    /// The stream, once the trainer has opened it.
    stream: Opened,
    /// Tokens that a stream may not have, once the model is known.
    untrained: Rc<RefCell<UntrainedTokens>>,
}

/// A stream that the trainer opens where a checkpoint says: at the beginning of the run,
/// and wherever it goes back.
type Opened = Rc<RefCell<Option<Rc<RefCell<SampleStream>>>>>;

/// Rows of a stream, whose account is looked at when the run is over. Warnings are
/// said when the first row of their kind is read.
struct Rows {
    stream: Rc<RefCell<SampleStream>>,
    /// Tokens that may not occur.
    untrained: UntrainedTokens,
    /// Warnings that were said.
    said: usize,
}

impl Iterator for Rows {
    type Item = Result<Vec<Sample>, Box<dyn std::error::Error + Send + Sync>>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.stream.borrow_mut().next()?;
        let stream = self.stream.borrow();
        for warning in stream.warnings().skip(self.said) {
            eprintln!("warning: {warning}");
        }
        self.said = stream.warnings().count();
        Some(row.map_err(Into::into).and_then(|row: Vec<Sample>| {
            for sample in &row {
                self.untrained.check_ids("training", &sample.input_ids)?;
            }
            Ok(row)
        }))
    }
}

impl RowStream for Rows {
    fn cursor(&self) -> Value {
        // A cursor is made of numbers and texts: there is nothing to fail.
        serde_json::to_value(self.stream.borrow().cursor()).unwrap_or_default()
    }
}

impl Data {
    /// The data of a configuration.
    pub(crate) fn load(
        config: &Config,
        tokenizer: &Tokenizer,
        shown: Shown,
    ) -> Result<Self, Failure> {
        if is_streamed(config) {
            return Self::stream(config, tokenizer, shown);
        }
        if config.preference.task() != Task::Sft {
            let (prepared, outcome) = load_preferences(config, tokenizer)?;
            say(&outcome, &prepared.ledger, shown);
            return Ok(Self {
                train: TrainData::Preferences(prepared.train),
                eval: EvalData::Preferences(prepared.eval),
                ledger: Some(prepared.ledger),
                shown: None,
                stream: Opened::default(),
                untrained: Rc::default(),
            });
        }
        let prepared = prepared(config, tokenizer, shown)?;
        Ok(Self {
            shown: Some(DataShown::of(
                &prepared.train,
                prepared.ledger.train.trained_tokens,
                config,
                tokenizer,
            )?),
            train: prepared.train.into(),
            eval: prepared.eval.into(),
            ledger: Some(prepared.ledger),
            stream: Opened::default(),
            untrained: Rc::default(),
        })
    }

    fn stream(config: &Config, tokenizer: &Tokenizer, shown: Shown) -> Result<Self, Failure> {
        let opened = Opened::default();
        let (place, owned) = (Rc::clone(&opened), config.clone());
        let untrained = Rc::default();
        let tokens: Rc<RefCell<UntrainedTokens>> = Rc::clone(&untrained);
        let open: OpenStream = Box::new(move |cursor| {
            // One that was read before ends here, with what it read ahead.
            *place.borrow_mut() = None;
            let cursor = cursor.map(serde_json::from_value).transpose()?;
            let stream = open_stream(&owned, cursor).map_err(|error| error.to_string())?;
            for file in stream.modified() {
                eprintln!(
                    "warning: {} was modified after the checkpoint was written; it is read again up to the row to go on with",
                    file.display()
                );
            }
            let stream = Rc::new(RefCell::new(stream));
            *place.borrow_mut() = Some(Rc::clone(&stream));
            Ok(Box::new(Rows {
                stream,
                untrained: tokens.borrow().clone(),
                said: 0,
            }))
        });
        let mut data = Self {
            train: TrainData::Stream(open),
            eval: Vec::<Sample>::new().into(),
            ledger: None,
            shown: None,
            stream: opened,
            untrained,
        };
        if let Some(tests) = &config.test_datasets {
            let tests = test_config(config, tests);
            data.eval = prepared(&tests, tokenizer, shown)?.train.into();
        }
        Ok(data)
    }
}

/// Prepares the data and says so.
fn prepared(
    config: &Config,
    tokenizer: &Tokenizer,
    shown: Shown,
) -> Result<trainer_data::PreparedData, Failure> {
    let (prepared, outcome) = load_samples(config, tokenizer)?;
    say(&outcome, &prepared.ledger, shown);
    Ok(prepared)
}

/// Says where prepared data comes from, and what became of every row.
fn say(outcome: &CacheOutcome, ledger: &Ledger, shown: Shown) {
    match outcome {
        CacheOutcome::Loaded { entry } => {
            shown.note(format!("prepared data from {}", entry.display()));
        }
        CacheOutcome::NotStored { error } => {
            eprintln!("warning: the prepared data is not kept: {error}");
        }
        _ => {}
    }
    shown.note(ledger);
}
