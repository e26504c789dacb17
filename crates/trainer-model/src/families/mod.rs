//! The families of models, one file and one line of [`FAMILIES`] each.
//!
//! A family is what its `config.json` changes in the parts that Llama's would
//! choose; there is no code of a family beside that. A file says what its
//! reference is, how the family differs from Llama, and which of its tensors
//! have other names. Tensor names are field names of the modules, so that a
//! family whose names differ has a [layout](crate::config::MlpLayout) of its own.

mod gemma3;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;

use crate::config::{ModelConfig, Reader};
use crate::error::Result;

/// A family of models.
pub(crate) struct Family {
    /// `model_type` in `config.json`.
    pub(crate) name: &'static str,
    /// Its class in transformers is named this with `ForCausalLM` behind.
    pub(crate) class: &'static str,
    /// The same of its classes with a classification head.
    pub(crate) classifier: &'static str,
    /// What a file means by not naming a key.
    pub(crate) defaults: Defaults,
    /// Changes the configuration, which holds what the file means for Llama.
    pub(crate) configure: fn(&Reader<'_>, &mut ModelConfig) -> Result<()>,
}

/// Values of keys that a file may leave out.
pub(crate) struct Defaults {
    /// `head_dim`; without one, `hidden_size` over `num_attention_heads`.
    pub(crate) head_dim: Option<usize>,
    /// `rope_theta`.
    pub(crate) rope_theta: f64,
    /// `rms_norm_eps`.
    pub(crate) rms_norm_eps: f64,
    /// `tie_word_embeddings`.
    pub(crate) tied: bool,
    /// `max_position_embeddings`.
    pub(crate) max_positions: usize,
}

impl Defaults {
    const LLAMA: Self = Self {
        head_dim: None,
        rope_theta: 1e4,
        rms_norm_eps: 1e-6,
        tied: false,
        max_positions: 2048,
    };
}

const FAMILIES: &[Family] = &[
    llama::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_moe::FAMILY,
    gemma3::FAMILY,
    phi3::FAMILY,
    smollm3::FAMILY,
    olmo2::FAMILY,
    granite::FAMILY,
];

/// The family of a `model_type`.
pub(crate) fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == model_type)
}

/// Every `model_type` that can be loaded.
#[must_use]
pub fn supported() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.name).collect()
}
