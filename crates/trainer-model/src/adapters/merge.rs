//! `W + s · B · A`.

use burn::module::Param;

use crate::linear::Linear;

/// Adds the product of the factors to the weight.
pub(super) fn into_weight(linear: &mut Linear) {
    let (Some(a), Some(b)) = (&linear.lora_A, &linear.lora_B) else {
        return;
    };
    let weight_oi = linear.weight.val();
    let is_autodiff = weight_oi.is_autodiff();
    let plain = |x: burn::Tensor<2>| if x.is_autodiff() { x.inner() } else { x };
    let product_oi = plain(b.weight.val()).matmul(plain(a.weight.val()));
    let merged_oi = plain(weight_oi) + product_oi * linear.lora.scale;
    let merged_oi = if is_autodiff {
        merged_oi.autodiff()
    } else {
        merged_oi
    };
    linear.weight = Param::from_tensor(merged_oi);
}
