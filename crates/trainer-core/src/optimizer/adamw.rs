//! AdamW and Adam, as `torch.optim.AdamW` and `torch.optim.Adam` compute them.
//!
//! ```text
//! AdamW: p ← p · (1 - lr · wd)        Adam: g ← g + wd · p
//! m ← m + (1 - β1)(g - m)             v ← β2 · v + (1 - β2) g²
//! p ← p - lr / (1 - β1ᵗ) · m / (√v / √(1 - β2ᵗ) + ε)
//! ```
//! References: arXiv 1711.05101 and 1412.6980; the order of operations is torch's.

use burn::prelude::*;
use trainer_config::Config;

use super::elements::{PerElement, Value, exactly};
use super::engine::At;

/// Adam with decoupled or coupled weight decay.
#[derive(Debug)]
pub(super) struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    decoupled: bool,
}

/// The scalars of one step.
struct Scalars {
    keep: f64,
    coupled: f64,
    beta1: f64,
    beta2: f64,
    correction2: f64,
    epsilon: f64,
    rate: f64,
}

impl AdamW {
    /// AdamW.
    pub(super) fn decoupled(config: &Config) -> Self {
        Self {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            epsilon: config.adam_epsilon,
            decoupled: true,
        }
    }

    /// Adam.
    pub(super) fn coupled(config: &Config) -> Self {
        Self {
            decoupled: false,
            ..Self::decoupled(config)
        }
    }

    fn scalars(&self, at: &At) -> Scalars {
        let beta1 = at.momentum.unwrap_or(self.beta1);
        let left = |beta: f64| 1.0 - beta.powf(at.step as f64);
        let (keep, coupled) = if self.decoupled {
            (1.0 - at.rate * at.weight_decay, 0.0)
        } else {
            (1.0, at.weight_decay)
        };
        Scalars {
            keep,
            coupled,
            beta1,
            beta2: self.beta2,
            correction2: left(self.beta2).sqrt(),
            epsilon: self.epsilon,
            rate: at.rate / left(beta1),
        }
    }
}

impl PerElement for AdamW {
    fn values(&self) -> Vec<Value> {
        vec![
            Value {
                name: "exp_avg",
                signed: true,
            },
            Value {
                name: "exp_avg_sq",
                signed: false,
            },
        ]
    }

    #[inline(always)]
    fn on_slices(&self, at: &At, value: &mut [f32], gradient: &[f32], state: &mut [&mut [f32]]) {
        let [first, second] = exactly(state);
        let scalars = self.scalars(at);
        let (keep, coupled) = (scalars.keep as f32, scalars.coupled as f32);
        let (beta1, beta2) = (scalars.beta1 as f32, scalars.beta2 as f32);
        let (rest1, rest2) = ((1.0 - scalars.beta1) as f32, (1.0 - scalars.beta2) as f32);
        let (correction2, epsilon) = (scalars.correction2 as f32, scalars.epsilon as f32);
        let rate = scalars.rate as f32;
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((p, &g), (m, v)) in value.iter_mut().zip(gradient).zip(moments) {
            let g = g + coupled * *p;
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p = keep * *p - rate * *m / (v.sqrt() / correction2 + epsilon);
        }
    }

    fn on_tensors(
        &self,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Tensor<1>],
    ) -> Tensor<1> {
        let [first, second] = exactly(state);
        let scalars = self.scalars(at);
        let gradient = match scalars.coupled {
            0.0 => gradient,
            decay => gradient + value.clone() * decay,
        };
        *first = first.clone() * scalars.beta1 + gradient.clone() * (1.0 - scalars.beta1);
        *second = second.clone() * scalars.beta2 + gradient.square() * (1.0 - scalars.beta2);
        let denominator = second.clone().sqrt() / scalars.correction2 + scalars.epsilon;
        value * scalars.keep - first.clone() / denominator * scalars.rate
    }
}
