//! [`setup_trainer`]: from a configuration and its parts to a trainer.

use std::path::Path;
use std::sync::Arc;

use seqprep::SampleSource;
use trainer_config::Config;
use trainer_model::CausalLm;

use super::resume::Resume;
use super::{CausalTrainer, Trainer};
use crate::adapter::Adapter;
use crate::backend::compute_format;
use crate::error::{Result, TrainerError};
use crate::feed::TrainData;

/// What a trainer needs of a tokenizer.
pub trait TrainerTokenizer: Send + Sync {
    /// Id that fills rows up; padded places are never read.
    fn pad_id(&self) -> u32;

    /// Writes the tokenizer's files beside the trained model.
    ///
    /// # Errors
    /// What the file system reports.
    fn save(&self, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Builds the trainer that the configuration asks for, as Axolotl's function of
/// this name does.
///
/// `model` must be on an autodiff device; it computes in the number format that the
/// configuration asks for. `total_steps` sets the length of run
/// and schedule; `None` counts the steps from the data. `reference_model` is
/// the frozen model of preference losses, `adapter` what [`Adapter::attach`] gave
/// with the model. What is trained on is samples, or a stream of rows.
///
/// # Errors
/// When the parts do not fit the configuration or one another.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of Axolotl's setup_trainer, in its order"
)]
pub fn setup_trainer(
    config: &Config,
    train: impl Into<TrainData>,
    eval: impl Into<Box<dyn SampleSource>>,
    model: CausalLm,
    tokenizer: Arc<dyn TrainerTokenizer>,
    total_steps: Option<usize>,
    reference_model: Option<CausalLm>,
    adapter: Option<Adapter>,
) -> Result<Trainer> {
    let format = compute_format(config, &model.device())?;
    let model = model.computing_in(format);
    match (&config.adapters.adapter, &adapter) {
        (Some(kind), None) => {
            return Err(TrainerError::Setup(format!(
                "`adapter: {kind}`, but the model has none: make it with Adapter::attach"
            )));
        }
        (None, Some(_)) => {
            return Err(TrainerError::Setup(
                "the model has an adapter, which the configuration does not ask for: set `adapter`"
                    .into(),
            ));
        }
        _ => {}
    }
    if reference_model.is_some() {
        return Err(TrainerError::Setup(
            "a reference model is for preference training; this configuration trains next-token \
             prediction, which has no use for one"
                .into(),
        ));
    }
    let resume = Resume::find(config)?;
    let trainer = CausalTrainer::new(
        config,
        train.into(),
        eval.into(),
        model,
        tokenizer,
        total_steps,
        resume,
        adapter,
    )?;
    Ok(Trainer::Causal(Box::new(trainer)))
}
