//! Adagrad, as `torch.optim.Adagrad` computes it.
//!
//! ```text
//! g ← g + wd · p
//! s ← s + g²
//! p ← p - lr / (1 + (t - 1) · lr_decay) · g / (√s + ε)
//! ```
//! Reference: Duchi, Hazan and Singer, JMLR 12 (2011).

use burn::prelude::*;

use super::elements::{PerElement, Value, exactly};
use super::engine::At;
use crate::error::Result;
use crate::kwargs::Kwargs;

/// Adagrad.
#[derive(Debug)]
pub(super) struct Adagrad {
    lr_decay: f64,
    epsilon: f64,
}

impl Adagrad {
    /// Takes `lr_decay` (0) and `eps` (1e-10).
    pub(super) fn new(arguments: &mut Kwargs<'_>) -> Result<Self> {
        Ok(Self {
            lr_decay: arguments.number("lr_decay", 0.0)?,
            epsilon: arguments.number("eps", 1e-10)?,
        })
    }

    fn rate(&self, at: &At) -> f64 {
        at.rate / (1.0 + (at.step as f64 - 1.0) * self.lr_decay)
    }
}

impl PerElement for Adagrad {
    fn values(&self) -> Vec<Value> {
        vec![Value {
            name: "sum",
            signed: false,
        }]
    }

    #[inline(always)]
    fn on_slices(&self, at: &At, value: &mut [f32], gradient: &[f32], state: &mut [&mut [f32]]) {
        let [sum] = exactly(state);
        let (rate, decay) = (self.rate(at) as f32, at.weight_decay as f32);
        let epsilon = self.epsilon as f32;
        for ((p, &g), s) in value.iter_mut().zip(gradient).zip(sum.iter_mut()) {
            let g = g + decay * *p;
            *s += g * g;
            *p -= rate * g / (s.sqrt() + epsilon);
        }
    }

    fn on_tensors(
        &self,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Tensor<1>],
    ) -> Tensor<1> {
        let [sum] = exactly(state);
        let gradient = gradient + value.clone() * at.weight_decay;
        *sum = sum.clone() + gradient.clone().square();
        value - gradient / (sum.clone().sqrt() + self.epsilon) * self.rate(at)
    }
}
