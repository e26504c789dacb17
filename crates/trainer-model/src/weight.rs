//! The weight of a linear map: numbers that may be trained, or frozen ones in few
//! bits.
//!
//! The variants add no part to a name: in files, the weight of either is that of the
//! field that holds the enum. A quantized weight is no parameter: nothing trains it
//! and no list of parameters has it.
//!
//! Shape suffixes: `n` rows (tokens), `i` input and `o` output features, `k` some
//! outputs.

use std::sync::Arc;

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault};
use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;

use crate::ops::{linear, quantized_linear};
use crate::quantized::QuantizedMatrix;

/// A weight, `[out, in]`.
#[derive(Debug, Clone)]
pub enum Weight {
    /// `f32`, trained unless frozen.
    Full(Param<Tensor<2>>),
    /// Frozen, in few bits a number.
    Quantized(Quantized),
}

/// A frozen weight in few bits a number, and where it is used.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The codes, shared by the copies of a model.
    pub matrix: Arc<QuantizedMatrix>,
    device: Device,
}

impl Weight {
    pub(crate) fn quantized(matrix: QuantizedMatrix, device: Device) -> Self {
        Self::Quantized(Quantized {
            matrix: Arc::new(matrix),
            device,
        })
    }

    /// Outputs and inputs.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Full(param) => param.lazy_shape().dims(),
            Self::Quantized(quantized) => quantized.matrix.shape(),
        }
    }

    /// Where the map is computed.
    #[must_use]
    pub fn device(&self) -> Device {
        match self {
            Self::Full(param) => param.lazy_device(),
            Self::Quantized(quantized) => quantized.device.clone(),
        }
    }

    /// All of it, `[o, i]`, in `f32`.
    #[must_use]
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Full(param) => param.val(),
            Self::Quantized(quantized) => {
                let [outputs, _] = quantized.matrix.shape();
                quantized.rows(0, outputs, &quantized.device)
            }
        }
    }

    /// `x · Wᵀ`, `[n, o]`, in the number format of `x_ni`.
    pub(crate) fn product(&self, x_ni: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Full(param) => linear(x_ni, param.val()),
            Self::Quantized(quantized) => quantized_linear(x_ni, Arc::clone(&quantized.matrix)),
        }
    }

    /// Some rows, `[k, i]`, off the autodiff graph and in `f32`.
    pub(crate) fn rows(&self, start: usize, rows: usize) -> Tensor<2> {
        match self {
            Self::Full(param) => {
                let weight_oi = param.val();
                let weight_oi = match weight_oi.is_autodiff() {
                    true => weight_oi.inner(),
                    false => weight_oi,
                };
                weight_oi.narrow(0, start, rows)
            }
            Self::Quantized(quantized) => {
                let device = quantized.device.clone().without_autodiff();
                quantized.rows(start, rows, &device)
            }
        }
    }
}

impl Quantized {
    fn rows(&self, start: usize, rows: usize, device: &Device) -> Tensor<2> {
        let [_, inputs] = self.matrix.shape();
        let data = TensorData::new(self.matrix.rows(start, rows), [rows, inputs]);
        Tensor::from_data(data, device)
    }

    fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }
}

impl Module for Weight {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        match self {
            Self::Full(param) => param.collect_devices(devices),
            Self::Quantized(quantized) => {
                if !devices.contains(&quantized.device) {
                    devices.push(quantized.device.clone());
                }
                devices
            }
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Full(param) => Self::Full(param.fork(device)),
            Self::Quantized(quantized) => Self::Quantized(quantized.on(device.clone())),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Full(param) => Self::Full(param.to_device(device)),
            Self::Quantized(quantized) => Self::Quantized(quantized.on(device.clone())),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Full(param) => Self::Full(param.train()),
            Self::Quantized(quantized) => {
                let device = quantized.device.clone().autodiff();
                Self::Quantized(quantized.on(device))
            }
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Full(param) => Self::Full(param.valid()),
            Self::Quantized(quantized) => {
                let device = quantized.device.clone().without_autodiff();
                Self::Quantized(quantized.clone().on(device))
            }
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Full(param) => Self::Full(param.materialize()),
            quantized @ Self::Quantized(_) => quantized,
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if let Self::Full(param) = self {
            param.visit(visitor);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::Full(param) => Self::Full(Module::map(param, mapper)),
            quantized @ Self::Quantized(_) => quantized,
        }
    }
}

impl ModuleDisplayDefault for Weight {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Full(param) => param.content(content),
            Self::Quantized(quantized) => {
                let [outputs, inputs] = quantized.matrix.shape();
                Some(content.add_formatted(&format!("quantized, {outputs} x {inputs}")))
            }
        }
    }
}

impl ModuleDisplay for Weight {}
