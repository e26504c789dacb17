//! Qwen3 with a mixture of experts (30B-A3B, 235B-A22B).
//!
//! Reference: `Qwen3MoeForCausalLM` of transformers; arXiv 2505.09388.
//! Differences from Llama: the attention of Qwen3; experts of
//! `moe_intermediate_size` in every `decoder_sparse_step`-th layer that is not
//! one of `mlp_only_layers`; their weights sum to one with `norm_topk_prob`; the
//! load-balancing loss where `output_router_logits` is set; a window for every
//! layer with `use_sliding_window`.
//! Tensor names: `mlp.gate` and `mlp.experts.N.` with Llama's names behind.

use super::Family;
use super::mixtral::balance;
use super::qwen3;
use crate::config::{ExpertsConfig, ModelConfig, QkNorm, Reader};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "qwen3_moe",
    class: "Qwen3Moe",
    classifier: "Qwen3Moe",
    defaults: qwen3::DEFAULTS,
    configure,
};

fn configure(read: &Reader<'_>, config: &mut ModelConfig) -> Result<()> {
    config.attention.qk_norm = QkNorm::Head;
    // transformers writes the one name and reads both.
    let count = match read.optional_size("num_experts")? {
        Some(count) => count,
        None => read.optional_size("num_local_experts")?.unwrap_or(128),
    };
    config.experts = Some(ExpertsConfig {
        count,
        per_token: read.optional_size("num_experts_per_tok")?.unwrap_or(8),
        intermediate_size: read.optional_size("moe_intermediate_size")?.unwrap_or(768),
        normalized: read.flag("norm_topk_prob")?.unwrap_or(false),
        sparse_name: false,
        balance: balance(read)?,
    });
    let step = read.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = read
        .list(
            "mlp_only_layers",
            "layer numbers",
            serde_json::Value::as_u64,
        )?
        .unwrap_or_default();
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.experts = (index + 1).is_multiple_of(step) && !dense.contains(&(index as u64));
    }
    if read.flag("use_sliding_window")?.unwrap_or(false)
        && let Some(window) = read.optional_size("sliding_window")?
    {
        config.slide(window, std::iter::repeat(true));
    }
    Ok(())
}
