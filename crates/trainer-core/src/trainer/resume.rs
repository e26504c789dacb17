//! What a run goes on from: a checkpoint of another process, or one of its own where it
//! rolls back.

use std::path::PathBuf;

use serde_json::Value;
use trainer_config::Config;

use crate::checkpoint::{self, FeedPosition, SavedRun, config_differences, config_texts};
use crate::error::{Result, TrainerError};

/// A checkpoint that fits the configuration, or none.
pub(super) struct Resume {
    pub(super) checkpoint: Option<(PathBuf, SavedRun)>,
    /// Checkpoints that cannot be used, and why.
    pub(super) skipped: Vec<String>,
}

impl Resume {
    /// Finds the checkpoint that the configuration asks for.
    ///
    /// # Errors
    /// When it is damaged, or of another configuration.
    pub(super) fn find(config: &Config) -> Result<Self> {
        let keys = &config.checkpoint;
        let found = checkpoint::find(
            &config.output_dir,
            keys.resume_from_checkpoint.as_deref(),
            keys.auto_resume_from_checkpoints,
        )?;
        let Some(path) = found.path else {
            return Ok(Self {
                checkpoint: None,
                skipped: found.skipped,
            });
        };
        let saved = SavedRun::read(&path)?;
        if let Some(message) = differs(&saved, config) {
            return Err(TrainerError::Checkpoint { path, message });
        }
        Ok(Self {
            checkpoint: Some((path, saved)),
            skipped: found.skipped,
        })
    }

    /// Finds the newest checkpoint that `run` itself wrote after fewer than `before` steps,
    /// whole and with its configuration.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn within(config: &Config, run: &str, before: usize) -> Result<Self> {
        let (checkpoint, skipped) = checkpoint::newest(
            &config.output_dir,
            |origin| origin.run == run && origin.step < before,
            |path| {
                let saved = SavedRun::read(path).map_err(|error| error.to_string())?;
                match differs(&saved, config) {
                    None => Ok(saved),
                    Some(reason) => Err(reason),
                }
            },
        )?;
        Ok(Self {
            checkpoint,
            skipped,
        })
    }

    /// Where a stream of data goes on.
    pub(super) fn cursor(&self) -> Option<Value> {
        match &self.checkpoint.as_ref()?.1.feed {
            FeedPosition::Stream { cursor, .. } => Some(cursor.clone()),
            FeedPosition::Samples { .. } => None,
        }
    }
}

/// In what the configuration of a checkpoint differs, if a run with another must not go on
/// from it.
fn differs(saved: &SavedRun, config: &Config) -> Option<String> {
    let differences = config_differences(&saved.config, &config_texts(config));
    (!differences.is_empty()).then(|| {
        format!(
            "the run was begun with another configuration:\n{}\nput these back, or begin anew from \
             the model of the checkpoint (base_model)",
            differences.join("\n")
        )
    })
}
