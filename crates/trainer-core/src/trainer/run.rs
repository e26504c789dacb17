//! The loop that every trainer runs: windows of batches, gradients, steps, logs,
//! evaluation, and the saved model.
//!
//! Between the complete gradient of a window and the optimizer lies one place,
//! [`Run::finish_step`], where the norm is taken, clipped, and where a reduction
//! over ranks belongs.

use std::time::Instant;

use burn::module::Module;
use serde_json::{Value, json};
use trainer_config::{Config, EvalStrategy};
use trainer_model::{ParameterGradients, parameters};

use super::objective::{Metrics, Objective, StepSeed};
use super::setup::TrainerTokenizer;
use crate::batches::BatchSource;
use crate::error::{Result, TrainerError};
use crate::feed::Feed;
use crate::history::{History, LogRow, Observer, RunPlan, RunState, StepReport};
use crate::optimizer::{self, Optimizer, StepSettings};
use crate::schedule::Schedule;

/// One run of an objective.
pub(super) struct Run<O: Objective> {
    config: Config,
    objective: O,
    feed: Feed<O::Batch>,
    model: O::Model,
    tokenizer: Box<dyn TrainerTokenizer>,
    optimizer: Box<dyn Optimizer>,
    schedule: Schedule,
    total_steps: usize,
    trainable_parameters: usize,
}

/// When to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EvalEvery {
    Steps(usize),
    Epoch,
    /// Not even at the start and the end.
    Never,
}

/// Sums since the last log row.
#[derive(Debug, Default)]
struct SinceLog {
    steps: usize,
    loss: f64,
    tokens: usize,
    seconds: f64,
    metrics: Metrics,
}

impl<O: Objective> Run<O> {
    /// `total_steps` sets the length of run and schedule; `None` counts the steps
    /// from the data.
    pub(super) fn new(
        config: &Config,
        objective: O,
        feed: Feed<O::Batch>,
        model: O::Model,
        tokenizer: Box<dyn TrainerTokenizer>,
        total_steps: Option<usize>,
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
        let infos = parameters(&model);
        let trainable = infos.iter().filter(|info| info.trainable);
        let trainable_parameters = trainable
            .map(|info| info.shape.iter().product::<usize>())
            .sum();
        Ok(Self {
            optimizer: optimizer::build(config, &infos)?,
            schedule: Schedule::new(config, total_steps)?,
            config: config.clone(),
            objective,
            feed,
            model,
            tokenizer,
            total_steps,
            trainable_parameters,
        })
    }

    pub(super) fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Trains to the end. The model that comes back records no gradients; beside
    /// it is the summary row.
    pub(super) fn train(mut self, observer: &mut dyn Observer) -> Result<(O::Model, LogRow)> {
        let started = Instant::now();
        let mut history = History::create(&self.config.output_dir)?;
        observer.started(&RunPlan {
            total_steps: self.total_steps,
            samples: self.feed.batches().map(BatchSource::len),
            eval_samples: self.objective.eval_samples(),
            trainable_parameters: self.trainable_parameters,
        });
        let eval_every = self.eval_every()?;
        let logging_steps = self.logging_steps();
        let mut state = RunState {
            epoch: 0.0,
            step: 0,
            max_steps: self.total_steps,
            num_train_epochs: self.config.num_epochs,
            train_batch_size: self.config.micro_batch_size,
            logging_steps,
            eval_steps: match eval_every {
                EvalEvery::Steps(steps) => Some(steps),
                _ => None,
            },
            tokens: 0,
        };
        let mut since_log = SinceLog::default();
        let mut loss_of_run = 0.0;
        let mut rows_of_run = 0;
        let mut trained_tokens = 0;
        let mut evaluated_at = None;
        if self.config.eval_on_start && eval_every != EvalEvery::Never {
            self.evaluate(&state, &mut history, observer)?;
            evaluated_at = Some(0);
        }

        while state.step < self.total_steps {
            let step_started = Instant::now();
            let accumulation = self.config.gradient_accumulation_steps;
            let window = self.feed.next(accumulation, self.total_steps)?;
            let seed = StepSeed {
                seed: self.config.seed,
                step: state.step,
            };
            let sum = self
                .objective
                .accumulate(&self.model, &window.batches, seed)?;
            let settings = StepSettings {
                learning_rate: self.schedule.learning_rate(state.step),
                beta1: self.schedule.beta1(state.step),
            };
            state.step += 1;
            let grad_norm;
            (self, grad_norm) = self.finish_step(sum.loss, sum.gradients, settings, state.step)?;

            state.epoch = window.epoch;
            state.tokens += sum.tokens as u64;
            trained_tokens += sum.trained_tokens;
            rows_of_run += window.rows;
            loss_of_run += sum.loss;
            let seconds = step_started.elapsed().as_secs_f64();
            since_log.add(sum.loss, sum.tokens, seconds, sum.metrics);
            observer.stepped(&StepReport {
                step: state.step,
                loss: sum.loss,
                grad_norm,
                learning_rate: settings.learning_rate,
                tokens: sum.tokens,
                seconds,
            });
            if state.step.is_multiple_of(logging_steps) || state.step == self.total_steps {
                let loss = since_log.loss();
                let mut row =
                    since_log.row(grad_norm, settings.learning_rate, trained_tokens, &state);
                self.objective.describe(loss, &mut row);
                history.log(row, observer)?;
            }
            let evaluates = match eval_every {
                EvalEvery::Steps(every) => state.step.is_multiple_of(every),
                EvalEvery::Epoch => window.ends_epoch,
                EvalEvery::Never => false,
            };
            if evaluates {
                self.evaluate(&state, &mut history, observer)?;
                evaluated_at = Some(state.step);
            }
        }
        if eval_every != EvalEvery::Never && evaluated_at != Some(state.step) {
            self.evaluate(&state, &mut history, observer)?;
        }

        let seconds = started.elapsed().as_secs_f64();
        let per_second = |n: usize| n as f64 / seconds.max(1e-9);
        let mut summary = LogRow::new();
        summary.insert("train_runtime".into(), json!(seconds));
        summary.insert(
            "train_samples_per_second".into(),
            json!(per_second(rows_of_run)),
        );
        summary.insert(
            "train_steps_per_second".into(),
            json!(per_second(state.step)),
        );
        summary.insert(
            "train_loss".into(),
            json!(loss_of_run / state.step.max(1) as f64),
        );
        summary.insert("epoch".into(), json!(state.epoch));
        summary.insert("step".into(), json!(state.step));
        history.log(summary.clone(), observer)?;
        let output = &self.config.output_dir;
        self.tokenizer
            .save(output)
            .map_err(TrainerError::Tokenizer)?;
        let model = self.model.valid();
        self.objective.save(&model, output)?;
        history.save_state(&state)?;
        Ok((model, summary))
    }

    /// From the complete gradient of a window to changed weights. A reduction
    /// over ranks comes first here, before the norm is taken.
    fn finish_step(
        mut self,
        loss: f64,
        mut gradients: ParameterGradients,
        settings: StepSettings,
        step: usize,
    ) -> Result<(Self, f64)> {
        let norm = gradients
            .global_norm()
            .map_or(0.0, |norm| f64::from(norm.into_scalar::<f32>()));
        for (what, value) in [("loss", loss), ("gradient norm", norm)] {
            if !value.is_finite() {
                let learning_rate = settings.learning_rate;
                return Err(TrainerError::NonFinite {
                    step,
                    what,
                    value,
                    learning_rate,
                });
            }
        }
        let limit = self.config.max_grad_norm;
        if limit > 0.0 {
            // torch's clip_grad_norm_: the factor is taken only when below one.
            let factor = limit / (norm + 1e-6);
            if factor < 1.0 {
                gradients.scale(factor);
            }
        }
        self.model = optimizer::step(self.optimizer.as_mut(), self.model, gradients, settings);
        Ok((self, norm))
    }

    fn evaluate(
        &mut self,
        state: &RunState,
        history: &mut History,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if self.objective.eval_samples() == 0 {
            return Ok(());
        }
        let mut row = self.objective.evaluate(&self.model.valid())?;
        if let Some(loss) = row.get("eval_loss").and_then(Value::as_f64) {
            self.schedule.evaluated(loss);
        }
        row.insert("epoch".into(), json!(state.epoch));
        row.insert("step".into(), json!(state.step));
        history.log(row, observer)
    }

    fn eval_every(&self) -> Result<EvalEvery> {
        let config = &self.config;
        Ok(
            match (
                config.eval_steps,
                config.evals_per_epoch,
                config.eval_strategy,
            ) {
                _ if self.objective.eval_samples() == 0 => EvalEvery::Never,
                (Some(steps), _, _) if steps < 1.0 => {
                    EvalEvery::Steps((self.total_steps as f64 * steps).ceil().max(1.0) as usize)
                }
                (Some(steps), _, _) => EvalEvery::Steps(steps as usize),
                (_, Some(n), _) => {
                    let Some(batches) = self.feed.batches() else {
                        return Err(TrainerError::Setup(
                            "a stream of data has no epochs: write `eval_steps` in place of \
                             `evals_per_epoch`"
                                .into(),
                        ));
                    };
                    let batches = batches.plan(0)?.num_batches();
                    let steps = batches.div_ceil(config.gradient_accumulation_steps);
                    EvalEvery::Steps(steps.div_ceil(n))
                }
                (_, _, Some(EvalStrategy::No)) => EvalEvery::Never,
                (_, _, Some(EvalStrategy::Epoch | EvalStrategy::Steps) | None) => EvalEvery::Epoch,
            },
        )
    }

    fn logging_steps(&self) -> usize {
        self.config
            .logging_steps
            .unwrap_or_else(|| (self.total_steps / 200).clamp(1, 10))
    }
}

impl SinceLog {
    fn add(&mut self, loss: f64, tokens: usize, seconds: f64, metrics: Metrics) {
        self.steps += 1;
        self.loss += loss;
        self.tokens += tokens;
        self.seconds += seconds;
        self.metrics.merge(metrics);
    }

    /// Mean loss of the steps.
    fn loss(&self) -> f64 {
        self.loss / self.steps.max(1) as f64
    }

    /// The row of everything since the last one, and starts anew.
    fn row(
        &mut self,
        grad_norm: f64,
        learning_rate: f64,
        trained_tokens: usize,
        state: &RunState,
    ) -> LogRow {
        let since = std::mem::take(self);
        let mut row = LogRow::new();
        row.insert("loss".into(), json!(since.loss()));
        row.insert("grad_norm".into(), json!(grad_norm));
        row.insert("learning_rate".into(), json!(learning_rate));
        since.metrics.write("", &mut row);
        let rate = since.tokens as f64 / since.seconds.max(1e-9);
        row.insert("tokens/train_per_sec_per_gpu".into(), json!(rate));
        row.insert("tokens/trainable".into(), json!(trained_tokens));
        row.insert("tokens/total".into(), json!(state.tokens));
        row.insert("epoch".into(), json!(state.epoch));
        row.insert("step".into(), json!(state.step));
        row
    }
}
