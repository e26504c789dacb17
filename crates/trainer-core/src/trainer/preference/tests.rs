//! The way from samples to loss and gradient, through a small model: batches may be
//! cut and joined as one likes, and the reference may come from anywhere.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use seqprep::{KtoSample, PreferencePair, Preferences, SplitMix64};
use serde_json::{Value, json};
use trainer_config::{Config, DpoLossType, Rl};
use trainer_model::{
    CausalLm, ModelConfig, Quantization, SaveDtype, load_causal_lm, map_values, save_model,
};

use super::kto::{Kto, batches as judged_batches};
use super::pairs::{Pairs, batches as pair_batches};
use super::{Ids, Split, held_back, largest_batch};
use crate::adapter::Adapter;
use crate::batches::BatchSource;
use crate::error::Result;
use crate::history::{LogRow, Observer, Silent};
use crate::preference_batches::{JudgedBatches, PairBatches};
use crate::trainer::objective::{Accumulated, Objective, StepSeed};
use crate::trainer::weights::Weights;

mod edges;

const VOCABULARY: u32 = 61;
const SEED: StepSeed = StepSeed { seed: 0, step: 0 };

fn device() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    #[allow(deprecated)] // Burn deprecates the backend; it stays available here by name.
    return Device::ndarray();
}

fn model(seed: u64) -> CausalLm {
    let Value::Object(raw) = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 24,
        "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "initializer_range": 0.3,
    }) else {
        unreachable!("an object")
    };
    let config = ModelConfig::from_json(raw, "config.json".into()).unwrap();
    let device = device().autodiff();
    // Not drawn by the device, whose generator all tests share.
    map_values(CausalLm::new(&config, &device), |index, value| {
        let n = value.dims()[0];
        let mut draws = SplitMix64::new(seed * 1000 + index as u64);
        let mut draw = || draws.up_to(1 << 24) as f32 / (1_u64 << 24) as f32 - 0.5;
        // Norms are around one.
        let (scale, shift) = if n == 24 { (0.2, 1.0) } else { (0.5, 0.0) };
        let values: Vec<f32> = (0..n).map(|_| draw() * scale + shift).collect();
        Tensor::from_data(TensorData::new(values, [n]), &value.device())
    })
}

fn config(rl: Rl) -> Config {
    let mut config = Config {
        micro_batch_size: 2,
        sequence_len: 24,
        shuffle_merged_datasets: false,
        curriculum_sampling: true,
        dataset_prepared_path: None,
        ..Config::default()
    };
    config.preference.rl = Some(rl);
    config
}

/// Some tokens that differ from call to call.
fn ids(seed: usize, count: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((seed * 37 + i * 11 + i * i * seed) % VOCABULARY as usize) as u32)
        .collect()
}

/// Pairs whose prompts and answers have all kinds of lengths.
fn pairs() -> Vec<PreferencePair> {
    (1..=4)
        .map(|i| PreferencePair {
            prompt: ids(i, 1 + i % 3),
            chosen: ids(i + 10, 1 + (3 * i) % 7),
            rejected: ids(i + 20, 2 + (5 * i) % 6),
            margin: None,
        })
        .collect()
}

fn judged() -> Vec<KtoSample> {
    (1..=4)
        .map(|i| KtoSample {
            prompt: ids(i, 1 + i % 3),
            completion: ids(i + 10, 1 + (3 * i) % 7),
            desirable: i % 2 == 0,
        })
        .collect()
}

/// All batches of the first epoch.
fn window<S: BatchSource>(batches: &S) -> Vec<S::Batch> {
    let plan = batches.plan(0).unwrap();
    plan.batches()
        .map(|rows| batches.collate(&rows).unwrap())
        .collect()
}

fn prepare<O: Objective>(
    mut objective: O,
    batches: &dyn BatchSource<Batch = O::Batch>,
    start: &O::Model,
) -> O {
    objective
        .prepare(&start.valid(), Some(batches), &mut Silent)
        .unwrap();
    objective
}

const IDS: Ids = Ids {
    vocab_size: VOCABULARY as usize,
    pad: 0,
    balances: false,
};

/// The objective, and the batches to train on.
fn pair_run(
    config: &Config,
    rl: Rl,
    train: Vec<PreferencePair>,
    eval: Vec<PreferencePair>,
    second: Option<CausalLm>,
) -> Result<(Pairs, PairBatches)> {
    let train = pair_batches(config, train, Split::Train, IDS)?;
    let eval = held_back(eval, |eval| pair_batches(config, eval, Split::Eval, IDS))?;
    let objective = Pairs::new(config, rl, eval, second, Weights::new(config, None));
    Ok((objective, train))
}

fn kto_run(
    config: &Config,
    train: Vec<KtoSample>,
    eval: Vec<KtoSample>,
    second: Option<CausalLm>,
) -> Result<(Kto, JudgedBatches)> {
    let train = judged_batches(config, train, Split::Train, IDS)?;
    let eval = held_back(eval, |eval| judged_batches(config, eval, Split::Eval, IDS))?;
    Ok((
        Kto::new(config, eval, second, Weights::new(config, None)),
        train,
    ))
}

/// One window over all pairs; the reference is another model.
fn pair_step(config: &Config, samples: Vec<PreferencePair>) -> Accumulated {
    let (objective, batches) = pair_run(
        config,
        config.preference.rl.unwrap(),
        samples,
        Vec::new(),
        None,
    )
    .unwrap();
    let mut objective = prepare(objective, &batches, &model(1));
    objective
        .accumulate(&model(2), &window(&batches), SEED)
        .unwrap()
}

fn kto_step(config: &Config, samples: Vec<KtoSample>) -> Accumulated {
    let (objective, batches) = kto_run(config, samples, Vec::new(), None).unwrap();
    let mut objective = prepare(objective, &batches, &model(1));
    objective
        .accumulate(&model(2), &window(&batches), SEED)
        .unwrap()
}

fn numbers(sum: &Accumulated) -> Vec<f64> {
    let gradients = sum.gradients.flat.iter().flatten();
    gradients
        .flat_map(|g| g.clone().into_data().iter::<f64>().collect::<Vec<_>>())
        .collect()
}

/// Losses and gradients agree, relative to their size.
fn assert_same(a: &Accumulated, b: &Accumulated, tolerance: f64) {
    let apart = (a.loss - b.loss).abs();
    assert!(
        apart <= tolerance * b.loss.abs().max(1.0),
        "loss: {} is not {}",
        a.loss,
        b.loss
    );
    let (left, right) = (numbers(a), numbers(b));
    assert_eq!(left.len(), right.len());
    assert!(!left.is_empty());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let apart = norm(&mut left.iter().zip(&right).map(|(a, b)| a - b));
    let size = norm(&mut right.iter().copied());
    assert!(
        apart <= tolerance * size,
        "gradients {apart} apart, of {size}"
    );
}

fn metrics(sum: &Accumulated) -> LogRow {
    let mut row = LogRow::new();
    sum.metrics.write(&mut row);
    row
}

/// What differs between the methods, with settings that reach every branch.
fn methods() -> Vec<(&'static str, Config)> {
    let mut all = Vec::new();
    let mut with = |name, rl, change: &dyn Fn(&mut Config)| {
        let mut config = config(rl);
        change(&mut config);
        all.push((name, config));
    };
    with("dpo", Rl::Dpo, &|_| {});
    with("ipo", Rl::Ipo, &|_| {});
    with("ld", Rl::Dpo, &|c| c.preference.dpo_ld_alpha = Some(0.3));
    with("norm", Rl::Dpo, &|c| {
        c.preference.dpo_loss_type = Some(vec![DpoLossType::SigmoidNorm, DpoLossType::ApoDown]);
        c.preference.dpo_loss_weights = Some(vec![0.4, 0.6]);
    });
    with("rpo", Rl::Dpo, &|c| c.preference.rpo_alpha = Some(0.5));
    with("orpo", Rl::Orpo, &|_| {});
    with("simpo", Rl::Simpo, &|c| c.preference.rl_beta = Some(2.0));
    with("cpo", Rl::Cpo, &|_| {});
    all
}

/// The gradient is that of the loss: a small step against it lowers the loss by its
/// squared length.
#[test]
fn gradients_go_through_the_model() {
    for (name, config) in methods() {
        let (objective, batches) = pair_run(
            &config,
            config.preference.rl.unwrap(),
            pairs(),
            Vec::new(),
            None,
        )
        .unwrap();
        let mut objective = prepare(objective, &batches, &model(1));
        let window = window(&batches);
        let here = objective.accumulate(&model(2), &window, SEED).unwrap();
        let squared: f64 = numbers(&here).iter().map(|g| g * g).sum();
        let step = 2e-3 / squared.sqrt();
        let mut loss_at = |step: f64| {
            let moved = map_values(model(2), |index, value| match &here.gradients.flat[index] {
                Some(gradient) => value - gradient.clone() * step,
                None => value,
            });
            objective.accumulate(&moved, &window, SEED).unwrap().loss
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        assert!(
            (slope + squared).abs() < 0.02 * squared,
            "{name}: slope {slope}, squared gradient {squared}"
        );
    }
}

#[test]
fn packed_and_joined_batches_give_the_same() {
    for (name, config) in methods() {
        let mut config = config;
        // One batch, so that means over the tokens of a batch are the same.
        config.micro_batch_size = 4;
        let padded = pair_step(&config, pairs());
        let joined = Config {
            batch_flattening: trainer_config::AutoBool::Bool(true),
            ..config.clone()
        };
        assert_same(&pair_step(&joined, pairs()), &padded, 1e-5);
        for (micro_batch_size, pad) in [(4, None), (4, Some(true))] {
            let packed = Config {
                sample_packing: true,
                pad_to_sequence_len: pad,
                micro_batch_size,
                ..config.clone()
            };
            let packed = pair_step(&packed, pairs());
            assert_same(&packed, &padded, 1e-5);
            let (a, b) = (metrics(&packed), metrics(&padded));
            assert!(a.keys().eq(b.keys()), "{name}");
            for (name, value) in &a {
                let (a, b) = (value.as_f64().unwrap(), b[name].as_f64().unwrap());
                assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{name}: {a} {b}");
            }
        }
    }
    // The estimate of KTO is one of a batch, whatever its rows.
    let mut config = config(Rl::Kto);
    config.micro_batch_size = 4;
    let padded = kto_step(&config, judged());
    for (sample_packing, flat) in [(true, false), (false, true)] {
        let other = Config {
            sample_packing,
            batch_flattening: trainer_config::AutoBool::Bool(flat),
            ..config.clone()
        };
        assert_same(&kto_step(&other, judged()), &padded, 1e-5);
    }
}

/// The model below an adapter, whether asked once before training or batch by batch,
/// is the model as it was.
#[test]
fn a_model_without_its_adapter_is_the_reference() {
    let mut config = config(Rl::Dpo);
    config.adapters.adapter = Some(trainer_config::AdapterKind::Lora);
    config.adapters.lora_target_linear = true;
    config.adapters.lora_r = Some(4);
    let start = model(1);
    let (adapted, adapter) = Adapter::attach(&config, start.clone()).unwrap();
    let step_of = |policy: &CausalLm, ahead: bool, second: Option<CausalLm>| {
        let mut config = config.clone();
        config.preference.precompute_ref_log_probs = Some(ahead);
        let train = pair_batches(&config, pairs(), Split::Train, IDS).unwrap();
        let weights = Weights::new(&config, adapter.clone());
        let objective = Pairs::new(&config, Rl::Dpo, None, second, weights);
        let mut objective = prepare(objective, &train, &adapted);
        objective.accumulate(policy, &window(&train), SEED).unwrap()
    };
    // Far from the start, where no factor is zero.
    let learnt = step_of(&adapted, true, None).gradients.flat;
    let trained = map_values(adapted.clone(), |index, value| match &learnt[index] {
        Some(_) => {
            let n = value.dims()[0];
            let moved = (0..n).map(|i| ((index * 131 + i) as f32 * 0.61).sin() * 0.2);
            let moved = TensorData::new(moved.collect::<Vec<f32>>(), [n]);
            Tensor::from_data(moved, &value.device())
        }
        None => value,
    });
    let step = |ahead, second| step_of(&trained, ahead, second);
    let second = step(false, Some(start.valid()));
    assert!((second.loss - std::f64::consts::LN_2).abs() > 1e-2);
    assert_same(&step(true, None), &second, 1e-5);
    assert_same(&step(false, None), &second, 1e-5);
}

#[test]
fn accumulation_changes_nothing() {
    for (name, config) in methods() {
        // These take means over the tokens of a batch, as TRL does.
        if ["rpo", "orpo", "cpo"].contains(&name) {
            continue;
        }
        let at_once = pair_step(
            &Config {
                micro_batch_size: 4,
                ..config.clone()
            },
            pairs(),
        );
        for micro_batch_size in [1, 2, 3] {
            let config = Config {
                micro_batch_size,
                ..config.clone()
            };
            assert_same(&pair_step(&config, pairs()), &at_once, 1e-6);
        }
    }
}

#[test]
fn a_second_model_is_no_other_reference() {
    let config = config(Rl::Dpo);
    let ahead = pair_step(&config, pairs());
    let (mut objective, batches) =
        pair_run(&config, Rl::Dpo, pairs(), pairs(), Some(model(1).valid())).unwrap();
    let beside = objective
        .accumulate(&model(2), &window(&batches), SEED)
        .unwrap();
    assert_same(&beside, &ahead, 1e-6);

    let config = self::config(Rl::Kto);
    let ahead = kto_step(&config, judged());
    let second = Some(model(1).valid());
    let (mut objective, batches) = kto_run(&config, judged(), judged(), second).unwrap();
    let beside = objective
        .accumulate(&model(2), &window(&batches), SEED)
        .unwrap();
    assert_same(&beside, &ahead, 1e-6);
}

/// Counts the batches whose reference is computed.
#[derive(Default)]
struct Count(usize);

impl Observer for Count {
    fn preparing(&mut self, _what: &str, _done: usize, _total: usize) {
        self.0 += 1;
    }
}

#[test]
fn the_reference_is_kept_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(Rl::Dpo);
    config.dataset_prepared_path = Some(folder.path().to_path_buf());
    let computed = |config: &Config, seed| {
        let (mut objective, batches) =
            pair_run(config, Rl::Dpo, pairs(), Vec::new(), None).unwrap();
        let mut count = Count::default();
        let start = model(seed).valid();
        objective
            .prepare(&start, Some(&batches), &mut count)
            .unwrap();
        let sum = objective
            .accumulate(&model(2), &window(&batches), SEED)
            .unwrap();
        (count.0, sum)
    };
    let (first, sum) = computed(&config, 1);
    assert_eq!(first, 2);
    let (again, found) = computed(&config, 1);
    assert_eq!(again, 0);
    assert_same(&found, &sum, 0.0);
    // Another model, or other weights of tokens, have other values.
    assert_eq!(computed(&config, 3).0, 2);
    let mut desensitized = config.clone();
    desensitized.preference.dpo_ld_alpha = Some(0.5);
    assert_eq!(computed(&desensitized, 1).0, 2);
    // What is damaged is computed anew.
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let (damaged, sum_again) = computed(&config, 1);
    assert_eq!(damaged, 2);
    assert_same(&sum_again, &sum, 0.0);
}

/// What the estimate of memory takes for the largest batch is what a step sees.
#[test]
fn the_largest_batch_is_that_of_a_step() {
    let mut config = config(Rl::Dpo);
    let largest = |config: &Config| {
        largest_batch(config, Preferences::Pairs(pairs()), &model(1).into()).unwrap()
    };
    for shared in [true, false] {
        config.preference.share_prompts = Some(shared);
        let train = pair_batches(&config, pairs(), Split::Train, IDS).unwrap();
        let plan = train.plan(0).unwrap();
        let seen = plan.batches().map(|rows| train.collate(&rows).unwrap());
        let slots = seen.map(|batch| batch.tokens.slots()).max().unwrap();
        assert_eq!(largest(&config).slots, slots);
        let padded = Config {
            pad_to_sequence_len: Some(true),
            ..config.clone()
        };
        // Two pairs of two answers in 24 tokens each.
        assert_eq!(largest(&padded).slots, 96);
    }
    // Prompts are trained on too.
    let tuned = largest(&self::config(Rl::Orpo)).targets;
    assert!(tuned > largest(&self::config(Rl::Simpo)).targets);
    let unfit = Preferences::Kto(judged());
    assert!(largest_batch(&config, unfit, &model(1).into()).is_err());
}

/// Weights in few bits are no parameters, but the reference is theirs all the same.
#[test]
fn the_reference_of_other_weights_in_few_bits_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("model");
    save_model(&model(1), &saved, SaveDtype::F32).unwrap();
    let mut config = config(Rl::Dpo);
    config.dataset_prepared_path = Some(folder.path().join("prepared"));
    let computed = |quantization| {
        let mut shape = ModelConfig::from_folder(&saved, None).unwrap();
        shape.quantization = Some(quantization);
        let model = load_causal_lm(&saved, &shape, &device()).unwrap();
        let (mut objective, batches) =
            pair_run(&config, Rl::Dpo, pairs(), Vec::new(), None).unwrap();
        let mut count = Count::default();
        objective
            .prepare(&model, Some(&batches), &mut count)
            .unwrap();
        count.0
    };
    assert_eq!(computed(Quantization::Nf4), 2);
    assert_eq!(computed(Quantization::Int8), 2);
    assert_eq!(computed(Quantization::Nf4), 0);
}

#[test]
fn training_starts_where_the_reference_is() {
    let config = config(Rl::Dpo);
    let (objective, batches) = pair_run(&config, Rl::Dpo, pairs(), pairs(), None).unwrap();
    let mut objective = prepare(objective, &batches, &model(2));
    let sum = objective
        .accumulate(&model(2), &window(&batches), SEED)
        .unwrap();
    assert!((sum.loss - std::f64::consts::LN_2).abs() < 1e-6);
    let row = objective.evaluate(&model(2).valid()).unwrap();
    assert!((row["eval_loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6);
    for name in ["eval_rewards/chosen", "eval_rewards/margins"] {
        assert!(row[name].as_f64().unwrap().abs() < 1e-5, "{name}");
    }
}

#[test]
fn weighted_pairs_count_as_the_model_expects_them() {
    let plain = config(Rl::Dpo);
    let mut weighted = plain.clone();
    weighted.preference.dpo_use_weighting = true;
    let (plain, weighted) = (pair_step(&plain, pairs()), pair_step(&weighted, pairs()));
    // The answers are random: the model expects none of them.
    assert!(weighted.loss > 0.0 && weighted.loss < plain.loss);
}
