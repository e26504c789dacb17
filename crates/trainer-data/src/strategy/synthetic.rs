//! `_synthetic`: rows of random ids, for measuring speed and memory without data.
//!
//! Invariant: row i is a function of the seed and i alone. Every row has exactly
//! `sequence_length` tokens, divided as evenly as possible among its turns, and
//! every turn has a masked input, unless nothing is masked, and a trained output.

use seqprep::{IGNORE_INDEX, Sample, SeedStream};
use trainer_config::{Config, Dataset};

use super::Strategy;
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "_synthetic";

pub(super) struct Synthetic {
    seeds: SeedStream,
    length: usize,
    /// The smallest and the largest id.
    ids: (u32, u32),
    /// The smallest and the largest number of turns.
    turns: (usize, usize),
    input_fraction: f64,
}

impl Synthetic {
    /// # Errors
    /// Settings that no row can fulfil.
    pub(super) fn new(
        config: &Config,
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        sequence_len: usize,
    ) -> Result<Self, DataError> {
        let bad = |message: String| DataError::Dataset {
            path: dataset.path.clone(),
            message,
        };
        let length = dataset.sequence_length.unwrap_or(sequence_len);
        let vocabulary = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let first = dataset.min_input_id.unwrap_or(100);
        let end = dataset.max_input_id.unwrap_or(vocabulary);
        if end > vocabulary {
            return Err(bad(format!(
                "`max_input_id` is {end}, but the tokenizer has {vocabulary} ids; ids are below \
                 `max_input_id`"
            )));
        }
        if first >= end {
            return Err(bad(format!(
                "there is no id from `min_input_id` ({first}) to below `max_input_id` ({end}); \
                 lower `min_input_id`"
            )));
        }
        let fewest = dataset.min_turns.unwrap_or(1);
        let most = dataset.max_turns.unwrap_or(fewest);
        if most < fewest {
            return Err(bad(format!(
                "`max_turns` is {most}, less than `min_turns`, which is {fewest}"
            )));
        }
        let input_fraction = match dataset.input_fraction {
            Some(fraction) => fraction,
            None if most > 1 => 0.25,
            None => 0.0,
        };
        let shortest = dataset.min_turn_length.unwrap_or(32);
        if (most > 1 || input_fraction > 0.0) && fewest.saturating_mul(shortest) > length {
            return Err(bad(format!(
                "{fewest} turns (`min_turns`) of {shortest} tokens (`min_turn_length`) do not fit \
                 {length} (`sequence_length`)"
            )));
        }
        Ok(Self {
            seeds: SeedStream::new(dataset.seed.unwrap_or(config.seed)),
            length,
            ids: (first, end - 1),
            turns: (fewest, most.min((length / shortest).max(fewest))),
            input_fraction,
        })
    }
}

impl Strategy for Synthetic {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        let mut random = self.seeds.rng("synthetic rows", row.at.number as u64);
        let (first, last) = self.ids;
        let mut draw = |from: u64, to: u64| from + random.up_to(to - from);
        let turns = draw(self.turns.0 as u64, self.turns.1 as u64) as usize;
        let input_ids: Vec<u32> = (0..self.length)
            .map(|_| draw(first.into(), last.into()) as u32)
            .collect();
        let mut labels: Vec<i32> = input_ids.iter().map(|id| id.cast_signed()).collect();
        if self.input_fraction > 0.0 {
            let mut offset = 0;
            for turn in 0..turns {
                let length = self.length / turns + usize::from(turn < self.length % turns);
                let input = (length as f64 * self.input_fraction).round_ties_even() as usize;
                let input = input.clamp(1, length - 1);
                labels[offset..offset + input].fill(IGNORE_INDEX);
                offset += length;
            }
        }
        Ok(vec![Sample {
            input_ids,
            labels,
            ..Sample::default()
        }])
    }
}
