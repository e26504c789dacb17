//! Sums with products of matrices, and multiples of matrices, in the memory that they
//! have.
//!
//! As chains of Burn's operations, each product would take a matrix of its own and a
//! pass over both: as much as the head of a model for each chunk of tokens in the
//! loss, as much as the result of a map for what an adapter adds.
//!
//! Shape suffixes: `m` and `n` rows and columns of the sum, `k` what is summed over.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::DType;

use super::cross_entropy::cast;

/// Backends that add products.
pub(crate) trait Products: Backend {
    /// `a_mk · b_kn`, of one number format.
    fn product(a_mk: FloatTensor<Self>, b_kn: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(a_mk, b_kn)
    }

    /// `sum_mn + a_mk · b_kn`, all of one number format.
    fn add_product(
        sum_mn: FloatTensor<Self>,
        a_mk: FloatTensor<Self>,
        b_kn: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_add(sum_mn, Self::float_matmul(a_mk, b_kn))
    }

    /// `x` times the one number of `factor_11`.
    fn multiple(x: FloatTensor<Self>, factor_11: FloatTensor<Self>) -> FloatTensor<Self> {
        multiple_of::<Self>(x, factor_11)
    }
}

/// `sum_mn + a_mk · b_kn` in the number format `full`, which the sum has; without a sum,
/// the product.
pub(super) fn sum_with_product<B: Products>(
    sum_mn: Option<FloatTensor<B>>,
    a_mk: FloatTensor<B>,
    b_kn: FloatTensor<B>,
    full: DType,
) -> FloatTensor<B> {
    match sum_mn {
        Some(sum) if a_mk.dtype() == full => B::add_product(sum, a_mk, b_kn),
        sum_mn => {
            let product_mn = cast::<B>(B::product(a_mk, b_kn), full);
            match sum_mn {
                Some(sum) => B::float_add(sum, product_mn),
                None => product_mn,
            }
        }
    }
}

fn multiple_of<B: Backend>(x: FloatTensor<B>, factor_11: FloatTensor<B>) -> FloatTensor<B> {
    let factor_11 = cast::<B>(factor_11, x.dtype());
    B::float_mul(x, factor_11)
}

#[cfg(feature = "flex")]
impl Products for burn::backend::Flex {
    fn product(a_mk: FloatTensor<Self>, b_kn: FloatTensor<Self>) -> FloatTensor<Self> {
        super::flex::product(a_mk, b_kn)
    }

    fn add_product(
        sum_mn: FloatTensor<Self>,
        a_mk: FloatTensor<Self>,
        b_kn: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        super::flex::add_product(sum_mn, a_mk, b_kn)
    }

    fn multiple(x: FloatTensor<Self>, factor_11: FloatTensor<Self>) -> FloatTensor<Self> {
        match [x.dtype(), factor_11.dtype()] == [DType::F32; 2] {
            true => super::flex::multiple(x, &factor_11),
            false => multiple_of::<Self>(x, factor_11),
        }
    }
}
#[cfg(feature = "ndarray")]
impl Products for burn::backend::NdArray {}
#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Products for burn::backend::Cube {}
