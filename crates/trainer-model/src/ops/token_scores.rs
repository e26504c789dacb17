//! Linear map and log-probabilities in one: what the logits `x · Wᵀ` of `n` tokens
//! say of the token that follows each.
//!
//! The `[n, v]` logits exist only a chunk of tokens at a time, in the forward pass
//! and once more in the backward pass: which weight each log-probability has in the
//! loss is known only after the forward pass. Where `W` is frozen, the gradient of
//! `x` is formed in the forward pass up to that weight, and nothing is computed
//! twice.
//!
//! Shape suffixes: `n` tokens, `c` tokens of a chunk, `d` width, `v` vocabulary, `k`
//! the numbers of a score.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::prelude::*;
use burn::tensor::{IndexingUpdateOp, Shape, Slice};

use super::cross_entropy::{cast, logits_chunk};
use super::products::{Products, sum_with_product};

/// Backends that compute token scores.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu"))
)]
pub(crate) trait TokenScoresBackend: Backend {
    /// Scores `[n, k]` of the logits `x_nd · w_vdᵀ` and `targets_n`.
    fn token_scores(
        x_nd: FloatTensor<Self>,
        w_vd: FloatTensor<Self>,
        targets_n: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The scores of a chunk of logits.
pub(crate) trait LogitScores: Products {
    /// Scores `[c, k]`; see [`token_scores`].
    fn logit_scores(logits_cv: FloatTensor<Self>, targets_c: IntTensor<Self>) -> FloatTensor<Self> {
        let [c, _] = logits_cv.shape().dims::<2>();
        let index_c1 = Self::int_reshape(targets_c, Shape::new([c, 1]));
        let log_probs_cv = Self::log_softmax(logits_cv.clone(), 1);
        let probs_cv = Self::float_exp(log_probs_cv.clone());
        let max_c1 = Self::float_max_dim(logits_cv.clone(), 1);
        let target_c1 = Self::float_gather(1, logits_cv.clone(), index_c1.clone());
        let products_cv = Self::float_mul(probs_cv.clone(), log_probs_cv.clone());
        let squares_cv = Self::float_mul(probs_cv.clone(), probs_cv);
        Self::float_cat(
            vec![
                Self::float_gather(1, log_probs_cv, index_c1),
                Self::float_neg(Self::float_sum_dim(products_cv, 1)),
                Self::float_sub(max_c1, target_c1),
                Self::float_mean_dim(logits_cv, 1),
                Self::float_log(Self::float_sum_dim(squares_cv, 1)),
            ],
            1,
        )
    }

    /// `weight · (onehot − softmax)`, `[c, v]`; `scores_ck` are those of the logits.
    fn logit_gradients(
        logits_cv: FloatTensor<Self>,
        targets_c: IntTensor<Self>,
        _scores_ck: FloatTensor<Self>,
        weights_c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [c, _] = logits_cv.shape().dims::<2>();
        let index_c1 = Self::int_reshape(targets_c, Shape::new([c, 1]));
        let weights_c1 = Self::float_reshape(weights_c, Shape::new([c, 1]));
        let minus_c1 = Self::float_neg(weights_c1.clone());
        let probs_cv = Self::float_exp(Self::log_softmax(logits_cv, 1));
        let weighted_cv = Self::float_mul(probs_cv, minus_c1);
        Self::float_scatter(1, weighted_cv, index_c1, weights_c1, IndexingUpdateOp::Add)
    }
}

#[cfg(feature = "flex")]
impl LogitScores for burn::backend::Flex {
    fn logit_scores(logits_cv: FloatTensor<Self>, targets_c: IntTensor<Self>) -> FloatTensor<Self> {
        super::flex::token_scores(&logits_cv, &targets_c)
    }

    fn logit_gradients(
        logits_cv: FloatTensor<Self>,
        targets_c: IntTensor<Self>,
        scores_ck: FloatTensor<Self>,
        weights_c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        super::flex::token_score_gradients(logits_cv, &targets_c, &scores_ck, &weights_c)
    }
}
#[cfg(feature = "ndarray")]
impl LogitScores for burn::backend::NdArray {}
#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl LogitScores for burn::backend::Cube {}

macro_rules! without_gradients {
    (#[$condition:meta] $backend:ty) => {
        #[$condition]
        impl TokenScoresBackend for $backend {
            fn token_scores(
                x_nd: FloatTensor<Self>,
                w_vd: FloatTensor<Self>,
                targets_n: IntTensor<Self>,
            ) -> FloatTensor<Self> {
                forward::<Self>(x_nd, w_vd, targets_n, false).0
            }
        }
    };
}

for_each_backend!(without_gradients);

/// Five numbers for each token, `[n, 5]`, of the logits `x_nd · w_vdᵀ` and the token
/// ids `targets_n`, which are below `v`; `n` must not be zero:
///
/// 0. `log p(target)`,
/// 1. the entropy `−Σ p log p`,
/// 2. the largest logit less that of the target: 0 where the target is the likeliest,
/// 3. the mean logit,
/// 4. `log Σ p²`.
///
/// Gradients go through the first alone; the others count as constants.
#[must_use]
pub fn token_scores(x_nd: Tensor<2>, w_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as TokenScoresBackend>::token_scores(
        x_nd.into_dispatch(),
        w_vd.into_dispatch(),
        targets_n.into_dispatch(),
    ))
}

/// The tokens of a chunk.
fn rows(start: usize, end: usize) -> [Slice; 1] {
    [Slice::from(start as isize..end as isize)]
}

/// The scores, and with `with_gradients` the gradient of each log-probability with
/// respect to its row of `x_nd`.
fn forward<B: LogitScores>(
    x_nd: FloatTensor<B>,
    w_vd: FloatTensor<B>,
    targets_n: IntTensor<B>,
    with_gradients: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let [n, _] = x_nd.shape().dims::<2>();
    let [v, _] = w_vd.shape().dims::<2>();
    let chunk = logits_chunk(v);
    let (format, full) = (x_nd.dtype(), w_vd.dtype());
    let w_vd = cast::<B>(w_vd, format);
    let (mut scores, mut gradients) = (Vec::new(), Vec::new());
    for start in (0..n).step_by(chunk) {
        let rows = rows(start, (start + chunk).min(n));
        let x_cd = B::float_slice(x_nd.clone(), &rows);
        let targets_c = B::int_slice(targets_n.clone(), &rows);
        let logits_cv = B::product(x_cd.clone(), B::float_transpose(w_vd.clone()));
        let logits_cv = cast::<B>(logits_cv, full);
        let scores_ck = B::logit_scores(logits_cv.clone(), targets_c.clone());
        if with_gradients {
            let [c, _] = x_cd.shape().dims::<2>();
            let ones_c = B::float_ones(Shape::new([c]), &x_cd.device(), full.into());
            let dlogits_cv = B::logit_gradients(logits_cv, targets_c, scores_ck.clone(), ones_c);
            let dlogits_cv = cast::<B>(dlogits_cv, format);
            gradients.push(B::product(dlogits_cv, w_vd.clone()));
        }
        scores.push(scores_ck);
    }
    let dx_nd = with_gradients.then(|| B::float_cat(gradients, 0));
    (B::float_cat(scores, 0), dx_nd)
}

/// What the backward pass reads.
#[derive(Debug, Clone)]
struct State<B: Backend> {
    x_nd: FloatTensor<B>,
    w_vd: FloatTensor<B>,
    targets_n: IntTensor<B>,
    scores_nk: FloatTensor<B>,
    /// Where `w_vd` is frozen: the gradient of `x_nd`, but for the weights.
    dx_nd: Option<FloatTensor<B>>,
}

/// Gradients of `Σ weight · log p(target)` with respect to `x_nd` and `w_vd`.
fn backward<B: LogitScores>(
    state: State<B>,
    weights_n: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [n, _] = state.x_nd.shape().dims::<2>();
    let [v, _] = state.w_vd.shape().dims::<2>();
    let chunk = logits_chunk(v);
    let (format, full) = (state.x_nd.dtype(), state.w_vd.dtype());
    let w_vd = cast::<B>(state.w_vd.clone(), format);
    let mut dx_chunks = Vec::new();
    let mut dw_vd: Option<FloatTensor<B>> = None;
    for start in (0..n).step_by(chunk) {
        let rows = rows(start, (start + chunk).min(n));
        let x_cd = B::float_slice(state.x_nd.clone(), &rows);
        let logits_cv = B::product(x_cd.clone(), B::float_transpose(w_vd.clone()));
        let dlogits_cv = B::logit_gradients(
            cast::<B>(logits_cv, full),
            B::int_slice(state.targets_n.clone(), &rows),
            B::float_slice(state.scores_nk.clone(), &rows),
            B::float_slice(weights_n.clone(), &rows),
        );
        let dlogits_cv = cast::<B>(dlogits_cv, format);
        dx_chunks.push(B::product(dlogits_cv.clone(), w_vd.clone()));
        let dlogits_vc = B::float_transpose(dlogits_cv);
        dw_vd = Some(sum_with_product::<B>(dw_vd.take(), dlogits_vc, x_cd, full));
    }
    let dw_vd = dw_vd.unwrap_or_else(|| {
        let w = &state.w_vd;
        B::float_zeros(w.shape(), &w.device(), full.into())
    });
    (B::float_cat(dx_chunks, 0), dw_vd)
}

impl<B: TokenScoresBackend + LogitScores, C: CheckpointStrategy> TokenScoresBackend
    for Autodiff<B, C>
{
    fn token_scores(
        x_nd: FloatTensor<Self>,
        w_vd: FloatTensor<Self>,
        targets_n: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct TokenScoresBackward;

        impl<B: LogitScores> Backward<B, 2> for TokenScoresBackward {
            type State = State<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [x, w] = ops.parents;
                let upstream_nk = grads.consume::<B>(&ops.node);
                let state = ops.state;
                let [n, _] = upstream_nk.shape().dims::<2>();
                let first = [Slice::from(0..n as isize), Slice::from(0..1)];
                let weights_n1 = B::float_slice(upstream_nk, &first);
                let (dx, dw) = match state.dx_nd {
                    Some(dx_nd) => {
                        let weights_n1 = cast::<B>(weights_n1, dx_nd.dtype());
                        (B::float_mul(dx_nd, weights_n1), None)
                    }
                    None => {
                        let weights_n = B::float_reshape(weights_n1, Shape::new([n]));
                        let (dx, dw) = backward::<B>(state, weights_n);
                        (dx, Some(dw))
                    }
                };
                if let Some(node) = x {
                    grads.register::<B>(node.id, dx);
                }
                if let (Some(node), Some(dw)) = (w, dw) {
                    grads.register::<B>(node.id, dw);
                }
            }
        }

        let frozen = !w_vd.is_tracked();
        let prepared = TokenScoresBackward.prepare::<C>([x_nd.node(), w_vd.node()]);
        let (x_nd, w_vd) = (x_nd.into_primitive(), w_vd.into_primitive());
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (scores_nk, dx_nd) =
                    forward::<B>(x_nd.clone(), w_vd.clone(), targets_n.clone(), frozen);
                let state = State {
                    x_nd,
                    w_vd,
                    targets_n,
                    scores_nk: scores_nk.clone(),
                    dx_nd,
                };
                prepared.finish(state, scores_nk)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::token_scores(x_nd, w_vd, targets_n)),
        }
    }
}
