//! Qwen2 and Qwen2.5.
//!
//! Reference: `Qwen2ForCausalLM` of transformers; arXiv 2407.10671.
//! Differences from Llama: the projections of queries, keys and values have
//! biases, the output projection has none; with `use_sliding_window` the layers
//! from `max_window_layers` on (or those of `layer_types`) slide. Tensor names
//! are Llama's.

use super::{Defaults, Family};
use crate::config::{ModelConfig, Reader};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "qwen2",
    class: "Qwen2",
    classifier: "Qwen2",
    defaults: Defaults {
        max_positions: 32_768,
        ..Defaults::LLAMA
    },
    configure: |read, config| {
        config.attention.input_bias = true;
        config.attention.output_bias = false;
        upper_layers_slide(read, config)
    },
};

/// The sliding window of Qwen's upper layers.
pub(super) fn upper_layers_slide(read: &Reader<'_>, config: &mut ModelConfig) -> Result<()> {
    let layers = config.layers.len();
    let kinds = read.sliding_layers(layers)?;
    if !read.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(());
    }
    let window = match read.optional_size("sliding_window")? {
        None if !read.names("sliding_window") => 4096,
        None => return Ok(()),
        Some(window) => window,
    };
    // Zero is a count here: all layers slide.
    let first = read.number("max_window_layers")?.unwrap_or(28.0);
    let kinds = kinds.unwrap_or_else(|| (0..layers).map(|i| i as f64 >= first).collect());
    config.slide(window, kinds);
    Ok(())
}
