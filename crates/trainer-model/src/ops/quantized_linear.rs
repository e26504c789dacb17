//! `y = x · Wᵀ` with a frozen `W` in few bits a number, `[o, i]`.
//!
//! Of `W`, some rows at a time are numbers, in the forward pass and again in the
//! backward pass, `dx = dy · W`. `W` has no gradient.
//!
//! Shape suffixes: `n` rows (tokens), `i` input and `o` output features, `k` outputs
//! of a block.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::prelude::*;
use burn::tensor::{Shape, Slice, TensorData};

use super::cross_entropy::cast;
use crate::quantized::QuantizedMatrix;

/// Backends that compute the map.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu"))
)]
pub(crate) trait QuantizedLinearBackend: Backend {
    /// `x_ni · Wᵀ`.
    fn quantized_linear(x_ni: FloatTensor<Self>, weight: Arc<QuantizedMatrix>)
    -> FloatTensor<Self>;
}

macro_rules! without_gradients {
    (#[$condition:meta] $backend:ty) => {
        #[$condition]
        impl QuantizedLinearBackend for $backend {
            fn quantized_linear(
                x_ni: FloatTensor<Self>,
                weight: Arc<QuantizedMatrix>,
            ) -> FloatTensor<Self> {
                forward::<Self>(x_ni, &weight)
            }
        }
    };
}

for_each_backend!(without_gradients);

/// `x · Wᵀ`, `[n, o]`, in the number format of `x_ni`.
#[must_use]
pub fn quantized_linear(x_ni: Tensor<2>, weight: Arc<QuantizedMatrix>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantizedLinearBackend>::quantized_linear(
        x_ni.into_dispatch(),
        weight,
    ))
}

/// The blocks of a matrix, `[k, i]`, where and in the format that `like` is, with the
/// outputs that each is for.
fn blocks<'a, B: Backend>(
    weight: &'a QuantizedMatrix,
    like: &FloatTensor<B>,
) -> impl Iterator<Item = (FloatTensor<B>, Slice)> + 'a {
    let (device, format) = (like.device(), like.dtype());
    let [_, inputs] = weight.shape();
    weight.blocks().map(move |(start, rows)| {
        let data = TensorData::new(weight.rows(start, rows), Shape::new([rows, inputs]));
        let block_ki = cast::<B>(B::float_from_data(data, &device), format);
        let outputs = Slice::from(start as isize..(start + rows) as isize);
        (block_ki, outputs)
    })
}

fn forward<B: Backend>(x_ni: FloatTensor<B>, weight: &QuantizedMatrix) -> FloatTensor<B> {
    let mut parts: Vec<FloatTensor<B>> = blocks::<B>(weight, &x_ni)
        .map(|(block_ki, _)| B::float_matmul(x_ni.clone(), B::float_transpose(block_ki)))
        .collect();
    match parts.len() {
        1 => parts.remove(0),
        _ => B::float_cat(parts, 1),
    }
}

fn backward<B: Backend>(dy_no: FloatTensor<B>, weight: &QuantizedMatrix) -> FloatTensor<B> {
    let [n, _] = dy_no.shape().dims::<2>();
    let mut dx_ni: Option<FloatTensor<B>> = None;
    for (block_ki, outputs) in blocks::<B>(weight, &dy_no) {
        let dy_nk = B::float_slice(dy_no.clone(), &[Slice::from(0..n as isize), outputs]);
        let part_ni = B::float_matmul(dy_nk, block_ki);
        dx_ni = Some(match dx_ni {
            Some(sum) => B::float_add(sum, part_ni),
            None => part_ni,
        });
    }
    dx_ni.unwrap_or_else(|| {
        let shape = Shape::new([n, weight.shape()[1]]);
        B::float_zeros(shape, &dy_no.device(), dy_no.dtype().into())
    })
}

impl<B: QuantizedLinearBackend, C: CheckpointStrategy> QuantizedLinearBackend for Autodiff<B, C> {
    fn quantized_linear(
        x_ni: FloatTensor<Self>,
        weight: Arc<QuantizedMatrix>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct QuantizedLinearBackward;

        impl<B: Backend> Backward<B, 1> for QuantizedLinearBackward {
            type State = Arc<QuantizedMatrix>;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [x] = ops.parents;
                let upstream_no = grads.consume::<B>(&ops.node);
                if let Some(node) = x {
                    grads.register::<B>(node.id, backward::<B>(upstream_no, &ops.state));
                }
            }
        }

        let prepared = QuantizedLinearBackward.prepare::<C>([x_ni.node()]);
        let output = B::quantized_linear(x_ni.into_primitive(), Arc::clone(&weight));
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(weight, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}
