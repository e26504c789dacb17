//! Rotary position embeddings in the half-rotation layout of Hugging Face's
//! Llama: dimension `i` is paired with `i + head_dim / 2`.
//!
//! Frequencies and tables are computed on the host in `f32`, as torch does,
//! since positions come from the host with every batch.
//!
//! Shape suffixes: `b` rows, `t` tokens, `h` heads, `k` head dimension.
//! References: arXiv 2104.09864; Llama 3.1's scaling from its model release.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::config::{RopeConfig, RopeScaling};
use crate::ops;

/// Angular frequency of each pair of dimensions, `head_dim / 2` values.
#[must_use]
pub fn inverse_frequencies(rope: &RopeConfig, head_dim: usize) -> Vec<f32> {
    let base = rope.theta as f32;
    let plain = (0..head_dim / 2).map(|i| 1.0 / base.powf((2 * i) as f32 / head_dim as f32));
    match rope.scaling {
        RopeScaling::Default => plain.collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => plain
            .map(|frequency| {
                let turns = original_max_position_embeddings as f32 * frequency
                    / (2.0 * std::f32::consts::PI);
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                // Turns over the original context: below `low` it is a low
                // frequency, above `high` a high one.
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
            })
            .collect(),
    }
}

/// Cosines and sines for the tokens of a batch, each `[b, t, 1, k]`.
#[derive(Debug, Clone)]
pub struct RopeTables {
    cos_bt1k: Tensor<4>,
    sin_bt1k: Tensor<4>,
}

impl RopeTables {
    /// Tables for `positions`, row-major `[rows, width]`.
    #[must_use]
    pub fn new(
        positions: &[u32],
        rows: usize,
        width: usize,
        frequencies: &[f32],
        device: &Device,
    ) -> Self {
        let half = frequencies.len();
        let mut cos = Vec::with_capacity(positions.len() * half * 2);
        let mut sin = Vec::with_capacity(positions.len() * half * 2);
        for &position in positions {
            for _ in 0..2 {
                for &frequency in frequencies {
                    let (s, c) = (position as f32 * frequency).sin_cos();
                    cos.push(c);
                    sin.push(s);
                }
            }
        }
        let table =
            |values| Tensor::from_data(TensorData::new(values, [rows, width, 1, half * 2]), device);
        Self {
            cos_bt1k: table(cos),
            sin_bt1k: table(sin),
        }
    }

    /// Rotates queries or keys by their positions.
    #[must_use]
    pub fn rotate(&self, x_bthk: Tensor<4>) -> Tensor<4> {
        ops::rope(x_bthk, self.cos_bt1k.clone(), self.sin_bt1k.clone())
    }
}
