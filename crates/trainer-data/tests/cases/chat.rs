//! What is trained of a conversation. The tables hold what Axolotl 0.21.0
//! trains, except where a comment says why it is something else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy, TrainOnEos};
use trainer_data::{Tokenizer, prepare};

use crate::support::{Lab, config, trained};

/// A tokenizer with this end of sequence, loaded once for all tests.
fn tokenizer(eos: &'static str) -> Arc<Tokenizer> {
    static LOADED: Mutex<BTreeMap<&str, Arc<Tokenizer>>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().unwrap();
    let load = || Arc::new(Lab::new(eos).tokenizer());
    Arc::clone(loaded.entry(eos).or_insert_with(load))
}

const GEMMA: &str = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}";
const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}";
/// Cuts the reasoning out of all turns but the last, as Qwen3 does.
const REASONING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and '</think>' in m.content %}{% set parts = m.content.split('</think>') %}{% if loop.last %}<think>\n{{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}{{ parts[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// Prints reasoning that is given apart, and calls of tools.
const TOOLS: &str = "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% for c in m.tool_calls %}<tool_call>{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A row, and what differs from the defaults.
struct Run {
    row: Value,
    eos: &'static str,
    dataset: Dataset,
    config: Config,
}

impl Run {
    fn new(row: Value) -> Self {
        Self {
            row,
            eos: "<|im_end|>",
            dataset: Dataset::default(),
            config: Config {
                chat_template: Some("chatml".into()),
                ..config(Dataset::default())
            },
        }
    }

    fn jinja(mut self, template: &str) -> Self {
        self.config.chat_template = None;
        self.config.chat_template_jinja = Some(template.into());
        self
    }

    fn eos(mut self, eos: &'static str) -> Self {
        self.eos = eos;
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Dataset, &mut Config)) -> Self {
        change(&mut self.dataset, &mut self.config);
        self
    }

    /// Trained parts of each sample, and its whole text.
    fn samples(self) -> Result<Vec<(Vec<String>, String)>, String> {
        let lab = Lab::new(self.eos);
        let data = lab.rows(PromptStrategy::ChatTemplate, &[self.row]);
        let config = Config {
            datasets: vec![Dataset {
                path: data.path,
                strategy: data.strategy,
                ..self.dataset
            }],
            ..self.config
        };
        let tokenizer = tokenizer(self.eos);
        let prepared = prepare(&config, &tokenizer).map_err(|error| lab.message(&error))?;
        Ok(prepared
            .train
            .iter()
            .map(|sample| {
                let text = tokenizer.decode(&sample.input_ids, false).unwrap();
                (trained(sample, &tokenizer), text)
            })
            .collect())
    }

    /// Trained parts of the only sample. A row with nothing to train is dropped:
    /// that is no trained part.
    #[track_caller]
    fn spans(self) -> Vec<String> {
        match self.samples() {
            Ok(mut samples) => {
                assert_eq!(samples.len(), 1);
                samples.remove(0).0
            }
            Err(error) => {
                assert!(error.contains("1 nothing to train"), "{error}");
                Vec::new()
            }
        }
    }

    fn error(self) -> String {
        self.samples().unwrap_err()
    }
}

fn talk() -> Value {
    json!({"messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "ok"},
    ]})
}

fn one(content: impl Into<Value>) -> Value {
    json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content.into()}]})
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn policies_and_roles() {
    use TrainOnEos::{All, Last, None as Never, Turn};
    type Change = fn(&mut Dataset, &mut Config);
    let cases: &[(&str, Change, &[&str])] = &[
        ("default", |_, _| {}, &["yo<|im_end|>", "ok<|im_end|>"]),
        (
            "turn",
            |d, _| d.train_on_eos = Some(Turn),
            &["yo<|im_end|>", "ok<|im_end|>"],
        ),
        (
            "all",
            |d, _| d.train_on_eos = Some(All),
            &[
                "<|im_end|>",
                "<|im_end|>",
                "yo<|im_end|>",
                "<|im_end|>",
                "ok<|im_end|>",
            ],
        ),
        (
            "last",
            |d, _| d.train_on_eos = Some(Last),
            &["yo", "ok<|im_end|>"],
        ),
        ("none", |d, _| d.train_on_eos = Some(Never), &["yo", "ok"]),
        (
            "user and assistant",
            |d, _| d.roles_to_train = Some(strings(&["user", "assistant"])),
            &[
                "hi<|im_end|>",
                "yo<|im_end|>",
                "bye<|im_end|>",
                "ok<|im_end|>",
            ],
        ),
        ("no roles", |d, _| d.roles_to_train = Some(Vec::new()), &[]),
        (
            "no roles, all ends",
            |d, _| {
                d.roles_to_train = Some(Vec::new());
                d.train_on_eos = Some(All);
            },
            &["<|im_end|>"; 5],
        ),
        (
            // The content of every turn, never a header.
            "inputs",
            |_, c| c.train_on_inputs = true,
            &[
                "S<|im_end|>",
                "hi<|im_end|>",
                "yo<|im_end|>",
                "bye<|im_end|>",
                "ok<|im_end|>",
            ],
        ),
        (
            "no system message",
            |d, _| {
                d.drop_system_message = Some(true);
                d.train_on_eos = Some(All);
            },
            &["<|im_end|>", "yo<|im_end|>", "<|im_end|>", "ok<|im_end|>"],
        ),
    ];
    for (name, change, expected) in cases {
        let spans = Run::new(talk()).with(change).spans();
        assert_eq!(spans, *expected, "{name}");
    }
}

#[test]
fn ends_of_turns() {
    use TrainOnEos::{All, Last, None as Never, Turn};
    // The end of sequence is `</s>`, which the template prints at the end of the
    // text; turns end with `<|im_end|>`.
    const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}";
    type Change = fn(&mut Dataset, &mut Config);
    let cases: &[(&str, Change, &[&str])] = &[
        (
            "default",
            |_, _| {},
            &["yo<|im_end|>", "ok<|im_end|>", "</s>"],
        ),
        (
            "no eos",
            |d, _| {
                d.train_on_eos = Some(Never);
                d.train_on_eot = Some(Turn);
            },
            &["yo<|im_end|>", "ok<|im_end|>"],
        ),
        (
            "no eot",
            |d, _| d.train_on_eot = Some(Never),
            &["yo", "ok", "</s>"],
        ),
        (
            "all eot, last eos",
            |d, c| {
                c.eot_tokens = Some(strings(&["<|im_end|>"]));
                d.train_on_eos = Some(Last);
                d.train_on_eot = Some(All);
            },
            &[
                "<|im_end|>",
                "<|im_end|>",
                "yo<|im_end|>",
                "<|im_end|>",
                "ok<|im_end|>",
                "</s>",
            ],
        ),
    ];
    for (name, change, expected) in cases {
        let spans = Run::new(talk())
            .eos("</s>")
            .jinja(TEMPLATE)
            .with(change)
            .spans();
        assert_eq!(spans, *expected, "{name}");
    }
}

#[test]
fn tokens_that_cannot_end_turns() {
    let error = |tokens: &[&str], change: fn(&mut Dataset)| {
        Run::new(talk())
            .with(|dataset, config| {
                config.eot_tokens = Some(strings(tokens));
                change(dataset);
            })
            .error()
    };
    assert_eq!(
        error(&["[END]"], |_| {}),
        "`eot_tokens`: \"[END]\" is 5 tokens for this tokenizer; it has to be one"
    );
    assert_eq!(
        error(&["<|eot_id|>"], |_| {}),
        "`eot_tokens`: \"<|eot_id|>\" is never printed by chat template chatml; take it out of the list, or use a template that ends turns with it"
    );
    // Axolotl does not look where the end of sequence is the only entry.
    assert_eq!(
        error(&["<|im_end|>"], |d| {
            d.train_on_eos = Some(TrainOnEos::None);
            d.train_on_eot = Some(TrainOnEos::Turn);
        }),
        "`eot_tokens`: \"<|im_end|>\" is the end of sequence too, and `train_on_eos: none` and `train_on_eot: turn` contradict each other; give both the same value, or leave the token out"
    );
}

#[test]
fn the_end_of_the_template_is_trained_where_it_is_not_the_end_of_sequence() {
    // Axolotl trains neither and warns.
    for (template, end) in [(GEMMA, "<end_of_turn>"), (LLAMA3, "<|eot_id|>")] {
        let row = json!({"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": " yo "},
        ]});
        let spans = Run::new(row).eos("</s>").jinja(template).spans();
        // The template trims the content, so the blanks are not there to train.
        assert_eq!(spans, [format!("yo{end}")]);
    }
}

#[test]
fn a_turn_without_an_end_is_an_error() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    assert_eq!(
        Run::new(talk()).eos("</s>").jinja(template).error(),
        "data.jsonl, line 1: `messages[2]` (assistant) is trained, but chat template chat_template_jinja prints no token that ends it (\"</s>\"), so that the model would not learn to stop; the turn ends with \"yo\\nuser: bye\". Use a template that prints `eos_token` there, name the token it prints in `eot_tokens`, or set `train_on_eos: none`"
    );
    let spans = Run::new(talk())
        .eos("</s>")
        .jinja(template)
        .with(|d, _| d.train_on_eos = Some(TrainOnEos::None))
        .spans();
    assert_eq!(spans, ["yo", "ok"]);
}

#[test]
fn contents_are_covered_to_the_byte() {
    for content in [
        "yo",
        "  yo \n",
        "día 🦀 é",
        " ",
        "a\u{301}",
        "<think>x</think>",
        "\u{F0000}x\u{100000}",
        "\u{10FFFD}\u{F0001}",
        "q",
    ] {
        let spans = Run::new(one(content)).spans();
        assert_eq!(spans, [format!("{content}<|im_end|>")]);
        // As a turn of another role, by its content alone.
        let row = json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]});
        let spans = Run::new(row)
            .with(|d, _| d.roles_to_train = Some(strings(&["user"])))
            .spans();
        assert_eq!(spans, [format!("{content}<|im_end|>")]);
    }
}

#[test]
fn silent_turns_are_not_trained() {
    assert!(Run::new(one("")).spans().is_empty());
    let row = json!({"messages": [
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]});
    assert_eq!(Run::new(row).spans(), ["a<|im_end|>", "b<|im_end|>"]);
}

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
    // Nulls that columnar files put in are gone.
    assert!(samples[0].1.starts_with(
        "<|im_start|>tools\n{\"name\": \"f\", \"parameters\": {\"x\": {\"type\": \"number\"}}}\n<|im_end|>\n"
    ));
    // Arguments and tools may be JSON in text.
    let mut row = call(json!("{\"x\": 1.0, \"y\": null}"));
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

#[test]
fn system_messages() {
    let row = json!({"sys": "T", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    let text = |run: Run| run.samples().map(|mut samples| samples.remove(0).1);
    assert_eq!(
        text(Run::new(row.clone()).with(|d, _| d.field_system = Some("sys".into()))).unwrap(),
        "<|im_start|>system\nT<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    );
    let default = |_: &mut Dataset, c: &mut Config| c.default_system_message = Some("D".into());
    assert!(
        text(Run::new(row.clone()).with(default))
            .unwrap()
            .starts_with("<|im_start|>system\nD<|im_end|>")
    );
    assert!(
        text(Run::new(talk()).with(default))
            .unwrap()
            .starts_with("<|im_start|>system\nS<|im_end|>")
    );
    let mut both = talk();
    both["sys"] = json!("T");
    assert_eq!(
        Run::new(both)
            .with(|d, _| d.field_system = Some("sys".into()))
            .error(),
        "data.jsonl, line 1: there are two system messages, in the column `sys` and at the start of `messages`; set `drop_system_message: true`, or remove `field_system`"
    );
}

#[test]
fn variables_of_the_template() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}";
    let run = Run::new(talk()).jinja(template).with(|_, c| {
        let kwargs = json!({"enable_thinking": false});
        c.chat_template_kwargs = kwargs.as_object().cloned();
    });
    let samples = run.samples().unwrap();
    assert!(
        samples[0]
            .1
            .contains("assistant\n<think>\n\n</think>\n\nyo")
    );
    // The empty block belongs to the generation prompt: the model is given it.
    assert_eq!(samples[0].0, ["yo<|im_end|>", "ok<|im_end|>"]);
}

#[test]
fn generation_blocks_say_what_is_trained() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}>{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}";
    let run = |policy| {
        Run::new(talk())
            .jinja(template)
            .with(move |d, _| d.train_on_eos = Some(policy))
    };
    assert_eq!(
        run(TrainOnEos::Turn).spans(),
        [">yo<|im_end|>\n", ">ok<|im_end|>\n"]
    );
    assert_eq!(run(TrainOnEos::None).spans(), [">yo", "\n", ">ok", "\n"]);
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "train": false},
        {"role": "assistant", "content": "b"},
    ]});
    let spans = Run::new(row)
        .jinja(template)
        .with(|d, _| d.message_field_training = Some("train".into()))
        .spans();
    assert_eq!(spans, [">b<|im_end|>\n"]);
    // A block that ends before the end of the turn: that is trained all the same.
    let short = template.replace(
        "{{ m.content }}<|im_end|>\n{% endgeneration %}",
        "{{ m.content }}{% endgeneration %}<|im_end|>\n",
    );
    assert_eq!(
        Run::new(talk()).jinja(&short).spans(),
        [">yo<|im_end|>", ">ok<|im_end|>"]
    );
}

#[test]
fn text_that_reads_like_a_special_token_is_text() {
    let row = json!({"messages": [
        {"role": "user", "content": "a<|im_end|>\n<|im_start|>assistant\nno<|im_end|> <s>"},
        {"role": "assistant", "content": "x<|im_end|>y</s>"},
    ]});
    let lab = Lab::new("<|im_end|>");
    let id = |token: &str| lab.tokenizer().token_to_id(token).unwrap();
    let count = |allow: bool, token: &str| {
        let data = lab.rows(PromptStrategy::ChatTemplate, std::slice::from_ref(&row));
        let config = Config {
            chat_template: Some("chatml".into()),
            allow_special_tokens_in_content: allow,
            ..config(data)
        };
        let prepared = lab.prepare(&config).unwrap();
        let (ids, id) = (&prepared.train[0].input_ids, id(token));
        ids.iter().filter(|other| **other == id).count()
    };
    for (token, structure, allowed) in [
        ("<|im_end|>", 2, 5),
        ("<|im_start|>", 2, 3),
        ("<s>", 0, 1),
        ("</s>", 0, 1),
    ] {
        // A token of the tokenizer that has no part in the layout stays one where
        // the assistant writes it.
        let kept = usize::from(token == "</s>");
        assert_eq!(count(false, token), structure + kept, "{token}");
        assert_eq!(count(true, token), allowed, "{token}");
    }
    let samples = Run::new(row).samples().unwrap();
    assert_eq!(samples[0].0, ["x<|im_end|>y</s><|im_end|>"]);
    assert!(samples[0].1.starts_with(
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nno<|im_end|> <s><|im_end|>\n"
    ));
}

#[test]
fn templates_that_treat_marked_text_in_another_way() {
    // A content that begins or ends with a certain text is printed otherwise.
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content.startswith('hi') or m.content.endswith('ok') %}!{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}";
    let spans = Run::new(talk()).jinja(template).spans();
    assert_eq!(spans, ["yo<|im_end|>", "!ok<|im_end|>"]);
    let spans = Run::new(talk())
        .jinja(template)
        .with(|d, _| d.roles_to_train = Some(strings(&["user"])))
        .samples();
    assert!(spans.unwrap_err().contains("cannot tell which part"));
    // A template that leaves a turn out.
    let template = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{{ eos_token }}{% endfor %}";
    assert_eq!(
        Run::new(talk()).jinja(template).error(),
        "data.jsonl, line 1: cannot tell which part of the rendered conversation is `messages[2]` (assistant), because chat template chat_template_jinja leaves it out or rewrites it; leave the role out of `roles_to_train`, or use a template that prints the content as it is"
    );
}

#[test]
fn rows_that_are_no_conversations() {
    let error = |row: Value| Run::new(row).error();
    for (row, expected) in [
        (
            json!({"text": "x"}),
            "no column `messages`, which `type: chat_template` needs; the row has `text`; `field_messages` names the column of the messages",
        ),
        (
            json!({"messages": 1}),
            "`messages` has to be a list of messages, not a number",
        ),
        (
            json!({"messages": "[{]"}),
            "`messages` has to be a list of messages, but is text that is not JSON (key must be a string at line 1 column 3)",
        ),
        (
            json!({"messages": "{}"}),
            "`messages` has to be a list of messages, not text",
        ),
        (
            json!({"messages": ["hi"]}),
            "`messages[0]` has to be an object with a role and a content, not text",
        ),
        (
            json!({"messages": [{"content": "x"}]}),
            "`messages[0]` has no `role`; it has `content`; `message_property_mappings` says which property holds the role",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "`messages[0]` has no `content`; it has `role`; `message_property_mappings` says which property holds the content",
        ),
        (
            json!({"messages": [{"role": "user", "content": null}]}),
            "`messages[0]` has no `content`; it has null there; `message_property_mappings` says which property holds the content",
        ),
        (
            json!({"messages": [{"role": 1, "content": "x"}]}),
            "`messages[0].role` has to be text, not a number",
        ),
        (
            json!({"messages": [{"role": "user", "content": 1}]}),
            "`messages[0].content` has to be text or a list of parts, not a number",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            "`messages[0].content[0]` is of type `image`; only parts of text can be trained on: take it out, or put text in its place",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"text": "x", "weight": 0.5}]}]}),
            "`messages[0].content[0].weight` is 0.5; it has to be 0 (masked) or 1 (trained), since tokens have no other weights",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": ["f"]}]}),
            "`messages[0].tool_calls[0]` has to be an object, not text",
        ),
        (
            json!({"tools": 1, "messages": [{"role": "user", "content": "x"}]}),
            "`tools` has to be a list of tools, not a number",
        ),
    ] {
        assert_eq!(error(row), format!("data.jsonl, line 1: {expected}"));
    }
    assert!(error(json!({"messages": []})).contains("1 empty"));
}

#[test]
fn a_template_that_does_not_come_to_an_end() {
    let template = "{% for m in messages %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert_eq!(
        Run::new(talk()).jinja(template).error(),
        "data.jsonl, line 1: chat template chat_template_jinja, line 1: it does not come to an end"
    );
}

#[test]
fn a_data_set_of_which_most_has_nothing_to_train() {
    let lab = Lab::new("<|im_end|>");
    let question =
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "bot", "content": "a"}]});
    let rows = |untrained: usize| {
        let mut rows = vec![question.clone(); untrained];
        rows.insert(1, one("a"));
        let config = Config {
            chat_template: Some("chatml".into()),
            ..config(lab.rows(PromptStrategy::ChatTemplate, &rows))
        };
        lab.prepare(&config)
    };
    assert_eq!(rows(1).unwrap().train.len(), 1);
    assert_eq!(
        lab.message(&rows(2).unwrap_err()),
        "2 of 3 samples of data set data.jsonl have nothing to train, such as that of data.jsonl, line 1: \"<|im_start|>user\\nq<|im_end|>\\n<|im_start|>bot\\na<|im_end|>\\n\"; no turn is of a role in `roles_to_train`: check it and `roles`, or set `train_on_inputs: true`, or take such rows out"
    );
}
