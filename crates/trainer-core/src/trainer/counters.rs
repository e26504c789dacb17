//! What a run counts: since its beginning, and since its last log row.

use serde_json::json;

use super::objective::{Accumulated, Metrics};
use crate::checkpoint::{Exact, SavedRun, SavedSums};
use crate::history::LogRow;
use crate::memory;

/// Counts since the beginning.
#[derive(Debug)]
pub(super) struct Counters {
    /// Optimizer steps taken.
    pub(super) step: usize,
    pub(super) epoch: f64,
    /// Tokens seen, padding left out.
    pub(super) tokens: u64,
    /// Tokens that the loss was taken over.
    pub(super) trained_tokens: u64,
    pub(super) rows: u64,
    pub(super) loss_sum: f64,
    /// Wall time of earlier processes of the same run, in seconds.
    pub(super) seconds_before: f64,
    /// Step of the last evaluation.
    pub(super) evaluated_at: Option<usize>,
    /// Steps in a row whose loss was above the watchdog's threshold.
    pub(super) watchdog: usize,
    /// Steps that were left out, or times that the run went back.
    pub(super) refused: usize,
    /// Part of the learning rate that is left after going back.
    pub(super) rate_scale: f64,
    pub(super) since_log: SinceLog,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            step: 0,
            epoch: 0.0,
            tokens: 0,
            trained_tokens: 0,
            rows: 0,
            loss_sum: 0.0,
            seconds_before: 0.0,
            evaluated_at: None,
            watchdog: 0,
            refused: 0,
            rate_scale: 1.0,
            since_log: SinceLog::default(),
        }
    }
}

/// Sums since the last log row.
#[derive(Debug, Default)]
pub(super) struct SinceLog {
    steps: usize,
    loss: f64,
    tokens: usize,
    seconds: f64,
    metrics: Metrics,
}

impl Counters {
    /// Enters a step that was taken.
    pub(super) fn add(&mut self, sum: Accumulated, rows: usize, seconds: f64) {
        self.tokens += sum.tokens as u64;
        self.trained_tokens += sum.trained_tokens as u64;
        self.rows += rows as u64;
        self.loss_sum += sum.loss;
        let since = &mut self.since_log;
        since.steps += 1;
        since.loss += sum.loss;
        since.tokens += sum.tokens;
        since.seconds += seconds;
        since.metrics.merge(sum.metrics);
    }

    /// Mean loss since the last log row.
    pub(super) fn loss(&self) -> f64 {
        self.since_log.loss / self.since_log.steps.max(1) as f64
    }

    /// The row of everything since the last one; the next one starts anew.
    pub(super) fn row(&mut self, grad_norm: f64, learning_rate: f64) -> LogRow {
        let mut row = LogRow::new();
        row.insert("loss".into(), json!(self.loss()));
        row.insert("grad_norm".into(), json!(grad_norm));
        row.insert("learning_rate".into(), json!(learning_rate));
        let since = std::mem::take(&mut self.since_log);
        since.metrics.write(&mut row);
        let rate = since.tokens as f64 / since.seconds.max(1e-9);
        row.insert("tokens/train_per_sec_per_gpu".into(), json!(rate));
        row.insert("tokens/trainable".into(), json!(self.trained_tokens));
        row.insert("tokens/total".into(), json!(self.tokens));
        if let Some(memory) = memory::resident() {
            // Axolotl's names; there is one memory, that of the process.
            let gib = |bytes| json!(memory::gib(bytes));
            row.insert("memory/max_active (GiB)".into(), gib(memory.peak));
            row.insert("memory/device_reserved (GiB)".into(), gib(memory.now));
        }
        row.insert("epoch".into(), json!(self.epoch));
        row.insert("step".into(), json!(self.step));
        row
    }

    /// The summary of a run that took `seconds` in this process.
    pub(super) fn summary(&self, seconds: f64) -> LogRow {
        let seconds = self.seconds_before + seconds;
        let per_second = |n: f64| n / seconds.max(1e-9);
        let mut row = LogRow::new();
        row.insert("train_runtime".into(), json!(seconds));
        row.insert(
            "train_samples_per_second".into(),
            json!(per_second(self.rows as f64)),
        );
        row.insert(
            "train_steps_per_second".into(),
            json!(per_second(self.step as f64)),
        );
        let loss = self.loss_sum / self.step.max(1) as f64;
        row.insert("train_loss".into(), json!(loss));
        row.insert("epoch".into(), json!(self.epoch));
        row.insert("step".into(), json!(self.step));
        row
    }

    /// The counts of a checkpoint.
    pub(super) fn restore(saved: &SavedRun) -> Self {
        let sums = &saved.since_log;
        Self {
            step: saved.step,
            epoch: saved.epoch.0,
            tokens: saved.tokens,
            trained_tokens: saved.trained_tokens,
            rows: saved.rows,
            loss_sum: saved.loss_sum.0,
            seconds_before: saved.seconds.0,
            evaluated_at: saved.evaluated_at,
            watchdog: saved.watchdog,
            refused: saved.refused,
            rate_scale: saved.rate_scale.0,
            since_log: SinceLog {
                steps: sums.steps,
                loss: sums.loss.0,
                tokens: sums.tokens,
                seconds: sums.seconds.0,
                metrics: Metrics::restore(&sums.metrics),
            },
        }
    }

    /// The sums for a checkpoint.
    pub(super) fn sums(&self) -> SavedSums {
        let since = &self.since_log;
        SavedSums {
            steps: since.steps,
            loss: Exact(since.loss),
            tokens: since.tokens,
            seconds: Exact(since.seconds),
            metrics: since.metrics.save(),
        }
    }
}
