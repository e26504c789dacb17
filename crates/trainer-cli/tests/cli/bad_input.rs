//! Wrong input: each message says where, what and how to mend it, and nothing
//! is left behind.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{parity_root, stderr, trainer};

const ROW: &str = r#"{"instruction": "Say hi.", "input": "", "output": "hi"}"#;

/// A folder with a model, a data set and a configuration that train.
struct Bench {
    folder: TempDir,
    yaml: String,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for entry in fs::read_dir(parity_root().join("models/llama")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
        fs::write(folder.path().join("rows.jsonl"), format!("{ROW}\n{ROW}\n")).unwrap();
        let yaml = "\
base_model: model
output_dir: out
learning_rate: 0.001
max_steps: 1
datasets:
  - path: rows.jsonl
    type: alpaca
"
        .to_owned();
        Self { folder, yaml }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.path().join(name);
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// The message of a run that must fail without a trace.
    fn message(&self) -> String {
        self.message_with(&[])
    }

    fn message_with(&self, extra: &[&str]) -> String {
        self.write("run.yaml", &self.yaml);
        let mut arguments = vec!["train", "run.yaml"];
        arguments.extend(extra);
        let output = trainer(self.path(), &arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        assert!(
            !self.path().join("out").exists(),
            "something was left behind: {text}"
        );
        let here = self.path().canonicalize().unwrap();
        text.replace(&here.display().to_string(), "HERE")
            .replace(&self.path().display().to_string(), "HERE")
    }
}

#[test]
fn the_bench_itself_trains() {
    let bench = Bench::new();
    bench.write("run.yaml", &bench.yaml);
    let output = trainer(bench.path(), &["train", "run.yaml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    for name in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "trainer_state.json",
    ] {
        assert!(bench.path().join("out").join(name).is_file(), "{name}");
    }
}

#[test]
fn not_yaml() {
    let mut bench = Bench::new();
    bench.yaml += "sequence_len: [1, 2\n";
    insta::assert_snapshot!(bench.message());
}

#[test]
fn typos_at_each_level() {
    let mut bench = Bench::new();
    bench.yaml += "    typ: alpaca\nlerning_rate: 2\nspecial_tokens:\n  pad_tokn: x\n";
    insta::assert_snapshot!(bench.message());
}

#[test]
fn wrong_types_and_ranges() {
    let mut bench = Bench::new();
    bench.yaml += "micro_batch_size: two\nweight_decay: -0.1\nval_set_size: 1.5\n";
    insta::assert_snapshot!(bench.message());
}

#[test]
fn missing_configuration() {
    let bench = Bench::new();
    let output = trainer(bench.path(), &["train", "runn.yaml"]);
    assert!(!output.status.success());
    insta::assert_snapshot!(stderr(&output));
}

#[test]
fn missing_data_file() {
    let mut bench = Bench::new();
    bench.yaml = bench.yaml.replace("rows.jsonl", "row.jsonl");
    insta::assert_snapshot!(bench.message());
}

#[test]
fn row_without_a_column() {
    let bench = Bench::new();
    bench.write(
        "rows.jsonl",
        format!("{ROW}\n{{\"instruction\": \"Say hi.\", \"answer\": \"hi\"}}\n"),
    );
    insta::assert_snapshot!(bench.message());
}

#[test]
fn invalid_utf8() {
    let bench = Bench::new();
    let mut bytes = format!("{ROW}\n").into_bytes();
    bytes.extend_from_slice(b"{\"instruction\": \"\xff\", \"output\": \"hi\"}\n");
    bench.write("rows.jsonl", bytes);
    insta::assert_snapshot!(bench.message());
}

#[test]
fn malformed_json() {
    let bench = Bench::new();
    bench.write("rows.jsonl", format!("{ROW}\n{{\"instruction\": \n"));
    insta::assert_snapshot!(bench.message());
}

#[test]
fn empty_data_set() {
    let bench = Bench::new();
    bench.write("rows.jsonl", "");
    insta::assert_snapshot!(bench.message());
}

#[test]
fn all_rows_dropped() {
    let mut bench = Bench::new();
    bench.yaml += "sequence_len: 8\n";
    insta::assert_snapshot!(bench.message());
}

#[test]
fn token_id_beyond_the_vocabulary() {
    let mut bench = Bench::new();
    bench.yaml = bench.yaml.replace("type: alpaca", "type: pretokenized");
    bench.write(
        "rows.jsonl",
        "{\"input_ids\": [5, 6, 7], \"labels\": [5, 6, 7], \"attention_mask\": [1, 1, 1]}\n\
         {\"input_ids\": [5, 1024, 7], \"labels\": [5, 1024, 7], \"attention_mask\": [1, 1, 1]}\n",
    );
    insta::assert_snapshot!(bench.message());
}

#[test]
fn missing_model_folder() {
    let mut bench = Bench::new();
    bench.yaml = bench.yaml.replace("base_model: model", "base_model: modle");
    insta::assert_snapshot!(bench.message());
}

#[test]
fn truncated_weights() {
    let bench = Bench::new();
    let path = bench.path().join("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    insta::assert_snapshot!(bench.message());
}

#[test]
fn weights_with_an_absurd_header() {
    let bench = Bench::new();
    let path = bench.path().join("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    insta::assert_snapshot!(bench.message());
}

#[test]
fn weights_that_do_not_fit_the_configuration() {
    let bench = Bench::new();
    bench.edit_json("model/config.json", |config| {
        config["num_hidden_layers"] = json!(1);
        config["intermediate_size"] = json!(128);
        config["attention_bias"] = json!(true);
    });
    insta::assert_snapshot!(bench.message());
}

#[test]
fn missing_shard() {
    let bench = Bench::new();
    fs::remove_file(bench.path().join("model/model.safetensors")).unwrap();
    let index = json!({
        "metadata": {},
        "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"},
    });
    bench.write("model/model.safetensors.index.json", index.to_string());
    insta::assert_snapshot!(bench.message());
}

#[test]
fn index_that_leads_out_of_the_folder() {
    let bench = Bench::new();
    let index = json!({"weight_map": {"model.norm.weight": "../../etc/passwd"}});
    bench.write("model/model.safetensors.index.json", index.to_string());
    fs::remove_file(bench.path().join("model/model.safetensors")).unwrap();
    insta::assert_snapshot!(bench.message());
}

#[test]
fn unknown_architecture() {
    let bench = Bench::new();
    bench.edit_json("model/config.json", |config| {
        config["model_type"] = json!("mamba")
    });
    insta::assert_snapshot!(bench.message());
}

#[test]
fn heads_that_do_not_divide() {
    let bench = Bench::new();
    bench.edit_json("model/config.json", |config| {
        config["num_key_value_heads"] = json!(3)
    });
    insta::assert_snapshot!(bench.message());
}

#[test]
fn size_of_zero() {
    let bench = Bench::new();
    bench.edit_json("model/config.json", |config| {
        config["num_attention_heads"] = json!(0)
    });
    insta::assert_snapshot!(bench.message());
}

#[test]
fn schedule_arguments() {
    let mut bench = Bench::new();
    bench.yaml += "lr_scheduler: polynomial\nlr_scheduler_kwargs: {powr: 2}\n";
    insta::assert_snapshot!(bench.message());
}

#[cfg(not(feature = "cuda"))]
#[test]
fn backend_that_is_not_compiled_in() {
    let bench = Bench::new();
    let text = bench.message_with(&["--backend", "cuda"]);
    assert!(
        text.contains("backend: cuda: not compiled into this build"),
        "{text}"
    );
    assert!(text.contains("--features cuda"), "{text}");
}

/// What a backend lacks is known before anything is prepared.
#[cfg(feature = "ndarray")]
#[test]
fn number_formats_that_a_backend_lacks() {
    let bench = Bench::new();
    insta::assert_snapshot!(bench.message_with(&["--bf16", "true", "--backend", "ndarray"]));
}

/// What the settings alone tell is found before the data is read.
#[test]
fn settings_are_looked_at_before_the_data() {
    let bench = Bench::new();
    let nowhere = ["--datasets.0.path", "nowhere.jsonl"];
    let with = |key: &str, value: &str| bench.message_with(&[&nowhere[..], &[key, value]].concat());
    insta::assert_snapshot!(with("--resume_from_checkpoint", "checkpoint-7"));
    insta::assert_snapshot!(with("--early_stopping_patience", "2"));
    insta::assert_snapshot!(with("--generate_samples", "true"));
    insta::assert_snapshot!(with("--wandb_mode", "online"));
    insta::assert_snapshot!(with("--trackio_project_name", "registry-of-runs"));
}

/// A run that another one keeps out leaves its files alone.
#[test]
fn an_output_folder_belongs_to_one_run() {
    let bench = Bench::new();
    let out = bench.path().join("taken");
    fs::create_dir_all(&out).unwrap();
    let lock = fs::File::create(out.join(".lock")).unwrap();
    lock.lock().unwrap();
    let ledger = out.join("data_ledger.json");
    fs::write(&ledger, "of the other run").unwrap();
    // Before the error, the account of the data is printed.
    let error = |out: &str| {
        let text = bench.message_with(&["--output_dir", out]);
        text.lines().last().unwrap_or_default().to_owned()
    };
    insta::assert_snapshot!(error("taken"));
    assert_eq!(fs::read_to_string(&ledger).unwrap(), "of the other run");
    drop(lock);
    insta::assert_snapshot!(error("run.yaml/out"));
}

#[test]
fn override_that_is_no_key() {
    let bench = Bench::new();
    insta::assert_snapshot!(bench.message_with(&["--learning_rat", "1"]));
}

#[test]
fn rates_of_parts_that_the_model_does_not_have() {
    let mut bench = Bench::new();
    bench.yaml += "lr_groups: [{name: down, modules: [w2, dwn_proj], lr: 1e-5}]\n";
    insta::assert_snapshot!(bench.message());
}
