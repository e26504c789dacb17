//! The loss that was found by a search over losses (DiscoPOP).

use super::{PairLoss, log_logistic, logistic};

/// `(1 − m)(−log σ(x)) + m e⁻ˣ` with `x = βΔ` and `m = σ(x/τ)`: arXiv 2406.08414,
/// Eq. 5. `τ` lies between 0 and 1, neither included.
#[must_use]
pub fn discopop(chosen: f64, rejected: f64, beta: f64, tau: f64) -> PairLoss {
    let x = beta * (chosen - rejected);
    let (mix, rest) = (logistic(x / tau), logistic(-x / tau));
    // m e⁻ˣ in one exponent: e⁻ˣ alone overflows where m is all but nothing.
    let exponential = (log_logistic(x / tau) - x).exp();
    let slope =
        (mix * log_logistic(x) + exponential) * rest / tau - rest * logistic(-x) - exponential;
    PairLoss::of_margin(-rest * log_logistic(x) + exponential, beta * slope)
}
