//! Optimizers, whose rules are tensor operations on a GPU and passes over slices on a
//! CPU.

use burn::prelude::*;
use serde_json::{Value as Json, json};
use trainer_config::{Config, Optimizer as Name};
use trainer_core::optimizer::{StepSettings, build};
use trainer_model::ParameterInfo;

use crate::{assert_close, gpu, numbers, values};

/// The terms of a rule are off by a few units of 1.2e-7 each, and only their product with
/// a rate of 0.01 reaches the value.
const TOLERANCE: f32 = 1e-6;

const SHAPES: [(&str, &[usize]); 5] = [
    ("embed_tokens.weight", &[70, 60]),
    ("layers.0.q_proj.weight", &[33, 17]),
    ("layers.0.experts.weight", &[2, 5, 3]),
    ("layers.0.input_layernorm.weight", &[7]),
    ("layers.0.k_norm.weight", &[1]),
];

/// Values after steps; after the second another optimizer goes on from the state.
fn trained(config: &Config, device: &Device) -> Vec<Vec<f32>> {
    let infos = SHAPES.map(|(name, shape)| ParameterInfo {
        name: name.into(),
        shape: shape.to_vec(),
        trainable: true,
    });
    let tensor = |index: usize, seed: u64| {
        let n = infos[index].shape.iter().product();
        Tensor::<1>::from_data(numbers([n], seed), device)
    };
    let mut optimizer = build(config, &infos).unwrap();
    let mut parameters: Vec<Tensor<1>> = (0..infos.len()).map(|i| tensor(i, i as u64)).collect();
    for step in 1..5 {
        let settings = StepSettings {
            learning_rate: config.learning_rate / step as f64,
            beta1: (step == 4).then_some(0.7),
            gradient_factor: 0.8,
        };
        for (index, parameter) in parameters.iter_mut().enumerate() {
            let gradient = tensor(index, 100 * step + index as u64);
            *parameter = optimizer.update(index, parameter.clone(), gradient, settings);
        }
        if step == 2 {
            let state = optimizer.state();
            optimizer = build(config, &infos).unwrap();
            optimizer.load_state(state.clone(), device).unwrap();
            assert_eq!(optimizer.state(), state, "{}", config.optimizer);
        }
    }
    parameters.into_iter().map(values).collect()
}

#[test]
fn every_optimizer() {
    let plain = Name::NAMES.iter().map(|name| json!({"optimizer": name}));
    let more = [
        json!({"optimizer": "sgd", "optim_args": {"momentum": 0.9, "nesterov": true}}),
        json!({"optimizer": "rmsprop", "optim_args": {"momentum": 0.9, "centered": true}}),
        json!({"optimizer": "adafactor", "optim_args": {"beta1": 0.9}}),
    ];
    for mut keys in plain.chain(more) {
        keys["learning_rate"] = json!(0.01);
        keys["weight_decay"] = json!(0.1);
        let what = Json::to_string(&keys);
        let config: Config = serde_json::from_value(keys).unwrap();
        let (got, want) = (trained(&config, &gpu()), trained(&config, &Device::flex()));
        for ((got, want), (name, _)) in got.iter().zip(&want).zip(SHAPES) {
            assert_close(&format!("{what} {name}"), got, want, TOLERANCE);
        }
    }
}
