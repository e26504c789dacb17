//! Every operation with a backward pass of its own, and those that have kernels on
//! flex: value and gradients.

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use trainer_model::{
    Quantization, QuantizedMatrix, ScoreRule, causal_attention, forked_attention, geglu, linear,
    linear_cross_entropy, logits_chunk, lora_linear, quantized_linear, rms_norm, rope, swiglu,
    token_scores,
};

use crate::{assert_close, gpu, numbers, values};

/// Sums of up to 4,000 products of numbers about 1, added up in another order, differ by
/// some 60 roundings of 6e-8; WGSL lets `exp` be off by `3 + 2 |x|` units of 1.2e-7, here
/// 20 of them.
const TOLERANCE: f32 = 1e-5;

/// Value and gradients of an operation on both devices, for an upstream gradient that
/// differs from element to element. `operation` also gets the device for what has no
/// gradient.
fn check(
    what: &str,
    shapes: &[[usize; 4]],
    operation: impl Fn(&[Tensor<4>], &Device) -> Tensor<4>,
) {
    let run = |device: Device| {
        let recorded = device.clone().autodiff();
        let leaf =
            |(&shape, seed)| Tensor::<4>::from_data(numbers(shape, seed), &recorded).require_grad();
        let leaves: Vec<Tensor<4>> = shapes.iter().zip(1..).map(leaf).collect();
        let output = operation(&leaves, &device);
        let n = output.shape().num_elements();
        let upstream: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let upstream = TensorData::new(upstream, output.shape());
        let upstream = Tensor::<4>::from_data(upstream, &device);
        let gradients = (output.clone() * upstream).sum().backward();
        let mut results = vec![values(output)];
        for leaf in &leaves {
            results.push(values(leaf.grad(&gradients).unwrap()));
        }
        results
    };
    let (got, want) = (run(gpu()), run(Device::flex()));
    for (index, (got, want)) in got.iter().zip(&want).enumerate() {
        let part = match index {
            0 => String::new(),
            _ => format!(", gradient {index}"),
        };
        assert_close(&format!("{what} of {shapes:?}{part}"), got, want, TOLERANCE);
    }
}

fn ids<const D: usize>(ids: Vec<i64>, shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(ids, shape), device)
}

fn matrix(x: &Tensor<4>) -> Tensor<2> {
    let [_, _, rows, columns] = x.dims();
    x.clone().reshape([rows, columns])
}

/// A matrix without a gradient.
fn frozen(rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(numbers([rows, columns], 99), device)
}

#[test]
fn gates() {
    for shape in [[3, 1, 2, 33], [1, 1, 1, 1]] {
        check("swiglu", &[shape; 2], |x, _| {
            swiglu(x[0].clone(), x[1].clone())
        });
        check("geglu", &[shape; 2], |x, _| {
            geglu(x[0].clone(), x[1].clone())
        });
    }
}

#[test]
fn norms() {
    for [rows, width] in [[15, 33], [1, 1], [1, 70]] {
        check(
            "rms_norm",
            &[[rows, 1, 1, width], [1, 1, 1, width]],
            |x, _| rms_norm(x[0].clone(), x[1].clone().reshape([width]), 1e-5),
        );
    }
}

/// Whole heads and parts of them, one token and head.
#[test]
fn rotations() {
    for (shape, half) in [([2, 5, 3, 10], 4), ([2, 7, 1, 6], 3), ([1, 1, 1, 2], 1)] {
        let [rows, tokens, _, _] = shape;
        let n = rows * tokens;
        check("rope", &[shape], |x, device| {
            let table = |turn: fn(f32) -> f32| {
                let mut table = Vec::new();
                for angles in numbers([n, half], 99)
                    .iter::<f32>()
                    .collect::<Vec<_>>()
                    .chunks(half)
                {
                    let half: Vec<f32> = angles.iter().map(|&angle| turn(angle)).collect();
                    table.extend(half.repeat(2));
                }
                let table = TensorData::new(table, [rows, tokens, 1, 2 * half]);
                Tensor::<4>::from_data(table, device)
            };
            rope(x[0].clone(), table(f32::cos), table(f32::sin))
        });
    }
}

/// Grouped heads, documents in a row, keys from before the first query, windows, with a
/// bound on scores and without.
#[test]
fn attention() {
    // Rows, queries, heads, key-value heads, width of a head, keys, window.
    for [b, t, h, g, k, s, window] in [
        [2, 11, 4, 2, 6, 11, 11],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 67, 3, 1, 5, 67, 9],
        [2, 3, 2, 2, 7, 8, 8],
        [1, 1, 6, 2, 4, 9, 5],
    ] {
        for softcap in [None, Some(1.5)] {
            let rule = ScoreRule {
                scale: 0.3,
                softcap,
            };
            check(
                "causal_attention",
                &[[b, t, h, k], [b, s, g, k], [b, s, g, k]],
                |x, device| {
                    let (past, second) = (s - t, t * 2 / 3);
                    let mut starts = Vec::new();
                    for _ in 0..b {
                        for query in 0..t {
                            let document = if past == 0 && query >= second {
                                second
                            } else {
                                0
                            };
                            starts.push(
                                document.max((query + past + 1).saturating_sub(window)) as i64
                            );
                        }
                    }
                    let starts = ids(starts, [b, t], device);
                    causal_attention(x[0].clone(), x[1].clone(), x[2].clone(), starts, rule)
                },
            );
        }
    }
}

/// Answers that share a prompt: the second sees the prompt and not the first.
#[test]
fn attention_of_forks() {
    for [prompt, first, second, heads, kv_heads] in
        [[4, 5, 6, 4, 2], [1, 1, 1, 1, 1], [0, 3, 2, 3, 1]]
    {
        let t = prompt + first + second;
        let rule = ScoreRule::of_width(5);
        let shapes = [[1, t, heads, 5], [1, t, kv_heads, 5], [1, t, kv_heads, 5]];
        check("forked_attention", &shapes, |x, device| {
            let branch = prompt + first;
            let seen = (0..t).flat_map(|place| match place < branch {
                true => [0, 0, 0],
                false => [0, prompt as i64, branch as i64],
            });
            let seen = ids(seen.collect(), [1, t, 3], device);
            forked_attention(x[0].clone(), x[1].clone(), x[2].clone(), seen, rule)
        });
    }
}

#[test]
fn maps() {
    for [n, i, o] in [[7, 10, 13], [1, 1, 1], [1, 65, 3], [33, 3, 66]] {
        check("linear", &[[1, 1, n, i], [1, 1, o, i]], |x, _| {
            linear(matrix(&x[0]), matrix(&x[1])).reshape([1, 1, n, o])
        });
        check("linear, frozen", &[[1, 1, n, i]], |x, device| {
            linear(matrix(&x[0]), frozen(o, i, device)).reshape([1, 1, n, o])
        });
        for r in [1, 3] {
            let shapes = [[1, 1, n, i], [1, 1, r, i], [1, 1, o, r]];
            check("lora_linear", &shapes, |x, device| {
                let [x, a, b] = [0, 1, 2].map(|i| matrix(&x[i]));
                lora_linear(x, frozen(o, i, device), a, b, 0.7).reshape([1, 1, n, o])
            });
        }
        for kind in [Quantization::Nf4, Quantization::Int8] {
            check("quantized_linear", &[[1, 1, n, i]], |x, _| {
                let weight: Vec<f32> = numbers([o, i], 99).iter().collect();
                let weight = Arc::new(QuantizedMatrix::new(&weight, [o, i], kind));
                quantized_linear(matrix(&x[0]), weight).reshape([1, 1, n, o])
            });
        }
    }
}

/// One token, odd sizes, and more tokens than a chunk of logits has; a head that is
/// trained and one that is not. The vocabulary stays below 65,535, the turns after which
/// Mesa's llvmpipe ends the loops of a kernel (`LP_MAX_TGSI_LOOP_ITERATIONS`), whatever
/// is left to do.
#[test]
fn losses_and_scores() {
    for [n, d, v] in [[9, 12, 37], [1, 1, 2], [1_100, 2, 4_001]] {
        assert!(v < 1000 || n > logits_chunk(v));
        let targets = |device: &Device| {
            let targets = (0..n).map(|token| (token * (v / 10 + 1) % v) as i64);
            ids(targets.collect(), [n], device)
        };
        let shapes = [[1, 1, n, d], [1, 1, v, d]];
        check("linear_cross_entropy", &shapes, |x, device| {
            linear_cross_entropy(matrix(&x[0]), matrix(&x[1]), targets(device)).unsqueeze()
        });
        check("linear_cross_entropy, frozen", &shapes[..1], |x, device| {
            linear_cross_entropy(matrix(&x[0]), frozen(v, d, device), targets(device)).unsqueeze()
        });
        check("token_scores", &shapes, |x, device| {
            token_scores(matrix(&x[0]), matrix(&x[1]), targets(device)).unsqueeze()
        });
        check("token_scores, frozen", &shapes[..1], |x, device| {
            token_scores(matrix(&x[0]), frozen(v, d, device), targets(device)).unsqueeze()
        });
    }
}
