//! The loop that every trainer runs: windows of batches, gradients, steps, logs,
//! evaluation, checkpoints, and the saved model.
//!
//! Between the complete gradient of a window and the optimizer lies one place,
//! [`Run::finish_gradients`], where the norm is taken, clipped, and where a reduction
//! over ranks belongs.
//!
//! Invariant: what happens after a step depends on the configuration and the
//! state that a checkpoint holds alone, so that a run that goes on from one is the
//! same run.

mod guard;
mod probe;
mod save;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::{Value, json};
use trainer_config::{Config, SaveStrategy};
use trainer_model::{ParameterGradients, TrainedRows};

use self::guard::NonFinite;
pub use self::probe::Probe;
use self::save::{nonfinite_parameter, report};
use super::best::Best;
use super::cadence::{self, Every, Lengths};
use super::counters::Counters;
use super::objective::{Objective, StepSeed};
use super::resume::Resume;
use crate::batches::BatchSource;
use crate::checkpoint::{self, Writer};
use crate::error::{Result, TrainerError};
use crate::feed::Feed;
use crate::generation::{SAMPLES, Sampler};
use crate::history::{History, LogRow, Observer, Phases, Requests, RunPlan, StepReport};
use crate::lock::FolderLock;
use crate::optimizer::{self, Optimizer, StepSettings};
use crate::schedule::Schedule;
use crate::tokenizer::TrainerTokenizer;
use crate::trained::unfreeze;

/// One run of an objective.
pub(super) struct Run<O: Objective> {
    /// Tells this run from others in the same folder; stays the same when it goes on.
    id: String,
    config: Config,
    objective: O,
    feed: Feed<O::Batch>,
    model: O::Model,
    /// What of the model is trained.
    trained: TrainedRows,
    /// The model as it was before training, where that is not `model` and the
    /// objective compares with it.
    start: Option<O::Model>,
    tokenizer: Arc<dyn TrainerTokenizer>,
    /// Writes samples at evaluations, where they are asked for.
    sampler: Option<Sampler>,
    /// Taken before anything is written.
    lock: Option<FolderLock>,
    optimizer: Box<dyn Optimizer>,
    schedule: Schedule,
    best: Option<Best>,
    at: Counters,
    /// Log rows of the part of the run that is resumed.
    earlier_rows: Vec<Arc<LogRow>>,
    warnings: Vec<String>,
    total_steps: usize,
    trainable_parameters: usize,
    /// Names of the parameters that change.
    trainable_names: Arc<HashSet<String>>,
    eval_every: Every,
    save_every: Every,
    logging_steps: usize,
}

/// What came of a step.
enum StepOutcome {
    /// It was taken, or left out.
    Done { ends_epoch: bool },
    /// The run is where a checkpoint was written.
    RolledBack,
}

/// What came of an evaluation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evaluated {
    /// The best so far.
    Best,
    /// Another.
    Other,
    /// The run is where a checkpoint was written.
    RolledBack,
}

/// What lives only while a run does.
struct Outputs<'a> {
    history: History,
    writer: Writer,
    observer: &'a mut dyn Observer,
    started: Instant,
}

impl<O: Objective> Run<O> {
    /// `total_steps` sets the length of run and schedule; `None` counts the steps
    /// from the data. A `resume` brings everything to where its checkpoint was
    /// written.
    pub(super) fn new(
        config: &Config,
        objective: O,
        feed: Feed<O::Batch>,
        model: O::Model,
        tokenizer: Arc<dyn TrainerTokenizer>,
        total_steps: Option<usize>,
        resume: Resume,
    ) -> Result<Self> {
        let total_steps = match (total_steps, feed.batches(), config.max_steps) {
            (Some(steps), _, _) | (None, None, Some(steps)) => steps,
            (None, Some(batches), _) => batches.total_steps(config)?,
            (None, None, None) => {
                return Err(TrainerError::Setup(
                    "a stream of data has no end: set `max_steps`".into(),
                ));
            }
        };
        let epoch_steps = match feed.batches() {
            Some(batches) => {
                let batches = batches.plan(0)?.num_batches();
                Some(batches.div_ceil(config.gradient_accumulation_steps))
            }
            None => None,
        };
        let lengths = Lengths {
            total_steps,
            epoch_steps,
        };
        let eval_every = match objective.eval_samples() {
            0 => Every::Never,
            _ => cadence::evaluation(config, lengths)?,
        };
        let best = Best::new(&config.checkpoint);
        if best.is_some() && eval_every == Every::Never {
            return Err(no_evaluations());
        }
        let (model, trained) = unfreeze(config, model)?;
        let infos = trained.parameters(&model);
        let trainable = || infos.iter().filter(|info| info.trainable);
        let trainable_parameters = trainable()
            .map(|info| info.shape.iter().product::<usize>())
            .sum();
        let trainable_names = trainable().map(|info| info.name.clone()).collect();
        let run = Self {
            id: checkpoint::new_run(),
            optimizer: optimizer::build(config, &infos)?,
            schedule: Schedule::new(config, total_steps)?,
            save_every: cadence::saving(config, lengths)?,
            logging_steps: cadence::logging_steps(config, total_steps),
            config: config.clone(),
            objective,
            feed,
            model,
            trained,
            start: None,
            sampler: Sampler::new(config, &tokenizer),
            tokenizer,
            lock: None,
            best,
            at: Counters::default(),
            earlier_rows: Vec::new(),
            warnings: Vec::new(),
            total_steps,
            trainable_parameters,
            trainable_names: Arc::new(trainable_names),
            eval_every,
        };
        run.resume(resume)
    }

    /// Brings everything to where a checkpoint was written.
    fn resume(mut self, resume: Resume) -> Result<Self> {
        self.warnings = resume.skipped;
        let Some((path, saved)) = resume.checkpoint else {
            return Ok(self);
        };
        if saved.total_steps != self.total_steps {
            return Err(TrainerError::Checkpoint {
                path,
                message: format!(
                    "it is of a run of {} steps, this one has {}: the data or its length changed",
                    saved.total_steps, self.total_steps
                ),
            });
        }
        self.feed.seek(&saved.feed)?;
        let state: Vec<f64> = saved.schedule.iter().map(|value| value.0).collect();
        self.schedule.restore(&state)?;
        let state = checkpoint::read_optimizer(&path.join(checkpoint::OPTIMIZER))?;
        let device = self.model.devices().into_iter().next().unwrap_or_default();
        self.optimizer
            .load_state(state, &device.without_autodiff())
            .map_err(|error| TrainerError::Checkpoint {
                path: path.clone(),
                message: error.to_string(),
            })?;
        if self.objective.compares_with_start() {
            self.start = Some(self.model.valid());
        }
        let model = self.objective.restore(self.model, &path)?;
        self.model = self.trained.apply(model);
        if let Some(best) = &mut self.best {
            best.restore(saved.best.clone());
        }
        self.at = Counters::restore(&saved);
        self.id = saved.run;
        self.earlier_rows = saved.log;
        Ok(self)
    }

    pub(super) fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Makes the output folder this run's own; see [`FolderLock`].
    ///
    /// # Errors
    /// When another run has it, or it cannot be made.
    pub(super) fn lock(&mut self) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(FolderLock::take(&self.config.output_dir)?);
        }
        Ok(())
    }

    /// Trains to the end. The model that comes back records no gradients; beside
    /// it is the summary row.
    pub(super) fn train(mut self, observer: &mut dyn Observer) -> Result<(O::Model, LogRow)> {
        self.lock()?;
        checkpoint::sweep(&self.config.output_dir);
        let earlier = std::mem::take(&mut self.earlier_rows);
        let mut out = Outputs {
            history: History::create(&self.config.output_dir, earlier)?,
            writer: Writer::default(),
            observer,
            started: Instant::now(),
        };
        let mut warnings = std::mem::take(&mut self.warnings);
        if self.at.step == 0 {
            warnings.extend(checkpoint::others(&self.config.output_dir)?);
        }
        for warning in warnings {
            out.observer.warned(&warning);
        }
        out.observer.started(&RunPlan {
            total_steps: self.total_steps,
            steps_done: self.at.step,
            samples: self.feed.batches().map(BatchSource::len),
            eval_samples: self.objective.eval_samples(),
            trainable_parameters: self.trainable_parameters,
        });
        let start = self.start.take().unwrap_or_else(|| self.model.valid());
        self.objective
            .prepare(&start, self.feed.batches(), out.observer)?;
        drop(start);
        let begins = self.at.step == 0;
        let evaluates = self.eval_every != Every::Never;
        if begins && self.config.eval_on_start && evaluates {
            (self, _) = self.evaluate(&mut out)?;
        } else if begins && evaluates && self.sampler.is_some() {
            // What the samples of later evaluations are compared with.
            self.log_evaluation(LogRow::new(), &mut out)?;
        }
        loop {
            while self.at.step < self.total_steps && !self.stops_early() {
                let outcome;
                (self, outcome) = self.step(&mut out)?;
                if let StepOutcome::Done { ends_epoch } = outcome {
                    self = self.after_step(&mut out, ends_epoch)?;
                }
            }
            if evaluates && self.at.evaluated_at != Some(self.at.step) {
                let evaluated;
                (self, evaluated) = self.evaluate(&mut out)?;
                if evaluated == Evaluated::RolledBack {
                    continue;
                }
            }
            match nonfinite_parameter(&self.model, &self.trainable_names) {
                Some(tensor) => self = self.refuse_weight(&mut out, tensor)?,
                None => return self.finish(out),
            }
        }
    }

    /// One window and one optimizer step.
    fn step(mut self, out: &mut Outputs<'_>) -> Result<(Self, StepOutcome)> {
        let mut clock = Clock::start(out.observer.separates_phases(), &self.model);
        let accumulation = self.config.gradient_accumulation_steps;
        let window = self.feed.next(accumulation, self.total_steps)?;
        let mut phases = Phases {
            data: clock.lap(),
            ..Phases::default()
        };
        let seed = self.step_seed();
        let mut sum = self
            .objective
            .accumulate(&self.model, &window.batches, seed)?;
        let both = clock.lap();
        phases.forward = sum.forward_seconds.min(both);
        phases.backward = both - phases.forward;
        let mut gradients = std::mem::take(&mut sum.gradients);
        let (grad_norm, gradient_factor) = self.finish_gradients(&mut gradients);
        let settings = StepSettings {
            learning_rate: self.schedule.learning_rate(self.at.step) * self.at.rate_scale,
            beta1: self.schedule.beta1(self.at.step),
            gradient_factor,
        };
        self.at.step += 1;
        self.at.epoch = window.epoch;
        let learning_rate = settings.learning_rate;
        let ends_epoch = window.ends_epoch;
        if let Some(found) = NonFinite::of(sum.loss, grad_norm) {
            return self.refuse_step(out, &window.batches, found, learning_rate, ends_epoch);
        }
        self.model = optimizer::step(
            self.optimizer.as_mut(),
            self.model,
            &self.trained,
            gradients,
            settings,
        );

        phases.optimizer = clock.lap();
        let loss = sum.loss;
        let report = StepReport {
            step: self.at.step,
            loss,
            grad_norm,
            learning_rate,
            tokens: sum.tokens,
            slots: sum.slots,
            trained_tokens: sum.trained_tokens,
            documents: std::mem::take(&mut sum.documents),
            seconds: clock.started.elapsed().as_secs_f64(),
            phases,
        };
        self.at.add(sum, window.rows, report.seconds);
        out.observer.stepped(&report);
        let last = self.at.step == self.total_steps;
        if last || self.at.step.is_multiple_of(self.logging_steps) {
            let loss = self.at.loss();
            let mut row = self.at.row(grad_norm, learning_rate);
            self.objective.describe(loss, &mut row);
            out.history.log(row, out.observer)?;
        }
        self.watch(loss)?;
        Ok((self, StepOutcome::Done { ends_epoch }))
    }

    fn step_seed(&self) -> StepSeed {
        StepSeed {
            seed: self.config.seed,
            step: self.at.step,
        }
    }

    /// From the gradient of a window to what the optimizer takes; gives its norm
    /// before clipping, and the factor that clips it. A reduction over ranks comes
    /// first here.
    fn finish_gradients(&self, gradients: &mut ParameterGradients) -> (f64, f64) {
        self.trained.narrow(gradients);
        let norm = optimizer::global_norm(gradients);
        let limit = self.config.max_grad_norm;
        // torch's clip_grad_norm_: the factor is taken only when below one.
        let factor = match limit > 0.0 {
            true => (limit / (norm + 1e-6)).min(1.0),
            false => 1.0,
        };
        (norm, factor)
    }

    /// Stops a run whose loss stays above the threshold.
    fn watch(&mut self, loss: f64) -> Result<()> {
        let keys = &self.config.checkpoint;
        let Some(threshold) = keys.loss_watchdog_threshold else {
            return Ok(());
        };
        self.at.watchdog = match loss > threshold {
            true => self.at.watchdog + 1,
            false => 0,
        };
        if self.at.watchdog < keys.loss_watchdog_patience {
            return Ok(());
        }
        Err(TrainerError::Watchdog {
            step: self.at.step,
            threshold,
            patience: keys.loss_watchdog_patience,
            loss,
        })
    }

    /// Evaluations and checkpoints that are due, or asked for.
    fn after_step(mut self, out: &mut Outputs<'_>, ends_epoch: bool) -> Result<Self> {
        let step = self.at.step;
        let Requests {
            evaluate,
            save,
            stop,
        } = out.observer.requests();
        let mut evaluated = Evaluated::Other;
        if self.eval_every.is_due(step, ends_epoch) || evaluate {
            (self, evaluated) = self.evaluate(out)?;
        }
        let went_back = evaluated == Evaluated::RolledBack;
        let keys = &self.config.checkpoint;
        let best_is_kept =
            keys.load_best_model_at_end || keys.save_strategy == Some(SaveStrategy::Best);
        let first = keys.save_first_step && step == 1;
        let due = self.save_every.is_due(step, ends_epoch) || first;
        let is_best = evaluated == Evaluated::Best && best_is_kept;
        if !went_back && (due || save || stop || is_best) {
            self.save(out)?;
        }
        if !stop {
            return Ok(self);
        }
        let saved = out.writer.finish();
        report(saved, out.observer);
        // Another one than `step` where the run went back.
        let step = self.at.step;
        let path = checkpoint::of_run(&self.config.output_dir, &self.id, step);
        Err(TrainerError::Stopped {
            step,
            total_steps: self.total_steps,
            checkpoint: path.filter(|_| !self.config.checkpoint.save_only_model),
        })
    }

    fn stops_early(&self) -> bool {
        self.best.as_ref().is_some_and(Best::stops)
    }

    fn evaluate(mut self, out: &mut Outputs<'_>) -> Result<(Self, Evaluated)> {
        if self.objective.eval_samples() == 0 {
            return Ok((self, Evaluated::Other));
        }
        let step = self.at.step;
        let row = match self.objective.evaluate(&self.model.valid()) {
            Err(TrainerError::NonFiniteEvaluation { name, value, .. }) => {
                let (run, went_back) = self.refuse_evaluation(out, name, value)?;
                return Ok(match went_back {
                    true => (run, Evaluated::RolledBack),
                    false => (run, Evaluated::Other),
                });
            }
            row => row?,
        };
        if let Some(loss) = row.get("eval_loss").and_then(Value::as_f64) {
            self.schedule.evaluated(loss);
        }
        let is_best = match &mut self.best {
            Some(best) => best.evaluated(&row, step)?,
            None => false,
        };
        self.at.evaluated_at = Some(step);
        self.log_evaluation(row, out)?;
        Ok(match is_best {
            true => (self, Evaluated::Best),
            false => (self, Evaluated::Other),
        })
    }

    /// Logs the values of an evaluation, with samples of what the model writes.
    fn log_evaluation(&mut self, mut row: LogRow, out: &mut Outputs<'_>) -> Result<()> {
        if let Some(sampler) = &self.sampler {
            let samples = self.objective.samples(&self.model.valid(), sampler)?;
            row.insert(SAMPLES.into(), samples);
        }
        row.insert("epoch".into(), json!(self.at.epoch));
        row.insert("step".into(), json!(self.at.step));
        out.history.log(row, out.observer)
    }
}

/// Times the phases of a step.
struct Clock {
    started: Instant,
    lap: Instant,
    /// The device to wait for at the end of each phase.
    device: Option<Device>,
}

impl Clock {
    fn start<M: Module>(waits: bool, model: &M) -> Self {
        let now = Instant::now();
        let device = match waits {
            true => model.devices().into_iter().next(),
            false => None,
        };
        Self {
            started: now,
            lap: now,
            device,
        }
    }

    /// Seconds since the last call.
    fn lap(&mut self) -> f64 {
        if let Some(device) = &self.device {
            // What went wrong on the device, the next value read from it tells.
            let _ = device.sync();
        }
        let before = std::mem::replace(&mut self.lap, Instant::now());
        (self.lap - before).as_secs_f64()
    }
}

/// The error where the best model is asked for and nothing is evaluated.
pub(super) fn no_evaluations() -> TrainerError {
    TrainerError::Setup(
        "the best model is told by evaluations, and there are none: set val_set_size or \
         test_datasets, or remove load_best_model_at_end, metric_for_best_model, \
         early_stopping_patience and `save_strategy: best`"
            .into(),
    )
}
