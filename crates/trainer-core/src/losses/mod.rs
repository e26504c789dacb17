//! The losses of preference and reward training, as functions of a few plain
//! numbers for each document.
//!
//! Such a loss sees a batch only through the log-probability of each answer (or
//! its reward), so value and derivatives are computed here in `f64`, on the host.
//! What goes back through the model is the sum of each number times the derivative
//! with respect to it, whose gradient is that of the loss.
//!
//! One file a loss. Notation: `c` and `r` are `log π − log π_ref` of the chosen and
//! of the rejected answer, summed over the tokens of the answer, `Δ = c − r`, `β`
//! is `rl_beta`, `ε` is `dpo_label_smoothing` (of the losses that have it published), `σ`
//! the logistic function.
//!
//! Invariants: every derivative agrees with finite differences of the value (tested
//! for all of them); a NaN among the numbers comes out as a value that is not finite.

mod aot;
mod aot_unpaired;
mod apo_down;
mod apo_zero;
mod bco_pair;
mod bradley_terry;
mod cpo;
mod discopop;
mod divergence;
mod dpo;
mod exo_pair;
mod hinge;
mod ipo;
mod kto;
mod ld;
mod nca_pair;
mod nll;
mod orpo;
mod process_reward;
mod robust;
mod sigmoid;
mod sigmoid_norm;
mod simpo;
mod sppo_hard;
mod wpo;

#[cfg(test)]
mod tests;

pub use aot::aot;
pub use aot_unpaired::aot_unpaired;
pub use apo_down::apo_down;
pub use apo_zero::apo_zero;
pub use bco_pair::bco_pair;
pub use bradley_terry::bradley_terry;
pub use cpo::cpo;
pub use discopop::discopop;
pub use divergence::Divergence;
pub use dpo::{Answer, AnswerGradient, DpoLoss, DpoOptions, Pair, PairGradient, dpo};
pub use exo_pair::exo_pair;
pub use hinge::hinge;
pub use ipo::ipo;
pub use kto::{kto, kto_kl};
pub use ld::token_weight;
pub use nca_pair::nca_pair;
pub use nll::nll;
pub use orpo::{log_odds, orpo};
pub use process_reward::process_reward;
pub use robust::robust;
pub use sigmoid::sigmoid;
pub use sigmoid_norm::sigmoid_norm;
pub use simpo::simpo;
pub use sppo_hard::sppo_hard;
pub use wpo::wpo_weight;

/// A loss of two numbers, one of the chosen and one of the rejected answer, with
/// its derivatives.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairLoss {
    /// The loss.
    pub value: f64,
    /// Derivative with respect to the number of the chosen answer.
    pub chosen: f64,
    /// Derivative with respect to the number of the rejected answer.
    pub rejected: f64,
}

impl PairLoss {
    /// A loss of the difference `chosen − rejected` alone.
    pub(crate) fn of_margin(value: f64, slope: f64) -> Self {
        Self {
            value,
            chosen: slope,
            rejected: -slope,
        }
    }
}

/// A loss of one number, with its derivative.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PointLoss {
    /// The loss.
    pub value: f64,
    /// Its derivative.
    pub slope: f64,
}

/// `1 / (1 + e⁻ˣ)`.
pub(crate) fn logistic(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `log σ(x)`, which neither overflows nor loses digits for large `|x|`.
pub(crate) fn log_logistic(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// `−(1 − ε) log σ(x) − ε log σ(−x)` with its derivative: the cross entropy of a
/// preference that is wrong with probability `ε`.
pub(crate) fn smoothed(x: f64, epsilon: f64) -> PointLoss {
    PointLoss {
        value: -(1.0 - epsilon) * log_logistic(x) - epsilon * log_logistic(-x),
        slope: epsilon * logistic(x) - (1.0 - epsilon) * logistic(-x),
    }
}
