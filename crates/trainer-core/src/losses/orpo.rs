//! Odds ratio preference optimization.

use super::{PairLoss, PointLoss, log_logistic, logistic};

/// Closest to 0 that a mean log-probability is taken: nearer, a 32-bit float cannot
/// tell a probability from one, whose odds are infinite.
const CERTAIN: f64 = -1e-7;

/// `log(p / (1 − p))` of a mean log-probability, and its derivative: arXiv
/// 2403.07691, Eq. 4.
#[must_use]
pub fn log_odds(mean_log_prob: f64) -> PointLoss {
    // Not `min`, which takes the number of a number and a NaN.
    let a = match mean_log_prob > CERTAIN {
        true => CERTAIN,
        false => mean_log_prob,
    };
    let complement = -a.exp_m1();
    PointLoss {
        value: a - complement.ln(),
        slope: 1.0 / complement,
    }
}

/// `−β log σ(log odds_c − log odds_r)` of the mean log-probabilities of the answers:
/// arXiv 2403.07691, Eq. 7. The other term of ORPO is [`nll`](super::nll()).
#[must_use]
pub fn orpo(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let (c, r) = (log_odds(chosen), log_odds(rejected));
    let ratio = c.value - r.value;
    let slope = -beta * logistic(-ratio);
    PairLoss {
        value: -beta * log_logistic(ratio),
        chosen: slope * c.slope,
        rejected: -slope * r.slope,
    }
}
