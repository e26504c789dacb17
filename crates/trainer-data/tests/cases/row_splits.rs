//! The account in rows: which of them are held back, which are left out, and what to
//! do where nothing is left.

use std::collections::HashSet;
use std::sync::Arc;

use seqprep::{Preferences, Sample};
use serde_json::{Value, json};
use trainer_config::{Config, ExcessLength};
use trainer_data::stream::{SampleStream, StreamOptions};
use trainer_data::{DropReason, PreferenceObjective, Samples, prepare_cached, prepare_preferences};

use crate::preferences::strategy;
use crate::support::{Lab, config};

/// The row that each sample is of, by its first letter.
fn letters(samples: &[Sample]) -> Vec<u32> {
    let letters = samples.iter().map(|sample| {
        let mut ids = sample.input_ids.iter();
        *ids.find(|id| (97..123).contains(*id)).unwrap()
    });
    letters.collect()
}

fn distinct(samples: &[Sample]) -> HashSet<u32> {
    letters(samples).into_iter().collect()
}

/// Eight documents of one letter, of several windows each.
fn documents(lab: &Lab, kind: &str) -> Config {
    let rows: Vec<Value> = (0..8)
        .map(|i| json!({"text": char::from(b'a' + i).to_string().repeat(20 + usize::from(i))}))
        .collect();
    let mut config = config(lab.rows(strategy(kind), &rows));
    config.sequence_len = 9;
    config
}

#[test]
fn the_split_takes_whole_rows() {
    let lab = Lab::new("</s>");
    for kind in ["completion", "pretrain"] {
        for shuffled in [false, true] {
            for (size, rows) in [(2.0, 2), (0.25, 2), (0.26, 3), (7.0, 7)] {
                let mut config = documents(&lab, kind);
                config.shuffle_merged_datasets = shuffled;
                config.val_set_size = size;
                let prepared = lab.prepare(&config).unwrap();
                let (train, eval) = (distinct(&prepared.train), distinct(&prepared.eval));
                assert_eq!((train.len(), eval.len()), (8 - rows, rows), "{kind} {size}");
                assert!(train.is_disjoint(&eval));
                assert_eq!(prepared.ledger.eval.rows, rows);
                assert_eq!(prepared.ledger.train.rows, 8 - rows);
                assert!(prepared.eval.len() > 2 * rows);
                if !shuffled {
                    // The last rows, in order.
                    let mut sorted = letters(&prepared.eval);
                    sorted.sort_unstable();
                    assert_eq!(letters(&prepared.eval), sorted);
                    assert!(eval.contains(&u32::from(b'h')));
                }
                // Both halves are found again.
                config.dataset_prepared_path =
                    Some(lab.path().join(format!("{kind}{shuffled}{size}")));
                for _ in 0..2 {
                    let (cached, _) = prepare_cached(&config, &lab.tokenizer()).unwrap();
                    let all = |samples: &Samples| -> Vec<Sample> {
                        samples
                            .iter()
                            .map(|sample| sample.unwrap().into_owned())
                            .collect()
                    };
                    assert_eq!(all(&cached.train), prepared.train);
                    assert_eq!(all(&cached.eval), prepared.eval);
                }
            }
        }
    }
    let mut config = documents(&lab, "completion");
    config.val_set_size = 8.0;
    assert_eq!(
        lab.prepare(&config).unwrap_err().to_string(),
        "`val_set_size: 8` of 8 rows leaves nothing to train on; choose a smaller part, or give `test_datasets`"
    );
}

#[test]
fn repeated_rows_are_on_one_side() {
    let lab = Lab::new("</s>");
    let mut config = documents(&lab, "completion");
    config.datasets[0].weight = Some(2.5);
    config.val_set_size = 3.0;
    config.shuffle_merged_datasets = true;
    let prepared = lab.prepare(&config).unwrap();
    assert!(distinct(&prepared.train).is_disjoint(&distinct(&prepared.eval)));
    assert_eq!(prepared.ledger.train.rows, 5);
    assert!(prepared.ledger.datasets[0].repeated > 0);
    assert_eq!(prepared.ledger.eval_in_train, 0);
}

#[test]
fn rows_that_the_data_holds_twice_are_counted() {
    let lab = Lab::new("</s>");
    let row = |text: &str| json!({"text": text});
    let rows = [row("a"), row("b"), row("c"), row("a")];
    let mut config = config(lab.rows(strategy("completion"), &rows));
    config.val_set_size = 2.0;
    let ledger = lab.prepare(&config).unwrap().ledger;
    assert_eq!(ledger.eval_in_train, 1);
    assert!(
        ledger.to_string().ends_with("warning: 1 of 2 samples of the evaluation data are trained on as well, since the data holds them more than once; `dataset_exact_deduplication: true` keeps one of each\n"),
        "{ledger}"
    );
    config.dataset_exact_deduplication = true;
    assert_eq!(lab.prepare(&config).unwrap().ledger.eval_in_train, 0);
    config.dataset_exact_deduplication = false;
    config.val_set_size = 0.0;
    config.test_datasets = Some(config.datasets.clone());
    assert_eq!(lab.prepare(&config).unwrap().ledger.eval_in_train, 4);
}

#[test]
fn preferences_are_split_by_rows() {
    let lab = Lab::new("</s>");
    let rows: Vec<Value> = (0..4)
        .map(|i| json!({"question": format!("q{i}"), "chosen": "a", "rejected": "b"}))
        .collect();
    let mut config = config(lab.rows(strategy("chatml.intel"), &rows));
    let prepare = |config: &Config| {
        prepare_preferences(config, &lab.tokenizer(), PreferenceObjective::Pairwise)
    };
    for size in [1.0, 0.25] {
        config.val_set_size = size;
        let prepared = prepare(&config).unwrap();
        let (Preferences::Pairs(train), Preferences::Pairs(eval)) =
            (&prepared.train, &prepared.eval)
        else {
            panic!("no pairs");
        };
        assert_eq!((train.len(), eval.len()), (3, 1));
        assert_eq!(prepared.ledger.eval.rows, 1);
    }
    config.val_set_size = 4.0;
    assert!(
        prepare(&config)
            .unwrap_err()
            .to_string()
            .starts_with("`val_set_size: 4` of 4 rows")
    );
}

/// The rows of a data set are those that are kept and those that are not.
#[test]
fn the_account_adds_up_in_rows() {
    let lab = Lab::new("</s>");
    let mut config = documents(&lab, "completion");
    config.min_sample_len = 9;
    config.excess_length_strategy = ExcessLength::Truncate;
    config.dataset_shard_num = Some(2);
    let ledger = lab.prepare(&config).unwrap().ledger;
    let set = &ledger.datasets[0];
    assert_eq!(set.rows, 8);
    assert_eq!(set.kept_rows, ledger.train.rows);
    assert!(set.kept_rows < 8);
    config.dataset_shard_num = None;
    let rows = [json!({"text": ""}), json!({"text": "abcdefghijklmnop"})];
    config.datasets = vec![lab.rows(strategy("completion"), &rows)];
    let ledger = lab.prepare(&config).unwrap().ledger;
    assert_eq!(
        (ledger.datasets[0].rows, ledger.datasets[0].kept_rows),
        (2, 1)
    );
    assert_eq!(ledger.train.rows, 1);
}

#[test]
fn advice_after_a_cut_speaks_of_the_length() {
    let lab = Lab::new("</s>");
    let long = "x".repeat(100);
    let expected = "all 3 rows of data set data.jsonl were dropped: 3 cut off before the trained part; the longest has ";
    let behind = " tokens, and the cut at `sequence_len` (now 40 tokens) takes away what would be trained: raise it, or leave such rows out with `excess_length_strategy: drop`";
    let messages = json!({"messages": [{"role": "user", "content": long}, {"role": "assistant", "content": "a"}]});
    let last_alone = [vec![-100; 99], vec![1]].concat();
    let cases = [
        ("alpaca", json!({"instruction": long, "output": "O"})),
        ("metharme", json!({"prompt": long, "generation": "O"})),
        ("chat_template", messages),
        (
            "input_output",
            json!({"segments": [{"text": long, "label": false}, {"text": "O", "label": true}]}),
        ),
        (
            "pretokenized",
            json!({"input_ids": vec![1; 100], "labels": last_alone}),
        ),
        (
            "pygmalion",
            json!({"conversations": [{"role": "human", "value": long}, {"role": "bot", "value": "a"}]}),
        ),
    ];
    for (name, row) in cases {
        let mut config = config(lab.rows(strategy(name), &vec![row; 3]));
        config.chat_template = Some("chatml".into());
        config.sequence_len = 40;
        config.excess_length_strategy = ExcessLength::Truncate;
        if name == "chat_template" {
            config.datasets[0].train_on_eos = Some(trainer_config::TrainOnEos::None);
        }
        let message = lab.message(&lab.prepare(&config).unwrap_err());
        assert!(
            message.starts_with(expected) && message.ends_with(behind),
            "{name}: {message}"
        );
        let options = StreamOptions::new(&config);
        let mut stream = SampleStream::start(&config, Arc::new(lab.tokenizer()), options).unwrap();
        assert_eq!(
            lab.message(&stream.next().unwrap().unwrap_err()),
            message,
            "{name}"
        );
    }
    // Where a prompt leaves no room, no cut helps.
    let pair = json!({"question": long, "chosen": "a", "rejected": "b"});
    let mut config = config(lab.rows(strategy("chatml.intel"), &vec![pair; 3]));
    config.sequence_len = 40;
    config.excess_length_strategy = ExcessLength::Truncate;
    let error = prepare_preferences(&config, &lab.tokenizer(), PreferenceObjective::Pairwise);
    let message = lab.message(&error.unwrap_err());
    assert!(
        message.contains(": 3 too long; the longest has ")
            && message.ends_with(
                "and the cut at `sequence_len` (now 40) leaves no room for an answer: raise it"
            ),
        "{message}"
    );
}

#[test]
fn rows_that_are_not_all_cut_are_counted() {
    let lab = Lab::new("</s>");
    let row = |text: &str| json!({"instruction": text, "output": "O"});
    let rows = [row(&"x".repeat(500)), row("a"), row("b")];
    let mut config = config(lab.rows(strategy("alpaca"), &rows));
    config.sequence_len = 300;
    config.excess_length_strategy = ExcessLength::Truncate;
    let ledger = lab.prepare(&config).unwrap().ledger;
    assert_eq!(ledger.datasets[0].dropped[&DropReason::CutOff].samples, 1);
}
