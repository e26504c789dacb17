//! Optimizers over the flat list of parameters.
//!
//! Gradients arrive complete: summed over the window, normalized, clipped (and,
//! with several ranks, reduced). The state of an optimizer is one entry a
//! parameter, in the order of [`trainer_model::parameters`].

mod adamw;

use burn::module::Module;
use burn::prelude::*;
use trainer_config::Config;
use trainer_model::{ParameterGradients, ParameterInfo, map_values};

pub use adamw::AdamW;

/// Values of one optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings {
    /// Learning rate.
    pub learning_rate: f64,
    /// First-moment decay, where the schedule sets it.
    pub beta1: Option<f64>,
}

/// Changes parameters by their gradients.
pub trait Optimizer {
    /// New value of parameter `index`, given its flattened value and gradient.
    fn update(
        &mut self,
        index: usize,
        value: Tensor<1>,
        gradient: Tensor<1>,
        settings: StepSettings,
    ) -> Tensor<1>;
}

/// The optimizer of a configuration for these parameters.
#[must_use]
pub fn build(config: &Config, parameters: &[ParameterInfo]) -> Box<dyn Optimizer> {
    use trainer_config::Optimizer as Name;
    match config.optimizer {
        Name::AdamwTorch | Name::AdamwTorchFused | Name::Adamw => {
            let decays = parameters
                .iter()
                .map(|parameter| {
                    if decays(parameter) {
                        config.weight_decay
                    } else {
                        0.0
                    }
                })
                .collect();
            Box::new(AdamW::new(
                config.adam_beta1,
                config.adam_beta2,
                config.adam_epsilon,
                decays,
            ))
        }
    }
}

/// Weight decay is for matrices: not for norms and biases.
fn decays(parameter: &ParameterInfo) -> bool {
    parameter.shape.len() > 1 && !parameter.name.contains("norm")
}

/// One step on every parameter that has a gradient.
#[must_use]
pub fn step<M: Module>(
    optimizer: &mut dyn Optimizer,
    model: M,
    mut gradients: ParameterGradients,
    settings: StepSettings,
) -> M {
    map_values(model, |index, value| {
        match gradients.flat.get_mut(index).and_then(Option::take) {
            Some(gradient) => optimizer.update(index, value, gradient, settings),
            None => value,
        }
    })
}
