//! Divergences between policy and reference other than the reverse KL divergence
//! (f-DPO, arXiv 2309.16240): the score of an answer is `f′(π / π_ref)` in place of
//! `log(π / π_ref)`.

use super::PointLoss;
use super::{log_logistic, logistic};

/// Largest exponent taken; the score is constant beyond, as in 32-bit floats.
const LARGEST: f64 = 80.0;

/// How far the policy may be from the reference is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Divergence {
    /// `x`: standard DPO.
    #[default]
    ReverseKl,
    /// `1 − e⁻ˣ`.
    ForwardKl,
    /// `log 2 + log σ(x)`.
    JensenShannon,
    /// `(e^((α − 1)x) − 1) / (α − 1)`; for `α = 1` the limit, `x`.
    Alpha(f64),
}

impl Divergence {
    /// The score of an answer with the log-ratio `x`, and its derivative.
    #[must_use]
    pub fn score(self, x: f64) -> PointLoss {
        let exponential = |rate: f64| {
            let exponent = rate * x;
            // Not `min`, which takes the number of a number and a NaN.
            let (taken, slope) = match exponent > LARGEST {
                true => (LARGEST, 0.0),
                false => (exponent, exponent.exp()),
            };
            PointLoss {
                value: (taken.exp() - 1.0) / rate,
                slope,
            }
        };
        match self {
            Self::Alpha(alpha) if (alpha - 1.0).abs() > 1e-6 => exponential(alpha - 1.0),
            Self::ReverseKl | Self::Alpha(_) => PointLoss {
                value: x,
                slope: 1.0,
            },
            Self::ForwardKl => exponential(-1.0),
            Self::JensenShannon => PointLoss {
                value: std::f64::consts::LN_2 + log_logistic(x),
                slope: logistic(-x),
            },
        }
    }
}
