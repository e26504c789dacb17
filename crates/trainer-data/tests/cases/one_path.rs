//! One rendering of a conversation, whatever learns from it: the prompt of supervised
//! rows, of preferences in every layout, of rewards and of inference are the same
//! tokens, and so are their answers.

use std::collections::BTreeMap;

use seqprep::Preferences;
use serde_json::{Map, Value, json};
use trainer_config::{Config, Dataset, Rl};
use trainer_data::source::Row;
use trainer_data::{
    ChatPrompts, Place, PreferenceObjective, Tokenizer, prepare, prepare_preferences,
};

use crate::preferences::strategy;
use crate::support::{Lab, config};

/// A conversation, an answer and a worse one, and what the configuration says of them.
#[derive(Clone, Default)]
struct Case {
    name: &'static str,
    template: &'static str,
    /// Messages before the answer.
    history: Vec<Value>,
    chosen: Value,
    rejected: Value,
    /// Further columns.
    columns: Vec<(&'static str, Value)>,
    /// Keys of the data set.
    keys: Vec<(&'static str, Value)>,
    /// Text that the prompt and the answer have to hold.
    shows: [&'static str; 2],
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn call(name: &str) -> Value {
    json!({"id": "c12345678", "type": "function",
           "function": {"name": name, "arguments": {"guests": 5}}})
}

fn tools() -> Value {
    json!([{"type": "function", "function": {
        "name": "reserve_table", "description": "Books a table.",
        "parameters": {"type": "object", "properties": {"guests": {"type": "integer"}},
                       "required": ["guests"]}}}])
}

fn cases() -> Vec<Case> {
    let plain = Case {
        history: vec![user("Hi"), assistant("Hello."), user("And now?")],
        chosen: assistant("Good."),
        rejected: assistant("Bad."),
        shows: ["And now?", "Good."],
        ..Case::default()
    };
    let templates = [
        "chatml",
        "qwen_25",
        "qwen3",
        "llama3",
        "gemma",
        "gemma3",
        "phi_35",
        "falcon_h1",
    ];
    let mut cases: Vec<Case> = templates
        .into_iter()
        .map(|template| Case {
            name: "texts",
            template,
            ..plain.clone()
        })
        .collect();
    let with = |name, change: &dyn Fn(&mut Case)| {
        let mut case = Case {
            name,
            template: "qwen3",
            ..plain.clone()
        };
        change(&mut case);
        case
    };
    let renamed = |message: &Value| json!({"from": message["role"], "value": message["content"]});
    cases.extend([
        with("tools", &|case| {
            case.columns.push(("tools", tools()));
            case.shows[0] = "reserve_table";
        }),
        with("tools that are text", &|case| {
            case.columns.push(("tools", Value::from(tools().to_string())));
            case.shows[0] = "{\"type\": \"function\", \"function\": {\"name\": \"reserve_table\"";
        }),
        with("a column of tools", &|case| {
            case.columns.push(("functions", tools()));
            case.keys.push(("field_tools", json!("functions")));
            case.shows[0] = "reserve_table";
        }),
        with("calls and results", &|case| {
            case.columns.push(("tools", tools()));
            case.history = vec![
                user("A table for five."),
                json!({"role": "assistant", "content": null, "tool_calls": [call("reserve_table")]}),
                json!({"role": "tool", "content": "table 9"}),
            ];
            case.shows[0] = "<tool_response>\ntable 9";
        }),
        with("an answer that calls", &|case| {
            case.columns.push(("tools", tools()));
            case.chosen = json!({"role": "assistant", "content": null, "tool_calls": [call("reserve_table")]});
            case.shows[1] = "<tool_call>\n{\"name\": \"reserve_table\", \"arguments\": {\"guests\": 5}}";
        }),
        with("text arguments", &|case| {
            case.columns.push(("tools", tools()));
            case.chosen = json!({"role": "assistant", "content": "", "tool_calls": [
                {"type": "function", "function": {"name": "reserve_table", "arguments": "{\"guests\": 5}"}}]});
            case.shows[1] = "{\"name\": \"reserve_table\", \"arguments\": {\"guests\": 5}}";
        }),
        with("reasoning", &|case| {
            case.chosen = json!({"role": "assistant", "content": "Twelve.", "reasoning_content": "Two to ten."});
            case.rejected = json!({"role": "assistant", "content": "Ten.", "reasoning_content": "Nearly."});
            case.shows[1] = "<think>\nTwo to ten.\n</think>\n\nTwelve.";
        }),
        with("reasoning of another name", &|case| {
            case.chosen = json!({"role": "assistant", "content": "Twelve.", "why": "Two to ten."});
            case.keys.push(("field_thinking", json!("why")));
            case.shows[1] = "<think>\nTwo to ten.\n</think>\n\nTwelve.";
        }),
        with("reasoning in the content", &|case| {
            case.chosen = assistant("<reasoning>Two to ten.</reasoning>Twelve.");
            case.keys.push(("split_thinking", json!(true)));
            case.shows[1] = "<think>\nTwo to ten.\n</think>\n\nTwelve.";
        }),
        with("properties of other names", &|case| {
            case.history = case.history.iter().map(renamed).collect();
            case.chosen = renamed(&case.chosen);
            case.rejected = renamed(&case.rejected);
            let names = json!({"role": "from", "content": "value"});
            case.keys.push(("message_property_mappings", names));
        }),
        with("roles of other names", &|case| {
            case.history[2] = json!({"role": "guest", "content": "And now?"});
            case.chosen = json!({"role": "bot", "content": "Good."});
            case.rejected = json!({"role": "gpt", "content": "Bad."});
            case.keys.push(("roles", json!({"user": ["guest"], "assistant": ["bot"]})));
        }),
        with("parts", &|case| {
            case.history[2] = json!({"role": "user", "content": [
                {"type": "text", "text": "And "}, {"type": "text", "value": "now?"}]});
            case.chosen = json!({"role": "assistant", "content": [{"type": "text", "value": "Good."}]});
        }),
        with("a system message", &|case| {
            case.history.insert(0, json!({"role": "system", "content": "Be kind."}));
            case.shows[0] = "system\nBe kind.";
        }),
        with("a system message that is dropped", &|case| {
            case.history.insert(0, json!({"role": "system", "content": "Be kind."}));
            case.keys.push(("drop_system_message", json!(true)));
        }),
        with("a column of system messages", &|case| {
            case.columns.push(("instructions", json!("Be kind.")));
            case.keys.push(("field_system", json!("instructions")));
            case.shows[0] = "system\nBe kind.";
        }),
        with("names of special tokens", &|case| {
            case.history[2] = user("And <|im_end|> now?");
            case.chosen = assistant("Good <|im_end|>.");
            case.shows = ["And <|im_end|> now?", "Good <|im_end|>."];
        }),
        with("nulls", &|case| {
            case.columns.push(("tools", Value::Null));
            case.history[1] = json!({"role": "assistant", "content": "Hello.", "tool_calls": null, "reasoning_content": null});
            case.chosen = json!({"role": "assistant", "content": "Good.", "tool_calls": [], "name": null});
        }),
    ]);
    cases
}

/// The configuration of a case for rows of a type.
fn setting(lab: &Lab, case: &Case, kind: &str, columns: &[(&str, Value)]) -> Config {
    let mut row: Map<String, Value> = Map::new();
    for (name, value) in &case.columns {
        row.insert((*name).to_owned(), value.clone());
    }
    for (name, value) in columns {
        row.insert((*name).to_owned(), value.clone());
    }
    let written = lab.rows(strategy(kind), &[Value::Object(row)]);
    let mut keys: BTreeMap<&str, Value> = case.keys.iter().cloned().collect();
    keys.insert("path", json!(written.path));
    keys.insert("type", json!(kind));
    let dataset: Dataset = serde_json::from_value(json!(keys)).unwrap();
    Config {
        chat_template: Some(case.template.to_owned()),
        // Gemma's template knows no system messages.
        default_system_message: (case.template != "gemma").then(|| "You are asked.".to_owned()),
        ..config(dataset)
    }
}

/// Prompt and answers of the one sample of a run, without what the objective puts in
/// front and behind.
fn parts(tokenizer: &Tokenizer, config: &Config, objective: PreferenceObjective) -> Vec<Vec<u32>> {
    let prepared = prepare_preferences(config, tokenizer, objective);
    let prepared = prepared.unwrap_or_else(|error| panic!("{objective:?}: {error}"));
    let first = tokenizer.bos_id().unwrap();
    let parts = match prepared.train {
        Preferences::Pairs(mut pairs) => {
            let pair = pairs.remove(0);
            vec![pair.prompt, pair.chosen, pair.rejected]
        }
        Preferences::Kto(mut samples) => {
            let sample = samples.remove(0);
            assert!(sample.desirable);
            vec![sample.prompt, sample.completion]
        }
        Preferences::Steps(_) => panic!("steps"),
    };
    let mut parts = parts.into_iter();
    let prompt = parts.next().unwrap();
    // A reward model reads what the template prints.
    if objective != PreferenceObjective::RewardModel {
        assert_eq!(prompt.first(), Some(&first), "{objective:?}");
    }
    let prompt = without_first(tokenizer, prompt);
    std::iter::once(prompt)
        .chain(parts.map(|answer| trimmed(tokenizer, answer)))
        .collect()
}

/// A prompt without the token that begins a sequence, which some objectives put there
/// and some templates print.
fn without_first(tokenizer: &Tokenizer, mut prompt: Vec<u32>) -> Vec<u32> {
    if prompt.first() == tokenizer.bos_id().as_ref() {
        prompt.remove(0);
    }
    assert_ne!(prompt.first(), tokenizer.bos_id().as_ref(), "once");
    prompt
}

/// An answer up to its end.
fn trimmed(tokenizer: &Tokenizer, mut answer: Vec<u32>) -> Vec<u32> {
    let line = tokenizer.encode("\n", false).unwrap();
    while answer.last() == line.last() || answer.last() == tokenizer.eos_id().as_ref() {
        answer.pop();
    }
    answer
}

/// Prompt and answer of a supervised row: the last turn is the answer.
fn supervised(lab: &Lab, tokenizer: &Tokenizer, case: &Case) -> [Vec<u32>; 2] {
    let mut messages = case.history.clone();
    messages.push(case.chosen.clone());
    let config = setting(lab, case, "chat_template", &[("messages", json!(messages))]);
    let prepared = prepare(&config, tokenizer);
    let prepared = prepared.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let sample = prepared.train.last().unwrap();
    let end = sample.labels.iter().rposition(|label| *label != -100);
    let end = end.unwrap() + 1;
    let masked = sample.labels[..end]
        .iter()
        .rposition(|label| *label == -100);
    let start = masked.unwrap() + 1;
    [
        without_first(tokenizer, sample.input_ids[..start].to_vec()),
        trimmed(tokenizer, sample.input_ids[start..end].to_vec()),
    ]
}

#[test]
fn every_objective_and_inference_see_the_same_conversation() {
    use PreferenceObjective as O;
    for case in cases() {
        // What a template prints behind an answer is the end of it.
        let eos = match case.template {
            "llama3" => "<|eot_id|>",
            "gemma" | "gemma3" => "<end_of_turn>",
            "phi_35" => "<|end|>",
            _ => "<|im_end|>",
        };
        let lab = Lab::new(eos);
        let tokenizer = lab.tokenizer();
        let [prompt, answer] = supervised(&lab, &tokenizer, &case);
        let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
        let (shown, name) = (text(&prompt), format!("{} by {}", case.name, case.template));
        assert!(shown.contains(case.shows[0]), "{name}: {shown}");
        assert!(
            text(&answer).contains(case.shows[1]),
            "{name}: {}",
            text(&answer)
        );
        let whole = |last: &Value| {
            let mut all = case.history.clone();
            all.push(last.clone());
            json!(all)
        };
        let (chosen, rejected) = (&case.chosen, &case.rejected);
        let (good, bad) = (whole(chosen), whole(rejected));
        let history = json!(case.history);
        let label = ("label", json!(true));
        let apart = |column| {
            let columns = [
                (column, history.clone()),
                ("chosen", chosen.clone()),
                ("rejected", rejected.clone()),
            ];
            columns.to_vec()
        };
        let pairs = [
            ("chat_template.default", apart("messages")),
            ("chat_template", apart("messages")),
            ("chat_template.default", apart("prompt")),
            (
                "chat_template.default",
                vec![
                    ("prompt", history.clone()),
                    ("chosen", json!([chosen])),
                    ("rejected", json!([rejected])),
                ],
            ),
            (
                "chat_template.default",
                vec![
                    ("messages", history.clone()),
                    ("chosen", good.clone()),
                    ("rejected", bad.clone()),
                ],
            ),
            (
                "chat_template.default",
                vec![("chosen", good.clone()), ("rejected", bad.clone())],
            ),
            (
                "chat_template.default",
                vec![
                    ("chosen_messages", good.clone()),
                    ("rejected_messages", bad.clone()),
                ],
            ),
            (
                "chat_template.argilla_chat",
                vec![("chosen", good.clone()), ("rejected", bad.clone())],
            ),
            (
                "chat_template.argilla",
                vec![("chosen", good.clone()), ("rejected", bad.clone())],
            ),
            (
                "orpo.chat_template",
                vec![("chosen", good.clone()), ("rejected", bad.clone())],
            ),
        ];
        for (kind, columns) in &pairs {
            let config = setting(&lab, &case, kind, columns);
            for objective in [O::Pairwise, O::Orpo, O::Cpo, O::RewardModel] {
                let found = parts(&tokenizer, &config, objective);
                let name = format!("{name}: {kind} for {objective:?}, {columns:?}");
                assert_eq!(text(&found[0]), shown, "{name}");
                assert_eq!(found[0], prompt, "{name}");
                assert_eq!(text(&found[1]), text(&answer), "{name}");
                assert_eq!(found[1], answer, "{name}");
            }
        }
        let singles = [
            (
                "chat_template",
                vec![("messages", good.clone()), label.clone()],
            ),
            (
                "chat_template.default",
                vec![("messages", good.clone()), label.clone()],
            ),
            (
                "chat_template.default",
                vec![
                    ("prompt", history.clone()),
                    ("completion", json!([chosen])),
                    label.clone(),
                ],
            ),
            (
                "chat_template.default",
                vec![
                    ("messages", history.clone()),
                    ("completion", chosen.clone()),
                    label.clone(),
                ],
            ),
            (
                "chat_template.argilla_chat",
                vec![("completion", good.clone()), label.clone()],
            ),
        ];
        for (kind, columns) in &singles {
            let found = parts(&tokenizer, &setting(&lab, &case, kind, columns), O::Kto);
            let name = format!("{name}: {kind} for KTO, {columns:?}");
            assert_eq!(text(&found[0]), shown, "{name}");
            assert_eq!(found, [prompt.clone(), answer.clone()], "{name}");
        }
        // What the model is asked, by rows of a file.
        for (kind, rl) in [
            ("chat_template", None),
            ("chat_template.default", Some(Rl::Dpo)),
            ("chat_template.argilla", Some(Rl::Orpo)),
            ("chat_template.default", Some(Rl::Kto)),
        ] {
            for column in ["messages", "prompt"] {
                let mut config = setting(&lab, &case, kind, &[(column, history.clone())]);
                config.preference.rl = rl;
                let row = std::fs::read_to_string(&config.datasets[0].path).unwrap();
                let row = Row {
                    at: Place {
                        path: std::sync::Arc::new("prompts.jsonl".into()),
                        unit: "line",
                        number: 1,
                    },
                    columns: serde_json::from_str::<Map<String, Value>>(&row)
                        .unwrap()
                        .into(),
                };
                let prompts = ChatPrompts::new(&config, &tokenizer).unwrap();
                let asked = prompts.encode_row(&row).unwrap().ids;
                if rl.is_some() {
                    assert_eq!(asked.first(), tokenizer.bos_id().as_ref(), "{name}");
                }
                let asked = without_first(&tokenizer, asked);
                assert_eq!(text(&asked), shown, "{name}: {kind} asked by {column}");
                assert_eq!(asked, prompt, "{name}: {kind} asked by {column}");
            }
        }
    }
}

/// What the one row of a type comes to: its texts, the message of the error, or what is
/// said about it.
fn outcome(
    kind: &str,
    objective: PreferenceObjective,
    row: Value,
    change: impl FnOnce(&mut Config),
) -> Result<Vec<String>, String> {
    let lab = Lab::new("<|im_end|>");
    let mut config = config(lab.rows(strategy(kind), &[row]));
    config.chat_template = Some("chatml".to_owned());
    change(&mut config);
    let prepared = prepare_preferences(&config, &lab.tokenizer(), objective);
    let prepared = prepared.map_err(|error| lab.message(&error))?;
    let said = prepared
        .ledger
        .warnings()
        .map(|warning| warning.to_string());
    let folder = format!("{}/", lab.path().display());
    Ok(said.map(|said| said.replace(&folder, "")).collect())
}

#[test]
fn what_no_token_would_show_is_said() {
    use PreferenceObjective as O;
    let calling =
        json!({"role": "assistant", "content": null, "tool_calls": [call("reserve_table")]});
    let thinking = json!({"role": "assistant", "content": "Good.", "reasoning_content": "Why?"});
    let talk = |answer: &Value| json!([user("Hi"), answer]);
    let bad = assistant("Bad.");
    let pairs = [O::Pairwise, O::Orpo, O::Cpo, O::RewardModel];
    for objective in pairs {
        // Of an answer it is an error, and it names the row and the property.
        for (answer, property) in [(&calling, "tool_calls"), (&thinking, "reasoning")] {
            for (kind, row) in [
                (
                    "chat_template.default",
                    json!({"messages": [user("Hi")], "chosen": answer, "rejected": bad}),
                ),
                (
                    "chat_template.default",
                    json!({"messages": [user("Hi")], "chosen": bad, "rejected": answer}),
                ),
                (
                    "chat_template.argilla_chat",
                    json!({"chosen": talk(answer), "rejected": talk(&bad)}),
                ),
                (
                    "chat_template.argilla",
                    json!({"chosen": talk(&bad), "rejected": talk(answer)}),
                ),
                (
                    "bradley_terry.chat_template",
                    json!({"input": "Hi", "chosen": answer, "rejected": bad}),
                ),
                // Formats that print role and content alone.
                (
                    "chatml.argilla_chat",
                    json!({"chosen": talk(answer), "rejected": talk(&bad)}),
                ),
                (
                    "llama3.ultra",
                    json!({"prompt": "Hi", "chosen": talk(&bad), "rejected": talk(answer)}),
                ),
            ] {
                let expects = |config: &mut Config| {
                    if strategy(kind).is_chat() {
                        config.datasets[0].field_thinking = Some("reasoning_content".to_owned());
                    }
                };
                let error = outcome(kind, objective, row, expects);
                let error = error.expect_err(&format!("{kind} for {objective:?}, {property}"));
                assert!(
                    error.starts_with("data.jsonl, line 1: ") && error.contains(property),
                    "{kind} for {objective:?}: {error}"
                );
            }
        }
        // Of a prompt it is said, with the row.
        let row =
            json!({"tools": tools(), "messages": [user("Hi")], "chosen": "a", "rejected": "b"});
        let said = outcome("chat_template.default", objective, row, |_| {}).unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("`tools`") && said[0].contains("data.jsonl, line 1"),
            "{said:?}"
        );
        // This template prints the system message with a last message of the user's: in the
        // prompt, though no longer once an answer follows.
        let system = json!({"role": "system", "content": "Be brief."});
        let row = json!({"messages": [system, user("Hi")], "chosen": "a", "rejected": "b"});
        let mistral = |config: &mut Config| {
            config.chat_template = Some("mistral_v3_tekken".to_owned());
        };
        let said = outcome("chat_template.default", objective, row, mistral).unwrap();
        assert!(said.is_empty(), "{said:?}");
        let row = json!({"tools": tools(), "prompt": "Hi", "chosen": "a", "rejected": "b"});
        let error = outcome("chatml.prompt_pairs", objective, row, |_| {}).unwrap_err();
        assert!(error.contains("`tools` would be left out"), "{error}");
    }
    let row = json!({"messages": [user("Hi"), calling], "label": true});
    let error = outcome("chat_template", O::Kto, row, |_| {}).unwrap_err();
    assert!(error.contains("messages[1].tool_calls"), "{error}");
    let row = json!({"tools": tools(), "prompt": "Hi", "completion": "a", "label": true});
    let error = outcome("chatml.prompt_pairs", O::Kto, row, |_| {}).unwrap_err();
    assert!(error.contains("`tools` would be left out"), "{error}");
}

#[test]
fn columns_that_make_no_prompt_and_answer() {
    use PreferenceObjective as O;
    let talk = |question: &str, answer: &str| json!([user(question), assistant(answer)]);
    let system = json!({"role": "system", "content": "Be kind."});
    for (kind, objective, row, expected) in [
        (
            "chat_template.default",
            O::Pairwise,
            json!({"messages": [user("Hi")], "chosen": user("a"), "rejected": "b"}),
            "`chosen` is of role `user`, but an answer is the assistant's; `roles` says which names stand for it",
        ),
        (
            "chat_template.default",
            O::Pairwise,
            json!({"messages": [user("Hi")], "chosen": talk("Ho", "a"), "rejected": "b"}),
            "`chosen` has messages before its last that are not those at the end of `messages`; an answer is one message of the assistant: move what comes before it into `messages`",
        ),
        (
            "chat_template.default",
            O::Pairwise,
            json!({"chosen": talk("Hi", "a"), "rejected": talk("Ho", "b")}),
            "`chosen` and `rejected` differ before their last message, so they are no answers to the same prompt",
        ),
        (
            "chat_template.default",
            O::Pairwise,
            json!({"messages": [user("Hi")], "chosen": {"role": "assistant", "content": null}, "rejected": "b"}),
            "`chosen` has no `content`; it has null there; `message_property_mappings` says which property holds the content",
        ),
        (
            "chat_template.argilla",
            O::Orpo,
            json!({"system": "Be brief.", "chosen": [system, user("Hi"), assistant("a")], "rejected": [system, user("Hi"), assistant("b")]}),
            "there are two system messages, in the column `system` and at the start of the conversation; set `drop_system_message: true`, or take one of them out",
        ),
        (
            "chat_template",
            O::Kto,
            json!({"messages": [user("Hi")], "label": true}),
            "`messages[0]` is of role `user`, but an answer is the assistant's; `roles` says which names stand for it",
        ),
        (
            "chat_template",
            O::Kto,
            json!({"messages": talk("Hi", "a")}),
            "no column `label`, which `type: chat_template` needs; the row has `messages`; the layout reads `messages` (or `prompt` and `completion`) and `label`",
        ),
        (
            "chat_template",
            O::Kto,
            json!({"completion": "a", "label": true}),
            "no column `messages`, which `type: chat_template` needs; the row has `completion`, `label`; the layout reads `messages` (or `prompt` and `completion`) and `label`; the columns fit `type: chatml.argilla_chat`",
        ),
    ] {
        assert_eq!(
            outcome(kind, objective, row, |_| {}).unwrap_err(),
            format!("data.jsonl, line 1: {expected}"),
            "{kind} for {objective:?}"
        );
    }
    // A column that leaves the message out of the conversation is no second one.
    let row = json!({"system": "Be brief.", "chosen": [system, user("Hi"), assistant("a")], "rejected": [system, user("Hi"), assistant("b")]});
    let drop = |config: &mut Config| config.datasets[0].drop_system_message = Some(true);
    assert_eq!(
        outcome("chat_template.argilla", O::Orpo, row, drop).unwrap(),
        [""; 0]
    );
}

#[test]
fn rows_that_ask_nothing() {
    let lab = Lab::new("<|im_end|>");
    let mut config = config(lab.rows(strategy("chat_template"), &[json!({})]));
    config.chat_template = Some("chatml".to_owned());
    config.datasets[0].message_property_mappings = Some(
        [("role", "from"), ("content", "value")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .into(),
    );
    let tokenizer = lab.tokenizer();
    let prompts = ChatPrompts::new(&config, &tokenizer).unwrap();
    let ask = |columns: Value| {
        let row = Row {
            at: Place {
                path: std::sync::Arc::new("prompts.jsonl".into()),
                unit: "line",
                number: 3,
            },
            columns: columns.as_object().unwrap().clone().into(),
        };
        let asked = prompts.encode_row(&row);
        let asked = asked.map_err(|error| error.to_string())?;
        Ok(tokenizer.decode(&asked.ids, false).unwrap())
    };
    let hi = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    // Names of the data set, the usual ones, text.
    for row in [
        json!({"messages": [{"from": "human", "value": "Hi"}]}),
        json!({"messages": [user("Hi")]}),
        json!({"prompt": [user("Hi")]}),
        json!({"prompt": "Hi"}),
        json!({"prompt": "Hi", "messages": null}),
        json!({"messages": "[{\"role\": \"user\", \"content\": \"Hi\"}]"}),
    ] {
        assert_eq!(ask(row.clone()).as_deref(), Ok(hi), "{row}");
    }
    let expected =
        "expected `prompt`, a text, or `messages`, a list of objects with `role` and `content`";
    for (row, message) in [
        (
            json!({"text": "Hi"}),
            format!("{expected}; the row has `text`"),
        ),
        (json!({"messages": "Hi"}), format!("`messages`: {expected}")),
        (json!({"messages": []}), format!("`messages`: {expected}")),
        (json!({"prompt": 7}), format!("`prompt`: {expected}")),
        (
            json!({"prompt": "Hi", "messages": [user("Hi")]}),
            "`messages` and `prompt` are two prompts; keep one of them".to_owned(),
        ),
        (
            json!({"messages": [{"role": "user", "content": 7}]}),
            "`messages[0].content` has to be text or a list of parts, not a number".to_owned(),
        ),
    ] {
        assert_eq!(ask(row), Err(format!("prompts.jsonl, line 3: {message}")));
    }
}
