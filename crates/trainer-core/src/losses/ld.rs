//! Length-desensitized DPO: arXiv 2409.06411.

/// Weight of the log-probability of the answer's token number `index`: 1 within the
/// length of the shorter answer of the pair, `alpha` beyond it.
#[must_use]
pub fn token_weight(index: usize, shorter: usize, alpha: f64) -> f64 {
    if index < shorter { 1.0 } else { alpha }
}
