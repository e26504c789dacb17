//! Derivatives against differences of values: of each operation with a backward pass
//! of its own, and of whole models.

use std::cell::Cell;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use trainer_model::{
    Activations, ScoreRule, causal_attention, geglu, linear, linear_cross_entropy, map_values,
    rms_norm, rope, swiglu, token_scores,
};

use crate::recompute::next_token;
use crate::{cpu, folder, load};

/// The derivative at 0 from four values (central differences of fourth order).
fn slope(step: f64, f: impl Fn(f64) -> f64) -> f64 {
    (8.0 * (f(step) - f(-step)) - (f(2.0 * step) - f(-2.0 * step))) / (12.0 * step)
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

thread_local! {
    /// State of [`normal`], of each test's own: tests share the generator of a device.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

fn seed(seed: u64) {
    STATE.set(seed << 32);
}

/// About normal: sums of twelve uniform numbers, hashed as SplitMix64 does.
fn normal<const D: usize>(dims: [usize; D], device: &Device) -> Tensor<D> {
    let uniform = || {
        let state = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        STATE.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    let n = dims.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
        .collect();
    Tensor::from_data(TensorData::new(values, dims), device)
}

/// `Σ upstream · f(inputs)` along a random direction of each input in turn.
fn assert_slopes(what: &str, inputs: &[Tensor<4>], f: impl Fn(&[Tensor<4>]) -> Tensor<4>) {
    let device = inputs[0].device();
    let leaves: Vec<Tensor<4>> = inputs.iter().map(|x| x.clone().require_grad()).collect();
    let output = f(&leaves);
    let upstream = normal(output.dims(), &device).inner();
    let weights = numbers(upstream.clone());
    let gradients = (output * upstream).sum().backward();
    for (index, leaf) in leaves.iter().enumerate() {
        let direction = normal(leaf.dims(), &device).inner();
        let gradient = numbers(leaf.grad(&gradients).unwrap());
        let norm = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
        let along = numbers(direction.clone());
        let analytic: f64 = gradient.iter().zip(along).map(|(g, d)| g * d).sum();
        let value = |step: f64| -> f64 {
            let mut moved: Vec<Tensor<4>> = inputs.iter().map(|x| x.clone().inner()).collect();
            moved[index] = moved[index].clone() + direction.clone() * step;
            let output = numbers(f(&moved));
            output.iter().zip(&weights).map(|(y, w)| y * w).sum()
        };
        let numeric = slope(0.01, value);
        assert!(
            (numeric - analytic).abs() <= 1e-3 * norm.max(0.1),
            "{what}, input {index}: difference {numeric}, derivative {analytic}, norm {norm}"
        );
    }
}

#[test]
fn derivatives_of_operations_are_slopes() {
    let device = cpu().autodiff();
    seed(3);
    let x = |dims| normal::<4>(dims, &device);
    assert_slopes("swiglu", &[x([5, 1, 3, 17]), x([5, 1, 3, 17])], |x| {
        swiglu(x[0].clone(), x[1].clone())
    });
    assert_slopes("geglu", &[x([5, 1, 3, 17]), x([5, 1, 3, 17])], |x| {
        geglu(x[0].clone(), x[1].clone())
    });
    assert_slopes("rms_norm", &[x([7, 1, 3, 16]), x([1, 1, 1, 16])], |x| {
        rms_norm(x[0].clone(), x[1].clone().reshape([16]), 1e-5)
    });
    for (width, rotated) in [(8, 8), (10, 6)] {
        let half = normal([2, 9, 1, rotated / 2], &device).inner();
        let angles = Tensor::cat(vec![half.clone(), half], 3);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        assert_slopes("rope", &[x([2, 9, 3, width])], |x| {
            rope(x[0].clone(), cos.clone(), sin.clone())
        });
    }
    assert_slopes("linear", &[x([1, 1, 5, 7]), x([1, 1, 9, 7])], |x| {
        let (x, w) = (x[0].clone().reshape([5, 7]), x[1].clone().reshape([9, 7]));
        linear(x, w).reshape([1, 1, 5, 9])
    });
    let targets = [3_i64, 0, 12, 12, 7, 1];
    let targets_n = Tensor::<1, Int>::from_data(TensorData::from(targets), &device).inner();
    let inputs = [x([1, 1, 6, 8]), x([1, 1, 13, 8])];
    assert_slopes("linear_cross_entropy", &inputs, |x| {
        let (hidden, head) = (x[0].clone().reshape([6, 8]), x[1].clone().reshape([13, 8]));
        linear_cross_entropy(hidden, head, targets_n.clone()).reshape([1, 1, 1, 1])
    });
    // The log-probability alone has a gradient.
    assert_slopes("token_scores", &inputs, |x| {
        let (hidden, head) = (x[0].clone().reshape([6, 8]), x[1].clone().reshape([13, 8]));
        let scores = token_scores(hidden, head, targets_n.clone());
        scores.narrow(1, 0, 1).reshape([1, 1, 6, 1])
    });
}

/// Grouped heads, two documents longer than a window and than a block, with any scale,
/// with and without a cap of the scores.
#[test]
fn derivatives_of_attention_are_slopes() {
    let device = cpu().autodiff();
    seed(5);
    let documents = [70_usize, 41];
    let tokens: usize = documents.iter().sum();
    for window in [None, Some(1), Some(9)] {
        let starts: Vec<i64> = documents
            .iter()
            .scan(0, |start, &length| {
                let first = *start;
                *start += length;
                Some((first..first + length).map(move |place| {
                    let seen = window.map_or(first, |window| {
                        first.max((place + 1).saturating_sub(window))
                    });
                    seen as i64
                }))
            })
            .flatten()
            .collect();
        let starts_bt =
            Tensor::<2, Int>::from_data(TensorData::new(starts, [1, tokens]), &device).inner();
        for softcap in [None, Some(2.0)] {
            let rule = ScoreRule {
                scale: 0.4,
                softcap,
            };
            let heads = |heads| normal::<4>([1, tokens, heads, 6], &device);
            assert_slopes("attention", &[heads(4), heads(2), heads(2)], |x| {
                causal_attention(
                    x[0].clone(),
                    x[1].clone(),
                    x[2].clone(),
                    starts_bt.clone(),
                    rule,
                )
            });
        }
    }
}

/// A direction in the space of all parameters.
struct Along {
    parts: Vec<Tensor<1>>,
}

impl ModuleMapper for Along {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let n = param.lazy_shape().num_elements();
        self.parts.push(normal([n], &param.val().device()).inner());
        param
    }
}

/// The gradient of a model's loss with respect to all its parameters together. Experts
/// are left out: which of them a token is sent to jumps.
#[test]
fn gradients_of_models_are_slopes() {
    for name in [
        "llama",
        "gemma3",
        "granite",
        "mistral-swa",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    ] {
        let device = cpu().autodiff();
        seed(7);
        let model = load(&folder(name), &device);
        let mut along = Along { parts: Vec::new() };
        let model = model.map(&mut along);
        let gradients = next_token(&model, Activations::Recomputed).gradients;
        let (mut analytic, mut squares) = (0.0, 0.0);
        for (gradient, direction) in gradients.flat.iter().zip(&along.parts) {
            let gradient = numbers(gradient.clone().unwrap());
            let direction = numbers(direction.clone());
            analytic += gradient
                .iter()
                .zip(&direction)
                .map(|(g, d)| g * d)
                .sum::<f64>();
            squares += gradient.iter().map(|g| g * g).sum::<f64>();
        }
        let value = |step: f64| {
            let moved = map_values(model.clone(), |index, value| {
                value + along.parts[index].clone() * step
            });
            next_token(&moved, Activations::Recomputed).loss
        };
        // Where rounding and the terms left out are both small: Gemma's embedding is
        // multiplied, and bends the loss more.
        let step = if name == "gemma3" { 4e-4 } else { 8e-4 };
        let numeric = slope(step, value);
        let norm = f64::sqrt(squares);
        assert!(
            (numeric - analytic).abs() <= 3e-3 * norm,
            "{name}: difference {numeric}, derivative {analytic}, norm {norm}"
        );
    }
}
