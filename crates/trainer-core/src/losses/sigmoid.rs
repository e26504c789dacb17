//! Direct preference optimization.

use super::{PairLoss, smoothed};

/// `−(1 − ε) log σ(βΔ) − ε log σ(−βΔ)`: for `ε = 0` the loss of arXiv 2305.18290, Eq. 7;
/// above it conservative DPO (Eric Mitchell, "A note on DPO with noisy preferences",
/// 2023), for preferences of which a part `ε` is wrong. Other than that of
/// [`robust`](super::robust()), it keeps the policy from becoming certain: it is least at
/// `σ(βΔ) = 1 − ε`.
#[must_use]
pub fn sigmoid(chosen: f64, rejected: f64, beta: f64, epsilon: f64) -> PairLoss {
    let loss = smoothed(beta * (chosen - rejected), epsilon);
    PairLoss::of_margin(loss.value, beta * loss.slope)
}
