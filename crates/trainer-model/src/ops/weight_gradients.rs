//! Gradients of large weights that come a chunk of tokens at a time: sums and
//! multiples of them in the memory that they have.
//!
//! A head's gradient is as large as the head. As chains of Burn's operations, each
//! chunk's share would take a second such matrix and two passes over both.
//!
//! Shape suffixes: `c` tokens of a chunk, `d` width, `v` vocabulary.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::DType;

use super::cross_entropy::cast;

/// Backends that sum gradients of weights.
pub(crate) trait WeightGradients: Backend {
    /// `sum_vd + dlogits_cvᵀ · x_cd`, in the number format `full`; without a sum, the
    /// product.
    fn add_product(
        sum_vd: Option<FloatTensor<Self>>,
        dlogits_cv: FloatTensor<Self>,
        x_cd: FloatTensor<Self>,
        full: DType,
    ) -> FloatTensor<Self> {
        sum_with_product::<Self>(sum_vd, dlogits_cv, x_cd, full)
    }

    /// `x` times the one number of `factor_11`.
    fn multiple(x: FloatTensor<Self>, factor_11: FloatTensor<Self>) -> FloatTensor<Self> {
        multiple_of::<Self>(x, factor_11)
    }
}

fn sum_with_product<B: Backend>(
    sum_vd: Option<FloatTensor<B>>,
    dlogits_cv: FloatTensor<B>,
    x_cd: FloatTensor<B>,
    full: DType,
) -> FloatTensor<B> {
    let product = B::float_matmul(B::float_transpose(dlogits_cv), x_cd);
    let product = cast::<B>(product, full);
    match sum_vd {
        Some(sum) => B::float_add(sum, product),
        None => product,
    }
}

fn multiple_of<B: Backend>(x: FloatTensor<B>, factor_11: FloatTensor<B>) -> FloatTensor<B> {
    let factor_11 = cast::<B>(factor_11, x.dtype());
    B::float_mul(x, factor_11)
}

#[cfg(feature = "flex")]
impl WeightGradients for burn::backend::Flex {
    fn add_product(
        sum_vd: Option<FloatTensor<Self>>,
        dlogits_cv: FloatTensor<Self>,
        x_cd: FloatTensor<Self>,
        full: DType,
    ) -> FloatTensor<Self> {
        match sum_vd {
            Some(sum) if [sum.dtype(), dlogits_cv.dtype(), x_cd.dtype()] == [DType::F32; 3] => {
                super::flex::add_product(sum, &dlogits_cv, &x_cd)
            }
            sum_vd => sum_with_product::<Self>(sum_vd, dlogits_cv, x_cd, full),
        }
    }

    fn multiple(x: FloatTensor<Self>, factor_11: FloatTensor<Self>) -> FloatTensor<Self> {
        match [x.dtype(), factor_11.dtype()] == [DType::F32; 2] {
            true => super::flex::multiple(x, &factor_11),
            false => multiple_of::<Self>(x, factor_11),
        }
    }
}
#[cfg(feature = "ndarray")]
impl WeightGradients for burn::backend::NdArray {}
#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl WeightGradients for burn::backend::Cube {}
