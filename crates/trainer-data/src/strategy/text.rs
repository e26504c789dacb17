//! `completion`: a column of text, trained from its first token to its last.
//!
//! A document longer than the sequence length becomes several samples; none of
//! text is lost: a last window that would be too short to keep takes tokens from
//! the one before it. Where the text fills its windows to the last token, the end
//! of the sequence stands alone in a window of its own, which `min_sample_len`
//! drops; that is Axolotl's rule, so that both make the same samples.

use std::ops::Range;

use seqprep::Sample;
use trainer_config::{Config, Dataset};

use super::{Strategy, label};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "completion";

pub(super) struct Completion<'a> {
    tokenizer: &'a Tokenizer,
    field: &'a str,
    window: usize,
    shortest: usize,
}

impl<'a> Completion<'a> {
    pub(super) fn new(
        config: &Config,
        dataset: &'a Dataset,
        tokenizer: &'a Tokenizer,
        sequence_len: usize,
    ) -> Self {
        Self {
            tokenizer,
            field: dataset.field.as_deref().unwrap_or("text"),
            window: sequence_len.max(1),
            shortest: config.min_sample_len,
        }
    }
}

impl Strategy for Completion<'_> {
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
        let end_alone =
            ids.len() % self.window == 1 && ids.last().copied() == self.tokenizer.eos_id();
        let shortest = if end_alone { 0 } else { self.shortest };
        Ok(windows(ids.len(), self.window, shortest)
            .map(|range| Sample {
                input_ids: ids[range.clone()].to_vec(),
                labels: ids[range].iter().copied().map(label).collect(),
                position_ids: None,
            })
            .collect())
    }
}

/// Ranges of at most `window` tokens that cover `length` tokens in order. The
/// last has at least `shortest` where the one before it can give some.
fn windows(length: usize, window: usize, shortest: usize) -> impl Iterator<Item = Range<usize>> {
    let rest = length % window;
    let missing = shortest.saturating_sub(rest);
    let give = if rest > 0 && length > window && missing > 0 && window >= shortest + missing {
        missing
    } else {
        0
    };
    let count = length.div_ceil(window);
    (0..count).map(move |i| {
        let start = if i + 1 == count {
            i * window - give
        } else {
            i * window
        };
        let end = match count - i {
            1 => length,
            2 => (i + 1) * window - give,
            _ => (i + 1) * window,
        };
        start..end
    })
}

#[cfg(test)]
mod tests {
    use super::windows;
    use proptest::prelude::*;

    #[test]
    fn a_short_rest_takes_tokens_from_the_window_before_it() {
        let all = |length, window, shortest| windows(length, window, shortest).collect::<Vec<_>>();
        assert_eq!(all(10, 4, 2), [0..4, 4..8, 8..10]);
        assert_eq!(all(9, 4, 2), [0..4, 4..7, 7..9]);
        assert_eq!(all(5, 4, 2), [0..3, 3..5]);
        assert_eq!(all(1, 4, 2), vec![0..1; 1]);
        assert!(all(0, 4, 2).is_empty());
        // The window before it has nothing to spare.
        assert_eq!(all(4, 3, 3), [0..3, 3..4]);
    }

    proptest! {
        #[test]
        fn windows_cover_every_token_once_in_order(length in 0usize..400, window in 1usize..20, shortest in 1usize..6) {
            let mut next = 0;
            for range in windows(length, window, shortest) {
                prop_assert_eq!(range.start, next);
                prop_assert!(range.len() <= window && !range.is_empty());
                next = range.end;
            }
            prop_assert_eq!(next, length);
        }
    }
}
