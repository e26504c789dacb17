use super::*;
use crate::load_str;
use crate::shape::{ROOT, Shape};

/// Keys of a data set that rows of every kind have a use for.
const OF_ALL: [&str; 6] = ["path", "type", "split", "shards", "shards_idx", "weight"];

/// How each objective is asked for, and whether it is one of preferences.
const TASKS: [(&str, Task); 9] = [
    ("", Task::Sft),
    ("rl: dpo\n", Task::Rl(Rl::Dpo)),
    ("rl: ipo\n", Task::Rl(Rl::Ipo)),
    ("rl: kto\n", Task::Rl(Rl::Kto)),
    ("rl: orpo\n", Task::Rl(Rl::Orpo)),
    ("rl: simpo\n", Task::Rl(Rl::Simpo)),
    ("rl: cpo\n", Task::Rl(Rl::Cpo)),
    ("reward_model: true\n", Task::RewardModel),
    ("process_reward_model: true\n", Task::ProcessRewardModel),
];

/// Every `type`, as it is written.
fn types() -> Vec<(String, Option<S>)> {
    let named = S::NAMES.iter().chain(L::NAMES).map(|name| {
        let strategy = serde_json::from_value(serde_json::Value::from(*name)).unwrap();
        (format!("\"{name}\""), Some(strategy))
    });
    let own = ("{}".to_owned(), Some(S::UserDefined(Box::default())));
    let none = ("null".to_owned(), None);
    named.chain([own, none]).collect()
}

fn fields(list: &str) -> Vec<(String, Shape)> {
    match ROOT.property(list) {
        Some(Shape::List { items, .. }) => match &**items {
            Shape::Struct { properties, .. } => properties.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// A value that a key may have.
fn value(key: &str, shape: &Shape) -> String {
    match (key, shape) {
        ("split", _) => "\"train[:10%]\"".to_owned(),
        ("chat_template", _) => "chatml".to_owned(),
        (_, Shape::Bool) => "true".to_owned(),
        ("shards_idx", _) => "1".to_owned(),
        (_, Shape::Integer(_)) => "3".to_owned(),
        (_, Shape::Number(_)) => "0.5".to_owned(),
        (_, Shape::Text) => "\"some\"".to_owned(),
        (_, Shape::Names(names)) => names[0].clone(),
        (_, Shape::List { .. }) => "[some]".to_owned(),
        (_, Shape::OneOf(shapes)) => value(key, &shapes[0]),
        ("roles", _) => "{user: [some]}".to_owned(),
        (_, Shape::Map(_)) => "{content: some}".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn errors(text: &str) -> String {
    load_str("c.yaml", text).map_or_else(|errors| errors.to_string(), |_| String::new())
}

#[test]
fn every_key_of_a_data_set_has_its_readers() {
    for (key, _) in fields("datasets") {
        let listed = KEYS.iter().filter(|(name, _)| *name == key).count();
        let of_all = usize::from(OF_ALL.contains(&key.as_str()));
        assert_eq!(listed + of_all, 1, "{key}");
    }
    let Some(Shape::OneOf(shapes)) = fields("datasets")
        .into_iter()
        .find_map(|(key, shape)| (key == "type").then_some(shape))
    else {
        panic!("no type");
    };
    let own = shapes.iter().find_map(|shape| match shape {
        Shape::Struct { properties, .. } => Some(properties),
        _ => None,
    });
    let mut names: Vec<&str> = own.unwrap().iter().map(|(name, _)| name.as_str()).collect();
    let mut listed: Vec<&str> = OWN_KEYS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    listed.sort_unstable();
    assert_eq!(names, listed);
}

/// Each key of a data set with each `type` under each objective, in the training data and
/// in the evaluation data: accepted where the rows have a use for it, else an error at its
/// line and no other.
#[test]
fn a_key_is_read_or_an_error() {
    let fields = fields("datasets");
    for (asked, task) in TASKS {
        for (written, strategy) in types() {
            let rows = rows(task, strategy.as_ref());
            // All keys at once: those that are read are not mentioned.
            let mut text = format!(
                "base_model: m\nlearning_rate: 1e-3\n{asked}chat_template: chatml\ndatasets:\n- path: a.jsonl\n  type: {written}\n"
            );
            let mut unread = Vec::new();
            for (key, shape) in &fields {
                if ["path", "type", "chat_template_jinja"].contains(&key.as_str()) {
                    continue;
                }
                let read = KEYS.iter().find(|(name, _)| name == key);
                let line = text.lines().count() + 1;
                text += &format!("  {key}: {}\n", value(key, shape));
                if !read.is_none_or(|(_, of)| rows.is_some_and(|rows| of.contains(&rows))) {
                    unread.push((key, line));
                }
            }
            let found = errors(&text);
            let what = format!("{asked}{written}: {found}");
            if rows.is_none() {
                assert!(found.contains("`datasets.0.type"), "{what}");
                assert!(found.ends_with("\n1 error in the configuration"), "{what}");
                continue;
            }
            assert_eq!(found.matches("error: ").count(), unread.len(), "{what}");
            for (key, line) in unread {
                let message = format!("`datasets.0.{key}` has no effect");
                let error = found.split("\n\n").find(|error| error.contains(&message));
                let error = error.unwrap_or_else(|| panic!("{key} of {what}"));
                assert!(error.contains(&format!("c.yaml:{line}:")), "{what}");
            }
        }
    }
}

#[test]
fn a_key_of_a_mapping_is_read_or_an_error() {
    for (asked, task) in TASKS {
        for (key, of) in OWN_KEYS {
            let value = match key {
                "system_format" => "\"{system}\"",
                "format" | "no_input_format" => "\"{instruction}\"",
                "prompt_format" => "\"{prompt}\"",
                "chosen_format" => "\"{chosen}\"",
                "rejected_format" => "\"{rejected}\"",
                "completion_format" => "\"{completion}\"",
                _ => "some",
            };
            let text = format!(
                "base_model: m\nlearning_rate: 1e-3\n{asked}datasets:\n- path: a.jsonl\n  type:\n    {key}: {value}\n"
            );
            let found = errors(&text);
            let own = S::UserDefined(Box::default());
            match rows(task, Some(&own)) {
                None => assert!(
                    found.contains("holds no preferences"),
                    "{asked}{key}: {found}"
                ),
                Some(rows) if key == "field_system" && rows != Own => {
                    assert!(
                        found.contains("needs `{system}` in `prompt_format`"),
                        "{found}"
                    );
                    let text = text.replace(key, "prompt_format: \"{system}\"\n    field_system");
                    assert_eq!(errors(&text), "", "{asked}{key}");
                }
                Some(rows) if of.contains(&rows) => assert_eq!(found, "", "{asked}{key}"),
                Some(_) => {
                    let message = format!("`datasets.0.type.{key}` does not fit the objective");
                    assert!(found.contains(&message), "{asked}{key}: {found}");
                    assert!(found.ends_with("\n1 error in the configuration"), "{found}");
                }
            }
        }
    }
}

/// Keys of the top level that are about rows, with every kind of data.
#[test]
fn a_key_of_the_file_is_read_by_some_rows_or_an_error() {
    for (asked, task) in TASKS {
        for (written, strategy) in types() {
            let Some(rows) = rows(task, strategy.as_ref()) else {
                continue;
            };
            let mut text = "base_model: m\nlearning_rate: 1e-3\n".to_owned();
            let mut unread = Vec::new();
            for (key, of) in TOP {
                let value = match key {
                    "eot_tokens" => "[\"<|im_end|>\"]",
                    "chat_template_kwargs" => "{enable_thinking: true}",
                    "default_system_message" => "Be brief.",
                    _ => "true",
                };
                if key == "train_on_inputs" && task != Task::Sft {
                    continue; // a rule of preferences
                }
                text += &format!("{key}: {value}\n");
                if !of.contains(&rows) {
                    unread.push((key, text.lines().count()));
                }
            }
            text += &format!("{asked}datasets:\n- path: a.jsonl\n  type: {written}\n");
            let found = errors(&text);
            let what = format!("{asked}{written}: {found}");
            assert_eq!(found.matches("error: ").count(), unread.len(), "{what}");
            for (key, line) in unread {
                let message = format!("`{key}` has no effect");
                let error = found.split("\n\n").find(|error| error.contains(&message));
                assert!(
                    error.is_some_and(|error| error.contains(&format!("c.yaml:{line}:"))),
                    "{what}"
                );
            }
        }
    }
    // One of several data sets is enough, and a stream of plain text has no chats.
    let mixed = "base_model: m\nlearning_rate: 1e-3\neot_tokens: [x]\ndatasets:\n\
                 - {path: a, type: alpaca}\n- {path: b, type: chat_template}\n";
    assert_eq!(errors(mixed), "");
    let stream = "base_model: m\nlearning_rate: 1e-3\nmax_steps: 5\neot_tokens: [x]\n\
                  pretraining_dataset:\n- {path: a}\n";
    assert!(errors(stream).contains("`eot_tokens` has no effect"));
}
