//! The causal trainer: next-token prediction with gradient accumulation.
//!
//! One optimizer step takes a window of micro-batches. The loss of a window is
//! the mean over all its trained tokens, however they are spread over its
//! micro-batches, so that accumulation changes nothing but memory. Between the
//! complete gradient and the optimizer lies one place, `finish_step`, where the
//! norm is taken, clipped, and where a reduction over ranks belongs.

use std::time::Instant;

use burn::module::Module;
use seqprep::{Batch, Sample};
use serde_json::{Value, json};
use trainer_config::{Config, EvalStrategy};
use trainer_model::{
    CausalLm, ParameterGradients, SaveDtype, Targets, Tokens, parameters, save_causal_lm,
};

use super::Trained;
use super::evaluation::evaluate;
use super::setup::TrainerTokenizer;
use crate::batches::{BatchOptions, Batches};
use crate::error::{Result, TrainerError};
use crate::feed::{Feed, TrainData};
use crate::history::{History, LogRow, Observer, RunPlan, RunState, StepReport};
use crate::optimizer::{self, Optimizer, StepSettings};
use crate::schedule::Schedule;

/// Trains a causal language model on tokenized samples.
pub struct CausalTrainer {
    config: Config,
    model: CausalLm,
    tokenizer: Box<dyn TrainerTokenizer>,
    feed: Feed,
    eval: Option<Batches>,
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
}

impl CausalTrainer {
    pub(super) fn new(
        config: &Config,
        train: TrainData,
        eval: Vec<Sample>,
        model: CausalLm,
        tokenizer: Box<dyn TrainerTokenizer>,
        total_steps: Option<usize>,
    ) -> Result<Self> {
        let vocab_size = model.config().vocab_size;
        let options = BatchOptions::training(config, tokenizer.pad_id());
        let feed = match train {
            TrainData::Samples(samples) => {
                let batches = Batches::new(samples, options)?;
                batches.check_vocabulary(vocab_size, "training")?;
                Feed::samples(batches)
            }
            TrainData::Stream(rows) => Feed::stream(rows, options, vocab_size),
        };
        let eval = if eval.is_empty() {
            None
        } else {
            let eval = Batches::new(eval, BatchOptions::evaluation(config, tokenizer.pad_id()))?;
            eval.check_vocabulary(vocab_size, "evaluation")?;
            Some(eval)
        };
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
            optimizer: optimizer::build(config, &infos),
            schedule: Schedule::new(config, total_steps)?,
            config: config.clone(),
            model,
            tokenizer,
            feed,
            eval,
            total_steps,
            trainable_parameters,
        })
    }

    pub(super) fn total_steps(&self) -> usize {
        self.total_steps
    }

    pub(super) fn train(mut self, observer: &mut dyn Observer) -> Result<Trained> {
        let started = Instant::now();
        let mut history = History::create(&self.config.output_dir)?;
        observer.started(&RunPlan {
            total_steps: self.total_steps,
            samples: self.feed.batches().map(Batches::len),
            eval_samples: self.eval.as_ref().map_or(0, Batches::len),
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
            let targets = window
                .batches
                .iter()
                .map(Batch::trained_tokens)
                .sum::<usize>();
            let (loss, gradients) = self.accumulate(&window.batches, targets);
            let settings = StepSettings {
                learning_rate: self.schedule.learning_rate(state.step),
                beta1: self.schedule.beta1(state.step),
            };
            state.step += 1;
            let grad_norm;
            (self, grad_norm) = self.finish_step(loss, gradients, settings, state.step)?;

            state.epoch = window.epoch;
            let tokens = window.batches.iter().map(real_tokens).sum();
            state.tokens += tokens as u64;
            trained_tokens += targets;
            rows_of_run += window.rows;
            loss_of_run += loss;
            let seconds = step_started.elapsed().as_secs_f64();
            since_log.add(loss, tokens, seconds);
            observer.stepped(&StepReport {
                step: state.step,
                loss,
                grad_norm,
                learning_rate: settings.learning_rate,
                tokens,
                seconds,
            });
            if state.step.is_multiple_of(logging_steps) || state.step == self.total_steps {
                let row = since_log.row(grad_norm, settings.learning_rate, trained_tokens, &state);
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
        save_causal_lm(&model, output, save_dtype(&self.config))?;
        history.save_state(&state)?;
        Ok(Trained { model, summary })
    }

    /// Mean loss and gradient over all targets of a window.
    fn accumulate(&self, window: &[Batch], targets: usize) -> (f64, ParameterGradients) {
        let mut gradients = ParameterGradients::default();
        let mut loss = 0.0;
        for batch in window {
            let batch_targets = Targets::from_labels(&batch.labels, batch.width);
            if batch_targets.is_empty() {
                continue;
            }
            let hidden_btd = self.model.hidden(&self.model.input(&tokens(batch)));
            let batch_loss = self.model.loss_sum(hidden_btd, &batch_targets) / targets as f64;
            loss += f64::from(batch_loss.clone().into_scalar::<f32>());
            gradients.add(ParameterGradients::take(
                &self.model,
                &mut batch_loss.backward(),
            ));
        }
        (loss, gradients)
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
        let Some(eval) = &self.eval else {
            return Ok(());
        };
        let mut row = evaluate(&self.model.valid(), eval)?;
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
                _ if self.eval.is_none() => EvalEvery::Never,
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
    fn add(&mut self, loss: f64, tokens: usize, seconds: f64) {
        self.steps += 1;
        self.loss += loss;
        self.tokens += tokens;
        self.seconds += seconds;
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
        let loss = since.loss / since.steps.max(1) as f64;
        let mut row = LogRow::new();
        row.insert("loss".into(), json!(loss));
        row.insert("grad_norm".into(), json!(grad_norm));
        row.insert("learning_rate".into(), json!(learning_rate));
        row.insert("ppl".into(), json!(loss.exp()));
        let rate = since.tokens as f64 / since.seconds.max(1e-9);
        row.insert("tokens/train_per_sec_per_gpu".into(), json!(rate));
        row.insert("tokens/trainable".into(), json!(trained_tokens));
        row.insert("tokens/total".into(), json!(state.tokens));
        row.insert("epoch".into(), json!(state.epoch));
        row.insert("step".into(), json!(state.step));
        row
    }
}

/// The tokens of a batch as the model takes them.
pub(super) fn tokens(batch: &Batch) -> Tokens<'_> {
    Tokens {
        rows: batch.rows,
        width: batch.width,
        input_ids: &batch.input_ids,
        position_ids: &batch.position_ids,
        segment_ids: &batch.segment_ids,
    }
}

fn real_tokens(batch: &Batch) -> usize {
    batch
        .segment_ids
        .iter()
        .filter(|&&segment| segment != 0)
        .count()
}

fn save_dtype(config: &Config) -> SaveDtype {
    match config.checkpoint.save_dtype {
        trainer_config::SaveDtype::Float32 => SaveDtype::F32,
        trainer_config::SaveDtype::Bfloat16 => SaveDtype::Bf16,
    }
}
