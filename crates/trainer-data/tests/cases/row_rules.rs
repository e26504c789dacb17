//! Rules that hold for rows of every type: where a sequence begins and ends, which
//! rows are held back, and what to do where nothing is left.

use std::collections::HashSet;
use std::sync::Arc;

use seqprep::{Preferences, Sample};
use serde_json::{Value, json};
use trainer_config::{
    Config, Dataset, ExcessLength, PretrainingDataset, PromptStrategy, UserDefined,
};
use trainer_data::stream::{SampleStream, StreamOptions};
use trainer_data::{DropReason, PreferenceObjective, Samples, prepare_cached, prepare_preferences};

use crate::support::{Lab, config, tokenizer_json};

const BOS: u32 = 256;

fn strategy(name: &str) -> PromptStrategy {
    serde_json::from_value(json!(name)).unwrap()
}

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

/// A format that is written is used, whatever other key is absent.
#[test]
fn formats_of_ones_own() {
    let lab = Lab::new("</s>");
    let with = json!({"instruction": "I", "input": "X", "output": "O"});
    let without = json!({"instruction": "I", "output": "O"});
    let make = |format: Option<&str>, no_input: Option<&str>, row: &Value| {
        let own = UserDefined {
            format: format.map(str::to_owned),
            no_input_format: no_input.map(str::to_owned),
            ..UserDefined::default()
        };
        let strategy = PromptStrategy::UserDefined(Box::new(own));
        let config = config(lab.rows(strategy, std::slice::from_ref(row)));
        match lab.prepare(&config) {
            Ok(prepared) => lab
                .tokenizer()
                .decode(&prepared.train[0].input_ids, true)
                .unwrap(),
            Err(error) => lab.message(&error),
        }
    };
    let no_input = "data.jsonl, line 1: the row has no `input`, and its `type` has `format`, which asks for {input}, but no `no_input_format`: write one for such rows, or leave {input} out of `format`";
    let no_format = "data.jsonl, line 1: the row has text in `input`, and its `type` has `no_input_format`, but no `format`: write one for such rows";
    for (format, no_input_format, row, expected) in [
        (None, None, &with, "I X O"),
        (None, None, &without, "I O"),
        (Some("Q: {instruction} A: "), None, &without, "Q: I A: O"),
        (Some("Q: {instruction} A: "), None, &with, "Q: I A: O"),
        (
            Some("Q: {instruction} {input} A: "),
            None,
            &with,
            "Q: I X A: O",
        ),
        (
            Some("Q: {instruction} {input} A: "),
            None,
            &without,
            no_input,
        ),
        (None, Some("Q: {instruction} A: "), &without, "Q: I A: O"),
        (None, Some("Q: {instruction} A: "), &with, no_format),
        (
            Some("{instruction}{input}"),
            Some("{instruction}-"),
            &without,
            "I-O",
        ),
    ] {
        assert_eq!(
            make(format, no_input_format, row),
            expected,
            "{format:?} {no_input_format:?}"
        );
    }
}

#[test]
fn keys_of_a_type_that_nothing_reads() {
    let lab = Lab::new("</s>");
    let text = || Some("x".to_owned());
    let format = |text: &str| Some(text.to_owned());
    let none = UserDefined::default;
    let row = json!({"instruction": "I", "output": "O", "prompt": "p", "chosen": "a", "rejected": "b", "completion": "c", "label": true, "x": "x"});
    let sft = [
        (
            "field_input",
            UserDefined {
                field_input: text(),
                format: format("{instruction}"),
                ..none()
            },
        ),
        (
            "field_instruction",
            UserDefined {
                field_instruction: text(),
                format: format("-"),
                ..none()
            },
        ),
        (
            "field_system",
            UserDefined {
                field_system: text(),
                system_format: format("-"),
                ..none()
            },
        ),
        (
            "system_format",
            UserDefined {
                system_format: format("-{system}"),
                format: format("{system}{instruction}"),
                ..none()
            },
        ),
    ];
    for (key, own) in sft {
        let strategy = PromptStrategy::UserDefined(Box::new(own));
        let config = config(lab.rows(strategy, std::slice::from_ref(&row)));
        let message = lab.message(&lab.prepare(&config).unwrap_err());
        assert!(
            message.contains(&format!("`{key}` of its `type` has no effect")),
            "{message}"
        );
    }
    let (pairwise, kto) = (PreferenceObjective::Pairwise, PreferenceObjective::Kto);
    let preferences = [
        (
            pairwise,
            "field_prompt",
            UserDefined {
                field_prompt: text(),
                prompt_format: format("-"),
                ..none()
            },
        ),
        (
            pairwise,
            "field_system",
            UserDefined {
                field_system: text(),
                ..none()
            },
        ),
        (
            pairwise,
            "field_chosen",
            UserDefined {
                field_chosen: text(),
                chosen_format: format("-"),
                ..none()
            },
        ),
        (
            pairwise,
            "completion_format",
            UserDefined {
                completion_format: format("{completion}"),
                ..none()
            },
        ),
        (
            pairwise,
            "field_label",
            UserDefined {
                field_label: text(),
                ..none()
            },
        ),
        (
            kto,
            "field_completion",
            UserDefined {
                field_completion: text(),
                completion_format: format("-"),
                ..none()
            },
        ),
        (
            kto,
            "chosen_format",
            UserDefined {
                chosen_format: format("{chosen}"),
                ..none()
            },
        ),
        (
            kto,
            "field_rejected",
            UserDefined {
                field_rejected: text(),
                ..none()
            },
        ),
    ];
    for (objective, key, own) in preferences {
        let strategy = PromptStrategy::UserDefined(Box::new(own));
        let config = config(lab.rows(strategy, std::slice::from_ref(&row)));
        let error = prepare_preferences(&config, &lab.tokenizer(), objective).unwrap_err();
        let message = lab.message(&error);
        assert!(
            message.contains(&format!("`{key}` of its `type` has no effect")),
            "{message}"
        );
    }
}

#[test]
fn messages_that_say_the_next_step() {
    let lab = Lab::new("</s>");
    let row =
        json!({"instruction": "I", "output": "O", "messages": [], "question": "q", "chosen": "a"});
    let hint = |file: &str| {
        format!(
            "the rows seem to be the list under `data`: a file holds one object a line, or one list of objects; take the list out, such as with jq -c '.[\"data\"][]' {file} > wrapped.jsonl"
        )
    };
    let wrapped = json!({"version": 1, "data": [row.clone(), row]});
    for text in [
        wrapped.to_string(),
        serde_json::to_string_pretty(&wrapped).unwrap(),
    ] {
        let path = lab.write("wrapped.json", text);
        for name in ["alpaca", "chat_template"] {
            let mut config = config(Dataset {
                path: path.clone(),
                strategy: Some(strategy(name)),
                ..Dataset::default()
            });
            config.chat_template = Some("chatml".into());
            let message = lab.message(&lab.prepare(&config).unwrap_err());
            assert!(
                message.ends_with(&hint("wrapped.json")),
                "{name}: {message}"
            );
            config.datasets[0].strategy = Some(strategy("chatml.intel"));
            let error =
                prepare_preferences(&config, &lab.tokenizer(), PreferenceObjective::Pairwise);
            let message = lab.message(&error.unwrap_err());
            assert!(message.ends_with(&hint("wrapped.json")), "{message}");
        }
    }
    let of = |path: &str| {
        let config = config(Dataset {
            path: path.into(),
            strategy: Some(strategy("alpaca")),
            ..Dataset::default()
        });
        lab.message(&lab.prepare(&config).unwrap_err())
    };
    assert_eq!(
        of("s3://bucket/rows"),
        "data set s3://bucket/rows: `s3` addresses cannot be read; download the files, such as with `aws s3 cp s3://bucket/rows .` (`--recursive` for a folder), and give their path"
    );
    if !cfg!(feature = "hub") {
        assert_eq!(
            of("some-owner/some-set"),
            "data set some-owner/some-set: there is no such file or folder. It reads like a data set of the Hugging Face hub: download it with `hf download some-owner/some-set --repo-type dataset --local-dir some-set` and write `path: some-set`, or use a build with the feature `hub`"
        );
    }
    let error = trainer_data::Tokenizer::from_dir("some-owner/some-model", &Default::default());
    assert_eq!(
        error.unwrap_err().to_string(),
        "tokenizer folder some-owner/some-model does not exist; it reads like a model of the Hugging Face hub, which is not downloaded: `base_model` and `tokenizer_config` are folders here. Get one with `hf download some-owner/some-model --local-dir some-model` and name some-model"
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

/// A strategy of one's own, beside those that there are.
#[test]
fn a_strategy_of_ones_own() {
    use trainer_data::source::Row;
    use trainer_data::strategy::Strategy;
    struct Poems;
    impl Strategy for Poems {
        fn name(&self) -> &'static str {
            "poems"
        }
        fn samples(&self, row: &Row) -> Result<Vec<Sample>, trainer_data::DataError> {
            let poem = row.text("poem", "poems", "")?;
            Ok(vec![Sample::all_trained(
                poem.bytes().map(u32::from).collect(),
            )])
        }
    }
    let lab = Lab::new("</s>");
    let mut config = config(lab.rows(strategy("completion"), &[json!({"poem": "ab"})]));
    config.datasets[0].strategy = None;
    let prepared = trainer_data::prepare_with(&config, &lab.tokenizer(), |_, _, _, _, _| {
        Ok(Box::new(Poems))
    });
    let prepared = prepared.unwrap();
    assert_eq!(prepared.train[0].input_ids, [97, 98]);
    assert_eq!(prepared.ledger.datasets[0].strategy, "poems");
    // A row in memory is told from others by its place.
    let row = Row::new(json!({"verse": "ab"}).as_object().unwrap().clone());
    let error = Poems.samples(&row).unwrap_err().to_string();
    assert_eq!(
        error,
        "memory, row 1: no column `poem`, which `type: poems` needs; the row has `verse`"
    );
}

/// The strategies that the README lists are those that there are.
#[test]
fn the_readme_names_every_strategy() {
    let readme = include_str!("../../README.md");
    let table = readme.split("## Strategies").nth(1).unwrap();
    let table = table.split("## ").next().unwrap();
    let mut named = HashSet::new();
    for line in table
        .lines()
        .filter(|line| line.starts_with("| `") && !line.starts_with("| `type`"))
    {
        let cell = line.split('|').nth(1).unwrap();
        for name in cell.split('`').skip(1).step_by(2) {
            assert!(
                PromptStrategy::NAMES.contains(&name),
                "{name} is no strategy"
            );
            assert!(named.insert(name), "{name} stands there twice");
        }
    }
    for name in PromptStrategy::NAMES {
        assert!(named.contains(name), "{name} is missing");
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
