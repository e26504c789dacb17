//! What a row holds and a template does not print: never without a word.

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy, TrainOnEos};
use trainer_data::stream::{SampleStream, StreamOptions};
use trainer_data::{ChatTemplate, Ledger, Tokenizer, prepare, prepare_cached};

use crate::conversations::{Run, strings, tokenizer};
use crate::support::{Lab, config};

/// A word that no template prints by itself.
const SECRET: &str = "Quokka";

fn call(name: &str, arguments: Value) -> Value {
    json!({"id": "c12345678", "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}})
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn result(content: &str) -> Value {
    json!({"role": "tool", "content": content, "tool_call_id": "c12345678", "name": "look"})
}

/// Every kind of content, with the secret in it: its name and the row.
fn kinds() -> Vec<(&'static str, Value)> {
    let user = turn("user", "Where?");
    let answer = turn("assistant", "Here.");
    let calls = |content: Value, call: Value, tools: Value| {
        json!({"tools": tools, "messages": [
            user,
            {"role": "assistant", "content": content, "tool_calls": [call]},
            result("found"),
            answer,
        ]})
    };
    let plain = call("look", json!({"at": "it"}));
    let messages = |messages: Value| json!({"messages": messages});
    let mut described = tool();
    described["function"]["description"] = json!(SECRET);
    let mut shaped = tool();
    shaped["function"]["parameters"]["properties"] = json!({SECRET: {"type": "string"}});
    vec![
        (
            "system",
            messages(json!([turn("system", SECRET), user, answer])),
        ),
        (
            "a later system message",
            messages(json!([
                turn("system", "S"),
                user,
                answer,
                turn("system", SECRET),
                user,
                answer
            ])),
        ),
        (
            "developer",
            messages(json!([turn("developer", SECRET), user, answer])),
        ),
        (
            "another role",
            messages(json!([turn("critic", SECRET), user, answer])),
        ),
        ("user", messages(json!([turn("user", SECRET), answer]))),
        ("answer", messages(json!([user, turn("assistant", SECRET)]))),
        (
            "earlier answer",
            messages(json!([user, turn("assistant", SECRET), user, answer])),
        ),
        (
            "name of a call",
            calls(
                json!(""),
                call(SECRET, json!({"at": "it"})),
                json!([tool()]),
            ),
        ),
        (
            "call without content",
            calls(
                Value::Null,
                call(SECRET, json!({"at": "it"})),
                json!([tool()]),
            ),
        ),
        (
            "argument",
            calls(
                json!(""),
                call("look", json!({"at": SECRET})),
                json!([tool()]),
            ),
        ),
        (
            "argument in text",
            calls(
                json!(""),
                call("look", json!(format!("{{\"at\": \"{SECRET}\"}}"))),
                json!([tool()]),
            ),
        ),
        (
            "name of an argument",
            calls(json!(""), call("look", json!({SECRET: 1})), json!([tool()])),
        ),
        (
            "text beside a call",
            calls(json!(SECRET), plain.clone(), json!([tool()])),
        ),
        (
            "call without tools",
            calls(json!(""), call(SECRET, json!({})), Value::Null),
        ),
        (
            "result",
            json!({"tools": [tool()], "messages": [
                user, {"role": "assistant", "content": "", "tool_calls": [plain]}, result(SECRET), answer,
            ]}),
        ),
        (
            "call in ShareGPT's words",
            json!({"conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "function_call", "value": format!("{{\"name\": \"{SECRET}\", \"arguments\": {{\"at\": \"it\"}}}}")},
                {"from": "observation", "value": "found"},
                {"from": "gpt", "value": "Here."},
            ]}),
        ),
        (
            "result in ShareGPT's words",
            json!({"conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "function_call", "value": "{\"name\": \"look\", \"arguments\": {\"at\": \"it\"}}"},
                {"from": "observation", "value": SECRET},
                {"from": "gpt", "value": "Here."},
            ]}),
        ),
        (
            "name of a tool",
            json!({"messages": [user, answer], "tools": [{"type": "function", "function": {"name": SECRET, "parameters": {}}}]}),
        ),
        (
            "description of a tool",
            json!({"messages": [user, answer], "tools": [described]}),
        ),
        (
            "parameter of a tool",
            json!({"messages": [user, answer], "tools": [shaped]}),
        ),
        (
            "reasoning",
            messages(
                json!([user, {"role": "assistant", "content": "Here.", "reasoning_content": SECRET}]),
            ),
        ),
        (
            "earlier reasoning",
            messages(
                json!([user, {"role": "assistant", "content": "Here.", "reasoning_content": SECRET}, user, answer]),
            ),
        ),
        (
            "reasoning under another name",
            messages(json!([user, {"role": "assistant", "content": "Here.", "thinking": SECRET}])),
        ),
        (
            "reasoning as a part",
            messages(json!([user, {"role": "assistant", "content": [
                {"type": "reasoning", "value": SECRET}, {"type": "text", "value": "Here."},
            ]}])),
        ),
        (
            "a named property",
            messages(json!([{"role": "user", "content": "Where?", "mood": SECRET}, answer])),
        ),
    ]
}

struct Outcome {
    texts: Vec<String>,
    warnings: Vec<String>,
}

fn run(lab: &Lab, tokenizer: &Tokenizer, row: &Value, template: &str) -> Result<Outcome, String> {
    let dataset = Dataset {
        message_property_mappings: Some([("mood".to_owned(), "mood".to_owned())].into()),
        // The tokenizer lacks the tokens of most templates.
        train_on_eos: Some(TrainOnEos::None),
        ..lab.rows(PromptStrategy::ChatTemplate, std::slice::from_ref(row))
    };
    let config = Config {
        chat_template: Some(template.into()),
        ..config(dataset)
    };
    let prepared = prepare(&config, tokenizer).map_err(|error| lab.message(&error))?;
    Ok(Outcome {
        texts: prepared
            .train
            .iter()
            .map(|sample| tokenizer.decode(&sample.input_ids, false).unwrap())
            .collect(),
        warnings: prepared
            .ledger
            .warnings()
            .map(ToString::to_string)
            .collect(),
    })
}

/// What becomes of each kind with each bundled template: printed, warned of, or an
/// error (because the template refuses it, or because it is trained and lost).
const TABLE: &[(&str, &str)] = &[
    ("alpaca", "peeepppeeeeeeeeeewwwwwwww"),
    ("aya", "peeepppeeeeeeeeeewwwwwwww"),
    ("chatml", "pppppppeeeeeeeeeewwwwwwww"),
    ("cohere", "peeepppeeeeeeeeeewwwwwwww"),
    ("deepseek_v2", "ppwwpppeeeeeeeeeewwwwwwww"),
    ("deepseek_v3", "ppwwpppppppppppppwwwwwwww"),
    ("exaone", "pppppppeeeeeeeeeewwwwwwww"),
    ("exaone4", "ppeeppppppppppppppppeewew"),
    ("falcon_h1", "pepppppeeeeeeeeeepppwwwww"),
    ("gemma", "eeeepppeeeeeeeeeewwwwwwww"),
    ("gemma3", "peeepppeeeeeeeeeewwwwwwww"),
    ("gemma3n", "peeepppeeeeeeeeeewwwwwwww"),
    ("gemma4", "ppppppppppppppppppppeewew"),
    ("gemma4_unified", "ppppppppppppppppppppeewew"),
    ("jamba", "ppppppppppppppppppppwwwww"),
    ("llama3", "pppppppeeeeeeeeeewwwwwwww"),
    ("llama3_2_vision", "ppppppppppppepppppppwwwww"),
    ("llama4", "ppppppppppppppppppppwwwww"),
    ("llava", "peeepppeeeeeeeeeewwwwwwww"),
    ("metharme", "ppeepppeeeeeeeeeewwwwwwww"),
    ("mistral_v1", "peeepppeeeeeeeeeewwwwwwww"),
    ("mistral_v2v3", "weeeppppppppeppeepppwwwww"),
    ("mistral_v3_tekken", "weeeppppppppeppeepppwwwww"),
    ("mistral_v7_tekken", "ppeepppeeeeeeeeeewwwwwwww"),
    ("nemotron_h", "peeepppeeeeeeeeeewwwwwwww"),
    ("phi_3", "ppwwpppeeeeeeeeeewwwwwwww"),
    ("phi_35", "ppwwpppeeeeeeeeeewwwwwwww"),
    ("pixtral", "weeepppeeeeeeeeeewwwwwwww"),
    ("qwen2_vl", "pppppppeeeeeeeeeewwwwwwww"),
    ("qwen3", "ppwwppppppppppppppppppwpw"),
    ("qwen3_5", "peeeppppppppppppppppppwpw"),
    ("qwen_25", "ppwwppppppppppppppppwwwww"),
];

/// With every bundled template, every kind of content is among the tokens, or an error
/// or a warning names the row.
#[test]
fn nothing_is_lost_in_silence() {
    let lab = Lab::new("</s>");
    let tokenizer = tokenizer("</s>");
    let names: Vec<&str> = ChatTemplate::bundled().collect();
    let listed: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, listed);
    for (template, expected) in TABLE {
        let mut found = String::new();
        for (kind, row) in kinds() {
            found.push(match run(&lab, &tokenizer, &row, template) {
                Ok(outcome) if outcome.texts.iter().any(|text| text.contains(SECRET)) => 'p',
                Ok(outcome) => {
                    let named = |warning: &String| warning.contains("data.jsonl, line 1, `");
                    let said = outcome.warnings.iter().any(named);
                    assert!(said, "{template}, {kind}: {:?}", outcome.texts);
                    'w'
                }
                Err(error) => {
                    let named = error.starts_with("data.jsonl, line 1: ");
                    assert!(named, "{template}, {kind}: {error}");
                    'e'
                }
            });
        }
        assert_eq!(found, *expected, "{template}");
    }
}

fn warnings(row: Value, template: &str) -> Vec<String> {
    let lab = Lab::new("</s>");
    run(&lab, &tokenizer("</s>"), &row, template)
        .unwrap()
        .warnings
        .iter()
        .map(|warning| warning.replace(&lab.path().display().to_string(), ""))
        .map(|warning| warning.replace("/data.jsonl", "data.jsonl"))
        .collect()
}

#[test]
fn what_is_trained_and_lost_is_an_error() {
    let row = json!({"tools": [tool()], "messages": [
        turn("user", "A table?"),
        {"role": "assistant", "content": "I will ask.", "tool_calls": [call("look", json!({"at": 5}))]},
        turn("tool", "table 9"),
        turn("assistant", "Nine."),
    ]});
    assert_eq!(
        Run::new(row.clone()).error(),
        "data.jsonl, line 1: chat template chatml does not print `messages[1].tool_calls`, which is trained (nor `tools`): the model would learn the turn without it; use a template that prints it, such as that of the model (`chat_template: tokenizer_default`), leave the role out of `roles_to_train`, or take the row out"
    );
    // Left untrained, it is a warning.
    let spans = Run::new(row)
        .with(|dataset, _| dataset.roles_to_train = Some(strings(&["tool"])))
        .spans();
    assert_eq!(spans, ["table 9<|im_end|>"]);
    // Text beside a call that the template of Mistral leaves out.
    let row = json!({"tools": [tool()], "messages": [
        turn("user", "A table?"),
        {"role": "assistant", "content": "I will ask.", "tool_calls": [call("look", json!({"at": 5}))]},
    ]});
    let error = Run::new(row)
        .eos("</s>")
        .with(|_, config| config.chat_template = Some("mistral_v3_tekken".into()))
        .error();
    assert!(
        error.contains("does not print `messages[1].content`, which is trained"),
        "{error}"
    );
    // The second of two calls.
    let first = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0] | tojson }}{% endif %}<|im_end|>\n{% endfor %}";
    let row = json!({"messages": [
        turn("user", "q"),
        {"role": "assistant", "content": "", "tool_calls": [call("f", json!({})), call("g", json!({}))]},
    ]});
    let error = Run::new(row).jinja(first).error();
    assert!(
        error.contains("does not print `messages[1].tool_calls`"),
        "{error}"
    );
    // The name of a call, without what it is called with.
    let name = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}<|im_end|>\n{% endfor %}";
    let row = json!({"messages": [
        turn("user", "q"),
        {"role": "assistant", "content": "", "tool_calls": [call("f", json!({"x": 1}))]},
    ]});
    let error = Run::new(row).jinja(name).error();
    assert!(
        error.contains("`messages[1].tool_calls[0].arguments`"),
        "{error}"
    );
}

#[test]
fn what_stands_before_and_is_lost_is_a_warning() {
    let system = json!({"messages": [turn("system", "Speak like a sailor."), turn("user", "One?"), turn("assistant", "Aye, one.")]});
    assert_eq!(
        warnings(system, "mistral_v3_tekken"),
        [
            "chat template mistral_v3_tekken does not print messages of the role `system`, so that the model does not see it; choose another template, or leave the message out with `drop_system_message: true` (1 row: data.jsonl, line 1, `messages[0].content`)"
        ]
    );
    let tools = json!({"tools": [tool()], "messages": [turn("user", "q"), turn("assistant", "a")]});
    assert_eq!(
        warnings(tools, "chatml"),
        [
            "chat template chatml does not print the definitions in `tools`, so that the model does not see it; choose another template, or take it out of the data (1 row: data.jsonl, line 1, `tools`)"
        ]
    );
    let role = json!({"messages": [turn("developer", "Be brief."), turn("user", "q"), turn("assistant", "a")]});
    assert_eq!(
        warnings(role, "qwen_25"),
        [
            "chat template qwen_25 does not print messages of the role `developer`, so that the model does not see it; choose another template, or take it out of the data (1 row: data.jsonl, line 1, `messages[0].content`)"
        ]
    );
    let reasoning = json!({"messages": [turn("user", "q"), {"role": "assistant", "content": "a", "reasoning_content": "r"}]});
    assert_eq!(
        warnings(reasoning, "chatml"),
        [
            "chat template chatml does not print the property `reasoning_content`, so that the model does not see it; choose another template, or take it out of the data (1 row: data.jsonl, line 1, `messages[1].reasoning_content`)"
        ]
    );
}

#[test]
fn a_template_may_write_in_its_own_way() {
    // Arguments without their names.
    let values = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments.values() | join(', ') }}){% endfor %}<|im_end|>\n{% endfor %}";
    let row = json!({"messages": [
        turn("user", "q"),
        {"role": "assistant", "content": "", "tool_calls": [call("f", json!({"x": 1, "y": "z"}))]},
    ]});
    assert_eq!(Run::new(row).jinja(values).spans(), ["f(1, z)<|im_end|>"]);
    // Capital letters, escapes, and words that depend on the content.
    for template in [
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | tojson(ensure_ascii=true) if m.role == 'user' else m.content }}<|im_end|>\n{% endfor %}",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ 'yes' if m.role == 'user' and m.content == 'q' else m.content }}<|im_end|>\n{% endfor %}",
    ] {
        let row = json!({"messages": [turn("user", "q"), turn("assistant", "a")]});
        let lab = Lab::new("<|im_end|>");
        let dataset = lab.rows(PromptStrategy::ChatTemplate, &[row]);
        let config = Config {
            chat_template_jinja: Some(template.into()),
            ..config(dataset)
        };
        let prepared = prepare(&config, &tokenizer("<|im_end|>")).unwrap();
        assert_eq!(prepared.ledger.warnings().count(), 0, "{template}");
    }
}

/// What a template writes in ASCII alone, and many messages that it leaves out: each
/// kind is looked at once.
#[test]
fn long_conversations() {
    let long = |template: &str| {
        let mut messages = vec![turn("user", "q")];
        for number in 0..200 {
            messages.push(result(&format!("r{number}")));
        }
        messages.push(turn("assistant", "a"));
        let lab = Lab::new("<|im_end|>");
        let dataset = lab.rows(
            PromptStrategy::ChatTemplate,
            &[json!({"messages": messages})],
        );
        let config = Config {
            chat_template_jinja: Some(template.into()),
            ..config(dataset)
        };
        let prepared = prepare(&config, &tokenizer("<|im_end|>")).unwrap();
        let warnings = prepared.ledger.warnings();
        warnings
            .map(|warning| warning.message.clone())
            .collect::<Vec<_>>()
    };
    let ascii = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | tojson(ensure_ascii=true) if m.role == 'tool' else m.content }}<|im_end|>\n{% endfor %}";
    assert_eq!(long(ascii), Vec::<String>::new());
    let without = "{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    let said = long(without);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("messages of the role `tool`"), "{said:?}");
}

/// Rows of which the second and third lose their tools.
fn rows_with_tools(lab: &Lab) -> Config {
    let plain = json!({"messages": [turn("user", "q"), turn("assistant", "a")]});
    let with = json!({"tools": [tool()], "messages": [turn("user", "q"), turn("assistant", "b")]});
    let dataset = lab.rows(PromptStrategy::ChatTemplate, &[plain, with.clone(), with]);
    Config {
        chat_template: Some("chatml".into()),
        ..config(dataset)
    }
}

fn said(ledger: &Ledger) -> Vec<(usize, String)> {
    let warnings = ledger.warnings();
    warnings
        .map(|warning| {
            let first = warning.first.rsplit_once('/').unwrap().1.to_owned();
            (warning.rows, first)
        })
        .collect()
}

#[test]
fn warnings_count_rows_and_stay_with_prepared_data() {
    let lab = Lab::new("<|im_end|>");
    let tokenizer = lab.tokenizer();
    let config = Config {
        dataset_prepared_path: Some(lab.path().join("prepared")),
        ..rows_with_tools(&lab)
    };
    let expected = [(2, "data.jsonl, line 2, `tools`".to_owned())];
    for _ in 0..2 {
        let (prepared, _) = prepare_cached(&config, &tokenizer).unwrap();
        assert_eq!(said(&prepared.ledger), expected);
    }
}

#[test]
fn streams_say_it_too() {
    let lab = Lab::new("<|im_end|>");
    let config = rows_with_tools(&lab);
    let options = StreamOptions::new(&config);
    let mut stream = SampleStream::start(&config, lab.tokenizer().into(), options).unwrap();
    stream.next().unwrap().unwrap();
    assert_eq!(
        said(&stream.ledger()),
        [(2, "data.jsonl, line 2, `tools`".to_owned())]
    );
    assert_eq!(stream.warnings().count(), 1);
}
