//! The trainers, and [`setup_trainer`], which builds the one that a
//! configuration asks for.

mod best;
mod cadence;
mod causal;
mod counters;
mod evaluation;
mod objective;
mod resume;
mod run;
mod setup;

pub use causal::{CausalTrainer, save_options};
pub use setup::{TrainerTokenizer, setup_trainer};

use trainer_model::CausalLm;

use crate::error::Result;
use crate::history::{LogRow, Observer};

/// A trainer, ready to run.
pub enum Trainer {
    /// Next-token prediction on tokenized samples.
    Causal(Box<CausalTrainer>),
}

impl Trainer {
    /// Runs to the end: trains, evaluates, and writes model, tokenizer and logs
    /// to `output_dir`.
    ///
    /// # Errors
    /// When the loss or gradient is not finite, or a file cannot be written.
    pub fn train(self, observer: &mut dyn Observer) -> Result<Trained> {
        match self {
            Self::Causal(trainer) => {
                let (model, summary) = trainer.0.train(observer)?;
                Ok(Trained { model, summary })
            }
        }
    }

    /// Optimizer steps of the run.
    #[must_use]
    pub fn total_steps(&self) -> usize {
        match self {
            Self::Causal(trainer) => trainer.0.total_steps(),
        }
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Trained {
    /// The trained model, recording no gradients.
    pub model: CausalLm,
    /// The summary row, as logged last.
    pub summary: LogRow,
}
