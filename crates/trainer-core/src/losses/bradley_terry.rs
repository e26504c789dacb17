//! Reward models.

use super::{PairLoss, smoothed};

/// `−log σ(r_c − r_r − m) + k (r_c + r_r)²` of the rewards of two answers: the
/// Bradley-Terry loss of arXiv 2203.02155, Eq. 1, with the margin `m` of
/// arXiv 2307.09288, Eq. 2, and the term of arXiv 2312.09244 that keeps rewards
/// around zero, times `k`, which is `center_rewards_coefficient`.
#[must_use]
pub fn bradley_terry(chosen: f64, rejected: f64, margin: f64, centering: f64) -> PairLoss {
    let loss = smoothed(chosen - rejected - margin, 0.0);
    let sum = chosen + rejected;
    PairLoss {
        value: loss.value + centering * sum * sum,
        chosen: loss.slope + 2.0 * centering * sum,
        rejected: -loss.slope + 2.0 * centering * sum,
    }
}
