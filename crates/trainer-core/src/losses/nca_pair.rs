//! Noise contrastive alignment.

use super::{PairLoss, log_logistic, logistic};

/// `−log σ(βc) − ½ log σ(−βc) − ½ log σ(−βr)`: NCA for pairs, arXiv 2402.05369.
#[must_use]
pub fn nca_pair(chosen: f64, rejected: f64, beta: f64) -> PairLoss {
    let (c, r) = (beta * chosen, beta * rejected);
    PairLoss {
        value: -log_logistic(c) - 0.5 * log_logistic(-c) - 0.5 * log_logistic(-r),
        chosen: beta * (0.5 * logistic(c) - logistic(-c)),
        rejected: beta * 0.5 * logistic(r),
    }
}
