//! Messages in other shapes, parts of contents, reasoning, and calls of tools.

use serde_json::{Value, json};
use trainer_config::{Config, Dataset};

use crate::conversations::{LLAMA3, REASONING, Run, TOOLS, one, strings, talk};

#[test]
fn other_names_of_columns_properties_and_roles() {
    let row = json!({"conversations": [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
        {"from": "narrator", "value": "n"},
    ]});
    let spans = Run::new(row)
        .with(|dataset, _| {
            dataset.field_messages = Some("conversations".into());
            let names = [("role", "from"), ("content", "value")];
            dataset.message_property_mappings =
                Some(names.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
            dataset.roles = Some([("assistant".to_owned(), strings(&["narrator"]))].into());
        })
        .spans();
    assert_eq!(spans, ["a<|im_end|>", "n<|im_end|>"]);
}

#[test]
fn messages_may_be_json_in_text() {
    let row = json!({"messages": talk()["messages"].to_string()});
    assert_eq!(Run::new(row).spans(), ["yo<|im_end|>", "ok<|im_end|>"]);
}

#[test]
fn messages_say_themselves_what_is_trained() {
    let row = json!({"messages": [
        {"role": "user", "content": "hi", "train": true},
        {"role": "assistant", "content": "yo", "train": false},
        {"role": "user", "content": "bye", "train": null},
        {"role": "assistant", "content": "ok"},
    ]});
    let field = |d: &mut Dataset, _: &mut Config| d.message_field_training = Some("train".into());
    assert_eq!(
        Run::new(row).with(field).spans(),
        ["hi<|im_end|>", "ok<|im_end|>"]
    );
    assert_eq!(
        Run::new(json!({"messages": [{"role": "user", "content": "hi", "train": "yes"}]}))
            .with(field)
            .error(),
        "data.jsonl, line 1: `messages[0].train` has to be true or false, not text"
    );
}

#[test]
fn parts_of_contents() {
    let detail = |entries: Value| json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "abcdefgh", "detail": entries}]});
    let entry = |b: usize, e: usize, train: bool| json!({"begin_offset": b, "end_offset": e, "train": train});
    let field =
        |d: &mut Dataset, _: &mut Config| d.message_field_training_detail = Some("detail".into());
    let spans = |entries: Value| Run::new(detail(entries)).with(field).spans();
    assert_eq!(
        spans(json!([
            entry(0, 1, false),
            entry(2, 4, true),
            entry(5, 7, false)
        ])),
        ["cde", "<|im_end|>"]
    );
    // What no entry speaks of is not trained.
    assert_eq!(
        spans(json!([entry(0, 0, true), entry(7, 7, true)])),
        ["a", "h<|im_end|>"]
    );
    assert_eq!(spans(json!([entry(2, 4, false)])), Vec::<String>::new());
    assert_eq!(
        Run::new(detail(json!([entry(2, 8, true)])))
            .with(field)
            .error(),
        "data.jsonl, line 1: `messages[1].detail[0]` is from character 2 to 8, which does not lie in the content of 8 characters; offsets count from 0, the end is included"
    );
    // Characters, not bytes; a token that is partly excluded is not trained.
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "aé🦀z", "detail": [entry(1, 1, true), entry(3, 3, true)]}]});
    assert_eq!(Run::new(row).with(field).spans(), ["é", "z<|im_end|>"]);

    let parts = one(json!([
        {"type": "text", "text": "no", "train": false},
        {"type": "text", "text": "YES"},
        {"type": "text", "text": "w", "weight": 0},
    ]));
    assert_eq!(Run::new(parts).spans(), ["YES", "<|im_end|>"]);
    // The outer white space belongs to parts too, if the template keeps it.
    let parts = one(json!([{"text": " no ", "train": false}, {"text": " YES "}]));
    assert_eq!(Run::new(parts).spans(), [" YES <|im_end|>"]);
    let parts = one(json!([{"text": " no ", "train": false}, {"text": " YES "}]));
    assert_eq!(
        Run::new(parts).eos("</s>").jinja(LLAMA3).spans(),
        [" YES<|eot_id|>"]
    );
    // A part is trained in a turn of any role if it says so.
    let row = json!({"messages": [
        {"role": "user", "content": [{"text": "a"}, {"text": "b", "train": true}]},
        {"role": "assistant", "content": "c"},
    ]});
    assert_eq!(Run::new(row).spans(), ["b<|im_end|>", "c<|im_end|>"]);

    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "reasoning_content": [{"text": "r", "train": false}, {"text": "s"}], "content": [{"text": "x", "weight": 0}, {"text": "y", "weight": 1}]},
    ]});
    assert_eq!(
        Run::new(row).jinja(TOOLS).spans(),
        ["<think>\n", "s\n</think>\n\n", "y<|im_end|>"]
    );
}

#[test]
fn parts_that_the_template_rewrites() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}";
    let content = json!([{"text": "no", "train": false}, {"text": "yes"}]);
    assert!(
        Run::new(one(content))
            .jinja(template)
            .error()
            .starts_with("data.jsonl, line 1: cannot tell which parts of the rendered conversation are the trained parts of `messages[1]` (assistant)")
    );
    // As a whole, the turn is known.
    assert_eq!(
        Run::new(one("yes")).jinja(template).spans(),
        ["YES<|im_end|>"]
    );
}

#[test]
fn reasoning_that_the_template_keeps_for_the_last_turn() {
    let turn = |n: usize| format!("<think>\nr{n}\n</think>\n\na{n}");
    // The opening of the reasoning is trained too; Axolotl starts at `r1`.
    assert_eq!(
        Run::new(one(turn(1))).jinja(REASONING).spans(),
        [turn(1) + "<|im_end|>"]
    );
    // Axolotl trains the first answer as if there had been no reasoning.
    let row = json!({"messages": [
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": turn(1)},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": turn(2)},
    ]});
    let samples = Run::new(row).jinja(REASONING).samples().unwrap();
    let trained: Vec<_> = samples.iter().map(|(spans, _)| spans.clone()).collect();
    assert_eq!(
        trained,
        [[turn(1) + "<|im_end|>"], [turn(2) + "<|im_end|>"]]
    );
    assert_eq!(
        samples[0].1,
        format!(
            "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n",
            turn(1)
        )
    );
    assert!(samples[1].1.contains("assistant\na1<|im_end|>"));
    // Only the first is trained: one sample.
    let row = json!({"messages": [
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": turn(1)},
        {"role": "user", "content": "q"},
    ]});
    let samples = Run::new(row).jinja(REASONING).samples().unwrap();
    assert_eq!(samples.len(), 1);
    assert_eq!(samples[0].0, [turn(1) + "<|im_end|>"]);
}

#[test]
fn reasoning_that_is_lost_is_an_error() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}";
    assert_eq!(
        Run::new(one("<think>r</think>a")).jinja(template).error(),
        "data.jsonl, line 1: chat template chat_template_jinja leaves out the reasoning of `messages[1]`, which would not be trained; use a template that prints it (`template_thinking_key` is the name it reads, now `reasoning_content`), or take the reasoning out of the data"
    );
}

#[test]
fn reasoning_apart_from_the_content() {
    let split = |d: &mut Dataset, _: &mut Config| d.split_thinking = Some(true);
    for content in [
        "<think>\nr\n</think>\n\na",
        "<reasoning>r</reasoning>a",
        "<|begin_of_thought|>r<|end_of_thought|><|begin_of_solution|>a<|end_of_solution|>",
    ] {
        assert_eq!(
            Run::new(one(content)).jinja(TOOLS).with(split).spans(),
            ["<think>\nr\n</think>\n\na<|im_end|>"]
        );
    }
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "why": "r", "content": "a"},
    ]});
    let spans = Run::new(row)
        .jinja(TOOLS)
        .with(|d, _| d.field_thinking = Some("why".into()))
        .spans();
    assert_eq!(spans, ["<think>\nr\n</think>\n\na<|im_end|>"]);
    // A template that knows nothing of it.
    assert!(
        Run::new(one("<think>r</think>a"))
            .with(split)
            .error()
            .contains("leaves out the reasoning")
    );
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "reasoning_content": "r", "content": "a"},
    ]});
    assert_eq!(Run::new(row).spans(), ["a<|im_end|>"]);
}

#[test]
fn calls_of_tools() {
    let call = |arguments: Value| {
        json!({"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}]},
            {"role": "tool", "content": "r", "name": null},
            {"role": "assistant", "content": "a", "tool_calls": null},
        ], "tools": [{"name": "f", "parameters": {"x": {"default": null, "type": "number"}}}]})
    };
    let expected = [
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1.0}}</tool_call><|im_end|>",
        "a<|im_end|>",
    ];
    let samples = Run::new(call(json!({"x": 1.0})))
        .jinja(TOOLS)
        .samples()
        .unwrap();
    assert_eq!(samples[0].0, expected);
    // A null that was written is one; those of messages stand for nothing.
    assert!(samples[0].1.starts_with(
        "<|im_start|>tools\n{\"name\": \"f\", \"parameters\": {\"x\": {\"default\": null, \"type\": \"number\"}}}\n<|im_end|>\n"
    ));
    // Arguments and tools may be JSON in text.
    let mut row = call(json!("{\"x\": 1.0}"));
    row["tools"] = row["tools"].to_string().into();
    let texts = Run::new(row).jinja(TOOLS).samples().unwrap();
    assert_eq!(texts, samples);
    let mut row = call(json!({"x": 1.0}));
    row["functions"] = row["tools"].take();
    let spans = Run::new(row)
        .jinja(TOOLS)
        .with(|d, _| d.field_tools = Some("functions".into()))
        .samples()
        .unwrap();
    assert_eq!(spans, samples);
    assert_eq!(
        Run::new(call(json!("{x"))).jinja(TOOLS).error(),
        "data.jsonl, line 1: `messages[1].tool_calls[0].function.arguments` is text that is not JSON (key must be a string at line 1 column 2); give an object, or the JSON of one"
    );
    // Without content, reasoning or a prompt that says where the turn begins.
    let bare = "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.tool_calls %}[CALL]{{ m.tool_calls[0].function | tojson }}{{ eos_token }}{% elif m.role == 'tool' %}[RESULT]{{ m.content }}[/RESULT]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";
    let mut row = call(json!({"x": 1.0}));
    row["messages"][1]["content"] = json!(null);
    assert_eq!(
        Run::new(row).eos("</s>").jinja(bare).spans(),
        [
            "[CALL]{\"name\": \"f\", \"arguments\": {\"x\": 1.0}}</s>",
            "a</s>"
        ]
    );
}

#[test]
fn calls_of_tools_with_templates_of_models() {
    // Behind the result of a tool stands no prompt, and the list of tools stands
    // before the last question: Mistral. No blank line before a call without
    // content: Qwen 3.
    let call = json!({"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let result = json!({"role": "tool", "content": "r", "tool_call_id": "abcdefghi"});
    let row = json!({
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "messages": [
            {"role": "user", "content": "p"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            result,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            result,
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "b"},
        ],
    });
    let spans = |template: &str, eos| {
        let template = template.to_owned();
        Run::new(row.clone())
            .eos(eos)
            .with(|_, config| config.chat_template = Some(template))
            .spans()
    };
    let called = r#"[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "abcdefghi"}]</s>"#;
    assert_eq!(
        spans("mistral_v3_tekken", "</s>"),
        [called, called, "a</s>", "b</s>"]
    );
    let called = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call><|im_end|>";
    assert_eq!(
        spans("qwen3", "<|im_end|>"),
        [
            called,
            called,
            "a<|im_end|>",
            "<think>\n\n</think>\n\nb<|im_end|>"
        ]
    );
    assert_eq!(
        spans("qwen_25", "<|im_end|>"),
        [called, called, "a<|im_end|>", "b<|im_end|>"]
    );
}
