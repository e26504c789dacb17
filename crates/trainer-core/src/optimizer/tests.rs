//! Every optimizer against recorded trajectories of its published reference, and
//! what all optimizers promise.

use burn::prelude::*;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use trainer_config::{Config, Optimizer as Name};
use trainer_model::ParameterInfo;

use super::adagrad::Adagrad;
use super::adamw::AdamW;
use super::elements::{Bits, Elements, PerElement};
use super::engine::{At, Parameter, Rule};
use super::groups::Group;
use super::lion::Lion;
use super::rmsprop::RmsProp;
use super::sgd::Sgd;
use super::state::{Buffer, Kept, into_vec};
use super::*;

/// Written by `scripts/record_optimizers.py`.
const RECORDED: &[(&str, &str)] = &[
    ("adafactor", include_str!("golden/adafactor.json")),
    ("adagrad", include_str!("golden/adagrad.json")),
    ("adam", include_str!("golden/adam.json")),
    ("adamw_8bit", include_str!("golden/adamw_8bit.json")),
    ("adamw_torch", include_str!("golden/adamw_torch.json")),
    ("lion_32bit", include_str!("golden/lion_32bit.json")),
    ("lion_8bit", include_str!("golden/lion_8bit.json")),
    ("muon", include_str!("golden/muon.json")),
    ("rmsprop", include_str!("golden/rmsprop.json")),
    ("sgd", include_str!("golden/sgd.json")),
];

#[derive(Deserialize)]
struct Run {
    config: Json,
    parameters: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    name: String,
    shape: Vec<usize>,
    /// One value of so many is recorded.
    every: usize,
    values: std::collections::BTreeMap<u64, Vec<f32>>,
}

fn device() -> Device {
    crate::backend::select(trainer_config::Backend::Auto)
        .unwrap()
        .device
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), &device())
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    into_vec(tensor.clone().into_data())
}

/// As the function of this name in the script.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed as u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn gradient(step: u64, index: usize, count: usize) -> Vec<f32> {
    let raw = numbers(1000 * step + index as u64, count);
    let scaled = raw.into_iter().enumerate().map(|(i, x)| {
        if i % 11 == 3 {
            0.0
        } else {
            x / 2f32.powi(i as i32 % 5)
        }
    });
    scaled.collect()
}

/// Parameters under an optimizer.
struct Training {
    optimizer: Box<dyn Optimizer>,
    values: Vec<Tensor<1>>,
    step: u64,
    rate: f64,
}

impl Training {
    fn new(config: &Config, shapes: &[(&str, &[usize])]) -> Self {
        let infos: Vec<_> = shapes
            .iter()
            .map(|(name, shape)| info(name, shape))
            .collect();
        let optimizer = build(config, &infos).unwrap_or_else(|error| panic!("{error}"));
        let values = infos
            .iter()
            .enumerate()
            .map(|(index, info)| tensor(numbers(index as u64, info.shape.iter().product())));
        Self {
            optimizer,
            values: values.collect(),
            step: 0,
            rate: config.learning_rate,
        }
    }

    fn step(&mut self) {
        self.step += 1;
        let settings = StepSettings {
            learning_rate: self.rate * (1.0 - 0.02 * (self.step as f64 - 1.0)),
            beta1: None,
            gradient_factor: 1.0,
        };
        for (index, value) in self.values.iter_mut().enumerate() {
            let gradient = tensor(gradient(self.step, index, value.dims()[0]));
            *value = self
                .optimizer
                .update(index, value.clone(), gradient, settings);
        }
    }
}

fn info(name: &str, shape: &[usize]) -> ParameterInfo {
    ParameterInfo {
        name: name.to_owned(),
        shape: shape.to_vec(),
        trainable: true,
    }
}

fn config(keys: Json) -> Config {
    serde_json::from_value(keys).unwrap()
}

#[test]
fn trajectories_are_those_of_the_references() {
    for (name, text) in RECORDED {
        let runs: Vec<Run> = serde_json::from_str(text).unwrap();
        for Run { config, parameters } in runs {
            let shapes: Vec<(&str, &[usize])> = parameters
                .iter()
                .map(|parameter| (parameter.name.as_str(), parameter.shape.as_slice()))
                .collect();
            let mut training = Training::new(&self::config(config.clone()), &shapes);
            for step in 1..=25 {
                training.step();
                for (parameter, value) in parameters.iter().zip(&training.values) {
                    let Some(recorded) = parameter.values.get(&step) else {
                        continue;
                    };
                    let ours = values(value);
                    let ours = ours.iter().step_by(parameter.every);
                    assert_eq!(ours.len(), recorded.len());
                    for (ours, theirs) in ours.zip(recorded) {
                        let close = (ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.0);
                        let at = format!("{name} {config}, {} at {step}", parameter.name);
                        assert!(close, "{at}: {ours}, recorded {theirs}");
                    }
                }
            }
            assert_eq!(parameters[0].values.len(), 3);
            for (index, kept) in training.optimizer.state().parameters.iter().enumerate() {
                let bytes = kept
                    .tensors
                    .iter()
                    .map(|(_, data)| data.as_bytes().len() as u64);
                assert_eq!(
                    training.optimizer.state_bytes(index),
                    bytes.sum::<u64>(),
                    "{name}"
                );
            }
        }
    }
}

/// A rule on slices and on tensors, over steps, with every kind of momentum.
fn both_forms_agree(rule: impl PerElement + 'static) {
    let parameter = Parameter {
        name: "weight".into(),
        shape: vec![40_000],
        group: Group {
            rate: 1.0,
            weight_decay: 0.1,
        },
    };
    let n = parameter.elements();
    let rule = Elements::new(rule, Bits::ThirtyTwo);
    let mut on_slices = rule.fresh(&parameter, &device());
    let mut on_tensors = on_slices.clone();
    for buffer in &mut on_tensors {
        assert!(matches!(buffer.kept, Kept::Slice(_)));
        *buffer = Buffer::tensor(buffer.name, &buffer.shape, &device());
    }
    let (mut a, mut b) = (tensor(numbers(1, n)), tensor(numbers(1, n)));
    for step in 1..6 {
        let at = At {
            rate: 0.01 * step as f64,
            weight_decay: 0.1,
            step,
            momentum: (step > 3).then_some(0.7),
            gradient_factor: 2.0,
        };
        let gradient = tensor(gradient(step, 0, n));
        a = rule.apply(&parameter, &at, a, gradient.clone(), &mut on_slices);
        b = rule.apply(&parameter, &at, b, gradient, &mut on_tensors);
    }
    for (a, b) in values(&a).iter().zip(values(&b)) {
        let close = (a - b).abs() <= 1e-6 * a.abs().max(1.0);
        assert!(close, "{rule:?}: slices {a}, tensors {b}");
    }
}

#[test]
fn slices_and_tensors_agree() {
    let arguments = |json: Json| json.as_object().cloned();
    let config = Config::default();
    both_forms_agree(AdamW::decoupled(&config));
    both_forms_agree(AdamW::coupled(&config));
    both_forms_agree(Lion::new(&config));
    for json in [
        json!({"momentum": 0.9, "dampening": 0.2}),
        json!({"momentum": 0.9, "nesterov": true}),
    ] {
        let arguments = arguments(json);
        let mut kwargs = Kwargs::new("optim_args", "sgd", arguments.as_ref());
        both_forms_agree(Sgd::new(&mut kwargs).unwrap());
    }
    for json in [
        json!({}),
        json!({"momentum": 0.9, "centered": true, "alpha": 0.8, "eps": 1e-4}),
    ] {
        let arguments = arguments(json);
        let mut kwargs = Kwargs::new("optim_args", "rmsprop", arguments.as_ref());
        both_forms_agree(RmsProp::new(&mut kwargs).unwrap());
    }
    let mut kwargs = Kwargs::new("optim_args", "adagrad", None);
    both_forms_agree(Adagrad::new(&mut kwargs).unwrap());
}

const SHAPES: &[(&str, &[usize])] = &[
    ("embed_tokens.weight", &[70, 60]),
    ("layers.0.q_proj.weight", &[65, 64]),
    ("layers.0.experts.weight", &[2, 5, 3]),
    ("layers.0.input_layernorm.weight", &[7]),
];

/// Every name of an optimizer, some with arguments that need more state.
fn every_optimizer() -> Vec<Config> {
    let plain = Name::NAMES.iter().map(|name| json!({"optimizer": name}));
    let more = [
        json!({"optimizer": "sgd", "optim_args": {"momentum": 0.9}}),
        json!({"optimizer": "rmsprop", "optim_args": {"momentum": 0.9, "centered": true}}),
        json!({"optimizer": "adafactor", "optim_args": {"beta1": 0.9}}),
    ];
    let with_rates = |mut keys: Json| {
        keys["learning_rate"] = json!(0.01);
        keys["weight_decay"] = json!(0.1);
        config(keys)
    };
    plain.chain(more).map(with_rates).collect()
}

fn bits(training: &Training) -> Vec<u32> {
    let all = training.values.iter().flat_map(values);
    all.map(f32::to_bits).collect()
}

#[test]
fn a_loaded_state_goes_on_to_the_bit() {
    for config in every_optimizer() {
        let mut whole = Training::new(&config, SHAPES);
        (0..6).for_each(|_| whole.step());
        let mut resumed = Training::new(&config, SHAPES);
        resumed.step = whole.step;
        resumed.values.clone_from(&whole.values);
        let state = whole.optimizer.state();
        assert_eq!(state.parameters.len(), SHAPES.len());
        resumed.optimizer.load_state(state, &device()).unwrap();
        for _ in 0..5 {
            whole.step();
            resumed.step();
        }
        assert_eq!(bits(&whole), bits(&resumed), "{}", config.optimizer);
        assert_eq!(whole.optimizer.state(), resumed.optimizer.state());
    }
}

/// Only parameters with a gradient have a state, and one without stays without.
#[test]
fn state_is_of_what_is_trained() {
    let config = config(json!({"optimizer": "adamw_8bit", "learning_rate": 0.1}));
    let mut training = Training::new(&config, SHAPES);
    let settings = StepSettings {
        learning_rate: 0.1,
        beta1: None,
        gradient_factor: 1.0,
    };
    let value = training.values[1].clone();
    let _ = training.optimizer.update(1, value.clone(), value, settings);
    let state = training.optimizer.state();
    assert_eq!(state.parameters.len(), 1);
    assert_eq!(state.parameters[0].name, "layers.0.q_proj.weight");
    assert_eq!(state.parameters[0].steps, 1);
    let tensors: Vec<_> = state.parameters[0]
        .tensors
        .iter()
        .map(|(name, data)| (name.as_str(), data.shape().to_vec(), data.as_bytes().len()))
        .collect();
    assert_eq!(
        tensors,
        [
            ("exp_avg", vec![65, 64], 4160),
            ("exp_avg.scale", vec![17], 68),
            ("exp_avg_sq", vec![65, 64], 4160),
            ("exp_avg_sq.scale", vec![17], 68),
        ]
    );
    let mut other = Training::new(&config, SHAPES);
    other
        .optimizer
        .load_state(state.clone(), &device())
        .unwrap();
    assert_eq!(other.optimizer.state(), state);
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let sgd = |json: Json| {
        let keys = json!({"optimizer": "sgd", "learning_rate": 0.1, "optim_args": json});
        Training::new(&config(keys), SHAPES)
    };
    let mut with = sgd(json!({"momentum": 0.9}));
    let mut without = sgd(json!({}));
    let mut adamw = Training::new(&config(json!({"learning_rate": 0.1})), SHAPES);
    with.step();
    without.step();
    adamw.step();
    let saved = with.optimizer.state();
    let refused = |training: &mut Training, state: OptimizerState| {
        let before = training.optimizer.state();
        let error = training.optimizer.load_state(state, &device()).unwrap_err();
        assert_eq!(training.optimizer.state(), before);
        error.to_string()
    };
    assert_eq!(
        refused(&mut adamw, saved.clone()),
        "the saved optimizer state is that of sgd, but the run uses adamw: set `optimizer` as it \
         was"
    );
    assert_eq!(
        refused(&mut without, saved.clone()),
        "the saved optimizer state of `embed_tokens.weight` has a tensor `momentum_buffer`, which \
         the optimizer does not keep: set `optimizer` and `optim_args` as they were"
    );
    let mut lacks = saved.clone();
    lacks.parameters[1].tensors.clear();
    assert_eq!(
        refused(&mut with, lacks),
        "the saved optimizer state of `layers.0.q_proj.weight` has nothing for \
         `momentum_buffer`, where [65, 64] of F32 is needed: set `optimizer` and `optim_args` as \
         they were"
    );
    let mut other = saved;
    other.parameters[0].name = "wte.weight".into();
    assert_eq!(
        refused(&mut with, other),
        "the saved optimizer state is of another model: this one has no `wte.weight`"
    );
}

#[test]
fn arguments_that_an_optimizer_does_not_take_are_errors() {
    for (keys, message) in [
        (
            json!({"optimizer": "sgd", "optim_args": {"momentun": 0.9}}),
            "optim_args: sgd does not take momentun; it takes momentum, dampening, nesterov",
        ),
        (
            json!({"optimizer": "adamw_torch", "optim_args": {"betas": [0.9, 0.9]}}),
            "optim_args: adamw_torch does not take betas; it takes nothing",
        ),
        (
            json!({"optimizer": "sgd", "optim_args": {"nesterov": true}}),
            "optim_args: nesterov needs a momentum, and no dampening",
        ),
        (
            json!({"optimizer": "muon", "optim_args": {"adjust_lr_fn": "spectral"}}),
            "optim_args: adjust_lr_fn: expected match_rms_adamw or original, found \"spectral\"",
        ),
        (
            json!({"optimizer": "adafactor", "optim_args": {"decay_rate": 0.8}}),
            "optim_args: decay_rate: expected a number of at most 0, found 0.8",
        ),
        (
            json!({"optimizer": "rmsprop", "optim_args": {"alpha": 1.5}}),
            "optim_args: alpha: expected a number below 1, found 1.5",
        ),
    ] {
        let error = build(&config(keys), &[]).err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some(message));
    }
}

/// A stack of matrices is treated as its matrices are.
#[test]
fn stacks_of_matrices() {
    for optimizer in ["muon", "adafactor"] {
        let config = config(json!({"optimizer": optimizer, "learning_rate": 0.01}));
        let settings = StepSettings {
            learning_rate: 0.01,
            beta1: None,
            gradient_factor: 1.0,
        };
        let (value, slope) = (numbers(1, 30), gradient(1, 0, 30));
        let of = |shape: &[usize], range: std::ops::Range<usize>| {
            let mut one = build(&config, &[info("layers.0.experts", shape)]).unwrap();
            let part = |all: &[f32]| tensor(all[range.clone()].to_vec());
            values(&one.update(0, part(&value), part(&slope), settings))
        };
        let stacked = of(&[2, 5, 3], 0..30);
        let apart = [of(&[5, 3], 0..15), of(&[5, 3], 15..30)].concat();
        // Adafactor clips by the norm of the whole stack.
        let tolerance = if optimizer == "muon" { 1e-6 } else { 1e-2 };
        for (a, b) in stacked.iter().zip(&apart) {
            assert!((a - b).abs() <= tolerance, "{optimizer}: {a} and {b}");
        }
    }
}

/// A factor with a step is a factor of the gradient, whatever the optimizer.
#[test]
fn every_optimizer_scales_its_gradients() {
    for name in Name::NAMES {
        let config = config(json!({"optimizer": name, "learning_rate": 0.01}));
        let info = info("layers.0.weight", &[64, 80]);
        let (value, slope) = (numbers(1, 5120), gradient(1, 0, 5120));
        let scaled = slope.iter().map(|g| g * 0.25).collect();
        let [factor, before] = [(slope, 0.25), (scaled, 1.0)].map(|(slope, gradient_factor)| {
            let settings = StepSettings {
                learning_rate: 0.01,
                beta1: None,
                gradient_factor,
            };
            let mut one = build(&config, std::slice::from_ref(&info)).unwrap();
            let value = one.update(0, tensor(value.clone()), tensor(slope), settings);
            // The first step of some goes by signs alone; the second by the state too.
            let settings = StepSettings {
                gradient_factor: 1.0,
                ..settings
            };
            values(&one.update(0, value, tensor(gradient(2, 0, 5120)), settings))
        });
        for (a, b) in factor.iter().zip(&before) {
            assert!((a - b).abs() <= 1e-6, "{name}: {a} and {b}");
        }
    }
}

/// Gradients that stop must not make the step of 8-bit Adam explode: its second
/// moment falls below the smallest code long before the first.
#[test]
fn eight_bit_adam_is_calm_when_gradients_stop() {
    let keys = json!({"optimizer": "adamw_8bit", "learning_rate": 0.01});
    let mut optimizer = build(&config(keys), &[info("weight", &[4096])]).unwrap();
    let mut value = tensor(vec![1.0; 4096]);
    for step in 0..40 {
        let mut slope = vec![1e-4; 4096];
        slope[0] = 1.0;
        if step > 0 {
            slope[1] = 0.0;
        }
        let settings = StepSettings {
            learning_rate: 0.01,
            beta1: None,
            gradient_factor: 1.0,
        };
        value = optimizer.update(0, value, tensor(slope), settings);
    }
    let value = values(&value);
    assert!((value[1] - 1.0).abs() < 0.2, "{}", value[1]);
}
