//! Lion: steps of one size, in the direction of the momentum's sign.
//!
//! ```text
//! p ← p · (1 - lr · wd)
//! p ← p - lr · sign(β1 · m + (1 - β1) g)
//! m ← β2 · m + (1 - β2) g
//! ```
//! Reference: arXiv 2302.06675, algorithm 2, with the weight decay first, as
//! bitsandbytes' `Lion` has it, which transformers calls `lion_32bit`. The paper's
//! β2 is 0.99; the default of `adam_beta2` is 0.999.

use burn::prelude::*;
use trainer_config::Config;

use super::elements::{PerElement, Value, exactly};
use super::engine::At;

/// Lion.
#[derive(Debug)]
pub(super) struct Lion {
    beta1: f64,
    beta2: f64,
}

impl Lion {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
        }
    }
}

impl PerElement for Lion {
    fn values(&self) -> Vec<Value> {
        vec![Value {
            name: "exp_avg",
            signed: true,
        }]
    }

    #[inline(always)]
    fn on_slices(&self, at: &At, value: &mut [f32], gradient: &[f32], state: &mut [&mut [f32]]) {
        let [momentum] = exactly(state);
        let keep = (1.0 - at.rate * at.weight_decay) as f32;
        let rate = at.rate as f32;
        let beta1 = at.momentum.unwrap_or(self.beta1);
        let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - self.beta2) as f32);
        let (beta1, beta2) = (beta1 as f32, self.beta2 as f32);
        for ((p, &g), m) in value.iter_mut().zip(gradient).zip(momentum.iter_mut()) {
            let direction = beta1 * *m + rest1 * g;
            let sign = f32::from(direction > 0.0) - f32::from(direction < 0.0);
            *p = keep * *p - rate * sign;
            *m = beta2 * *m + rest2 * g;
        }
    }

    fn on_tensors(
        &self,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Tensor<1>],
    ) -> Tensor<1> {
        let [momentum] = exactly(state);
        let beta1 = at.momentum.unwrap_or(self.beta1);
        let direction = momentum.clone() * beta1 + gradient.clone() * (1.0 - beta1);
        *momentum = momentum.clone() * self.beta2 + gradient * (1.0 - self.beta2);
        value * (1.0 - at.rate * at.weight_decay) - direction.sign() * at.rate
    }
}
