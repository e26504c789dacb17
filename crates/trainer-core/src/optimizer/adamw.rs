//! AdamW with decoupled weight decay, as `torch.optim.AdamW` computes it.
//!
//! ```text
//! p ← p · (1 - lr · wd)
//! m ← m + (1 - β1)(g - m)             v ← β2 · v + (1 - β2) g²
//! p ← p - lr / (1 - β1ᵗ) · m / (√v / √(1 - β2ᵗ) + ε)
//! ```
//! Reference: arXiv 1711.05101; the order of operations is torch's.
//!
//! On a CPU backend a step is one pass over slices, since a tensor operation for
//! each of these terms would read and write memory a dozen times. Elsewhere the
//! same terms are tensor operations.

use burn::prelude::*;
use burn::tensor::TensorData;
use rayon::prelude::*;

use super::{Optimizer, StepSettings};
use crate::backend::in_host_memory;

/// Elements that a thread takes at a time; a cache holds the four slices.
const CHUNK: usize = 1 << 14;

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
    moments: Moments,
}

#[derive(Debug, Clone)]
enum Moments {
    Host { first: Vec<f32>, second: Vec<f32> },
    Device(Box<DeviceMoments>),
}

#[derive(Debug, Clone)]
struct DeviceMoments {
    first: Tensor<1>,
    second: Tensor<1>,
}

/// The scalars of one update.
struct Scalars {
    keep: f64,
    beta1: f64,
    beta2: f64,
    correction2: f64,
    epsilon: f64,
    rate: f64,
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
        let mut state = self.states[index].take().unwrap_or_else(|| State {
            steps: 0,
            moments: Moments::zeros(&gradient),
        });
        state.steps += 1;
        let beta1 = settings.beta1.unwrap_or(self.beta1);
        let scalars = Scalars {
            keep: 1.0 - settings.learning_rate * self.decays[index],
            beta1,
            beta2: self.beta2,
            correction2: (1.0 - self.beta2.powi(state.steps)).sqrt(),
            epsilon: self.epsilon,
            rate: settings.learning_rate / (1.0 - beta1.powi(state.steps)),
        };
        let value = match &mut state.moments {
            Moments::Host { first, second } => on_host(value, gradient, first, second, &scalars),
            Moments::Device(moments) => on_device(value, gradient, moments, &scalars),
        };
        self.states[index] = Some(state);
        value
    }
}

impl Moments {
    fn zeros(like: &Tensor<1>) -> Self {
        if in_host_memory(&like.device()) {
            let n = like.dims()[0];
            Self::Host {
                first: vec![0.0; n],
                second: vec![0.0; n],
            }
        } else {
            Self::Device(Box::new(DeviceMoments {
                first: like.zeros_like(),
                second: like.zeros_like(),
            }))
        }
    }
}

fn on_host(
    value: Tensor<1>,
    gradient: Tensor<1>,
    first: &mut [f32],
    second: &mut [f32],
    scalars: &Scalars,
) -> Tensor<1> {
    let device = value.device();
    let mut value = into_f32(value);
    let gradient = into_f32(gradient);
    let (keep, beta1, beta2) = (
        scalars.keep as f32,
        scalars.beta1 as f32,
        scalars.beta2 as f32,
    );
    let (rest1, rest2) = ((1.0 - scalars.beta1) as f32, (1.0 - scalars.beta2) as f32);
    let (correction2, epsilon) = (scalars.correction2 as f32, scalars.epsilon as f32);
    let rate = scalars.rate as f32;
    let slices = value
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK));
    slices.for_each(|(((value, gradient), first), second)| {
        let elements = value.iter_mut().zip(gradient).zip(first).zip(second);
        for (((p, &g), m), v) in elements {
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p = keep * *p - rate * *m / (v.sqrt() / correction2 + epsilon);
        }
    });
    let n = value.len();
    Tensor::from_data(TensorData::new(value, [n]), &device)
}

/// The values of a tensor of `f32`; moved, not copied, where nothing else holds it.
fn into_f32(tensor: Tensor<1>) -> Vec<f32> {
    let data = tensor.into_data();
    match data.try_into_vec() {
        Ok(values) => values,
        Err(error) => unreachable!("parameters and gradients are f32: {error:?}"),
    }
}

fn on_device(
    value: Tensor<1>,
    gradient: Tensor<1>,
    moments: &mut DeviceMoments,
    scalars: &Scalars,
) -> Tensor<1> {
    let DeviceMoments { first, second } = moments;
    *first = first.clone() * scalars.beta1 + gradient.clone() * (1.0 - scalars.beta1);
    *second = second.clone() * scalars.beta2 + gradient.square() * (1.0 - scalars.beta2);
    let denominator = second.clone().sqrt() / scalars.correction2 + scalars.epsilon;
    value * scalars.keep - first.clone() / denominator * scalars.rate
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways of computing a step agree, with and without decay, over steps.
    #[test]
    fn slices_and_tensors_agree() {
        let device = crate::backend::select(trainer_config::Backend::Auto)
            .unwrap()
            .device;
        let tensor = |values: &[f32]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
        };
        let start = [1.0, -2.0, 0.5, 0.0, 1e-3];
        for decay in [0.0, 0.1] {
            let mut on_slices = AdamW::new(0.9, 0.95, 1e-8, vec![decay]);
            let mut on_tensors = AdamW::new(0.9, 0.95, 1e-8, vec![decay]);
            on_tensors.states[0] = Some(State {
                steps: 0,
                moments: Moments::Device(Box::new(DeviceMoments {
                    first: tensor(&[0.0; 5]),
                    second: tensor(&[0.0; 5]),
                })),
            });
            let (mut a, mut b) = (tensor(&start), tensor(&start));
            for step in 1..6 {
                let gradient = tensor(&[0.3, -1e-4, 2.0, 0.0, step as f32]);
                let settings = StepSettings {
                    learning_rate: 0.01 * f64::from(step),
                    beta1: None,
                };
                a = on_slices.update(0, a, gradient.clone(), settings);
                b = on_tensors.update(0, b, gradient, settings);
            }
            assert!(matches!(
                on_slices.states[0],
                Some(State {
                    moments: Moments::Host { .. },
                    ..
                })
            ));
            let (a, b) = (into_f32(a), into_f32(b));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= 1e-6 * a.abs(), "slices {a}, tensors {b}");
            }
        }
    }
}
