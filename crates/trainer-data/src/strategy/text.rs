//! `completion` and `pretrain`: a column of text, trained from its first token
//! to its last.
//!
//! A document longer than the sequence length becomes several samples, and every
//! token is trained once. Windows of `completion` stand side by side; a last
//! window that would be too short to keep takes tokens from the one before it.
//! Where the text fills its windows to the last token, the end of the sequence
//! stands alone in a window of its own, which `min_sample_len` drops; that is
//! Axolotl's rule, so that both make the same samples. A window of `pretrain`
//! begins with the last tokens of the one before it, masked, so that what it
//! trains is predicted from some context. The end of the sequence stands at the
//! end of the document alone.

use std::ops::Range;

use seqprep::{IGNORE_INDEX, Sample};
use trainer_config::{Config, Dataset};

use super::{Strategy, label};
use crate::source::Row;
use crate::{DataError, Tokenizer};

/// Most tokens that a window of `pretrain` repeats.
const OVERLAP: usize = 256;

pub(super) struct Text<'a> {
    name: &'static str,
    tokenizer: &'a Tokenizer,
    field: &'a str,
    window: usize,
    /// Tokens that a window repeats.
    overlap: usize,
    /// Fewest tokens of the last window, where the one before it can give some.
    shortest: usize,
}

impl<'a> Text<'a> {
    pub(super) fn completion(
        config: &Config,
        dataset: &'a Dataset,
        tokenizer: &'a Tokenizer,
        sequence_len: usize,
    ) -> Self {
        Self {
            name: "completion",
            tokenizer,
            field: dataset.field.as_deref().unwrap_or("text"),
            window: sequence_len.max(1),
            overlap: 0,
            shortest: config.min_sample_len,
        }
    }

    pub(super) fn pretrain(
        dataset: &'a Dataset,
        tokenizer: &'a Tokenizer,
        sequence_len: usize,
    ) -> Self {
        let window = sequence_len.max(1);
        Self {
            name: "pretrain",
            tokenizer,
            field: dataset.field.as_deref().unwrap_or("text"),
            window,
            overlap: OVERLAP.min((window - 1) / 2),
            shortest: 0,
        }
    }
}

impl Strategy for Text<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        let hint = "; `field` names the column of the text";
        let text = row.text(self.field, self.name, hint)?;
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoded = self.tokenizer.encode_whole(text);
        let mut ids = encoded.map_err(|error| error.at(&row.at))?;
        super::end(&mut ids, self.tokenizer, usize::MAX, super::Ends(1))?;
        let end_alone =
            ids.len() % self.window == 1 && ids.last().copied() == self.tokenizer.eos_id();
        let shortest = if end_alone { 0 } else { self.shortest };
        let sample = |(range, masked): (Range<usize>, usize)| {
            let ids = &ids[range];
            let mut labels: Vec<i32> = ids.iter().copied().map(label).collect();
            labels[..masked].fill(IGNORE_INDEX);
            Sample {
                input_ids: ids.to_vec(),
                labels,
                position_ids: None,
            }
        };
        Ok(windows(ids.len(), self.window, self.overlap, shortest)
            .map(sample)
            .collect())
    }
}

/// Ranges of at most `window` tokens that cover `length` tokens in order, and how
/// many tokens at the beginning of each are repeated: `overlap` but in the first.
/// The last has at least `shortest` tokens where the one before it can give some.
fn windows(
    length: usize,
    window: usize,
    overlap: usize,
    shortest: usize,
) -> impl Iterator<Item = (Range<usize>, usize)> {
    let step = window - overlap;
    let count = match length {
        0 => 0,
        _ => 1 + length.saturating_sub(window).div_ceil(step),
    };
    let rest = length - step * count.saturating_sub(1);
    let missing = shortest.saturating_sub(rest);
    let give = match count > 1 && window >= shortest + missing {
        true => missing,
        false => 0,
    };
    (0..count).map(move |i| {
        let start = i * step;
        let masked = if i == 0 { 0 } else { overlap };
        let range = match count - i {
            1 if i > 0 => start - give..length,
            1 => 0..length,
            2 => start..start + window - give,
            _ => start..start + window,
        };
        (range, masked)
    })
}

#[cfg(test)]
mod tests {
    use super::windows;
    use proptest::prelude::*;

    #[test]
    fn a_short_rest_takes_tokens_from_the_window_before_it() {
        let all = |length, window, shortest| {
            let ranges = windows(length, window, 0, shortest).map(|(range, _)| range);
            ranges.collect::<Vec<_>>()
        };
        assert_eq!(all(10, 4, 2), [0..4, 4..8, 8..10]);
        assert_eq!(all(9, 4, 2), [0..4, 4..7, 7..9]);
        assert_eq!(all(5, 4, 2), [0..3, 3..5]);
        assert_eq!(all(1, 4, 2), vec![0..1; 1]);
        assert!(all(0, 4, 2).is_empty());
        // The window before it has nothing to spare.
        assert_eq!(all(4, 3, 3), [0..3, 3..4]);
    }

    #[test]
    fn windows_repeat_what_came_before() {
        let all = |length, window, overlap| windows(length, window, overlap, 0).collect::<Vec<_>>();
        assert_eq!(all(11, 6, 2), [(0..6, 0), (4..10, 2), (8..11, 2)]);
        assert_eq!(all(6, 6, 2), [(0..6, 0)]);
        assert_eq!(all(3, 2, 0), [(0..2, 0), (2..3, 0)]);
        assert_eq!(all(2000, 1000, 256)[1], (744..1744, 256));
        assert!(all(0, 6, 2).is_empty());
    }

    proptest! {
        #[test]
        fn every_token_is_new_once(
            length in 0usize..900,
            window in 1usize..40,
            overlap in 0usize..20,
            shortest in 0usize..6,
        ) {
            let overlap = overlap.min((window - 1) / 2);
            // Only windows side by side are asked to give.
            let shortest = if overlap == 0 { shortest } else { 0 };
            let mut next = 0;
            for (range, masked) in windows(length, window, overlap, shortest) {
                prop_assert_eq!(range.start + masked, next);
                prop_assert!(range.len() <= window && range.len() > masked);
                next = range.end;
            }
            prop_assert_eq!(next, length);
        }
    }
}
