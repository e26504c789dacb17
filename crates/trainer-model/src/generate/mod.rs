//! Text generation in batches, with cached keys and values.
//!
//! Prompts of unequal length are padded on the left, so that all rows produce
//! their next token at the same place. A row leaves the batch when it is done.
//! Each row draws from a random stream of its own, by the seed and the number of
//! the prompt.

mod cache;
mod random;
mod sampling;

use std::ops::ControlFlow;

use burn::prelude::*;
use burn::tensor::TensorData;

pub(crate) use cache::KvCache;
pub use sampling::Sampling;

use crate::decoder::CausalLm;
use crate::error::{ModelError, Result};
use crate::input::{ModelInput, Tokens};
use random::RowRandom;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// How tokens are drawn; the likeliest one where there is nothing.
    pub sampling: Option<Sampling>,
    /// Above 1, tokens that occurred before, in the prompt too, are less likely;
    /// 1 changes nothing; above 0.
    pub repetition_penalty: f64,
    /// Tokens that end an answer and are no part of it.
    pub stop_ids: Vec<u32>,
    /// Seed of all draws.
    pub seed: u64,
    /// Number of the first prompt: a prompt of number `n` gives the same draws in
    /// whichever batch it comes, as the `n`-th prompt of all.
    pub first_row: u64,
}

impl GenerationOptions {
    /// The likeliest token each time.
    #[must_use]
    pub fn greedy(max_new_tokens: usize, stop_ids: Vec<u32>) -> Self {
        Self {
            max_new_tokens,
            sampling: None,
            repetition_penalty: 1.0,
            stop_ids,
            seed: 0,
            first_row: 0,
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |name: &str, value: f64, expected: &str| {
            Err(ModelError::Generation {
                message: format!("{name} is {value}, expected {expected}"),
            })
        };
        let penalty = self.repetition_penalty;
        if !(penalty.is_finite() && penalty > 0.0) {
            return wrong("repetition_penalty", penalty, "a number above 0");
        }
        let Some(sampling) = &self.sampling else {
            return Ok(());
        };
        if !(sampling.temperature.is_finite() && sampling.temperature > 0.0) {
            return wrong("temperature", sampling.temperature, "a number above 0");
        }
        if sampling.top_k == Some(0) {
            return wrong("top_k", 0.0, "1 or more");
        }
        match (sampling.top_p, sampling.min_p) {
            (Some(p), _) if !(p > 0.0 && p <= 1.0) => {
                wrong("top_p", p, "a number above 0 and at most 1")
            }
            (_, Some(p)) if !(0.0..=1.0).contains(&p) => wrong("min_p", p, "a number from 0 to 1"),
            _ => Ok(()),
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// One of the stop ids.
    Token(u32),
    /// The caller, in `on_token`.
    Caller,
    /// `max_new_tokens`.
    Length,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Its tokens, without the stop token.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A row that is not done.
struct Row {
    /// Index of the prompt.
    prompt: usize,
    padding: usize,
    /// Which tokens occurred; empty where that does not matter.
    seen: Vec<bool>,
    random: RowRandom,
}

impl CausalLm {
    /// Continues each prompt until a stop id, `max_new_tokens`, or until
    /// `on_token`, which is told the index of the prompt and each token of its
    /// answer, breaks. Call it on a model that records no gradients
    /// (`Module::valid`).
    ///
    /// # Errors
    /// Options out of range, an empty prompt, an id that is not in the
    /// vocabulary, and logits that are not numbers.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerationOptions,
        mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>> {
        options.check()?;
        self.check_prompts(prompts)?;
        let mut answers = vec![
            Generated {
                ids: Vec::new(),
                finish: Finish::Length,
            };
            prompts.len()
        ];
        let width = prompts.iter().map(Vec::len).max().unwrap_or(0);
        if width == 0 || options.max_new_tokens == 0 {
            return Ok(answers);
        }
        let mut rows = self.rows(prompts, options, width);
        let mut caches = vec![KvCache::default(); self.config().num_hidden_layers];
        let mut input = self.prompt_input(prompts, width);
        for new in 0..options.max_new_tokens {
            let hidden_btd = self.hidden_cached(&input, &mut caches);
            let last = hidden_btd.dims()[1] - 1;
            let logits_b1v = self.logits(hidden_btd.narrow(1, last, 1));
            let next = choose(logits_b1v, options, &mut rows)?;
            let mut kept = Vec::new();
            for (index, (row, &id)) in rows.iter_mut().zip(&next).enumerate() {
                let answer = &mut answers[row.prompt];
                if options.stop_ids.contains(&id) {
                    answer.finish = Finish::Token(id);
                    continue;
                }
                answer.ids.push(id);
                if let Some(seen) = row.seen.get_mut(id as usize) {
                    *seen = true;
                }
                if on_token(row.prompt, id).is_break() {
                    answer.finish = Finish::Caller;
                    continue;
                }
                kept.push(index);
            }
            if kept.is_empty() || new + 1 == options.max_new_tokens {
                break;
            }
            let next: Vec<u32> = kept.iter().map(|&index| next[index]).collect();
            if kept.len() < rows.len() {
                let mut index = 0;
                rows.retain(|_| {
                    index += 1;
                    kept.binary_search(&(index - 1)).is_ok()
                });
                let indices: Vec<i64> = kept.iter().map(|&index| index as i64).collect();
                let count = indices.len();
                let kept = Tensor::from_data(TensorData::new(indices, [count]), &self.device());
                caches.iter_mut().for_each(|cache| cache.keep_rows(&kept));
            }
            input = self.step_input(&rows, &next, width + new);
        }
        Ok(answers)
    }

    /// Scores of every token that may follow a prompt. Call it on a model that
    /// records no gradients.
    ///
    /// # Errors
    /// An empty prompt, and an id that is not in the vocabulary.
    pub fn next_logits(&self, prompt: &[u32]) -> Result<Vec<f32>> {
        let prompts = [prompt.to_vec()];
        self.check_prompts(&prompts)?;
        let hidden_btd = self.hidden(&self.prompt_input(&prompts, prompt.len()));
        let logits = self.logits(hidden_btd.narrow(1, prompt.len() - 1, 1));
        Ok(logits.into_data().iter::<f32>().collect())
    }

    fn check_prompts(&self, prompts: &[Vec<u32>]) -> Result<()> {
        let vocabulary = self.config().vocab_size;
        for (index, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(ModelError::Generation {
                    message: format!(
                        "prompt {index} is empty; a model continues at least one token"
                    ),
                });
            }
            if let Some(id) = prompt.iter().find(|id| **id as usize >= vocabulary) {
                return Err(ModelError::Generation {
                    message: format!(
                        "prompt {index} holds token id {id}, the model has {vocabulary} (from 0); \
                         is this the tokenizer of the model?"
                    ),
                });
            }
        }
        Ok(())
    }

    fn rows(&self, prompts: &[Vec<u32>], options: &GenerationOptions, width: usize) -> Vec<Row> {
        let penalized = options.repetition_penalty != 1.0;
        let rows = prompts.iter().enumerate().map(|(index, prompt)| {
            let mut seen = Vec::new();
            if penalized {
                seen.resize(self.config().vocab_size, false);
                prompt.iter().for_each(|&id| seen[id as usize] = true);
            }
            Row {
                prompt: index,
                padding: width - prompt.len(),
                seen,
                random: RowRandom::new(options.seed, options.first_row + index as u64),
            }
        });
        rows.collect()
    }

    fn prompt_input(&self, prompts: &[Vec<u32>], width: usize) -> ModelInput {
        let (mut ids, mut positions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            let padding = width - prompt.len();
            ids.extend(std::iter::repeat_n(0, padding).chain(prompt.iter().copied()));
            positions.extend(std::iter::repeat_n(0, padding).chain(0..prompt.len() as u32));
            segments.extend((0..width).map(|token| u32::from(token >= padding)));
        }
        self.input(&Tokens {
            rows: prompts.len(),
            width,
            input_ids: &ids,
            position_ids: &positions,
            segment_ids: &segments,
        })
    }

    /// One more token for each row, behind `past` tokens with padding.
    fn step_input(&self, rows: &[Row], next: &[u32], past: usize) -> ModelInput {
        let positions: Vec<u32> = rows.iter().map(|row| (past - row.padding) as u32).collect();
        let starts: Vec<u32> = rows.iter().map(|row| row.padding as u32).collect();
        ModelInput::step(
            next,
            &positions,
            &starts,
            past,
            self.config(),
            &self.device(),
        )
    }
}

/// The next token of each row, from logits `[b, 1, v]`.
fn choose(
    logits_b1v: Tensor<3>,
    options: &GenerationOptions,
    rows: &mut [Row],
) -> Result<Vec<u32>> {
    let vocabulary = logits_b1v.dims()[2];
    let mut logits: Vec<f32> = logits_b1v.into_data().iter::<f32>().collect();
    let mut next = Vec::with_capacity(rows.len());
    for (row, logits) in rows.iter_mut().zip(logits.chunks_exact_mut(vocabulary)) {
        if logits
            .iter()
            .any(|logit| logit.is_nan() || *logit == f32::INFINITY)
        {
            return Err(ModelError::Generation {
                message: "the model's logits are not numbers; its weights are damaged, or the \
                          training diverged"
                    .into(),
            });
        }
        if !row.seen.is_empty() {
            sampling::penalize(logits, &row.seen, options.repetition_penalty);
        }
        let id = match &options.sampling {
            Some(sampling) => sampling::draw(logits, sampling, &mut row.random),
            None => sampling::likeliest(logits),
        };
        next.push(id as u32);
    }
    Ok(next)
}
