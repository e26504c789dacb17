//! Rotary position embeddings in the half-rotation layout of Hugging Face's
//! Llama: dimension `i` is paired with `i + rotary_dim / 2`.
//!
//! Frequencies and tables are computed on the host in `f32`, as torch does,
//! since positions come from the host with every batch.
//!
//! Shape suffixes: `b` rows, `t` tokens, `h` heads, `k` head dimension, `r` its
//! rotated part.
//! References: arXiv 2104.09864, and those of [`RopeScaling`].

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::config::{RopeConfig, RopeScaling};
use crate::ops;
use crate::precision::in_f32;

/// Angular frequency of each pair of dimensions, `rotary_dim / 2` values, for
/// sequences of up to `length` tokens.
#[must_use]
pub fn inverse_frequencies(rope: &RopeConfig, length: usize) -> Vec<f32> {
    let dim = rope.rotary_dim;
    let series =
        |base: f32| (0..dim / 2).map(move |i| 1.0 / base.powf((2 * i) as f32 / dim as f32));
    let plain = series(rope.theta as f32);
    match &rope.scaling {
        RopeScaling::Default => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|x| x / *factor as f32).collect(),
        RopeScaling::Dynamic {
            factor,
            max_position_embeddings: context,
        } => {
            let length = (length as f64).max(*context);
            let growth = factor * length / context - (factor - 1.0);
            // With one pair of dimensions there is nothing but frequency one.
            let exponent = dim as f64 / (dim as f64 - 2.0).max(1.0);
            series((rope.theta * growth.powf(exponent)) as f32).collect()
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            truncate,
            original_max_position_embeddings: original,
            ..
        } => {
            // The dimension that makes this many turns over the original context.
            let dimension_of = |turns: f64| {
                let wavelength = original / (turns * 2.0 * std::f64::consts::PI);
                dim as f64 * wavelength.ln() / (2.0 * rope.theta.ln())
            };
            let (mut low, mut high) = (dimension_of(*beta_fast), dimension_of(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            plain
                .enumerate()
                .map(|(i, frequency)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    frequency / *factor as f32 * ramp + frequency * (1.0 - ramp)
                })
                .collect()
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => plain
            .map(|frequency| {
                let turns = *original as f32 * frequency / (2.0 * std::f32::consts::PI);
                let (low, high) = (*low_freq_factor as f32, *high_freq_factor as f32);
                // Turns over the original context: below `low` it is a low
                // frequency, above `high` a high one.
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / *factor as f32 + smooth * frequency
            })
            .collect(),
        RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position_embeddings: original,
            ..
        } => {
            let factors = if length as f64 > *original {
                long_factor
            } else {
                short_factor
            };
            plain
                .zip(factors)
                .map(|(x, factor)| x / *factor as f32)
                .collect()
        }
    }
}

/// Factor of rotated vectors.
fn attention_factor(scaling: &RopeScaling) -> f32 {
    match scaling {
        RopeScaling::Yarn {
            attention_factor, ..
        }
        | RopeScaling::LongRope {
            attention_factor, ..
        } => *attention_factor as f32,
        _ => 1.0,
    }
}

/// Cosines and sines for the tokens of a batch, each `[b, t, 1, r]`.
#[derive(Debug, Clone)]
pub struct RopeTables {
    cos_bt1r: Tensor<4>,
    sin_bt1r: Tensor<4>,
}

impl RopeTables {
    /// Tables for `positions`, row-major `[rows, width]`.
    #[must_use]
    pub fn new(
        positions: &[u32],
        rows: usize,
        width: usize,
        rope: &RopeConfig,
        device: &Device,
    ) -> Self {
        let length = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let frequencies = inverse_frequencies(rope, length);
        let factor = attention_factor(&rope.scaling);
        let rotary_dim = rope.rotary_dim;
        let mut cos = Vec::with_capacity(positions.len() * rotary_dim);
        let mut sin = Vec::with_capacity(positions.len() * rotary_dim);
        for &position in positions {
            for _ in 0..2 {
                for &frequency in &frequencies {
                    let (s, c) = (position as f32 * frequency).sin_cos();
                    cos.push(c * factor);
                    sin.push(s * factor);
                }
            }
        }
        let table = |values| {
            Tensor::from_data(
                TensorData::new(values, [rows, width, 1, rotary_dim]),
                device,
            )
        };
        Self {
            cos_bt1r: table(cos),
            sin_bt1r: table(sin),
        }
    }

    /// The tables as constants to operations that are recorded.
    pub(crate) fn without_autodiff(self) -> Self {
        Self {
            cos_bt1r: self.cos_bt1r.without_autodiff(),
            sin_bt1r: self.sin_bt1r.without_autodiff(),
        }
    }

    /// Rotates the leading dimensions of queries or keys by their positions.
    pub(crate) fn rotate(&self, x_bthk: Tensor<4>) -> Tensor<4> {
        let (cos_bt1r, sin_bt1r) = (self.cos_bt1r.clone(), self.sin_bt1r.clone());
        in_f32(x_bthk, |x_bthk| ops::rope(x_bthk, cos_bt1r, sin_bt1r))
    }
}
