//! Number formats of a forward pass.
//!
//! Weights are `f32` always, and so are their gradients. Where a model computes in
//! another format, the stream of hidden states has it and every linear map takes its
//! weights in it; norms, softmaxes, rotations, activations and losses are computed in
//! `f32` from rounded values and rounded again, as torch's kernels do. Nothing here
//! has an effect where the stream is `f32`.

use burn::prelude::*;
use burn::tensor::{DType, FloatDType};

/// `x` in the number format of another tensor.
pub(crate) fn as_in<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    x.cast(FloatDType::from(dtype))
}

/// The result of `f` for `x` in `f32`, in the format of `x`.
pub(crate) fn in_f32<const D: usize, const E: usize>(
    x: Tensor<D>,
    f: impl FnOnce(Tensor<D>) -> Tensor<E>,
) -> Tensor<E> {
    let dtype = x.dtype();
    as_in(f(x.cast(FloatDType::F32)), dtype)
}
