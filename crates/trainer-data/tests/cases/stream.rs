//! Streams: every sample once a pass, rows that fit, resumption on the same token.

use std::collections::BTreeMap;
use std::sync::Arc;

use seqprep::Sample;
use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PackingStrategy, PromptStrategy};
use trainer_data::prepare;
use trainer_data::stream::{SampleStream, StreamCursor, StreamOptions, StreamSource};

use crate::support::{Lab, config};

const CAPACITY: usize = 40;

/// Two data sets: texts of which some are split into several samples, and rows
/// that hold tokens, some too long.
fn data(lab: &Lab) -> Config {
    let texts: Vec<Value> = (0..150)
        .map(|i| json!({"text": format!("{i} {}", "x".repeat((i * 37) % 130))}))
        .collect();
    let lines: Vec<String> = texts.iter().map(Value::to_string).collect();
    let texts = Dataset {
        path: lab.write("texts.jsonl", lines.join("\n")),
        strategy: Some(PromptStrategy::Completion),
        ..Dataset::default()
    };
    let rows: Vec<Value> = (0..90u32)
        .map(|i| {
            let ids: Vec<u32> = (0..=i % 50).map(|k| (i + k) % 256).collect();
            json!({"input_ids": ids, "labels": ids})
        })
        .collect();
    let mut config = config(lab.rows(PromptStrategy::Pretokenized, &rows));
    config.datasets.insert(0, texts);
    config.sequence_len = CAPACITY;
    config.shuffle_merged_datasets = true;
    config.sample_packing = true;
    config
}

fn options(config: &Config) -> StreamOptions {
    StreamOptions {
        buffer: 100,
        ..StreamOptions::new(config)
    }
}

fn start(lab: &Lab, config: &Config, options: StreamOptions) -> SampleStream {
    SampleStream::start(config, Arc::new(lab.tokenizer()), options).unwrap()
}

fn count(samples: impl IntoIterator<Item = Sample>) -> BTreeMap<Vec<u32>, usize> {
    let mut counts = BTreeMap::new();
    for sample in samples {
        *counts.entry(sample.input_ids).or_default() += 1;
    }
    counts
}

#[test]
fn each_pass_has_every_sample_once() {
    let lab = Lab::new("</s>");
    let config = data(&lab);
    let whole = prepare(&config, &lab.tokenizer()).unwrap();
    let expected = count(whole.train.clone());
    for packing in [
        None,
        Some(PackingStrategy::BestFitDecreasing),
        Some(PackingStrategy::FirstFit),
        Some(PackingStrategy::Sequential),
    ] {
        let options = StreamOptions {
            packing,
            ..options(&config)
        };
        let mut stream = start(&lab, &config, options);
        let mut orders = Vec::new();
        for _ in 0..2 {
            let mut pass = Vec::new();
            while pass.len() < whole.train.len() {
                let row = stream.next().unwrap().unwrap();
                assert!(row.iter().map(Sample::len).sum::<usize>() <= CAPACITY);
                assert!(packing.is_some() || row.len() == 1);
                pass.extend(row);
            }
            assert_eq!(count(pass.clone()), expected, "{packing:?}");
            orders.push(pass);
        }
        assert_ne!(orders[0], orders[1], "a pass has an order of its own");
    }
}

#[test]
fn without_shuffling_rows_are_in_file_order() {
    let lab = Lab::new("</s>");
    let mut config = data(&lab);
    config.shuffle_merged_datasets = false;
    config.sample_packing = false;
    let whole = prepare(&config, &lab.tokenizer()).unwrap().train;
    let got: Vec<Sample> = start(&lab, &config, options(&config))
        .take(2 * whole.len())
        .flat_map(Result::unwrap)
        .collect();
    assert_eq!(got[..whole.len()], whole);
    assert_eq!(got[whole.len()..], whole);
}

#[test]
fn goes_on_with_the_same_token_wherever_it_was_cut() {
    let lab = Lab::new("</s>");
    let config = data(&lab);
    let tokenizer = Arc::new(lab.tokenizer());
    for (packing, rows) in [(None, 700), (Some(PackingStrategy::BestFitDecreasing), 450)] {
        let options = StreamOptions {
            packing,
            ..options(&config)
        };
        let mut stream = start(&lab, &config, options.clone());
        let mut cursors = vec![stream.cursor()];
        let mut all = Vec::new();
        for _ in 0..rows {
            all.push(stream.next().unwrap().unwrap());
            cursors.push(stream.cursor());
        }
        let after = stream.ledger();
        for cut in (0..rows - 20).step_by(23).chain([1, 63, 64, 65, 99, 100]) {
            let saved = serde_json::to_string(&cursors[cut]).unwrap();
            let cursor: StreamCursor = serde_json::from_str(&saved).unwrap();
            let mut resumed =
                SampleStream::resume(&config, Arc::clone(&tokenizer), options.clone(), cursor)
                    .unwrap();
            let next: Vec<_> = resumed.by_ref().take(20).map(Result::unwrap).collect();
            assert_eq!(next, all[cut..cut + 20], "cut after {cut} rows");
            assert_eq!(resumed.cursor(), cursors[cut + 20], "cut after {cut} rows");
        }
        // The account goes on as well.
        let cursor = cursors[rows - 150].clone();
        let mut resumed =
            SampleStream::resume(&config, Arc::clone(&tokenizer), options, cursor).unwrap();
        assert_eq!(resumed.by_ref().take(150).count(), 150);
        assert_eq!(resumed.ledger(), after);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let lab = Lab::new("</s>");
    let mut config = data(&lab);
    let mut rows = |threads| {
        config.dataset_num_proc = Some(threads);
        let stream = start(&lab, &config, options(&config));
        stream.take(300).map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(rows(1), rows(3));
}

#[test]
fn the_account_is_that_of_a_preparation() {
    let lab = Lab::new("</s>");
    let mut config = data(&lab);
    config.sample_packing = false;
    let expected = prepare(&config, &lab.tokenizer()).unwrap().ledger;
    let mut stream = start(&lab, &config, options(&config));
    assert_eq!(
        stream.by_ref().take(expected.train.samples).count(),
        expected.train.samples
    );
    let ledger = stream.ledger();
    assert_eq!(ledger.datasets, expected.datasets);
    assert_eq!(ledger.train, expected.train);
}

#[test]
fn rows_can_be_skipped() {
    let lab = Lab::new("</s>");
    let mut config = data(&lab);
    config.shuffle_merged_datasets = false;
    config.sample_packing = false;
    let options = StreamOptions {
        sources: vec![StreamSource {
            dataset: config.datasets[1].clone(),
            skip: 5,
        }],
        ..options(&config)
    };
    let mut stream = start(&lab, &config, options);
    assert_eq!(stream.next().unwrap().unwrap()[0].len(), 6);
    let ledger = stream.ledger().datasets;
    assert_eq!(
        serde_json::to_value(&ledger[0].skipped).unwrap(),
        json!({"slice": 5})
    );
}

#[test]
fn errors_end_the_stream() {
    let lab = Lab::new("</s>");
    let mut config = data(&lab);
    config.datasets[1].path = lab.write(
        "bad.jsonl",
        "{\"input_ids\": [1, 2], \"labels\": [1, 2]}\n{",
    );
    let rows: Vec<_> = start(&lab, &config, options(&config)).collect();
    let errors: Vec<_> = rows.iter().filter_map(|row| row.as_ref().err()).collect();
    assert_eq!(errors.len(), 1);
    assert!(
        lab.message(errors[0]).starts_with("bad.jsonl, line 2"),
        "{}",
        errors[0]
    );
    // Data of which nothing is left would go round for ever.
    let mut config = data(&lab);
    config.datasets.remove(0);
    config.min_sample_len = 60;
    config.sequence_len = 61;
    let mut stream = start(&lab, &config, options(&config));
    assert_eq!(
        lab.message(&stream.next().unwrap().unwrap_err()),
        "all 90 rows of data set data.jsonl were dropped: 90 too short; rows may be as short as `min_sample_len` (now 60): lower it"
    );
    assert!(stream.next().is_none());
}

#[test]
fn a_cursor_belongs_to_its_data() {
    let lab = Lab::new("</s>");
    let mut config = data(&lab);
    let mut stream = start(&lab, &config, options(&config));
    stream.next().unwrap().unwrap();
    let cursor = stream.cursor();
    config.sequence_len = 41;
    let options = StreamOptions {
        buffer: 50,
        ..options(&config)
    };
    let tokenizer = Arc::new(lab.tokenizer());
    let error = SampleStream::resume(&config, tokenizer, options, cursor).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the stream cannot go on where it was: setting sequence_len: 40 there, 41 here; \
         stream buffer: 100 there, 50 here; restore what was changed, or start anew"
    );
}
