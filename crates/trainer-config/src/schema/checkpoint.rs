//! Keys about checkpoints, the best model, and runs that go on or stop early.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SaveDtype, SaveStrategy};

/// What is written during the run and at its end, and from what it goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointConfig {
    /// When to write checkpoints; the trained model is always saved at the end.
    /// `steps` with `save_steps`, else `epoch`.
    pub save_strategy: Option<SaveStrategy>,
    /// Steps between checkpoints; below 1, a part of all steps.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub save_steps: Option<f64>,
    /// Checkpoints in one epoch.
    #[schemars(range(min = 1))]
    pub saves_per_epoch: Option<usize>,
    /// Complete checkpoints that are kept: the newest ones, and the best where
    /// there is a `metric_for_best_model`.
    #[schemars(range(min = 1))]
    pub save_total_limit: usize,
    /// Write the model alone: such a checkpoint cannot be resumed from.
    pub save_only_model: bool,
    /// Write a checkpoint after the first step too.
    pub save_first_step: bool,
    /// At the end of the run, go back to the checkpoint with the best evaluation.
    pub load_best_model_at_end: bool,
    /// Value of the evaluation that tells which model is best; `eval_loss` where
    /// one is needed.
    pub metric_for_best_model: Option<String>,
    /// Whether more of it is better; when absent, less is better where the name
    /// ends in `loss` or `ppl`.
    pub greater_is_better: Option<bool>,
    /// Stop after this many evaluations in a row that are no better than the best.
    #[schemars(range(min = 1))]
    pub early_stopping_patience: Option<usize>,
    /// Stop when the loss of a step stays above this for `loss_watchdog_patience`
    /// steps.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub loss_watchdog_threshold: Option<f64>,
    /// Steps in a row above `loss_watchdog_threshold` that stop the run.
    #[schemars(range(min = 1))]
    pub loss_watchdog_patience: usize,
    /// Checkpoint to go on from, or an output folder, of which the newest complete
    /// one is taken.
    pub resume_from_checkpoint: Option<PathBuf>,
    /// Go on from the newest complete checkpoint in `output_dir`, if there is one.
    pub auto_resume_from_checkpoints: bool,
    /// Number format of the saved weights.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub save_dtype: SaveDtype,
    /// Largest file of saved weights (`5GB`, `500MB`, `2GiB`, or a number of bytes);
    /// larger models are divided into several.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub max_shard_size: String,
}

impl CheckpointConfig {
    /// `max_shard_size` in bytes; 5 GB where it is none, which a loaded
    /// configuration never has.
    #[must_use]
    pub fn max_shard_bytes(&self) -> u64 {
        bytes(&self.max_shard_size).unwrap_or(5_000_000_000)
    }
}

/// A size of a file: units are those of Hugging Face, `KB` 1000 and `KiB` 1024.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("", 1),
    ];
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    let bytes = number.parse::<u64>().ok()?.checked_mul(*factor)?;
    (bytes > 0).then_some(bytes)
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            save_strategy: None,
            save_steps: None,
            saves_per_epoch: None,
            save_total_limit: 4,
            save_only_model: false,
            save_first_step: false,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: None,
            loss_watchdog_threshold: None,
            loss_watchdog_patience: 3,
            resume_from_checkpoint: None,
            auto_resume_from_checkpoints: false,
            save_dtype: SaveDtype::Float32,
            max_shard_size: "5GB".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, expected) in [
            ("5GB", Some(5_000_000_000)),
            ("500 mb", Some(500_000_000)),
            ("2GiB", Some(2 << 30)),
            ("123", Some(123)),
            ("0", None),
            ("0GB", None),
            ("GB", None),
            ("1.5GB", None),
            ("-1GB", None),
            ("99999999999TB", None),
            ("5 bananas", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
