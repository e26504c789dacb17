//! [`setup_trainer`]: from a configuration and its parts to a trainer.

use std::sync::Arc;

use trainer_config::{Config, Task};
use trainer_model::CausalLm;

use super::best::Best;
use super::cadence::{self, Every, Lengths};
use super::preference::Parts;
use super::resume::Resume;
use super::weights::Weights;
use super::{AnyModel, CausalTrainer, PreferenceTrainer, Trainer};
use crate::adapter::Adapter;
use crate::backend::compute_format;
use crate::checkpoint;
use crate::error::{Result, TrainerError};
use crate::feed::{EvalData, TrainData};
use crate::tokenizer::TrainerTokenizer;

/// Builds the trainer that the configuration asks for, as Axolotl's function of
/// this name does. There is no `processor` among the parts, as there is no training on
/// images or sound.
///
/// `model` must be on an autodiff device; it computes in the number format that the
/// configuration asks for, with the noise on embeddings and the frozen parameters that it
/// asks for. It is a [`CausalLm`], or for reward models a
/// [`RewardModel`](trainer_model::RewardModel). `total_steps` sets the length of run
/// and schedule; `None` counts the steps from the data. `reference_model` is
/// the frozen model of preference losses, where a second one is wanted: without it,
/// the log-probabilities of `model` before training are the reference. `adapter` is
/// what [`Adapter::attach`] gave with the model. What is trained on is samples, a
/// stream of rows, or [`Preferences`](seqprep::Preferences); an empty `eval` is no evaluation
/// data, whatever is trained on.
///
/// # Errors
/// When the configuration breaks the rules of a file, or the parts do not fit it or one
/// another.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of Axolotl's setup_trainer but for the processor, in its order"
)]
pub fn setup_trainer(
    config: &Config,
    train: impl Into<TrainData>,
    eval: impl Into<EvalData>,
    model: impl Into<AnyModel>,
    tokenizer: Arc<dyn TrainerTokenizer>,
    total_steps: Option<usize>,
    reference_model: Option<CausalLm>,
    adapter: Option<Adapter>,
) -> Result<Trainer> {
    config.check()?;
    let model = model.into();
    let format = compute_format(config, &model.device())?;
    let noise = config.parameters.neftune_noise_alpha.unwrap_or(0.0);
    let model = model.computing_in(format).with_embedding_noise(noise);
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
    let resume = Resume::find(config)?;
    let sft = config.preference.task() == Task::Sft;
    let weights = Weights::new(config, adapter);
    let parts = Parts {
        tokenizer,
        total_steps,
        second: reference_model.map(|model| model.computing_in(format)),
        resume,
        weights,
    };
    let train = train.into();
    // None is none, of whatever kind.
    let eval = match (&train, eval.into()) {
        (TrainData::Preferences(train), EvalData::Samples(eval)) if eval.is_empty() => {
            EvalData::Preferences(train.none_of_kind())
        }
        (TrainData::Samples(_) | TrainData::Stream(_), EvalData::Preferences(eval))
            if eval.is_empty() =>
        {
            EvalData::Samples(Vec::new().into())
        }
        (_, eval) => eval,
    };
    match (train, eval, model) {
        (TrainData::Preferences(train), EvalData::Preferences(eval), model) if !sft => {
            let trainer = PreferenceTrainer::new(config, train, eval, model, parts)?;
            Ok(Trainer::Preference(Box::new(trainer)))
        }
        (train, EvalData::Samples(eval), AnyModel::Causal(model)) if sft => {
            if parts.second.is_some() {
                return Err(TrainerError::Setup(
                    "a reference model is for preference training; this configuration trains \
                     next-token prediction, which has no use for one"
                        .into(),
                ));
            }
            let trainer = CausalTrainer::new(config, train, eval, model, parts)?;
            Ok(Trainer::Causal(Box::new(trainer)))
        }
        _ => Err(unfit()),
    }
}

/// Finds what is wrong with the settings of evaluation and checkpoints as far as it
/// can be known without the data, which may take long to prepare.
///
/// # Errors
/// The message that [`setup_trainer`] would give.
pub fn check_settings(config: &Config) -> Result<()> {
    let streamed = config.streaming || config.pretraining_dataset.is_some();
    let lengths = Lengths {
        total_steps: 1,
        epoch_steps: (!streamed).then_some(1),
    };
    cadence::saving(config, lengths)?;
    let held_back = config.val_set_size > 0.0 || config.test_datasets.is_some();
    let evaluates = held_back && cadence::evaluation(config, lengths)? != Every::Never;
    if Best::new(&config.checkpoint).is_some() && !evaluates {
        return Err(super::run::no_evaluations());
    }
    if let Some(named) = &config.checkpoint.resume_from_checkpoint
        && !checkpoint::is_there(named)
    {
        Resume::find(config)?;
    }
    Ok(())
}

/// The error where samples and model are not of the kind that the objective takes.
pub(super) fn unfit() -> TrainerError {
    TrainerError::Setup(
        "samples and model are not of the kind that the objective of the configuration takes: \
         tokens with labels for supervised fine-tuning, pairs of answers for dpo, ipo, orpo, \
         simpo, cpo and reward models, single answers for kto, judged steps for process reward \
         models; reward models have a head of their own"
            .into(),
    )
}
