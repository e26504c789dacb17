//! What can stop a run.

use std::path::{Path, PathBuf};

use trainer_config::ConfigErrors;
use trainer_model::ModelError;

/// Why training could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainerError {
    /// The backend cannot be used.
    #[error("backend: {name}: {message}")]
    Backend {
        /// The backend asked for.
        name: String,
        /// What is missing and how to get it.
        message: String,
    },
    /// The configuration breaks rules of its own.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A setting does not fit the run or the model.
    #[error("{key}: {message}")]
    Setting {
        /// The configuration key.
        key: &'static str,
        /// What is wrong and what is expected.
        message: String,
    },
    /// The configuration asks for something that this trainer cannot do.
    #[error("{0}")]
    Setup(String),
    /// Samples cannot be made into batches.
    #[error("{0}")]
    Data(String),
    /// Loss or gradient became infinite or not a number.
    #[error(
        "step {step}: the {what} is {value}; the step was not taken, its rows are in {}. Lower \
         learning_rate (now {learning_rate:.3e}), raise warmup_steps, or lower max_grad_norm{}",
        rows.display(),
        given_up.advice()
    )]
    NonFinite {
        /// The step that failed.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// Rate of the step.
        learning_rate: f64,
        /// Where its rows are.
        rows: PathBuf,
        /// Why the run ends with it.
        given_up: GivenUp,
    },
    /// A value of an evaluation is infinite or not a number.
    #[error("{}", evaluation(*step, name, *value, *given_up))]
    NonFiniteEvaluation {
        /// Steps that the model was trained for, where a run evaluates.
        step: Option<usize>,
        /// `eval_loss`, or another value of the log row.
        name: String,
        /// The value.
        value: f64,
        /// Why the run ends with it.
        given_up: GivenUp,
    },
    /// A weight is infinite or not a number after the last step.
    #[error(
        "after step {step}, {tensor} has a value that is not finite: the model is not saved. Lower \
         learning_rate, raise warmup_steps, or lower max_grad_norm{}",
        given_up.advice()
    )]
    NonFiniteWeight {
        /// Steps taken.
        step: usize,
        /// The first parameter with such a value.
        tensor: String,
        /// Why the run ends with it.
        given_up: GivenUp,
    },
    /// The loss stayed above `loss_watchdog_threshold`.
    #[error(
        "step {step}: the loss was above loss_watchdog_threshold ({threshold}) for {patience} \
         steps in a row, now {loss:.4}. Lower learning_rate, look at the data (`trainer preview`), \
         or raise the threshold"
    )]
    Watchdog {
        /// The last of the steps.
        step: usize,
        /// `loss_watchdog_threshold`.
        threshold: f64,
        /// `loss_watchdog_patience`.
        patience: usize,
        /// The loss of the step.
        loss: f64,
    },
    /// A checkpoint cannot be written, read or gone on from.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The checkpoint or its file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The run was asked to stop.
    #[error("{}", stopped(*step, *total_steps, checkpoint.as_deref()))]
    Stopped {
        /// Steps taken.
        step: usize,
        /// Steps of the whole run.
        total_steps: usize,
        /// What a run can go on from.
        checkpoint: Option<PathBuf>,
    },
    /// Another run writes to the same folder.
    #[error(
        "{}: another run is writing to this folder; wait for it, or choose another output_dir",
        path.display()
    )]
    Locked {
        /// The output folder.
        path: PathBuf,
    },
    /// The output folder cannot be made or written to.
    #[error(
        "output_dir: cannot write to {}: {source}; choose a folder that can be written to",
        path.display()
    )]
    Output {
        /// The output folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The model could not be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file of the run could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tokenizer files could not be written.
    #[error("saving the tokenizer: {0}")]
    Tokenizer(Box<dyn std::error::Error + Send + Sync>),
}

/// Why a run ends with a value that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GivenUp {
    /// `on_nonfinite: stop`, or nothing else can be done.
    AtOnce,
    /// It happened more than `on_nonfinite_limit` times.
    TooOften(usize),
    /// `on_nonfinite: rollback`, and no checkpoint of this run that is early enough.
    NoCheckpoint,
}

impl GivenUp {
    fn advice(self) -> String {
        match self {
            Self::AtOnce => "; or set on_nonfinite to skip or rollback".into(),
            Self::TooOften(limit) => {
                format!("; it happened more often than on_nonfinite_limit ({limit}) allows")
            }
            Self::NoCheckpoint => "; there is no earlier checkpoint of this run to go back to: \
                                   lower save_steps, or set save_first_step: true"
                .into(),
        }
    }
}

fn evaluation(step: Option<usize>, name: &str, value: f64, given_up: GivenUp) -> String {
    let Some(step) = step else {
        return format!(
            "the evaluation gives no finite number: {name} is {value}. A weight of the model is \
             not finite, or the numbers of the model overflow on this data: evaluate the model \
             that it was trained from, or other rows"
        );
    };
    format!(
        "the evaluation after step {step} gives no finite number: {name} is {value}. Lower \
         learning_rate, raise warmup_steps, or look for the rows of the evaluation data on which \
         the model overflows{}",
        given_up.advice()
    )
}

impl TrainerError {
    pub(crate) fn setting(key: &'static str, message: String) -> Self {
        Self::Setting { key, message }
    }

    /// What is wrong with the data.
    pub(crate) fn data(error: impl std::fmt::Display) -> Self {
        Self::Data(error.to_string())
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

fn stopped(step: usize, total_steps: usize, checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => format!(
            "stopped after step {step} of {total_steps}; to go on, run it again with \
             --resume_from_checkpoint {}",
            path.display()
        ),
        None => format!(
            "stopped after step {step} of {total_steps}, without a checkpoint (save_only_model)"
        ),
    }
}

/// Result of this crate's operations.
pub type Result<T, E = TrainerError> = std::result::Result<T, E>;
