//! Anchored preference optimization, for answers better than the model's own.

use super::{PairLoss, logistic};

/// `1 − σ(βc) + σ(βr)`, which raises the chosen answer and lowers the rejected one:
/// arXiv 2408.06266, Eq. 7.
#[must_use]
pub fn apo_zero(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let (c, r) = (logistic(beta * chosen), logistic(beta * rejected));
    PairLoss {
        value: logistic(-beta * chosen) + r,
        chosen: -beta * c * logistic(-beta * chosen),
        rejected: beta * r * logistic(-beta * rejected),
    }
}
