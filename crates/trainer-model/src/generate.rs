//! Greedy text generation in batches, with cached keys and values.
//!
//! Prompts of unequal length are padded on the left, so that all rows produce
//! their next token at the same place.

use crate::attention::KvCache;
use crate::decoder::CausalLm;
use crate::input::{ModelInput, Tokens};

impl CausalLm {
    /// Continues each prompt with its most likely tokens until one of
    /// `stop_ids` (not included in the answer) or `max_new_tokens`. Prompts must
    /// not be empty. Call it on a model that records no gradients
    /// (`Module::valid`).
    #[must_use]
    pub fn generate_greedy(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        stop_ids: &[u32],
    ) -> Vec<Vec<u32>> {
        let rows = prompts.len();
        let width = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let mut answers = vec![Vec::new(); rows];
        if width == 0 || max_new_tokens == 0 {
            return answers;
        }
        let device = self.device();
        let padding: Vec<usize> = prompts.iter().map(|prompt| width - prompt.len()).collect();
        let (mut ids, mut positions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for (prompt, &padding) in prompts.iter().zip(&padding) {
            ids.extend(std::iter::repeat_n(0, padding).chain(prompt.iter().copied()));
            positions.extend(std::iter::repeat_n(0, padding).chain(0..prompt.len() as u32));
            segments.extend((0..width).map(|token| u32::from(token >= padding)));
        }
        let tokens = Tokens {
            rows,
            width,
            input_ids: &ids,
            position_ids: &positions,
            segment_ids: &segments,
        };
        let starts: Vec<u32> = padding.iter().map(|&padding| padding as u32).collect();
        let mut caches = vec![KvCache::default(); self.model.layers.len()];
        let mut input = self.input(&tokens);
        let mut done = vec![false; rows];
        for new in 0..max_new_tokens {
            let hidden_btd = self.hidden_cached(&input, &mut caches);
            let last = hidden_btd.dims()[1] - 1;
            let logits_b1v = self.logits(hidden_btd.narrow(1, last, 1));
            let next: Vec<u32> = logits_b1v
                .argmax(2)
                .into_data()
                .convert::<i64>()
                .iter::<i64>()
                .map(|id| u32::try_from(id).unwrap_or(0))
                .collect();
            for ((answer, done), &id) in answers.iter_mut().zip(&mut done).zip(&next) {
                *done |= stop_ids.contains(&id);
                if !*done {
                    answer.push(id);
                }
            }
            if done.iter().all(|&done| done) {
                break;
            }
            let past = width + new;
            let positions: Vec<u32> = padding
                .iter()
                .map(|padding| (past - padding) as u32)
                .collect();
            input = ModelInput::step(&next, &positions, &starts, past, self.config(), &device);
        }
        answers
    }
}
