//! What all optimizers share: the list of parameters, the state of each, and the
//! way in and out of it.
//!
//! State is made at a parameter's first gradient, so that what never has one
//! costs nothing.

use std::collections::HashMap;
use std::fmt::Debug;

use burn::prelude::*;

use super::groups::Group;
use super::state::{Buffer, OptimizerState, ParameterState, StateError};
use super::{Optimizer, StepSettings};

/// One parameter, as an optimizer sees it.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) group: Group,
}

impl Parameter {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The values of one step on one parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) rate: f64,
    pub(super) weight_decay: f64,
    /// This parameter's steps, this one included.
    pub(super) step: u64,
    /// First-moment decay or momentum, where the schedule sets it.
    pub(super) momentum: Option<f64>,
    /// What the gradient is multiplied by before all else.
    pub(super) gradient_factor: f64,
}

impl At {
    /// The gradient that the rule is about.
    pub(super) fn scaled(&self, gradient: Tensor<1>) -> Tensor<1> {
        match self.gradient_factor {
            1.0 => gradient,
            factor => gradient * factor,
        }
    }
}

/// How one parameter changes in a step.
pub(super) trait Rule: Debug {
    /// The state before the first step.
    fn fresh(&self, parameter: &Parameter, device: &Device) -> Vec<Buffer>;

    /// Bytes of that state.
    fn bytes(&self, parameter: &Parameter) -> u64;

    /// The new value, from the flattened value and gradient, which is still to be
    /// [scaled](At::scaled); changes the state.
    fn apply(
        &self,
        parameter: &Parameter,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Buffer],
    ) -> Tensor<1>;
}

/// A rule and the state of all parameters under it.
#[derive(Debug)]
pub(super) struct Engine<R> {
    name: &'static str,
    rule: R,
    parameters: Vec<Parameter>,
    slots: Vec<Option<Slot>>,
}

#[derive(Debug)]
struct Slot {
    steps: u64,
    buffers: Vec<Buffer>,
}

impl<R: Rule> Engine<R> {
    pub(super) fn new(name: &'static str, rule: R, parameters: Vec<Parameter>) -> Self {
        Self {
            name,
            rule,
            slots: parameters.iter().map(|_| None).collect(),
            parameters,
        }
    }
}

impl<R: Rule> Optimizer for Engine<R> {
    fn update(
        &mut self,
        index: usize,
        value: Tensor<1>,
        gradient: Tensor<1>,
        settings: StepSettings,
    ) -> Tensor<1> {
        let parameter = &self.parameters[index];
        let slot = self.slots[index].get_or_insert_with(|| Slot {
            steps: 0,
            buffers: self.rule.fresh(parameter, &value.device()),
        });
        slot.steps += 1;
        let at = At {
            rate: settings.learning_rate * parameter.group.rate,
            weight_decay: parameter.group.weight_decay,
            step: slot.steps,
            momentum: settings.beta1,
            gradient_factor: settings.gradient_factor,
        };
        self.rule
            .apply(parameter, &at, value, gradient, &mut slot.buffers)
    }

    fn state_bytes(&self, index: usize) -> u64 {
        self.rule.bytes(&self.parameters[index])
    }

    fn state(&self) -> OptimizerState {
        let slots = self.parameters.iter().zip(&self.slots);
        OptimizerState {
            optimizer: self.name.to_owned(),
            parameters: slots
                .filter_map(|(parameter, slot)| {
                    let slot = slot.as_ref()?;
                    Some(ParameterState {
                        name: parameter.name.clone(),
                        steps: slot.steps,
                        tensors: slot.buffers.iter().flat_map(Buffer::export).collect(),
                    })
                })
                .collect(),
        }
    }

    fn load_state(&mut self, state: OptimizerState, device: &Device) -> Result<(), StateError> {
        if state.optimizer != self.name {
            return Err(StateError::Optimizer {
                found: state.optimizer,
                expected: self.name,
            });
        }
        let mut saved = HashMap::new();
        for entry in state.parameters {
            saved.insert(entry.name.clone(), entry);
        }
        let mut slots = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let slot = saved.remove(&parameter.name).map(|entry| {
                let mut tensors: HashMap<_, _> = entry.tensors.into_iter().collect();
                let mut buffers = self.rule.fresh(parameter, device);
                for buffer in &mut buffers {
                    buffer.import(&parameter.name, &mut tensors)?;
                }
                match tensors.into_keys().min() {
                    Some(tensor) => Err(StateError::Tensor {
                        parameter: parameter.name.clone(),
                        tensor,
                    }),
                    None => Ok(Slot {
                        steps: entry.steps,
                        buffers,
                    }),
                }
            });
            slots.push(slot.transpose()?);
        }
        match saved.into_keys().min() {
            Some(parameter) => Err(StateError::Parameter { parameter }),
            None => {
                self.slots = slots;
                Ok(())
            }
        }
    }
}
