//! The JSON schema of the configuration file, held against files with a library that
//! implements the standard: whatever the program accepts, an editor accepts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use trainer_config::{json_schema, load_str};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn validator() -> jsonschema::Validator {
    jsonschema::options()
        .build(&json_schema())
        .expect("the schema is one")
}

/// What is wrong with a text by the schema, one mistake a line.
fn mistakes(validator: &jsonschema::Validator, text: &str) -> String {
    // As editors read YAML, in which `no` is a word.
    let options = serde_saphyr::options! { strict_booleans: true };
    let value: Value = serde_saphyr::from_str_with_options(text, options)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let errors = validator.iter_errors(&value);
    let lines = errors.map(|error| format!("{}: {error}\n", error.instance_path()));
    lines.collect()
}

/// The YAML files of the repository that are configurations of runs.
fn files() -> Vec<PathBuf> {
    let root = repository();
    let mut found = Vec::new();
    for pattern in [
        "examples/*.yaml",
        "scripts/*.yaml",
        "crates/trainer-config/tests/accepted/*.yaml",
        "crates/trainer-cli/tests/parity/cases/*.yaml",
    ] {
        let pattern = root.join(pattern);
        let before = found.len();
        found.extend(
            glob::glob(pattern.to_str().unwrap())
                .unwrap()
                .map(Result::unwrap),
        );
        assert!(found.len() > before, "no file {}", pattern.display());
    }
    found
}

#[test]
fn the_schema_that_is_kept_is_the_one_of_the_program() {
    let kept = fs::read_to_string(repository().join("docs/config.schema.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert!(kept == json_schema(), "write it with `trainer schema`");
}

#[test]
fn every_file_of_the_repository_is_valid() {
    let validator = validator();
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.display().to_string();
        load_str(&name, &text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(mistakes(&validator, &text), "", "{name}");
    }
}

/// Values in every way that the program takes them.
#[test]
fn what_the_program_accepts_is_valid() {
    let validator = validator();
    for lines in [
        "weight_decay: \"2e-4\"\nsequence_len: 2_048\nmicro_batch_size: 4.0\nmax_grad_norm: .5",
        "sample_packing: yes\nsave_strategy: no\nmax_steps: ~\nseed: null",
        "sample_packing: \"TRUE\"\neval_on_start: 0\nbf16: off\ntf32: \"f\"\nuse_wandb: 1.0",
        "lr_scheduler:\noptimizer: null\nlora_target_modules:\nspecial_tokens:\nwandb_mode: ~",
        "flash_attention: true\nattn_implementation: flash_attention_2\ntrust_remote_code: true",
        "attn_implementation: kernels-community/vllm-flash-attn3\nliger_rope: true",
        "gptq: false\nfsdp:\nfsdp_config: {}\nplugins: []\nuse_eaft: n\nworld_size: \"1\"",
        "deepspeed: null\nstrict: 1\nworld_size: 1\nmodel_type: LlamaForCausalLM\ntrl: {}",
        "type_of_model: AutoModelForCausalLM\nrevision_of_model:\nuse_swanlab: true",
        "adapter: lora\nlora_r: \"8\"\nlora_alpha: 16\nlora_target_modules: [q_proj]\n\
         peft_layers_to_transform: [\"1\", 0]\npeft_init_lora_weights: true",
    ] {
        let text = format!(
            "base_model: m\nlearning_rate: 1e-3\ndatasets:\n- {{path: a, type: alpaca, trust_remote_code: true, shards: \"2\"}}\n{lines}\n"
        );
        if let Err(errors) = load_str("c.yaml", &text) {
            panic!("{errors}");
        }
        assert_eq!(mistakes(&validator, &text), "", "{text}");
    }
}

/// A schema that accepts everything would pass the tests above.
#[test]
fn mistakes_of_one_key_are_seen() {
    let validator = validator();
    for (line, place) in [
        ("learnig_rate: 1", "learnig_rate"),
        ("sample_packing: maybe", "/sample_packing"),
        ("sample_packing: 2", "/sample_packing"),
        ("micro_batch_size: 0", "/micro_batch_size"),
        ("micro_batch_size: two", "/micro_batch_size"),
        ("lr_scheduler: cosin", "/lr_scheduler"),
        ("attn_implementation: fast", "/attn_implementation"),
        ("gptq: true", "/gptq"),
        ("use_eaft: 1", "/use_eaft"),
        ("world_size: 2", "/world_size"),
        ("test_datasets: [{path: a, typ: alpaca}]", "typ"),
        ("val_set_size: [1]", "/val_set_size"),
    ] {
        let text = format!(
            "base_model: m\nlearning_rate: 1e-3\ndatasets: [{{path: a, type: alpaca}}]\n{line}\n"
        );
        let found = mistakes(&validator, &text);
        assert!(found.contains(place), "{line}: {found}");
        assert!(load_str("c.yaml", &text).is_err(), "{line}");
    }
}
