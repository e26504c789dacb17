//! Simple preference optimization.

use super::{PairLoss, smoothed};

/// `−log σ(β(a_c − a_r) − γ)` with `a` the mean log-probability of an answer:
/// arXiv 2405.14734, Eq. 6. There is no reference model.
#[must_use]
pub fn simpo(chosen: f64, rejected: f64, beta: f64, gamma: f64) -> PairLoss {
    let loss = smoothed(beta * (chosen - rejected) - gamma, 0.0);
    PairLoss::of_margin(loss.value, beta * loss.slope)
}
