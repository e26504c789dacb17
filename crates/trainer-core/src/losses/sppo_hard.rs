//! Self-play preference optimization.

use super::PairLoss;

/// `(c − 1/(2β))² + (r + 1/(2β))²`: arXiv 2405.00675, Eq. 4.7, where the chosen
/// answer is certain to win.
#[must_use]
pub fn sppo_hard(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let (c, r) = (chosen - 0.5 / beta, rejected + 0.5 / beta);
    PairLoss {
        value: c * c + r * r,
        chosen: 2.0 * c,
        rejected: 2.0 * r,
    }
}
