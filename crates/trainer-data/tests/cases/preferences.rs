//! Preferences, rewards and judged steps: Axolotl's recorded rows, the text of
//! each layout, the length rules and the messages.

use std::sync::LazyLock;

use seqprep::{KtoSample, PreferencePair, Preferences, StepSample};
use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy, SpecialTokens, UserDefined};
use trainer_data::{PreferenceObjective, PreparedPreferences, Tokenizer, prepare_preferences};

use crate::support::{Lab, config};

pub(crate) static BYTES: LazyLock<Tokenizer> = LazyLock::new(|| Lab::new("</s>").tokenizer());

pub(crate) fn strategy(name: &str) -> PromptStrategy {
    serde_json::from_value(json!(name)).unwrap()
}

pub(crate) fn pairs(prepared: &PreparedPreferences) -> &[PreferencePair] {
    match &prepared.train {
        Preferences::Pairs(pairs) => pairs,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn kto(prepared: &PreparedPreferences) -> &[KtoSample] {
    match &prepared.train {
        Preferences::Kto(samples) => samples,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn steps(prepared: &PreparedPreferences) -> &[StepSample] {
    match &prepared.train {
        Preferences::Steps(samples) => samples,
        other => panic!("{other:?}"),
    }
}

/// Rows under a strategy; one token a byte, `<s>` in front of every text.
pub(crate) fn prepare(
    strategy: PromptStrategy,
    rows: &[Value],
    objective: PreferenceObjective,
    change: impl FnOnce(&mut Config),
) -> Result<PreparedPreferences, String> {
    let lab = Lab::new("</s>");
    let mut config = config(lab.rows(strategy, rows));
    config.chat_template = Some("chatml".into());
    change(&mut config);
    prepare_preferences(&config, &BYTES, objective).map_err(|error| lab.message(&error))
}

/// Prompt and answers of one row as text.
fn one(name: &str, objective: PreferenceObjective, row: Value) -> Vec<String> {
    let prepared = prepare(strategy(name), &[row], objective, |_| {});
    let prepared = prepared.unwrap_or_else(|error| panic!("{name}: {error}"));
    texts(&prepared).remove(0)
}

pub(crate) fn texts(prepared: &PreparedPreferences) -> Vec<Vec<String>> {
    let text = |ids: &[u32]| BYTES.decode(ids, false).unwrap();
    match &prepared.train {
        Preferences::Pairs(pairs) => {
            let parts = |p: &PreferencePair| {
                [&p.prompt, &p.chosen, &p.rejected]
                    .map(|ids| text(ids))
                    .to_vec()
            };
            pairs.iter().map(parts).collect()
        }
        Preferences::Kto(samples) => {
            let parts = |s: &KtoSample| {
                vec![
                    text(&s.prompt),
                    text(&s.completion),
                    s.desirable.to_string(),
                ]
            };
            samples.iter().map(parts).collect()
        }
        Preferences::Steps(_) => panic!("steps"),
    }
}

/// Rows that Axolotl 0.21.0 was recorded with.
fn recorded(
    name: &str,
    strategy: PromptStrategy,
    objective: PreferenceObjective,
) -> PreparedPreferences {
    let tokenizer = Tokenizer::from_dir("tests/data/llama", &SpecialTokens::default()).unwrap();
    let config = Config {
        datasets: vec![Dataset {
            path: format!("tests/data/preferences/{name}.jsonl").into(),
            strategy: Some(strategy),
            ..Dataset::default()
        }],
        curriculum_sampling: true,
        shuffle_merged_datasets: false,
        sequence_len: 256,
        ..Config::default()
    };
    prepare_preferences(&config, &tokenizer, objective).unwrap()
}

fn expected(case: &str) -> (Vec<Value>, Vec<f64>) {
    let text = std::fs::read_to_string("tests/data/preferences/expected.json").unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let case = all[case].take();
    let numbers = case["num_tokens"].as_array().unwrap().iter();
    (
        case["head"].as_array().unwrap().clone(),
        numbers.map(|n| n.as_f64().unwrap()).collect(),
    )
}

/// Tokens that Axolotl counted after each step of four samples.
fn totals(lengths: impl Iterator<Item = usize>) -> Vec<f64> {
    let mut sum = 0;
    let sums: Vec<f64> = lengths
        .map(|length| {
            sum += length;
            sum as f64
        })
        .collect();
    sums.into_iter().skip(3).step_by(4).collect()
}

fn llama(ids: &[u32]) -> String {
    static LLAMA: LazyLock<Tokenizer> = LazyLock::new(|| {
        Tokenizer::from_dir("tests/data/llama", &SpecialTokens::default()).unwrap()
    });
    LLAMA.decode(ids, false).unwrap()
}

#[test]
fn pairs_as_axolotl_prepared_them() {
    let text = |text: &str| Some(text.to_owned());
    let own = UserDefined {
        prompt_format: text("{prompt}\n"),
        chosen_format: text("{chosen}<|im_end|>"),
        rejected_format: text("{rejected}<|im_end|>"),
        ..UserDefined::default()
    };
    let own = PromptStrategy::UserDefined(Box::new(own));
    let prepared = recorded("pref", own, PreferenceObjective::Pairwise);
    let (head, tokens) = expected("dpo");
    for (pair, row) in pairs(&prepared).iter().zip(&head) {
        for (ids, part) in [
            (&pair.prompt, "prompt"),
            (&pair.chosen, "chosen"),
            (&pair.rejected, "rejected"),
        ] {
            assert_eq!(llama(ids), row[part].as_str().unwrap());
        }
    }
    let counted = totals(pairs(&prepared).iter().map(PreferencePair::tokens));
    assert_eq!(counted[..4], tokens);
}

#[test]
fn answers_of_kto_as_axolotl_prepared_them() {
    let text = |text: &str| Some(text.to_owned());
    let own = UserDefined {
        prompt_format: text("{prompt}\n"),
        completion_format: text("{completion}<|im_end|>"),
        ..UserDefined::default()
    };
    let own = PromptStrategy::UserDefined(Box::new(own));
    let prepared = recorded("kto", own, PreferenceObjective::Kto);
    let (head, tokens) = expected("kto");
    for (sample, row) in kto(&prepared).iter().zip(&head) {
        assert_eq!(llama(&sample.prompt), row["prompt"].as_str().unwrap());
        assert_eq!(
            llama(&sample.completion),
            row["completion"].as_str().unwrap()
        );
        assert_eq!(sample.desirable, row["label"]);
    }
    let counted = totals(kto(&prepared).iter().map(KtoSample::len));
    assert_eq!(counted[..4], tokens);
}

#[test]
fn pairs_of_orpo_as_axolotl_prepared_them() {
    let prepared = recorded(
        "pref_chats",
        strategy("chat_template.argilla"),
        PreferenceObjective::Orpo,
    );
    let (head, _) = expected("orpo");
    for (pair, row) in pairs(&prepared).iter().zip(&head) {
        // The trainer adds the beginning and the end; the mean log-probabilities
        // that it logged are those of these tokens.
        let part = |name: &str| row[name].as_str().unwrap().to_owned();
        assert_eq!(llama(&pair.prompt), "<|bos|>".to_owned() + &part("prompt"));
        assert_eq!(llama(&pair.chosen), part("chosen") + "<|im_end|>");
        assert_eq!(llama(&pair.rejected), part("rejected") + "<|im_end|>");
    }
}

#[test]
fn pairs_of_a_reward_model_as_axolotl_prepared_them() {
    let name = strategy("bradley_terry.chat_template");
    let prepared = recorded("pref_bt", name, PreferenceObjective::RewardModel);
    let (head, tokens) = expected("reward");
    assert_eq!(pairs(&prepared).len(), 20);
    for (pair, row) in pairs(&prepared).iter().zip(&head) {
        let (chosen, rejected) = pair.documents();
        assert_eq!(json!(chosen.len()), row["chosen"]);
        assert_eq!(json!(rejected.len()), row["rejected"]);
    }
    assert_eq!(
        totals(pairs(&prepared).iter().map(PreferencePair::tokens))[..4],
        tokens
    );
    // The long rows are cut, and entered in the account.
    let account = &prepared.ledger.datasets[0];
    assert_eq!((account.truncated.samples, account.kept.samples), (1, 20));
    assert_eq!(
        account.made.tokens,
        account.kept.tokens + account.truncated.tokens
    );
}

#[test]
fn messages_and_steps_of_the_recorded_data() {
    let name = strategy("chat_template.default");
    let prepared = recorded("pref_messages", name, PreferenceObjective::Pairwise);
    let pair = &pairs(&prepared)[0];
    assert_eq!(
        llama(&pair.prompt),
        "<|im_start|>user\nDefine 'Abasement'.<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        llama(&pair.rejected),
        "A person whose vices and follies are not sociable.<|im_end|>"
    );
    let name = strategy("stepwise_supervised");
    let prepared = recorded("prm", name, PreferenceObjective::ProcessRewardModel);
    let sample = &steps(&prepared)[0];
    assert_eq!(
        llama(&sample.input_ids),
        "<|bos|>Define 'Abasement'.A decent and customary mental attitude in the presence of wealth of power.\nPeculiarly appropriate in an employee when addressing an employer.\n"
    );
    let verdicts: Vec<i32> = sample
        .labels
        .iter()
        .copied()
        .filter(|label| *label != -100)
        .collect();
    assert_eq!(verdicts, [0, 1]);
    assert_eq!(sample.labels.last(), Some(&1));
}

#[test]
fn layouts_of_pairs() {
    let chatml = "<s><|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n";
    let chatml_system = "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n";
    let llama3 = "<s><|start_header_id|>user<|end_header_id|>\n\nP<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
    let llama3_system = "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nP<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
    let talk = |answer: &str| json!([{"role": "user", "content": "P"}, {"role": "assistant", "content": answer}]);
    let (im_end, eot) = (
        ["C<|im_end|></s>", "R<|im_end|></s>"],
        ["C<|eot_id|></s>", "R<|eot_id|></s>"],
    );
    let plain = |prompt: &str| json!({prompt: "P", "chosen": "C", "rejected": "R"});
    let with_system =
        |prompt: &str| json!({prompt: "P", "chosen": "C", "rejected": "R", "system": "S"});
    let cases = [
        ("chatml.default", plain("prompt"), chatml, im_end),
        (
            "chatml.default",
            with_system("instruction"),
            chatml_system,
            im_end,
        ),
        (
            "chatml.default",
            json!({"question": "P", "chosen_response": "C", "rejected_response": "R", "system": null}),
            chatml,
            im_end,
        ),
        (
            "chatml.argilla_chat",
            json!({"chosen": talk("C"), "rejected": talk("R")}),
            chatml,
            im_end,
        ),
        ("chatml.icr", with_system("input"), chatml_system, im_end),
        ("chatml.intel", plain("question"), chatml, im_end),
        (
            "chatml.prompt_pairs",
            with_system("prompt"),
            chatml_system,
            im_end,
        ),
        (
            "chatml.ultra",
            json!({"prompt": "P", "chosen": talk("C"), "rejected": talk("R"), "system": ""}),
            chatml,
            im_end,
        ),
        ("llama3.default", plain("input"), llama3, eot),
        (
            "llama3.argilla_chat",
            json!({"chosen": talk("C"), "rejected": talk("R")}),
            llama3,
            eot,
        ),
        ("llama3.icr", with_system("input"), llama3_system, eot),
        ("llama3.intel", plain("question"), llama3, eot),
        ("llama3.prompt_pairs", plain("prompt"), llama3, eot),
        (
            "llama3.ultra",
            json!({"prompt": "P", "chosen": talk("C"), "rejected": talk("R"), "system": "S"}),
            llama3_system,
            eot,
        ),
        ("bradley_terry.llama3.icr", plain("input"), llama3, eot),
        (
            "passthrough.default",
            plain("prompt"),
            "<s>P",
            ["C</s>", "R</s>"],
        ),
        (
            "passthrough.default",
            json!({"prompt": "<s>P", "chosen": "C</s>", "rejected": "R"}),
            "<s>P",
            ["C</s>", "R</s>"],
        ),
        // Axolotl takes the worst answer for the best, and the second worst for the worse.
        (
            "zephyr.nectar",
            json!({"prompt": "P", "answers": [{"rank": 2.0, "answer": "X"}, {"rank": 3.0, "answer": "R"}, {"rank": 1.0, "answer": "C"}]}),
            "<s><|system|>\n</s>\n<|user|>\nP</s>\n<|assistant|>\n",
            ["C</s>", "R</s>"],
        ),
        (
            "chat_template.default",
            json!({"messages": talk("a").as_array().unwrap()[..1], "chosen": {"role": "assistant", "content": "C"}, "rejected": talk("R")}),
            chatml,
            im_end,
        ),
        (
            "chat_template.default",
            json!({"messages": "P", "chosen": "C", "rejected": "R"}),
            chatml,
            im_end,
        ),
        (
            "chat_template",
            json!({"messages": "P", "chosen": "C", "rejected": "R"}),
            chatml,
            im_end,
        ),
        (
            "chat_template.argilla_chat",
            json!({"chosen": talk("C"), "rejected": talk("R")}),
            chatml,
            im_end,
        ),
    ];
    for (name, row, prompt, [chosen, rejected]) in cases {
        assert_eq!(
            one(name, PreferenceObjective::Pairwise, row),
            [prompt, chosen, rejected],
            "{name}"
        );
    }
    // ORPO keeps what the template prints after the last message.
    let row = json!({"chosen": talk("C"), "rejected": talk("R"), "system": "S"});
    for name in ["chat_template.argilla", "orpo.chat_template"] {
        assert_eq!(
            one(name, PreferenceObjective::Orpo, row.clone()),
            [chatml_system, "C<|im_end|>\n</s>", "R<|im_end|>\n</s>"]
        );
    }
    // A reward model reads what the template prints, and an empty system message.
    let row = json!({"system": "", "input": "P", "chosen": "C", "rejected": "R"});
    assert_eq!(
        one(
            "bradley_terry.chat_template",
            PreferenceObjective::RewardModel,
            row
        ),
        [
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n",
            "C<|im_end|>\n",
            "R<|im_end|>\n"
        ]
    );
    let row = json!({"system": null, "input": "P", "chosen": "C", "rejected": "R"});
    let prompt = one(
        "bradley_terry.chat_template",
        PreferenceObjective::RewardModel,
        row,
    )
    .remove(0);
    assert_eq!(
        prompt,
        "<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn chat_templates_that_end_otherwise() {
    const GEMMA: &str = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}";
    // The header of a finished answer is another one than that of the next.
    const OTHER: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}[next]{% endif %}";
    let row = json!({
        "talk": [{"from": "human", "value": "hello"}, {"from": "narrator", "value": "n"}],
        "good": {"from": "gpt", "value": " goodbye "},
        "bad": {"from": "gpt", "value": "party on"},
    });
    let run = |template: &str| {
        let prepared = prepare(
            strategy("chat_template.default"),
            std::slice::from_ref(&row),
            PreferenceObjective::Pairwise,
            |config| {
                config.chat_template = None;
                config.chat_template_jinja = Some(template.into());
                let dataset = &mut config.datasets[0];
                dataset.field_messages = Some("talk".into());
                dataset.field_chosen = Some("good".into());
                dataset.field_rejected = Some("bad".into());
                let names = [("role", "from"), ("content", "value")];
                dataset.message_property_mappings =
                    Some(names.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
                dataset.roles = Some([("user".to_owned(), vec!["narrator".to_owned()])].into());
            },
        );
        texts(&prepared.unwrap()).remove(0)
    };
    assert_eq!(
        run(GEMMA),
        [
            // The template prints the beginning itself: it is there once.
            "<s><start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>user\nn<end_of_turn>\n<start_of_turn>model\n",
            "goodbye<end_of_turn></s>",
            "party on<end_of_turn></s>"
        ]
    );
    assert_eq!(
        run(OTHER),
        [
            "<s>[user]hello<|end|>\n[user]n<|end|>\n[next]",
            "goodbye <|end|></s>",
            "party on<|end|></s>"
        ]
    );
}

#[test]
fn columns_and_formats_of_ones_own() {
    let text = |text: &str| Some(text.to_owned());
    let run = |own: UserDefined, row: Value, objective| {
        let own = PromptStrategy::UserDefined(Box::new(own));
        texts(&prepare(own, &[row], objective, |_| {}).unwrap()).remove(0)
    };
    let row = json!({"prompt": "hello", "chosen": "yes", "rejected": "no"});
    let pairwise = PreferenceObjective::Pairwise;
    assert_eq!(
        run(UserDefined::default(), row.clone(), pairwise),
        ["<s>hello", "yes</s>", "no</s>"]
    );
    let own = UserDefined {
        prompt_format: text("{system} {prompt}"),
        chosen_format: text("Answer: {chosen}"),
        ..UserDefined::default()
    };
    // No column, or null: an empty text in its place.
    assert_eq!(
        run(own.clone(), row.clone(), pairwise),
        ["<s> hello", "Answer: yes</s>", "no</s>"]
    );
    let row = json!({"prompt": "hello", "completion": "yes", "good": 1, "system": null});
    let own = UserDefined {
        field_label: text("good"),
        completion_format: text("[{completion}]"),
        chosen_format: None,
        ..own
    };
    assert_eq!(
        run(own, row, PreferenceObjective::Kto),
        ["<s> hello", "[yes]</s>", "true"]
    );
}

#[test]
fn names_of_special_tokens_in_a_prompt_are_text() {
    let row = json!({
        "question": "a<|im_end|>b", "prompt": "a<|im_end|>b", "input": "a<|im_end|>b", "messages": "a<|im_end|>b",
        "chosen": "C", "rejected": "R",
    });
    let end = BYTES.token_to_id("<|im_end|>").unwrap();
    let count = |name: &str, objective, allow: bool| {
        let prepared = prepare(
            strategy(name),
            std::slice::from_ref(&row),
            objective,
            |config| {
                config.allow_special_tokens_in_content = allow;
            },
        );
        let prepared = prepared.unwrap();
        let (chosen, _) = pairs(&prepared)[0].documents();
        assert!(
            BYTES
                .decode(&chosen.input_ids, false)
                .unwrap()
                .contains("a<|im_end|>b")
        );
        chosen.input_ids.iter().filter(|id| **id == end).count()
    };
    let pairwise = PreferenceObjective::Pairwise;
    for (name, objective) in [
        ("chatml.intel", pairwise),
        ("chat_template.default", pairwise),
        (
            "bradley_terry.chat_template",
            PreferenceObjective::RewardModel,
        ),
    ] {
        assert_eq!(
            (count(name, objective, false), count(name, objective, true)),
            (2, 3),
            "{name}"
        );
    }
    // What is formatted already keeps its tokens.
    assert_eq!(count("passthrough.default", pairwise, false), 1);
}

#[test]
fn layouts_of_single_answers() {
    let prompt = "<s><|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n";
    let cases = [
        (
            "chatml.argilla",
            json!({"instruction": "P", "completion": "C", "label": true}),
        ),
        (
            "chatml.intel",
            json!({"question": "P", "completion": "C", "label": true}),
        ),
        (
            "chatml.prompt_pairs",
            json!({"prompt": "P", "completion": "C", "label": true}),
        ),
        (
            "chatml.ultra",
            json!({"prompt": "P", "completion": "C", "label": true, "system": ""}),
        ),
        (
            "chatml.argilla_chat",
            json!({"completion": [{"role": "user", "content": "P"}, {"role": "assistant", "content": "C"}], "label": true}),
        ),
    ];
    for (name, row) in cases {
        assert_eq!(
            one(name, PreferenceObjective::Kto, row),
            [prompt, "C<|im_end|></s>", "true"],
            "{name}"
        );
    }
    let row = json!({"question": "P", "completion": "C", "label": 0, "system": "S"});
    assert_eq!(
        one("llama3.intel", PreferenceObjective::Kto, row),
        [
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nP<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "C<|eot_id|></s>",
            "false"
        ]
    );
}
