//! The arithmetic of one adapted map: `s · (dropout(x) · Aᵀ) · Bᵀ`, never the
//! product `B · A` of the size of the weight.
//!
//! With a magnitude `m` for each output (DoRA) the map is that of the weight
//! `m ⊙ (W + s · B · A) / ‖W + s · B · A‖`; see [`super::dora`].
//!
//! Shape suffixes: `n` rows (tokens), `i` input and `o` output features, `r` rank.

use burn::module::{Module, Param};
use burn::prelude::*;

use super::dora;
use super::dropout::{DropoutScope, dropout};
use crate::ops::linear;
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

/// What a map has beside its weight while an adapter is attached.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    /// `[r, i]`.
    pub(crate) a: &'a Factor,
    /// `[o, r]`.
    pub(crate) b: &'a Factor,
    /// `[o]`.
    pub(crate) magnitude: Option<&'a Param<Tensor<1>>>,
    pub(crate) settings: LoraSettings,
}

impl Factors<'_> {
    /// Whether the low-rank product takes the input of the weight and is added to its
    /// result.
    pub(crate) fn only_add(&self) -> bool {
        let drops = self.settings.dropout > 0.0 && DropoutScope::is_on();
        self.magnitude.is_none() && !drops
    }

    /// What the adapter adds to `base_no`, the result of the weight for `x_ni`
    /// without a bias. `product` applies the weight.
    pub(crate) fn change(
        self,
        x_ni: Tensor<2>,
        base_no: Tensor<2>,
        product: impl Fn(Tensor<2>) -> Tensor<2>,
        weight: &Param<Tensor<2>>,
    ) -> Tensor<2> {
        let LoraSettings {
            dropout: p, place, ..
        } = self.settings;
        let dropped_ni = dropout(&x_ni, p, place);
        let Some(magnitude_o) = self.magnitude else {
            return self.delta(dropped_ni.unwrap_or(x_ni));
        };
        let dtype = x_ni.dtype();
        let norms_o = dora::row_norms(weight, self);
        let share_1o = as_in(magnitude_o.val() / norms_o, dtype).unsqueeze::<2>();
        // What is dropped is dropped from the direction as a whole: `W` sees the same
        // input as the factors do (as in PEFT).
        let (x_ni, base_no) = match dropped_ni {
            Some(dropped_ni) => (dropped_ni.clone(), product(dropped_ni)),
            None => (x_ni, base_no),
        };
        base_no * (share_1o.clone() - 1.0) + self.delta(x_ni) * share_1o
    }

    fn delta(self, x_ni: Tensor<2>) -> Tensor<2> {
        let z_nr = linear(x_ni, self.a.weight.val()) * self.settings.scale;
        linear(z_nr, self.b.weight.val())
    }
}
