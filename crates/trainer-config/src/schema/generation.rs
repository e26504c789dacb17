//! Keys about text that a model generates: `trainer inference` and `trainer chat`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How text is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GenerationConfig {
    /// Longest generated text in tokens; 512 when absent.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub generation_max_new_tokens: Option<usize>,
    /// Draw tokens by their probabilities; `false` takes the likeliest each time.
    pub generation_do_sample: bool,
    /// Below 1, likely tokens become likelier, above 1 less so; 0.7 when absent.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub generation_temperature: Option<f64>,
    /// Draw from so many of the likeliest tokens.
    #[schemars(range(min = 1))]
    pub generation_top_k: Option<usize>,
    /// Draw from the fewest tokens whose probabilities sum to this.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    pub generation_top_p: Option<f64>,
    /// Draw from tokens of at least this part of the likeliest one's probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub generation_min_p: Option<f64>,
    /// Above 1, tokens that occurred already are less likely.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub generation_repetition_penalty: f64,
    /// Texts that end the generated text and are no part of it.
    pub generation_stop_strings: Vec<String>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            generation_max_new_tokens: None,
            generation_do_sample: true,
            generation_temperature: None,
            generation_top_k: None,
            generation_top_p: None,
            generation_min_p: None,
            generation_repetition_penalty: 1.0,
            generation_stop_strings: Vec::new(),
        }
    }
}
