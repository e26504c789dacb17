//! Contrastive preference optimization.

use super::{PairLoss, smoothed};

/// `−log σ(β(log π_c − log π_r))` of the summed log-probabilities: the first term of
/// arXiv 2401.08417, Eq. 3, where the reference is taken as uniform. The second
/// term, times `cpo_alpha`, is [`nll`](super::nll()).
#[must_use]
pub fn cpo(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let loss = smoothed(beta * (chosen - rejected), 0.0);
    PairLoss::of_margin(loss.value, beta * loss.slope)
}
