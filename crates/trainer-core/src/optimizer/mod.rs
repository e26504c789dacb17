//! Optimizers over the flat list of parameters.
//!
//! Gradients arrive complete: summed over the window and normalized (and, with
//! several ranks, reduced), and clipped by a factor that each step is given. An optimizer is a rule, one file each, that says
//! how one parameter changes by its gradient and by what is kept of earlier ones;
//! `engine` runs it over the parameters in the order of
//! [`trainer_model::parameters`], `groups` gives each parameter its learning
//! rate and weight decay, and [`OptimizerState`] is all that a checkpoint needs.
//!
//! On a CPU backend a rule that treats each element alone is one pass over
//! slices, since a tensor operation for each of its terms would read and write
//! memory a dozen times. Elsewhere the same terms are tensor operations.

mod adafactor;
mod adagrad;
mod adamw;
mod eight_bit;
mod elements;
mod engine;
mod groups;
mod lion;
mod muon;
mod norm;
mod rmsprop;
mod sgd;
mod state;
#[cfg(test)]
mod tests;

use burn::module::Module;
use burn::prelude::*;
use trainer_config::{Config, OptimArgs};
use trainer_model::{ParameterGradients, ParameterInfo, TrainedRows, map_values};

use self::adafactor::Adafactor;
use self::adagrad::Adagrad;
use self::adamw::AdamW;
use self::elements::{Bits, Elements};
use self::engine::{Engine, Parameter, Rule};
use self::lion::Lion;
use self::muon::Muon;
use self::rmsprop::RmsProp;
use self::sgd::Sgd;
use crate::error::Result;
use crate::kwargs::Kwargs;

pub use self::norm::global_norm;
pub use self::state::{OptimizerState, ParameterState, StateError};

/// Values of one optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings {
    /// Learning rate of parameters without one of their own.
    pub learning_rate: f64,
    /// First-moment decay or momentum, where the schedule sets it.
    pub beta1: Option<f64>,
    /// What gradients are multiplied by before anything else, such as for clipping:
    /// in the same pass over memory as the rest.
    pub gradient_factor: f64,
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

    /// Bytes that are kept for parameter `index` from its first gradient on.
    fn state_bytes(&self, index: usize) -> u64;

    /// A copy of everything that later steps depend on.
    fn state(&self) -> OptimizerState;

    /// Goes on where another optimizer of the same configuration and model was
    /// when it gave this state. `device` is that of the parameters.
    ///
    /// # Errors
    /// A state of another optimizer or of other parameters; nothing has changed
    /// then.
    fn load_state(&mut self, state: OptimizerState, device: &Device) -> Result<(), StateError>;
}

/// The optimizer of a configuration for these parameters.
///
/// # Errors
/// An argument that the optimizer does not take, and a learning rate for
/// parameters of which the model trains none.
pub fn build(config: &Config, parameters: &[ParameterInfo]) -> Result<Box<dyn Optimizer>> {
    use trainer_config::Optimizer as Name;
    let parameters = groups::assign(config, parameters)?;
    let arguments = match &config.optimization.optim_args {
        Some(OptimArgs::Map(arguments)) => Some(arguments),
        _ => None,
    };
    let name = config.optimizer;
    let mut arguments = Kwargs::new("optim_args", name, arguments);
    let built = match name {
        Name::AdamwTorch
        | Name::AdamwTorchFused
        | Name::AdamwTorchXla
        | Name::AdamwTorchNpuFused
        | Name::Adamw
        | Name::PagedAdamw32bit => {
            let rule = Elements::new(AdamW::decoupled(config), Bits::ThirtyTwo);
            engine("adamw", rule, parameters)
        }
        Name::Adamw8bit | Name::AdamwBnb8bit | Name::PagedAdamw8bit => {
            let rule = Elements::new(AdamW::decoupled(config), Bits::Eight);
            engine("adamw_8bit", rule, parameters)
        }
        Name::Adam => {
            let rule = Elements::new(AdamW::coupled(config), Bits::ThirtyTwo);
            engine("adam", rule, parameters)
        }
        Name::Lion | Name::Lion32bit | Name::PagedLion32bit => {
            let rule = Elements::new(Lion::new(config), Bits::ThirtyTwo);
            engine("lion", rule, parameters)
        }
        Name::Lion8bit | Name::PagedLion8bit => {
            let rule = Elements::new(Lion::new(config), Bits::Eight);
            engine("lion_8bit", rule, parameters)
        }
        Name::Sgd => {
            let rule = Elements::new(Sgd::new(&mut arguments)?, Bits::ThirtyTwo);
            engine("sgd", rule, parameters)
        }
        Name::Rmsprop => {
            let rule = Elements::new(RmsProp::new(&mut arguments)?, Bits::ThirtyTwo);
            engine("rmsprop", rule, parameters)
        }
        Name::Adagrad => {
            let rule = Elements::new(Adagrad::new(&mut arguments)?, Bits::ThirtyTwo);
            engine("adagrad", rule, parameters)
        }
        Name::Adafactor => engine("adafactor", Adafactor::new(&mut arguments)?, parameters),
        Name::Muon => engine("muon", Muon::new(config, &mut arguments)?, parameters),
    };
    arguments.finish()?;
    Ok(built)
}

fn engine(
    name: &'static str,
    rule: impl Rule + 'static,
    parameters: Vec<Parameter>,
) -> Box<dyn Optimizer> {
    Box::new(Engine::new(name, rule, parameters))
}

/// One step on every parameter that has a gradient, on the rows of it that are trained;
/// gradients are of these.
#[must_use]
pub fn step<M: Module>(
    optimizer: &mut dyn Optimizer,
    model: M,
    trained: &TrainedRows,
    mut gradients: ParameterGradients,
    settings: StepSettings,
) -> M {
    map_values(model, |index, value| {
        match gradients.flat.get_mut(index).and_then(Option::take) {
            Some(gradient) => trained.update(index, value, |value| {
                optimizer.update(index, value, gradient, settings)
            }),
            None => value,
        }
    })
}
