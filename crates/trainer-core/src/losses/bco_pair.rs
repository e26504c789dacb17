//! Binary classifier optimization.

use super::{PairLoss, log_logistic, logistic};

/// `−log σ(βc) − log σ(−βr)`: arXiv 2404.04656 for pairs, with a reward shift of 0.
#[must_use]
pub fn bco_pair(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let (c, r) = (beta * chosen, beta * rejected);
    PairLoss {
        value: -log_logistic(c) - log_logistic(-r),
        chosen: -beta * logistic(-c),
        rejected: beta * logistic(r),
    }
}
