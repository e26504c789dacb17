//! Keys about text that a model generates: at evaluations, and in `trainer inference`
//! and `trainer chat`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How text is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GenerationConfig {
    /// Show at each evaluation what the model writes after prompts of the evaluation
    /// data, and before training. The samples are in the log and the report.
    pub generate_samples: bool,
    /// How many samples an evaluation shows.
    #[schemars(range(min = 1, max = 1000))]
    pub num_generation_samples: usize,
    /// Part of a text that is the prompt of a sample, where the whole text is trained;
    /// else the prompt ends where the trained part begins.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    pub generation_prompt_ratio: f64,
    /// Longest generated text in tokens; when absent, 50 for samples at evaluations and
    /// 512 elsewhere.
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
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub generation_min_p: Option<f64>,
    /// Above 1, tokens that occurred already are less likely.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub generation_repetition_penalty: f64,
    /// Texts that end the generated text and are no part of it.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub generation_stop_strings: Vec<String>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            generate_samples: false,
            num_generation_samples: 3,
            generation_prompt_ratio: 0.5,
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
