//! Data sets as they are: calls and results under the roles of ShareGPT and others,
//! parts of contents, media, columns that nothing reads.

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy};
use trainer_data::prepare;

use crate::conversations::{Run, TOOLS, strings, tokenizer};
use crate::support::{Lab, config};

const CALL: &str = "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call><|im_end|>";

fn sharegpt(call: &str, value: Value, result: &str) -> Value {
    json!({"conversations": [
        {"from": "human", "value": "q"},
        {"from": call, "value": value},
        {"from": result, "value": "r"},
        {"from": "gpt", "value": "a"},
    ]})
}

/// Whatever the role is called, a call is one of the assistant and a result one of a
/// tool; neither has to be configured.
#[test]
fn calls_and_results_under_other_roles() {
    let value = json!("{\"name\": \"f\", \"arguments\": {\"x\": 1}}");
    let expected = Run::new(json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "a"},
    ]}))
    .jinja(TOOLS)
    .samples()
    .unwrap();
    assert_eq!(expected[0].0, [CALL, "a<|im_end|>"]);
    for call in [
        "function_call",
        "tool_call",
        "tool_calls",
        "function-call",
        "Function_Call",
    ] {
        for result in [
            "observation",
            "tool",
            "function",
            "function_response",
            "tool_response",
            "tool_result",
            "tool_results",
            "ipython",
        ] {
            let samples = Run::new(sharegpt(call, value.clone(), result))
                .jinja(TOOLS)
                .samples();
            assert_eq!(samples.unwrap(), expected, "{call}, {result}");
        }
    }
    // The same with names that the configuration gives.
    let row = json!({"chat": [
        {"who": "human", "text": "q"},
        {"who": "function_call", "text": value},
        {"who": "observation", "text": "r"},
        {"who": "gpt", "text": "a"},
    ]});
    let samples = Run::new(row).jinja(TOOLS).with(|dataset, _| {
        dataset.field_messages = Some("chat".into());
        let names = [("role", "who"), ("content", "text")];
        dataset.message_property_mappings =
            Some(names.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    });
    assert_eq!(samples.samples().unwrap(), expected);
}

#[test]
fn ways_of_writing_a_call() {
    for value in [
        json!("{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}"),
        json!("[{\"name\": \"f\", \"arguments\": {\"x\": 1}}]"),
        json!("{\"name\": \"f\", \"parameters\": {\"x\": 1}}"),
        json!(
            "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1}}}"
        ),
        json!({"name": "f", "arguments": {"x": 1}}),
        json!([{"name": "f", "arguments": {"x": 1}}]),
    ] {
        let spans = Run::new(sharegpt("function_call", value.clone(), "observation"))
            .jinja(TOOLS)
            .spans();
        assert_eq!(spans, [CALL, "a<|im_end|>"], "{value}");
    }
    let two = json!("[{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\"}]");
    assert_eq!(
        Run::new(sharegpt("function_call", two, "observation"))
            .jinja(TOOLS)
            .spans()[0],
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call><tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call><|im_end|>"
    );
    // With reasoning in front.
    let thought = json!("<think>why</think>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}");
    assert_eq!(
        Run::new(sharegpt("function_call", thought, "observation"))
            .jinja(TOOLS)
            .spans()[0],
        format!("<think>\nwhy\n</think>\n\n{CALL}")
    );
    // OpenAI's older form.
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"x\": 1}"}},
        {"role": "function", "name": "f", "content": "r"},
        {"role": "assistant", "content": "a"},
    ]});
    assert_eq!(
        Run::new(row).jinja(TOOLS).samples().unwrap()[0].0,
        [CALL, "a<|im_end|>"]
    );
    for (value, expected) in [
        (
            json!("look it up"),
            "`conversations[1].content` has to be calls of tools, the JSON of `{\"name\": ..., \"arguments\": ...}` or of a list of them, but is text that is not JSON (expected value at line 1 column 1); `roles` says what the role stands for",
        ),
        (
            json!("{\"arguments\": {}}"),
            "`conversations[1].content.name` has to be the name of a tool, not null",
        ),
        (
            json!("[1]"),
            "`conversations[1].content` has to be a call of a tool, an object with a name, not a number",
        ),
    ] {
        let error = Run::new(sharegpt("function_call", value, "observation"))
            .jinja(TOOLS)
            .error();
        assert_eq!(error, format!("data.jsonl, line 1: {expected}"));
    }
}

#[test]
fn roles_of_the_configuration_come_first() {
    // A call as text, trained as it stands.
    let row = sharegpt("function_call", json!("f(1)"), "observation");
    let spans = Run::new(row.clone())
        .with(|dataset, _| {
            let role = ("assistant".to_owned(), strings(&["function_call"]));
            dataset.roles = Some([role].into());
        })
        .spans();
    assert_eq!(spans, ["f(1)<|im_end|>", "a<|im_end|>"]);
    // Only calls are trained.
    let row = sharegpt(
        "function_call",
        json!("{\"name\": \"f\", \"arguments\": {\"x\": 1}}"),
        "observation",
    );
    let spans = Run::new(row)
        .jinja(TOOLS)
        .with(|dataset, _| dataset.roles_to_train = Some(strings(&["function_call"])))
        .spans();
    assert_eq!(spans, [CALL]);
}

#[test]
fn parts_with_values_reasoning_and_calls() {
    let row = json!({"messages": [
        {"role": "system", "content": [{"type": "text", "value": "S"}]},
        {"role": "user", "content": [{"type": "text", "value": "q"}]},
        {"role": "assistant", "content": [
            {"type": "reasoning", "value": "why"},
            {"type": "tool_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        ]},
        {"role": "tool", "content": [{"type": "text", "value": "r"}]},
        {"role": "assistant", "content": [{"type": "text", "value": "a"}]},
    ]});
    let samples = Run::new(row).jinja(TOOLS).samples().unwrap();
    assert_eq!(
        samples[0].0,
        [
            format!("<think>\nwhy\n</think>\n\n{CALL}"),
            "a<|im_end|>".to_owned()
        ]
    );
    assert!(
        samples[0]
            .1
            .contains("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>")
    );
}

/// Rows of chats and what is said about them.
fn said(rows: &[Value], change: impl FnOnce(&mut Dataset)) -> Result<Vec<(String, usize)>, String> {
    let lab = Lab::new("<|im_end|>");
    let mut dataset = lab.rows(PromptStrategy::ChatTemplate, rows);
    change(&mut dataset);
    let config = Config {
        chat_template: Some("chatml".into()),
        ..config(dataset)
    };
    let prepared =
        prepare(&config, &tokenizer("<|im_end|>")).map_err(|error| lab.message(&error))?;
    let warnings = prepared.ledger.warnings();
    Ok(warnings
        .map(|warning| (warning.message.clone(), warning.rows))
        .collect())
}

fn plain(further: Value) -> Value {
    let mut row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    for (key, value) in further.as_object().unwrap() {
        row[key] = value.clone();
    }
    row
}

#[test]
fn media_are_refused() {
    for (column, value) in [
        ("images", json!(["a.png"])),
        ("images", json!([{"bytes": null, "path": "a.png"}])),
        ("videos", json!("a.mp4")),
        ("audios", json!([{"path": "a.wav"}])),
    ] {
        assert_eq!(
            said(&[plain(json!({column: value}))], |_| ()).unwrap_err(),
            format!(
                "data.jsonl, line 1: `{column}` holds media, which the model would not see, as it reads text alone: take the row out, or remove `{column}` if the text stands by itself"
            )
        );
    }
    // One that may have nothing to do with the conversation, unless a mark says so.
    for value in [json!("a.png"), json!({"bytes": null, "path": "a.png"})] {
        assert_eq!(
            said(&[plain(json!({"image": value}))], |_| ()).unwrap(),
            [("the column `image` is not read, as the model reads text alone: the answers are trained without it".to_owned(), 1)]
        );
    }
    let row = json!({"image": "a.png", "messages": [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "a"}]});
    assert!(
        said(&[row], |_| ())
            .unwrap_err()
            .contains("`image` holds media")
    );
    for value in [
        json!(null),
        json!([]),
        json!(""),
        json!([null]),
        json!({"bytes": null, "path": null}),
    ] {
        assert_eq!(
            said(&[plain(json!({"images": value}))], |_| ()).unwrap(),
            []
        );
    }
    let row = json!({"messages": [{"role": "user", "content": "q", "images": ["a.png"]}, {"role": "assistant", "content": "a"}]});
    assert!(
        said(&[row], |_| ())
            .unwrap_err()
            .contains("`messages[0].images` holds media")
    );
    let row = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]});
    assert!(
        said(&[row], |_| ())
            .unwrap_err()
            .contains("`messages[0].content[0]` is of type `image_url`")
    );
    // A mark that stands for nothing is text.
    let row = json!({"messages": [{"role": "user", "content": "What is <image>?"}, {"role": "assistant", "content": "a"}]});
    assert_eq!(
        said(&[row.clone(), row], |_| ()).unwrap(),
        [("messages hold the mark `<image>`, but rows have no column of media: it is trained as the text it is".to_owned(), 2)]
    );
}

#[test]
fn what_would_be_natural_to_read_is_said() {
    assert_eq!(
        said(
            &[plain(json!({"system": "S"})), plain(json!({"system": ""}))],
            |_| ()
        )
        .unwrap(),
        [(
            "the column `system` is not read; `field_system: system` makes it the system message"
                .to_owned(),
            1
        )]
    );
    let named = |dataset: &mut Dataset| dataset.field_system = Some("system".into());
    assert_eq!(said(&[plain(json!({"system": "S"}))], named).unwrap(), []);
    for (column, value) in [
        ("functions", json!([{"name": "f"}])),
        ("documents", json!([{"text": "d"}])),
        ("chat_template_kwargs", json!({"enable_thinking": false})),
    ] {
        let said = said(&[plain(json!({column: value}))], |_| ()).unwrap();
        assert!(
            said[0]
                .0
                .starts_with(&format!("the column `{column}` is not read; "))
        );
    }
    let own = json!({"messages": [{"role": "system", "content": "S", "tools": [{"name": "f"}]}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    assert!(
        said(&[own], |_| ()).unwrap()[0]
            .0
            .contains("does not print the property `tools`")
    );
    let weighted = |user: Value, assistant: Value| {
        json!({"messages": [
            {"role": "user", "content": "q", "loss_weight": user},
            {"role": "assistant", "content": "a", "loss_weight": assistant},
        ]})
    };
    // What the roles say anyway.
    assert_eq!(
        said(&[weighted(json!(0.0), json!(1.0))], |_| ()).unwrap(),
        []
    );
    assert_eq!(
        said(&[weighted(json!(0.0), json!(1.0)), weighted(json!(1), json!(1))], |_| ()).unwrap(),
        [("messages have a property `loss_weight` that says what is trained, and the roles say otherwise: it is not read; set `message_field_training: loss_weight`".to_owned(), 1)]
    );
    let read = |dataset: &mut Dataset| dataset.message_field_training = Some("loss_weight".into());
    assert_eq!(said(&[weighted(json!(1), json!(1))], read).unwrap(), []);
}

#[test]
fn a_sequence_begins_once() {
    // The tokenizer puts `<s>` in front of every text, and templates print it too.
    for template in ["alpaca", "mistral_v1", "mistral_v7_tekken", "pixtral"] {
        let spans = Run::new(plain(json!({})))
            .eos("</s>")
            .with(|_, config| config.chat_template = Some(template.into()))
            .samples()
            .unwrap();
        assert_eq!(spans[0].1.matches("<s>").count(), 1, "{template}");
        assert!(spans[0].1.starts_with("<s>"), "{template}");
    }
    // Also as text of the template, where no role names the token.
    let literal = "<s>{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    let samples = Run::new(plain(json!({}))).jinja(literal).samples().unwrap();
    assert_eq!(samples[0].1.matches("<s>").count(), 1);
}
