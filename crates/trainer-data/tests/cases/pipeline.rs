//! Lengths, order, splits, the ledger and the export.

use proptest::prelude::*;
use serde_json::{Value, json};
use trainer_config::{Config, Dataset, ExcessLength, PromptStrategy};
use trainer_data::{Ledger, export_jsonl};

use crate::support::{Lab, config};

/// One row a length, tokens 1, 2, 3, ...
fn rows(lengths: &[usize]) -> Vec<Value> {
    lengths
        .iter()
        .map(|length| {
            let ids: Vec<usize> = (1..=*length).collect();
            json!({"input_ids": ids, "labels": ids})
        })
        .collect()
}

fn lengths(config: &Config, lab: &Lab) -> Vec<usize> {
    let prepared = lab.prepare(config).unwrap();
    prepared
        .train
        .iter()
        .map(|sample| sample.input_ids.len())
        .collect()
}

#[test]
fn the_length_rule() {
    let lab = Lab::new("</s>");
    let mut config = config(lab.rows(PromptStrategy::Pretokenized, &rows(&[3, 5, 11, 2, 1, 10])));
    config.sequence_len = 10;
    assert_eq!(lengths(&config, &lab), [3, 5, 2, 10]);
    config.min_sample_len = 3;
    assert_eq!(lengths(&config, &lab), [3, 5, 10]);
    config.excess_length_strategy = ExcessLength::Truncate;
    assert_eq!(lengths(&config, &lab), [3, 5, 10, 10]);
    let account = &lab.prepare(&config).unwrap().ledger.datasets[0];
    assert_eq!(
        (account.truncated.samples, account.truncated.tokens),
        (1, 1)
    );
    config.excess_length_strategy = ExcessLength::Raise;
    assert_eq!(
        lab.message(&lab.prepare(&config).unwrap_err()),
        "data.jsonl, line 3: 11 tokens are more than the limit of 10; raise `sequence_len`, or set `excess_length_strategy` to drop or truncate"
    );
}

#[test]
fn the_last_rows_are_kept_for_evaluation() {
    let lab = Lab::new("</s>");
    let all: Vec<usize> = (2..=41).collect();
    let mut config = config(lab.rows(PromptStrategy::Pretokenized, &rows(&all)));
    for (size, kept) in [(0.0, 0), (0.05, 2), (0.06, 3), (7.0, 7)] {
        config.val_set_size = size;
        let prepared = lab.prepare(&config).unwrap();
        let eval: Vec<usize> = prepared.eval.iter().map(|s| s.input_ids.len()).collect();
        assert_eq!(eval, all[all.len() - kept..]);
        assert_eq!(prepared.train.len(), all.len() - kept);
        assert_eq!(prepared.ledger.eval.samples, kept);
    }
    config.val_set_size = 40.0;
    assert_eq!(
        lab.prepare(&config).unwrap_err().to_string(),
        "`val_set_size: 40` of 40 rows leaves nothing to train on; choose a smaller part, or give `test_datasets`"
    );
}

#[test]
fn test_data_sets_have_their_own_limit_and_order() {
    let lab = Lab::new("</s>");
    let mut config = config(lab.rows(PromptStrategy::Pretokenized, &rows(&[2, 3, 9])));
    config.sequence_len = 4;
    config.eval_sequence_len = Some(9);
    config.test_datasets = Some(config.datasets.clone());
    config.shuffle_merged_datasets = true;
    let prepared = lab.prepare(&config).unwrap();
    assert_eq!(prepared.train.len(), 2);
    let eval: Vec<usize> = prepared.eval.iter().map(|s| s.input_ids.len()).collect();
    assert_eq!(eval, [2, 3, 9]);
    assert!(prepared.ledger.datasets[1].test);
}

#[test]
fn the_seed_decides_the_order() {
    let lab = Lab::new("</s>");
    let all: Vec<usize> = (2..=60).collect();
    let mut config = config(lab.rows(PromptStrategy::Pretokenized, &rows(&all)));
    config.shuffle_merged_datasets = true;
    let first = lengths(&config, &lab);
    assert_eq!(first, lengths(&config, &lab));
    assert_ne!(first, all);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, all);
    config.seed = 43;
    assert_ne!(first, lengths(&config, &lab));
    config.curriculum_sampling = true;
    assert_eq!(lengths(&config, &lab), all);
}

#[test]
fn rows_keep_their_order_across_chunks_and_data_sets() {
    let lab = Lab::new("</s>");
    let ids: Vec<Value> = (0..5000)
        .map(|i| [i / 200, i % 200])
        .map(|ids| json!({"input_ids": ids, "labels": ids}))
        .collect();
    let dataset = lab.rows(PromptStrategy::Pretokenized, &ids);
    let mut config = config(dataset.clone());
    config.datasets.push(dataset);
    let prepared = lab.prepare(&config).unwrap();
    let numbers: Vec<u32> = prepared
        .train
        .iter()
        .map(|sample| sample.input_ids[0] * 200 + sample.input_ids[1])
        .collect();
    let expected: Vec<u32> = (0..5000).chain(0..5000).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn the_ledger_as_a_table() {
    let lab = Lab::new("</s>");
    let mut config = config(lab.rows(
        PromptStrategy::Completion,
        &[
            json!({"text": "abcdefgh"}),
            json!({"text": ""}),
            json!({"text": "abc"}),
        ],
    ));
    config.sequence_len = 5;
    config.val_set_size = 1.0;
    let ledger = lab.prepare(&config).unwrap().ledger;
    assert_eq!(
        ledger
            .to_string()
            .replace(&format!("{}/", lab.path().display()), "")
            .replace(&" ".repeat(lab.path().display().to_string().len() + 1), ""),
        "\
data set    type        rows  samples  kept  tokens  trained
data.jsonl  completion     3        4     3      15       15
data.jsonl: 1 rows split into 2 samples
data.jsonl: 1 dropped, empty (0 tokens)
train: 2 samples of 1 rows, 10 tokens, 10 trained
eval: 1 samples, 5 tokens, 5 trained
"
    );
    let text = serde_json::to_string(&ledger).unwrap();
    assert!(
        text.contains(r#""dropped":{"empty":{"samples":1,"tokens":0}}"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
}

#[test]
fn the_export_is_one_object_a_line() {
    let lab = Lab::new("</s>");
    let config = config(lab.rows(PromptStrategy::Pretokenized, &rows(&[2, 3])));
    let path = lab.path().join("out.jsonl");
    export_jsonl(&lab.prepare(&config).unwrap().train.into(), &path).unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "{\"input_ids\":[1,2],\"labels\":[1,2],\"attention_mask\":[1,1]}\n{\"input_ids\":[1,2,3],\"labels\":[1,2,3],\"attention_mask\":[1,1,1]}\n"
    );
    let error = export_jsonl(&Vec::new().into(), &lab.path().join("no/out.jsonl")).unwrap_err();
    assert_eq!(
        lab.message(&error),
        "cannot write no/out.jsonl: No such file or directory (os error 2)"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The ledger's sums hold, whatever the rows.
    #[test]
    fn the_ledger_adds_up(sizes in prop::collection::vec(1usize..30, 1..40), limit in 2usize..40, cut in any::<bool>()) {
        let lab = Lab::new("</s>");
        let mut config = config(lab.rows(PromptStrategy::Pretokenized, &rows(&sizes)));
        config.sequence_len = limit;
        if cut {
            config.excess_length_strategy = ExcessLength::Truncate;
        }
        if let Ok(prepared) = lab.prepare(&config) {
            let set = &prepared.ledger.datasets[0];
            let dropped = set.dropped.values().fold((0, 0), |sum, c| (sum.0 + c.samples, sum.1 + c.tokens));
            prop_assert_eq!(set.made.samples, set.kept.samples + dropped.0);
            prop_assert_eq!(set.made.tokens, set.kept.tokens + dropped.1 + set.truncated.tokens);
            prop_assert_eq!(set.kept.samples, prepared.train.len());
            prop_assert!(prepared.train.iter().all(|s| (2..=limit).contains(&s.input_ids.len())));
        } else {
            prop_assert!(sizes.iter().all(|size| *size < 2 || (*size > limit && !cut)));
        }
    }

    /// Whatever the texts, a conversation trains the answers and nothing else.
    #[test]
    fn contents_are_found_whatever_they_are(contents in prop::collection::vec("\\PC{0,12}", 2..6)) {
        let lab = Lab::new("<|im_end|>");
        let messages: Vec<Value> = contents.iter().enumerate().map(|(i, content)| {
            json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": content})
        }).collect();
        let mut config = config(lab.rows(PromptStrategy::ChatTemplate, &[json!({"messages": messages})]));
        config.chat_template = Some("chatml".into());
        let expected: Vec<String> = contents.iter().skip(1).step_by(2)
            .filter(|content| !content.is_empty())
            .map(|content| format!("{content}<|im_end|>"))
            .collect();
        match lab.prepare(&config) {
            Ok(prepared) => prop_assert_eq!(crate::support::trained(&prepared.train[0], &lab.tokenizer()), expected),
            Err(_) => prop_assert!(expected.is_empty()),
        }
    }
}

#[test]
fn a_data_set_without_a_type_is_told_from_its_columns() {
    let lab = Lab::new("</s>");
    let dataset = Dataset {
        strategy: None,
        ..lab.rows(
            PromptStrategy::Alpaca,
            &[json!({"conversations": [], "id": 1})],
        )
    };
    assert_eq!(
        lab.message(&lab.prepare(&config(dataset)).unwrap_err()),
        "data set data.jsonl has no `type`, and its rows are not tokenized; they have `conversations`, `id`: set `type` to chat_template"
    );
}
