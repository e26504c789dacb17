//! System messages, variables and blocks of templates, special tokens in text,
//! and conversations that are none.

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy, TrainOnEos};

use crate::conversations::{Run, one, strings, talk};
use crate::support::{Lab, config};

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
        "data.jsonl, line 1: chat template chat_template_jinja does not print `messages[2].content`, which is trained: the model would learn the turn without it; use a template that prints it, such as that of the model (`chat_template: tokenizer_default`), leave the role out of `roles_to_train`, or take the row out"
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
