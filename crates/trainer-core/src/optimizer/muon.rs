//! Muon: momentum whose update is made orthogonal, for the matrices inside the
//! model; AdamW for embeddings, the output projection, and vectors.
//!
//! ```text
//! B ← μ · B + (1 - μ) g              U ← (1 - μ) g + μ · B   (nesterov; else B)
//! X ← U / |U|;  ns_steps times: A ← X Xᵀ;  X ← a X + (b A + c A²) X
//! p ← p · (1 - lr · wd) - lr · adjust · X
//! ```
//! with (a, b, c) = (3.4445, -4.7750, 2.0315). `adjust` is 0.2 √max(rows, columns)
//! (`match_rms_adamw`, Axolotl's), so that rates for AdamW fit, or
//! √max(1, rows / columns) (`original`).
//!
//! References: kellerjordan.github.io/posts/muon; arXiv 2502.16982 for the
//! adjustment; the arithmetic is that of `torch.optim.Muon`, but in float32
//! throughout, where torch iterates in bfloat16.

use burn::prelude::*;
use trainer_config::Config;

use super::adafactor::matrices;
use super::adamw::AdamW;
use super::elements::{Bits, Elements};
use super::engine::{At, Parameter, Rule};
use super::groups;
use super::state::{Buffer, Kept};
use crate::error::Result;
use crate::kwargs::Kwargs;

const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
/// Least norm that an update is divided by.
const SMALLEST_NORM: f64 = 1e-7;

/// Muon beside AdamW.
#[derive(Debug)]
pub(super) struct Muon {
    momentum: f64,
    nesterov: bool,
    ns_steps: usize,
    adjust: Adjust,
    rest: Elements<AdamW>,
}

/// How the learning rate depends on the shape of a matrix.
#[derive(Debug, Clone, Copy)]
enum Adjust {
    MatchRmsAdamw,
    Original,
}

impl Adjust {
    fn factor(self, rows: usize, columns: usize) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self {
            Self::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
            Self::Original => (rows / columns).max(1.0).sqrt(),
        }
    }
}

impl Muon {
    /// Takes `momentum` (0.95), `nesterov` (true), `ns_steps` (5) and `adjust_lr_fn`
    /// (`match_rms_adamw`).
    pub(super) fn new(config: &Config, arguments: &mut Kwargs<'_>) -> Result<Self> {
        let adjusts = [
            ("match_rms_adamw", Adjust::MatchRmsAdamw),
            ("original", Adjust::Original),
        ];
        Ok(Self {
            momentum: arguments.shrinking("momentum", 0.95)?,
            nesterov: arguments.flag("nesterov", true)?,
            ns_steps: arguments.count("ns_steps", 5)?,
            adjust: arguments.choice("adjust_lr_fn", &adjusts, Adjust::MatchRmsAdamw)?,
            rest: Elements::new(AdamW::decoupled(config), Bits::ThirtyTwo),
        })
    }
}

/// The stack of matrices that a parameter is, where Muon is for it.
fn inner_matrices(parameter: &Parameter) -> Option<[usize; 3]> {
    if groups::is_embedding(&parameter.name) {
        None
    } else {
        matrices(&parameter.shape)
    }
}

/// The nearest matrix with orthogonal rows or columns, roughly.
fn orthogonalize(matrix: Tensor<2>, steps: usize) -> Tensor<2> {
    let (a, b, c) = COEFFICIENTS;
    let [rows, columns] = matrix.dims();
    // The smaller square is the cheaper one.
    let tall = rows > columns;
    let mut x = if tall { matrix.transpose() } else { matrix };
    let norm = x.clone().square().sum().sqrt().clamp_min(SMALLEST_NORM);
    x = x / norm.reshape([1, 1]);
    for _ in 0..steps {
        let gram = x.clone().matmul(x.clone().transpose());
        let polynomial = gram.clone() * b + gram.clone().matmul(gram) * c;
        x = x.clone() * a + polynomial.matmul(x);
    }
    if tall { x.transpose() } else { x }
}

impl Rule for Muon {
    fn fresh(&self, parameter: &Parameter, device: &Device) -> Vec<Buffer> {
        match inner_matrices(parameter) {
            Some(_) => vec![Buffer::tensor("momentum_buffer", &parameter.shape, device)],
            None => self.rest.fresh(parameter, device),
        }
    }

    fn bytes(&self, parameter: &Parameter) -> u64 {
        match inner_matrices(parameter) {
            Some(_) => 4 * parameter.elements() as u64,
            None => self.rest.bytes(parameter),
        }
    }

    fn apply(
        &self,
        parameter: &Parameter,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Buffer],
    ) -> Tensor<1> {
        let (
            Some([stack, rows, columns]),
            [
                Buffer {
                    kept: Kept::Tensor(buffer),
                    ..
                },
            ],
        ) = (inner_matrices(parameter), &mut *state)
        else {
            return self.rest.apply(parameter, at, value, gradient, state);
        };
        let momentum = at.momentum.unwrap_or(self.momentum);
        let new = at.scaled(gradient) * (1.0 - momentum);
        *buffer = buffer.clone() * momentum + new.clone();
        let update = if self.nesterov {
            new + buffer.clone() * momentum
        } else {
            buffer.clone()
        };
        let update: Tensor<2> = update.reshape([stack * rows, columns]);
        let matrices = (0..stack)
            .map(|i| update.clone().narrow(0, i * rows, rows))
            .map(|matrix| orthogonalize(matrix, self.ns_steps))
            .collect();
        let update: Tensor<1> = Tensor::cat(matrices, 0).reshape([value.dims()[0]]);
        let rate = at.rate * self.adjust.factor(rows, columns);
        value * (1.0 - at.rate * at.weight_decay) - update * rate
    }
}
