//! Provably robust direct preference optimization.

use super::{PairLoss, log_logistic, logistic};

/// `[−(1 − ε) log σ(βΔ) + ε log σ(−βΔ)] / (1 − 2ε)`: arXiv 2403.00409, an unbiased
/// estimate of the loss of [`sigmoid`](super::sigmoid()) where a part `ε` of the
/// preferences, below one half, is swapped. It may be negative.
#[must_use]
pub fn robust(chosen: f64, rejected: f64, beta: f64, epsilon: f64) -> PairLoss {
    let x = beta * (chosen - rejected);
    let scale = 1.0 / (1.0 - 2.0 * epsilon);
    let value = epsilon * log_logistic(-x) - (1.0 - epsilon) * log_logistic(x);
    let slope = -(1.0 - epsilon) * logistic(-x) - epsilon * logistic(x);
    PairLoss::of_margin(scale * value, beta * scale * slope)
}
