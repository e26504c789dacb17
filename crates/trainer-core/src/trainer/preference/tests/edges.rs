//! Prompts that answers share, and pairs that are hardly any.

use trainer_model::{RewardModel, RewardTask};

use super::super::heads::Rewards;
use super::*;

fn reward_model() -> RewardModel {
    let mut config = model(1).config().clone();
    config.num_labels = 1;
    RewardModel::new(&config, RewardTask::Sequence, &device().autodiff())
}

/// In every layout, the results are those of two documents a pair.
#[test]
fn shared_prompts_change_nothing() {
    let layouts: [fn(&mut Config); 4] = [
        |_| {},
        |c| c.pad_to_sequence_len = Some(true),
        |c| c.sample_packing = true,
        |c| c.batch_flattening = trainer_config::AutoBool::Bool(true),
    ];
    let mut samples = pairs();
    // One that has no prompt to share.
    samples[2].prompt.clear();
    for (name, config) in methods() {
        for layout in layouts {
            let with = |share| {
                let mut config = config.clone();
                layout(&mut config);
                // One batch, so that means over the tokens of a batch are the same.
                config.micro_batch_size = 4;
                config.preference.share_prompts = Some(share);
                pair_step(&config, samples.clone())
            };
            let (shared, apart) = (with(true), with(false));
            assert_same(&shared, &apart, 1e-5);
            assert_eq!(shared.tokens, apart.tokens, "{name}");
            assert_eq!(shared.trained_tokens, apart.trained_tokens, "{name}");
            let (a, b) = (metrics(&shared), metrics(&apart));
            for (key, value) in &a {
                let (a, b) = (value.as_f64().unwrap(), b[key].as_f64().unwrap());
                assert!(
                    (a - b).abs() < 1e-5 * b.abs().max(1.0),
                    "{name}: {key} {a} {b}"
                );
            }
        }
    }
    let config = config(Rl::Dpo);
    let batches = pair_batches(&config, samples.clone(), Split::Train, IDS).unwrap();
    let computed: usize = window(&batches)
        .iter()
        .map(|batch| batch.tokens.real_tokens())
        .sum();
    let all: usize = samples.iter().map(PreferencePair::tokens).sum();
    let prompts: usize = samples.iter().map(|pair| pair.prompt.len()).sum();
    assert_eq!(computed, all - prompts);
}

/// A loss over all tokens, that which balances experts, counts a prompt as often as it
/// stands there.
#[test]
fn prompts_are_not_shared_where_their_number_counts() {
    let balanced = Ids {
        balances: true,
        ..IDS
    };
    let mut config = config(Rl::Dpo);
    let batches = pair_batches(&config, pairs(), Split::Train, balanced).unwrap();
    assert!(window(&batches).iter().all(|batch| batch.forks.is_empty()));
    config.preference.share_prompts = Some(true);
    let error = pair_batches(&config, pairs(), Split::Train, balanced);
    assert_eq!(
        error.err().unwrap().to_string(),
        "share_prompts: true does not go with the load-balancing loss of this model's experts, \
         which counts tokens: remove the key, or set output_router_logits: false under \
         model_config"
    );
}

/// Rewards of prompts that are shared are those of two documents.
#[test]
fn shared_prompts_change_no_reward() {
    let head = reward_model();
    let step = |share, packed| {
        let mut config = Config {
            micro_batch_size: 4,
            sample_packing: packed,
            ..config(Rl::Dpo)
        };
        config.preference.rl = None;
        config.preference.reward_model = true;
        config.preference.share_prompts = Some(share);
        let train = pair_batches(&config, pairs(), Split::Train, IDS).unwrap();
        let mut objective = Rewards::new(&config, None, Weights::new(&config, None));
        objective.accumulate(&head, &window(&train), SEED).unwrap()
    };
    let apart = step(false, false);
    for (share, packed) in [(true, false), (true, true), (false, true)] {
        assert_same(&step(share, packed), &apart, 1e-5);
    }
}

/// Margins of the wrong sign ask for a worse answer that wins by so much: the loss is
/// defined, and goes on to be lowered by better ones.
#[test]
fn margins_move_the_mark() {
    let head = reward_model();
    let reward = |margin: Option<f32>| {
        let mut config = Config {
            micro_batch_size: 4,
            ..config(Rl::Dpo)
        };
        config.preference.rl = None;
        config.preference.reward_model = true;
        let mut samples = pairs();
        for sample in &mut samples {
            sample.margin = margin;
        }
        let train = pair_batches(&config, samples, Split::Train, IDS).unwrap();
        let mut objective = Rewards::new(&config, None, Weights::new(&config, None));
        objective.accumulate(&head, &window(&train), SEED).unwrap()
    };
    let losses = [Some(-2.0), Some(0.0), None, Some(2.0)].map(|margin| reward(margin).loss);
    assert!(losses[0] < losses[1] && losses[1] == losses[2] && losses[2] < losses[3]);
    assert!(losses.iter().all(|loss| loss.is_finite()));
}

/// An empty answer has no log-probability to learn from, and changes no other pair.
#[test]
fn empty_answers() {
    for (name, config) in methods() {
        for share in [true, false] {
            let mut config = config.clone();
            config.preference.share_prompts = Some(share);
            for empty in [true, false] {
                let mut samples = pairs();
                let pair = &mut samples[1];
                let answer = if empty {
                    &mut pair.chosen
                } else {
                    &mut pair.rejected
                };
                answer.clear();
                let sum = pair_step(&config, samples);
                assert!(sum.loss.is_finite(), "{name}");
                assert!(numbers(&sum).iter().all(|g| g.is_finite()), "{name}");
            }
        }
    }
}

#[test]
fn equal_answers_give_no_gradient() {
    let mut same = pairs();
    for pair in &mut same {
        pair.rejected = pair.chosen.clone();
    }
    for rl in [Rl::Dpo, Rl::Ipo, Rl::Simpo] {
        let sum = pair_step(&config(rl), same.clone());
        assert!(sum.loss.is_finite());
        let largest = numbers(&sum).iter().fold(0.0_f64, |m, g| m.max(g.abs()));
        assert!(largest < 1e-5, "{rl}: {largest}");
        assert_eq!(metrics(&sum)["rewards/accuracies"], json!(0.0));
    }
}

#[test]
fn one_class_and_one_answer() {
    // Answers of one class: the other has no numbers, and the loss is defined.
    for desirable in [true, false] {
        let mut samples = judged();
        for sample in &mut samples {
            sample.desirable = desirable;
        }
        let sum = kto_step(&config(Rl::Kto), samples);
        assert!(sum.loss.is_finite());
        assert!(numbers(&sum).iter().all(|g| g.is_finite()));
        let row = metrics(&sum);
        assert_eq!(row.contains_key("rewards/chosen"), desirable);
        assert_eq!(row.contains_key("rewards/rejected"), !desirable);
        assert!(!row.contains_key("rewards/margins"));
    }
    // With one row in a batch, the answer of the batch before is the other answer.
    let mut alone = config(Rl::Kto);
    alone.micro_batch_size = 1;
    assert!(kto_step(&alone, judged()).loss.is_finite());
    let one = vec![judged()[0].clone()];
    let error = kto_run(&alone, one, Vec::new(), None);
    assert_eq!(
        error.err().unwrap().to_string(),
        "the training data has one row, but KTO compares answers with answers to other prompts: \
         it needs two rows or more"
    );
}

#[test]
fn foreign_tokens_are_refused() {
    let mut samples = pairs();
    samples[2].rejected[0] = VOCABULARY;
    let config = config(Rl::Dpo);
    let result = pair_run(&config, Rl::Dpo, samples, Vec::new(), None);
    let message = result.err().unwrap().to_string();
    assert!(
        message.starts_with("sample 2 of the training data has token id 61"),
        "{message}"
    );
}

/// A weight of zero leaves a class out altogether.
#[test]
fn zero_means_zero() {
    let mut config = config(Rl::Kto);
    config.preference.kto_desirable_weight = 0.0;
    config.preference.kto_undesirable_weight = 0.0;
    let sum = kto_step(&config, judged());
    assert_eq!(sum.loss, 0.0);
    assert!(numbers(&sum).iter().all(|g| *g == 0.0));
}

/// A model of which a prompt is all there is in front, and an answer of one token.
#[test]
fn shortest_pairs() {
    let pair = PreferencePair {
        prompt: vec![3],
        chosen: vec![4],
        rejected: vec![5],
        margin: None,
    };
    for (name, config) in methods() {
        let sum = pair_step(&config, vec![pair.clone()]);
        assert!(sum.loss.is_finite(), "{name}");
        assert_eq!(sum.trained_tokens, 2, "{name}");
        assert_eq!(sum.tokens, 4, "{name}");
    }
    // Without a prompt nothing predicts the first token.
    let bare = PreferencePair {
        prompt: Vec::new(),
        chosen: vec![4],
        rejected: vec![5, 6],
        margin: None,
    };
    for (name, config) in methods() {
        let sum = pair_step(&config, vec![bare.clone()]);
        assert!(sum.loss.is_finite(), "{name}");
        assert_eq!(sum.trained_tokens, 1, "{name}");
    }
}
