//! Direct preference optimization.

use super::{PairLoss, smoothed};

/// `−log σ(βΔ)`: arXiv 2305.18290, Eq. 7.
#[must_use]
pub fn sigmoid(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let loss = smoothed(beta * (chosen - rejected), 0.0);
    PairLoss::of_margin(loss.value, beta * loss.slope)
}
