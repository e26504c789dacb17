//! Phi-3 and Phi-3.5 mini and medium, Phi-4 and Phi-4 mini.
//!
//! Reference: `Phi3ForCausalLM` of transformers; arXiv 2404.14219.
//! Differences from Llama: queries, keys and values are one projection, gate and
//! up another; part of each head may be rotated; LongRoPE; a window for every
//! layer where `sliding_window` is set; no biases.
//! Tensor names: `self_attn.qkv_proj` and `mlp.gate_up_proj`, kept fused.

use super::{Defaults, Family};
use crate::config::MlpLayout;

pub(super) const FAMILY: Family = Family {
    name: "phi3",
    class: "Phi3",
    classifier: "Phi3",
    defaults: Defaults {
        rms_norm_eps: 1e-5,
        max_positions: 4096,
        ..Defaults::LLAMA
    },
    configure: |read, config| {
        config.attention.fused = true;
        config.mlp.layout = MlpLayout::Fused;
        if let Some(window) = read.optional_size("sliding_window")? {
            config.slide(window, std::iter::repeat(true));
        }
        Ok(())
    },
};
