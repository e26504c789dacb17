//! What can stop a run.

use std::path::PathBuf;

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
        "step {step}: the {what} is {value}; the step was not taken. Lower learning_rate (now \
         {learning_rate:.3e}), raise warmup_steps, or lower max_grad_norm"
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

impl TrainerError {
    pub(crate) fn setting(key: &'static str, message: String) -> Self {
        Self::Setting { key, message }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Result of this crate's operations.
pub type Result<T, E = TrainerError> = std::result::Result<T, E>;
