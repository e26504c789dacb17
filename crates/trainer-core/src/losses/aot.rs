//! Alignment via optimal transport, for pairs.

use super::{PairLoss, smoothed};

/// `−(1 − ε) log σ(βδ) − ε log σ(−βδ)` with `δ` the difference between the sorted
/// `log π_c − log π_r` and the sorted `log π_ref,c − log π_ref,r` of the batch, so
/// that the one distribution comes to dominate the other: arXiv 2406.05882.
///
/// Takes the log-probabilities of each pair under policy and reference, chosen
/// first. The losses are in the order of the pairs, each with the reference that
/// its rank gives it.
#[must_use]
pub fn aot(policy: &[[f64; 2]], reference: &[[f64; 2]], beta: f64, epsilon: f64) -> Vec<PairLoss> {
    let margins = |pairs: &[[f64; 2]]| pairs.iter().map(|[c, r]| c - r).collect::<Vec<_>>();
    let (policy, mut reference) = (margins(policy), margins(reference));
    reference.sort_by(f64::total_cmp);
    let mut losses = vec![PairLoss::default(); policy.len()];
    for (pair, reference) in ranked(&policy).into_iter().zip(reference) {
        let loss = smoothed(beta * (policy[pair] - reference), epsilon);
        losses[pair] = PairLoss::of_margin(loss.value, beta * loss.slope);
    }
    losses
}

/// Indices from the smallest value to the largest; equals keep their order.
pub(super) fn ranked(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}
