//! Linear map and cross entropy in one: the sum over `n` tokens of
//! `logsumexp(x · Wᵀ) - (x · Wᵀ)[target]`.
//!
//! The `[n, v]` logits exist only a chunk of tokens at a time. When gradients
//! are wanted they are formed in the forward pass, from the same chunk of
//! logits: `dlogits = softmax - onehot`, `dx = dlogits · W`, and where `W` is trained
//! `dW = dlogitsᵀ · x`; the backward pass only scales them.
//!
//! `x` may be of less precision than `f32`: matrix products are then computed in its
//! format, the softmax and all sums in `f32`, and the gradient of the weights is `f32`
//! as they are.
//!
//! Shape suffixes: `n` tokens, `c` tokens of a chunk, `d` width, `v` vocabulary.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::prelude::*;
use burn::tensor::{DType, IndexingUpdateOp, Shape, Slice};

use super::products::{Products, sum_with_product};

/// Most logits that exist at a time, in elements.
const CHUNK_ELEMENTS: usize = 1 << 22;

/// Tokens whose logits, of `v` entries each, exist at a time.
#[must_use]
pub fn logits_chunk(v: usize) -> usize {
    (CHUNK_ELEMENTS / v.max(1)).max(16)
}

/// Backends that compute the linear cross entropy.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu"))
)]
pub(crate) trait LinearCrossEntropyBackend: Backend {
    /// Sum of the cross entropies, `[1]`, of `x_nd · w_vdᵀ` against `targets_n`.
    fn linear_cross_entropy(
        x_nd: FloatTensor<Self>,
        w_vd: FloatTensor<Self>,
        targets_n: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The softmax of a chunk of logits.
pub(crate) trait SoftmaxCrossEntropy: Products {
    /// Sum of the cross entropies, `[1]`, and with `with_gradients` what stands
    /// in place of the logits: `softmax - onehot`, `[c, v]`.
    fn softmax_cross_entropy(
        logits_cv: FloatTensor<Self>,
        targets_c: IntTensor<Self>,
        with_gradients: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [c, _] = logits_cv.shape().dims::<2>();
        let device = logits_cv.device();
        let index_c1 = Self::int_reshape(targets_c, Shape::new([c, 1]));
        let log_probs_cv = Self::log_softmax(logits_cv, 1);
        let picked_c1 = Self::float_gather(1, log_probs_cv.clone(), index_c1.clone());
        let loss = Self::float_neg(Self::float_sum(picked_c1));
        if !with_gradients {
            return (loss, log_probs_cv);
        }
        let probs_cv = Self::float_exp(log_probs_cv);
        let ones_c1 = Self::float_ones(Shape::new([c, 1]), &device, probs_cv.dtype().into());
        let minus_c1 = Self::float_neg(ones_c1);
        let add = IndexingUpdateOp::Add;
        (
            loss,
            Self::float_scatter(1, probs_cv, index_c1, minus_c1, add),
        )
    }
}

#[cfg(feature = "flex")]
impl SoftmaxCrossEntropy for burn::backend::Flex {
    fn softmax_cross_entropy(
        logits_cv: FloatTensor<Self>,
        targets_c: IntTensor<Self>,
        with_gradients: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        super::flex::cross_entropy_rows(logits_cv, &targets_c, with_gradients)
    }
}
#[cfg(feature = "ndarray")]
impl SoftmaxCrossEntropy for burn::backend::NdArray {}
#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl SoftmaxCrossEntropy for burn::backend::Cube {}

macro_rules! without_gradients {
    (#[$condition:meta] $backend:ty) => {
        #[$condition]
        impl LinearCrossEntropyBackend for $backend {
            fn linear_cross_entropy(
                x_nd: FloatTensor<Self>,
                w_vd: FloatTensor<Self>,
                targets_n: IntTensor<Self>,
            ) -> FloatTensor<Self> {
                forward::<Self>(x_nd, w_vd, targets_n, Wanted::Loss).0
            }
        }
    };
}

for_each_backend!(without_gradients);

/// Sum of the cross entropies, `[1]`, of the logits `x_nd · w_vdᵀ` against the
/// token ids `targets_n`; `n` must not be zero and ids be below `v`.
#[must_use]
pub fn linear_cross_entropy(
    x_nd: Tensor<2>,
    w_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
) -> Tensor<1> {
    Tensor::from_dispatch(
        <Dispatch as LinearCrossEntropyBackend>::linear_cross_entropy(
            x_nd.into_dispatch(),
            w_vd.into_dispatch(),
            targets_n.into_dispatch(),
        ),
    )
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Loss,
    /// And the gradient of `x`.
    InputGradient,
    /// And those of `x` and `W`.
    Gradients,
}

/// Gradients of the loss with respect to `x_nd` and, where wanted, `w_vd`.
type InputGradients<B> = (FloatTensor<B>, Option<FloatTensor<B>>);

fn forward<B: SoftmaxCrossEntropy>(
    x_nd: FloatTensor<B>,
    w_vd: FloatTensor<B>,
    targets_n: IntTensor<B>,
    wanted: Wanted,
) -> (FloatTensor<B>, Option<InputGradients<B>>) {
    let with_gradients = wanted != Wanted::Loss;
    let [n, _] = x_nd.shape().dims::<2>();
    let [v, _] = w_vd.shape().dims::<2>();
    let device = x_nd.device();
    let chunk = logits_chunk(v);
    let (format, full) = (x_nd.dtype(), w_vd.dtype());
    let w_vd = cast::<B>(w_vd, format);

    let mut loss: Option<FloatTensor<B>> = None;
    let mut dx_chunks = Vec::new();
    let mut dw_vd: Option<FloatTensor<B>> = None;
    let mut start = 0;
    while start < n {
        let end = (start + chunk).min(n);
        let rows = [Slice::from(start as isize..end as isize)];
        let x_cd = B::float_slice(x_nd.clone(), &rows);
        let targets_c = B::int_slice(targets_n.clone(), &rows);
        let logits_cv = B::product(x_cd.clone(), B::float_transpose(w_vd.clone()));
        let (chunk_loss, dlogits_cv) =
            B::softmax_cross_entropy(cast::<B>(logits_cv, full), targets_c, with_gradients);
        loss = Some(match loss {
            Some(sum) => B::float_add(sum, chunk_loss),
            None => chunk_loss,
        });
        if with_gradients {
            let dlogits_cv = cast::<B>(dlogits_cv, format);
            dx_chunks.push(B::product(dlogits_cv.clone(), w_vd.clone()));
            if wanted == Wanted::Gradients {
                let dlogits_vc = B::float_transpose(dlogits_cv);
                dw_vd = Some(sum_with_product::<B>(dw_vd.take(), dlogits_vc, x_cd, full));
            }
        }
        start = end;
    }
    let loss = loss.unwrap_or_else(|| B::float_zeros(Shape::new([1]), &device, full.into()));
    let gradients = (!dx_chunks.is_empty()).then(|| (B::float_cat(dx_chunks, 0), dw_vd));
    (loss, gradients)
}

/// `x` in a number format.
pub(super) fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype {
        x
    } else {
        B::float_cast(x, dtype.into())
    }
}

impl<B: LinearCrossEntropyBackend + SoftmaxCrossEntropy, C: CheckpointStrategy>
    LinearCrossEntropyBackend for Autodiff<B, C>
{
    fn linear_cross_entropy(
        x_nd: FloatTensor<Self>,
        w_vd: FloatTensor<Self>,
        targets_n: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LinearCrossEntropyBackward;

        impl<B: Products> Backward<B, 2> for LinearCrossEntropyBackward {
            type State = InputGradients<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [x, w] = ops.parents;
                let upstream = grads.consume::<B>(&ops.node);
                let upstream_11 = B::float_reshape(upstream, Shape::new([1, 1]));
                let (dx, dw) = ops.state;
                if let Some(node) = x {
                    grads.register::<B>(node.id, B::multiple(dx, upstream_11.clone()));
                }
                if let (Some(node), Some(dw)) = (w, dw) {
                    grads.register::<B>(node.id, B::multiple(dw, upstream_11));
                }
            }
        }

        let wanted = match w_vd.is_tracked() {
            true => Wanted::Gradients,
            false => Wanted::InputGradient,
        };
        let prepared = LinearCrossEntropyBackward.prepare::<C>([x_nd.node(), w_vd.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (x_nd, w_vd) = (x_nd.into_primitive(), w_vd.into_primitive());
                match forward::<B>(x_nd.clone(), w_vd.clone(), targets_n, wanted) {
                    (loss, Some(gradients)) => prepared.finish(gradients, loss),
                    // No token, no loss: the gradients are zero.
                    (loss, None) => {
                        let zeros = |x: FloatTensor<B>| {
                            B::float_zeros(x.shape(), &x.device(), x.dtype().into())
                        };
                        prepared.finish((zeros(x_nd), Some(zeros(w_vd))), loss)
                    }
                }
            }
            OpsKind::UnTracked(prepared) => {
                let loss = B::linear_cross_entropy(
                    x_nd.into_primitive(),
                    w_vd.into_primitive(),
                    targets_n,
                );
                prepared.finish(loss)
            }
        }
    }
}
