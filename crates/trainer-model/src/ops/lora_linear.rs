//! A frozen linear map and a low-rank one in one: `y = x · Wᵀ + s · (x · Aᵀ) · Bᵀ`
//! (arXiv 2106.09685).
//!
//! ```text
//! z = x · Aᵀ                    t = s · dy · B
//! y = x · Wᵀ + s · z · Bᵀ       dx = dy · W + t · A
//!                               dA = tᵀ · x,  dB = s · dyᵀ · z
//! ```
//! Nothing of the size of `W` is made: there is no gradient for it, and it is read
//! through a transposed view. The low-rank products are added to the large ones where
//! these are, so that there is one value of the size of `y` forward and one of the size
//! of `x` back.
//!
//! Shape suffixes: `n` rows (tokens), `i` input and `o` output features, `r` rank.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::prelude::*;

use super::products::Products;

/// Backends that compute the map.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu"))
)]
pub(crate) trait LoraLinearBackend: Backend {
    /// See [`lora_linear`].
    fn lora_linear(
        x_ni: FloatTensor<Self>,
        w_oi: FloatTensor<Self>,
        a_ri: FloatTensor<Self>,
        b_or: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

macro_rules! without_gradients {
    (#[$condition:meta] $backend:ty) => {
        #[$condition]
        impl LoraLinearBackend for $backend {
            fn lora_linear(
                x_ni: FloatTensor<Self>,
                w_oi: FloatTensor<Self>,
                a_ri: FloatTensor<Self>,
                b_or: FloatTensor<Self>,
                scale: f64,
            ) -> FloatTensor<Self> {
                let operands = Operands::<Self> {
                    x_ni,
                    w_oi,
                    a_ri,
                    b_or,
                    scale,
                };
                operands.forward().0
            }
        }
    };
}

for_each_backend!(without_gradients);

/// `x_ni · w_oiᵀ + scale · (x_ni · a_riᵀ) · b_orᵀ`, `[n, o]`, with gradients for `x_ni`,
/// `a_ri` and `b_or` alone: `w_oi` is frozen.
#[must_use]
pub fn lora_linear(
    x_ni: Tensor<2>,
    w_oi: Tensor<2>,
    a_ri: Tensor<2>,
    b_or: Tensor<2>,
    scale: f64,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LoraLinearBackend>::lora_linear(
        x_ni.into_dispatch(),
        w_oi.into_dispatch(),
        a_ri.into_dispatch(),
        b_or.into_dispatch(),
        scale,
    ))
}

/// What the map is made of.
#[derive(Debug, Clone)]
struct Operands<B: Backend> {
    x_ni: FloatTensor<B>,
    w_oi: FloatTensor<B>,
    a_ri: FloatTensor<B>,
    b_or: FloatTensor<B>,
    scale: f64,
}

impl<B: Products> Operands<B> {
    /// The result and `x · Aᵀ`.
    fn forward(self) -> (FloatTensor<B>, FloatTensor<B>) {
        let z_nr = B::product(self.x_ni.clone(), B::float_transpose(self.a_ri));
        let y_no = B::product(self.x_ni, B::float_transpose(self.w_oi));
        let scaled_nr = B::float_mul_scalar(z_nr.clone(), self.scale.into());
        let y_no = B::add_product(y_no, scaled_nr, B::float_transpose(self.b_or));
        (y_no, z_nr)
    }
}

#[derive(Debug)]
struct LoraLinearBackward;

impl<B: Products> Backward<B, 3> for LoraLinearBackward {
    /// The operands and `x · Aᵀ`.
    type State = (Operands<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x, a, b] = ops.parents;
        let dy_no = grads.consume::<B>(&ops.node);
        let (operands, z_nr) = ops.state;
        if let Some(node) = b {
            let z_nr = B::float_mul_scalar(z_nr, operands.scale.into());
            let db_or = B::product(B::float_transpose(dy_no.clone()), z_nr);
            grads.register::<B>(node.id, db_or);
        }
        if x.is_none() && a.is_none() {
            return;
        }
        let t_nr = B::product(dy_no.clone(), operands.b_or);
        let t_nr = B::float_mul_scalar(t_nr, operands.scale.into());
        if let Some(node) = a {
            let da_ri = B::product(B::float_transpose(t_nr.clone()), operands.x_ni);
            grads.register::<B>(node.id, da_ri);
        }
        if let Some(node) = x {
            let dx_ni = B::product(dy_no, operands.w_oi);
            let dx_ni = B::add_product(dx_ni, t_nr, operands.a_ri);
            grads.register::<B>(node.id, dx_ni);
        }
    }
}

impl<B: LoraLinearBackend + Products, C: CheckpointStrategy> LoraLinearBackend for Autodiff<B, C> {
    fn lora_linear(
        x_ni: FloatTensor<Self>,
        w_oi: FloatTensor<Self>,
        a_ri: FloatTensor<Self>,
        b_or: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x_ni.node(), a_ri.node(), b_or.node()];
        let operands = Operands::<B> {
            x_ni: x_ni.into_primitive(),
            w_oi: w_oi.into_primitive(),
            a_ri: a_ri.into_primitive(),
            b_or: b_or.into_primitive(),
            scale,
        };
        match LoraLinearBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => {
                let (y_no, z_nr) = operands.clone().forward();
                prepared.finish((operands, z_nr), y_no)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(operands.forward().0),
        }
    }
}
