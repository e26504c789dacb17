//! The message of every error that bad data can cause.

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy};

use crate::support::{Lab, config, message_of_file as file};

/// The message for these rows.
fn rows(strategy: PromptStrategy, rows: &[Value], change: impl FnOnce(&mut Config)) -> String {
    let lab = Lab::new("</s>");
    let mut config = config(lab.rows(strategy, rows));
    config.chat_template = Some("chatml".into());
    change(&mut config);
    lab.message(&lab.prepare(&config).unwrap_err())
}

fn chat(messages: Value) -> String {
    rows(
        PromptStrategy::ChatTemplate,
        &[json!({"messages": messages})],
        |_| {},
    )
}

#[test]
fn a_file_that_is_not_there() {
    let lab = Lab::new("</s>");
    let path = |path: &str| {
        config(Dataset {
            path: path.into(),
            ..Dataset::default()
        })
    };
    let cwd = std::env::current_dir().unwrap();
    let message = |name: &str| {
        lab.prepare(&path(name))
            .unwrap_err()
            .to_string()
            .replace(&cwd.display().to_string(), "CWD")
    };
    assert_eq!(
        message("tests/data/alpacca.jsonl"),
        "data file tests/data/alpacca.jsonl does not exist in the working directory CWD; did you mean tests/data/alpaca.jsonl?"
    );
    assert_eq!(
        message("nowhere/a.jsonl"),
        "data file nowhere/a.jsonl does not exist in the working directory CWD; nor does the folder nowhere"
    );
    assert_eq!(
        message("zzz.jsonl"),
        "data file zzz.jsonl does not exist in the working directory CWD"
    );
}

#[test]
fn a_format_that_cannot_be_told() {
    assert_eq!(
        file("data.dat", "x"),
        "cannot tell the format of data.dat from its name; set `ds_type` to json, csv, text, parquet or arrow"
    );
    assert_eq!(
        file("data.jsonl.xz", "x"),
        "cannot tell the format of data.jsonl.xz from its name; set `ds_type` to json, csv, text, parquet or arrow; gzip and zstd are unpacked as they are read, other archives have to be unpacked first"
    );
}

#[test]
fn bytes_that_are_not_utf8() {
    for (name, bytes) in [
        ("a.jsonl", &b"{\"text\": \"x\"}\n{\"text\": \"\xff\"}"[..]),
        ("a.json", b"[{\"text\": \"x\"},\n{\"text\": \"\xff\"}]"),
        ("a.txt", b"hello\n0123456789\xff"),
    ] {
        assert_eq!(
            file(name, bytes),
            format!(
                "{name}, line 2: invalid UTF-8 at byte 11 of the line; convert the file to UTF-8"
            )
        );
    }
    assert_eq!(
        file("a.csv", b"text,b\nx,y\nz,\xff\n"),
        "a.csv, line 3: invalid UTF-8 in value 2 of the row that starts here; convert the file to UTF-8"
    );
}

#[test]
fn text_that_is_not_json() {
    assert_eq!(
        file("a.jsonl", "{\"text\": \"x\"}\n{\"text\": x}"),
        "a.jsonl, line 2, column 10: malformed JSON: expected value; the file holds one JSON object a line"
    );
    assert_eq!(
        file("a.jsonl", "{\n\"text\": 1}"),
        "a.jsonl, line 1, column 1: the JSON ends too early (EOF while parsing an object); the file holds one JSON object a line"
    );
    assert_eq!(
        file("a.json", "[{\"text\": \"x\"},\n {\"text\" 1}]"),
        "a.json, line 2, column 10: malformed JSON: expected `:`; the file holds one array of JSON objects"
    );
    assert_eq!(
        file("a.jsonl", "{\"text\": \"x\"}\n7"),
        "a.jsonl, line 2: a row has to be a JSON object with one key a column, not a number"
    );
    assert_eq!(
        file("a.jsonl", format!("{{\"text\": {}", "[".repeat(100_000))),
        "a.jsonl, line 1, column 136: JSON nested deeper than 128 levels"
    );
}

#[test]
fn csv_that_is_ragged() {
    assert_eq!(
        file("a.csv", "text,b\n1,2\n1,2,3\n"),
        "a.csv, line 3: the row has 3 values, the header has 2; a value that contains a comma or a line end has to stand in double quotes"
    );
    assert_eq!(
        file("a.csv", "text,b,text\n"),
        "a.csv, line 1: the header names the column `text` twice"
    );
}

#[test]
fn parquet_that_is_not_parquet() {
    assert_eq!(
        file("a.parquet", "{\"text\": \"this is json\"}"),
        "cannot read a.parquet as Parquet: Parquet error: Invalid Parquet file. Corrupt footer"
    );
    assert_eq!(
        file("a.parquet", ""),
        "cannot read a.parquet as Parquet: EOF: Parquet file too small. Size is 0 but need 8"
    );
}

#[test]
fn rows_that_lack_a_column() {
    assert_eq!(
        rows(
            PromptStrategy::Alpaca,
            &[
                json!({"instruction": "i", "output": "o"}),
                json!({"instruction": "i", "response": "o"})
            ],
            |_| {}
        ),
        "data.jsonl, line 2: no column `output`, which `type: alpaca` needs; the row has `instruction`, `response`; the columns fit `type: gpteacher`"
    );
    assert_eq!(
        rows(PromptStrategy::Completion, &[json!({"body": "i"})], |_| {}),
        "data.jsonl, line 1: no column `text`, which `type: completion` needs; the row has `body`; `field` names the column of the text"
    );
    assert_eq!(
        rows(PromptStrategy::ChatTemplate, &[json!({})], |_| {}),
        "data.jsonl, line 1: no column `messages`, which `type: chat_template` needs; the row has no columns; `field_messages` names the column of the messages"
    );
}

#[test]
fn values_of_another_type() {
    assert_eq!(
        rows(
            PromptStrategy::Alpaca,
            &[json!({"instruction": 7, "output": "o"})],
            |_| {}
        ),
        "data.jsonl, line 1: `instruction` has to be text, not a number"
    );
    assert_eq!(
        rows(PromptStrategy::Completion, &[json!({"text": null})], |_| {}),
        "data.jsonl, line 1: `text` has to be text, not null"
    );
    assert_eq!(
        chat(json!(7)),
        "data.jsonl, line 1: `messages` has to be a list of messages, not a number"
    );
    assert_eq!(
        chat(json!(["hi"])),
        "data.jsonl, line 1: `messages[0]` has to be an object with a role and a content, not text"
    );
    assert_eq!(
        chat(json!([{"role": "user", "content": {"text": "hi"}}])),
        "data.jsonl, line 1: `messages[0].content` has to be text or a list of parts, not an object"
    );
    assert_eq!(
        chat(json!([{"who": "human", "text": "hi"}])),
        "data.jsonl, line 1: `messages[0]` has no `role`; it has `who`, `text`; `message_property_mappings` says which property holds the role"
    );
    let pretokenized = |row| rows(PromptStrategy::Pretokenized, &[row], |_| {});
    assert_eq!(
        pretokenized(json!({"input_ids": [1, "2"], "labels": [1, 2]})),
        "data.jsonl, line 1: `input_ids[1]` has to be an integer, not text"
    );
    assert_eq!(
        pretokenized(json!({"input_ids": [1, 2], "labels": [1]})),
        "data.jsonl, line 1: `labels` has 1 entries, `input_ids` has 2"
    );
    assert_eq!(
        pretokenized(json!({"input_ids": [1, -2], "labels": [1, -2]})),
        "data.jsonl, line 1: `input_ids[1]` is -2, which is no token id"
    );
    assert_eq!(
        pretokenized(json!({"input_ids": [1, 99999], "labels": [1, 99999]})),
        "data.jsonl, line 1: `input_ids[1]` is 99999, beyond the vocabulary of the tokenizer (268); the rows were made with another tokenizer"
    );
    assert_eq!(
        pretokenized(json!({"input_ids": [1, 2], "labels": [1, 3]})),
        "data.jsonl, line 1: `labels[1]` is 3; it has to be the token id 2, or -100 where nothing is trained"
    );
}

#[test]
fn data_sets_that_are_empty_or_all_dropped() {
    assert_eq!(
        file("a.jsonl", "\n\n"),
        "data set a.jsonl has no rows; give a file with rows, or remove the data set"
    );
    assert_eq!(
        file("a.json", "[]"),
        "data set a.json has no rows; give a file with rows, or remove the data set"
    );
    assert_eq!(
        file("a.csv", "text\n"),
        "data set a.csv has no rows; give a file with rows, or remove the data set"
    );
    assert_eq!(
        rows(
            PromptStrategy::Alpaca,
            &[
                json!({"instruction": "i", "output": "o"}),
                json!({"instruction": "i", "output": ""})
            ],
            |config| {
                config.sequence_len = 143;
            }
        ),
        "all 2 rows of data set data.jsonl were dropped: 1 too long, 1 nothing to train; the longest has 144 tokens: raise `sequence_len` (now 143), or set `excess_length_strategy: truncate`; the column `output` has to hold the responses"
    );
    assert_eq!(
        rows(
            PromptStrategy::ChatTemplate,
            &[json!({"messages": [{"role": "user", "content": "x"}]})],
            |_| {}
        ),
        "all 1 rows of data set data.jsonl were dropped: 1 nothing to train; no turn is of a role in `roles_to_train`: check it and `roles`, or set `train_on_inputs: true`"
    );
    assert_eq!(
        rows(
            PromptStrategy::Completion,
            &[json!({"text": "ab"})],
            |config| config.min_sample_len = 9
        ),
        "all 1 rows of data set data.jsonl were dropped: 1 too short; rows may be as short as `min_sample_len` (now 9): lower it"
    );
}

#[test]
fn templates_that_fail() {
    let with = |template: &str| {
        rows(
            PromptStrategy::ChatTemplate,
            &[
                json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}),
                json!({"messages": [{"role": "critic", "content": "x"}, {"role": "assistant", "content": "y"}]}),
            ],
            |config| {
                config.chat_template = None;
                config.chat_template_jinja = Some(template.into());
            },
        )
    };
    assert_eq!(
        with(
            "{% for m in messages %}{% if m.role == 'critic' %}\n{{ raise_exception('no role ' + m.role) }}{% endif %}{{ m.content + eos_token }}{% endfor %}"
        ),
        "data.jsonl, line 2: chat template chat_template_jinja, line 2: no role critic"
    );
    assert_eq!(
        with("{{ messages[0].content.nope() }}{{ messages[1].content }}"),
        "data.jsonl, line 1: chat template chat_template_jinja, line 1: unknown method: string has no method named nope"
    );
    assert_eq!(
        with("{{ messages[0].content }}"),
        "data.jsonl, line 1: chat template chat_template_jinja does not print `messages[1].content`, which is trained: the model would learn the turn without it; use a template that prints it, such as that of the model (`chat_template: tokenizer_default`), leave the role out of `roles_to_train`, or take the row out"
    );
}
