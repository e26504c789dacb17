//! What is trained of a conversation. The tables hold what Axolotl 0.21.0
//! trains, except where a comment says why it is something else.

use serde_json::json;
use trainer_config::{Config, Dataset, TrainOnEos};

use crate::conversations::{GEMMA, LLAMA3, Run, one, strings, talk};

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
