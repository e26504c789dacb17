//! Efficient exact optimization.

use super::{PairLoss, log_logistic, logistic};

/// `p (log p − log(1 − ε)) + (1 − p)(log(1 − p) − log ε)` with `p = σ(βΔ)`, the
/// divergence of the policy's preference from one that is wrong with probability
/// `ε`: arXiv 2402.00856, Eq. 16. `ε` lies between 0 and 1, neither included.
#[must_use]
pub fn exo_pair(chosen: f64, rejected: f64, beta: f64, epsilon: f64) -> PairLoss {
    let x = beta * (chosen - rejected);
    let (p, q) = (logistic(x), logistic(-x));
    let right = log_logistic(x) - (-epsilon).ln_1p();
    let wrong = log_logistic(-x) - epsilon.ln();
    // dp/dx = p·q; the terms from the logarithms, q·p and −p·q, cancel.
    PairLoss::of_margin(p * right + q * wrong, beta * p * q * (right - wrong))
}
