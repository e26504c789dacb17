//! Rows to a rectangle: padding, segment ids, position ids.
//!
//! Invariants of every [`Batch`] made here:
//! - all four fields have `rows × width` entries;
//! - the documents of a row are contiguous and numbered 1, 2, ... in order;
//!   padding has segment 0, the padding id, position 0 and no label;
//! - positions are those of the sample, else they restart at 0 with each
//!   document;
//! - the first token of every document is no target: within its document
//!   nothing precedes it, and the document before it says nothing about it.

use std::borrow::Borrow;
use std::collections::TryReserveError;

use serde::{Deserialize, Serialize};

use crate::sample::{Batch, IGNORE_INDEX, Sample};

/// Where padding goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaddingSide {
    /// After the tokens: for training.
    #[default]
    Right,
    /// Before the tokens: for generation, which goes on at the right end.
    Left,
}

/// How wide the rectangle is, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadTo {
    /// As wide as the longest row.
    #[default]
    Longest,
    /// The longest row, rounded up to a multiple.
    MultipleOf(usize),
    /// This width, whatever the rows; a longer row is an error.
    Fixed(usize),
}

/// How to pad. The default pads on the right to the longest row with token 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollateOptions {
    /// Token id in padded places.
    pub pad_token_id: u32,
    /// Side of the padding.
    pub padding_side: PaddingSide,
    /// Width of the batch.
    pub pad_to: PadTo,
}

/// Why rows do not fit into a rectangle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollateError {
    /// A row is longer than the fixed width.
    #[error(
        "row {row} has {len} tokens, but rows are padded to {width}; drop or truncate long rows, \
         or pad to more"
    )]
    RowTooLong {
        /// Index of the row in the batch.
        row: usize,
        /// Tokens in the row.
        len: usize,
        /// The fixed width.
        width: usize,
    },
    /// Fields of a sample have different lengths.
    #[error(
        "document {document} of row {row} has {tokens} tokens, but {found} {field}; each token \
         needs one"
    )]
    Misaligned {
        /// Index of the row in the batch.
        row: usize,
        /// Index of the document in the row.
        document: usize,
        /// The field: `labels` or `position_ids`.
        field: &'static str,
        /// Tokens in the document.
        tokens: usize,
        /// Entries in the field.
        found: usize,
    },
    /// The width was to be a multiple of 0.
    #[error("rows cannot be padded to a multiple of 0; give 1 or more")]
    ZeroMultiple,
    /// The batch does not fit in memory.
    #[error(
        "a batch of {rows} rows padded by the rule {pad_to:?} does not fit in memory; pad to less \
         or take fewer rows"
    )]
    TooLarge {
        /// Number of rows.
        rows: usize,
        /// The rule for the width.
        pad_to: PadTo,
    },
}

/// One sample a row.
///
/// Samples may be given as `&[Sample]`, `&[&Sample]` or `&[Arc<Sample>]`. No
/// samples give a batch of 0 rows.
///
/// # Errors
/// See [`CollateError`].
pub fn collate<S: Borrow<Sample>>(
    samples: &[S],
    options: &CollateOptions,
) -> Result<Batch, CollateError> {
    let rows: Vec<&[S]> = samples.chunks(1).collect();
    collate_packed(&rows, options)
}

/// Several samples a row, one after the other without anything between them.
///
/// Padding stands at one end of the row, on the side that the options say. A
/// sample without tokens takes no place and no segment id.
///
/// # Errors
/// See [`CollateError`].
pub fn collate_packed<S: Borrow<Sample>, R: AsRef<[S]>>(
    rows: &[R],
    options: &CollateOptions,
) -> Result<Batch, CollateError> {
    let row_len = |row: &R| row.as_ref().iter().map(|s| s.borrow().len()).sum::<usize>();
    let longest = rows.iter().map(row_len).max().unwrap_or(0);
    let too_large = || CollateError::TooLarge {
        rows: rows.len(),
        pad_to: options.pad_to,
    };
    let width = match options.pad_to {
        PadTo::Longest => longest,
        PadTo::MultipleOf(0) => return Err(CollateError::ZeroMultiple),
        PadTo::MultipleOf(multiple) => longest
            .checked_next_multiple_of(multiple)
            .ok_or_else(too_large)?,
        PadTo::Fixed(width) => width,
    };
    let mut batch = Batch {
        rows: rows.len(),
        width,
        ..Batch::default()
    };
    let slots = rows.len().checked_mul(width).ok_or_else(too_large)?;
    batch.try_reserve(slots).map_err(|_| too_large())?;
    for (row, documents) in rows.iter().enumerate() {
        let len = row_len(documents);
        let Some(padding) = width.checked_sub(len) else {
            return Err(CollateError::RowTooLong { row, len, width });
        };
        if options.padding_side == PaddingSide::Left {
            batch.push_padding(padding, options.pad_token_id);
        }
        let mut segment = 0;
        for (document, sample) in documents.as_ref().iter().enumerate() {
            let sample = sample.borrow();
            check_aligned(sample, row, document)?;
            if !sample.is_empty() {
                segment += 1;
                batch.push_document(sample, segment);
            }
        }
        if options.padding_side == PaddingSide::Right {
            batch.push_padding(padding, options.pad_token_id);
        }
    }
    Ok(batch)
}

/// All samples in one row, one after the other: a batch without padding, unless
/// the width is to be a multiple or fixed.
///
/// # Errors
/// See [`CollateError`]; the row of an error is 0, its document the index of
/// the sample.
pub fn collate_flattened<S: Borrow<Sample>>(
    samples: &[S],
    options: &CollateOptions,
) -> Result<Batch, CollateError> {
    collate_packed(&[samples], options)
}

fn check_aligned(sample: &Sample, row: usize, document: usize) -> Result<(), CollateError> {
    let tokens = sample.len();
    let positions = sample.position_ids.as_ref().map_or(tokens, Vec::len);
    for (field, found) in [("labels", sample.labels.len()), ("position_ids", positions)] {
        if found != tokens {
            return Err(CollateError::Misaligned {
                row,
                document,
                field,
                tokens,
                found,
            });
        }
    }
    Ok(())
}

impl Batch {
    fn try_reserve(&mut self, slots: usize) -> Result<(), TryReserveError> {
        self.input_ids.try_reserve_exact(slots)?;
        self.labels.try_reserve_exact(slots)?;
        self.position_ids.try_reserve_exact(slots)?;
        self.segment_ids.try_reserve_exact(slots)
    }

    fn push_padding(&mut self, count: usize, pad_token_id: u32) {
        let len = self.input_ids.len() + count;
        self.input_ids.resize(len, pad_token_id);
        self.labels.resize(len, IGNORE_INDEX);
        self.position_ids.resize(len, 0);
        self.segment_ids.resize(len, 0);
    }

    /// Appends a sample that has tokens.
    fn push_document(&mut self, sample: &Sample, segment: u32) {
        let start = self.input_ids.len();
        self.input_ids.extend_from_slice(&sample.input_ids);
        self.labels.extend_from_slice(&sample.labels);
        self.labels[start] = IGNORE_INDEX;
        match &sample.position_ids {
            Some(position_ids) => self.position_ids.extend_from_slice(position_ids),
            None => self.position_ids.extend(0..sample.len() as u32),
        }
        self.segment_ids.resize(self.input_ids.len(), segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: i32 = IGNORE_INDEX;

    /// A sample of `len` tokens, all trained, with ids from `first` up.
    fn sample(first: u32, len: u32) -> Sample {
        Sample::all_trained((first..first + len).collect())
    }

    fn options(padding_side: PaddingSide, pad_to: PadTo) -> CollateOptions {
        CollateOptions {
            pad_token_id: 99,
            padding_side,
            pad_to,
        }
    }

    #[test]
    fn one_sample_a_row_to_a_multiple() {
        let batch = collate(
            &[sample(10, 3), sample(20, 5)],
            &options(PaddingSide::Right, PadTo::MultipleOf(4)),
        )
        .unwrap();
        let expected = Batch {
            rows: 2,
            width: 8,
            input_ids: vec![
                10, 11, 12, 99, 99, 99, 99, 99, //
                20, 21, 22, 23, 24, 99, 99, 99,
            ],
            labels: vec![
                X, 11, 12, X, X, X, X, X, //
                X, 21, 22, 23, 24, X, X, X,
            ],
            position_ids: vec![
                0, 1, 2, 0, 0, 0, 0, 0, //
                0, 1, 2, 3, 4, 0, 0, 0,
            ],
            segment_ids: vec![
                1, 1, 1, 0, 0, 0, 0, 0, //
                1, 1, 1, 1, 1, 0, 0, 0,
            ],
        };
        assert_eq!(batch, expected);
        assert_eq!(batch.trained_tokens(), 6);
        assert_eq!((batch.real_tokens(), batch.slots()), (8, 16));
    }

    #[test]
    fn packed_rows_number_their_documents() {
        let rows = [vec![sample(10, 3), sample(20, 2)], vec![sample(30, 4)]];
        let batch =
            collate_packed(&rows, &options(PaddingSide::Right, PadTo::MultipleOf(8))).unwrap();
        assert_eq!(
            batch.segment_ids,
            [1, 1, 1, 2, 2, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
        );
        assert_eq!(
            batch.position_ids,
            [0, 1, 2, 0, 1, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0]
        );
        assert_eq!(
            batch.labels,
            [X, 11, 12, X, 21, X, X, X, X, 31, 32, 33, X, X, X, X]
        );
        assert_eq!(batch.documents(), 3);
    }

    #[test]
    fn a_flattened_batch_has_no_padding() {
        let samples = [sample(10, 3), sample(20, 2)];
        let batch = collate_flattened(&samples, &CollateOptions::default()).unwrap();
        assert_eq!((batch.rows, batch.width), (1, 5));
        assert_eq!(batch.input_ids, [10, 11, 12, 20, 21]);
        assert_eq!(batch.labels, [X, 11, 12, X, 21]);
        assert_eq!(batch.position_ids, [0, 1, 2, 0, 1]);
        assert_eq!(batch.segment_ids, [1, 1, 1, 2, 2]);
    }

    #[test]
    fn left_padding_and_given_positions() {
        let mut pose = sample(20, 2);
        pose.position_ids = Some(vec![0, 70]);
        let rows = [vec![sample(10, 2), Sample::default(), pose]];
        let batch = collate_packed(&rows, &options(PaddingSide::Left, PadTo::Fixed(6))).unwrap();
        assert_eq!(batch.input_ids, [99, 99, 10, 11, 20, 21]);
        assert_eq!(batch.position_ids, [0, 0, 0, 1, 0, 70]);
        assert_eq!(batch.segment_ids, [0, 0, 1, 1, 2, 2]);
        assert_eq!(batch.labels, [X, X, X, 11, X, 21]);
    }

    #[test]
    fn no_rows_and_rows_without_tokens() {
        let options = options(PaddingSide::Right, PadTo::Longest);
        let none: [Sample; 0] = [];
        let batch = collate(&none, &options).unwrap();
        assert_eq!(
            (batch.rows, batch.width, batch.documents()),
            (0, 0, 0),
            "{batch:?}"
        );
        let batch = collate(&[Sample::default(), sample(10, 2)], &options).unwrap();
        assert_eq!(batch.segment_ids, [0, 0, 1, 1]);
    }

    #[test]
    fn errors_name_row_and_document() {
        let long = collate(
            &[sample(0, 2), sample(0, 5)],
            &options(PaddingSide::Right, PadTo::Fixed(4)),
        );
        assert_eq!(
            long.unwrap_err().to_string(),
            "row 1 has 5 tokens, but rows are padded to 4; drop or truncate long rows, or pad to \
             more"
        );
        let mut odd = sample(0, 3);
        odd.labels.pop();
        let options = options(PaddingSide::Right, PadTo::Longest);
        assert_eq!(
            collate_packed(&[[sample(0, 2), odd]], &options)
                .unwrap_err()
                .to_string(),
            "document 1 of row 0 has 3 tokens, but 2 labels; each token needs one"
        );
        let zero = CollateOptions {
            pad_to: PadTo::MultipleOf(0),
            ..options
        };
        assert_eq!(
            collate(&[sample(0, 2)], &zero),
            Err(CollateError::ZeroMultiple)
        );
        for pad_to in [PadTo::Fixed(usize::MAX), PadTo::MultipleOf(usize::MAX - 1)] {
            let huge = CollateOptions { pad_to, ..options };
            let error = collate(&[sample(0, 2), sample(0, 1)], &huge).unwrap_err();
            assert_eq!(error, CollateError::TooLarge { rows: 2, pad_to });
        }
    }
}
