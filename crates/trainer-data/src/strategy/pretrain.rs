//! `pretrain`: a column of text in windows that overlap.
//!
//! A window after the first begins with the last tokens of the one before it, so
//! that what it trains is predicted from some context. These tokens are masked:
//! every token of a document is trained once. The end of the sequence stands at
//! the end of the document alone.

use std::ops::Range;

use seqprep::{IGNORE_INDEX, Sample};
use trainer_config::Dataset;

use super::{Strategy, label};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "pretrain";

/// Most tokens that a window repeats.
const OVERLAP: usize = 256;

pub(super) struct Pretrain<'a> {
    tokenizer: &'a Tokenizer,
    field: &'a str,
    window: usize,
}

impl<'a> Pretrain<'a> {
    pub(super) fn new(dataset: &'a Dataset, tokenizer: &'a Tokenizer, sequence_len: usize) -> Self {
        Self {
            tokenizer,
            field: dataset.field.as_deref().unwrap_or("text"),
            window: sequence_len.max(1),
        }
    }
}

impl Strategy for Pretrain<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        let text = row.text(self.field, NAME, "; `field` names the column of the text")?;
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoded = self.tokenizer.encode(text, true);
        let mut ids = encoded.map_err(|error| error.at(&row.at))?;
        super::end(&mut ids, self.tokenizer, usize::MAX, super::Ends(1));
        Ok(windows(ids.len(), self.window)
            .map(|(range, masked)| Sample {
                input_ids: ids[range.clone()].to_vec(),
                labels: ids[range]
                    .iter()
                    .enumerate()
                    .map(|(index, id)| {
                        if index < masked {
                            IGNORE_INDEX
                        } else {
                            label(*id)
                        }
                    })
                    .collect(),
                position_ids: None,
            })
            .collect())
    }
}

/// Windows over `length` tokens, and how many tokens at the beginning of each are
/// repeated.
fn windows(length: usize, window: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let overlap = OVERLAP.min(window.saturating_sub(1) / 2);
    let step = window - overlap;
    let count = match length {
        0 => 0,
        _ => 1 + length.saturating_sub(window).div_ceil(step),
    };
    (0..count).map(move |i| {
        let start = i * step;
        let masked = if i == 0 { 0 } else { overlap };
        (start..length.min(start + window), masked)
    })
}

#[cfg(test)]
mod tests {
    use super::windows;
    use proptest::prelude::*;

    #[test]
    fn windows_repeat_what_came_before() {
        let all = |length, window| windows(length, window).collect::<Vec<_>>();
        assert_eq!(all(11, 6), [(0..6, 0), (4..10, 2), (8..11, 2)]);
        assert_eq!(all(6, 6), [(0..6, 0)]);
        assert_eq!(all(3, 2), [(0..2, 0), (2..3, 0)]);
        assert_eq!(all(2000, 1000)[1], (744..1744, 256));
        assert!(all(0, 6).is_empty());
    }

    proptest! {
        #[test]
        fn every_token_is_new_once(length in 0usize..900, window in 1usize..40) {
            let mut next = 0;
            for (range, masked) in windows(length, window) {
                prop_assert_eq!(range.start + masked, next);
                prop_assert!(range.len() <= window && range.len() > masked);
                next = range.end;
            }
            prop_assert_eq!(next, length);
        }
    }
}
