//! The trainers, and [`setup_trainer`], which builds the one that a
//! configuration asks for.

mod best;
mod cadence;
mod causal;
mod counters;
mod evaluation;
mod objective;
mod preference;
mod resume;
mod run;
mod setup;
mod weights;

pub use causal::CausalTrainer;
pub use evaluation::evaluate_samples;
pub use preference::{PreferenceTrainer, evaluate_preferences};
pub use run::Probe;
pub use setup::{check_settings, setup_trainer};
pub use weights::save_options;

use burn::tensor::{Device, FloatDType};
use seqprep::Preferences;
use trainer_config::Config;
use trainer_model::{CausalLm, RewardModel};

use crate::adapter::Adapter;
use crate::error::Result;
use crate::estimate::{self, BatchShape, Estimate, Others};
use crate::history::{LogRow, Observer};

/// A trainer, ready to run.
pub enum Trainer {
    /// Next-token prediction on tokenized samples.
    Causal(Box<CausalTrainer>),
    /// Preferences, rewards and judged steps.
    Preference(Box<PreferenceTrainer>),
}

impl Trainer {
    /// Runs to the end: trains, evaluates, and writes model, tokenizer and logs
    /// to `output_dir`.
    ///
    /// # Errors
    /// When the loss or gradient is not finite, or a file cannot be written.
    pub fn train(self, observer: &mut dyn Observer) -> Result<Trained> {
        let trained = self.run(observer);
        observer.ended(trained.as_ref().err());
        trained
    }

    fn run(self, observer: &mut dyn Observer) -> Result<Trained> {
        let (model, summary) = match self {
            Self::Causal(trainer) => {
                let (model, summary) = trainer.0.train(observer)?;
                (model.into(), summary)
            }
            Self::Preference(trainer) => trainer.train(observer)?,
        };
        Ok(Trained { model, summary })
    }

    /// Makes the output folder this run's own, so that files can be put there before
    /// [`train`](Self::train), which does it where it has not been done.
    ///
    /// # Errors
    /// When another run has it, or it cannot be made.
    pub fn lock(&mut self) -> Result<()> {
        match self {
            Self::Causal(trainer) => trainer.0.lock(),
            Self::Preference(trainer) => trainer.lock(),
        }
    }

    /// Times a few batches of the run, and writes nothing.
    ///
    /// # Errors
    /// When a batch cannot be made or used.
    pub fn probe(self) -> Result<Probe> {
        match self {
            Self::Causal(trainer) => trainer.0.probe(),
            Self::Preference(trainer) => trainer.probe(),
        }
    }

    /// Optimizer steps of the run.
    #[must_use]
    pub fn total_steps(&self) -> usize {
        match self {
            Self::Causal(trainer) => trainer.0.total_steps(),
            Self::Preference(trainer) => trainer.total_steps(),
        }
    }
}

/// A model that can be trained.
#[derive(Debug, Clone)]
pub enum AnyModel {
    /// A language model.
    Causal(CausalLm),
    /// A model that rewards answers, or judges steps.
    Reward(RewardModel),
}

impl AnyModel {
    /// The model, if it is a language model.
    #[must_use]
    pub fn into_causal(self) -> Option<CausalLm> {
        match self {
            Self::Causal(model) => Some(model),
            Self::Reward(_) => None,
        }
    }

    /// Entries of the vocabulary.
    fn vocab_size(&self) -> usize {
        match self {
            Self::Causal(model) => model.config().vocab_size,
            Self::Reward(model) => model.config().vocab_size,
        }
    }

    /// The largest batch of the first epoch of preferences.
    ///
    /// # Errors
    /// When the samples cannot be made into batches, or are not of the kind that the
    /// objective of the configuration takes.
    pub fn largest_batch(&self, config: &Config, train: Preferences) -> Result<BatchShape> {
        preference::largest_batch(config, train, self)
    }

    /// Estimates the peak memory of a run; see [`estimate::memory`].
    ///
    /// # Errors
    /// When the optimizer of the configuration does not fit the parameters.
    pub fn estimate(
        &self,
        config: &Config,
        adapter: Option<&Adapter>,
        batch: BatchShape,
        others: Others,
    ) -> Result<Estimate> {
        match self {
            Self::Causal(model) => estimate::memory(config, model, adapter, batch, others),
            Self::Reward(model) => estimate::memory(config, model, adapter, batch, others),
        }
    }

    fn device(&self) -> Device {
        match self {
            Self::Causal(model) => model.device(),
            Self::Reward(model) => model.device(),
        }
    }

    fn computing_in(self, format: FloatDType) -> Self {
        match self {
            Self::Causal(model) => model.computing_in(format).into(),
            Self::Reward(model) => model.computing_in(format).into(),
        }
    }

    fn with_embedding_noise(self, alpha: f64) -> Self {
        match self {
            Self::Causal(model) => model.with_embedding_noise(alpha).into(),
            Self::Reward(model) => model.with_embedding_noise(alpha).into(),
        }
    }
}

impl From<CausalLm> for AnyModel {
    fn from(model: CausalLm) -> Self {
        Self::Causal(model)
    }
}

impl From<RewardModel> for AnyModel {
    fn from(model: RewardModel) -> Self {
        Self::Reward(model)
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Trained {
    /// The trained model, recording no gradients.
    pub model: AnyModel,
    /// The summary row, as logged last.
    pub summary: LogRow,
}
