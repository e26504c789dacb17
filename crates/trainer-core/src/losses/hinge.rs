//! The hinge loss of sequence likelihood calibration.

use super::PairLoss;

/// `max(0, 1 − βΔ)`: SLiC-HF (arXiv 2305.10425) on log-probabilities relative to
/// the reference, as in RSO (arXiv 2309.06657). At the corner the derivative is 0.
#[must_use]
pub fn hinge(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let room = 1.0 - beta * (chosen - rejected);
    if room <= 0.0 {
        PairLoss::of_margin(0.0, 0.0)
    } else {
        // A NaN goes on from here.
        PairLoss::of_margin(room, -beta)
    }
}
