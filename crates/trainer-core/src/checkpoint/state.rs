//! Everything of a run that is neither weights nor optimizer state.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainer_config::Config;

use super::exact::{self, Exact};
use crate::error::{Result, TrainerError};
use crate::history::LogRow;

/// Name of the file.
pub(super) const STATE: &str = "training_state.json";

/// A run between two steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedRun {
    /// Name of the run, which it keeps when it goes on.
    pub(crate) run: String,
    /// Optimizer steps taken.
    pub(crate) step: usize,
    /// Steps of the whole run.
    pub(crate) total_steps: usize,
    /// Epochs done.
    pub(crate) epoch: Exact,
    /// Tokens seen.
    pub(crate) tokens: u64,
    /// Tokens that the loss was taken over.
    pub(crate) trained_tokens: u64,
    /// Rows of all batches so far.
    pub(crate) rows: u64,
    /// Sum of the steps' losses.
    pub(crate) loss_sum: Exact,
    /// Wall time so far, in seconds.
    pub(crate) seconds: Exact,
    /// Step of the last evaluation.
    pub(crate) evaluated_at: Option<usize>,
    /// Sums since the last log row.
    pub(crate) since_log: SavedSums,
    /// Where the data is.
    pub(crate) feed: FeedPosition,
    /// What a schedule that follows the evaluation loss remembers.
    pub(crate) schedule: Vec<Exact>,
    /// The best evaluation and what followed it.
    pub(crate) best: BestState,
    /// Steps in a row whose loss was above the watchdog's threshold.
    pub(crate) watchdog: usize,
    /// Steps that were left out, or times that the run went back.
    pub(crate) refused: usize,
    /// Part of the learning rate that is left after going back.
    pub(crate) rate_scale: Exact,
    /// Log rows so far.
    #[serde(with = "exact::rows")]
    pub(crate) log: Vec<Arc<LogRow>>,
    /// The configuration: each key with its value as JSON text.
    pub(crate) config: BTreeMap<String, String>,
}

/// Sums since the last log row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedSums {
    pub(crate) steps: usize,
    pub(crate) loss: Exact,
    pub(crate) tokens: usize,
    pub(crate) seconds: Exact,
    /// Sum and weight of every other value.
    pub(crate) metrics: BTreeMap<String, (Exact, Exact)>,
}

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FeedPosition {
    /// Batches done of an epoch whose plan follows from the seed.
    Samples {
        epoch: u64,
        batches_done: usize,
        /// Digest of the samples: other data has another one.
        data: String,
    },
    /// What the stream calls its place.
    Stream { steps: usize, cursor: Value },
}

/// The best evaluation so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BestState {
    pub(crate) value: Option<Exact>,
    pub(crate) step: usize,
    /// Evaluations since, none of them better.
    pub(crate) worse: usize,
}

impl SavedRun {
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        super::write_json(&folder.join(STATE), self)
    }

    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = fs::read_to_string(&path).map_err(TrainerError::io(&path))?;
        serde_json::from_str(&text).map_err(|error| TrainerError::Checkpoint {
            path: path.clone(),
            message: error.to_string(),
        })
    }
}

/// Keys that may change between a checkpoint and the run that goes on from it:
/// they change neither a weight nor a row of the log, only what is written when, and
/// the memory it takes.
const HARMLESS: &[&str] = &[
    "output_dir",
    "logging_steps",
    "use_tensorboard",
    "use_wandb",
    "wandb_project",
    "wandb_entity",
    "wandb_name",
    "wandb_run_id",
    "wandb_mode",
    "use_mlflow",
    "mlflow_tracking_uri",
    "mlflow_experiment_name",
    "mlflow_run_name",
    "use_trackio",
    "trackio_project_name",
    "trackio_run_name",
    "trackio_space_id",
    "dataset_prepared_path",
    "dataset_num_proc",
    "resume_from_checkpoint",
    "auto_resume_from_checkpoints",
    "save_strategy",
    "save_steps",
    "saves_per_epoch",
    "save_total_limit",
    "save_only_model",
    "save_first_step",
    "save_dtype",
    "gradient_checkpointing",
    "max_shard_size",
    "generate_samples",
    "num_generation_samples",
    "generation_prompt_ratio",
    "generation_max_new_tokens",
    "generation_do_sample",
    "generation_temperature",
    "generation_top_k",
    "generation_top_p",
    "generation_min_p",
    "generation_repetition_penalty",
    "generation_stop_strings",
    "loss_watchdog_threshold",
    "loss_watchdog_patience",
    "early_stopping_patience",
    "on_nonfinite",
    "on_nonfinite_limit",
];

/// The keys of a configuration, each with its value as JSON text.
pub(crate) fn config_texts(config: &Config) -> BTreeMap<String, String> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map
            .into_iter()
            .map(|(key, value)| (key, value.to_string()))
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// The keys that differ and must not, one line each.
pub(crate) fn config_differences(
    saved: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut keys: Vec<&String> = saved.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let text = |map: &BTreeMap<String, String>, key: &String| {
        map.get(key).cloned().unwrap_or_else(|| "null".into())
    };
    keys.into_iter()
        .filter(|key| !HARMLESS.contains(&key.as_str()))
        .filter_map(|key| {
            let (before, after) = (text(saved, key), text(now, key));
            (before != after).then(|| format!("  {key}: {before} in the checkpoint, {after} now"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that is renamed or removed must not stay behind in the list.
    #[test]
    fn harmless_keys_exist() {
        let keys = config_texts(&Config::default());
        let absent: Vec<_> = HARMLESS
            .iter()
            .filter(|key| !keys.contains_key(**key))
            .collect();
        assert!(absent.is_empty(), "{absent:?}");
    }

    #[test]
    fn changes_are_told_apart_by_what_they_do() {
        let before = Config::default();
        let after = Config {
            logging_steps: Some(7),
            output_dir: "elsewhere".into(),
            learning_rate: 0.5,
            seed: 7,
            ..Config::default()
        };
        let differences = config_differences(&config_texts(&before), &config_texts(&after));
        assert_eq!(
            differences,
            [
                "  learning_rate: 0.0 in the checkpoint, 0.5 now",
                "  seed: 42 in the checkpoint, 7 now"
            ]
        );
    }
}
