//! What is trained: counts and weights over labels.
//!
//! Invariant: a label is a target exactly when it differs from
//! [`IGNORE_INDEX`]; every function here keeps one entry a token.

use crate::sample::{IGNORE_INDEX, Sample};

/// Number of labels other than [`IGNORE_INDEX`].
pub fn trained_tokens(labels: &[i32]) -> usize {
    labels
        .iter()
        .filter(|&&label| label != IGNORE_INDEX)
        .count()
}

/// Whether to keep the sample: true when it has a target to learn.
///
/// The first label does not count, because no token precedes it; a row without
/// a target would add nothing but time to a batch.
pub fn drop_no_trainable_tokens(sample: &Sample) -> bool {
    sample
        .labels
        .iter()
        .skip(1)
        .any(|&label| label != IGNORE_INDEX)
}

/// A weight for each label that gives every trained span the same total.
///
/// A span is an unbroken run of targets, such as one assistant turn. Each of
/// its tokens weighs one over the length of the span, and tokens that are not
/// targets weigh 0, so that long answers do not drown short ones.
///
/// ```
/// # use seqprep::weighted_label_mask;
/// assert_eq!(weighted_label_mask(&[1, 2, -100, 3]), [0.5, 0.5, 0.0, 1.0]);
/// ```
pub fn weighted_label_mask(labels: &[i32]) -> Vec<f32> {
    let mut weights = Vec::with_capacity(labels.len());
    for span in labels.chunk_by(|a, b| (*a == IGNORE_INDEX) == (*b == IGNORE_INDEX)) {
        let weight = if span[0] == IGNORE_INDEX {
            0.0
        } else {
            1.0 / span.len() as f32
        };
        weights.resize(weights.len() + span.len(), weight);
    }
    weights
}

/// [`weighted_label_mask`] of each row of a row-major rectangle of `width`
/// labels a row. A span ends with its row.
pub fn weighted_label_masks(labels: &[i32], width: usize) -> Vec<f32> {
    labels
        .chunks(width.max(1))
        .flat_map(weighted_label_mask)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: i32 = IGNORE_INDEX;

    #[test]
    fn weights_sum_to_one_in_each_span() {
        let third = 1.0 / 3.0;
        assert_eq!(
            weighted_label_mask(&[X, 5, 6, X, X, 7, 8, 9]),
            [0.0, 0.5, 0.5, 0.0, 0.0, third, third, third]
        );
        assert_eq!(weighted_label_mask(&[1, 2, X, 3]), [0.5, 0.5, 0.0, 1.0]);
        assert_eq!(weighted_label_mask(&[X, X]), [0.0, 0.0]);
        assert!(weighted_label_mask(&[]).is_empty());
    }

    #[test]
    fn a_span_ends_with_its_row() {
        assert_eq!(
            weighted_label_masks(&[X, 1, 2, 3, X, X], 2),
            [0.0, 1.0, 0.5, 0.5, 0.0, 0.0]
        );
        assert!(weighted_label_masks(&[], 0).is_empty());
    }

    #[test]
    fn a_first_label_alone_trains_nothing() {
        let sample = |labels: &[i32]| Sample {
            input_ids: vec![7; labels.len()],
            labels: labels.to_vec(),
            position_ids: None,
        };
        assert!(!drop_no_trainable_tokens(&sample(&[])));
        assert!(!drop_no_trainable_tokens(&sample(&[X, X])));
        assert!(!drop_no_trainable_tokens(&sample(&[7, X])));
        assert!(drop_no_trainable_tokens(&sample(&[X, 7])));
        assert_eq!(sample(&[7, 7, X, 7]).trained_tokens(), 2);
        assert_eq!(sample(&[]).trained_tokens(), 0);
    }
}
