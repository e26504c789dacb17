//! Anchored preference optimization, for answers worse than the model's own.

use super::{PairLoss, logistic};

/// `σ(βc) + 1 − σ(βΔ)`, which lowers the chosen answer and the rejected one more:
/// arXiv 2408.06266, Eq. 8.
#[must_use]
pub fn apo_down(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let (c, margin) = (beta * chosen, beta * (chosen - rejected));
    let slope = beta * logistic(margin) * logistic(-margin);
    PairLoss {
        value: logistic(c) + logistic(-margin),
        chosen: beta * logistic(c) * logistic(-c) - slope,
        rejected: slope,
    }
}
