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
        /// Low-rank factors beside weights in 4 bits (QLoRA, arXiv 2305.14314).
        Qlora = "qlora",
    }
}

/// Adapters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdapterConfig {
    /// Train an adapter beside frozen weights; all weights are trained when absent.
    pub adapter: Option<AdapterKind>,
    /// Keep the frozen weights of linear maps in 4 bits: NF4 in blocks of 64, with
    /// scales in 8 bits. `adapter: qlora` needs it.
    pub load_in_4bit: bool,
    /// Keep the frozen weights of linear maps in 8 bits, with a scale for each output.
    pub load_in_8bit: bool,
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
    /// First values of the factors: `true`; `gaussian`; `pissa` or `pissa_niter_N` (singular
    /// vectors of the weight, exactly or after N iterations); `olora` (its orthonormal
    /// columns).
    pub peft_init_lora_weights: Option<InitLoraWeights>,
}

/// First values of an adapter's factors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum InitLoraWeights {
    /// `true`: the first factor uniform, the second zero.
    Default(bool),
    /// One of [`LORA_INITS`], in which N is a number from 1 to 1000.
    Named(String),
}

/// Names of first values of an adapter's factors.
pub const LORA_INITS: &[&str] = &["gaussian", "pissa", "pissa_niter_N", "olora"];

/// Whether `peft_init_lora_weights` may have this name.
#[must_use]
pub fn is_lora_init(name: &str) -> bool {
    match name.strip_prefix("pissa_niter_") {
        Some(n) => n.parse().is_ok_and(|n: u32| (1..=1000).contains(&n)),
        None => LORA_INITS.contains(&name),
    }
}
