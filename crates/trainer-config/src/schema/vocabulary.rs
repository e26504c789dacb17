//! Keys about new tokens and the rows of the embedding that stand for them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Changes to the vocabulary of the base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VocabularyConfig {
    /// Tokens to add to the vocabulary, besides special ones.
    pub tokens: Vec<String>,
    /// Other texts for reserved tokens, by their ids: `128041: "<|tool|>"`.
    pub added_tokens_overrides: BTreeMap<String, String>,
    /// Round the rows of the embedding up to a multiple of 32.
    pub resize_token_embeddings_to_32x: bool,
    /// New rows of the embedding begin as the mean of the old ones; `false` draws
    /// them at random.
    pub mean_resizing_embeddings: bool,
    /// Take rows away where the embedding has more than the tokenizer has tokens.
    pub shrink_embeddings: bool,
}

impl Default for VocabularyConfig {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            added_tokens_overrides: BTreeMap::new(),
            resize_token_embeddings_to_32x: false,
            mean_resizing_embeddings: true,
            shrink_embeddings: false,
        }
    }
}
