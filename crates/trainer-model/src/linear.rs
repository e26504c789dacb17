//! The parameterized building blocks: linear maps and embeddings.
//!
//! Weights keep the layout of the files, `[out, in]`, so that loading and
//! saving copy nothing around and a tied head is the embedding itself; matrix
//! kernels take the transposed view without a copy ([`linear`]).
//!
//! Shape suffixes: `n` rows (tokens), `i` input and `o` output features,
//! `b` rows of a batch, `t` tokens, `d` model width, `v` vocabulary.

#![allow(
    non_snake_case,
    reason = "lora_A and lora_B are the names of tensors in adapter files"
)]

use burn::module::{Initializer, Module, Param};
use burn::prelude::*;
use burn::tensor::DType;

use crate::adapters::{Factor, Factors, LoraSettings, Start};
use crate::ops::lora_linear;
use crate::precision::as_in;
use crate::weight::Weight;

fn normal(std: f64) -> Initializer {
    Initializer::Normal { mean: 0.0, std }
}

/// `y = x · Wᵀ + b`, with `W` stored as `[out, in]`, plus what an adapter adds.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// First factor of the adapter, `[rank, in]`.
    pub lora_A: Option<Factor>,
    /// Second factor of the adapter, `[out, rank]`. Present where the first is.
    pub lora_B: Option<Factor>,
    /// Magnitudes of the adapted outputs, `[out]`.
    pub lora_magnitude_vector: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) lora: LoraSettings,
    #[module(skip)]
    pub(crate) lora_start: Option<Start>,
}

impl Linear {
    /// Weights drawn from N(0, `std`²) at their first use, biases zero.
    #[must_use]
    pub fn new(input: usize, output: usize, bias: bool, std: f64, device: &Device) -> Self {
        Self {
            weight: Weight::Full(normal(std).init([output, input], device)),
            bias: bias.then(|| Initializer::Zeros.init([output], device)),
            lora_A: None,
            lora_B: None,
            lora_magnitude_vector: None,
            lora: LoraSettings::default(),
            lora_start: None,
        }
    }

    /// What an adapter gave the map.
    pub(crate) fn factors(&self) -> Option<Factors<'_>> {
        let (a, b) = self.lora_A.as_ref().zip(self.lora_B.as_ref())?;
        Some(Factors {
            a,
            b,
            magnitude: self.lora_magnitude_vector.as_ref(),
            start: self.lora_start.as_ref(),
            settings: self.lora,
        })
    }

    /// The weight where it is not quantized, needs no gradient and is of this number
    /// format.
    fn frozen_in(&self, dtype: DType) -> Option<Tensor<2>> {
        let Weight::Full(weight) = &self.weight else {
            return None;
        };
        let weight = weight.val();
        (!weight.is_tracked() && weight.dtype() == dtype).then_some(weight)
    }

    /// Applies the map to the last dimension, in the number format of `x`.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut dims = x.dims();
        let input = dims[D - 1];
        let rows = dims[..D - 1].iter().product::<usize>();
        let dtype = x.dtype();
        let x_ni = x.reshape([rows, input]);
        let y_no = match self.factors() {
            None => self.weight.product(x_ni),
            Some(factors) => match self.frozen_in(dtype).filter(|_| factors.only_add()) {
                Some(weight_oi) => {
                    let (a, b) = (factors.a.weight.val(), factors.b.weight.val());
                    lora_linear(x_ni, weight_oi, a, b, factors.settings.scale)
                }
                None => {
                    let base_no = self.weight.product(x_ni.clone());
                    base_no.clone() + factors.change(x_ni, base_no, &self.weight)
                }
            },
        };
        let y_no = match &self.bias {
            Some(bias) => y_no + as_in(bias.val(), dtype).unsqueeze(),
            None => y_no,
        };
        dims[D - 1] = y_no.dims()[1];
        y_no.reshape(dims)
    }
}

/// A table of vectors, one a token id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, width]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Weights drawn from N(0, `std`²) at their first use.
    #[must_use]
    pub fn new(vocab: usize, width: usize, std: f64, device: &Device) -> Self {
        Self {
            weight: normal(std).init([vocab, width], device),
        }
    }

    /// Vectors of `ids_bt`, `[b, t, d]`. Ids must be below the vocabulary size.
    #[must_use]
    pub fn forward(&self, ids_bt: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), ids_bt)
    }
}
