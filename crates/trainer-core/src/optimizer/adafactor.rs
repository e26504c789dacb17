//! Adafactor, as transformers computes it with `relative_step=False`, which is how
//! its trainer builds it: the second moment of a matrix is kept as the means of its
//! rows and columns.
//!
//! ```text
//! β ← 1 - t^decay_rate                     u ← g² + 1e-30
//! R ← β · R + (1 - β) mean_columns(u)      C ← β · C + (1 - β) mean_rows(u)
//! u ← g / √(R / mean(R)) / √C              (vectors: V ← β · V + (1 - β) u, g / √V)
//! u ← lr · u / max(1, rms(u) / clip)       (lr · max(1e-3, rms(p)) with scale_parameter)
//! m ← β1 · m + (1 - β1) u                  (with beta1; then m in place of u)
//! p ← p - lr · wd · p - u
//! ```
//! Reference: arXiv 1804.04235, algorithms 4 and 5. What has more than two
//! dimensions is a stack of matrices.

use burn::prelude::*;

use super::engine::{At, Parameter, Rule};
use super::state::{Buffer, Kept};
use crate::error::Result;
use crate::kwargs::Kwargs;

/// Added to squared gradients.
const SMALLEST_SQUARE: f64 = 1e-30;
/// Least scale of a parameter.
const SMALLEST_SCALE: f64 = 1e-3;

/// Adafactor.
#[derive(Debug)]
pub(super) struct Adafactor {
    beta1: Option<f64>,
    clip_threshold: f64,
    decay_rate: f64,
    scale_parameter: bool,
}

impl Adafactor {
    /// Takes `beta1` (none), `clip_threshold` (1), `decay_rate` (-0.8) and
    /// `scale_parameter` (false).
    pub(super) fn new(arguments: &mut Kwargs<'_>) -> Result<Self> {
        Ok(Self {
            beta1: arguments.optional_number("beta1")?,
            clip_threshold: arguments.number("clip_threshold", 1.0)?,
            decay_rate: arguments.negative_number("decay_rate", -0.8)?,
            scale_parameter: arguments.flag("scale_parameter", false)?,
        })
    }
}

/// Matrices, rows and columns; `None` for vectors.
pub(super) fn matrices(shape: &[usize]) -> Option<[usize; 3]> {
    match shape {
        [stack @ .., rows, columns] => Some([stack.iter().product(), *rows, *columns]),
        _ => None,
    }
}

fn rms(values: Tensor<1>) -> Tensor<1> {
    let n = values.dims()[0] as f64;
    (values.square().sum() / n).sqrt()
}

fn tensor(buffer: &mut Buffer) -> &mut Tensor<1> {
    match &mut buffer.kept {
        Kept::Tensor(values) => values,
        _ => unreachable!("the state is on the device"),
    }
}

impl Rule for Adafactor {
    fn fresh(&self, parameter: &Parameter, device: &Device) -> Vec<Buffer> {
        let shape = parameter.shape.as_slice();
        let mut buffers = match shape {
            [stack @ .., rows, columns] => {
                let of = |last: usize| [stack, &[last]].concat();
                vec![
                    Buffer::tensor("exp_avg_sq_row", &of(*rows), device),
                    Buffer::tensor("exp_avg_sq_col", &of(*columns), device),
                ]
            }
            _ => vec![Buffer::tensor("exp_avg_sq", shape, device)],
        };
        if self.beta1.is_some() {
            buffers.push(Buffer::tensor("exp_avg", shape, device));
        }
        buffers
    }

    fn bytes(&self, parameter: &Parameter) -> u64 {
        let n = parameter.elements();
        let second = match matrices(&parameter.shape) {
            Some([stack, rows, columns]) => stack * (rows + columns),
            None => n,
        };
        let first = if self.beta1.is_some() { n } else { 0 };
        4 * (first + second) as u64
    }

    fn apply(
        &self,
        parameter: &Parameter,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Buffer],
    ) -> Tensor<1> {
        let gradient = at.scaled(gradient);
        let beta = 1.0 - (at.step as f64).powf(self.decay_rate);
        let square = gradient.clone().square() + SMALLEST_SQUARE;
        let n = value.dims()[0];
        let update = match (matrices(&parameter.shape), &mut *state) {
            (Some([stack, rows, columns]), [row, column, ..]) => {
                let square: Tensor<3> = square.reshape([stack, rows, columns]);
                let (row, column) = (tensor(row), tensor(column));
                let mean = |dim: usize, n: usize| square.clone().mean_dim(dim).reshape([n]);
                *row = row.clone() * beta + mean(2, stack * rows) * (1.0 - beta);
                *column = column.clone() * beta + mean(1, stack * columns) * (1.0 - beta);
                let row: Tensor<3> = row.clone().reshape([stack, rows, 1]);
                let column: Tensor<3> = column.clone().reshape([stack, 1, columns]);
                let row = (row.clone() / row.mean_dim(1)).sqrt().recip();
                let gradient: Tensor<3> = gradient.reshape([stack, rows, columns]);
                (row * column.sqrt().recip() * gradient).reshape([n])
            }
            (_, [whole, ..]) => {
                let whole = tensor(whole);
                *whole = whole.clone() * beta + square * (1.0 - beta);
                whole.clone().sqrt().recip() * gradient
            }
            (_, []) => unreachable!("the second moment is always kept"),
        };
        let clip = (rms(update.clone()) / self.clip_threshold).clamp_min(1.0);
        let rate = if self.scale_parameter {
            rms(value.clone()).clamp_min(SMALLEST_SCALE) * at.rate
        } else {
            clip.ones_like() * at.rate
        };
        let mut update = update / clip * rate.clone();
        if let (Some(beta1), Some(average)) = (self.beta1, state.last_mut()) {
            let average = tensor(average);
            update = average.clone() * beta1 + update * (1.0 - beta1);
            *average = update.clone();
        }
        value.clone() - value * rate * at.weight_decay - update
    }
}
