//! SmolLM3.
//!
//! Reference: `SmolLM3ForCausalLM` of transformers; arXiv 2501.18795 (layers
//! without positions). Differences from Llama: layers without rotary embedding
//! (`no_rope_layers`, zero for such a one, or every
//! `no_rope_layer_interval`-th), which slide with `use_sliding_window`; the head
//! is the embedding unless the file says otherwise; a rotary base of 2,000,000.
//! Tensor names are Llama's.

use super::{Defaults, Family};
use crate::config::{ModelConfig, Reader};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    class: "SmolLM3",
    classifier: "SmolLM3",
    defaults: Defaults {
        rope_theta: 2e6,
        tied: true,
        max_positions: 32_768,
        ..Defaults::LLAMA
    },
    configure,
};

fn configure(read: &Reader<'_>, config: &mut ModelConfig) -> Result<()> {
    let layers = config.layers.len();
    let interval = read.optional_size("no_rope_layer_interval")?.unwrap_or(4);
    let rotated = read
        .layer_list("no_rope_layers", "0 or 1", layers, |value| {
            value.as_u64().filter(|n| *n <= 1).map(|n| n == 1)
        })?
        .unwrap_or_else(|| (1..=layers).map(|n| n % interval != 0).collect());
    for (layer, &rotated) in config.layers.iter_mut().zip(&rotated) {
        layer.rope = rotated.then_some(0);
    }
    let kinds = read.sliding_layers(layers)?;
    if read.flag("use_sliding_window")?.unwrap_or(false)
        && let Some(window) = read.optional_size("sliding_window")?
    {
        let kinds = kinds.unwrap_or_else(|| rotated.iter().map(|rotated| !rotated).collect());
        config.slide(window, kinds);
    }
    Ok(())
}
