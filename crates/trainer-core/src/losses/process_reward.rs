//! Process reward models.

use super::{PairLoss, smoothed};

/// Cross entropy of the verdict on a step, of the scores that it is wrong and that
/// it is right: the loss of arXiv 2305.20050 with two classes.
///
/// In the result, `rejected` is the derivative with respect to the score of a wrong
/// step, `chosen` with respect to that of a right one.
#[must_use]
pub fn process_reward(wrong: f64, right: f64, is_right: bool) -> PairLoss {
    let loss = smoothed(right - wrong, if is_right { 0.0 } else { 1.0 });
    PairLoss::of_margin(loss.value, loss.slope)
}
