//! `act(gate) · up` and its gradients, in one pass over each.
//!
//! Both activations are `x · sigmoid(z(x))`: SiLU with `z = x`, GELU by `tanh`
//! with `z = 2 √(2/π) (x + 0.044715 x³)`, since `(1 + tanh u) / 2` is the sigmoid
//! of `2u`.

use rayon::prelude::*;

use super::PIECE;
use super::math::exp;

/// An activation of a gate, as the argument of its sigmoid.
pub(in crate::ops) trait Gate {
    /// `z(x)` and its derivative.
    fn argument(x: f32) -> (f32, f32);
}

/// `x · sigmoid(x)`.
pub(in crate::ops) struct Silu;

impl Gate for Silu {
    #[inline(always)]
    fn argument(x: f32) -> (f32, f32) {
        (x, 1.0)
    }
}

/// GELU by `tanh`.
pub(in crate::ops) struct GeluTanh;

impl Gate for GeluTanh {
    #[inline(always)]
    fn argument(x: f32) -> (f32, f32) {
        // 2 √(2/π)
        const FACTOR: f32 = 1.595_769;
        const CUBIC: f32 = 0.044_715;
        let square = CUBIC * x * x;
        (FACTOR * x * (1.0 + square), FACTOR * (1.0 + 3.0 * square))
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    // Beyond this the result is 0 or 1 all the same, and the exponential finite.
    1.0 / (1.0 + exp((-x).min(87.0)))
}

/// `act(gate) · up`, in place of `gate`.
pub(in crate::ops) fn forward<G: Gate>(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(PIECE)
        .zip(up.par_chunks(PIECE))
        .for_each(|(gate, up)| {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (g, &u) in gate.iter_mut().zip(up) {
                        *g = *g * sigmoid(G::argument(*g).0) * u;
                    }
                },
            );
        });
}

/// From the gradient of the result: that of `gate` in place of `gate`, that of
/// `up` in place of `upstream`.
pub(in crate::ops) fn backward<G: Gate>(gate: &mut [f32], up: &[f32], upstream: &mut [f32]) {
    gate.par_chunks_mut(PIECE)
        .zip(up.par_chunks(PIECE))
        .zip(upstream.par_chunks_mut(PIECE))
        .for_each(|((gate, up), upstream)| {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for ((g, &u), d) in gate.iter_mut().zip(up).zip(upstream) {
                        let (z, dz) = G::argument(*g);
                        let s = sigmoid(z);
                        let slope = s * (1.0 + *g * dz * (1.0 - s));
                        (*g, *d) = (*d * u * slope, *d * *g * s);
                    }
                },
            );
        });
}
