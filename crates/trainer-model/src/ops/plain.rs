//! The operations as chains of Burn's own, for every backend, and the oracle of
//! the kernels.
//!
//! Shape suffixes: `b` rows, `t` query tokens, `s` key tokens, `h` query heads,
//! `g` key-value heads, `k` head width, `r` query heads a group, the rotated
//! part of a head, and the rank of an adapter; `n` rows, `i` input and `o` output
//! features of a linear map.

use burn::prelude::*;
use burn::tensor::{FloatDType, activation};

use super::ScoreRule;
use crate::precision::as_in;

/// See [`crate::swiglu`].
#[must_use]
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// See [`crate::geglu`].
#[must_use]
pub fn geglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    // Half of one plus `tanh(u)` is the sigmoid of `2u`.
    let factor = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let cubic = gate.clone().square() * 0.044_715 + 1.0;
    let twice_u = gate.clone() * cubic * factor;
    gate * activation::sigmoid(twice_u) * up
}

/// See [`crate::rms_norm`].
#[must_use]
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let scale = (x.clone().square().mean_dim(D - 1) + eps).sqrt().recip();
    x * scale * weight.unsqueeze()
}

/// See [`crate::rope`].
#[must_use]
pub fn rope(x_bthk: Tensor<4>, cos_bt1r: Tensor<4>, sin_bt1r: Tensor<4>) -> Tensor<4> {
    let (width, rotated) = (x_bthk.dims()[3], cos_bt1r.dims()[3]);
    if rotated < width {
        let rest = x_bthk.clone().narrow(3, rotated, width - rotated);
        let turned = rope(x_bthk.narrow(3, 0, rotated), cos_bt1r, sin_bt1r);
        return Tensor::cat(vec![turned, rest], 3);
    }
    let half = width / 2;
    let first = x_bthk.clone().narrow(3, 0, half);
    let second = x_bthk.clone().narrow(3, half, half);
    let turned_bthk = Tensor::cat(vec![second.neg(), first], 3);
    x_bthk * cos_bt1r + turned_bthk * sin_bt1r
}

/// See [`crate::causal_attention`].
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

/// See [`crate::forked_attention`]. The query heads of a group are folded into
/// the token dimension, so that keys and values are never repeated.
#[must_use]
pub fn forked_attention(
    q_bthk: Tensor<4>,
    k_bsgk: Tensor<4>,
    v_bsgk: Tensor<4>,
    seen_btn: Tensor<3, Int>,
    rule: ScoreRule,
) -> Tensor<4> {
    let [b, t, h, k] = q_bthk.dims();
    let [_, s, g, _] = k_bsgk.dims();
    let r = h / g;
    let device = q_bthk.device();
    let keys_s = Tensor::<1, Int>::arange(0..s as i64, &device).reshape([1, 1, s]);
    let places_t = Tensor::<1, Int>::arange((s - t) as i64..s as i64, &device).reshape([1, t, 1]);
    let keys_bts = keys_s.expand([b, t, s]);
    let places_bts = places_t.expand([b, t, s]);
    let numbers = seen_btn.dims()[2];
    let seen = |number| seen_btn.clone().narrow(2, number, 1).expand([b, t, s]);
    let before_bts = keys_bts.clone().lower(seen(0));
    let after_bts = keys_bts.clone().greater(places_bts.clone());
    let mut hidden_bts = before_bts.bool_or(after_bts);
    if numbers == 3 {
        let gap_bts = keys_bts.clone().greater_equal(seen(1));
        let gap_bts = gap_bts.bool_and(keys_bts.clone().lower(seen(2)));
        hidden_bts = hidden_bts.bool_or(gap_bts.bool_and(keys_bts.lower(places_bts)));
    }
    let hidden_b1ts = hidden_bts.reshape([b, 1, t, s]);

    // Scaling the queries costs `t · k` products a head, the scores `t · s`.
    let q_bhtk = (q_bthk * rule.scale).swap_dims(1, 2);
    let (k_bgsk, v_bgsk) = (k_bsgk.swap_dims(1, 2), v_bsgk.swap_dims(1, 2));
    let scores_bgrts = q_bhtk.reshape([b, g, r * t, k]).matmul(k_bgsk.transpose());
    let dtype = scores_bgrts.dtype();
    let scores_bgrts = scores_bgrts.cast(FloatDType::F32);
    let scores_bgrts = match rule.softcap {
        Some(cap) => (scores_bgrts / cap).tanh() * cap,
        None => scores_bgrts,
    };
    let scores_bhts = scores_bgrts
        .reshape([b, h, t, s])
        .mask_fill(hidden_b1ts.expand([b, h, t, s]), f32::NEG_INFINITY);
    let weights_bgrts = activation::softmax(scores_bhts, 3).reshape([b, g, r * t, s]);
    as_in(weights_bgrts, dtype)
        .matmul(v_bgsk)
        .reshape([b, h, t, k])
        .swap_dims(1, 2)
}

/// See [`crate::lora_linear`]; with a gradient for the weight too.
#[must_use]
pub fn lora_linear(
    x_ni: Tensor<2>,
    w_oi: Tensor<2>,
    a_ri: Tensor<2>,
    b_or: Tensor<2>,
    scale: f64,
) -> Tensor<2> {
    let z_nr = x_ni.clone().matmul(a_ri.transpose());
    x_ni.matmul(w_oi.transpose()) + z_nr.matmul(b_or.transpose()) * scale
}

/// See [`crate::token_scores`]; of logits, `[n, v]`.
#[must_use]
pub fn token_scores(logits_nv: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<2> {
    let targets_n1 = targets_n.unsqueeze_dim::<2>(1);
    let log_probs_nv = activation::log_softmax(logits_nv.clone(), 1);
    let picked_n1 = log_probs_nv.clone().gather(1, targets_n1.clone());
    let (logits_nv, log_probs_nv) = (logits_nv.detach(), log_probs_nv.detach());
    let probs_nv = log_probs_nv.clone().exp();
    let largest_n1 = logits_nv.clone().max_dim(1);
    Tensor::cat(
        vec![
            picked_n1,
            (probs_nv.clone() * log_probs_nv).sum_dim(1).neg(),
            largest_n1 - logits_nv.clone().gather(1, targets_n1),
            logits_nv.mean_dim(1),
            probs_nv.square().sum_dim(1).log(),
        ],
        1,
    )
}
