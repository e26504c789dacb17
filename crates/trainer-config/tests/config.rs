//! What the crate does, seen from outside: messages, layers, resolved output.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use trainer_config::{
    Config, ConfigErrors, Layers, Loaded, OptimArgs, Origin, PackingStrategy, PromptStrategy,
    SaveStrategy, Severity, json_schema, load, load_str,
};

const MINIMAL: &str =
    "base_model: m\nlearning_rate: 1e-3\ndatasets: [{path: a.jsonl, type: alpaca}]\n";

fn yaml_files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn messages(result: &Result<Loaded, ConfigErrors>) -> String {
    match result {
        Err(errors) => errors.to_string(),
        Ok(loaded) => loaded.warnings.iter().map(|w| format!("{w}\n\n")).collect(),
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Loads a text as a file, with variables and overrides on top.
fn layered(text: &str, env: &[(&str, &str)], cli: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    fs::write(&file, text).unwrap();
    load(&Layers {
        file: Some(file),
        env: pairs(env),
        cli: pairs(cli),
    })
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, text);
    });
}

/// Every file of `inputs` gives exactly the message in `snapshots`.
#[test]
fn messages_of_bad_files() {
    for (name, text) in yaml_files("inputs") {
        let result = load_str(&format!("{name}.yaml"), &text);
        assert_eq!(
            result.is_ok(),
            name == "warnings",
            "{name}: {}",
            messages(&result)
        );
        snapshot(&name, &messages(&result));
    }
}

#[test]
fn files_that_axolotl_takes_load() {
    for (name, text) in yaml_files("accepted") {
        let loaded = load_str(&name, &text).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
        assert_eq!(loaded.config.sample_packing, name == "sft-packed-llama");
    }
}

#[test]
fn values_as_pyyaml_users_write_them() {
    let text = format!(
        "{MINIMAL}weight_decay: \"2e-4\"\nnum_epochs: 5\nval_set_size: 0\nsequence_len: 2_048\nmicro_batch_size: 4.0\n\
         sample_packing: yes\nsave_strategy: no\nmax_steps: ~\nseed: null\nmodel_config: {{rope_theta: 1e4, a: no}}\n\
         max_grad_norm: .5\n"
    );
    let config = load_str("c.yaml", &text).unwrap().config;
    assert_eq!(config.weight_decay, 2e-4);
    assert_eq!(config.num_epochs, 5.0);
    assert_eq!(config.sequence_len, 2048);
    assert_eq!(config.micro_batch_size, 4);
    assert!(config.sample_packing);
    assert_eq!(config.checkpoint.save_strategy, Some(SaveStrategy::No));
    assert_eq!((config.max_steps, config.seed), (None, 42));
    assert_eq!(config.max_grad_norm, 0.5);
    let model = config.model_config.unwrap();
    assert_eq!(model["rope_theta"], 1e4);
    assert_eq!(model["a"], false);
}

#[test]
fn a_type_is_a_name_or_a_mapping() {
    let text = "base_model: m\nlearning_rate: 1e-3\ndatasets:\n- {path: a.jsonl, type: alpaca:chatml}\n- path: b.jsonl\n  \
                type: {format: \"[INST] {instruction}{{}}\\n{input}\", field_output: answer}\n- {path: c.jsonl, type: {}}\n";
    let cli = [("datasets.1.type.field_input", "extra")];
    let loaded = layered(text, &[], &cli).unwrap_or_else(|errors| panic!("{errors}"));
    let strategies: Vec<_> = loaded
        .config
        .datasets
        .iter()
        .map(|d| d.strategy.clone().unwrap())
        .collect();
    assert_eq!(strategies[0], PromptStrategy::AlpacaStyleChatml);
    let PromptStrategy::UserDefined(own) = &strategies[1] else {
        panic!("{:?}", strategies[1]);
    };
    assert_eq!(
        own.format.as_deref(),
        Some("[INST] {instruction}{{}}\n{input}")
    );
    assert_eq!(own.keys(), ["field_input", "field_output", "format"]);
    assert!(matches!(
        loaded.origins.get("datasets.1.type.field_output"),
        Origin::File { line: 6, .. }
    ));
    let again =
        load_str("shown.yaml", &loaded.render()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(again.config, loaded.config);
}

#[test]
fn one_text_or_a_list_of_texts() {
    let text = "base_model: m\nlearning_rate: 1e-3\ndatasets:\n\
                - {path: a, type: alpaca, data_files: x.jsonl}\n\
                - {path: a, type: alpaca, data_files: [y.jsonl, z.jsonl]}\n";
    let config = load_str("c.yaml", text)
        .unwrap_or_else(|e| panic!("{e}"))
        .config;
    let files = |index: usize| {
        config.datasets[index]
            .data_files
            .as_ref()
            .unwrap()
            .as_slice()
    };
    assert_eq!(files(0), ["x.jsonl"]);
    assert_eq!(files(1), ["y.jsonl", "z.jsonl"]);
}

#[test]
fn anchors_and_merge_keys() {
    let text = "base_model: m\nlearning_rate: &lr 1e-3\nweight_decay: *lr\n\
                datasets:\n- &first {path: a.jsonl, type: alpaca}\n- {<<: *first, path: b.jsonl}\n";
    let config = load_str("c.yaml", text).unwrap().config;
    assert_eq!(config.weight_decay, 1e-3);
    assert_eq!(config.datasets[1].path, PathBuf::from("b.jsonl"));
    assert_eq!(config.datasets[1].strategy, config.datasets[0].strategy);
}

#[test]
fn higher_layers_win_and_origins_say_so() {
    let loaded = layered(
        &format!("{MINIMAL}seed: 1\nmax_steps: 7\nspecial_tokens:\n  eos_token: </s>\nmodel_config: {{A: 1, b: 2}}\n"),
        &[
            ("TRAINER__SEED", "2"),
            ("TRAINER__LEARNING_RATE", "2e-3"),
            ("TRAINER__DATASETS__0__PATH", "Env.jsonl"),
            ("TRAINER__MODEL_CONFIG__A", "5"),
            ("HOME", "/root"),
        ],
        &[
            ("--seed", "3"),
            ("special_tokens.pad_token", "[PAD]"),
            ("datasets.1.path", "second.jsonl"),
            ("val-set-size", "0.1"),
            ("max_steps", "null"),
            ("model_config.rope_scaling.factor", "2"),
        ],
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!(
        (config.seed, config.learning_rate, config.max_steps),
        (3, 2e-3, None)
    );
    assert_eq!(config.datasets[0].path, PathBuf::from("Env.jsonl"));
    assert_eq!(config.datasets[1].path, PathBuf::from("second.jsonl"));
    assert_eq!(config.special_tokens.pad_token.as_deref(), Some("[PAD]"));
    assert_eq!(config.special_tokens.eos_token.as_deref(), Some("</s>"));
    let model = config.model_config.as_ref().unwrap();
    assert_eq!((&model["A"], &model["b"]), (&5.into(), &2.into()));
    assert_eq!(model["rope_scaling"]["factor"], 2);

    let origin = |key: &str| loaded.origins.get(key);
    assert_eq!(
        origin("seed"),
        &Origin::CommandLine {
            flag: "--seed".into()
        }
    );
    assert_eq!(
        origin("learning_rate"),
        &Origin::Environment {
            variable: "TRAINER__LEARNING_RATE".into()
        }
    );
    assert!(matches!(
        origin("base_model"),
        Origin::File {
            line: 1,
            column: 1,
            ..
        }
    ));
    assert!(matches!(
        origin("datasets.0.type"),
        Origin::File { line: 3, .. }
    ));
    assert!(matches!(
        origin("special_tokens.eos_token"),
        Origin::File { line: 7, .. }
    ));
    assert_eq!(origin("max_steps"), &Origin::Default);
    assert_eq!(origin("weight_decay"), &Origin::Default);
}

#[test]
fn errors_of_overrides_name_the_variable_or_the_flag() {
    let result = layered(
        MINIMAL,
        &[
            ("TRAINER__LEARNING_RATE", "fast"),
            ("TRAINER__LEARNIG_RATE", "1"),
            ("TRAINER__WARMUP_STEPS", "10"),
            ("TRAINER__ADAPTER", "lora"),
        ],
        &[
            ("seed", "[1, 2"),
            ("datasets.5.path", "x.jsonl"),
            ("datasets.path", "x.jsonl"),
            ("datasets.0.typ", "alpaca"),
            ("seed.low", "1"),
            ("warmup_ratio", "0.1"),
            ("datasets.0.type", "sharegpt"),
            ("lr_scheduler", "cosin"),
        ],
    );
    snapshot("overrides", &messages(&result));
}

#[test]
fn keys_that_follow_from_others() {
    let text = format!(
        "{MINIMAL}batch_size: 12\nmicro_batch_size: 3\nsample_packing: true\nsample_packing_sequentially: true\nchat_template_jinja: t.jinja\n"
    );
    let loaded = load_str("c.yaml", &text).unwrap();
    assert_eq!(loaded.config.gradient_accumulation_steps, 4);
    assert_eq!(loaded.config.batch_size, None);
    assert_eq!(loaded.config.packing_strategy, PackingStrategy::Sequential);
    assert_eq!(loaded.config.chat_template.as_deref(), Some("jinja"));
    assert!(matches!(
        loaded.origins.get("gradient_accumulation_steps"),
        Origin::File { line: 4, .. }
    ));
}

/// Arguments of an optimizer as a text and as a mapping, and what follows from its
/// name; the resolved output of each loads again.
#[test]
fn optimizers() {
    let load = |text: &str| {
        let loaded =
            load_str("c.yaml", &format!("{MINIMAL}{text}")).unwrap_or_else(|e| panic!("{e}"));
        let again = load_str("c.yaml", &loaded.render()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(again.config, loaded.config);
        loaded.config
    };
    let text = load("optimizer: sgd\noptim_args: momentum=0.9, nesterov=True,x=1e-3,name=a b\n");
    let map =
        load("optimizer: sgd\noptim_args: {momentum: 0.9, nesterov: true, x: 1e-3, name: a b}\n");
    assert_eq!(text, map);
    let Some(OptimArgs::Map(arguments)) = text.optimization.optim_args else {
        panic!("not a mapping");
    };
    assert_eq!(arguments["nesterov"], true);
    assert_eq!(arguments["momentum"], 0.9);
    let muon = load("optimizer: muon\nadam_beta2: 0.9\n");
    assert_eq!((muon.adam_beta1, muon.adam_beta2), (0.95, 0.9));
    let groups = load("lr_groups:\n- {name: down, modules: [down_proj, up_proj], lr: 1e-5}\n");
    assert_eq!(groups.optimization.lr_groups.unwrap()[0].lr, 1e-5);
    load("optimizer: sgd\nadam_beta1: 0.9\nloraplus_lr_embedding: 1e-6\n");
    let cli = layered(
        MINIMAL,
        &[],
        &[("optimizer", "sgd"), ("optim_args.momentum", "0.5")],
    );
    let Some(OptimArgs::Map(arguments)) = cli.unwrap().config.optimization.optim_args else {
        panic!("not a mapping");
    };
    assert_eq!(arguments["momentum"], 0.5);
}

/// The losses that have a smoothing published read the key, the others refuse it; beside one
/// that reads it, others may stand.
#[test]
fn label_smoothing_by_loss() {
    let load = |losses: &str| {
        let text = "base_model: m\nlearning_rate: 1e-5\nrl: dpo\ndpo_label_smoothing: 0.1\n\
                    datasets: [{path: a.jsonl, type: chatml.intel}]\n";
        load_str("c.yaml", &format!("{text}dpo_loss_type: [{losses}]\n")).map(|_| ())
    };
    let published = ["sigmoid", "exo_pair", "robust", "aot", "aot_unpaired"];
    for loss in trainer_config::DpoLossType::NAMES {
        match load(loss) {
            Ok(()) => assert!(published.contains(loss), "{loss}"),
            Err(errors) => {
                assert!(!published.contains(loss), "{loss}: {errors}");
                assert!(
                    errors
                        .to_string()
                        .contains("`dpo_label_smoothing` has no effect")
                );
            }
        }
    }
    load("sigmoid, hinge").unwrap();
    let plain = "base_model: m\nlearning_rate: 1e-5\nrl: dpo\ndpo_label_smoothing: 0.1\n\
                 datasets: [{path: a.jsonl, type: chatml.intel}]\n";
    load_str("c.yaml", plain).unwrap();
}

#[test]
fn resolved_output_shows_origins_and_loads_again() {
    let text = "base_model: models/llama\nlearning_rate: 2e-4\ndatasets:\n  - path: data/a b.jsonl\n    type: chat_template\n    \
                roles: {assistant: [gpt, \"no\"]}\n  - {path: c.jsonl}\nspecial_tokens: {pad_token: <pad>}\n\
                model_config: {rope_theta: 10000.0, nothing: null, \"odd: key\": \"1\"}\n";
    let loaded = load_str("run.yaml", text).unwrap();
    let shown = loaded.render();
    snapshot("resolved", &shown);
    let again = load_str("shown.yaml", &shown).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(again.config, loaded.config);
}

#[test]
fn without_a_file_the_command_line_is_enough() {
    let layers = Layers {
        cli: pairs(&[
            ("base_model", "m"),
            ("learning_rate", "1"),
            ("datasets", "[{path: a.jsonl, type: completion}]"),
        ]),
        ..Layers::default()
    };
    let config = load(&layers)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config;
    assert_eq!(
        config,
        Config {
            base_model: "m".into(),
            learning_rate: 1.0,
            datasets: config.datasets.clone(),
            // Of files alone: a program's default keeps nothing.
            dataset_prepared_path: Some("last_run_prepared".into()),
            ..Config::default()
        }
    );
}

#[test]
fn unreadable_files() {
    let folder = tempfile::tempdir().unwrap();
    let missing = load(&Layers {
        file: Some(folder.path().join("missing.yaml")),
        ..Layers::default()
    });
    let text = missing.unwrap_err().to_string();
    assert!(
        text.contains("cannot read the configuration") && text.contains("missing.yaml"),
        "{text}"
    );

    let file = folder.path().join("latin1.yaml");
    fs::write(&file, b"base_model: m\noutput_dir: caf\xe9\n").unwrap();
    let text = load(&Layers {
        file: Some(file),
        ..Layers::default()
    })
    .unwrap_err()
    .to_string();
    assert!(
        text.contains("not UTF-8") && text.contains("latin1.yaml:2:16"),
        "{text}"
    );
}

/// The schema that editors get knows what the validator knows.
#[test]
fn schema() {
    let schema = json_schema();
    let properties = &schema["properties"];
    assert_eq!(properties["sequence_len"]["minimum"], 1);
    assert_eq!(properties["seed"]["default"], 42);
    assert!(
        properties["learning_rate"]["description"]
            .as_str()
            .unwrap()
            .contains("learning rate")
    );
    assert!(properties["learning_rate"].get("default").is_none());
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["$defs"]["Dataset"]["additionalProperties"], false);
    assert_eq!(
        schema["required"],
        serde_json::json!(["base_model", "learning_rate"])
    );
    assert_eq!(schema["anyOf"][0]["required"][0], "datasets");
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let supported = properties
        .as_object()
        .unwrap()
        .values()
        .filter(|property| property.get("deprecated").is_none());
    assert_eq!(
        supported.count(),
        defaults.as_object().unwrap().len() + 1,
        "all but batch_size"
    );
}

/// Pieces that YAML files are made of, so that random texts get far.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "datasets",
            "path",
            "type",
            "alpaca",
            "learning_rate",
            "val_set_size",
            "special_tokens",
            "roles",
            "seed",
            "model_config",
            "rl",
            "<<",
            ": ",
            ":",
            "- ",
            "\n",
            "\n  ",
            "\n    ",
            "\t",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "&a ",
            "*a",
            "!!str ",
            "!x ",
            "\"",
            "'",
            "|",
            ">",
            "#",
            "---",
            "...",
            "%",
            "null",
            "~",
            "true",
            "no",
            "1e999",
            "-0",
            "0x",
            ".nan",
            "é",
            "\u{feff}",
            "\u{2028}",
            "\r\n",
            "?",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Random inputs of each property; `PROPTEST_CASES` asks for another number.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(512)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in fragments()) {
        if let Err(errors) = load_str("c.yaml", &text) {
            prop_assert!(errors.count() > 0);
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn no_override_panics(key in "(datasets|seed|model_config|special_tokens|roles|[0-9]{1,6}|\\PC{0,3}|\\.){0,5}", value in fragments()) {
        let layers = Layers {
            file: None,
            env: vec![(format!("TRAINER__{}", key.replace('.', "__")), value.clone())],
            cli: vec![(key, value)],
        };
        if let Err(errors) = load(&layers) {
            prop_assert!(errors.diagnostics().iter().any(|d| d.severity == Severity::Error));
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    /// Whatever text a value holds, the resolved output gives it back.
    #[test]
    fn any_text_survives_the_resolved_output(text in "\\PC{1,12}|[a-z0-9.:#\\-\\[\\]{}\"'\\\\\n\t]{1,8}", number in proptest::num::f64::POSITIVE) {
        let quoted = serde_json::to_string(&text).unwrap();
        let yaml = format!("{MINIMAL}output_dir: {quoted}\nadam_epsilon: {number:e}\n");
        prop_assume!(number > 0.0);
        let loaded = load_str("c.yaml", &yaml).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(loaded.config.output_dir.to_str(), Some(text.as_str()));
        let again = load_str("d.yaml", &loaded.render()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(again.config, loaded.config);
    }

    /// What a file may say, a program may say too, and the resolved output of a file is a
    /// file that says the same.
    #[test]
    fn a_file_that_loads_stays_right(lines in prop::collection::btree_map(0..SETTINGS.len(), 0..8_usize, 0..8)) {
        let mut yaml = MINIMAL.to_owned();
        for (key, value) in &lines {
            let (key, values) = SETTINGS[*key];
            yaml += &format!("{key}: {}\n", values[value % values.len()]);
        }
        if let Ok(loaded) = load_str("c.yaml", &yaml) {
            let checked = loaded.config.check();
            prop_assert!(checked.is_ok(), "{yaml}\n{}", checked.unwrap_err());
            let again = load_str("d.yaml", &loaded.render()).map_err(|e| TestCaseError::fail(format!("{yaml}\n{e}")))?;
            prop_assert_eq!(again.config, loaded.config);
        }
    }
}

/// Keys that rules put together, with values for each.
const SETTINGS: [(&str, &[&str]); 32] = [
    ("sample_packing", &["true", "false"]),
    ("eval_sample_packing", &["true", "false"]),
    (
        "packing_strategy",
        &["first_fit", "sequential", "best_fit_decreasing"],
    ),
    ("sample_packing_sequentially", &["true", "false"]),
    ("sample_packing_group_size", &["100", "100000"]),
    ("sample_packing_bin_size", &["7"]),
    ("curriculum_sampling", &["true", "false"]),
    ("shuffle_merged_datasets", &["true", "false"]),
    ("batch_size", &["4", "8"]),
    ("micro_batch_size", &["2", "4"]),
    ("gradient_accumulation_steps", &["1", "2"]),
    ("val_set_size", &["0", "0.1", "5"]),
    ("eval_strategy", &["\"no\"", "epoch", "steps"]),
    ("eval_steps", &["5", "0.5"]),
    ("eval_batch_size", &["1", "3"]),
    ("load_best_model_at_end", &["true", "false"]),
    ("metric_for_best_model", &["loss"]),
    ("greater_is_better", &["true", "false"]),
    ("save_strategy", &["\"no\"", "epoch", "best"]),
    ("use_pose", &["true", "false"]),
    ("pose_max_context_len", &["4096"]),
    ("pose_num_chunks", &["2", "3"]),
    ("lr_scheduler", &["constant", "cosine", "rex"]),
    ("warmup_steps", &["0", "5"]),
    ("optimizer", &["muon", "sgd", "adamw_torch"]),
    ("optim_args", &["momentum=0.9", "{momentum: 0.9}"]),
    ("adam_beta1", &["0.9", "0.95"]),
    ("batch_flattening", &["true", "false", "auto"]),
    ("rl", &["null"]),
    ("chat_template_jinja", &["\"{{ messages }}\""]),
    ("generate_samples", &["true", "false"]),
    ("num_generation_samples", &["3", "5"]),
];
