//! The bundled templates: their text for a table of conversations, which is that
//! of the models' own templates (`data/bundled.json`, rendered by Jinja2), and
//! what is trained with each.

use serde_json::{Value, json};
use trainer_config::{CHAT_TEMPLATE_FALLBACK, CHAT_TEMPLATES, Config, Dataset, PromptStrategy};
use trainer_data::{ChatTemplate, Tokenizer, prepare};

use crate::support::{Lab, config, tokenizer_json, trained};

/// Templates that share a file with another one.
const SHARED: [(&str, &str); 3] = [
    ("aya", "cohere"),
    ("gemma3n", "gemma3"),
    ("gemma4_unified", "gemma4"),
];

fn template(tokenizer: &Tokenizer, name: &str) -> ChatTemplate {
    let config = Config {
        chat_template: Some(name.into()),
        ..Config::default()
    };
    ChatTemplate::resolve(&config, None, tokenizer).unwrap()
}

#[test]
fn the_names_are_those_of_the_configuration() {
    let bundled: Vec<&str> = ChatTemplate::bundled().collect();
    assert!(bundled.is_sorted());
    assert_eq!(bundled, CHAT_TEMPLATES[2..]);
    let tokenizer = Lab::new("</s>").tokenizer();
    for name in bundled {
        let fallback = template(&tokenizer, &format!("{CHAT_TEMPLATE_FALLBACK}{name}"));
        assert_eq!(fallback.source(), template(&tokenizer, name).source());
    }
    for (name, other) in SHARED {
        assert_eq!(
            template(&tokenizer, name).source(),
            template(&tokenizer, other).source()
        );
    }
}

#[test]
fn texts_are_those_of_the_models_templates() {
    let data: Value = serde_json::from_str(include_str!("../data/bundled.json")).unwrap();
    let tokenizer = Lab::new("</s>").tokenizer();
    let mut names = Vec::new();
    for (name, cases) in data["expected"].as_object().unwrap() {
        names.push(name.as_str());
        let source = template(&tokenizer, name).source().to_owned();
        let tokens = [("bos_token", "<BOS>"), ("eos_token", "<EOS>")];
        let mut template = ChatTemplate::new(name, &source, tokens).unwrap();
        template.set("date_string", &json!("26 Jul 2024"));
        for case in cases.as_array().unwrap() {
            let conversation = &data["conversations"][case[0].as_u64().unwrap() as usize];
            let tools = Some(&conversation["tools"]).filter(|tools| !tools.is_null());
            let text = template
                .render_with_tools(&conversation["messages"], tools, case[1].as_bool().unwrap())
                .unwrap();
            assert_eq!(text, case[2].as_str().unwrap(), "{name}, {}", case[0]);
        }
    }
    // The formats of the others are not those of a model's template.
    for name in ChatTemplate::bundled() {
        let other = ["alpaca", "metharme"].contains(&name)
            || SHARED.iter().any(|(shared, _)| *shared == name);
        assert_ne!(names.contains(&name), other, "{name}");
    }
}

#[test]
fn formats_without_a_model() {
    let tokenizer = Lab::new("</s>").tokenizer();
    let messages = json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "bye"},
    ]);
    for (name, expected) in [
        (
            "alpaca",
            "<s>S\n\n### Instruction:\nhi\n\n### Response:\nyo</s>\n\n### Instruction:\nbye\n\n### Response:\n",
        ),
        (
            "metharme",
            "<s><|system|>S<|user|>hi<|model|>yo</s><|user|>bye<|model|>",
        ),
    ] {
        assert_eq!(
            template(&tokenizer, name).render(&messages, true).unwrap(),
            expected
        );
        let tool = json!([{"role": "user", "content": "q"}, {"role": "tool", "content": "r"}]);
        assert!(template(&tokenizer, name).render(&tool, true).is_err());
    }
}

#[test]
fn what_is_trained() {
    let lab = Lab::new("</s>");
    let mut json = tokenizer_json(true);
    let added = json["added_tokens"].as_array_mut().unwrap();
    let next = 256 + added.len();
    let more = [
        "<|END_OF_TURN_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "[|endofturn|]",
        "<|eot|>",
        "[INST]",
        "[/INST]",
        "<turn|>",
        "<|eom|>",
    ];
    for (index, token) in more.into_iter().enumerate() {
        added.push(
            json!({"id": next + index, "content": token, "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}),
        );
    }
    lab.write("tokenizer.json", json.to_string());
    let row = json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "ok"},
    ]});
    let tokenizer = lab.tokenizer();
    for name in ChatTemplate::bundled() {
        let dataset = lab.rows(PromptStrategy::ChatTemplate, std::slice::from_ref(&row));
        let config = Config {
            chat_template: Some(name.into()),
            ..config(Dataset { ..dataset })
        };
        let prepared = prepare(&config, &tokenizer).unwrap();
        let spans = trained(&prepared.train[0], &tokenizer);
        let end = match name {
            "falcon_h1" | "nemotron_h" | "chatml" | "qwen_25" | "qwen2_vl" | "qwen3"
            | "qwen3_5" => "<|im_end|>",
            "llama3" | "llama3_2_vision" => "<|eot_id|>",
            "llama4" => "<|eot|>",
            "gemma" | "gemma3" | "gemma3n" => "<end_of_turn>",
            "cohere" | "aya" => "<|END_OF_TURN_TOKEN|>",
            "exaone" | "exaone4" => "[|endofturn|]",
            "gemma4" | "gemma4_unified" => "<turn|>",
            "jamba" => "<|eom|>",
            "phi_3" | "phi_35" => "<|end|>",
            _ => "</s>",
        };
        // What the model generates behind the prompt: a blank, or empty reasoning.
        let before = match name {
            "mistral_v1" | "mistral_v2v3" | "deepseek_v2" | "jamba" | "llava" => [" ", " "],
            "qwen3" => ["", "<think>\n\n</think>\n\n"],
            // The prompt opens the reasoning.
            "qwen3_5" => ["", "\n</think>\n\n"],
            _ => ["", ""],
        };
        let mut expected = vec![
            format!("{}yo{end}", before[0]),
            format!("{}ok{end}", before[1]),
        ];
        if name.starts_with("phi") {
            expected.push("</s>".to_owned());
        }
        assert_eq!(spans, expected, "{name}");
    }
}
