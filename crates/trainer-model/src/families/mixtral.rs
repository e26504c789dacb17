//! Mixtral 8x7B and 8x22B.
//!
//! Reference: `MixtralForCausalLM` of transformers; arXiv 2401.04088.
//! Differences from Llama: a mixture of experts in place of every MLP, two
//! experts a token with weights that sum to one; the load-balancing loss of
//! arXiv 2101.03961 where `output_router_logits` is set; a window for every
//! layer where `sliding_window` is set; other defaults.
//! Tensor names: `block_sparse_moe.gate` and `block_sparse_moe.experts.N.` with
//! `w1` (gate), `w3` (up) and `w2` (down) in place of `mlp`.

use super::{Defaults, Family};
use crate::config::{ExpertsConfig, MlpLayout, ModelConfig, Reader};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "mixtral",
    class: "Mixtral",
    classifier: "Mixtral",
    defaults: Defaults {
        rope_theta: 1e6,
        rms_norm_eps: 1e-5,
        max_positions: 4096 * 32,
        ..Defaults::LLAMA
    },
    configure,
};

fn configure(read: &Reader<'_>, config: &mut ModelConfig) -> Result<()> {
    if let Some(noise) = read.number("router_jitter_noise")?
        && noise != 0.0
    {
        let message = format!("{noise}: noise in the router is not supported; set it to 0");
        return Err(read.error("router_jitter_noise", message));
    }
    config.mlp.layout = MlpLayout::Numbered;
    config.experts = Some(ExpertsConfig {
        count: read.optional_size("num_local_experts")?.unwrap_or(8),
        per_token: read.optional_size("num_experts_per_tok")?.unwrap_or(2),
        intermediate_size: config.intermediate_size,
        normalized: true,
        sparse_name: true,
        balance: balance(read)?,
    });
    for layer in &mut config.layers {
        layer.experts = true;
    }
    if let Some(window) = read.optional_size("sliding_window")? {
        config.slide(window, std::iter::repeat(true));
    }
    Ok(())
}

/// Coefficient of the load-balancing loss, where the file asks for one.
pub(super) fn balance(read: &Reader<'_>) -> Result<Option<f64>> {
    let coefficient = read.number("router_aux_loss_coef")?.unwrap_or(0.001);
    if !(coefficient >= 0.0 && coefficient.is_finite()) {
        let message = format!("{coefficient} is not a number from 0 up");
        return Err(read.error("router_aux_loss_coef", message));
    }
    let wanted = read.flag("output_router_logits")?.unwrap_or(false);
    Ok((wanted && coefficient > 0.0).then_some(coefficient))
}
