//! Mistral 7B and its successors.
//!
//! Reference: `MistralForCausalLM` of transformers; arXiv 2310.06825.
//! Differences from Llama: every layer's attention may have a sliding window
//! (`sliding_window`, 4,096 where the file does not name it, none where it is
//! `null`); no biases. Tensor names are Llama's.

use super::{Defaults, Family};

pub(super) const FAMILY: Family = Family {
    name: "mistral",
    class: "Mistral",
    classifier: "Mistral",
    defaults: Defaults {
        max_positions: 4096 * 32,
        ..Defaults::LLAMA
    },
    configure: |read, config| {
        let window = match read.optional_size("sliding_window")? {
            None if !read.names("sliding_window") => Some(4096),
            given => given,
        };
        if let Some(window) = window {
            config.slide(window, std::iter::repeat(true));
        }
        Ok(())
    },
};
