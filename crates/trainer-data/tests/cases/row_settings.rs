//! What is written about rows is read: formats and columns of one's own, strategies of
//! one's own, and messages that say the next step.

use std::collections::HashSet;

use seqprep::Sample;
use serde_json::{Value, json};
use trainer_config::{Dataset, PromptStrategy, UserDefined};
use trainer_data::{PreferenceObjective, prepare_preferences};

use crate::preferences::strategy;
use crate::support::{Lab, config};

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
