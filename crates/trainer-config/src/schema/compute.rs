//! Keys about how the model is computed: number formats, and memory against time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Auto, AutoBool};

/// How the model is computed. Nothing here changes what is learnt but for rounding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ComputeConfig {
    /// Compute in bfloat16; weights, gradients and optimizer state stay float32.
    /// `auto` does so on a GPU that has it, never on a CPU.
    pub bf16: AutoBool,
    /// Compute in float16. No backend does: `false`.
    pub fp16: bool,
    /// TensorFloat-32 in matrix products, on NVIDIA GPUs only.
    pub tf32: AutoBool,
    /// Keep of each layer only what goes into it, and compute the rest again in the
    /// backward pass: a third more time, memory for one layer in place of all.
    pub gradient_checkpointing: bool,
}

impl Default for ComputeConfig {
    fn default() -> Self {
        Self {
            bf16: AutoBool::Auto(Auto::Auto),
            fp16: false,
            tf32: AutoBool::Auto(Auto::Auto),
            gradient_checkpointing: false,
        }
    }
}
