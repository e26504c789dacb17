//! `trainer-data`: rows of a file as tokens with a mask.

use trainer_config::{Config, Dataset, PromptStrategy};
use trainer_data::{Tokenizer, prepare};

use super::base_model;

#[test]
fn rows_become_samples() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let row = r#"{"messages": [{"role": "user", "content": "A bird?"}, {"role": "assistant", "content": "A wren."}]}"#;
    std::fs::write(&file, format!("{row}\n{row}\n")).unwrap();
    let config = Config {
        base_model: base_model(),
        datasets: vec![Dataset {
            path: file,
            strategy: Some(PromptStrategy::ChatTemplate),
            ..Dataset::default()
        }],
        ..Config::default()
    };
    let tokenizer = Tokenizer::from_config(&config).unwrap();
    let prepared = prepare(&config, &tokenizer).unwrap();
    assert_eq!(prepared.train.len(), 2);
    let sample = &prepared.train[0];
    let trained: Vec<u32> = sample
        .input_ids
        .iter()
        .zip(&sample.labels)
        .filter(|(_, label)| **label >= 0)
        .map(|(id, _)| *id)
        .collect();
    let text = tokenizer.decode(&trained, false).unwrap();
    assert!(text.starts_with("A wren."), "{text}");
    assert_eq!(prepared.ledger.train.samples, 2);
}
