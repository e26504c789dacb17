//! What happens to a step whose loss or gradient is not finite, to an evaluation without
//! finite values, and to weights that are not finite at the end.
//!
//! Invariants: such a step is never taken. Its batches are written to a file, so
//! that the rows can be looked at, whatever the policy. A run goes back to checkpoints of
//! its own alone, of its own configuration; everything is then as it was there, the data
//! included, but for the learning rate, the count of what was refused, and the clock.

use std::path::PathBuf;

use serde_json::json;
use trainer_config::NonFinitePolicy;
use trainer_model::write_atomically;

use super::save::report;
use super::{Outputs, Run, StepOutcome};
use crate::error::{GivenUp, Result, TrainerError};
use crate::history::History;
use crate::trainer::objective::Objective;
use crate::trainer::resume::Resume;

/// After going back, the learning rate is this part of what it was.
const LOWER: f64 = 0.5;

/// A value that is infinite or not a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct NonFinite {
    /// `loss` or `gradient norm`.
    pub(super) what: &'static str,
    pub(super) value: f64,
}

impl NonFinite {
    pub(super) fn of(loss: f64, norm: f64) -> Option<Self> {
        let values = [("loss", loss), ("gradient norm", norm)];
        let found = values.into_iter().find(|(_, value)| !value.is_finite());
        found.map(|(what, value)| Self { what, value })
    }
}

impl<O: Objective> Run<O> {
    /// Deals with a step that cannot be taken, as the configuration says. The step is
    /// counted already.
    pub(super) fn refuse_step(
        mut self,
        out: &mut Outputs<'_>,
        window: &[O::Batch],
        found: NonFinite,
        learning_rate: f64,
        ends_epoch: bool,
    ) -> Result<(Self, StepOutcome)> {
        let step = self.at.step;
        let NonFinite { what, value } = found;
        let rows = self.write_rows(window, found)?;
        let error = |given_up| TrainerError::NonFinite {
            step,
            what,
            value,
            learning_rate,
            rows: rows.clone(),
            given_up,
        };
        self.count_refused(&error)?;
        let what = format!(
            "step {step}: the {what} is {value}; its rows are in {}",
            rows.display()
        );
        if self.config.guard.on_nonfinite == NonFinitePolicy::Skip {
            out.observer
                .warned(&format!("{what}; the step is left out"));
            return Ok((self, StepOutcome::Done { ends_epoch }));
        }
        // The weights before this step are the ones that it failed with.
        let run = self.roll_back(out, step - 1, &what, error)?;
        Ok((run, StepOutcome::RolledBack))
    }

    /// Deals with an evaluation that gives no finite number. True after going back.
    pub(super) fn refuse_evaluation(
        mut self,
        out: &mut Outputs<'_>,
        name: String,
        value: f64,
    ) -> Result<(Self, bool)> {
        let step = self.at.step;
        let what = format!("the evaluation after step {step}: {name} is {value}");
        let error = |given_up| TrainerError::NonFiniteEvaluation {
            step: Some(step),
            name: name.clone(),
            value,
            given_up,
        };
        self.count_refused(&error)?;
        if self.config.guard.on_nonfinite == NonFinitePolicy::Skip {
            // It is compared with nothing; one that patience waits for it is not.
            if let Some(best) = &mut self.best {
                best.no_better();
            }
            self.at.evaluated_at = Some(step);
            out.observer
                .warned(&format!("{what}; the evaluation is left out"));
            return Ok((self, false));
        }
        Ok((self.roll_back(out, step, &what, error)?, true))
    }

    /// Deals with weights that are not finite after the last step. There is nothing to
    /// leave out.
    pub(super) fn refuse_weight(mut self, out: &mut Outputs<'_>, tensor: String) -> Result<Self> {
        let step = self.at.step;
        let error = |given_up| TrainerError::NonFiniteWeight {
            step,
            tensor: tensor.clone(),
            given_up,
        };
        if self.config.guard.on_nonfinite != NonFinitePolicy::Rollback {
            return Err(error(GivenUp::AtOnce));
        }
        self.count_refused(&error)?;
        let what = format!("after step {step}: {tensor} has a value that is not finite");
        self.roll_back(out, step, &what, error)
    }

    /// Counts what is left out or gone back for, where the configuration allows it.
    fn count_refused(&mut self, error: &impl Fn(GivenUp) -> TrainerError) -> Result<()> {
        let guard = &self.config.guard;
        if guard.on_nonfinite == NonFinitePolicy::Stop {
            return Err(error(GivenUp::AtOnce));
        }
        if self.at.refused >= guard.on_nonfinite_limit {
            return Err(error(GivenUp::TooOften(guard.on_nonfinite_limit)));
        }
        self.at.refused += 1;
        Ok(())
    }

    /// Goes back to the newest checkpoint of this run after fewer than `failed` steps: from
    /// the one after `failed` steps, which has the weights that something failed with,
    /// everything would happen once more.
    fn roll_back(
        mut self,
        out: &mut Outputs<'_>,
        failed: usize,
        what: &str,
        error: impl Fn(GivenUp) -> TrainerError,
    ) -> Result<Self> {
        report(out.writer.finish(), out.observer);
        let mut found = Resume::within(&self.config, &self.id, failed)?;
        for reason in std::mem::take(&mut found.skipped) {
            out.observer.warned(&reason);
        }
        if found.checkpoint.is_none() {
            return Err(error(GivenUp::NoCheckpoint));
        }
        let refused = self.at.refused;
        let rate_scale = self.at.rate_scale * LOWER;
        // The clock of this process runs on: what the checkpoint has of it is in there.
        let seconds_before = self.at.seconds_before;
        self = self.resume(found)?;
        self.at.refused = refused;
        self.at.rate_scale = rate_scale;
        self.at.seconds_before = seconds_before;
        // What is compared with was taken when the run began.
        self.start = None;
        let rows = std::mem::take(&mut self.earlier_rows);
        out.history = History::create(&self.config.output_dir, rows)?;
        out.observer.went_back(self.at.step);
        out.observer.warned(&format!(
            "{what}; going back to step {}, with {} of the learning rate",
            self.at.step, self.at.rate_scale
        ));
        Ok(self)
    }

    fn write_rows(&self, window: &[O::Batch], found: NonFinite) -> Result<PathBuf> {
        let step = self.at.step;
        let value = json!({
            "step": step,
            "what": found.what,
            "value": found.value.to_string(),
            "batches": window,
        });
        let path = self
            .config
            .output_dir
            .join(format!("nonfinite-step-{step}.json"));
        write_atomically(&path, |temporary| {
            std::fs::write(temporary, format!("{value}\n")).map_err(|source| {
                trainer_model::ModelError::Io {
                    path: path.clone(),
                    source,
                }
            })
        })?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests;
