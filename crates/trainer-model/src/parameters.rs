//! The parameters of a model as a flat, ordered list: names as in the files,
//! gradients and values as one-dimensional tensors.
//!
//! Optimizers, clipping, reductions over ranks and checkpoints all work on
//! this list, so that none of them needs to know the model. The order is that
//! of the module's fields and never changes for a given model.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Name as in the weight files, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Whether training changes it.
    pub trainable: bool,
}

/// Names, shapes and trainability of all parameters, in order.
#[must_use]
pub fn parameters<M: Module>(model: &M) -> Vec<ParameterInfo> {
    let mut list = List {
        path: Vec::new(),
        found: Vec::new(),
    };
    model.visit(&mut list);
    list.found
}

struct List {
    path: Vec<String>,
    found: Vec<ParameterInfo>,
}

impl ModuleVisitor for List {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(ParameterInfo {
            name: self.path.join("."),
            shape: param.lazy_shape().to_vec(),
            // Asking draws the initial values of a parameter that has none yet;
            // such a one is trainable, as every new parameter is.
            trainable: !param.is_initialized() || param.is_require_grad(),
        });
    }
}

/// Numbers that are read from a device at a time, where not all are wanted at once: as
/// many as a core's second cache holds.
const PIECE: usize = 1 << 18;

/// The value of a parameter: on its device, until it is read.
#[derive(Debug)]
pub struct ParameterValue {
    shape: Vec<usize>,
    flat: Tensor<1>,
}

impl ParameterValue {
    /// Dimensions.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All numbers, row-major.
    #[must_use]
    pub fn read(&self) -> Vec<f32> {
        Numbers::of(self.flat.clone()).as_ref().to_vec()
    }

    /// The numbers in pieces, so that no second copy of a large parameter is made.
    pub fn pieces(&self) -> impl Iterator<Item = Numbers> {
        let [n] = self.flat.dims();
        let starts = (0..n).step_by(PIECE);
        starts.map(move |start| Numbers::of(self.flat.clone().slice(start..n.min(start + PIECE))))
    }
}

/// Numbers of a parameter in host memory, as the device gave them.
#[derive(Debug)]
pub struct Numbers(TensorData);

impl Numbers {
    fn of(flat: Tensor<1>) -> Self {
        Self(flat.into_data().convert::<f32>())
    }
}

impl AsRef<[f32]> for Numbers {
    fn as_ref(&self) -> &[f32] {
        match self.0.as_slice() {
            Ok(numbers) => numbers,
            Err(error) => unreachable!("the numbers have been converted: {error:?}"),
        }
    }
}

/// Calls `f` with every parameter's name and value, in order.
///
/// # Errors
/// The first error that `f` returns; the rest is not visited.
pub fn visit_values<M: Module, E>(
    model: &M,
    f: impl FnMut(&str, &ParameterValue) -> Result<(), E>,
) -> Result<(), E> {
    let mut values = Values {
        path: Vec::new(),
        f,
        result: Ok(()),
    };
    model.visit(&mut values);
    values.result
}

struct Values<F, E> {
    path: Vec<String>,
    f: F,
    result: Result<(), E>,
}

impl<E, F: FnMut(&str, &ParameterValue) -> Result<(), E>> ModuleVisitor for Values<F, E> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.result.is_err() {
            return;
        }
        let value = param.val();
        let value = match value.is_autodiff() {
            true => value.inner(),
            false => value,
        };
        let value = ParameterValue {
            shape: value.dims().to_vec(),
            flat: value.flatten_all(),
        };
        self.result = (self.f)(&self.path.join("."), &value);
    }
}

/// Gives parameters new values, `f32` and row-major, by what `f` makes of their
/// names; `None` leaves one as it is. A parameter that is drawn at its first use is
/// not drawn where it is given a value.
///
/// # Errors
/// The first error that `f` returns; the rest is left as it is.
pub(crate) fn fill_values<M: Module, E>(
    model: M,
    f: impl FnMut(&str) -> Result<Option<Vec<f32>>, E>,
) -> Result<M, E> {
    let mut fill = Fill {
        path: Vec::new(),
        f,
        result: Ok(()),
    };
    let model = model.map(&mut fill);
    fill.result.map(|()| model)
}

struct Fill<F, E> {
    path: Vec<String>,
    f: F,
    result: Result<(), E>,
}

impl<E, F: FnMut(&str) -> Result<Option<Vec<f32>>, E>> ModuleMapper for Fill<F, E> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.result.is_err() {
            return param;
        }
        match (self.f)(&self.path.join(".")) {
            Ok(Some(values)) => {
                let data = TensorData::new(values, param.lazy_shape());
                Param::from_tensor(Tensor::from_data(data, &param.lazy_device()))
            }
            Ok(None) => param,
            Err(error) => {
                self.result = Err(error);
                param
            }
        }
    }
}

/// Gradients of all parameters, each flattened, in the order of [`parameters`];
/// `None` where a parameter has none.
#[derive(Debug, Clone, Default)]
pub struct ParameterGradients {
    /// One entry a parameter, off the autodiff graph.
    pub flat: Vec<Option<Tensor<1>>>,
}

impl ParameterGradients {
    /// Adds another set, such as that of the next micro-batch.
    pub fn add(&mut self, other: Self) {
        if self.flat.is_empty() {
            *self = other;
            return;
        }
        for (sum, new) in self.flat.iter_mut().zip(other.flat) {
            *sum = match (sum.take(), new) {
                (Some(sum), Some(new)) => Some(sum + new),
                (sum, new) => sum.or(new),
            };
        }
    }

    /// Multiplies every gradient by `factor`.
    pub fn scale(&mut self, factor: f64) {
        for gradient in self.flat.iter_mut() {
            *gradient = gradient.take().map(|gradient| gradient * factor);
        }
    }
}

/// Flattening for any rank, one included.
pub(crate) trait FlattenAll {
    fn flatten_all(self) -> Tensor<1>;
}

impl<const D: usize> FlattenAll for Tensor<D> {
    fn flatten_all(self) -> Tensor<1> {
        let n = self.shape().num_elements();
        self.reshape([n])
    }
}

/// Replaces the value of every parameter by what `f` makes of its index and
/// flattened value. Values are off the autodiff graph, and `f` owns them: where
/// nothing else holds the model, it may change them in place.
#[must_use]
pub fn map_values<M: Module>(model: M, f: impl FnMut(usize, Tensor<1>) -> Tensor<1>) -> M {
    model.map(&mut Replace { f, index: 0 })
}

struct Replace<F> {
    f: F,
    index: usize,
}

impl<F: FnMut(usize, Tensor<1>) -> Tensor<1>> ModuleMapper for Replace<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.index;
        self.index += 1;
        let trainable = param.is_require_grad();
        param.map(|value| {
            let autodiff = value.is_autodiff();
            let shape = value.shape();
            let plain = if autodiff { value.inner() } else { value };
            let new = (self.f)(index, plain.flatten_all()).reshape(shape);
            if autodiff {
                new.autodiff().set_require_grad(trainable)
            } else {
                new
            }
        })
    }
}
