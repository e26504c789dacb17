//! AdamW with decoupled weight decay, as `torch.optim.AdamW` computes it.
//!
//! ```text
//! p ← p · (1 - lr · wd)
//! m ← m + (1 - β1)(g - m)             v ← β2 · v + (1 - β2) g²
//! p ← p - lr / (1 - β1ᵗ) · m / (√v / √(1 - β2ᵗ) + ε)
//! ```
//! Reference: arXiv 1711.05101; the order of operations is torch's.

use burn::prelude::*;

use super::{Optimizer, StepSettings};

/// AdamW; one pair of moments a parameter.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    decays: Vec<f64>,
    states: Vec<Option<State>>,
}

#[derive(Debug, Clone)]
struct State {
    steps: i32,
    first: Tensor<1>,
    second: Tensor<1>,
}

impl AdamW {
    /// `decays` holds the weight decay of each parameter.
    #[must_use]
    pub fn new(beta1: f64, beta2: f64, epsilon: f64, decays: Vec<f64>) -> Self {
        let states = vec![None; decays.len()];
        Self {
            beta1,
            beta2,
            epsilon,
            decays,
            states,
        }
    }
}

impl Optimizer for AdamW {
    fn update(
        &mut self,
        index: usize,
        value: Tensor<1>,
        gradient: Tensor<1>,
        settings: StepSettings,
    ) -> Tensor<1> {
        let lr = settings.learning_rate;
        let beta1 = settings.beta1.unwrap_or(self.beta1);
        let state = self.states[index].take();
        let (steps, first, second) = match state {
            Some(state) => (state.steps + 1, state.first, state.second),
            None => (1, gradient.zeros_like(), gradient.zeros_like()),
        };
        let value = match self.decays[index] {
            0.0 => value,
            decay => value * (1.0 - lr * decay),
        };
        let first = first * beta1 + gradient.clone() * (1.0 - beta1);
        let second = second * self.beta2 + gradient.square() * (1.0 - self.beta2);
        let correction1 = 1.0 - beta1.powi(steps);
        let correction2 = (1.0 - self.beta2.powi(steps)).sqrt();
        let denominator = second.clone().sqrt() / correction2 + self.epsilon;
        let value = value - first.clone() / denominator * (lr / correction1);
        self.states[index] = Some(State {
            steps,
            first,
            second,
        });
        value
    }
}
