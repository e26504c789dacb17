//! Models with a head of their own: a reward for each answer, or a verdict on each
//! step of one.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use seqprep::{Batch, StepSample};
use trainer_config::Config;
use trainer_model::{Activations, Backward, Fork, RewardModel, backward};

use super::{Evaluated, Ids, Split, count_tokens, evaluate};
use crate::batches::BatchSource;
use crate::checkpoint::SaveModel;
use crate::error::Result;
use crate::history::LogRow;
use crate::losses::{bradley_terry, process_reward};
use crate::preference_batches::{Document, PairBatch, PairBatches, StepBatches};
use crate::trainer::causal::{activations, tokens};
use crate::trainer::objective::{Accumulated, Metrics, Objective, Precision, StepSeed};
use crate::trainer::weights::Weights;

/// What the head says at some tokens, row by row.
fn look(model: &RewardModel, batch: &Batch, forks: &[Fork], positions: &[u32]) -> Vec<f64> {
    if positions.is_empty() {
        return Vec::new();
    }
    let hidden_btd = model.hidden(&model.forked_input(&tokens(batch), forks));
    read(&model.scores(hidden_btd, positions))
}

fn read(scores: &Tensor<2>) -> Vec<f64> {
    scores.clone().into_data().iter::<f64>().collect()
}

/// A batch after its forward pass.
struct Step {
    /// Mean loss of the samples.
    loss: f64,
    /// Derivatives of that with respect to what the head says.
    weights: Vec<f64>,
    metrics: Metrics,
}

/// A pass forward and back; `judge` makes a step of what the head says.
fn learn(
    model: &RewardModel,
    batch: &Batch,
    forks: &[Fork],
    dropout: u64,
    positions: &[u32],
    activations: Activations,
    judge: impl FnOnce(&[f64]) -> Step,
) -> Option<Backward<Step>> {
    if positions.is_empty() {
        return None;
    }
    let input = model.forked_input(&tokens(batch), forks);
    let input = input.with_dropout(dropout);
    Some(backward(model, &input, activations, |hidden_btd| {
        let scores = model.scores(hidden_btd, positions);
        let step = judge(&read(&scores));
        let weights: Vec<f32> = step.weights.iter().map(|&weight| weight as f32).collect();
        let weights = Tensor::<2>::from_data(
            TensorData::new(weights, scores.dims()),
            (&scores.device(), scores.dtype()),
        );
        ((scores * weights).sum(), step)
    }))
}

impl Accumulated {
    /// Adds a batch that has a `share` of the window.
    fn add_step(&mut self, share: f64, learnt: Option<Backward<Step>>) {
        if let Some(learnt) = learnt {
            let step = learnt.output;
            self.add(share, step.loss + learnt.balance, Some(learnt.gradients));
            self.forward_seconds += learnt.forward_seconds;
            self.metrics.merge(step.metrics);
        }
    }
}

/// Learns to reward the better of two answers more.
pub(super) struct Rewards {
    centering: f64,
    eval: Option<PairBatches>,
    activations: Activations,
    weights: Weights,
}

impl Rewards {
    pub(super) fn new(config: &Config, eval: Option<PairBatches>, weights: Weights) -> Self {
        Self {
            centering: config.preference.center_rewards_coefficient.unwrap_or(0.0),
            eval,
            activations: activations(config),
            weights,
        }
    }

    fn step(&self, batch: &PairBatch, rewards: &[f64]) -> Step {
        let pairs = batch.chosen.len();
        let count = pairs.max(1) as f64;
        let (chosen, rejected) = rewards.split_at(pairs.min(rewards.len()));
        let mut step = Step {
            loss: 0.0,
            weights: vec![0.0; rewards.len()],
            metrics: Metrics::default(),
        };
        let both = chosen.iter().zip(rejected).zip(&batch.margins);
        for (index, ((&c, &r), &margin)) in both.enumerate() {
            let loss = bradley_terry(c, r, margin, self.centering);
            step.loss += loss.value / count;
            step.weights[index] = loss.chosen / count;
            step.weights[pairs + index] = loss.rejected / count;
            let metrics = &mut step.metrics;
            metrics.add("accuracy", f64::from(u8::from(c > r)), 1.0);
            metrics.add("margin", c - r, 1.0);
            metrics.add("mean_reward", (c + r) / 2.0, 1.0);
        }
        let extreme = |of: fn(f64, f64) -> f64| rewards.iter().copied().reduce(of);
        for (name, value) in [
            ("min_reward", extreme(f64::min)),
            ("max_reward", extreme(f64::max)),
        ] {
            if let Some(value) = value {
                step.metrics.add(name, value, count);
            }
        }
        step
    }
}

/// Where the reward of each document is read: the chosen ones, then the rejected.
fn ends(batch: &PairBatch) -> Vec<u32> {
    let documents = batch.chosen.iter().chain(&batch.rejected);
    documents.map(Document::last).collect()
}

impl Objective for Rewards {
    type Model = RewardModel;
    type Batch = PairBatch;

    fn accumulate(
        &mut self,
        model: &RewardModel,
        window: &[PairBatch],
        seed: StepSeed,
    ) -> Result<Accumulated> {
        let pairs: usize = window.iter().map(|batch| batch.items.len()).sum();
        let mut sum = Accumulated::default();
        for (index, batch) in window.iter().enumerate() {
            let (tokens, ends) = (&batch.tokens, ends(batch));
            let learnt = learn(
                model,
                tokens,
                &batch.forks,
                seed.batch(index),
                &ends,
                self.activations,
                |rewards| self.step(batch, rewards),
            );
            sum.add_step(batch.items.len() as f64 / pairs.max(1) as f64, learnt);
            sum.see(tokens);
            sum.share(batch.shared_tokens());
            sum.trained_tokens += ends.len();
        }
        Ok(sum)
    }

    fn evaluate(&mut self, model: &RewardModel) -> Result<LogRow> {
        let Some(batches) = &self.eval else {
            return Ok(LogRow::new());
        };
        evaluate(batches, |batch| {
            let step = self.step(
                batch,
                &look(model, &batch.tokens, &batch.forks, &ends(batch)),
            );
            Ok(Evaluated {
                loss: step.loss,
                samples: batch.items.len(),
                metrics: step.metrics,
            })
        })
    }

    fn eval_samples(&self) -> usize {
        self.eval.as_ref().map_or(0, BatchSource::len)
    }

    fn describe(&self, _loss: f64, row: &mut LogRow) {
        count_tokens(row);
    }

    fn saver(&self, model: RewardModel, precision: Precision) -> SaveModel {
        self.weights.saver(model, precision)
    }

    fn restore(&self, model: RewardModel, folder: &Path) -> Result<RewardModel> {
        self.weights.restore(model, folder)
    }
}

/// Learns which steps of an answer are right.
pub(super) struct Verdicts {
    eval: Option<StepBatches>,
    activations: Activations,
    weights: Weights,
}

/// Judged steps as batches.
///
/// # Errors
/// When there are none, or the model does not have their tokens.
pub(super) fn step_batches(
    config: &Config,
    samples: Vec<StepSample>,
    split: Split,
    ids: Ids,
) -> Result<StepBatches> {
    let options = split.options(config, ids)?;
    StepBatches::new(samples, options, ids.vocab_size, split.name())
}

impl Verdicts {
    pub(super) fn new(config: &Config, eval: Option<StepBatches>, weights: Weights) -> Self {
        Self {
            eval,
            activations: activations(config),
            weights,
        }
    }

    fn step(batch: &Batch, scores: &[f64]) -> Step {
        let (scores, _) = scores.as_chunks::<2>();
        let count = scores.len().max(1) as f64;
        let mut step = Step {
            loss: 0.0,
            weights: Vec::with_capacity(2 * scores.len()),
            metrics: Metrics::default(),
        };
        let labels = batch.labels.iter().filter(|label| **label >= 0);
        for (&[wrong, right], label) in scores.iter().zip(labels) {
            let is_right = *label == 1;
            let loss = process_reward(wrong, right, is_right);
            step.loss += loss.value / count;
            step.weights
                .extend([loss.rejected / count, loss.chosen / count]);
            let hit = (right > wrong) == is_right;
            step.metrics.add("accuracy", f64::from(u8::from(hit)), 1.0);
        }
        step
    }
}

/// The tokens that steps are judged at.
fn verdicts(batch: &Batch) -> Vec<u32> {
    let labels = batch.labels.iter().enumerate();
    labels
        .filter(|(_, label)| **label >= 0)
        .map(|(index, _)| index as u32)
        .collect()
}

impl Objective for Verdicts {
    type Model = RewardModel;
    type Batch = Batch;

    fn accumulate(
        &mut self,
        model: &RewardModel,
        window: &[Batch],
        seed: StepSeed,
    ) -> Result<Accumulated> {
        let all: usize = window.iter().map(|batch| verdicts(batch).len()).sum();
        let mut sum = Accumulated::default();
        for (index, batch) in window.iter().enumerate() {
            let steps = verdicts(batch);
            let learnt = learn(
                model,
                batch,
                &[],
                seed.batch(index),
                &steps,
                self.activations,
                |scores| Self::step(batch, scores),
            );
            sum.add_step(steps.len() as f64 / all.max(1) as f64, learnt);
            sum.see(batch);
        }
        sum.trained_tokens = all;
        Ok(sum)
    }

    fn evaluate(&mut self, model: &RewardModel) -> Result<LogRow> {
        let Some(batches) = &self.eval else {
            return Ok(LogRow::new());
        };
        evaluate(batches, |batch| {
            let steps = verdicts(batch);
            let step = Self::step(batch, &look(model, batch, &[], &steps));
            Ok(Evaluated {
                loss: step.loss,
                samples: steps.len(),
                metrics: step.metrics,
            })
        })
    }

    fn eval_samples(&self) -> usize {
        self.eval.as_ref().map_or(0, BatchSource::len)
    }

    fn describe(&self, _loss: f64, row: &mut LogRow) {
        count_tokens(row);
    }

    fn saver(&self, model: RewardModel, precision: Precision) -> SaveModel {
        self.weights.saver(model, precision)
    }

    fn restore(&self, model: RewardModel, folder: &Path) -> Result<RewardModel> {
        self.weights.restore(model, folder)
    }
}
