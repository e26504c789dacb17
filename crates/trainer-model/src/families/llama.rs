//! Llama 2, 3, 3.1 to 3.3, SmolLM and SmolLM2, TinyLlama, and whatever else calls
//! itself `llama`.
//!
//! Reference: `LlamaForCausalLM` of transformers; arXiv 2302.13971, 2407.21783.
//! Norms before the blocks, grouped query heads, SwiGLU, one rotary embedding.
//! Every other family is described by its differences from this one.

use super::{Defaults, Family};

pub(super) const FAMILY: Family = Family {
    name: "llama",
    class: "Llama",
    classifier: "Llama",
    defaults: Defaults::LLAMA,
    configure: |_, _| Ok(()),
};
