//! Small models: losses and gradient norms of a few steps, and what they generate.

use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::prelude::*;
use trainer_config::Config;
use trainer_core::optimizer::{self, StepSettings};
use trainer_model::{
    Activations, CausalLm, GenerationOptions, LoraAdapter, LoraConfig, ModelConfig, Quantization,
    Targets, Tokens, TrainedRows, backward, load_causal_lm, parameters,
};

use crate::{assert_close, gpu};

/// Sums of thousands of products in another order, through a few layers and steps. Much
/// larger differences would be those of AdamW, whose first steps make changes of one size
/// of gradients of any.
const TOLERANCE: f32 = 1e-5;

/// What is trained, and how.
#[derive(Debug, Clone, Copy, Default)]
struct Case {
    model: &'static str,
    lora: bool,
    quantization: Option<Quantization>,
    activations: Activations,
}

fn load(name: &str, quantization: Option<Quantization>, device: &Device) -> CausalLm {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../trainer-cli/tests/parity/models")
        .join(name);
    let mut config = ModelConfig::from_folder(&folder, None).unwrap();
    config.quantization = quantization;
    load_causal_lm(&folder, &config, device).unwrap()
}

/// Losses and norms of gradients of a few steps: two documents in one row, one and
/// padding in the other.
fn train(case: Case, device: &Device) -> Vec<f32> {
    let mut model = load(case.model, case.quantization, &device.clone().autodiff());
    if case.lora {
        let config = LoraConfig {
            lora_dropout: 0.2,
            ..LoraConfig::default()
        };
        model = LoraAdapter::attach(model, config, 1).unwrap().0;
    }
    model = model.with_embedding_noise(5.0);
    let mut optimizer = optimizer::build(&Config::default(), &parameters(&model)).unwrap();

    let width = 24;
    let input_ids: Vec<u32> = (0..48).map(|i| i * 37 % 1000 + 3).collect();
    let (mut positions, mut segments, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (segment, length) in [(1, 10), (2, 14), (1, 17), (0, 7)] {
        for position in 0..length {
            let trained = segment > 0 && position > 0;
            let id = input_ids[labels.len()] as i32;
            labels.push(if trained { id } else { -100 });
            positions.push(position);
            segments.push(segment);
        }
    }
    let targets = Targets::from_labels(&labels, width);
    let tokens = Tokens {
        rows: 2,
        width,
        input_ids: &input_ids,
        position_ids: &positions,
        segment_ids: &segments,
    };
    let mut results = Vec::new();
    for step in 0..4 {
        let input = model.input(&tokens).with_dropout(step);
        let mut back = backward(&model, &input, case.activations, |hidden_btd| {
            let loss = model.loss_sum(hidden_btd, &targets) / targets.len() as f64;
            (loss, ())
        });
        let norm = optimizer::global_norm(&mut back.gradients);
        results.extend([back.loss as f32, norm as f32]);
        let settings = StepSettings {
            learning_rate: 5e-3,
            beta1: None,
            gradient_factor: norm.recip().min(1.0),
        };
        let all = TrainedRows::default();
        model = optimizer::step(&mut *optimizer, model, &all, back.gradients, settings);
    }
    results
}

/// Dense layers, windows with bounds on scores, experts, adapters with dropout, frozen
/// weights in few bits.
#[test]
fn steps_of_training() {
    let kept = Case::default();
    for case in [
        Case {
            model: "llama",
            ..kept
        },
        Case {
            model: "llama",
            lora: true,
            activations: Activations::Recomputed,
            ..kept
        },
        Case {
            model: "qwen2",
            lora: true,
            quantization: Some(Quantization::Nf4),
            ..kept
        },
        Case {
            model: "gemma3",
            ..kept
        },
        Case {
            model: "qwen3-moe",
            ..kept
        },
    ] {
        let want = train(case, &Device::flex());
        assert!(want[6] < want[0], "{case:?}: {want:?}");
        let got = train(case, &gpu());
        assert_close(&format!("{case:?}"), &got, &want, TOLERANCE);
    }
}

/// With cached keys, and rows that are padded.
#[test]
fn generation() {
    let prompts = [vec![5, 9, 700, 33, 2, 8], vec![44], vec![901, 17, 60]];
    let options = GenerationOptions::greedy(20, Vec::new());
    let answers = |device: &Device| {
        let go_on = |_, _| ControlFlow::Continue(());
        let model = load("llama3-rope", None, device);
        model.generate(&prompts, &options, go_on).unwrap()
    };
    assert_eq!(answers(&gpu()), answers(&Device::flex()));
}
