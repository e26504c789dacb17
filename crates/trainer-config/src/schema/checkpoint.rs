//! Keys about checkpoints and the files of the trained model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SaveDtype, SaveStrategy};

/// What is written during the run and at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointConfig {
    /// When to write checkpoints during the run; the trained model is always
    /// saved at the end.
    pub save_strategy: SaveStrategy,
    /// Number format of the saved weights.
    pub save_dtype: SaveDtype,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            save_strategy: SaveStrategy::No,
            save_dtype: SaveDtype::Float32,
        }
    }
}
