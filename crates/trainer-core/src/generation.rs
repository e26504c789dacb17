//! Text that the model writes: how a configuration wants it drawn, and samples of it
//! at evaluations.
//!
//! Invariant: samples change nothing in a run. They are drawn from the seed of the
//! run alone, so that the same prompt gives two texts only where the weights differ.

use std::ops::ControlFlow;
use std::sync::Arc;

use seqprep::{IGNORE_INDEX, Sample};
use serde_json::{Value, json};
use trainer_config::Config;
use trainer_model::{CausalLm, GenerationOptions, Sampling};

use crate::error::{Result, TrainerError};
use crate::tokenizer::TrainerTokenizer;

/// Longest sample in tokens where the configuration names none; that of Axolotl.
const LONGEST_SAMPLE: usize = 50;

/// Name of the samples in a log row.
pub const SAMPLES: &str = "eval_generations";

/// How text is drawn by a configuration, `longest` tokens where it does not say, until
/// one of the tokens that end a text by the model's own files.
#[must_use]
pub fn generation_options(config: &Config, model: &CausalLm, longest: usize) -> GenerationOptions {
    let keys = &config.generation;
    GenerationOptions {
        sampling: keys.generation_do_sample.then(|| Sampling {
            temperature: keys.generation_temperature.unwrap_or(0.7),
            top_k: keys.generation_top_k,
            top_p: keys.generation_top_p,
            min_p: keys.generation_min_p,
        }),
        repetition_penalty: keys.generation_repetition_penalty,
        seed: config.seed,
        ..GenerationOptions::greedy(
            keys.generation_max_new_tokens.unwrap_or(longest),
            end_ids(model),
        )
    }
}

/// The tokens that end a text by the model's own files.
fn end_ids(model: &CausalLm) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let config = model.config();
    let named = config.generation.get("eos_token_id");
    match named.or_else(|| config.raw.get("eos_token_id")) {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Tokens to go on with, and those that the data has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) prompt: Vec<u32>,
    pub(crate) expected: Vec<u32>,
}

impl Prompt {
    /// The part of a sample before its first target; where all of it is trained, the
    /// part of its tokens that `ratio` says. Nothing of what cannot be divided.
    pub(crate) fn of_sample(sample: &Sample, ratio: f64) -> Option<Self> {
        let is_target = |label: &i32| *label != IGNORE_INDEX;
        let first = sample.labels.iter().position(is_target)?;
        // An opening token is no prompt.
        let (from, to) = if first > 1 {
            let rest = &sample.labels[first..];
            let end = rest.iter().position(|label| !is_target(label));
            (first, first + end.unwrap_or(rest.len()))
        } else {
            let part = (sample.len() as f64 * ratio) as usize;
            (part.max(1), sample.len())
        };
        (from < to).then(|| Self {
            prompt: sample.input_ids[..from].to_vec(),
            expected: sample.input_ids[from..to].to_vec(),
        })
    }
}

/// Writes samples at evaluations.
#[derive(Clone)]
pub(crate) struct Sampler {
    pub(crate) count: usize,
    pub(crate) prompt_ratio: f64,
    config: Config,
    tokenizer: Arc<dyn TrainerTokenizer>,
}

impl Sampler {
    /// `None` where the configuration does not ask for samples.
    pub(crate) fn new(config: &Config, tokenizer: &Arc<dyn TrainerTokenizer>) -> Option<Self> {
        let keys = &config.generation;
        keys.generate_samples.then(|| Self {
            count: keys.num_generation_samples,
            prompt_ratio: keys.generation_prompt_ratio,
            config: config.clone(),
            tokenizer: Arc::clone(tokenizer),
        })
    }

    /// One object a prompt: `prompt`, `completion` and `expected`, as text.
    ///
    /// # Errors
    /// When the text of tokens cannot be told, or a setting is no number that can be
    /// drawn by.
    pub(crate) fn write(&self, model: &CausalLm, prompts: Vec<Prompt>) -> Result<Value> {
        if prompts.is_empty() {
            return Ok(json!([]));
        }
        let mut options = generation_options(&self.config, model, LONGEST_SAMPLE);
        options.stop_ids.extend(self.tokenizer.end_ids());
        let ids: Vec<Vec<u32>> = prompts.iter().map(|it| it.prompt.clone()).collect();
        let answers = model.generate(&ids, &options, |_, _| ControlFlow::Continue(()))?;
        let text = |ids: &[u32]| self.tokenizer.decode(ids).map_err(TrainerError::Tokenizer);
        let samples = prompts.iter().zip(answers).map(|(prompt, answer)| {
            Ok(json!({
                "prompt": text(&prompt.prompt)?,
                "completion": text(&answer.ids)?,
                "expected": text(&prompt.expected)?,
            }))
        });
        Ok(Value::Array(samples.collect::<Result<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_ends_where_the_answer_begins() {
        let mut sample = Sample::all_trained(vec![1, 2, 3, 4, 5, 6]);
        sample.labels = vec![-100, -100, -100, 4, 5, -100];
        let prompt = Prompt::of_sample(&sample, 0.5).unwrap();
        assert_eq!(
            (prompt.prompt, prompt.expected),
            (vec![1, 2, 3], vec![4, 5])
        );
    }

    #[test]
    fn text_without_a_prompt_is_divided() {
        let sample = Sample::all_trained(vec![1, 2, 3, 4]);
        let prompt = Prompt::of_sample(&sample, 0.5).unwrap();
        assert_eq!((prompt.prompt, prompt.expected), (vec![1, 2], vec![3, 4]));
        assert!(Prompt::of_sample(&Sample::all_trained(vec![7]), 0.5).is_none());
        let mut masked = sample;
        masked.labels = vec![-100; 4];
        assert!(Prompt::of_sample(&masked, 0.5).is_none());
    }
}
