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
use crate::weight::Weight;

/// A factor of a low-rank product.
#[derive(Module, Debug)]
pub struct Factor {
    /// `[rank, in]` of the first factor, `[out, rank]` of the second.
    pub weight: Param<Tensor<2>>,
}

impl Factor {
    pub(super) fn new(data: TensorData, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::from_data(data, device)),
        }
    }
}

/// Factors that were made of the weight, as they were at first. Their product is taken
/// away from the map, so that training began with the model as it was; the weight
/// itself is left alone. They are not trained.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// `[r, i]`.
    pub(super) a: Tensor<2>,
    /// `[o, r]`.
    pub(super) b: Tensor<2>,
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
    pub(crate) start: Option<&'a Start>,
    pub(crate) settings: LoraSettings,
}

impl Factors<'_> {
    /// Whether the low-rank product takes the input of the weight and is added to its
    /// result.
    pub(crate) fn only_add(&self) -> bool {
        let drops = self.settings.dropout > 0.0 && DropoutScope::is_on();
        self.magnitude.is_none() && self.start.is_none() && !drops
    }

    /// What the adapter adds to `base_no`, the result of the weight for `x_ni`
    /// without a bias.
    pub(crate) fn change(self, x_ni: Tensor<2>, base_no: Tensor<2>, weight: &Weight) -> Tensor<2> {
        let LoraSettings {
            dropout: p, place, ..
        } = self.settings;
        let dropped_ni = dropout(&x_ni, p, place);
        let Some(magnitude_o) = self.magnitude else {
            return self.delta(x_ni, dropped_ni);
        };
        let dtype = x_ni.dtype();
        let norms_o = dora::row_norms(weight, self);
        let share_1o = as_in(magnitude_o.val() / norms_o, dtype).unsqueeze::<2>();
        // What is dropped is dropped from the direction as a whole: `W` sees the same
        // input as the factors do (as in PEFT).
        let (x_ni, base_no) = match dropped_ni {
            Some(dropped_ni) => (dropped_ni.clone(), weight.product(dropped_ni)),
            None => (x_ni, base_no),
        };
        base_no * (share_1o.clone() - 1.0) + self.delta(x_ni, None) * share_1o
    }

    /// The product of the factors, less that which they began with. That is part of the
    /// weight, from which nothing is dropped.
    fn delta(self, x_ni: Tensor<2>, dropped_ni: Option<Tensor<2>>) -> Tensor<2> {
        let product = |x_ni: Tensor<2>, a_ri: Tensor<2>, b_or: Tensor<2>| {
            linear(linear(x_ni, a_ri) * self.settings.scale, b_or)
        };
        let input_ni = dropped_ni.unwrap_or_else(|| x_ni.clone());
        let delta_no = product(input_ni, self.a.weight.val(), self.b.weight.val());
        match self.start {
            Some(start) => delta_no - product(x_ni, start.a.clone(), start.b.clone()),
            None => delta_no,
        }
    }
}
