//! OLMo 2.
//!
//! Reference: `Olmo2ForCausalLM` of transformers; arXiv 2501.00656.
//! Differences from Llama: norms stand behind the blocks, before the sum, and
//! none before them; RMSNorm of queries and of keys over all heads together.
//! Tensor names: `post_attention_layernorm`, `post_feedforward_layernorm`,
//! `q_norm`, `k_norm`; there is no `input_layernorm`.

use super::{Defaults, Family};
use crate::config::{NormPlacement, QkNorm};

pub(super) const FAMILY: Family = Family {
    name: "olmo2",
    class: "Olmo2",
    classifier: "Olmo2",
    defaults: Defaults {
        rms_norm_eps: 1e-5,
        ..Defaults::LLAMA
    },
    configure: |_, config| {
        config.norm.placement = NormPlacement::After;
        config.attention.qk_norm = QkNorm::Projection;
        Ok(())
    },
};
