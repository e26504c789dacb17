//! Length rules: which rows are kept, cut or refused because of their length.
//!
//! Invariants: both limits are inclusive; a rule never lengthens a row; a cut
//! keeps the fields of the sample aligned. Every decision is a
//! [`LengthOutcome`], so that a caller can count the rows of each kind and
//! none disappears without a reason.

use serde::{Deserialize, Serialize};

use crate::sample::Sample;

/// The longest row that is kept where nobody says otherwise, in tokens.
pub const DEFAULT_SEQUENCE_LEN: usize = 2048;

/// The shortest row that is kept when no minimum is given: one token to read
/// and one to predict.
pub const DEFAULT_MIN_SEQUENCE_LEN: usize = 2;

/// What a length rule decided about one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthOutcome {
    /// Within the limits, unchanged.
    Kept,
    /// Cut on the right to the maximum.
    Truncated {
        /// Number of tokens cut off.
        removed: usize,
    },
    /// Dropped: no tokens.
    Empty,
    /// Dropped: fewer tokens than the minimum.
    TooShort,
    /// Dropped: more tokens than the maximum.
    TooLong,
}

impl LengthOutcome {
    /// True when the row goes on, whole or cut.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Kept | Self::Truncated { .. })
    }
}

/// What happens to a row that is longer than the maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LengthStrategy {
    /// It is left out, and counted.
    #[default]
    Drop,
    /// Its end is cut off.
    Truncate,
    /// It is an error, which stops the run.
    Raise,
}

/// A row that is too long where the strategy forbids it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LengthError {
    /// A row is longer than the maximum, under [`LengthStrategy::Raise`].
    #[error(
        "row {row} has {len} tokens, more than the maximum of {sequence_len}; raise the maximum, \
         or drop or truncate long rows"
    )]
    TooLong {
        /// Index of the row, from 0.
        row: usize,
        /// Tokens in the row.
        len: usize,
        /// The maximum.
        sequence_len: usize,
    },
}

/// Numbers of rows by [`LengthOutcome`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthCounts {
    /// Rows kept whole.
    pub kept: usize,
    /// Rows kept, but cut.
    pub truncated: usize,
    /// Rows dropped because they had no tokens.
    pub empty: usize,
    /// Rows dropped below the minimum.
    pub too_short: usize,
    /// Rows dropped above the maximum.
    pub too_long: usize,
    /// Tokens cut off the truncated rows.
    pub tokens_removed: usize,
}

impl LengthCounts {
    /// Adds one row.
    pub fn record(&mut self, outcome: LengthOutcome) {
        match outcome {
            LengthOutcome::Kept => self.kept += 1,
            LengthOutcome::Truncated { removed } => {
                self.truncated += 1;
                self.tokens_removed += removed;
            }
            LengthOutcome::Empty => self.empty += 1,
            LengthOutcome::TooShort => self.too_short += 1,
            LengthOutcome::TooLong => self.too_long += 1,
        }
    }

    /// Rows that were left out, for whatever reason.
    pub fn dropped(&self) -> usize {
        self.empty + self.too_short + self.too_long
    }
}

/// What the length rules say of a sample whose sequences have `shortest` to `longest`
/// tokens, which has nothing to train if `empty`. The limits are the
/// longest and the shortest that is kept; a shortest of 0 stands for the default.
pub(crate) fn outcome(
    empty: bool,
    shortest: usize,
    longest: usize,
    (sequence_len, min_sequence_len): (usize, usize),
) -> LengthOutcome {
    let min = match min_sequence_len {
        0 => DEFAULT_MIN_SEQUENCE_LEN,
        min => min,
    };
    if empty {
        LengthOutcome::Empty
    } else if shortest < min {
        LengthOutcome::TooShort
    } else if longest > sequence_len {
        LengthOutcome::TooLong
    } else {
        LengthOutcome::Kept
    }
}

fn of_length(len: usize, sequence_len: usize, min_sequence_len: usize) -> LengthOutcome {
    outcome(len == 0, len, len, (sequence_len, min_sequence_len))
}

/// Keeps a sample of `min_sequence_len..=sequence_len` tokens, drops others.
///
/// A `min_sequence_len` of 0 stands for [`DEFAULT_MIN_SEQUENCE_LEN`]. A row
/// that is both too short and too long counts as too short.
///
/// The usual limits are [`DEFAULT_SEQUENCE_LEN`] and [`DEFAULT_MIN_SEQUENCE_LEN`]:
///
/// ```
/// use seqprep::{
///     DEFAULT_MIN_SEQUENCE_LEN, DEFAULT_SEQUENCE_LEN, LengthOutcome, Sample, drop_long_seq,
/// };
///
/// let of_len = |len: usize| Sample::all_trained(vec![7; len]);
/// let outcome = |len| {
///     drop_long_seq(&of_len(len), DEFAULT_SEQUENCE_LEN, DEFAULT_MIN_SEQUENCE_LEN)
/// };
/// // Both limits are inclusive: 2 to 2,048 tokens are kept.
/// assert_eq!(outcome(2), LengthOutcome::Kept);
/// assert_eq!(outcome(2048), LengthOutcome::Kept);
/// assert_eq!(outcome(2049), LengthOutcome::TooLong);
/// assert_eq!(outcome(1), LengthOutcome::TooShort);
/// assert_eq!(outcome(0), LengthOutcome::Empty);
///
/// let mut samples: Vec<Sample> = [5, 9, 4].map(of_len).into();
/// samples.retain(|sample| drop_long_seq(sample, 8, 0).is_kept());
/// assert_eq!(samples.len(), 2);
/// ```
pub fn drop_long_seq(
    sample: &Sample,
    sequence_len: usize,
    min_sequence_len: usize,
) -> LengthOutcome {
    of_length(sample.len(), sequence_len, min_sequence_len)
}

/// [`drop_long_seq`] of each sample, in order.
pub fn drop_long_seq_batch(
    samples: &[Sample],
    sequence_len: usize,
    min_sequence_len: usize,
) -> Vec<LengthOutcome> {
    samples
        .iter()
        .map(|sample| drop_long_seq(sample, sequence_len, min_sequence_len))
        .collect()
}

/// Cuts every field of a sample on the right to `sequence_len` tokens.
///
/// Empty and short samples are dropped first, by the limits of
/// [`drop_long_seq`]. A cut takes the end of the text, and with it the
/// end-of-text token. Where the maximum is below the minimum, long samples are
/// dropped, since what is left of them would be too short. A cut may leave nothing to train, so a caller does well to
/// apply [`drop_no_trainable_tokens`](crate::drop_no_trainable_tokens) after.
pub fn truncate(
    sample: &mut Sample,
    sequence_len: usize,
    min_sequence_len: usize,
) -> LengthOutcome {
    match of_length(sample.len(), sequence_len, min_sequence_len) {
        // A cut row must itself be within the limits.
        LengthOutcome::TooLong
            if of_length(sequence_len, sequence_len, min_sequence_len).is_kept() =>
        {
            let removed = sample.len() - sequence_len;
            sample.input_ids.truncate(sequence_len);
            sample.labels.truncate(sequence_len);
            if let Some(position_ids) = &mut sample.position_ids {
                position_ids.truncate(sequence_len);
            }
            LengthOutcome::Truncated { removed }
        }
        other => other,
    }
}

/// As [`drop_long_seq`], but a sample that is too long is an error. `row` is
/// the index that the error names.
///
/// # Errors
/// [`LengthError::TooLong`]. Short and empty samples are dropped, not errors.
pub fn raise(
    sample: &Sample,
    row: usize,
    sequence_len: usize,
    min_sequence_len: usize,
) -> Result<LengthOutcome, LengthError> {
    match drop_long_seq(sample, sequence_len, min_sequence_len) {
        LengthOutcome::TooLong => Err(LengthError::TooLong {
            row,
            len: sample.len(),
            sequence_len,
        }),
        other => Ok(other),
    }
}

/// Applies a strategy to all samples in place and counts what became of them.
///
/// The order of the rows that stay is unchanged.
///
/// # Errors
/// [`LengthError::TooLong`] for the first row that is too long under
/// [`LengthStrategy::Raise`]; the samples are then unchanged.
pub fn apply_length_strategy(
    samples: &mut Vec<Sample>,
    strategy: LengthStrategy,
    sequence_len: usize,
    min_sequence_len: usize,
) -> Result<LengthCounts, LengthError> {
    if strategy == LengthStrategy::Raise {
        for (row, sample) in samples.iter().enumerate() {
            raise(sample, row, sequence_len, min_sequence_len)?;
        }
    }
    let mut counts = LengthCounts::default();
    samples.retain_mut(|sample| {
        let outcome = match strategy {
            LengthStrategy::Truncate => truncate(sample, sequence_len, min_sequence_len),
            LengthStrategy::Drop | LengthStrategy::Raise => {
                drop_long_seq(sample, sequence_len, min_sequence_len)
            }
        };
        counts.record(outcome);
        outcome.is_kept()
    });
    Ok(counts)
}

/// The length of each sample in tokens, as the packers take them. A length
/// beyond `u32` is given as `u32::MAX`, which every capacity refuses.
pub fn lengths<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Vec<u32> {
    samples
        .into_iter()
        .map(|sample| u32::try_from(sample.len()).unwrap_or(u32::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_len(len: usize) -> Sample {
        let ids: Vec<u32> = (1..=len as u32).collect();
        Sample {
            position_ids: Some((0..len as u32).collect()),
            ..Sample::all_trained(ids)
        }
    }

    fn rows() -> Vec<Sample> {
        [3, 5, 11, 2, 10, 1, 0].map(of_len).into()
    }

    #[test]
    fn limits_are_inclusive() {
        use LengthOutcome::{Empty, Kept, TooLong, TooShort};
        assert_eq!(
            drop_long_seq_batch(&rows(), 10, 2),
            [Kept, Kept, TooLong, Kept, Kept, TooShort, Empty]
        );
        assert_eq!(drop_long_seq(&of_len(2), 10, 3), TooShort);
        assert_eq!(drop_long_seq(&of_len(16), 32, 0), Kept);
        assert_eq!(drop_long_seq(&of_len(16), 15, 0), TooLong);
        assert_eq!(drop_long_seq(&of_len(1), 15, 0), TooShort);
        assert_eq!(drop_long_seq(&of_len(1), 15, 1), Kept);
    }

    #[test]
    fn drop_counts_by_reason() {
        let mut samples = rows();
        let counts = apply_length_strategy(&mut samples, LengthStrategy::Drop, 10, 2).unwrap();
        assert_eq!(lengths(&samples), [3, 5, 2, 10]);
        assert_eq!(
            counts,
            LengthCounts {
                kept: 4,
                empty: 1,
                too_short: 1,
                too_long: 1,
                ..LengthCounts::default()
            }
        );
        assert_eq!(counts.dropped(), 3);
    }

    #[test]
    fn truncate_cuts_all_fields_alike() {
        let mut sample = of_len(12);
        assert_eq!(
            truncate(&mut sample, 10, 2),
            LengthOutcome::Truncated { removed: 2 }
        );
        assert_eq!(sample, of_len(10));
        let mut short = of_len(2);
        assert_eq!(truncate(&mut short, 1, 3), LengthOutcome::TooShort);
        assert_eq!(short, of_len(2));
        assert_eq!(truncate(&mut of_len(2), 0, 1), LengthOutcome::TooLong);
        assert_eq!(truncate(&mut of_len(5), 2, 3), LengthOutcome::TooLong);
    }

    #[test]
    fn raise_names_the_row_and_changes_nothing() {
        let mut samples = rows();
        let error = apply_length_strategy(&mut samples, LengthStrategy::Raise, 10, 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 2 has 11 tokens, more than the maximum of 10; raise the maximum, or drop or \
             truncate long rows"
        );
        assert_eq!(samples, rows());
        let counts = apply_length_strategy(&mut samples, LengthStrategy::Raise, 11, 2).unwrap();
        assert_eq!((counts.kept, counts.dropped()), (5, 2));
    }
}
