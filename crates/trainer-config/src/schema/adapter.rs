//! Keys about what is trained in place of all weights.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, names};

names! {
    /// What is trained beside frozen weights.
    AdapterKind {
        /// Low-rank factors (LoRA, arXiv 2106.09685).
        Lora = "lora",
    }
}

/// Adapters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdapterConfig {
    /// Train an adapter beside frozen weights; all weights are trained when absent.
    pub adapter: Option<AdapterKind>,
    /// Rank of the factors.
    #[schemars(range(min = 1, max = 65_536))]
    pub lora_r: Option<usize>,
    /// The factors' product is scaled by `lora_alpha / lora_r`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub lora_alpha: Option<f64>,
    /// Probability that an input of the factors is dropped in training.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub lora_dropout: Option<f64>,
    /// Give every linear map factors but the output head.
    pub lora_target_linear: bool,
    /// Linear maps that get factors: a list of names or ends of names, or one
    /// regular expression for whole names.
    pub lora_target_modules: Option<OneOrMany>,
    /// Modules that are trained as a whole and saved with the adapter, such as
    /// `embed_tokens` and `lm_head`.
    #[schemars(length(min = 1))]
    pub lora_modules_to_save: Option<Vec<String>>,
    /// Ranks of single maps, by regular expressions for the end of their names.
    pub lora_rank_pattern: Option<BTreeMap<String, usize>>,
    /// As `lora_rank_pattern`, for `lora_alpha`.
    pub lora_alpha_pattern: Option<BTreeMap<String, f64>>,
    /// Folder of an adapter, as PEFT or this program saves it, to go on from.
    pub lora_model_dir: Option<PathBuf>,
    /// Numbers of the layers that get factors; all when absent.
    #[schemars(length(min = 1))]
    pub peft_layers_to_transform: Option<Vec<usize>>,
    /// Names of the lists of layers that the numbers count in.
    #[schemars(length(min = 1))]
    pub peft_layers_pattern: Option<Vec<String>>,
    /// Scale by `lora_alpha / √lora_r`.
    pub peft_use_rslora: bool,
    /// Train a magnitude for each output of an adapted map beside its direction (DoRA,
    /// arXiv 2402.09353).
    pub peft_use_dora: bool,
    /// First values of the factors: `true`, or `gaussian`.
    pub peft_init_lora_weights: Option<InitLoraWeights>,
}

/// First values of an adapter's factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum InitLoraWeights {
    /// `true`: the first factor uniform, the second zero.
    Default(bool),
    /// By name.
    Named(LoraInitName),
}

names! {
    /// First values of an adapter's factors, by name.
    LoraInitName {
        /// The first factor from a normal distribution, the second zero.
        Gaussian = "gaussian",
    }
}
