//! Gemma 3, the text models (270M, 1B) and the text part of the others.
//!
//! Reference: `Gemma3ForCausalLM` of transformers; arXiv 2503.19786.
//! Differences from Llama: layers whose attention slides (`layer_types`, or five
//! of six) with a rotary base of their own, between layers that see everything;
//! RMSNorm before and after each block, stored as the difference from one, and of
//! each head of queries and keys; scores divided by the root of
//! `query_pre_attn_scalar`; embeddings multiplied by the root of `hidden_size`;
//! GELU for the gate; the head is the embedding; soft caps where the file has
//! them.
//! Tensor names: `pre_feedforward_layernorm`, `post_feedforward_layernorm`,
//! `q_norm`, `k_norm` beside Llama's; `post_attention_layernorm` stands behind the
//! attention here, before the sum.

use super::{Defaults, Family};
use crate::config::{
    Activation, LayerConfig, ModelConfig, NormPlacement, QkNorm, Reader, RopeConfig,
};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "gemma3_text",
    class: "Gemma3",
    classifier: "Gemma3Text",
    defaults: Defaults {
        head_dim: Some(256),
        rope_theta: 1e6,
        tied: true,
        max_positions: 131_072,
        ..Defaults::LLAMA
    },
    configure,
};

/// Indices into the rotary embeddings.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

fn configure(read: &Reader<'_>, config: &mut ModelConfig) -> Result<()> {
    if read.flag("use_bidirectional_attention")?.unwrap_or(false) {
        let message = "true is not supported: the decoder is causal".to_owned();
        return Err(read.error("use_bidirectional_attention", message));
    }
    config.norm.placement = NormPlacement::Both;
    config.norm.zero_centred = true;
    config.attention.qk_norm = QkNorm::Head;
    let scalar = read.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    config.attention.scale = scalar.sqrt().recip();
    config.attention.softcap = read.positive("attn_logit_softcapping")?;
    config.final_softcap = read.positive("final_logit_softcapping")?;
    config.mlp.activation = read.activation("hidden_activation", Activation::GeluTanh)?;
    config.multipliers.embedding = (config.hidden_size as f64).sqrt();
    config.ropes = ropes(read, config.head_dim)?;

    let layers = config.layers.len();
    let window = match read.optional_size("sliding_window")? {
        None if !read.names("sliding_window") => Some(4096),
        given => given,
    };
    let pattern = match read.optional_size("sliding_window_pattern")? {
        Some(pattern) => pattern,
        None => read.optional_size("_sliding_window_pattern")?.unwrap_or(6),
    };
    let kinds = read
        .sliding_layers(layers)?
        .unwrap_or_else(|| (1..=layers).map(|n| n % pattern != 0).collect());
    config.layers = kinds
        .into_iter()
        .map(|slides| LayerConfig {
            rope: Some(if slides { LOCAL } else { GLOBAL }),
            window: window.filter(|_| slides),
            experts: false,
        })
        .collect();
    Ok(())
}

/// The rotary embeddings of global and of sliding layers: `rope_parameters` by
/// kind of layer (transformers 5), or `rope_theta` with `rope_scaling` for the
/// global ones and `rope_local_base_freq` (before).
fn ropes(read: &Reader<'_>, head_dim: usize) -> Result<Vec<RopeConfig>> {
    let by_kind = read.object("rope_parameters")?;
    let of_kind = |kind: &str, theta_key: &str, theta: f64, old: Option<&Reader<'_>>| {
        let inner = match &by_kind {
            Some(by_kind) => by_kind.object(kind)?,
            None => None,
        };
        RopeConfig::read_object(read, inner.as_ref().or(old), head_dim, theta_key, theta)
    };
    let old = read.object("rope_scaling")?;
    Ok(vec![
        of_kind("full_attention", "rope_theta", 1e6, old.as_ref())?,
        of_kind("sliding_attention", "rope_local_base_freq", 1e4, None)?,
    ])
}
