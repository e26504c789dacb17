//! What a run writes: checkpoints, and the files of the trained model.

use std::collections::HashSet;
use std::sync::Arc;

use burn::module::Module;
use trainer_model::visit_values;

use super::{Outputs, Run};
use crate::checkpoint::{self, Exact, Retention, SavedRun, Snapshot, Written, config_texts};
use crate::error::{GivenUp, Result, TrainerError};
use crate::history::{LogRow, Observer, RunState};
use crate::trainer::best::Best;
use crate::trainer::cadence::Every;
use crate::trainer::objective::{Objective, Precision};

impl<O: Objective> Run<O> {
    /// Starts to write a checkpoint.
    pub(super) fn save(&mut self, out: &mut Outputs<'_>) -> Result<()> {
        // Before the state is copied: there is one copy at a time.
        report(out.writer.finish(), out.observer);
        let keys = &self.config.checkpoint;
        let step = self.at.step;
        let model = self.model.valid();
        let (checked, names) = (model.clone(), Arc::clone(&self.trainable_names));
        let save = self.objective.saver(model, Precision::Exact);
        let snapshot = Snapshot {
            // From weights that are not finite nothing can go on.
            save_model: Box::new(move |folder| match nonfinite_parameter(&checked, &names) {
                Some(tensor) => Err(TrainerError::NonFiniteWeight {
                    step,
                    tensor,
                    given_up: GivenUp::AtOnce,
                }),
                None => {
                    drop(checked);
                    save(folder)
                }
            }),
            tokenizer: Arc::clone(&self.tokenizer),
            training: match keys.save_only_model {
                true => None,
                false => Some((self.optimizer.state(), self.saved(out)?)),
            },
            step,
        };
        let retention = Retention {
            run: self.id.clone(),
            limit: keys.save_total_limit,
            keep: self.best.iter().filter_map(Best::step).collect(),
        };
        out.writer
            .start(&self.config.output_dir, snapshot, retention);
        Ok(())
    }

    pub(super) fn saved(&self, out: &Outputs<'_>) -> Result<SavedRun> {
        let at = &self.at;
        Ok(SavedRun {
            run: self.id.clone(),
            step: at.step,
            total_steps: self.total_steps,
            epoch: Exact(at.epoch),
            tokens: at.tokens,
            trained_tokens: at.trained_tokens,
            rows: at.rows,
            loss_sum: Exact(at.loss_sum),
            seconds: Exact(at.seconds_before + out.started.elapsed().as_secs_f64()),
            evaluated_at: at.evaluated_at,
            since_log: at.sums(),
            feed: self.feed.position()?,
            schedule: self.schedule.state().into_iter().map(Exact).collect(),
            best: self.best.as_ref().map(Best::state).unwrap_or_default(),
            watchdog: at.watchdog,
            refused: at.refused,
            rate_scale: Exact(at.rate_scale),
            log: out.history.rows().to_vec(),
            config: config_texts(&self.config),
        })
    }

    /// Summary, best model, and the files of the trained model.
    pub(super) fn finish(mut self, mut out: Outputs<'_>) -> Result<(O::Model, LogRow)> {
        let saved = out.writer.finish();
        report(saved, out.observer);
        let output = self.config.output_dir.clone();
        let best = self.best.as_ref().and_then(Best::step);
        let best_checkpoint = best.and_then(|step| checkpoint::of_run(&output, &self.id, step));
        if self.config.checkpoint.load_best_model_at_end {
            match (best, &best_checkpoint) {
                (_, Some(path)) => self.model = self.objective.restore(self.model, path)?,
                (Some(step), None) => out.observer.warned(&format!(
                    "the best model was that of step {step}, whose checkpoint is not there: the \
                     model of the last step is saved"
                )),
                (None, None) => {}
            }
        }
        let summary = self.at.summary(out.started.elapsed().as_secs_f64());
        out.history.log(summary.clone(), out.observer)?;
        self.tokenizer
            .save(&output)
            .map_err(TrainerError::Tokenizer)?;
        let model = self.model.valid();
        (self.objective.saver(model.clone(), Precision::Configured))(&output)?;
        out.history.save_state(&RunState {
            epoch: self.at.epoch,
            step: self.at.step,
            max_steps: self.total_steps,
            num_train_epochs: self.config.num_epochs,
            train_batch_size: self.config.micro_batch_size,
            logging_steps: self.logging_steps,
            eval_steps: match self.eval_every {
                Every::Steps(steps) => Some(steps),
                _ => None,
            },
            tokens: self.at.tokens,
            best_metric: self.best.as_ref().and_then(Best::value),
            best_checkpoint,
        })?;
        Ok((model, summary))
    }
}

/// The first of some parameters that has a value which is not finite.
pub(super) fn nonfinite_parameter<M: Module>(model: &M, names: &HashSet<String>) -> Option<String> {
    let found = visit_values(model, |name, value| {
        let mut pieces = match names.contains(name) {
            true => Some(value.pieces()),
            false => None,
        };
        let mut pieces = pieces.iter_mut().flatten();
        match pieces.all(|piece| piece.as_ref().iter().all(|number| number.is_finite())) {
            true => Ok(()),
            false => Err(name.to_owned()),
        }
    });
    found.err()
}

/// Tells what came of a checkpoint. One that could not be written does not end
/// the run: the next may succeed, and the weights are still in memory.
pub(super) fn report(outcome: Option<Result<Written>>, observer: &mut dyn Observer) {
    match outcome {
        None => {}
        Some(Ok(written)) => {
            for message in &written.not_deleted {
                observer.warned(message);
            }
            observer.saved(&written.path);
        }
        Some(Err(TrainerError::NonFiniteWeight { step, tensor, .. })) => {
            observer.warned(&format!(
                "no checkpoint is written after step {step}: {tensor} has a value that is not \
                 finite"
            ));
        }
        Some(Err(error)) => observer.warned(&format!(
            "a checkpoint could not be written: {error}. Training goes on; free space or lower \
             save_total_limit"
        )),
    }
}
