//! Axolotl 0.21.0's samples of the same rows, recorded.

use seqprep::Sample;
use serde_json::Value;
use trainer_config::{Config, Dataset, PromptStrategy, SpecialTokens};
use trainer_data::{Tokenizer, prepare};

fn compare(name: &str, strategy: PromptStrategy) {
    let tokenizer = Tokenizer::from_dir("tests/data/llama", &SpecialTokens::default()).unwrap();
    let config = Config {
        datasets: vec![Dataset {
            path: format!("tests/data/{name}.jsonl").into(),
            strategy: Some(strategy),
            ..Dataset::default()
        }],
        curriculum_sampling: true,
        sequence_len: 256,
        ..Config::default()
    };
    let prepared = prepare(&config, &tokenizer).unwrap();
    let text = std::fs::read_to_string("tests/data/expected.json").unwrap();
    let mut expected: Value = serde_json::from_str(&text).unwrap();
    let expected: Vec<Sample> = serde_json::from_value(expected[name].take()).unwrap();
    assert_eq!(expected.len(), 16);
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(&prepared.train[index], expected, "{name}, sample {index}");
    }
    assert_eq!(prepared.ledger.datasets[0].rows, 40);
}

#[test]
fn alpaca() {
    compare("alpaca", PromptStrategy::Alpaca);
}

#[test]
fn chat_template() {
    compare("chat", PromptStrategy::ChatTemplate);
}

#[test]
fn completion() {
    compare("text", PromptStrategy::Completion);
}
