//! The linear map `y = x · Wᵀ` with weights as the files have them, `[out, in]`.
//!
//! As a chain of Burn's operations, the gradient of `W` would come out of the matrix
//! product as `[in, out]`, and each weight's would be copied to turn it around. Here it
//! is computed as it is kept: `dW = dyᵀ · x`, `dx = dy · W`. Only what a gradient needs is
//! kept: nothing of `x` where `W` is frozen.
//!
//! `x` may be of less precision than `f32`: the products are then computed in its format
//! from weights rounded to it, once for each pass, and the gradient of the weights is
//! `f32` as they are.
//!
//! Shape suffixes: `n` rows (tokens), `i` input and `o` output features.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::prelude::*;

use super::cross_entropy::cast;
use super::products::Products;

/// Backends that apply linear maps.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu"))
)]
pub(crate) trait LinearBackend: Backend {
    /// `x_ni · w_oiᵀ`, `[n, o]`, in the number format of `x_ni`.
    fn linear_map(x_ni: FloatTensor<Self>, w_oi: FloatTensor<Self>) -> FloatTensor<Self>;
}

macro_rules! without_gradients {
    (#[$condition:meta] $backend:ty) => {
        #[$condition]
        impl LinearBackend for $backend {
            fn linear_map(x_ni: FloatTensor<Self>, w_oi: FloatTensor<Self>) -> FloatTensor<Self> {
                forward::<Self>(x_ni, w_oi)
            }
        }
    };
}

for_each_backend!(without_gradients);

/// `x_ni · w_oiᵀ`, `[n, o]`, in the number format of `x_ni`.
#[must_use]
pub fn linear(x_ni: Tensor<2>, w_oi: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LinearBackend>::linear_map(
        x_ni.into_dispatch(),
        w_oi.into_dispatch(),
    ))
}

fn forward<B: Products>(x_ni: FloatTensor<B>, w_oi: FloatTensor<B>) -> FloatTensor<B> {
    let w_oi = cast::<B>(w_oi, x_ni.dtype());
    B::product(x_ni, B::float_transpose(w_oi))
}

impl<B: LinearBackend + Products, C: CheckpointStrategy> LinearBackend for Autodiff<B, C> {
    fn linear_map(x_ni: FloatTensor<Self>, w_oi: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LinearBackward;

        impl<B: Products> Backward<B, 2> for LinearBackward {
            /// Weights where the input needs a gradient, the input where they do, and
            /// the format of the weights.
            type State = (
                Option<FloatTensor<B>>,
                Option<FloatTensor<B>>,
                burn::tensor::DType,
            );

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [x, w] = ops.parents;
                let dy_no = grads.consume::<B>(&ops.node);
                let (w_oi, x_ni, full) = ops.state;
                if let (Some(node), Some(w_oi)) = (x, w_oi) {
                    let w_oi = cast::<B>(w_oi, dy_no.dtype());
                    grads.register::<B>(node.id, B::product(dy_no.clone(), w_oi));
                }
                if let (Some(node), Some(x_ni)) = (w, x_ni) {
                    let dw_oi = B::product(B::float_transpose(dy_no), x_ni);
                    grads.register::<B>(node.id, cast::<B>(dw_oi, full));
                }
            }
        }

        let (x_tracked, w_tracked) = (x_ni.is_tracked(), w_oi.is_tracked());
        let prepared = LinearBackward.prepare::<C>([x_ni.node(), w_oi.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (x_ni, w_oi) = (x_ni.into_primitive(), w_oi.into_primitive());
                let state = (
                    x_tracked.then(|| w_oi.clone()),
                    w_tracked.then(|| x_ni.clone()),
                    w_oi.dtype(),
                );
                prepared.finish(state, B::linear_map(x_ni, w_oi))
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::linear_map(x_ni.into_primitive(), w_oi.into_primitive()))
            }
        }
    }
}
