//! The arithmetic of one adapted map: `s · (dropout(x) · Aᵀ) · Bᵀ`, never the
//! product `B · A` of the size of the weight.
//!
//! Shape suffixes: `n` rows (tokens), `i` input and `o` output features, `r` rank.

use burn::module::{Module, Param};
use burn::prelude::*;

use super::dropout::{DropoutScope, dropout};
use crate::precision::as_in;

/// A factor of a low-rank product.
#[derive(Module, Debug)]
pub struct Factor {
    /// `[rank, in]` of the first factor, `[out, rank]` of the second.
    pub weight: Param<Tensor<2>>,
}

impl Factor {
    pub(super) fn new(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Self {
        let data = TensorData::new(values, shape);
        Self {
            weight: Param::from_tensor(Tensor::from_data(data, device)),
        }
    }
}

/// What goes with the factors of a map and is not trained.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LoraSettings {
    /// What the product is multiplied by.
    pub(crate) scale: f64,
    /// Probability that an input of the first factor is dropped.
    pub(crate) dropout: f64,
    /// Place of the map among those of its model.
    pub(crate) place: u64,
}

impl LoraSettings {
    /// Whether inputs are dropped now.
    pub(crate) fn drops(self) -> bool {
        self.dropout > 0.0 && DropoutScope::is_on()
    }

    /// What the factors add to the result of the map.
    pub(crate) fn delta(self, x_ni: Tensor<2>, a: &Factor, b: &Factor) -> Tensor<2> {
        let dtype = x_ni.dtype();
        let x_ni = dropout(x_ni, self.dropout, self.place);
        let z_nr = x_ni.matmul(as_in(a.weight.val(), dtype).transpose()) * self.scale;
        z_nr.matmul(as_in(b.weight.val(), dtype).transpose())
    }
}
