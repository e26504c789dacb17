//! Keys about the share that each batch has of what is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PoseVariant;

/// How rows are dealt to batches, and how positions are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SamplingConfig {
    /// Deal rows to the forward passes so that each trains about as many tokens.
    pub balance_labels: bool,
    /// Optimizer steps whose rows `balance_labels` deals out together.
    #[schemars(range(min = 1))]
    pub label_balance_window_optim_steps: usize,
    /// How `use_pose` draws chunks and the gaps between them.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub pose_variant: PoseVariant,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            balance_labels: false,
            label_balance_window_optim_steps: 1,
            pose_variant: PoseVariant::Axolotl,
        }
    }
}
