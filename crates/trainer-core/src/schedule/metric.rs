//! Schedules that follow the evaluation loss rather than the step.

use crate::error::Result;
use crate::kwargs::Kwargs;

/// Changes of the rate smaller than this are not made.
const SMALLEST_CHANGE: f64 = 1e-8;

/// torch's `ReduceLROnPlateau`: multiplies the rate by `factor` when the loss has
/// not fallen by `threshold` of itself for more than `patience` evaluations.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plateau {
    rate: f64,
    factor: f64,
    patience: usize,
    threshold: f64,
    cooldown: usize,
    min: f64,
    best: f64,
    bad: usize,
    cooling: usize,
}

impl Plateau {
    pub(super) fn new(rate: f64, kwargs: &mut Kwargs<'_>) -> Result<Self> {
        Ok(Self {
            rate,
            factor: kwargs.shrinking("factor", 0.1)?,
            patience: kwargs.count("patience", 10)?,
            threshold: kwargs.number("threshold", 1e-4)?,
            cooldown: kwargs.count("cooldown", 0)?,
            min: kwargs.number("min_lr", 0.0)?,
            best: f64::INFINITY,
            bad: 0,
            cooling: 0,
        })
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// What changes during a run.
    pub(super) fn state(&self) -> Vec<f64> {
        vec![self.rate, self.best, self.bad as f64, self.cooling as f64]
    }

    /// Takes over what [`state`](Self::state) gave; false if it is not that.
    pub(super) fn restore(&mut self, state: &[f64]) -> bool {
        let [rate, best, bad, cooling] = *state else {
            return false;
        };
        (self.rate, self.best) = (rate, best);
        (self.bad, self.cooling) = (bad as usize, cooling as usize);
        true
    }

    pub(super) fn evaluated(&mut self, loss: f64) {
        if loss < self.best * (1.0 - self.threshold) {
            self.best = loss;
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad > self.patience {
            let lower = (self.rate * self.factor).max(self.min);
            if self.rate - lower > SMALLEST_CHANGE {
                self.rate = lower;
            }
            self.cooling = self.cooldown;
            self.bad = 0;
        }
    }
}

/// GreedyLR (arXiv 2512.14527) with transformers' parameters: divides the rate by
/// `factor` after more than `patience` improvements in a row, multiplies it after
/// as many evaluations without one, and starts over after a long stay at the
/// bottom.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Greedy {
    start: f64,
    rate: f64,
    factor: f64,
    patience: usize,
    threshold: f64,
    cooldown: usize,
    warmup: usize,
    min: f64,
    max: f64,
    reset_start: usize,
    best: f64,
    bad: usize,
    good: usize,
    /// Evaluations still to be left out after a change.
    waiting: usize,
    /// Falls at the bottom still to come before it starts over.
    left_at_bottom: usize,
}

impl Greedy {
    pub(super) fn new(rate: f64, kwargs: &mut Kwargs<'_>) -> Result<Self> {
        let reset_start = kwargs.count("reset_start", 500)?;
        Ok(Self {
            start: rate,
            rate,
            factor: kwargs.shrinking("factor", 0.95)?,
            patience: kwargs.count("patience", 10)?,
            threshold: kwargs.number("threshold", 1e-6)?,
            cooldown: kwargs.count("cooldown", 0)?,
            warmup: kwargs.count("warmup", 0)?,
            min: kwargs.number("min_lr", 1e-3)?,
            max: kwargs.number("max_lr", 1.0)?,
            reset_start,
            best: f64::INFINITY,
            bad: 0,
            good: 0,
            waiting: 0,
            left_at_bottom: reset_start,
        })
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// What changes during a run.
    pub(super) fn state(&self) -> Vec<f64> {
        vec![
            self.rate,
            self.best,
            self.bad as f64,
            self.good as f64,
            self.waiting as f64,
            self.left_at_bottom as f64,
        ]
    }

    /// Takes over what [`state`](Self::state) gave; false if it is not that.
    pub(super) fn restore(&mut self, state: &[f64]) -> bool {
        let [rate, best, bad, good, waiting, left] = *state else {
            return false;
        };
        (self.rate, self.best) = (rate, best);
        (self.bad, self.good) = (bad as usize, good as usize);
        (self.waiting, self.left_at_bottom) = (waiting as usize, left as usize);
        true
    }

    pub(super) fn evaluated(&mut self, loss: f64) {
        if self.waiting > 0 {
            self.waiting -= 1;
            (self.good, self.bad) = (0, 0);
            return;
        }
        if loss < self.best - self.threshold {
            self.best = loss;
            (self.good, self.bad) = (self.good + 1, 0);
        } else {
            (self.good, self.bad) = (0, self.bad + 1);
        }
        if self.good > self.patience {
            let higher = (self.rate / self.factor).min(self.max);
            if higher - self.rate > SMALLEST_CHANGE {
                self.rate = higher;
            }
            self.left_at_bottom = self.reset_start;
            self.waiting = self.warmup;
            self.good = 0;
        } else if self.bad > self.patience {
            let lower = (self.rate * self.factor).max(self.min);
            if self.rate - lower > SMALLEST_CHANGE {
                self.rate = lower;
            }
            if self.rate <= self.min {
                self.left_at_bottom = self.left_at_bottom.saturating_sub(1);
                if self.left_at_bottom == 0 {
                    self.start_over();
                }
            }
            self.waiting = self.cooldown;
            self.bad = 0;
        }
    }

    fn start_over(&mut self) {
        self.rate = self.start;
        self.best = f64::INFINITY;
        self.good = 0;
        self.left_at_bottom = self.reset_start;
    }
}
