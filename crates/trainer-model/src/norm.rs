//! RMSNorm.

use burn::module::{Initializer, Module, Param};
use burn::prelude::*;

use crate::config::NormConfig;
use crate::ops;
use crate::precision::in_f32;

/// `x / sqrt(mean(x²) + eps) · weight` (arXiv 1910.07467).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`; less one where weights are stored so.
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    zero_centred: bool,
}

impl RmsNorm {
    /// Weights that change nothing.
    #[must_use]
    pub fn new(width: usize, config: &NormConfig, device: &Device) -> Self {
        let weight = if config.zero_centred {
            Initializer::Zeros
        } else {
            Initializer::Ones
        };
        Self {
            weight: weight.init([width], device),
            eps: config.eps,
            zero_centred: config.zero_centred,
        }
    }

    /// Normalizes the last dimension.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = self.weight.val();
        let weight = if self.zero_centred {
            weight + 1.0
        } else {
            weight
        };
        in_f32(x, |x| ops::rms_norm(x, weight, self.eps))
    }

    /// Normalizes each head of `[b, t, h, k]`, or all of a token's heads
    /// together, by the width of the weight.
    pub(crate) fn forward_heads(&self, x_bthk: Tensor<4>) -> Tensor<4> {
        let dims = x_bthk.dims();
        let [b, t, h, k] = dims;
        let width = self.weight.lazy_shape().num_elements();
        self.forward(x_bthk.reshape([b, t, h * k / width, width]))
            .reshape(dims)
    }
}
