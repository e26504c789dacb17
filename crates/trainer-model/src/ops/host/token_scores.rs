//! What a row of logits says of the token that follows, row by row.

use rayon::prelude::*;

use super::math::{exp, max_of};

/// Columns of a score; see [`crate::ops::token_scores`].
pub(in crate::ops) const COLUMNS: usize = 5;

/// Lanes of partial results; a multiple of every vector width.
const LANES: usize = 16;

/// Sums over `e = exp(x − max)` of a row.
#[derive(Default, Clone, Copy)]
struct Sums {
    /// Of `e`.
    weights: f32,
    /// Of `e²`.
    squares: f32,
    /// Of `e (x − max)`.
    products: f32,
    /// Of `x`.
    logits: f32,
}

#[inline(always)]
fn sums(row: &[f32], max: f32) -> Sums {
    let mut lanes = [Sums::default(); LANES];
    let add = |lane: &mut Sums, x: f32| {
        let shifted = x - max;
        let e = exp(shifted);
        lane.weights += e;
        lane.squares += e * e;
        lane.products += e * shifted;
        lane.logits += x;
    };
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            add(lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        add(lane, x);
    }
    lanes.iter().fold(Sums::default(), |all, lane| Sums {
        weights: all.weights + lane.weights,
        squares: all.squares + lane.squares,
        products: all.products + lane.products,
        logits: all.logits + lane.logits,
    })
}

/// The scores of each row of logits, [`COLUMNS`] numbers a row.
pub(in crate::ops) fn forward(logits: &[f32], targets: &[usize]) -> Vec<f32> {
    let width = logits.len() / targets.len().max(1);
    let mut scores = vec![0.0; targets.len() * COLUMNS];
    scores
        .par_chunks_mut(COLUMNS)
        .zip(logits.par_chunks(width.max(1)))
        .zip(targets)
        .for_each(|((score, row), &target)| {
            let (max, sums) = pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    let max = max_of(row);
                    (max, sums(row, max))
                },
            );
            let log_sum = sums.weights.ln();
            let gap = max - row[target];
            score.copy_from_slice(&[
                -gap - log_sum,
                log_sum - sums.products / sums.weights,
                gap,
                sums.logits / width as f32,
                sums.squares.ln() - 2.0 * log_sum,
            ]);
        });
    scores
}

/// Turns logits into the gradient of `Σ weight · log p(target)` with respect to
/// them: `weight · (onehot − softmax)`.
pub(in crate::ops) fn backward(
    logits: &mut [f32],
    targets: &[usize],
    scores: &[f32],
    weights: &[f32],
) {
    let width = logits.len() / targets.len().max(1);
    logits
        .par_chunks_mut(width.max(1))
        .zip(targets)
        .zip(scores.par_chunks(COLUMNS))
        .zip(weights)
        .for_each(|(((row, &target), score), &weight)| {
            // log p(target) = logit − log Σ exp, which the forward pass has.
            let shift = row[target] - score[0];
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for x in row.iter_mut() {
                        *x = -weight * exp(*x - shift);
                    }
                },
            );
            row[target] += weight;
        });
}
