//! Frozen weights in few bits: the product and its gradient, and models that have
//! them.

use std::sync::Arc;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{FloatDType, TensorData};
use proptest::prelude::*;
use trainer_model::{
    CausalLm, LoraAdapter, LoraConfig, ModelConfig, Quantization, QuantizedMatrix, TargetModules,
    Weight, linear_cross_entropy, load_causal_lm, load_reward_model, parameters, quantized_linear,
};

use crate::adapters::{difference, logits, trained};
use crate::{cpu, folder, recomputes};

const BOTH: [Quantization; 2] = [Quantization::Nf4, Quantization::Int8];

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let number = |i: u64| {
        let word = (i ^ seed.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        word as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n as u64).map(number).collect()
}

proptest! {
    #![proptest_config(crate::properties::cases(24))]

    /// The product and the gradient of its input are those of the matrix that the
    /// codes stand for, to the bit where it is one block.
    #[test]
    fn product_is_that_of_the_numbers(
        n in 1_usize..5, i in 1_usize..90, o in 1_usize..40, seed: u64
    ) {
        let device = cpu();
        let tensor = |values: Vec<f32>, shape| {
            Tensor::<2>::from_data(TensorData::new(values, shape), &device)
        };
        for quantization in BOTH {
            let weight = QuantizedMatrix::new(&numbers(o * i, seed), [o, i], quantization);
            let plain_oi = tensor(weight.rows(0, o), [o, i]);
            let weight = Arc::new(weight);
            let x_ni = tensor(numbers(n * i, seed ^ 1), [n, i]).autodiff().require_grad();
            let up_no = tensor(numbers(n * o, seed ^ 2), [n, o]);

            let run = |y_no: Tensor<2>| {
                let mut gradients = (y_no.clone() * up_no.clone()).sum().backward();
                let dx_ni = x_ni.grad_remove(&mut gradients).unwrap();
                (y_no.inner().into_data(), dx_ni.into_data())
            };
            let ours = run(quantized_linear(x_ni.clone(), Arc::clone(&weight)));
            let plain = run(x_ni.clone().matmul(plain_oi.autodiff().transpose()));
            prop_assert_eq!(ours, plain);
        }
    }
}

/// The gradient is the slope of the product, also over several blocks of rows.
#[test]
fn gradient_is_the_slope() {
    let (o, i) = (300, 20_000);
    let weight = QuantizedMatrix::new(&numbers(o * i, 3), [o, i], Quantization::Nf4);
    let weight = Arc::new(weight);
    let up = numbers(o, 4);
    let value = |x: &[f32]| -> f64 {
        let data = TensorData::new(x.to_vec(), [1, i]);
        let y = quantized_linear(Tensor::from_data(data, &cpu()), Arc::clone(&weight));
        let y = y.into_data();
        y.iter::<f32>()
            .zip(&up)
            .map(|(y, up)| f64::from(y) * f64::from(*up))
            .sum()
    };
    let x = numbers(i, 5);
    let data = TensorData::new(x.clone(), [1, i]);
    let x_1i = Tensor::<2>::from_data(data, &cpu().autodiff()).require_grad();
    let up_1o = Tensor::<2>::from_data(TensorData::new(up.clone(), [1, o]), &cpu());
    let loss = (quantized_linear(x_1i.clone(), Arc::clone(&weight)) * up_1o).sum();
    let gradient: Vec<f32> = x_1i
        .grad_remove(&mut loss.backward())
        .unwrap()
        .into_data()
        .iter()
        .collect();
    // The map is linear: a wide step has no error of its own.
    let (start, step) = (value(&x), 64.0);
    for at in [0, 1, i / 2, i - 1] {
        let mut moved = x.clone();
        moved[at] += step;
        let slope = (value(&moved) - start) / f64::from(step);
        assert!(
            (slope - f64::from(gradient[at])).abs() < 2e-3,
            "{slope} {}",
            gradient[at]
        );
    }
}

fn quantized(quantization: Quantization, device: &burn::tensor::Device) -> CausalLm {
    let folder = folder("llama");
    let mut config = ModelConfig::from_folder(&folder, None).unwrap();
    config.quantization = Some(quantization);
    load_causal_lm(&folder, &config, device).unwrap()
}

fn adapted(use_dora: bool) -> LoraConfig {
    LoraConfig {
        lora_dropout: 0.3,
        use_dora,
        ..LoraConfig::default()
    }
}

/// Codes are loaded in place of numbers, and compute what the numbers they stand for
/// do.
#[test]
fn loaded_models() {
    let full = crate::load(&folder("llama"), &cpu());
    for (quantization, most) in [(Quantization::Nf4, 0.2), (Quantization::Int8, 0.02)] {
        let model = quantized(quantization, &cpu());
        let names: Vec<String> = parameters(&model).into_iter().map(|p| p.name).collect();
        assert!(names.iter().any(|name| name == "lm_head.weight"));
        assert!(
            !names.iter().any(|name| name.ends_with("_proj.weight")),
            "{names:?}"
        );
        let off = difference(&logits(&model, None), &logits(&full, None));
        assert!(off > 1e-5 && off < most, "{quantization:?} {off}");

        // An adapter that does nothing, merged, makes numbers of the codes.
        let before = logits(&model, None);
        let (model, adapter) = LoraAdapter::attach(model, adapted(false), 1).unwrap();
        assert_eq!(logits(&model, None), before);
        assert_eq!(logits(&adapter.switched_off(&model), None), before);
        let merged = adapter.merged(model);
        assert!(parameters(&merged).len() > names.len());
        assert!(difference(&logits(&merged, None), &before) < 1e-5);
    }
}

/// The head of a reward model stays as it is.
#[test]
fn loaded_reward_models() {
    let folder = folder("llama");
    let mut config = ModelConfig::from_folder(&folder, None).unwrap();
    config.quantization = Some(Quantization::Nf4);
    config.num_labels = 1;
    let task = trainer_model::RewardTask::Sequence;
    let model = load_reward_model(&folder, &config, task, &cpu()).unwrap();
    assert!(matches!(model.score.weight, Weight::Full(_)));
    let quantized = parameters(&model)
        .iter()
        .all(|p| !p.name.ends_with("_proj.weight"));
    assert!(quantized);
}

/// Adapters are trained on codes as on the numbers they stand for, with and without
/// recomputation, magnitudes, dropout and bf16.
#[test]
fn adapters_on_codes() {
    for quantization in BOTH {
        for use_dora in [false, true] {
            for format in [FloatDType::F32, FloatDType::BF16] {
                let base = quantized(quantization, &cpu().autodiff()).computing_in(format);
                let (model, adapter) = LoraAdapter::attach(base, adapted(use_dora), 1).unwrap();
                let model = trained(model);
                let trainable = parameters(&model).iter().filter(|p| p.trainable).count();
                assert_eq!(recomputes(&model).len(), trainable);
                if format == FloatDType::F32 {
                    let adapted = logits(&model.valid(), None);
                    let merged = logits(&adapter.merged(model).valid(), None);
                    assert!(difference(&adapted, &merged) < 1e-5);
                }
            }
        }
    }
}

/// What is quantized cannot be trained.
#[test]
fn modules_to_save_that_are_quantized() {
    let config = LoraConfig {
        modules_to_save: vec!["o_proj".into()],
        target_modules: TargetModules::Names {
            names: vec!["q_proj".into()],
            all_linear: false,
        },
        ..LoraConfig::default()
    };
    let model = quantized(Quantization::Nf4, &cpu());
    assert_eq!(
        LoraAdapter::attach(model, config, 1)
            .unwrap_err()
            .to_string(),
        "modules_to_save: model.layers.0.self_attn.o_proj.weight is quantized, and what is \
         quantized is frozen: leave it out, or load the model without quantization"
    );
}

/// A frozen output projection has no gradient, and the hidden states have the one they
/// have beside a trained projection.
#[test]
fn loss_beside_a_frozen_projection() {
    let device = cpu();
    let (n, d, v) = (5, 8, 30);
    let tensor = |values: Vec<f32>, shape| {
        Tensor::<2>::from_data(TensorData::new(values, shape), &device).autodiff()
    };
    let targets: Vec<i64> = (0..n as i64).map(|t| t * 7 % v as i64).collect();
    let run = |trained: bool| {
        let x_nd = tensor(numbers(n * d, 1), [n, d]).require_grad();
        let w_vd = tensor(numbers(v * d, 2), [v, d]).set_require_grad(trained);
        let targets_n = Tensor::from_data(TensorData::new(targets.clone(), [n]), &device);
        let loss = linear_cross_entropy(x_nd.clone(), w_vd.clone(), targets_n);
        let mut gradients = loss.backward();
        assert_eq!(w_vd.grad_remove(&mut gradients).is_some(), trained);
        x_nd.grad_remove(&mut gradients).unwrap().into_data()
    };
    assert_eq!(run(true), run(false));
}
