//! Qwen3, dense.
//!
//! Reference: `Qwen3ForCausalLM` of transformers; arXiv 2505.09388.
//! Differences from Llama: RMSNorm of each head of queries and keys before they
//! are rotated (`q_norm`, `k_norm`); heads of 128 where the file does not say;
//! the sliding window of Qwen2. Other tensor names are Llama's.

use super::qwen2::upper_layers_slide;
use super::{Defaults, Family};
use crate::config::QkNorm;

pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    class: "Qwen3",
    classifier: "Qwen3",
    defaults: DEFAULTS,
    configure: |read, config| {
        config.attention.qk_norm = QkNorm::Head;
        upper_layers_slide(read, config)
    },
};

pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: Some(128),
    max_positions: 32_768,
    ..Defaults::LLAMA
};
