//! The text that each strategy makes of a row, and which part of it is trained:
//! `⟦` and `⟧` stand around the trained parts. The tokenizer has one token a byte
//! and puts `<s>` in front.

use std::sync::LazyLock;

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy, UserDefined};
use trainer_data::{Tokenizer, prepare, source, strategy};

use crate::support::{Lab, config};

/// Loaded once: to load a tokenizer takes longer than all cases together.
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Lab::new("</s>").tokenizer());

/// The samples of rows with their trained parts marked.
fn marked(
    strategy: PromptStrategy,
    rows: &[Value],
    change: impl FnOnce(&mut Config),
) -> Vec<String> {
    let lab = Lab::new("</s>");
    let mut config = config(lab.rows(strategy, rows));
    change(&mut config);
    let prepared = prepare(&config, &TOKENIZER).unwrap_or_else(|error| panic!("{error}"));
    let samples = prepared.train.iter();
    samples.map(|sample| mark(sample, &TOKENIZER)).collect()
}

fn mark(sample: &seqprep::Sample, tokenizer: &Tokenizer) -> String {
    let pairs: Vec<_> = sample.input_ids.iter().zip(&sample.labels).collect();
    let mut text = String::new();
    for run in pairs.chunk_by(|a, b| (*a.1 == -100) == (*b.1 == -100)) {
        let ids: Vec<u32> = run.iter().map(|(id, _)| **id).collect();
        let part = tokenizer.decode(&ids, false).unwrap();
        if *run[0].1 == -100 {
            text.push_str(&part);
        } else {
            assert!(
                run.iter()
                    .all(|(id, label)| i64::from(**id) == i64::from(**label))
            );
            text.push_str(&format!("⟦{part}⟧"));
        }
    }
    text
}

/// One row under the strategy of this name.
fn one(name: &str, row: Value) -> String {
    let strategy = serde_json::from_value(json!(name)).unwrap();
    let mut samples = marked(strategy, &[row], |_| {});
    assert_eq!(samples.len(), 1, "{name}");
    samples.remove(0)
}

const ALPACA: [&str; 2] = [
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
];
const CONCISE: [&str; 2] = [
    "Below is an instruction from a USER that describes a task, paired with an input that provides further context. The ASSISTANT writes a response that concisely and appropriately completes the request.",
    "Below is an instruction from a USER that describes a task. The ASSISTANT writes a response that appropriately and concisely completes the request.",
];
const CONTEXT: &str = "Use the following contextual information to concisely answer the question.";

#[test]
fn layouts_of_a_prompt_and_a_response() {
    let [with, without] = ALPACA;
    let [concise_with, concise] = CONCISE;
    let alpaca = json!({"instruction": "I", "input": "X", "output": "O"});
    let bare = json!({"instruction": "I", "output": "O"});
    let system = json!({"instruction": "I", "input": "X", "output": "O", "system": "S"});
    let orca = json!({"system_prompt": "S", "question": "Q", "response": "R"});
    let choices = json!({"question": "Q", "choices": ["a", "b"], "explanation": "E"});
    let jeopardy = json!({"question": "Q", "category": "C", "answer": "A"});
    let gpteacher = json!({"instruction": "I", "input": "X", "response": "R"});
    let oasst = json!({"INSTRUCTION": "I", "RESPONSE": "R"});
    let explain = "Choose the answer that best answers the question. Explain your reasoning.\n";
    let cases: Vec<(&str, Value, String)> = vec![
        ("alpaca", alpaca.clone(), format!("{with}\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n⟦O</s>⟧")),
        ("alpaca:instruct", bare.clone(), format!("{without}\n\n### Instruction:\nI\n\n### Response:\n⟦O</s>⟧")),
        ("alpaca_instruct", bare.clone(), format!("{without}\n\n### Instruction:\nI\n\n### Response:\n⟦O</s>⟧")),
        ("alpaca_instruct.load_no_prompt", bare.clone(), "### Instruction:\nI\n\n### Response:\n⟦O</s>⟧".into()),
        ("alpaca:chat", alpaca.clone(), format!("SYSTEM: {with}\nUSER: I\nX\nASSISTANT:⟦O</s>⟧")),
        ("alpaca_chat", bare.clone(), format!("SYSTEM: {without}\nUSER: I\nASSISTANT:⟦O</s>⟧")),
        ("alpaca_chat.load_concise", alpaca.clone(), format!("SYSTEM: {concise_with}\n\n\nUSER: I\nX\nASSISTANT:⟦O</s>⟧")),
        ("alpaca_chat.load_qa", json!({"question": "Q", "answer": "A"}), format!("SYSTEM: {concise}\n\n\nUSER: Q\nASSISTANT:⟦A</s>⟧")),
        ("alpaca_chat.load_camel_ai", json!({"message_1": "Q", "message_2": "A"}), format!("SYSTEM: {concise}\n\n\nUSER: Q\nASSISTANT:⟦A</s>⟧")),
        ("alpaca_chat.load_no_prompt", alpaca.clone(), "USER: I\nX\nASSISTANT:⟦O</s>⟧".into()),
        // The response ends with the end of the sequence, not with <|im_end|>.
        ("alpaca:chatml", alpaca.clone(), format!("<|im_start|>system\n{with}<|im_end|>\n<|im_start|>user\nI\nX<|im_end|>\n<|im_start|>assistant\n⟦O</s>⟧")),
        ("alpaca:phi", bare.clone(), format!("<|system|>\n{without}<|end|>\n<|user|>\nI<|end|>\n<|assistant|>\n⟦O</s>⟧")),
        // Axolotl prints `I<|end|>X<|assistant|>` here.
        ("alpaca:phi", alpaca.clone(), format!("<|system|>\n{with}<|end|>\n<|user|>\nI\nX<|end|>\n<|assistant|>\n⟦O</s>⟧")),
        ("alpaca_w_system", system.clone(), "SYSTEM: S\nUSER: I\nX\nASSISTANT:⟦O</s>⟧".into()),
        ("alpaca_w_system.load_chat", json!({"instruction": "I", "output": "O", "system": ""}), "USER: I\nASSISTANT:⟦O</s>⟧".into()),
        ("alpaca_w_system.load_instruct", system.clone(), "S\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n⟦O</s>⟧".into()),
        ("alpaca_w_system.load_open_orca", orca.clone(), "### System:\nS\n### Human:\nQ\n### Assistant:\n⟦R</s>⟧".into()),
        ("alpaca_w_system.load_open_orca_chatml", orca.clone(), "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n⟦R</s>⟧".into()),
        ("orcamini", orca.clone(), "### System:\nS\n\n### User:\nQ\n\n### Response:\n⟦R</s>⟧".into()),
        ("orcamini", json!({"system": "S", "instruction": "I", "output": "O"}), "### System:\nS\n\n### User:\nI\n\n### Response:\n⟦O</s>⟧".into()),
        ("context_qa", json!({"article": "A", "question": "Q", "answer": "R"}), format!("SYSTEM: {CONTEXT}\n\nUSER: A\n===\nQ\nASSISTANT:⟦R</s>⟧")),
        ("context_qa.load_404", json!({"article": "A", "unanswerable_question": "Q", "question": "", "answer": ""}), format!("SYSTEM: {CONTEXT}\n\nUSER: A\n===\nQ\nASSISTANT:⟦The context provided does not contain any information about your inquiry. Therefore, I'm unable to answer your question based on the given context.</s>⟧")),
        ("context_qa.load_v2", json!({"context": "C", "question": "Q", "answer": "R"}), "Context: C\nQuestion: Q\n⟦Answer: R</s>⟧".into()),
        ("explainchoice", choices.clone(), format!("{explain}\n\n### Instruction:\nQ\n\n### Input:\n- \"a\"\n- \"b\"\n\n### Response:\n⟦E</s>⟧")),
        ("explainchoice:chat", choices.clone(), format!("SYSTEM: {explain}\nUSER: Q\n- \"a\"\n- \"b\"\nASSISTANT:⟦E</s>⟧")),
        ("concisechoice", json!({"question": "Q", "choices": ["a"], "solution": "R"}), "Choose the answer that best answers the question. Be concise in your response.\n\nUSER: Q\n- \"a\"\nASSISTANT:⟦R</s>⟧".into()),
        ("summarizetldr", json!({"article": "A", "summary": "R"}), "USER: Summarize the following article as a TL;DR.\nA\nASSISTANT:⟦R</s>⟧".into()),
        ("jeopardy", jeopardy.clone(), format!("{with}\n\n### Instruction:\nQ\n\n### Input:\nC\n\n### Response:\n⟦what is A</s>⟧")),
        ("jeopardy:chat", jeopardy.clone(), format!("SYSTEM: {with}\nUSER: Q\nC\nASSISTANT:⟦what is A</s>⟧")),
        ("oasst", oasst.clone(), format!("{without}\n\n### Instruction:\nI\n\n### Response:\n⟦R</s>⟧")),
        ("oasst:chatml", oasst.clone(), format!("<|im_start|>system\n{without}<|im_end|>\n<|im_start|>user\nI<|im_end|>\n<|im_start|>assistant\n⟦R</s>⟧")),
        ("gpteacher", gpteacher.clone(), format!("{with}\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n⟦R</s>⟧")),
        ("gpteacher:phi", json!({"instruction": "I", "input": null, "response": "R"}), format!("<|system|>\n{without}<|end|>\n<|user|>\nI<|end|>\n<|assistant|>\n⟦R</s>⟧")),
        // Three ends of the sequence.
        ("metharme", json!({"prompt": "P", "generation": "G"}), "P⟦G</s></s></s>⟧".into()),
        ("metharme", json!({"prompt": "P", "generation": "G</s>"}), "P⟦G</s></s></s>⟧".into()),
        ("creative_acr.load_answer", json!({"instruction": "I", "revision": "R", "answer": "bad"}), "Answer the following question in a comprehensive, in-depth, and creative way. Additionally your response should be relevant, accurate, and free of any ambiguity.\nUSER: I\nASSISTANT:⟦R</s>⟧".into()),
    ];
    for (name, row, expected) in cases {
        assert_eq!(one(name, row), format!("<s>{expected}"), "{name}");
    }
}

#[test]
fn reflections_end_with_the_corrected_answer() {
    let row = json!({"instruction": "I", "output": "O", "reflection": "F", "corrected": "C"});
    let text = one("reflection", row.clone());
    assert!(
        text.starts_with("<s>Below is an instruction that describes a task. You, the Assistant,")
    );
    assert!(text.ends_with("augmentations to the generation\n\n### Instruction:\nI\n\n### Response:\n⟦### Thought:\nO\n\n### Agent Reflection:\nF\n\n### Final Response:\nC</s>⟧"), "{text}");
    // Axolotl leaves the corrected answer out in this style.
    let text = one("reflection:chat", row.clone());
    assert!(text.ends_with("generation\n\nUSER: I\nASSISTANT:⟦\nTHOUGHT: O\nASSISTANT REFLECTION: F\nASSISTANT: C</s>⟧"), "{text}");
    let mut with_input = row;
    with_input["input"] = json!("X");
    let text = one("reflection:instruct", with_input);
    assert!(text.starts_with(
        "<s>Below is an instruction that describes a task, paired with an input that"
    ));
    assert!(
        text.contains("### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n⟦"),
        "{text}"
    );
}

#[test]
fn critiques_are_yaml() {
    let row = json!({
        "instruction": "I", "answer": "A", "revision": "R",
        "scores": {"refusal": 9, "creativity": 3},
        "critiques": {"refusal": {"explanation": "It answers.", "improvements": "None: fine"}},
    });
    let yaml = "creativity: 3\nrefusal: 9\nrefusal:\n  explanation: It answers.\n  improvements: 'None: fine'\n";
    let text = one("creative_acr.load_critique", row.clone());
    assert!(text.starts_with("<s>USER: Given the following Question and Response, critique the Response on a scale of 1-10."), "{text}");
    assert!(text.contains("0 means there is prescriptive bias."));
    assert!(
        text.ends_with(&format!(
            "    improvements: ...\n\nQuestion: I\nAnswer: A\n\nASSISTANT:⟦{yaml}</s>⟧"
        )),
        "{text}"
    );
    let text = one("creative_acr.load_revise", row);
    assert!(
        text.starts_with("<s>USER: Definitions:\nrefusal: whether the Response refuses"),
        "{text}"
    );
    assert!(text.ends_with(&format!("Reply only with the revised response.\n\nQuestion: I\nAnswer: A\nEvaluation:\n{yaml}\n\nASSISTANT:⟦R</s>⟧")), "{text}");
}

#[test]
fn a_response_without_text_trains_nothing_and_braces_are_text() {
    let strategy = PromptStrategy::AlpacaChatNoPrompt;
    let rows = [
        json!({"instruction": "{input} {}", "input": "{instruction}", "output": "{O}"}),
        json!({"instruction": "I", "output": ""}),
    ];
    assert_eq!(
        marked(strategy, &rows, |_| {}),
        ["<s>USER: {input} {}\n{instruction}\nASSISTANT:⟦{O}</s>⟧"]
    );
}

#[test]
fn names_of_special_tokens_in_a_prompt_are_text() {
    let row = json!({"instruction": "a<|im_end|>b", "input": "</s>", "output": "O</s>"});
    let lab = Lab::new("</s>");
    let run = |allow: bool| {
        let mut config = config(lab.rows(
            PromptStrategy::AlpacaStyleChatml,
            std::slice::from_ref(&row),
        ));
        config.allow_special_tokens_in_content = allow;
        prepare(&config, &TOKENIZER).unwrap().train.remove(0)
    };
    let count = |sample: &seqprep::Sample, token: &str| {
        let id = TOKENIZER.token_to_id(token).unwrap();
        sample
            .input_ids
            .iter()
            .filter(|other| **other == id)
            .count()
    };
    // The ends of the system message and of the user's, and the beginning once.
    let [ours, theirs] = [run(false), run(true)];
    assert_eq!(
        (count(&ours, "<|im_end|>"), count(&theirs, "<|im_end|>")),
        (2, 3)
    );
    assert_eq!((count(&ours, "</s>"), count(&theirs, "</s>")), (1, 2));
    assert_eq!(
        (count(&ours, "<s>"), ours.input_ids.first()),
        (1, theirs.input_ids.first())
    );
    let text = |sample: &seqprep::Sample| TOKENIZER.decode(&sample.input_ids, false).unwrap();
    assert_eq!(text(&ours), text(&theirs));
    assert_eq!(
        mark(&ours, &TOKENIZER).rsplit_once('⟦').unwrap().1,
        "O</s>⟧"
    );
    // A format whose special tokens are in the columns keeps them.
    assert_eq!(
        one("metharme", json!({"prompt": "</s>", "generation": "G"}))
            .matches("</s>")
            .count(),
        4
    );
    let strategy = PromptStrategy::Alpaca;
    let bad = config(lab.rows(
        strategy,
        &[json!({"instruction": "a\u{10ffff}", "output": "O"})],
    ));
    assert_eq!(
        lab.message(&prepare(&bad, &TOKENIZER).unwrap_err()),
        "data.jsonl, line 1: the tokenizer failed: the text holds U+10FFFF, which is reserved for dividing texts that look like special tokens; take it out, or set `allow_special_tokens_in_content: true`"
    );
}

#[test]
fn segments_are_put_together_as_they_are() {
    let row = json!({"segments": [
        {"label": false, "text": "<s>hello "},
        {"label": true, "text": "hi there.</s>"},
        {"label": false, "text": "goodbye "},
        {"label": true, "text": "farewell</s>"},
    ]});
    assert_eq!(
        one("input_output", row.clone()),
        "<s>hello ⟦hi there.</s>⟧goodbye ⟦farewell</s>⟧"
    );
    let all = marked(PromptStrategy::InputOutput, &[row], |c| {
        c.train_on_inputs = true
    });
    assert_eq!(all, ["⟦<s>hello hi there.</s>goodbye farewell</s>⟧"]);
}

#[test]
fn pretraining_windows_train_every_token_once() {
    let rows = [json!({"text": "abcdefghij"}), json!({"text": "abc"})];
    // Axolotl: `abcde</s>`, `defgh</s>`, `ghij</s>`, all trained.
    assert_eq!(
        marked(PromptStrategy::Pretrain, &rows, |c| c.sequence_len = 6),
        ["⟦<s>abcde⟧", "de⟦fghi⟧", "hi⟦j</s>⟧", "⟦<s>abc</s>⟧"]
    );
}

#[test]
fn roles_of_a_prompt_and_its_response() {
    let lab = Lab::new("</s>");
    let dataset = lab.rows(
        PromptStrategy::Metharme,
        &[json!({"prompt": "P", "generation": "G"})],
    );
    let mut config = config(dataset);
    config.train_on_inputs = true;
    let row = source::open(&config.datasets[0])
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let built = strategy::build(&config, &config.datasets[0], &row, &TOKENIZER, 9).unwrap();
    let roles = built.roles(&row).unwrap().unwrap();
    assert_eq!(roles.input_ids, built.samples(&row).unwrap()[0].input_ids);
    let names: Vec<&str> = roles.roles.iter().flatten().map(AsRef::as_ref).collect();
    assert_eq!(
        names,
        [
            "prompt", "prompt", "response", "response", "response", "response"
        ]
    );
}

#[test]
fn conversations_as_llama_2_is_prompted() {
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let turns = [
        turn("system", "S"),
        turn("human", " q1 "),
        turn("gpt", "a1"),
        turn("human", "q2"),
        turn("gpt", "a2"),
        turn("human", "q3"),
    ];
    assert_eq!(
        one("llama2_chat", json!({"conversations": turns})),
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nq1 [/INST]⟦ a1 </s>⟧<s>[INST] q2 [/INST]⟦ a2 </s>⟧"
    );
    let text = one("llama2_chat", json!({"conversations": turns[1..3]}));
    assert!(
        text.starts_with("<s>[INST] <<SYS>>\nYou are a helpful, respectful and honest assistant.")
    );
    assert!(text.ends_with("don't share false information.\n<</SYS>>\n\nq1 [/INST]⟦ a1 </s>⟧"));
}

#[test]
fn conversations_as_pygmalion_is_prompted() {
    let turn = |role: &str, value: &str| json!({"role": role, "value": value});
    let turns = [
        turn("system", "a cat\n<START>"),
        turn("human", "hi "),
        turn("bot", "meow"),
        turn("human", "?"),
        turn("bot", "purr"),
    ];
    assert_eq!(
        one("pygmalion", json!({"conversations": turns})),
        "<s><|system|>Persona: a cat<|user|> hi<|model|>⟦ meow</s>⟧<|user|> ?<|model|>⟦ purr</s>⟧"
    );
    // The name of a token in a question is text: one token, that of the answer.
    let rows = [json!({"conversations": [turn("human", "é</s>"), turn("bot", "é")]})];
    let lab = Lab::new("</s>");
    let prepared = prepare(
        &config(lab.rows(PromptStrategy::Pygmalion, &rows)),
        &TOKENIZER,
    )
    .unwrap();
    let sample = &prepared.train[0];
    assert_eq!(
        mark(sample, &TOKENIZER),
        "<s><|user|> é</s><|model|>⟦ é</s>⟧"
    );
    let ends = sample
        .input_ids
        .iter()
        .filter(|id| Some(**id) == TOKENIZER.eos_id());
    assert_eq!(ends.count(), 1);
}

#[test]
fn columns_and_formats_of_ones_own() {
    let text = |text: &str| Some(text.to_owned());
    let own = |own: UserDefined, rows: &[Value]| {
        marked(PromptStrategy::UserDefined(Box::new(own)), rows, |_| {})
    };
    let rows = [
        json!({"instruction": "I", "input": "X", "output": "O", "system": "S"}),
        json!({"instruction": "I", "output": "O", "system": null}),
    ];
    assert_eq!(
        own(UserDefined::default(), &rows),
        ["<s>SI X ⟦O</s>⟧", "<s>I ⟦O</s>⟧"]
    );
    let inst = UserDefined {
        system_prompt: text("D"),
        system_format: text("<<{system}>>"),
        field_instruction: text("q"),
        field_input: text("x"),
        field_output: text("a"),
        field_system: text("s"),
        format: text("[{{{instruction}}}|{input}] "),
        no_input_format: text("{system}:{instruction} "),
        ..UserDefined::default()
    };
    let rows = [
        json!({"q": "{input}", "x": "X", "a": "A"}),
        json!({"q": "Q", "x": "X", "a": "A", "s": "S"}),
        json!({"q": "Q", "x": "X", "a": "A", "s": ""}),
        json!({"q": "Q", "a": "A", "s": "S"}),
    ];
    assert_eq!(
        own(inst, &rows),
        [
            "<s><<D>>[{{input}}|X] ⟦A</s>⟧",
            "<s><<S>>[{Q}|X] ⟦A</s>⟧",
            "<s>[{Q}|X] ⟦A</s>⟧",
            // The format has a place for the system message.
            "<s>S:Q ⟦A</s>⟧",
        ]
    );
}

#[test]
fn rows_that_do_not_fit_their_layout() {
    let message = |name: &str, row: Value| {
        let lab = Lab::new("</s>");
        let strategy = serde_json::from_value(json!(name)).unwrap();
        let config = config(lab.rows(strategy, &[row]));
        lab.message(&prepare(&config, &TOKENIZER).unwrap_err())
    };
    let cases = [
        (
            "metharme",
            json!({"question": "Q", "answer": "A"}),
            "no column `prompt`, which `type: metharme` needs; the row has `question`, `answer`; the columns fit `type: alpaca_chat.load_qa`",
        ),
        (
            "alpaca",
            json!({"conversations": []}),
            "no column `instruction`, which `type: alpaca` needs; the row has `conversations`; the columns fit `type: chat_template`",
        ),
        (
            "jeopardy",
            json!({"question": "Q", "answer": 7}),
            "`answer` has to be text, not a number",
        ),
        (
            "explainchoice",
            json!({"question": "Q", "choices": "a", "solution": "s"}),
            "`choices` has to be a list of texts, not text",
        ),
        (
            "explainchoice",
            json!({"question": "Q", "choices": ["a", 1], "solution": "s"}),
            "`choices[1]` has to be text, not a number",
        ),
        (
            "input_output",
            json!({"segments": [{"text": "a", "label": 1}]}),
            "`segments[0].label` has to be true where the text is trained, else false, not a number",
        ),
        (
            "input_output",
            json!({"segments": [{"label": true}]}),
            "`segments[0].text` has to be text, not null",
        ),
        (
            "llama2_chat",
            json!({"conversations": [{"from": "gpt", "value": "v"}]}),
            "`type: llama2_chat` takes turns of `human` and `gpt` by turns, after an optional `system`; where a turn of `human` is due there is one of `gpt`; `type: chat_template` takes any order",
        ),
        (
            "pygmalion",
            json!({"conversations": [{"role": "gpt", "value": "v"}]}),
            "`type: pygmalion` takes turns of `system`, `human` and `bot`, not of `gpt`",
        ),
        (
            "pygmalion",
            json!({"conversations": [{"value": "v"}]}),
            "`conversations[0].role` has to be text, not null",
        ),
        (
            "creative_acr.load_critique",
            json!({"instruction": "i", "answer": "a", "scores": 7}),
            "`scores` has to be an object, not a number",
        ),
    ];
    for (name, row, expected) in cases {
        assert_eq!(
            message(name, row),
            format!("data.jsonl, line 1: {expected}"),
            "{name}"
        );
    }
    assert_eq!(
        message("chatml.intel", json!({"question": "q"})),
        "data set data.jsonl: `type: chatml.intel` gives preferences or judged steps, which supervised fine-tuning does not take; set `rl` (dpo, ipo, kto, orpo, simpo), `reward_model` or `process_reward_model`, or name another type"
    );
    let lab = Lab::new("</s>");
    let own = UserDefined {
        format: Some("{instruction} {output}".to_owned()),
        ..UserDefined::default()
    };
    let strategy = PromptStrategy::UserDefined(Box::new(own));
    let config = config(lab.rows(strategy, &[json!({})]));
    assert_eq!(
        lab.message(&prepare(&config, &TOKENIZER).unwrap_err()),
        "data set data.jsonl: `format` of its `type` cannot be used: there is nothing to put in place of {output}; what can be filled in is {instruction}, {input}, {system}; braces that are meant as text are doubled: {{ and }}"
    );
}

/// Rows of random ids need no file: exact lengths, ids in their range, a masked
/// input and a trained output in every turn, the same rows for the same seed.
#[test]
fn synthetic_rows() {
    let lab = Lab::new("</s>");
    let dataset = |json: Value| -> Dataset {
        let mut entry = json!({"path": "synthetic", "type": "_synthetic"});
        let more = json.as_object().unwrap().clone();
        entry.as_object_mut().unwrap().extend(more);
        serde_json::from_value(entry).unwrap()
    };
    let samples = |json: Value, seed: u64| {
        let mut config = config(dataset(json));
        config.seed = seed;
        prepare(&config, &TOKENIZER).map(|prepared| prepared.train)
    };
    let all = samples(json!({"length": 7, "sequence_length": 12}), 1).unwrap();
    assert_eq!(all.len(), 7);
    for sample in &all {
        assert_eq!(sample.len(), 12);
        assert!(sample.input_ids.iter().all(|id| (100..268).contains(id)));
        assert!(sample.labels.iter().all(|label| *label != -100));
    }
    assert_eq!(
        all,
        samples(json!({"length": 7, "sequence_length": 12}), 1).unwrap()
    );
    assert_ne!(
        all,
        samples(json!({"length": 7, "sequence_length": 12}), 2).unwrap()
    );
    let turns = json!({"length": 50, "sequence_length": 40, "min_turns": 2, "max_turns": 5,
                       "min_turn_length": 8, "min_input_id": 3, "max_input_id": 9, "seed": 4});
    let all = samples(turns.clone(), 1).unwrap();
    assert_eq!(all.len(), 50);
    let mut found = std::collections::BTreeSet::new();
    for sample in &all {
        assert!(sample.input_ids.iter().all(|id| (3..9).contains(id)));
        let runs: Vec<_> = sample
            .labels
            .chunk_by(|a, b| (*a == -100) == (*b == -100))
            .collect();
        assert!(runs.len().is_multiple_of(2) && runs[0][0] == -100);
        let turns = runs.len() / 2;
        found.insert(turns);
        for pair in runs.chunks(2) {
            let length = pair[0].len() + pair[1].len();
            assert!(length == 40 / turns || length == 40 / turns + 1);
            assert_eq!(
                pair[0].len(),
                (length as f64 / 4.0).round_ties_even() as usize
            );
        }
    }
    assert_eq!(found, (2..=5).collect());
    // The seed of the data set, where it has one, is not that of the run.
    let sorted = |mut samples: Vec<seqprep::Sample>| {
        samples.sort_by(|a, b| a.input_ids.cmp(&b.input_ids));
        samples
    };
    assert_eq!(sorted(all), sorted(samples(turns, 2).unwrap()));
    let message = |json: Value| lab.message(&samples(json, 1).unwrap_err());
    assert_eq!(
        [
            message(json!({"max_input_id": 300})),
            message(json!({"min_input_id": 268})),
            message(json!({"min_turns": 3, "max_turns": 2})),
            message(json!({"min_turns": 3, "max_turns": 4, "sequence_length": 90})),
        ],
        [
            "data set synthetic: `max_input_id` is 300, but the tokenizer has 268 ids; ids are below `max_input_id`",
            "data set synthetic: there is no id from `min_input_id` (268) to below `max_input_id` (268); lower `min_input_id`",
            "data set synthetic: `max_turns` is 2, less than `min_turns`, which is 3",
            "data set synthetic: 3 turns (`min_turns`) of 32 tokens (`min_turn_length`) do not fit 90 (`sequence_length`)",
        ]
    );
}

/// The older name of conversations: ChatML unless a template is chosen.
#[test]
fn conversations_by_their_older_name() {
    let row = json!({"messages": [{"role": "user", "content": "hi"},
                                  {"role": "assistant", "content": "yo"}]});
    let text = |strategy, template: Option<&str>| {
        marked(strategy, std::slice::from_ref(&row), |config| {
            config.chat_template = template.map(str::to_owned);
        })
    };
    let chatml = text(PromptStrategy::ChatTemplate, Some("chatml"));
    assert_eq!(text(PromptStrategy::MessagesChat, None), chatml);
    assert_eq!(text(PromptStrategy::MessagesChat, Some("chatml")), chatml);
    assert_ne!(text(PromptStrategy::MessagesChat, Some("llama3")), chatml);
}
