//! What an optimizer keeps between steps, and the form in which a checkpoint
//! stores it.

use std::collections::HashMap;

use burn::prelude::*;
use burn::tensor::DType;

use super::eight_bit::Codes;

/// All that later steps depend on, apart from the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState {
    /// Name of the algorithm.
    pub optimizer: String,
    /// One entry for each parameter that has had a gradient, in their order.
    pub parameters: Vec<ParameterState>,
}

/// The state of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterState {
    /// Name of the parameter.
    pub name: String,
    /// Steps taken on it.
    pub steps: u64,
    /// Tensors by name, in `f32`, or in `u8` for values in 8 bits; those have a
    /// second tensor, `NAME.scale`, with one `f32` a block.
    pub tensors: Vec<(String, TensorData)>,
}

/// Why a state does not fit an optimizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It is that of another algorithm.
    #[error(
        "the saved optimizer state is that of {found}, but the run uses {expected}: set \
         `optimizer` as it was"
    )]
    Optimizer {
        /// The algorithm of the state.
        found: String,
        /// The algorithm of the run.
        expected: &'static str,
    },
    /// It is about a parameter that the model does not have.
    #[error("the saved optimizer state is of another model: this one has no `{parameter}`")]
    Parameter {
        /// The parameter.
        parameter: String,
    },
    /// It has a tensor that the optimizer does not keep.
    #[error(
        "the saved optimizer state of `{parameter}` has a tensor `{tensor}`, which the optimizer \
         does not keep: set `optimizer` and `optim_args` as they were"
    )]
    Tensor {
        /// The parameter.
        parameter: String,
        /// The tensor.
        tensor: String,
    },
    /// It lacks a tensor, or has another shape or number format.
    #[error(
        "the saved optimizer state of `{parameter}` has {found} for `{tensor}`, where {expected} \
         is needed: set `optimizer` and `optim_args` as they were"
    )]
    Content {
        /// The parameter.
        parameter: String,
        /// The tensor.
        tensor: String,
        /// Shape and number format of the state.
        found: String,
        /// Shape and number format of the run.
        expected: String,
    },
}

/// One tensor that an optimizer keeps for a parameter.
#[derive(Debug, Clone)]
pub(super) struct Buffer {
    pub(super) name: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) kept: Kept,
}

/// Where and how the values of a buffer are kept; flat in each case.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// In the memory of this process.
    Slice(Vec<f32>),
    /// On the device.
    Tensor(Tensor<1>),
    /// In the memory of this process, in 8 bits.
    Codes(Codes),
}

type Tensors = HashMap<String, TensorData>;

impl Buffer {
    /// Zeros on a device.
    pub(super) fn tensor(name: &'static str, shape: &[usize], device: &Device) -> Self {
        Self {
            name,
            shape: shape.to_vec(),
            kept: Kept::Tensor(Tensor::zeros([shape.iter().product::<usize>()], device)),
        }
    }

    pub(super) fn export(&self) -> Vec<(String, TensorData)> {
        let named = |data| (self.name.to_owned(), data);
        match &self.kept {
            Kept::Slice(values) => vec![named(TensorData::new(values.clone(), self.shape.clone()))],
            Kept::Tensor(values) => {
                vec![named(reshaped(values.clone().into_data(), &self.shape))]
            }
            Kept::Codes(Codes { codes, scales, .. }) => vec![
                named(TensorData::new(codes.clone(), self.shape.clone())),
                (
                    scale_name(self.name),
                    TensorData::new(scales.clone(), [scales.len()]),
                ),
            ],
        }
    }

    /// Takes the values out of the tensors of `parameter`.
    pub(super) fn import(
        &mut self,
        parameter: &str,
        tensors: &mut Tensors,
    ) -> Result<(), StateError> {
        let mut take = |name: String, shape: &[usize], dtype: DType| {
            let found = tensors.remove(&name);
            match found {
                Some(data) if **data.shape() == *shape && data.dtype() == dtype => Ok(data),
                other => Err(StateError::Content {
                    parameter: parameter.to_owned(),
                    tensor: name,
                    found: other.map_or_else(
                        || "nothing".to_owned(),
                        |data| format!("{:?} of {:?}", data.shape().to_vec(), data.dtype()),
                    ),
                    expected: format!("{shape:?} of {dtype:?}"),
                }),
            }
        };
        let name = self.name.to_owned();
        match &mut self.kept {
            Kept::Slice(values) => *values = into_vec(take(name, &self.shape, DType::F32)?),
            Kept::Tensor(values) => {
                let elements = values.dims();
                let data = take(name, &self.shape, DType::F32)?;
                *values = Tensor::from_data(reshaped(data, &elements), &values.device());
            }
            Kept::Codes(codes) => {
                let scales = take(scale_name(self.name), &[codes.scales.len()], DType::F32)?;
                codes.codes = into_vec(take(name, &self.shape, DType::U8)?);
                codes.scales = into_vec(scales);
            }
        }
        Ok(())
    }
}

/// The same values under another shape.
fn reshaped(data: TensorData, shape: &[usize]) -> TensorData {
    let (bytes, _, dtype) = data.into_parts();
    TensorData::from_bytes(bytes, shape.to_vec(), dtype)
}

fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}

/// The values of data in `f32`.
pub(super) fn slice(data: &TensorData) -> &[f32] {
    match data.as_slice() {
        Ok(values) => values,
        Err(error) => unreachable!("the number format has been checked: {error:?}"),
    }
}

/// The values of data in `f32`, to be changed.
pub(super) fn slice_mut(data: &mut TensorData) -> &mut [f32] {
    match data.as_mut_slice() {
        Ok(values) => values,
        Err(error) => unreachable!("the number format has been checked: {error:?}"),
    }
}

/// The values of data whose number format is known; moved where nothing else
/// holds them.
pub(super) fn into_vec<E: burn::tensor::Element>(data: TensorData) -> Vec<E> {
    match data.try_into_vec() {
        Ok(values) => values,
        Err(error) => unreachable!("the number format has been checked: {error:?}"),
    }
}
