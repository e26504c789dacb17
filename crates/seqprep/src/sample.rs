//! The types that travel through the data path: a tokenized [`Sample`] and a
//! rectangular [`Batch`] of them.
//!
//! Invariants: all fields of a sample have one entry a token; a batch is
//! row-major with `rows × width` entries in every field; segment id 0 marks
//! padding and nothing else.

use serde::{Deserialize, Serialize};

/// Label of a token that is never a target (`ignore_index` of torch).
pub const IGNORE_INDEX: i32 = -100;

/// One tokenized document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The token id where the token is a target, [`IGNORE_INDEX`] elsewhere.
    /// Not shifted: `labels[t]` belongs to `input_ids[t]` and is predicted from
    /// the tokens before it.
    pub labels: Vec<i32>,
    /// Positions for the model; `0, 1, 2, ...` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_ids: Option<Vec<u32>>,
}

/// A rectangle of tokens, ready for the model: `rows × width`, row-major.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BatchFields")]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Tokens in a row, padding included.
    pub width: usize,
    /// Token ids; the padding id where `segment_ids` is 0.
    pub input_ids: Vec<u32>,
    /// As [`Sample::labels`]; [`IGNORE_INDEX`] on padding and on the first
    /// token of every document, which nothing precedes.
    pub labels: Vec<i32>,
    /// Position of each token in its document.
    pub position_ids: Vec<u32>,
    /// 1, 2, ... for the documents of a row, 0 for padding. A token attends
    /// only to tokens of its own segment.
    pub segment_ids: Vec<u32>,
}

/// The fields of a [`Batch`] as they are read, before anything is known of them.
#[derive(Deserialize)]
struct BatchFields {
    rows: usize,
    width: usize,
    input_ids: Vec<u32>,
    labels: Vec<i32>,
    position_ids: Vec<u32>,
    segment_ids: Vec<u32>,
}

impl TryFrom<BatchFields> for Batch {
    type Error = String;

    fn try_from(read: BatchFields) -> Result<Self, String> {
        let BatchFields {
            rows,
            width,
            input_ids,
            labels,
            position_ids,
            segment_ids,
        } = read;
        for (field, found) in [
            ("input_ids", input_ids.len()),
            ("labels", labels.len()),
            ("position_ids", position_ids.len()),
            ("segment_ids", segment_ids.len()),
        ] {
            if rows.checked_mul(width) != Some(found) {
                return Err(format!(
                    "a batch of {rows} rows of {width} tokens has {found} {field}; each token \
                     needs one"
                ));
            }
        }
        Ok(Self {
            rows,
            width,
            input_ids,
            labels,
            position_ids,
            segment_ids,
        })
    }
}

impl Sample {
    /// A sample in which every token is a target, as in pretraining.
    pub fn all_trained(input_ids: Vec<u32>) -> Self {
        let labels = input_ids.iter().map(|&id| id as i32).collect();
        Self {
            input_ids,
            labels,
            position_ids: None,
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// True when there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of targets: labels other than [`IGNORE_INDEX`], the first one
    /// left out, since no token precedes it. It is the number that the sample
    /// adds to [`Batch::trained_tokens`].
    pub fn trained_tokens(&self) -> usize {
        crate::labels::trained_tokens(self.labels.get(1..).unwrap_or_default())
    }
}

impl Batch {
    /// Number of targets: labels other than [`IGNORE_INDEX`].
    pub fn trained_tokens(&self) -> usize {
        crate::labels::trained_tokens(&self.labels)
    }

    /// Number of tokens that are not padding.
    pub fn real_tokens(&self) -> usize {
        self.segment_ids.iter().filter(|&&id| id != 0).count()
    }

    /// Number of token slots, padding included: `rows × width`.
    pub fn slots(&self) -> usize {
        self.rows * self.width
    }

    /// Number of documents in all rows.
    pub fn documents(&self) -> usize {
        if self.width == 0 {
            return 0;
        }
        // Segment ids of a row count up from 1, so the largest is the count.
        self.segment_ids
            .chunks(self.width)
            .map(|row| row.iter().copied().max().unwrap_or(0) as usize)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let batch = Batch {
            rows: 1,
            width: 2,
            input_ids: vec![7, 0],
            labels: vec![IGNORE_INDEX, IGNORE_INDEX],
            position_ids: vec![0, 0],
            segment_ids: vec![1, 0],
        };
        let text = serde_json::to_string(&batch).unwrap();
        assert_eq!(serde_json::from_str::<Batch>(&text).unwrap(), batch);
        let shorter = text.replace("[7,0]", "[7]");
        let error = serde_json::from_str::<Batch>(&shorter).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a batch of 1 rows of 2 tokens has 1 input_ids; each token needs one"
        );
    }
}
