//! Rules that hold for rows of every type: where a sequence begins and where it ends.

use std::sync::Arc;

use serde_json::{Value, json};
use trainer_config::{Config, PretrainingDataset, PromptStrategy, UserDefined};
use trainer_data::stream::{SampleStream, StreamOptions};
use trainer_data::{PreferenceObjective, prepare_preferences};

use crate::preferences::strategy;
use crate::support::{Lab, config, tokenizer_json};

const BOS: u32 = 256;

/// A type of one's own whose prompt is `format`.
fn own(format: &str) -> PromptStrategy {
    PromptStrategy::UserDefined(Box::new(UserDefined {
        format: Some(format.into()),
        ..UserDefined::default()
    }))
}

/// A row of every type whose text is put together from columns, without and with the
/// beginning of the sequence in the text.
fn begun() -> Vec<(PromptStrategy, Value)> {
    let alpaca = json!({"instruction": "I", "input": "", "output": "O"});
    let turn = |who: &str, text: &str, keys: [&str; 2]| json!({keys[0]: who, keys[1]: text});
    let mut cases = vec![
        (strategy("completion"), json!({"text": "plain"})),
        (strategy("completion"), json!({"text": "<s>brought"})),
        (strategy("pretrain"), json!({"text": "<s>brought"})),
        (
            strategy("metharme"),
            json!({"prompt": "<s>P", "generation": "G"}),
        ),
        (
            strategy("metharme"),
            json!({"prompt": "", "generation": "<s>G"}),
        ),
        (own("[Q] {instruction} [A] "), alpaca.clone()),
        (own("<s>[Q] {instruction} [A] "), alpaca.clone()),
        (
            strategy("llama2_chat"),
            json!({"conversations": [turn("human", "q", ["from", "value"]), turn("gpt", "a", ["from", "value"])]}),
        ),
        (
            strategy("pygmalion"),
            json!({"conversations": [turn("human", "q", ["role", "value"]), turn("bot", "a", ["role", "value"])]}),
        ),
    ];
    for name in [
        "alpaca",
        "alpaca:chat",
        "alpaca:chatml",
        "alpaca:phi",
        "alpaca_chat.load_no_prompt",
    ] {
        cases.push((strategy(name), alpaca.clone()));
    }
    cases.push((
        strategy("gpteacher"),
        json!({"instruction": "I", "input": "X", "response": "R"}),
    ));
    cases.push((
        strategy("alpaca_w_system.load_open_orca"),
        json!({"system_prompt": "S", "question": "Q", "response": "R"}),
    ));
    cases
}

#[test]
fn a_sequence_begins_once() {
    let lab = Lab::new("</s>");
    for named in [true, false] {
        if !named {
            // The tokenizer still puts it in front of every text.
            lab.write(
                "tokenizer_config.json",
                json!({"eos_token": "</s>"}).to_string(),
            );
        }
        for (strategy, row) in begun() {
            let config = config(lab.rows(strategy.clone(), std::slice::from_ref(&row)));
            let train = lab.prepare(&config).unwrap().train;
            let first = train[0].input_ids.iter().enumerate();
            let places: Vec<usize> = first
                .filter(|(_, id)| **id == BOS)
                .map(|(i, _)| i)
                .collect();
            assert_eq!(places, [0], "{} {row}, named: {named}", strategy.as_str());
        }
    }
}

#[test]
fn a_tokenizer_that_puts_nothing_in_front() {
    let lab = Lab::new("</s>");
    lab.write("tokenizer.json", tokenizer_json(false).to_string());
    let row = |text| json!({"text": text});
    let config = config(lab.rows(strategy("completion"), &[row("<s>a"), row("a")]));
    let train = lab.prepare(&config).unwrap().train;
    assert_eq!(train[0].input_ids[0], BOS);
    assert_eq!(train[1].input_ids[0], u32::from(b'a'));
}

#[test]
fn without_an_end_of_sequence_nothing_is_trained() {
    let lab = Lab::new("</s>");
    let mut rows = begun();
    rows.retain(|(_, row)| !row.to_string().contains("<s>"));
    for (files, reason) in [
        (json!({"bos_token": "<s>"}), "its files name no `eos_token`"),
        (
            json!({"eos_token": "<none>"}),
            "its `eos_token` is \"<none>\", which is not in the vocabulary",
        ),
        (json!({"eos_token": null}), "its files name no `eos_token`"),
    ] {
        lab.write("tokenizer_config.json", files.to_string());
        let expected = format!(
            "nothing would end the answers, so that a model trained on them would not learn to stop: of the tokenizer in FOLDER, {reason}; give the token that ends a sequence as `eos_token` under `special_tokens`"
        );
        for (strategy, row) in &rows {
            let config = config(lab.rows(strategy.clone(), std::slice::from_ref(row)));
            let error = lab.prepare(&config).unwrap_err();
            assert_eq!(lab.message(&error), expected, "{}", strategy.as_str());
            let options = StreamOptions::new(&config);
            let mut stream =
                SampleStream::start(&config, Arc::new(lab.tokenizer()), options).unwrap();
            let error = stream.next().unwrap().unwrap_err();
            assert_eq!(
                lab.message(&error),
                expected,
                "{}, streamed",
                strategy.as_str()
            );
        }
        let pair = json!({"question": "q", "chosen": "a", "rejected": "b"});
        let answer = json!({"prompt": "q", "completion": "a", "label": true});
        for (strategy, row, objective) in [
            (own_pairs(), pair.clone(), PreferenceObjective::Pairwise),
            (own_pairs(), pair, PreferenceObjective::Orpo),
            (own_answers(), answer, PreferenceObjective::Kto),
        ] {
            let config = config(lab.rows(strategy, &[row]));
            let error = prepare_preferences(&config, &lab.tokenizer(), objective).unwrap_err();
            assert_eq!(lab.message(&error), expected, "{objective:?}");
        }
    }
    // A text that ends with a token of its own has its end.
    let row = json!({"instruction": "I", "output": "O<|im_end|>"});
    let config = config(lab.rows(strategy("alpaca"), &[row]));
    assert_eq!(lab.prepare(&config).unwrap().train.len(), 1);
}

/// Rows that bring their ends are counted where they do not.
#[test]
fn rows_taken_as_they_are_may_lack_an_end() {
    let lab = Lab::new("</s>");
    let segments = |text: &str| json!({"segments": [{"text": "q", "label": false}, {"text": text, "label": true}]});
    let ids = |ids: [u32; 3]| json!({"input_ids": ids, "labels": ids});
    for (name, rows) in [
        (
            "input_output",
            [segments("a"), segments("a</s>"), segments("a<|im_end|>")],
        ),
        (
            "pretokenized",
            [ids([1, 2, 3]), ids([1, 2, 257]), ids([1, 2, 260])],
        ),
    ] {
        let config = config(lab.rows(strategy(name), &rows));
        let ledger = lab.prepare(&config).unwrap().ledger;
        let [warning] = &ledger.datasets[0].warnings[..] else {
            panic!("{name}: {ledger}");
        };
        assert_eq!(warning.rows, 1, "{name}");
        assert!(warning.first.contains("data.jsonl, line 1"), "{name}");
        assert!(warning.message.contains("`eos_token`"), "{name}");
        let options = StreamOptions::new(&config);
        let mut stream = SampleStream::start(&config, Arc::new(lab.tokenizer()), options).unwrap();
        stream.next().unwrap().unwrap();
        assert_eq!(stream.ledger().datasets[0].warnings.len(), 1, "{name}");
    }
}

fn own_pairs() -> PromptStrategy {
    PromptStrategy::UserDefined(Box::new(UserDefined {
        field_prompt: Some("question".into()),
        ..UserDefined::default()
    }))
}

fn own_answers() -> PromptStrategy {
    PromptStrategy::UserDefined(Box::new(UserDefined {
        field_label: Some("label".into()),
        ..UserDefined::default()
    }))
}

#[test]
fn tokens_that_the_configuration_file_alone_declares() {
    let lab = Lab::new("</s>");
    let next = 256 + crate::support::SPECIAL.len() as u32;
    let token = |special| json!({"content": "<|menu|>", "special": special});
    let row = json!({"instruction": "I", "output": "a<|menu|>b"});
    let train = |lab: &Lab| {
        let config = config(lab.rows(strategy("alpaca"), std::slice::from_ref(&row)));
        lab.prepare(&config).unwrap().train.remove(0).input_ids
    };
    for (file, content) in [
        (
            "tokenizer_config.json",
            json!({"eos_token": "</s>", "added_tokens_decoder": {next.to_string(): token(true)}}),
        ),
        (
            "tokenizer_config.json",
            json!({"eos_token": "</s>", "added_tokens_decoder": {next.to_string(): token(false)}}),
        ),
        ("added_tokens.json", json!({"<|menu|>": next})),
    ] {
        lab.write(
            "tokenizer_config.json",
            json!({"eos_token": "</s>"}).to_string(),
        );
        lab.write("added_tokens.json", "{}");
        lab.write(file, content.to_string());
        let ids = train(&lab);
        assert_eq!(ids[ids.len() - 4..], [97, next, 98, 257], "{file}");
        let tokenizer = lab.tokenizer();
        assert_eq!(tokenizer.new_tokens(), [("<|menu|>".to_owned(), next)]);
        // What is saved stands by itself.
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        let saved = std::fs::read_to_string(saved.path().join("tokenizer.json")).unwrap();
        assert!(saved.contains("<|menu|>"));
        // The model has a row for it.
        lab.write("config.json", json!({"vocab_size": next + 1}).to_string());
        assert!(lab.tokenizer().new_tokens().is_empty());
        std::fs::remove_file(lab.path().join("config.json")).unwrap();
    }
    lab.write("added_tokens.json", json!({"<|menu|>": 999}).to_string());
    lab.write("tokenizer_config.json", "{}");
    let error = trainer_data::Tokenizer::from_dir(lab.path(), &Default::default()).unwrap_err();
    assert_eq!(
        lab.message(&error),
        format!(
            "cannot load the tokenizer from FOLDER: tokenizer_config.json or added_tokens.json declares the token \"<|menu|>\" with the id 999; tokenizer.json does not have it there, and would make it token {next}. Save the tokenizer again with transformers, or correct the files"
        )
    );
}

#[test]
fn gguf_says_what_the_tokenizer_does() {
    let folder = tempfile::tempdir().unwrap();
    for around in [[false, false], [true, false], [false, true], [true, true]] {
        let lab = Lab::new("</s>");
        let mut json = tokenizer_json(true);
        let part = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        if around[0] {
            single.insert(0, part("<s>"));
        }
        if around[1] {
            single.push(part("</s>"));
        }
        let template = &mut json["post_processor"]["processors"][1];
        template["single"] = json!(single);
        template["special_tokens"]["</s>"] =
            json!({"id": "</s>", "ids": [257], "tokens": ["</s>"]});
        lab.write("tokenizer.json", json.to_string());
        // Nothing names the tokens.
        lab.write("tokenizer_config.json", "{}");
        let vocabulary = lab.tokenizer().to_gguf(300).unwrap();
        assert_eq!([vocabulary.add_bos, vocabulary.add_eos], around);
        assert_eq!(vocabulary.bos, around[0].then_some(256));
        assert_eq!(vocabulary.eos, around[1].then_some(257));
        vocabulary
            .write(folder.path(), std::path::Path::new("m.gguf"))
            .unwrap();
        let back = trainer_data::Tokenizer::from_dir(folder.path(), &Default::default()).unwrap();
        let text = "a b<s>c";
        let encode = |tokenizer: &trainer_data::Tokenizer| tokenizer.encode(text, true).unwrap();
        assert_eq!(encode(&back), encode(&lab.tokenizer()), "{around:?}");
    }
}

/// Streams of plain text begin and end as data sets do.
#[test]
fn pretraining_streams_begin_once() {
    let lab = Lab::new("</s>");
    let path = lab.write("a.txt", "<s>one\ntwo\n");
    let config = Config {
        pretraining_dataset: Some(vec![PretrainingDataset {
            path,
            ..PretrainingDataset::default()
        }]),
        shuffle_merged_datasets: false,
        ..Config::default()
    };
    let options = StreamOptions::new(&config);
    let stream = SampleStream::start(&config, Arc::new(lab.tokenizer()), options).unwrap();
    for row in stream.take(2) {
        let ids = &row.unwrap()[0].input_ids;
        assert_eq!(ids.iter().filter(|id| **id == BOS).count(), 1);
        assert_eq!((ids[0], ids[ids.len() - 1]), (BOS, 257));
    }
}
