//! What happens to a step whose loss or gradient is not finite.
//!
//! Invariant: such a step is never taken. Its batches are written to a file, so
//! that the rows can be looked at, whatever the policy.

use std::path::PathBuf;

use serde_json::json;
use trainer_config::NonFinitePolicy;
use trainer_model::write_atomically;

use super::{Outputs, Run};
use crate::checkpoint;
use crate::error::{Result, TrainerError};
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
    /// Deals with a step that cannot be taken, as the configuration says. The step
    /// is counted already. True after going back: the run is where the checkpoint is.
    pub(super) fn refuse(
        mut self,
        out: &mut Outputs<'_>,
        window: &[O::Batch],
        found: NonFinite,
        learning_rate: f64,
    ) -> Result<(Self, bool)> {
        let step = self.at.step;
        let NonFinite { what, value } = found;
        let rows = self.write_rows(window, found)?;
        let error = TrainerError::NonFinite {
            step,
            what,
            value,
            learning_rate,
            rows: rows.clone(),
        };
        let policy = self.config.guard.on_nonfinite;
        if policy == NonFinitePolicy::Stop
            || self.at.refused >= self.config.guard.on_nonfinite_limit
        {
            return Err(error);
        }
        self.at.refused += 1;
        let what = format!(
            "step {step}: the {what} is {value}; its rows are in {}",
            rows.display()
        );
        if policy == NonFinitePolicy::Skip {
            out.observer
                .warned(&format!("{what}; the step is left out"));
            return Ok((self, false));
        }
        super::report(out.writer.finish(), out.observer);
        let found = checkpoint::find(&self.config.output_dir, None, true)?;
        let Some(path) = found.path else {
            return Err(error);
        };
        let kept = (self.at.refused, self.at.rate_scale * LOWER);
        self = self.resume(Resume::read(path, found.skipped)?)?;
        (self.at.refused, self.at.rate_scale) = kept;
        // What is compared with was taken when the run began.
        self.start = None;
        let rows = std::mem::take(&mut self.earlier_rows);
        out.history = History::create(&self.config.output_dir, rows)?;
        out.observer.went_back(self.at.step);
        out.observer.warned(&format!(
            "{what}; going back to step {}, with {} of the learning rate",
            self.at.step, self.at.rate_scale
        ));
        Ok((self, true))
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
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use burn::module::Module;
    use seqprep::{Batch, Sample};
    use trainer_config::{Backend, CheckpointConfig, Config, GuardConfig};
    use trainer_model::{Linear, ParameterGradients};

    use super::*;
    use crate::batch_plan::BatchOptions;
    use crate::batches::Batches;
    use crate::checkpoint::SaveModel;
    use crate::feed::Feed;
    use crate::history::{LogRow, Observer, StepReport};
    use crate::trainer::objective::{Accumulated, Precision, StepSeed};
    use crate::trainer::setup::TrainerTokenizer;

    /// Fails at one step as often as it is told, and learns nothing.
    struct Failing {
        step: usize,
        times: usize,
    }

    impl Objective for Failing {
        type Model = Linear;
        type Batch = Batch;

        fn accumulate(&mut self, _: &Linear, _: &[Batch], seed: StepSeed) -> Result<Accumulated> {
            let fails = seed.step + 1 == self.step && self.times > 0;
            self.times -= usize::from(fails);
            Ok(Accumulated {
                loss: if fails { f64::NAN } else { 1.0 },
                gradients: ParameterGradients::default(),
                ..Accumulated::default()
            })
        }

        fn evaluate(&mut self, _: &Linear) -> Result<LogRow> {
            Ok(LogRow::new())
        }

        fn eval_samples(&self) -> usize {
            0
        }

        fn saver(&self, _: Linear, _: Precision) -> SaveModel {
            Box::new(|_| Ok(Vec::new()))
        }

        fn restore(&self, model: Linear, _: &Path) -> Result<Linear> {
            Ok(model)
        }
    }

    struct NoTokenizer;

    impl TrainerTokenizer for NoTokenizer {
        fn pad_id(&self) -> u32 {
            0
        }

        fn decode(&self, _: &[u32]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
            Ok(String::new())
        }

        fn save(&self, _: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Seen {
        steps: Vec<(usize, f64)>,
        warnings: Vec<String>,
        returns: Vec<usize>,
    }

    impl Observer for Seen {
        fn stepped(&mut self, step: &StepReport) {
            self.steps.push((step.step, step.learning_rate));
        }

        fn went_back(&mut self, step: usize) {
            self.returns.push(step);
        }

        fn warned(&mut self, message: &str) {
            self.warnings.push(message.to_owned());
        }
    }

    fn run(policy: NonFinitePolicy, times: usize, seen: &mut Seen) -> Result<Vec<usize>> {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            output_dir: folder.path().to_path_buf(),
            learning_rate: 1.0,
            lr_scheduler: trainer_config::LrScheduler::Constant,
            logging_steps: Some(1),
            checkpoint: CheckpointConfig {
                save_steps: Some(2.0),
                ..CheckpointConfig::default()
            },
            guard: GuardConfig {
                on_nonfinite: policy,
                on_nonfinite_limit: 2,
            },
            ..Config::default()
        };
        let device = crate::backend::select(Backend::Auto)
            .unwrap()
            .device
            .autodiff();
        let samples: Vec<_> = (0..5).map(|id| Sample::all_trained(vec![id, id])).collect();
        let batches = Batches::new(samples, BatchOptions::training(&config, 0))?;
        let run = Run::new(
            &config,
            Failing { step: 4, times },
            Feed::samples(batches),
            Linear::new(2, 2, false, 0.1, &device).materialize(),
            Arc::new(NoTokenizer),
            None,
            Resume::find(&config)?,
        )?;
        run.train(seen)?;
        let rows = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        let steps = rows
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let steps = steps.filter(|row| row.get("loss").is_some());
        assert!(folder.path().join("nonfinite-step-4.json").exists());
        Ok(steps
            .map(|row| row["step"].as_u64().unwrap() as usize)
            .collect())
    }

    #[test]
    fn a_run_stops_unless_it_is_told_otherwise() {
        let error = run(NonFinitePolicy::Stop, 1, &mut Seen::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("step 4: the loss is NaN; the step was not taken")
        );
    }

    #[test]
    fn a_step_is_left_out() {
        let mut seen = Seen::default();
        assert_eq!(
            run(NonFinitePolicy::Skip, 1, &mut seen).unwrap(),
            [1, 2, 3, 5]
        );
        assert!(
            seen.warnings[0].ends_with("the step is left out"),
            "{:?}",
            seen.warnings
        );
    }

    #[test]
    fn a_run_goes_back_with_a_lower_rate() {
        let mut seen = Seen::default();
        assert_eq!(
            run(NonFinitePolicy::Rollback, 2, &mut seen).unwrap(),
            [1, 2, 3, 4, 5]
        );
        let taken = [
            (1, 1.0),
            (2, 1.0),
            (3, 1.0),
            (3, 0.5),
            (3, 0.25),
            (4, 0.25),
            (5, 0.25),
        ];
        assert_eq!(seen.steps, taken);
        assert_eq!(seen.returns, [2, 2]);
        let error = run(NonFinitePolicy::Rollback, 3, &mut Seen::default()).unwrap_err();
        assert!(
            matches!(error, TrainerError::NonFinite { step: 4, .. }),
            "{error}"
        );
    }
}
