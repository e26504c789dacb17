//! Chats whose tools a template does not print, and tokenizers with several templates.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{repository, stderr, trainer};

const TOOLS: &str = "{{ tools | tojson }}\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

fn base() -> std::path::PathBuf {
    repository().join("examples/base-model")
}

fn row(tools: Value) -> Value {
    json!({"tools": tools, "messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
    ]})
}

/// Writes `run.yaml` and its data into a folder.
fn write(folder: &Path, model: &Path, rows: &[Value], further: &str) {
    let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(folder.join("rows.jsonl"), rows).unwrap();
    let yaml = format!(
        "base_model: {}\noutput_dir: out\nsequence_len: 128\nmicro_batch_size: 2\nmax_steps: 1\n\
         learning_rate: 0.001\noptimizer: sgd\nlr_scheduler: constant\n\
         datasets:\n  - path: rows.jsonl\n    type: chat_template\n{further}",
        model.display()
    );
    fs::write(folder.join("run.yaml"), yaml).unwrap();
}

#[test]
fn warnings_are_said_whenever_the_data_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let tools = json!([{"type": "function", "function": {"name": "look"}}]);
    let rows = [row(Value::Null), row(tools.clone()), row(tools)];
    write(folder, &base(), &rows, "");
    let warning = "warning: chat template tokenizer_default does not print the definitions in `tools`, so that the model does not see it; choose another template, or take it out of the data (2 rows, the first: rows.jsonl, line 2, `tools`)\n";
    let prepared = ["--dataset_prepared_path", "prepared"];
    for command in ["preprocess", "preprocess", "train"] {
        let arguments = [&[command, "run.yaml"][..], &prepared[..]].concat();
        let output = trainer(folder, &arguments);
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        let said = stderr(&output);
        assert_eq!(said.matches(warning).count(), 1, "{command}: {said}");
    }
    // Also of rows that are read while training.
    write(folder, &base(), &rows, "streaming: true\n");
    let output = trainer(folder, &["train", "run.yaml", "--output_dir", "streamed"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(warning), "{}", stderr(&output));
}

#[test]
fn named_templates_go_with_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = folder.join("model");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(base()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let path = model.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let plain = config["chat_template"].take();
    let both =
        json!([{"name": "tool_use", "template": TOOLS}, {"name": "default", "template": plain}]);
    config["chat_template"] = both.clone();
    fs::write(&path, config.to_string()).unwrap();
    let tools = json!([{"name": "look"}]);
    write(folder, &model, &[row(Value::Null), row(tools)], "");
    let run = |arguments: &[&str]| {
        let output = trainer(folder, arguments);
        assert!(output.status.success(), "{}", stderr(&output));
    };
    run(&["train", "run.yaml"]);
    let saved = fs::read(folder.join("out/tokenizer_config.json")).unwrap();
    let saved: Value = serde_json::from_slice(&saved).unwrap();
    assert_eq!(saved["chat_template"], both);
    // Through a GGUF file and back they are files.
    run(&["export", "run.yaml", "--gguf", "m.gguf", "--dtype", "f32"]);
    run(&["import", "m.gguf", "back"]);
    let text = |name: &str| fs::read_to_string(folder.join("back").join(name)).unwrap();
    assert_eq!(text("chat_template.jinja"), plain.as_str().unwrap());
    assert_eq!(text("additional_chat_templates/tool_use.jinja"), TOOLS);
}
