//! Direct preference optimization on means over tokens.

use super::{PairLoss, smoothed};

/// `−log σ(β(c/|y_c| − r/|y_r|))`: length-normalized DPO, as in Tülu 3
/// (arXiv 2411.15124).
#[must_use]
pub fn sigmoid_norm(chosen: f64, rejected: f64, lengths: [usize; 2], beta: f64) -> PairLoss {
    let [long, short] = lengths.map(|tokens| tokens.max(1) as f64);
    let loss = smoothed(beta * (chosen / long - rejected / short), 0.0);
    PairLoss {
        value: loss.value,
        chosen: beta * loss.slope / long,
        rejected: -beta * loss.slope / short,
    }
}
