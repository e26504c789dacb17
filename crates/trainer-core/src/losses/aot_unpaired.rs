//! Alignment via optimal transport, for answers that need not be pairs.

use super::aot::ranked;
use super::{PairLoss, smoothed};

/// `−(1 − ε) log σ(βδ) − ε log σ(−βδ)` with `δ` the difference between the sorted
/// `c` and the sorted `r` of the batch: arXiv 2406.05882.
///
/// The losses are in the order of the chosen answers; the derivative for a rejected
/// answer stands at the place of that answer, with the value of its partner left to
/// the chosen one.
#[must_use]
pub fn aot_unpaired(ratios: &[[f64; 2]], beta: f64, epsilon: f64) -> Vec<PairLoss> {
    let [chosen, rejected] = [0, 1].map(|side| ratios.iter().map(|r| r[side]).collect::<Vec<_>>());
    let mut losses = vec![PairLoss::default(); ratios.len()];
    for (c, r) in ranked(&chosen).into_iter().zip(ranked(&rejected)) {
        let loss = smoothed(beta * (chosen[c] - rejected[r]), epsilon);
        losses[c].value = loss.value;
        losses[c].chosen = beta * loss.slope;
        losses[r].rejected = -beta * loss.slope;
    }
    losses
}
