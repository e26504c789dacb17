//! Models and adapters that commands are given: heads, numbers, tokens and lengths that
//! their files say one thing about and the data another.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use trainer_model::{
    CausalLm, ModelConfig, SaveDtype, load_causal_lm, map_values, open_gguf, save_model,
    visit_values,
};

use crate::{parity_root, stderr, stdout, trainer};

/// A folder with a model, data and a configuration.
struct Run {
    folder: TempDir,
    keys: Map<String, Value>,
}

impl Run {
    fn new(model: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(
            &parity_root().join("models").join(model),
            &folder.path().join("model"),
        );
        let rows = (0..4).map(|i| {
            let row = json!({"instruction": format!("Name {i}"), "input": "", "output": "A name."});
            format!("{row}\n")
        });
        fs::write(folder.path().join("rows.jsonl"), rows.collect::<String>()).unwrap();
        let keys = json!({
            "base_model": "model",
            "output_dir": "out",
            "learning_rate": 0.05,
            "micro_batch_size": 2,
            "optimizer": "adamw_torch",
            "lr_scheduler": "constant",
            "max_steps": 1,
            "save_strategy": "no",
            "seed": 42,
            "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
        });
        let Value::Object(keys) = keys else {
            panic!("an object")
        };
        Self { folder, keys }
    }

    fn set(mut self, keys: Value) -> Self {
        self.keys.extend(keys.as_object().unwrap().clone());
        self
    }

    fn lora(self, keys: Value) -> Self {
        self.set(json!({
            "adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": true,
        }))
        .set(keys)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs a command on the configuration; the end of it, and all that it printed.
    fn try_run(&self, verb: &str, extra: &[&str]) -> (bool, String) {
        self.write("run.yaml", Value::Object(self.keys.clone()).to_string());
        let mut arguments = vec![verb, "run.yaml"];
        arguments.extend(extra);
        let output = trainer(self.folder.path(), &arguments);
        let text = stderr(&output) + &stdout(&output);
        assert!(!text.contains("panicked"), "{text}");
        (output.status.success(), text)
    }

    fn run(&self, verb: &str, extra: &[&str]) -> String {
        let (success, text) = self.try_run(verb, extra);
        assert!(success, "{verb}: {text}");
        text
    }

    fn fails(&self, verb: &str, extra: &[&str]) -> String {
        let (success, text) = self.try_run(verb, extra);
        assert!(!success, "{verb}: {text}");
        text
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }

    /// Changes a JSON file.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.json(name);
        change(&mut value);
        self.write(name, value.to_string());
    }

    /// Changes the model.
    fn change(&self, change: impl FnOnce(CausalLm) -> CausalLm) {
        let model = change(load(&self.path("model")));
        save_model(&model, &self.path("model"), SaveDtype::F32).unwrap();
    }

    /// Puts a number into the last place of a file of weights.
    fn spoil(&self, name: &str) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        self.write(name, bytes);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn load(folder: &Path) -> CausalLm {
    let config = ModelConfig::from_folder(folder, None).unwrap();
    load_causal_lm(folder, &config, &Device::default()).unwrap()
}

/// All numbers of a model.
fn numbers(model: &CausalLm) -> Vec<(String, Vec<u32>)> {
    let mut all = Vec::new();
    let visited: Result<(), ()> = visit_values(model, |name, value| {
        let bits = value.read().into_iter().map(f32::to_bits).collect();
        all.push((name.to_owned(), bits));
        Ok(())
    });
    visited.unwrap();
    all
}

fn first_loss(run: &Run) -> f64 {
    let text = fs::read_to_string(run.path("out/metrics.jsonl")).unwrap();
    let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    row["loss"].as_f64().unwrap()
}

/// A head beside a tied embedding is trained with, whatever config.json says; the words say
/// so, and the saved model has it.
#[test]
fn a_head_of_a_tied_model() {
    let run = Run::new("qwen2");
    run.change(|model| {
        let model = model.untied();
        let mut index = 0;
        let count = trainer_model::parameters(&model).len();
        map_values(model, |_, value| {
            index += 1;
            if index == count { value * 3.0 } else { value }
        })
    });
    run.run("train", &[]);
    let expected = first_loss(&run);
    run.edit("model/config.json", |config| {
        config["tie_word_embeddings"] = true.into();
    });
    fs::remove_dir_all(run.path("out")).unwrap();
    assert!(
        run.run("check", &[])
            .contains("# warning: model: lm_head.weight is not the embedding")
    );
    let said = run.run("train", &[]);
    assert!(
        said.contains("lm_head.weight is not the embedding"),
        "{said}"
    );
    assert_eq!(first_loss(&run), expected);
    assert_eq!(run.json("out/config.json")["tie_word_embeddings"], false);
    assert!(
        numbers(&load(&run.path("out")))
            .iter()
            .any(|(name, _)| name == "lm_head.weight")
    );
}

/// NaN in an adapter stops every command that reads it, before anything is written.
#[test]
fn numbers_that_are_not_finite() {
    let run = Run::new("llama").lora(json!({}));
    run.run("train", &[]);
    run.spoil("out/adapter_model.safetensors");
    for (verb, extra) in [
        ("merge-lora", &["--out=merged"][..]),
        ("export", &["--gguf=m.gguf"]),
        ("evaluate", &["--val_set_size=2"]),
        ("inference", &["--prompt=x"]),
        ("train", &["--lora_model_dir=out", "--output_dir=next"]),
    ] {
        let said = run.fails(verb, extra);
        assert!(
            said.contains("out/adapter_model.safetensors: tensor base_model.model.model.layers.")
                && said.contains("has numbers that are not finite"),
            "{verb}: {said}"
        );
        for name in ["merged", "m.gguf", "next"] {
            assert!(!run.path(name).exists(), "{verb} {name}");
        }
    }
    // Of a model too, and numbers that only become so on the way.
    let run = Run::new("llama");
    run.change(|model| {
        let head = trainer_model::parameters(&model).len() - 1;
        map_values(model, |index, value| match index == head {
            true => value * 1e20 * 3e19,
            false => value,
        })
    });
    let said = run.fails("evaluate", &["--val_set_size=2"]);
    assert!(
        said.contains("the evaluation gives no finite number: eval_loss is NaN"),
        "{said}"
    );
    run.spoil("model/model.safetensors");
    for (verb, extra) in [
        ("train", &[][..]),
        ("evaluate", &["--val_set_size=2"]),
        ("export", &["--gguf=m.gguf"]),
    ] {
        let said = run.fails(verb, extra);
        assert!(said.contains("model/model.safetensors: tensor "), "{said}");
    }
}

/// A row of data with this text in it.
type Writes<'a> = &'a dyn Fn(&str) -> String;

/// Tokens beyond the embedding stop a run only if the data has them.
#[test]
fn tokens_that_nothing_trains() {
    let new = "<|endoftext|>";
    let row = |text: &str| json!({"instruction": "a", "input": "", "output": text}).to_string();
    let told = |text: &str| json!({"text": text}).to_string();
    let sft = |kind: &str| json!({"datasets": [{"path": "rows.jsonl", "type": kind}]});
    let kinds: Vec<(Value, Writes<'_>)> = vec![
        (sft("alpaca"), &row),
        (json!({"sample_packing": true}), &row),
        (json!({"load_in_8bit": true}), &row),
        (json!({"adapter": "qlora", "load_in_4bit": true}), &row),
        (
            json!({"lora_modules_to_save": ["lm_head"], "base_model": "untied"}),
            &row,
        ),
        (
            json!({"pretraining_dataset": [{"path": "rows.jsonl", "type": "completion"}],
                   "datasets": null, "sample_packing": true,
                   "allow_special_tokens_in_content": null}),
            &told,
        ),
        (
            json!({"rl": "dpo", "datasets": [{"path": "rows.jsonl", "type": "chatml.intel"}]}),
            &|text| {
                json!({"system": "s", "question": "a", "chosen": text, "rejected": "b"}).to_string()
            },
        ),
        (json!({"val_set_size": 2}), &row),
    ];
    for (keys, row) in kinds {
        let run = Run::new("qwen2")
            .lora(json!({"allow_special_tokens_in_content": true, "sequence_len": 128}))
            .set(keys.clone());
        copy(&run.path("model"), &run.path("untied"));
        let untied = load(&run.path("model")).untied();
        save_model(&untied, &run.path("untied"), SaveDtype::F32).unwrap();
        let unused: String = (0..4).map(|i| row(&format!("b{i}")) + "\n").collect();
        run.write("rows.jsonl", &unused);
        run.run("train", &[]);
        run.write("rows.jsonl", unused + &row(&format!("b{new}c")) + "\n");
        let said = run.fails("train", &["--output_dir=other"]);
        for part in [new, "lora_modules_to_save", "embed_tokens"] {
            assert!(said.contains(part), "{keys} {part}: {said}");
        }
    }
    // What the message says to do works, also where rows are filled up.
    let run = Run::new("qwen2").lora(json!({
        "allow_special_tokens_in_content": true, "lora_modules_to_save": ["embed_tokens"],
    }));
    run.write(
        "rows.jsonl",
        format!("{}\n{}\n", row("b"), row(&format!("longer {new}"))),
    );
    run.run("train", &[]);
    run.run("merge-lora", &[]);
    let rows = |name: &str| run.json(name)["vocab_size"].as_u64().unwrap();
    assert_eq!(
        rows("out/merged/config.json"),
        rows("model/config.json") + 1
    );
}

/// More positions than the model has are said, and saved with whatever is made of it.
#[test]
fn rows_that_are_longer_than_the_model() {
    let long = || {
        let run = Run::new("llama").set(json!({
            "sequence_len": 96,
            "datasets": [{"path": "rows.jsonl", "type": "completion"}],
        }));
        run.edit("model/config.json", |config| {
            config["max_position_embeddings"] = 32.into();
        });
        let text = "one two three four five six seven ".repeat(20);
        run.write("rows.jsonl", format!("{}\n", json!({"text": text})));
        run
    };
    let short = |run: Run| {
        run.write(
            "rows.jsonl",
            "{\"text\": \"one two\"}\n{\"text\": \"three four\"}\n",
        );
        run
    };
    let warned = |said: &str, limit: &str| {
        said.contains("max_position_embeddings of the model, 32") && said.contains(limit)
    };
    for (run, limit) in [
        (long(), 96),
        (long().set(json!({"sample_packing": true})), 96),
        (short(long()).set(json!({"sample_packing": true})), 32),
        (
            long().set(json!({"use_pose": true, "pose_max_context_len": 200})),
            200,
        ),
        (
            long().set(
                json!({"pretraining_dataset": [{"path": "rows.jsonl", "type": "completion"}],
                              "datasets": null, "sample_packing": true}),
            ),
            96,
        ),
        (long().set(json!({"sequence_len": 32})), 32),
    ] {
        let said = run.run("train", &[]);
        let saved = &run.json("out/config.json")["max_position_embeddings"];
        assert_eq!(saved, limit, "{:?}", run.keys);
        assert_eq!(warned(&said, &limit.to_string()), limit != 32, "{said}");
    }
    let said = long().run("check", &[]);
    assert!(
        said.contains("# warning: sequence_len is 96, more than max_position_embeddings"),
        "{said}"
    );
    // Adapters do not hold the number: what is made of them does.
    for packing in [false, true] {
        let run = long().lora(json!({"sample_packing": packing}));
        assert!(warned(&run.run("train", &[]), "96"));
        run.run("merge-lora", &[]);
        assert_eq!(
            run.json("out/merged/config.json")["max_position_embeddings"],
            96
        );
        run.run("export", &["--gguf=m.gguf", "--dtype=f32"]);
        let opened = open_gguf(&run.path("m.gguf")).unwrap();
        assert_eq!(opened.config().max_positions, 96);
    }
    // Evaluation beyond the limit, which training has not raised.
    let run = long().set(json!({"sequence_len": 32, "eval_sequence_len": 64}));
    let run = run.set(json!({"test_datasets": [{"path": "test.jsonl", "type": "completion"}]}));
    run.write("test.jsonl", fs::read(run.path("rows.jsonl")).unwrap());
    for verb in ["train", "evaluate"] {
        let said = run.run(verb, &[]);
        assert!(
            said.contains("document of the evaluation data has 64 tokens"),
            "{said}"
        );
    }
    // Preferences, and a scaling that counts from the limit.
    let run = long().set(json!({
        "rl": "dpo", "datasets": [{"path": "rows.jsonl", "type": "chatml.intel"}],
    }));
    let answer = "one two three four five six seven ".repeat(4);
    run.write(
        "rows.jsonl",
        json!({"system": "s", "question": "a", "chosen": answer, "rejected": "b"}).to_string(),
    );
    assert!(warned(&run.run("train", &[]), "96"));
    assert_eq!(run.json("out/config.json")["max_position_embeddings"], 96);
    let run = long();
    run.edit("model/config.json", |config| {
        config["rope_parameters"] =
            json!({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4});
    });
    assert!(warned(
        &run.run("train", &[]),
        "keep the number, from which their RoPE scaling counts"
    ));
    assert_eq!(run.json("out/config.json")["max_position_embeddings"], 32);
}

/// What nothing reads is said, and refused where the configuration asks for it.
#[test]
fn settings_of_a_model_that_nothing_reads() {
    let run = Run::new("llama");
    run.edit("model/config.json", |config| {
        config["shiny_routing"] = true.into()
    });
    let expected = "model/config.json: nothing reads shiny_routing; what it asks for is not done";
    for verb in ["check", "train"] {
        let said = run.run(verb, &[]);
        assert!(said.contains(expected), "{verb}: {said}");
    }
    let run = run.set(json!({"model_config": {"rope_thetaa": 1e5}}));
    let said = run.fails("train", &["--output_dir=other"]);
    assert!(
        said.contains("rope_thetaa: is a setting that nothing reads"),
        "{said}"
    );
}

/// Every kind of adapter is exported as the model that merging makes of it, and evaluated
/// where it lies.
#[test]
fn adapters_are_exported_as_merged_models() {
    for keys in [
        json!({}),
        json!({"peft_use_dora": true}),
        json!({"peft_init_lora_weights": "pissa"}),
        json!({"adapter": "qlora", "load_in_4bit": true}),
        json!({"load_in_8bit": true, "peft_use_rslora": true}),
        json!({"lora_modules_to_save": ["embed_tokens", "lm_head"]}),
    ] {
        let run = Run::new("llama").lora(keys.clone());
        // Before anything is trained it is the base model.
        run.run("export", &["--gguf=before.gguf", "--dtype=f32"]);
        run.run("train", &[]);
        run.run("export", &["--gguf=m.gguf", "--dtype=f32"]);
        run.run("merge-lora", &["--out=merged"]);
        let imported = |file: &str| {
            let folder = run.path(&format!("{file}-folder"));
            let opened = open_gguf(&run.path(file)).unwrap();
            opened.write(&folder, SaveDtype::F32).unwrap();
            numbers(&load(&folder))
        };
        assert!(
            imported("before.gguf") == numbers(&load(&run.path("model"))),
            "{keys}"
        );
        assert!(
            imported("m.gguf") == numbers(&load(&run.path("merged"))),
            "{keys}"
        );
        assert!(imported("m.gguf") != imported("before.gguf"), "{keys}");
        let said = run.run("evaluate", &["--model=out", "--val_set_size=2"]);
        assert!(said.contains("adapter of out"), "{said}");
        let from = [
            "--lora_model_dir=out",
            "--output_dir=next",
            "--gguf=from.gguf",
            "--dtype=f32",
        ];
        run.run("export", &from);
        assert!(imported("from.gguf") == imported("m.gguf"), "{keys}");
    }
}

/// An adapter of a reward model is merged with it, head and all.
#[test]
fn adapters_of_reward_models_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let [out, merged] = ["out", "merged"].map(|name| folder.path().join(name));
    let run = |verb: &str, extra: &[&str]| {
        let out = format!("--output_dir={}", out.display());
        let mut arguments = vec![verb, "cases/reward-model.yaml", &out];
        arguments.extend([
            "--adapter=lora",
            "--lora_r=4",
            "--lora_alpha=16",
            "--lora_target_linear=true",
            "--learning_rate=0.003",
            "--max_steps=4",
            "--val_set_size=4",
        ]);
        arguments.extend(extra);
        let output = trainer(&parity_root(), &arguments);
        (output.status.success(), stderr(&output) + &stdout(&output))
    };
    assert!(run("train", &[]).0);
    let to = format!("--out={}", merged.display());
    let (success, said) = run("merge-lora", &[&to]);
    assert!(
        success && said.contains("its scores differ from the adapter's"),
        "{said}"
    );
    let loss = |folder: &Path| {
        let (success, said) = run(
            "evaluate",
            &[&format!("--model={}", folder.display()), "--json"],
        );
        assert!(success, "{said}");
        let row = said.lines().last().unwrap();
        serde_json::from_str::<Value>(row).unwrap()["eval_loss"]
            .as_f64()
            .unwrap()
    };
    assert!((loss(&merged) - loss(&out)).abs() < 1e-5);
    let gguf = format!("--gguf={}", folder.path().join("m.gguf").display());
    let (success, said) = run("export", &[&gguf]);
    assert!(!success && said.contains("head for rewards"), "{said}");
}

/// An adapter in the place of a model is told from one, whatever else is in its folder.
#[test]
fn an_adapter_is_no_base_model() {
    let run = Run::new("llama").lora(json!({}));
    run.run("train", &[]);
    for with_config in [false, true] {
        if with_config {
            fs::copy(run.path("model/config.json"), run.path("out/config.json")).unwrap();
            // It is still found where it was trained.
            let said = run.run("evaluate", &["--val_set_size=2"]);
            assert!(said.contains("adapter of out"), "{said}");
        }
        for (verb, extra) in [
            ("train", &[][..]),
            ("evaluate", &["--val_set_size=2"]),
            ("merge-lora", &[]),
            ("export", &["--gguf=m.gguf"]),
            ("inference", &["--prompt=x"]),
            ("bench", &[]),
        ] {
            let mut arguments = vec!["--base_model=out", "--output_dir=next"];
            arguments.extend(extra);
            let said = run.fails(verb, &arguments);
            for part in [
                "out holds an adapter, which is no model by itself",
                "the model that it was trained on, model,",
                "`lora_model_dir: out`",
                "trainer merge-lora",
            ] {
                assert!(said.contains(part), "{verb} {part}: {said}");
            }
        }
    }
}

/// Every key that takes a folder says what to do about the name of a hub.
#[test]
fn names_of_the_hub() {
    let name = "someone/some-model-0.5B";
    for (key, verbs) in [
        (
            "base_model",
            &["train", "evaluate", "merge-lora", "inference", "bench"][..],
        ),
        ("tokenizer_config", &["train", "preprocess", "preview"]),
        ("lora_model_dir", &["train"]),
    ] {
        for verb in verbs {
            let run = Run::new("llama").lora(json!({key: name}));
            let extra: &[&str] = match *verb {
                "inference" => &["--prompt=x"],
                "evaluate" => &["--val_set_size=2"],
                _ => &[],
            };
            let said = run.fails(verb, extra);
            for part in [
                format!("there is no folder {name}"),
                "models are not downloaded".into(),
                format!("hf download {name} --local-dir models/some-model-0.5B"),
            ] {
                assert!(said.contains(&part), "{verb} {part}: {said}");
            }
        }
    }
}
