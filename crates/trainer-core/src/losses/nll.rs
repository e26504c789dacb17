//! The loss of supervised fine-tuning on the chosen answers: the `sft` loss type of
//! DPO, what `rpo_alpha` weighs (arXiv 2404.19733), and the second term of CPO and
//! ORPO.

use super::PointLoss;

/// `−Σ log π / tokens` over the tokens of all documents together, with the
/// derivative with respect to each token's log-probability. Without tokens there is
/// no loss.
#[must_use]
pub fn nll(log_prob_sum: f64, tokens: usize) -> PointLoss {
    if tokens == 0 {
        return PointLoss::default();
    }
    PointLoss {
        value: -log_prob_sum / tokens as f64,
        slope: -1.0 / tokens as f64,
    }
}
