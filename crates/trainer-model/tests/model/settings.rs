//! Settings of files that other libraries write: what asks for something that is not done
//! is named, what asks for nothing is no obstacle.

use std::fs;

use serde_json::{Map, Value, json};
use trainer_model::{LoraAdapter, LoraConfig, ModelConfig, inverse_frequencies};

use crate::adapters::recorded;
use crate::{cpu, edit, folder, load};

/// Every setting of PEFT 0.21.2's `LoraConfig` that nothing here reads, with a value that
/// asks for something, and whether that changes what an adapter computes.
fn unread() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("alora_invocation_tokens", json!([1, 2]), true),
        ("arrow_config", json!({"top_k": 3}), true),
        ("auto_mapping", json!({"base_model_class": "X"}), false),
        ("corda_config", json!({"corda_method": "ipm"}), false),
        ("eva_config", json!({"rho": 2.0}), false),
        ("exclude_modules", json!(["lm_head"]), true),
        ("fan_in_fan_out", json!(true), false),
        ("inference_mode", json!(true), false),
        ("kasa_config", json!({"beta": 1e-4}), true),
        ("layer_replication", json!([[0, 2]]), true),
        ("loftq_config", json!({"loftq_bits": 4}), false),
        ("lora_bias", json!(true), true),
        ("lora_ga_config", json!({"direction": "ArB2r"}), false),
        (
            "megatron_config",
            json!({"tensor_model_parallel_size": 2}),
            true,
        ),
        ("megatron_core", json!("megatron.core"), false),
        ("monteclora_config", json!({"num_samples": 8}), true),
        ("peft_version", json!("0.99.0"), false),
        ("qalora_group_size", json!(16), false),
        ("revision", json!("main"), false),
        (
            "runtime_config",
            json!({"ephemeral_gpu_offload": true}),
            false,
        ),
        (
            "target_parameters",
            json!(["mlp.experts.gate_up_proj"]),
            true,
        ),
        ("task_type", json!("CAUSAL_LM"), false),
        ("trainable_token_indices", json!([3]), true),
        ("use_bdlora", json!({"nblocks": 2}), true),
        ("use_qalora", json!(true), true),
        ("velora_config", json!({"num_groups": 4}), true),
        // Of no version of PEFT.
        ("shiny_routing", json!(true), true),
        ("shiny_scale", json!(0.5), true),
        ("shiny_names", json!(["a"]), true),
        ("shiny_inside", json!({"on": [{"deep": 1}]}), true),
    ]
}

/// The error of reading the recorded adapter with a setting, if it is one.
fn with_setting(key: &str, value: &Value) -> Result<LoraConfig, String> {
    let target = edit::copy_of(&recorded("lora"));
    edit::json(&target.path().join("adapter_config.json"), |config| {
        config.insert(key.into(), value.clone());
    });
    let read = LoraConfig::from_folder(target.path());
    let here = target.path().display().to_string();
    read.map_err(|error| error.to_string().replace(&here, "DIR"))
}

#[test]
fn settings_of_adapters() {
    let plain = LoraConfig::from_folder(&recorded("lora")).unwrap();
    for (key, value, changes) in unread() {
        let read = with_setting(key, &value);
        match changes {
            true => {
                let error = read.unwrap_err();
                let start = format!("DIR/adapter_config.json: {key}: {value} is ");
                assert!(error.starts_with(&start), "{error}");
            }
            false => assert_eq!(read.unwrap(), plain, "{key}"),
        }
        for nothing in [
            json!(null),
            json!(false),
            json!(""),
            json!([]),
            json!({}),
            json!({"inside": null}),
        ] {
            assert_eq!(
                with_setting(key, &nothing).unwrap(),
                plain,
                "{key} {nothing}"
            );
        }
    }
}

/// First values are of interest only where they are missing in the weights beneath.
#[test]
fn first_values_of_adapters() {
    for kept in [
        json!(true),
        json!(false),
        json!(null),
        json!("gaussian"),
        json!("eva"),
        json!("orthogonal"),
        json!("mica"),
        json!("MiCA"),
        json!("olora"),
        json!("pissa"),
    ] {
        let target = edit::copy_of(&recorded("lora"));
        edit::json(&target.path().join("adapter_config.json"), |config| {
            config.insert("init_lora_weights".into(), kept.clone());
        });
        let loaded = LoraAdapter::load(load(&folder("llama"), &cpu()), target.path());
        assert!(loaded.is_ok(), "{kept}: {:?}", loaded.err());
    }
    for changed in ["loftq", "corda", "lora_ga", "pissa_niter_4", "shiny"] {
        let error = with_setting("init_lora_weights", &json!(changed)).unwrap_err();
        let start = "DIR/adapter_config.json: init_lora_weights: ";
        assert!(
            error.starts_with(start) && error.contains(changed),
            "{error}"
        );
    }
}

#[test]
fn settings_of_models() {
    let models = fs::read_dir(folder("")).unwrap().flatten();
    let mut read = 0;
    for model in models.filter(|entry| entry.path().join("config.json").is_file()) {
        let config = ModelConfig::from_folder(&model.path(), None).unwrap();
        assert_eq!(config.unknown_settings(), [""; 0], "{:?}", model.path());
        read += 1;
    }
    assert!(read > 10);

    let target = edit::copy("llama");
    edit::json(&target.path().join("config.json"), |config| {
        config.insert("shiny_routing".into(), json!(true));
        config.insert("shiny_nothing".into(), json!(null));
        config["rope_parameters"]["wobble"] = json!(2);
    });
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let mut unknown = config.unknown_settings();
    unknown.sort();
    assert_eq!(unknown, ["rope_parameters.wobble", "shiny_routing"]);

    let overrides = json!({"rope_thetaa": 5e5});
    let error = ModelConfig::from_folder(&folder("llama"), overrides.as_object()).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "config.json: rope_thetaa: is a setting that nothing reads, so that it cannot be \
             overridden"
        ),
        "{error}"
    );
}

/// Settings of rotary embeddings, whether their meaning can be kept beyond the limit, and
/// what is written down for it.
fn scalings() -> Vec<(Value, bool, Value)> {
    let factors = vec![1.5; 8];
    vec![
        (json!({"rope_type": "default"}), true, json!({})),
        (
            json!({"rope_type": "linear", "factor": 2.0}),
            true,
            json!({}),
        ),
        (
            json!({"rope_type": "dynamic", "factor": 2.0}),
            false,
            json!({}),
        ),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 256}),
            true,
            json!({}),
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0}),
            true,
            json!({"original_max_position_embeddings": 2048}),
        ),
        (
            json!({"rope_type": "yarn", "original_max_position_embeddings": 512}),
            true,
            json!({"factor": 4.0}),
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}),
            true,
            json!({}),
        ),
        (
            json!({"type": "longrope", "short_factor": factors, "long_factor": factors,
                   "original_max_position_embeddings": 512}),
            true,
            json!({"factor": 4.0, "attention_factor": (1.0 + 4_f64.ln() / 512_f64.ln()).sqrt()}),
        ),
        (
            json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
                   "factor": 4.0, "attention_factor": 1.25}),
            true,
            json!({"original_max_position_embeddings": 2048}),
        ),
    ]
}

#[test]
fn limits_of_positions_are_raised() {
    for key in ["rope_parameters", "rope_scaling"] {
        for (settings, raised, added) in scalings() {
            let mut raw = read("llama");
            raw.remove("rope_parameters");
            raw.insert("rope_theta".into(), json!(1e4));
            raw.insert(key.into(), settings.clone());
            let mut config = ModelConfig::from_json(raw.clone(), "config.json".into()).unwrap();
            assert_eq!(config.max_positions, 2048);
            assert!(!config.raise_position_limit(2048), "{settings}");
            assert_eq!(config.raise_position_limit(4096), raised, "{settings}");
            let mut expected = raw;
            if raised {
                expected.insert("max_position_embeddings".into(), json!(4096));
                for (name, value) in added.as_object().unwrap() {
                    expected[key][name] = value.clone();
                }
            }
            assert_eq!(config.raw, expected, "{settings}");
            // What is saved means what it did, below the old limit and beyond.
            let again = ModelConfig::from_json(expected, "config.json".into()).unwrap();
            assert_eq!(again.max_positions, if raised { 4096 } else { 2048 });
            for length in [100, 600, 3000, 5000] {
                assert_eq!(
                    inverse_frequencies(&again.ropes[0], length),
                    inverse_frequencies(&config.ropes[0], length),
                    "{settings} {length}"
                );
            }
            assert_eq!(again.ropes, config.ropes, "{settings}");
        }
    }
}

/// By kind of layer, and without a number in the file.
#[test]
fn limits_of_families() {
    let mut raw = read("gemma3");
    raw.insert("max_position_embeddings".into(), json!(1024));
    raw["rope_parameters"]["full_attention"] =
        json!({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6});
    let mut config = ModelConfig::from_json(raw, "config.json".into()).unwrap();
    assert!(config.raise_position_limit(2000));
    let full = &config.raw["rope_parameters"]["full_attention"];
    assert_eq!(full["original_max_position_embeddings"], 1024);
    let again = ModelConfig::from_json(config.raw.clone(), "config.json".into()).unwrap();
    assert_eq!(again.ropes, config.ropes);

    for (family, limit) in [
        ("llama", 2048),
        ("mistral-swa", 131_072),
        ("mixtral", 131_072),
        ("qwen2", 32_768),
        ("qwen3", 32_768),
        ("qwen3-moe", 32_768),
        ("gemma3", 131_072),
        ("phi3", 4096),
        ("smollm3", 32_768),
        ("olmo2", 2048),
        ("granite", 2048),
    ] {
        let mut raw = read(family);
        raw.remove("max_position_embeddings");
        let config = ModelConfig::from_json(raw, "config.json".into()).unwrap();
        assert_eq!(config.max_positions, limit, "{family}");
    }
}

fn read(model: &str) -> Map<String, Value> {
    let text = fs::read_to_string(folder(model).join("config.json")).unwrap();
    let Value::Object(raw) = serde_json::from_str(&text).unwrap() else {
        panic!("{model}");
    };
    raw
}
