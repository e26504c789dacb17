//! Kahneman-Tversky optimization.

use super::{PointLoss, logistic};

/// `w (1 − σ(β(x − z)))` for a desirable answer, `w (1 − σ(β(z − x)))` for an
/// undesirable one, with `x = log π − log π_ref` and `z` the estimate of
/// [`kto_kl`], a constant: arXiv 2402.01306, Eq. 7 and 8.
#[must_use]
pub fn kto(ratio: f64, kl: f64, desirable: bool, beta: f64, weight: f64) -> PointLoss {
    let sign = if desirable { 1.0 } else { -1.0 };
    let x = sign * beta * (ratio - kl);
    PointLoss {
        value: weight * logistic(-x),
        slope: -sign * weight * beta * logistic(x) * logistic(-x),
    }
}

/// `max(0, mean(log π − log π_ref))` over answers to other prompts than their own:
/// what stands for the KL divergence of the policy from the reference. Without
/// answers it is 0.
#[must_use]
pub fn kto_kl(mismatched_ratios: &[f64]) -> f64 {
    let n = mismatched_ratios.len().max(1) as f64;
    let mean = mismatched_ratios.iter().sum::<f64>() / n;
    // Not `max`, which takes the number of a number and a NaN.
    match mean <= 0.0 {
        true => 0.0,
        false => mean,
    }
}
