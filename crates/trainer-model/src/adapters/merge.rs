//! `W + s · B · A`, and with magnitudes `m ⊙ (W + s · B · A) / ‖W + s · B · A‖`.

use burn::Tensor;
use burn::module::Param;

use super::{dora, plain};
use crate::linear::Linear;
use crate::weight::Weight;

/// Makes the adapted weight the weight.
pub(super) fn into_weight(linear: &mut Linear) {
    let Some(factors) = linear.factors() else {
        return;
    };
    let is_autodiff = factors.a.weight.val().is_autodiff();
    let mut first = 0;
    let blocks = dora::blocks(&linear.weight, factors).map(|sum_ki| {
        let [rows, _] = sum_ki.dims();
        first += rows;
        let Some(magnitude_o) = factors.magnitude else {
            return sum_ki;
        };
        let magnitude_k = plain(magnitude_o.val()).narrow(0, first - rows, rows);
        let share_k = magnitude_k / dora::norms(sum_ki.clone());
        sum_ki * share_k.reshape([rows, 1])
    });
    let merged_oi = Tensor::cat(blocks.collect(), 0);
    let merged_oi = match is_autodiff {
        true => merged_oi.autodiff(),
        false => merged_oi,
    };
    linear.weight = Weight::Full(Param::from_tensor(merged_oi));
}
