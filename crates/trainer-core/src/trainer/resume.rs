//! What a run goes on from.

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
        let resume = Self::read(path, found.skipped)?;
        let Some((path, saved)) = &resume.checkpoint else {
            return Ok(resume);
        };
        let differences = config_differences(&saved.config, &config_texts(config));
        if !differences.is_empty() {
            return Err(TrainerError::Checkpoint {
                path: path.clone(),
                message: format!(
                    "the run was begun with another configuration:\n{}\nput these back, or begin \
                     anew from the model of the checkpoint (base_model)",
                    differences.join("\n")
                ),
            });
        }
        Ok(resume)
    }

    /// Takes a checkpoint of this very run.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read(path: PathBuf, skipped: Vec<String>) -> Result<Self> {
        let saved = SavedRun::read(&path)?;
        Ok(Self {
            checkpoint: Some((path, saved)),
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
