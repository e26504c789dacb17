//! Keys about steps that go wrong.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NonFinitePolicy;

/// What happens to a step whose loss or gradient is not a finite number. It is
/// never taken, and its rows are written to `output_dir`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GuardConfig {
    /// Whether the run ends, leaves the step out, or goes back to its last
    /// checkpoint with half the learning rate.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub on_nonfinite: NonFinitePolicy,
    /// Steps of a run that may be left out, or times that it may go back.
    #[schemars(range(min = 1))]
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub on_nonfinite_limit: usize,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            on_nonfinite: NonFinitePolicy::Stop,
            on_nonfinite_limit: 10,
        }
    }
}
