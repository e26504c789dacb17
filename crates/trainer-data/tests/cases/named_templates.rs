//! Tokenizers with several chat templates.

use serde_json::{Value, json};
use trainer_config::{Config, PromptStrategy, SpecialTokens};
use trainer_data::{Tokenizer, prepare};

use crate::support::{Lab, config};

const PLAIN: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
const TOOLS: &str = "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

fn rows() -> [Value; 2] {
    let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    [
        json!({"messages": messages, "tools": [{"name": "f"}]}),
        json!({"messages": messages}),
    ]
}

/// Texts of the rows, by the tokenizer's own templates.
fn texts(lab: &Lab, rows: &[Value]) -> Result<Vec<String>, String> {
    let tokenizer = lab.tokenizer();
    let dataset = lab.rows(PromptStrategy::ChatTemplate, rows);
    let config = config(dataset);
    let prepared = prepare(&config, &tokenizer).map_err(|error| lab.message(&error))?;
    let texts = prepared.train.iter();
    Ok(texts
        .map(|sample| tokenizer.decode(&sample.input_ids, false).unwrap())
        .collect())
}

fn set(lab: &Lab, template: Value) {
    let config = json!({"eos_token": "<|im_end|>", "chat_template": template});
    lab.write("tokenizer_config.json", config.to_string());
}

fn in_folder(lab: &Lab, files: &[(&str, &str)]) {
    set(lab, Value::Null);
    std::fs::create_dir_all(lab.path().join("additional_chat_templates")).unwrap();
    for (name, text) in files {
        lab.write(name, text);
    }
}

/// The ways in which a tokenizer brings a template for rows with tools and one for
/// others.
fn ways() -> Vec<(&'static str, Lab)> {
    let labs = ["list", "object", "files", "all in the folder"].map(|way| {
        let lab = Lab::new("<|im_end|>");
        match way {
            "list" => set(
                &lab,
                json!([{"name": "tool_use", "template": TOOLS}, {"name": "rag", "template": "r"}, {"name": "default", "template": PLAIN}]),
            ),
            "object" => set(&lab, json!({"default": PLAIN, "tool_use": TOOLS})),
            "files" => in_folder(
                &lab,
                &[("chat_template.jinja", PLAIN), ("additional_chat_templates/tool_use.jinja", TOOLS)],
            ),
            _ => in_folder(
                &lab,
                &[
                    ("additional_chat_templates/default.jinja", PLAIN),
                    ("additional_chat_templates/tool_use.jinja", TOOLS),
                ],
            ),
        }
        (way, lab)
    });
    labs.into()
}

#[test]
fn rows_with_tools_have_a_template_of_their_own() {
    for (way, lab) in ways() {
        let texts = texts(&lab, &rows()).unwrap();
        let plain = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n";
        assert_eq!(
            texts,
            [format!("[{{\"name\": \"f\"}}]{plain}"), plain.to_owned()],
            "{way}"
        );
    }
}

#[test]
fn all_of_them_are_saved() {
    for (way, lab) in ways() {
        let tokenizer = lab.tokenizer();
        let out = tempfile::tempdir().unwrap();
        // What another tokenizer has left there goes.
        std::fs::create_dir(out.path().join("additional_chat_templates")).unwrap();
        std::fs::write(out.path().join("additional_chat_templates/old.jinja"), "o").unwrap();
        tokenizer.save(out.path()).unwrap();
        let back = Tokenizer::from_dir(out.path(), &SpecialTokens::default()).unwrap();
        let all = |tokenizer: &Tokenizer| -> Vec<(String, String)> {
            let templates = tokenizer.chat_templates();
            templates
                .map(|(name, text)| (name.into(), text.into()))
                .collect()
        };
        assert_eq!(all(&back), all(&tokenizer), "{way}");
        assert_eq!(back.named_chat_template("tool_use"), Some(TOOLS), "{way}");
        let gguf = tokenizer.to_gguf(tokenizer.vocab_size()).unwrap();
        assert_eq!(gguf.chat_template.as_deref(), Some(PLAIN), "{way}");
        assert!(
            gguf.named_templates
                .contains(&("tool_use".into(), TOOLS.into())),
            "{way}"
        );
        let imported = tempfile::tempdir().unwrap();
        gguf.write(imported.path(), std::path::Path::new("m.gguf"))
            .unwrap();
        let imported = Tokenizer::from_dir(imported.path(), &SpecialTokens::default()).unwrap();
        assert_eq!(imported.chat_template(), Some(PLAIN), "{way}");
        assert_eq!(
            imported.named_chat_template("tool_use"),
            Some(TOOLS),
            "{way}"
        );
        // A template that was set is the only one.
        let mut tokenizer = lab.tokenizer();
        tokenizer.set_chat_template("{{ 1 }}");
        tokenizer.save(out.path()).unwrap();
        let back = Tokenizer::from_dir(out.path(), &SpecialTokens::default()).unwrap();
        assert_eq!(
            all(&back),
            [("default".to_owned(), "{{ 1 }}".to_owned())],
            "{way}"
        );
    }
}

#[test]
fn names_of_files_are_names() {
    let tokenizer = Lab::new("<|im_end|>").tokenizer();
    let mut gguf = tokenizer.to_gguf(tokenizer.vocab_size()).unwrap();
    gguf.named_templates = vec![("../../up".into(), "x".into())];
    let out = tempfile::tempdir().unwrap();
    let error = gguf
        .write(out.path(), std::path::Path::new("m.gguf"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "m.gguf: the name \"../../up\" of a chat template cannot be used: it has to be letters, digits, `_` and `-`"
    );
}

#[test]
fn lists_that_do_not_answer() {
    let lab = Lab::new("<|im_end|>");
    let list = |names: &[&str]| -> Value {
        let names = names.iter();
        names
            .map(|name| json!({"name": name, "template": TOOLS}))
            .collect()
    };
    set(&lab, list(&["rag", "chat"]));
    let error = texts(&lab, &rows()).unwrap_err();
    assert!(
        error.ends_with("has the chat templates `rag`, `chat`, but none named `default` (or `tool_use`, for rows with tools); set `chat_template` to the name of a bundled one, or give one as `chat_template_jinja`"),
        "{error}"
    );
    // Rows with tools have theirs, the others none.
    set(&lab, list(&["tool_use", "rag"]));
    let [with, without] = rows();
    assert!(texts(&lab, &[with]).is_ok());
    assert_eq!(
        texts(&lab, &[without]).unwrap_err(),
        "data.jsonl, line 1: the tokenizer's chat templates are `tool_use`, `rag`, of which rows without tools take `default`: name a template in `chat_template`, or add one of that name to the tokenizer"
    );
    for (value, expected) in [
        (
            json!([{"template": "t"}]),
            "`chat_template` is a list, whose entries have to be {\"name\": ..., \"template\": ...}",
        ),
        (
            json!([{"name": "default", "template": 1}]),
            "`chat_template`: the template `default` is not text",
        ),
        (
            json!(5),
            "`chat_template` has to be text, or templates by name",
        ),
    ] {
        set(&lab, value);
        let error = Tokenizer::from_dir(lab.path(), &SpecialTokens::default()).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn a_template_of_the_configuration_serves_all_rows() {
    let (_, lab) = ways().remove(0);
    let tokenizer = lab.tokenizer();
    let dataset = lab.rows(PromptStrategy::ChatTemplate, &rows());
    let config = Config {
        chat_template: Some("chatml".into()),
        ..config(dataset)
    };
    let prepared = prepare(&config, &tokenizer).unwrap();
    assert_eq!(prepared.train[0], prepared.train[1]);
    assert_eq!(prepared.ledger.warnings().count(), 1);
    // As a fallback it stands behind the tokenizer's own.
    let config = Config {
        chat_template: Some("tokenizer_default_fallback_chatml".into()),
        ..config
    };
    let prepared = prepare(&config, &tokenizer).unwrap();
    assert_ne!(prepared.train[0], prepared.train[1]);
}
