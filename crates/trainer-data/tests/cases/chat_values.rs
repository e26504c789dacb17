//! Values of tools and calls keep their meaning: JSON in text, nulls that were
//! written, long integers.

use serde_json::{Value, json};

use crate::conversations::{Run, TOOLS};

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "integer", "enum": [1, 2]}}, "required": ["n"]}}})
}

fn printed(tools: Value) -> Result<String, String> {
    let row = json!({"tools": tools, "messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
    ]});
    let samples = Run::new(row).jinja(TOOLS).samples()?;
    let text = samples[0].1.clone();
    let (tools, _) = text.split_once("<|im_end|>").unwrap();
    Ok(tools.replace("<|im_start|>tools\n", ""))
}

/// Wherever a tool, or a part of it that is an object, is JSON in text, it is the same.
#[test]
fn tools_in_text_at_every_depth() {
    let text = |value: &Value| Value::from(value.to_string());
    let at = |pointer: &str| {
        let mut tool = tool();
        let place = tool.pointer_mut(pointer).unwrap();
        *place = text(place);
        tool
    };
    let expected = printed(json!([tool()])).unwrap();
    assert_eq!(
        expected,
        "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"integer\", \"enum\": [1, 2]}}, \"required\": [\"n\"]}}}\n"
    );
    for tools in [
        text(&json!([tool()])),
        json!([text(&tool())]),
        text(&json!([text(&tool())])),
        json!([at("/function")]),
        json!([at("/function/parameters")]),
        json!([at("/function/parameters/properties")]),
        json!([at("/function/parameters/properties/n")]),
        json!([at("/function/parameters/properties/n/enum")]),
        json!([at("/function/parameters/required")]),
        text(&json!([at("/function/parameters")])),
    ] {
        assert_eq!(printed(tools.clone()).unwrap(), expected, "{tools}");
    }
    // Texts that are texts.
    let words = json!([{"name": "f", "description": "{\"a\": 1}", "parameters": {"properties": {"x": {"default": "[1]"}}}}]);
    assert_eq!(
        printed(words).unwrap(),
        "{\"name\": \"f\", \"description\": \"{\\\"a\\\": 1}\", \"parameters\": {\"properties\": {\"x\": {\"default\": \"[1]\"}}}}\n"
    );
}

#[test]
fn tools_that_are_none() {
    for (tools, expected) in [
        (
            json!("{"),
            "`tools` has to be a list of tools, but is text that is not JSON (EOF while parsing an object at line 1 column 1)",
        ),
        (
            json!("{\"name\": \"f\"}"),
            "`tools` has to be a list of tools, not text",
        ),
        (
            json!(["look"]),
            "`tools[0]` is text that is not JSON (expected value at line 1 column 1); give an object, or the JSON of one",
        ),
        (
            json!(["[1]"]),
            "`tools[0]` has to be an object, or the JSON of one, not a list",
        ),
        (
            json!([{"name": "f", "parameters": "any"}]),
            "`tools[0].parameters` is text that is not JSON (expected value at line 1 column 1); give an object, or the JSON of one",
        ),
        (
            json!([7]),
            "`tools[0]` has to be the definition of a tool, an object, not a number",
        ),
    ] {
        let error = printed(tools).unwrap_err();
        assert_eq!(error, format!("data.jsonl, line 1: {expected}"));
    }
}

fn called(arguments: Value) -> String {
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": arguments}},
        ]},
    ]});
    let spans = Run::new(row).jinja(TOOLS).spans();
    let call = spans[0].strip_prefix("<tool_call>{\"name\": \"f\", \"arguments\": ");
    let call = call.unwrap().strip_suffix("}</tool_call><|im_end|>");
    call.unwrap().to_owned()
}

#[test]
fn json_in_text_is_printed_as_it_stands() {
    for (text, expected) in [
        (r#"{"a": null, "b": [null, {"c": null}]}"#, None),
        (r#"{"a": 40302010908070605040302}"#, None),
        (r#"{"a": -40302010908070605040302}"#, None),
        (
            r#"{"a": 18446744073709551615, "b": 18446744073709551616}"#,
            None,
        ),
        (
            r#"{"a": 170141183460469231731687303715884105728000000000}"#,
            None,
        ),
        (r#"{"a": "40302010908070605040302"}"#, None),
        // As Python writes floats.
        (
            r#"{"a": 1.0, "b": 1e30}"#,
            Some(r#"{"a": 1.0, "b": 1e+30}"#),
        ),
        ("", Some("{}")),
    ] {
        assert_eq!(called(json!(text)), expected.unwrap_or(text));
    }
    // So are the nulls of objects in JSON files.
    assert_eq!(
        called(json!({"a": null, "b": [null]})),
        r#"{"a": null, "b": [null]}"#
    );
}

#[test]
fn long_integers_of_rows() {
    let lab = crate::support::Lab::new("<|im_end|>");
    let long = "40302010908070605040302";
    let text = format!(
        r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "", "tool_calls": [{{"function": {{"name": "f", "arguments": {{"x": {long}, "y": [{long}]}}}}}}]}}]}}"#
    );
    for (name, text) in [
        ("data.jsonl", text.clone()),
        ("data.json", format!("[{text}]")),
    ] {
        let path = lab.write(name, text);
        let config = trainer_config::Config {
            chat_template_jinja: Some(TOOLS.into()),
            ..crate::support::config(trainer_config::Dataset {
                path,
                strategy: Some(trainer_config::PromptStrategy::ChatTemplate),
                ..trainer_config::Dataset::default()
            })
        };
        let tokenizer = lab.tokenizer();
        let prepared = trainer_data::prepare(&config, &tokenizer).unwrap();
        let text = tokenizer
            .decode(&prepared.train[0].input_ids, false)
            .unwrap();
        let expected = format!("{{\"x\": {long}, \"y\": [{long}]}}");
        assert!(text.contains(&expected), "{text}");
    }
    // Where text is due, it is a number as before.
    let row = format!(r#"{{"messages": [{{"role": "user", "content": {long}}}]}}"#);
    let path = lab.write("number.jsonl", row);
    let config = crate::support::config(trainer_config::Dataset {
        path,
        strategy: Some(trainer_config::PromptStrategy::ChatTemplate),
        chat_template: Some("chatml".into()),
        ..trainer_config::Dataset::default()
    });
    let error = trainer_data::prepare(&config, &lab.tokenizer()).unwrap_err();
    assert!(error.to_string().ends_with(
        "`messages[0].content` has to be text or a list of parts, not an integer beyond 64 bits"
    ));
}
