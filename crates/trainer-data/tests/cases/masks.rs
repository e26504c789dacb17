//! Which tokens are trained, by strategy; the chats are in `chat`.

use serde_json::json;
use trainer_config::{Config, Dataset, PromptStrategy};

use crate::support::{Lab, config, trained};

#[test]
fn alpaca_trains_the_response_and_the_end() {
    let lab = Lab::new("</s>");
    let rows = [
        json!({"instruction": "I", "output": "O"}),
        json!({"instruction": "I {}", "input": "X", "output": "O</s>"}),
        json!({"instruction": "I", "input": null, "output": ""}),
    ];
    let dataset = lab.rows(PromptStrategy::Alpaca, &rows);
    let tokenizer = lab.tokenizer();
    let prepared = lab.prepare(&config(dataset.clone())).unwrap();
    let texts: Vec<String> = prepared
        .train
        .iter()
        .map(|sample| tokenizer.decode(&sample.input_ids, false).unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Response:\nO</s>",
            "<s>Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nI {}\n\n### Input:\nX\n\n### Response:\nO</s>",
        ]
    );
    for sample in &prepared.train {
        assert_eq!(trained(sample, &tokenizer), ["O</s>"]);
    }
    // Nothing to train without an output, not even the end.
    let dropped: Vec<_> = prepared.ledger.datasets[0].dropped.iter().collect();
    assert_eq!(
        format!("{dropped:?}"),
        "[(NothingToTrain, Count { samples: 1, tokens: 142 })]"
    );

    let all = Config {
        train_on_inputs: true,
        ..config(dataset)
    };
    let prepared = lab.prepare(&all).unwrap();
    assert_eq!(prepared.train.len(), 3);
    assert_eq!(trained(&prepared.train[0], &tokenizer), [texts[0].as_str()]);
}

#[test]
fn completion_loses_no_text() {
    let lab = Lab::new("</s>");
    let text = "abcdefghij".repeat(100);
    let dataset = lab.rows(
        PromptStrategy::Completion,
        &[json!({"body": text}), json!({"body": ""})],
    );
    let config = Config {
        sequence_len: 4,
        ..config(Dataset {
            field: Some("body".into()),
            ..dataset
        })
    };
    let prepared = lab.prepare(&config).unwrap();
    let ids: Vec<u32> = prepared
        .train
        .iter()
        .flat_map(|s| s.input_ids.clone())
        .collect();
    // 1002 tokens: no limit on the number of windows, one end, at the end.
    assert_eq!(
        lab.tokenizer().decode(&ids, false).unwrap(),
        format!("<s>{text}</s>")
    );
    assert_eq!(prepared.train.len(), 251);
    assert_eq!(prepared.ledger.datasets[0].dropped.len(), 1);
}

#[test]
fn tokenized_rows_are_taken_as_they_are_without_padding() {
    let lab = Lab::new("</s>");
    let rows = [
        json!({"input_ids": [5, 6, 7, 0], "labels": [-100, 6, 7, -100], "attention_mask": [1, 1, 1, 0]}),
    ];
    let mut dataset = lab.rows(PromptStrategy::Pretokenized, &rows);
    for strategy in [Some(PromptStrategy::Pretokenized), None] {
        dataset.strategy = strategy;
        let prepared = lab.prepare(&config(dataset.clone())).unwrap();
        assert_eq!(prepared.train[0].input_ids, [5, 6, 7]);
        assert_eq!(prepared.train[0].labels, [-100, 6, 7]);
    }
}
