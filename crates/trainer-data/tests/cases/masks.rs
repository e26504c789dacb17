//! Which tokens are trained, by strategy. The chat cases are what Axolotl
//! 0.21.0 trains, except where a comment says why it is more.

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy, TrainOnEos};

use crate::support::{Lab, config, trained};

const GEMMA: &str = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}";
const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}";
/// Cuts the reasoning out of all turns but the last, as Qwen3 does.
const REASONING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and '</think>' in m.content %}{% set parts = m.content.split('</think>') %}{% if loop.last %}<think>\n{{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}{{ parts[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn talk() -> Value {
    json!({"messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "ok"},
    ]})
}

fn chat(row: Value, eos: &str, change: impl FnOnce(&mut Dataset, &mut Config)) -> Vec<String> {
    let lab = Lab::new(eos);
    let mut config = config(Dataset::default());
    config.chat_template = Some("chatml".into());
    let mut dataset = lab.rows(PromptStrategy::ChatTemplate, &[row]);
    change(&mut dataset, &mut config);
    config.datasets = vec![dataset];
    // A row with nothing to train is dropped: that is no trained part.
    match lab.prepare(&config) {
        Ok(prepared) => trained(&prepared.train[0], &lab.tokenizer()),
        Err(error) => {
            assert!(error.to_string().contains("1 nothing to train"), "{error}");
            Vec::new()
        }
    }
}

fn one(content: &str) -> Value {
    json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]})
}

fn eos(policy: TrainOnEos) -> Vec<String> {
    chat(talk(), "<|im_end|>", |dataset, _| {
        dataset.train_on_eos = Some(policy)
    })
}

#[test]
fn assistant_turns_and_their_ends_are_trained() {
    let spans = chat(talk(), "<|im_end|>", |_, _| {});
    assert_eq!(spans, ["yo<|im_end|>", "ok<|im_end|>"]);
}

#[test]
fn train_on_eos_chooses_the_ends() {
    assert_eq!(eos(TrainOnEos::Turn), ["yo<|im_end|>", "ok<|im_end|>"]);
    assert_eq!(
        eos(TrainOnEos::All),
        [
            "<|im_end|>",
            "<|im_end|>",
            "yo<|im_end|>",
            "<|im_end|>",
            "ok<|im_end|>"
        ]
    );
    assert_eq!(eos(TrainOnEos::Last), ["yo", "ok<|im_end|>"]);
    assert_eq!(eos(TrainOnEos::None), ["yo", "ok"]);
}

#[test]
fn roles_to_train_chooses_the_turns() {
    let roles = |roles: &[&str]| {
        let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
        chat(talk(), "<|im_end|>", |dataset, _| {
            dataset.roles_to_train = Some(roles)
        })
    };
    assert_eq!(
        roles(&["user", "assistant"]),
        [
            "hi<|im_end|>",
            "yo<|im_end|>",
            "bye<|im_end|>",
            "ok<|im_end|>"
        ]
    );
    assert!(roles(&[]).is_empty());
}

#[test]
fn train_on_inputs_trains_contents_but_no_headers() {
    let spans = chat(talk(), "<|im_end|>", |_, config| {
        config.train_on_inputs = true
    });
    assert_eq!(
        spans,
        [
            "S<|im_end|>",
            "hi<|im_end|>",
            "yo<|im_end|>",
            "bye<|im_end|>",
            "ok<|im_end|>"
        ]
    );
}

#[test]
fn contents_are_covered_to_the_byte() {
    for content in [
        "  yo \n",
        "día 🦀 é",
        " ",
        "a\u{301}",
        "<think>x</think>",
        "\u{F0000}x\u{100000}",
    ] {
        let spans = chat(one(content), "<|im_end|>", |_, _| {});
        assert_eq!(spans, [format!("{content}<|im_end|>")]);
    }
}

#[test]
fn an_empty_turn_is_not_trained() {
    assert!(chat(one(""), "<|im_end|>", |_, _| {}).is_empty());
}

#[test]
fn turns_in_a_row_are_both_trained() {
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]});
    assert_eq!(
        chat(row, "<|im_end|>", |_, _| {}),
        ["a<|im_end|>", "b<|im_end|>"]
    );
}

#[test]
fn the_same_content_twice_is_told_apart() {
    let row = json!({"messages": [
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": "yes"},
    ]});
    assert_eq!(chat(row, "<|im_end|>", |_, _| {}), ["yes<|im_end|>"]);
}

#[test]
fn other_names_of_columns_properties_and_roles() {
    let row = json!({"conversations": [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
        {"from": "narrator", "value": "n"},
    ]});
    let spans = chat(row, "<|im_end|>", |dataset, _| {
        dataset.field_messages = Some("conversations".into());
        let names = [("role", "from"), ("content", "value")];
        dataset.message_property_mappings =
            Some(names.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        dataset.roles = Some([("assistant".to_owned(), vec!["narrator".to_owned()])].into());
    });
    assert_eq!(spans, ["a<|im_end|>", "n<|im_end|>"]);
}

#[test]
fn messages_may_be_json_in_text() {
    let row = json!({"messages": talk()["messages"].to_string()});
    assert_eq!(
        chat(row, "<|im_end|>", |_, _| {}),
        ["yo<|im_end|>", "ok<|im_end|>"]
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
        let spans = chat(row, "</s>", |_, config| {
            config.chat_template = None;
            config.chat_template_jinja = Some(template.into());
        });
        // The template trims the content, so the blanks are not there to train.
        assert_eq!(spans, [format!("yo{end}")]);
    }
}

#[test]
fn a_template_that_cuts_reasoning_out() {
    let turn = |n: usize| format!("<think>\nr{n}\n</think>\n\na{n}");
    let spans = |row| {
        chat(row, "<|im_end|>", |_, config| {
            config.chat_template = Some("jinja".into());
            config.chat_template_jinja = Some(REASONING.into());
        })
    };
    // The opening of the reasoning is trained too; Axolotl starts at `r1`.
    assert_eq!(spans(one(&turn(1))), [turn(1) + "<|im_end|>"]);
    // What the template drops is not there to train.
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": turn(1)},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": turn(2)},
    ]});
    assert_eq!(
        spans(row),
        ["a1<|im_end|>".to_owned(), turn(2) + "<|im_end|>"]
    );
}

#[test]
fn alpaca_trains_the_response_and_the_end() {
    let lab = Lab::new("</s>");
    let rows = [
        json!({"instruction": "I", "output": "O"}),
        json!({"instruction": "I {}", "input": "X", "output": "O</s>"}),
        json!({"instruction": "I", "input": null, "output": ""}),
    ];
    let dataset = lab.rows(PromptStrategy::Alpaca, &rows);
    let tokenizer = lab.tokenizer();
    let prepared = lab.prepare(&config(dataset.clone())).unwrap();
    let texts: Vec<String> = prepared
        .train
        .iter()
        .map(|sample| tokenizer.decode(&sample.input_ids, false).unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Response:\nO</s>",
            "<s>Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nI {}\n\n### Input:\nX\n\n### Response:\nO</s>",
        ]
    );
    for sample in &prepared.train {
        assert_eq!(trained(sample, &tokenizer), ["O</s>"]);
    }
    // Nothing to train without an output, not even the end.
    let dropped: Vec<_> = prepared.ledger.datasets[0].dropped.iter().collect();
    assert_eq!(
        format!("{dropped:?}"),
        "[(NothingToTrain, Count { samples: 1, tokens: 142 })]"
    );

    let all = Config {
        train_on_inputs: true,
        ..config(dataset)
    };
    let prepared = lab.prepare(&all).unwrap();
    assert_eq!(prepared.train.len(), 3);
    assert_eq!(trained(&prepared.train[0], &tokenizer), [texts[0].as_str()]);
}

#[test]
fn completion_loses_no_text() {
    let lab = Lab::new("</s>");
    let text = "abcdefghij".repeat(100);
    let dataset = lab.rows(
        PromptStrategy::Completion,
        &[json!({"body": text}), json!({"body": ""})],
    );
    let config = Config {
        sequence_len: 4,
        ..config(Dataset {
            field: Some("body".into()),
            ..dataset
        })
    };
    let prepared = lab.prepare(&config).unwrap();
    let ids: Vec<u32> = prepared
        .train
        .iter()
        .flat_map(|s| s.input_ids.clone())
        .collect();
    // 1002 tokens: no limit on the number of windows, one end, at the end.
    assert_eq!(
        lab.tokenizer().decode(&ids, false).unwrap(),
        format!("<s>{text}</s>")
    );
    assert_eq!(prepared.train.len(), 251);
    assert_eq!(prepared.ledger.datasets[0].dropped.len(), 1);
}

#[test]
fn tokenized_rows_are_taken_as_they_are_without_padding() {
    let lab = Lab::new("</s>");
    let rows = [
        json!({"input_ids": [5, 6, 7, 0], "labels": [-100, 6, 7, -100], "attention_mask": [1, 1, 1, 0]}),
    ];
    let mut dataset = lab.rows(PromptStrategy::Pretokenized, &rows);
    for strategy in [Some(PromptStrategy::Pretokenized), None] {
        dataset.strategy = strategy;
        let prepared = lab.prepare(&config(dataset.clone())).unwrap();
        assert_eq!(prepared.train[0].input_ids, [5, 6, 7]);
        assert_eq!(prepared.train[0].labels, [-100, 6, 7]);
    }
}
