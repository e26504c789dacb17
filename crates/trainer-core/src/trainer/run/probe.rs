//! A few batches for their time alone: nothing is written, nothing is kept.

use std::time::Instant;

use super::guard::NonFinite;
use super::{Objective, Run};
use crate::error::{Result, TrainerError};
use crate::optimizer::{self, StepSettings};

/// Batches that are timed, after one that is not.
const TIMED: usize = 3;

/// What a few batches tell of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Batches that were timed.
    pub timed: usize,
    /// Optimizer steps of the run.
    pub total_steps: usize,
    /// Batches of the run.
    pub total_batches: f64,
    /// Tokens of the run, padding left out.
    pub total_tokens: f64,
    /// Mean tokens of a timed batch, padding left out.
    pub tokens: f64,
    /// Mean seconds of a timed batch: made, forward and back.
    pub batch_seconds: f64,
    /// Mean seconds from a gradient to the new weights.
    pub step_seconds: f64,
}

impl Probe {
    /// Tokens a second, optimizer steps included.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        self.total_tokens / self.total_seconds().max(1e-9)
    }

    /// Seconds of all steps of the run; evaluations and checkpoints come on top.
    #[must_use]
    pub fn total_seconds(&self) -> f64 {
        // Batches take time by their tokens.
        let batches = self.batch_seconds * self.total_tokens / self.tokens.max(1.0);
        batches + self.step_seconds * self.total_steps as f64
    }
}

impl<O: Objective> Run<O> {
    /// Trains on a few batches, each a step, and forgets it.
    ///
    /// # Errors
    /// When a batch cannot be made or used, or gives a loss or gradient that is not finite.
    pub(in crate::trainer) fn probe(mut self) -> Result<Probe> {
        let epoch = match self.feed.batches() {
            Some(batches) => Some((batches.plan(0)?.num_batches(), batches.tokens())),
            None => None,
        };
        let (mut tokens, mut in_batches, mut in_steps) = (0, 0.0, 0.0);
        for done in 0..=TIMED {
            let started = Instant::now();
            let window = self.feed.next(1, self.total_steps)?;
            let seed = self.step_seed();
            let mut sum = self
                .objective
                .accumulate(&self.model, &window.batches, seed)?;
            let batch_seconds = started.elapsed().as_secs_f64();
            let started = Instant::now();
            let mut gradients = std::mem::take(&mut sum.gradients);
            let (grad_norm, gradient_factor) = self.finish_gradients(&mut gradients);
            if let Some(found) = NonFinite::of(sum.loss, grad_norm) {
                return Err(TrainerError::Setup(format!(
                    "batch {} of the probe: the {} is {}; a weight of the model is not finite, or \
                     its numbers overflow: lower learning_rate (now {:.3e})",
                    done + 1,
                    found.what,
                    found.value,
                    self.schedule.learning_rate(0)
                )));
            }
            let settings = StepSettings {
                learning_rate: self.schedule.learning_rate(0),
                beta1: self.schedule.beta1(0),
                gradient_factor,
            };
            self.model = optimizer::step(
                self.optimizer.as_mut(),
                self.model,
                &self.trained,
                gradients,
                settings,
            );
            self.at.step += 1;
            if done > 0 {
                tokens += sum.tokens;
                in_batches += batch_seconds;
                in_steps += started.elapsed().as_secs_f64();
            }
        }
        let mean = |sum: f64| sum / TIMED as f64;
        let tokens = mean(tokens as f64);
        let accumulation = self.config.gradient_accumulation_steps;
        let total_steps = self.total_steps;
        let (per_step, each) = match epoch {
            Some((batches, known)) => (
                // The last step of an epoch may have fewer.
                batches as f64 / batches.div_ceil(accumulation).max(1) as f64,
                known.map_or(tokens, |known| known as f64 / batches.max(1) as f64),
            ),
            None => (accumulation as f64, tokens),
        };
        let total_batches = per_step * total_steps as f64;
        Ok(Probe {
            timed: TIMED,
            total_steps,
            total_batches,
            total_tokens: total_batches * each,
            tokens,
            batch_seconds: mean(in_batches),
            step_seconds: mean(in_steps),
        })
    }
}
