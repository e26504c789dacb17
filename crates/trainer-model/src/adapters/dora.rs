//! DoRA (arXiv 2402.09353): an adapted weight as a magnitude of each output times a
//! direction, `W' = m ⊙ (W + s · B · A) / ‖W + s · B · A‖`, with the norm over the
//! inputs of an output.
//!
//! The norm is a constant to the gradient (section 4.3, equation 11). It is taken of
//! the sum itself, some rows at a time: the expansion into `‖W‖²`, `⟨W, B · A⟩` and
//! `‖B · A‖²` loses digits where the product cancels the weight.
//!
//! Shape suffixes: `i` input and `o` output features, `r` rank, `k` some outputs.

use burn::prelude::*;

use super::lora::Factors;
use super::plain;
use crate::weight::Weight;

/// Elements of `W + s · B · A` that exist at a time.
const BLOCK_ELEMENTS: usize = 1 << 20;

/// The rows of `W + s · B · A`, less the product that the factors began with where that
/// was taken away, off the autodiff graph and in `f32`, in blocks from
/// the first on.
pub(super) fn blocks<'a>(
    weight: &'a Weight,
    factors: Factors<'a>,
) -> impl Iterator<Item = Tensor<2>> + 'a {
    let [a_ri, b_or] = [factors.a, factors.b].map(|factor| plain(factor.weight.val()));
    let scale = factors.settings.scale;
    let [outputs, inputs] = weight.shape();
    let rows = (BLOCK_ELEMENTS / inputs.max(1)).clamp(1, outputs.max(1));
    (0..outputs).step_by(rows).map(move |start| {
        let rows = rows.min(outputs - start);
        let b_kr = b_or.clone().narrow(0, start, rows);
        let mut product_ki = b_kr.matmul(a_ri.clone());
        if let Some(first) = factors.start {
            product_ki = product_ki
                - first
                    .b
                    .clone()
                    .narrow(0, start, rows)
                    .matmul(first.a.clone());
        }
        weight.rows(start, rows) + product_ki * scale
    })
}

/// Norms of some of the rows, `[k]`. A row of zeros, whose magnitude is zero too,
/// stays one: its norm is not zero, so that nothing is divided by zero.
pub(super) fn norms(sum_ki: Tensor<2>) -> Tensor<1> {
    let [rows, _] = sum_ki.dims();
    let norms_k = sum_ki.square().sum_dim(1).sqrt().reshape([rows]);
    norms_k.clamp_min(f32::MIN_POSITIVE)
}

/// Norms of the rows of `W + s · B · A`, `[o]`, off the autodiff graph.
pub(super) fn row_norms(weight: &Weight, factors: Factors<'_>) -> Tensor<1> {
    Tensor::cat(blocks(weight, factors).map(norms).collect(), 0)
}
