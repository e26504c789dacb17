//! Keys about which parameters are trained, and about noise on their way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What of a model is trained without an adapter, and noise on its embeddings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ParametersConfig {
    /// Train these parameters and freeze all others: regular expressions for the
    /// beginning of a name, in which a dot that no `+`, `*` or `?` follows is a dot. A
    /// range of rows may come last, as in `^model.embed_tokens.weight$[:32000]`: the
    /// other rows stay as they are.
    #[schemars(length(min = 1))]
    pub unfrozen_parameters: Option<Vec<String>>,
    /// Strength of the noise on embeddings in training (NEFTune, arXiv 2310.05914);
    /// none when absent. Published runs have 5 to 15.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub neftune_noise_alpha: Option<f64>,
}
