//! `silu(gate) · up` and its gradients, in one pass over each.

use rayon::prelude::*;

use super::PIECE;
use super::math::exp;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `silu(gate) · up`, in place of `gate`.
pub(in crate::ops) fn forward(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(PIECE)
        .zip(up.par_chunks(PIECE))
        .for_each(|(gate, up)| {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (g, &u) in gate.iter_mut().zip(up) {
                        *g = *g * sigmoid(*g) * u;
                    }
                },
            );
        });
}

/// From the gradient of the result: that of `gate` in place of `gate`, that of
/// `up` in place of `upstream`.
pub(in crate::ops) fn backward(gate: &mut [f32], up: &[f32], upstream: &mut [f32]) {
    gate.par_chunks_mut(PIECE)
        .zip(up.par_chunks(PIECE))
        .zip(upstream.par_chunks_mut(PIECE))
        .for_each(|((gate, up), upstream)| {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for ((g, &u), d) in gate.iter_mut().zip(up).zip(upstream) {
                        let s = sigmoid(*g);
                        let silu = *g * s;
                        let slope = s * (1.0 + *g * (1.0 - s));
                        (*g, *d) = (*d * u * slope, *d * silu);
                    }
                },
            );
        });
}
