//! Identity preference optimization.

use super::PairLoss;

/// `(c/|y_c| − r/|y_r| − 1/(2β))²`: arXiv 2310.12036, Eq. 17, on means over the
/// tokens of each answer, so that `β` (the paper's `τ`) does not depend on the
/// length of the answers.
#[must_use]
pub fn ipo(chosen: f64, rejected: f64, lengths: [usize; 2], beta: f64) -> PairLoss {
    let [long, short] = lengths.map(|tokens| tokens.max(1) as f64);
    let error = chosen / long - rejected / short - 0.5 / beta;
    PairLoss {
        value: error * error,
        chosen: 2.0 * error / long,
        rejected: -2.0 * error / short,
    }
}
