//! How large a batch of preferences gets, for the estimate of a run's memory.

use seqprep::{Batch, Preferences};
use trainer_config::{Config, Rl, Task};

use super::{Ids, Split, heads, kto, pairs};
use crate::batches::BatchSource;
use crate::error::Result;
use crate::estimate::BatchShape;
use crate::trainer::AnyModel;

/// The largest batch of the first epoch of `train`, with the tokens that its loss takes
/// logits of. Batches are made as training makes them, but for the id of padding.
///
/// # Errors
/// When the samples cannot be made into batches, or are not of the kind that the
/// objective takes.
pub(crate) fn largest_batch(
    config: &Config,
    train: Preferences,
    model: &AnyModel,
) -> Result<BatchShape> {
    let ids = Ids::new(model, 0);
    let task = config.preference.task();
    match (task, train) {
        (Task::Rl(Rl::Kto), Preferences::Kto(train)) => {
            let batches = kto::batches(config, train, Split::Train, ids)?;
            // Mismatched answers pass forward alone.
            largest(&batches, |batch| {
                let answers = batch.answers.iter().map(|document| document.answer.len());
                shape(&batch.tokens, answers.sum())
            })
        }
        (Task::Rl(rl), Preferences::Pairs(train)) if rl != Rl::Kto => {
            let batches = pairs::batches(config, train, Split::Train, ids)?;
            largest(&batches, |batch| {
                let answers = batch.chosen.iter().chain(&batch.rejected);
                let answers: usize = answers.map(|document| document.answer.len()).sum();
                let prompts = batch.chosen.iter().map(|document| document.prompt.len());
                // The part of ORPO that is supervised fine-tuning takes prompts too.
                let prompts = if rl == Rl::Orpo { prompts.sum() } else { 0 };
                shape(&batch.tokens, answers + prompts)
            })
        }
        (Task::RewardModel, Preferences::Pairs(train)) => {
            let batches = pairs::batches(config, train, Split::Train, ids)?;
            largest(&batches, |batch| shape(&batch.tokens, 0))
        }
        (Task::ProcessRewardModel, Preferences::Steps(train)) => {
            let batches = heads::step_batches(config, train, Split::Train, ids)?;
            largest(&batches, |batch| shape(batch, 0))
        }
        _ => Err(crate::trainer::setup::unfit()),
    }
}

fn shape(batch: &Batch, targets: usize) -> BatchShape {
    BatchShape {
        slots: batch.slots(),
        targets,
    }
}

fn largest<S: BatchSource>(
    batches: &S,
    shape: impl Fn(&S::Batch) -> BatchShape,
) -> Result<BatchShape> {
    let mut largest = BatchShape::default();
    for rows in batches.plan(0)?.batches() {
        let shape = shape(&batches.collate(&rows)?);
        largest.slots = largest.slots.max(shape.slots);
        largest.targets = largest.targets.max(shape.targets);
    }
    Ok(largest)
}
