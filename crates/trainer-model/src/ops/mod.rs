//! The decoder's costly operations.
//!
//! Each has a form in Burn's own operations, which any backend runs. On the flex
//! backend in `f32`, kernels on slices take their place ([`flex`], [`host`]),
//! which read and write memory once where a chain of operations does so a dozen
//! times. The tests hold one form against the other.
//!
//! Shape suffixes: `b` rows, `t` query tokens, `s` key tokens, `h` query heads,
//! `g` key-value heads, `k` head width, `r` the rotated part of a head.

/// Calls a macro with the type of each backend that is compiled in and has its
/// condition before it.
macro_rules! for_each_backend {
    ($implement:ident) => {
        $implement!(
            #[cfg(feature = "flex")]
            burn::backend::Flex
        );
        $implement!(
            #[cfg(feature = "ndarray")]
            burn::backend::NdArray
        );
        $implement!(
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            burn::backend::Cube
        );
    };
}

#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
mod cross_entropy;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod host;
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
mod linear;
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
mod lora_linear;
pub mod plain;
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
mod products;
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
mod quantized_linear;
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
mod token_scores;

use burn::prelude::*;
use burn::tensor::{DType, FloatDType};

use crate::config::Activation;
use crate::precision::in_f32;

pub use cross_entropy::{linear_cross_entropy, logits_chunk};
pub use linear::linear;
pub use lora_linear::lora_linear;
pub use quantized_linear::quantized_linear;
pub use token_scores::token_scores;

/// How scores of attention come of the products of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreRule {
    /// Factor of the products.
    pub scale: f64,
    /// Scores then become `cap · tanh(scores / cap)`.
    pub softcap: Option<f64>,
}

impl ScoreRule {
    /// Products over the root of the heads' width, without a cap.
    #[must_use]
    pub fn of_width(head_dim: usize) -> Self {
        Self {
            scale: (head_dim as f64).sqrt().recip(),
            softcap: None,
        }
    }
}

/// `silu(gate) · up` (arXiv 2002.05202).
#[must_use]
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(Activation::Silu, gate, up)
}

/// `gelu(gate) · up` (arXiv 2002.05202), with GELU's approximation by `tanh`
/// (arXiv 1606.08415).
#[must_use]
pub fn geglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(Activation::GeluTanh, gate, up)
}

fn gated<const D: usize>(activation: Activation, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if flex::applies(&gate.device(), gate.dtype()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::FlexOps>::gated(
            activation,
            gate.into_dispatch(),
            up.into_dispatch(),
        ));
    }
    match activation {
        Activation::Silu => plain::swiglu(gate, up),
        Activation::GeluTanh => plain::geglu(gate, up),
    }
}

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension (arXiv
/// 1910.07467).
#[must_use]
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if flex::applies(&x.device(), x.dtype()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::FlexOps>::rms_norm(
            x.into_dispatch(),
            weight.into_dispatch(),
            eps,
        ));
    }
    plain::rms_norm(x, weight, eps)
}

/// Rotary embedding in the half-rotation layout (arXiv 2104.09864): `x` is
/// `[b, t, h, k]`, the tables `[b, t, 1, r]` with both halves alike. The leading
/// `r` dimensions of a head are rotated.
#[must_use]
pub fn rope(x_bthk: Tensor<4>, cos_bt1r: Tensor<4>, sin_bt1r: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if flex::applies(&x_bthk.device(), x_bthk.dtype()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::FlexOps>::rope(
            x_bthk.into_dispatch(),
            cos_bt1r.into_dispatch(),
            sin_bt1r.into_dispatch(),
        ));
    }
    plain::rope(x_bthk, cos_bt1r, sin_bt1r)
}

/// Causal attention with grouped heads, each query confined to the keys from its
/// start to itself: `softmax(rule(q · kᵀ)) · v`, `[b, t, h, k]`.
///
/// `starts_bt` holds the first key that a query sees; query `t` stands at key
/// `t + s - t_max`, so that with cached keys the queries are the last ones.
#[must_use]
pub fn causal_attention(
    q_bthk: Tensor<4>,
    k_bsgk: Tensor<4>,
    v_bsgk: Tensor<4>,
    starts_bt: Tensor<2, Int>,
    rule: ScoreRule,
) -> Tensor<4> {
    forked_attention(q_bthk, k_bsgk, v_bsgk, starts_bt.unsqueeze_dim(2), rule)
}

/// As [`causal_attention`], where a query may leave out keys between its start and
/// itself: those of another branch that goes on from the same tokens.
///
/// `seen_btn` holds the start of each query and, where `n` is 3 and not 1, the first
/// key that it leaves out with the one past the last. A query always sees itself.
#[must_use]
pub fn forked_attention(
    q_bthk: Tensor<4>,
    k_bsgk: Tensor<4>,
    v_bsgk: Tensor<4>,
    seen_btn: Tensor<3, Int>,
    rule: ScoreRule,
) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if flex::applies(&q_bthk.device(), DType::F32) {
        let [k_bsgk, v_bsgk] = [k_bsgk, v_bsgk].map(|x| x.cast(FloatDType::F32));
        return in_f32(q_bthk, |q_bthk| {
            flex_attention(q_bthk, k_bsgk, v_bsgk, seen_btn, rule)
        });
    }
    plain::forked_attention(q_bthk, k_bsgk, v_bsgk, seen_btn, rule)
}

#[cfg(feature = "flex")]
fn flex_attention(
    q_bthk: Tensor<4>,
    k_bsgk: Tensor<4>,
    v_bsgk: Tensor<4>,
    seen_btn: Tensor<3, Int>,
    rule: ScoreRule,
) -> Tensor<4> {
    Tensor::from_dispatch(
        <burn::backend::Dispatch as flex::FlexOps>::causal_attention(
            q_bthk.into_dispatch(),
            k_bsgk.into_dispatch(),
            v_bsgk.into_dispatch(),
            seen_btn.into_dispatch(),
            rule,
        ),
    )
}
