//! Stochastic gradient descent, as `torch.optim.SGD` computes it.
//!
//! ```text
//! g ← g + wd · p
//! b ← μ · b + (1 - dampening) g      (b ← g at the first step)
//! p ← p - lr · b                     (g + μ · b in place of b with nesterov)
//! ```
//! Without momentum there is no `b` and nothing is kept.

use burn::prelude::*;

use super::elements::{PerElement, Value, exactly};
use super::engine::At;
use crate::error::{Result, TrainerError};
use crate::kwargs::Kwargs;

/// SGD.
#[derive(Debug)]
pub(super) struct Sgd {
    momentum: f64,
    dampening: f64,
    nesterov: bool,
}

impl Sgd {
    /// Takes `momentum` (0), `dampening` (0) and `nesterov` (false).
    pub(super) fn new(arguments: &mut Kwargs<'_>) -> Result<Self> {
        let sgd = Self {
            momentum: arguments.number("momentum", 0.0)?,
            dampening: arguments.number("dampening", 0.0)?,
            nesterov: arguments.flag("nesterov", false)?,
        };
        if sgd.nesterov && (sgd.momentum == 0.0 || sgd.dampening != 0.0) {
            return Err(TrainerError::setting(
                "optim_args",
                "nesterov needs a momentum, and no dampening".to_owned(),
            ));
        }
        Ok(sgd)
    }

    /// What the momentum and the gradient are multiplied by.
    fn factors(&self, at: &At) -> (f64, f64) {
        match at.step {
            1 => (0.0, 1.0),
            _ => (at.momentum.unwrap_or(self.momentum), 1.0 - self.dampening),
        }
    }
}

impl PerElement for Sgd {
    fn values(&self) -> Vec<Value> {
        let momentum = Value {
            name: "momentum_buffer",
            signed: true,
        };
        Vec::from_iter((self.momentum > 0.0).then_some(momentum))
    }

    #[inline(always)]
    fn on_slices(&self, at: &At, value: &mut [f32], gradient: &[f32], state: &mut [&mut [f32]]) {
        let (rate, decay) = (at.rate as f32, at.weight_decay as f32);
        if self.momentum == 0.0 {
            for (p, &g) in value.iter_mut().zip(gradient) {
                *p -= rate * (g + decay * *p);
            }
            return;
        }
        let [buffer] = exactly(state);
        let (keep, take) = self.factors(at);
        let (keep, take) = (keep as f32, take as f32);
        let ahead = at.momentum.unwrap_or(self.momentum) as f32;
        for ((p, &g), b) in value.iter_mut().zip(gradient).zip(buffer.iter_mut()) {
            let g = g + decay * *p;
            *b = keep * *b + take * g;
            let step = if self.nesterov { g + ahead * *b } else { *b };
            *p -= rate * step;
        }
    }

    fn on_tensors(
        &self,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Tensor<1>],
    ) -> Tensor<1> {
        let gradient = gradient + value.clone() * at.weight_decay;
        if self.momentum == 0.0 {
            return value - gradient * at.rate;
        }
        let [buffer] = exactly(state);
        let (keep, take) = self.factors(at);
        *buffer = buffer.clone() * keep + gradient.clone() * take;
        let step = if self.nesterov {
            gradient + buffer.clone() * at.momentum.unwrap_or(self.momentum)
        } else {
            buffer.clone()
        };
        value - step * at.rate
    }
}
