//! Granite 3, the dense models.
//!
//! Reference: `GraniteForCausalLM` of transformers.
//! Differences from Llama: four constant factors, of the embeddings
//! (`embedding_multiplier`), of what each block adds (`residual_multiplier`), of
//! the attention scores (`attention_multiplier`, in place of the root of the head
//! width) and, as a divisor, of the logits (`logits_scaling`). Tensor names are
//! Llama's.

use super::{Defaults, Family};

pub(super) const FAMILY: Family = Family {
    name: "granite",
    class: "Granite",
    classifier: "Granite",
    defaults: Defaults::LLAMA,
    configure: |read, config| {
        let factor = |key: &str| Ok(read.positive(key)?.unwrap_or(1.0));
        config.attention.scale = factor("attention_multiplier")?;
        config.multipliers.embedding = factor("embedding_multiplier")?;
        config.multipliers.residual = factor("residual_multiplier")?;
        config.multipliers.logits = factor("logits_scaling")?.recip();
        Ok(())
    },
};
