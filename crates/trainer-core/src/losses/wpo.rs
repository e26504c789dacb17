//! Weighted preference optimization: arXiv 2406.11827.

/// `exp(mean over tokens of (log p − log Σ_v p_v²))`: Eq. 2, with each token's
/// probability measured by that of a token drawn from the model. The product of
/// this for both answers weighs the loss of a pair; no gradient goes through it.
///
/// Takes the sums over the tokens of an answer of `log p` and of `log Σ_v p_v²`.
#[must_use]
pub fn wpo_weight(log_prob_sum: f64, log_square_sum: f64, tokens: usize) -> f64 {
    ((log_prob_sum - log_square_sum) / tokens.max(1) as f64).exp()
}
