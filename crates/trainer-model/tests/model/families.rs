//! What `config.json` may say, family by family, and what follows from it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trainer_model::{
    ModelConfig, RopeScaling, SaveDtype, inverse_frequencies, save_model, supported,
};

use crate::{cpu, folder, load, values};

fn parse(mut config: Value) -> Result<ModelConfig, String> {
    let base = json!({
        "vocab_size": 32, "hidden_size": 64, "intermediate_size": 8,
        "num_hidden_layers": 6, "num_attention_heads": 4,
    });
    for (key, value) in base.as_object().unwrap() {
        config
            .as_object_mut()
            .unwrap()
            .entry(key)
            .or_insert(value.clone());
    }
    let raw = config.as_object().unwrap().clone();
    ModelConfig::from_json(raw, PathBuf::from("config.json")).map_err(|e| e.to_string())
}

/// `rope.json` holds what transformers computes for each kind of scaling.
#[test]
fn rotary_frequencies_are_those_of_transformers() {
    let text = include_str!("rope.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    for case in &cases {
        let name = &case["name"];
        let config = parse(case["config"].clone()).unwrap();
        let length = case["length"].as_u64().unwrap() as usize;
        let got = inverse_frequencies(&config.ropes[0], length);
        let want = case["inverse_frequencies"].as_array().unwrap();
        assert_eq!(got.len(), want.len(), "{name}");
        for (got, want) in got.iter().zip(want) {
            let want = want.as_f64().unwrap() as f32;
            assert!((got - want).abs() <= 2e-6 * want, "{name}: {got} {want}");
        }
        let factor = match config.ropes[0].scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            }
            | RopeScaling::LongRope {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        };
        let want = case["attention_factor"].as_f64().unwrap();
        assert!((factor - want).abs() < 1e-12, "{name}: {factor} {want}");
    }
}

/// Which layers slide, and which have no rotary embedding.
#[test]
fn layers_differ_as_the_file_says() {
    let windows = |config: Value| -> Vec<usize> {
        let layers = parse(config).unwrap().layers;
        layers
            .iter()
            .map(|layer| layer.window.unwrap_or(0))
            .collect()
    };
    assert_eq!(windows(json!({"model_type": "mistral"})), [4096; 6]);
    assert_eq!(
        windows(json!({"model_type": "mistral", "sliding_window": null})),
        [0; 6]
    );
    assert_eq!(windows(json!({"model_type": "mixtral"})), [0; 6]);
    let upper = json!({
        "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8,
        "max_window_layers": 4,
    });
    assert_eq!(windows(upper), [0, 0, 0, 0, 8, 8]);
    let unused = json!({"model_type": "qwen3", "sliding_window": 8});
    assert_eq!(windows(unused), [0; 6]);
    assert_eq!(
        windows(json!({"model_type": "gemma3_text", "sliding_window": 8})),
        [8, 8, 8, 8, 8, 0]
    );
    let types = json!([
        "full_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention"
    ]);
    let named = json!({"model_type": "gemma3_text", "sliding_window": 8, "layer_types": types});
    assert_eq!(windows(named), [0, 8, 0, 8, 0, 0]);

    let ropes = |config: Value| -> Vec<Option<usize>> {
        let layers = parse(config).unwrap().layers;
        layers.iter().map(|layer| layer.rope).collect()
    };
    let zero = Some(0);
    assert_eq!(
        ropes(json!({"model_type": "smollm3"})),
        [zero, zero, zero, None, zero, zero]
    );
    assert_eq!(
        ropes(json!({"model_type": "smollm3", "no_rope_layers": [0, 1, 1, 0, 1, 1]})),
        [None, zero, zero, None, zero, zero]
    );

    let gemma = json!({
        "model_type": "gemma3_text", "rope_theta": 5e5, "rope_local_base_freq": 2e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    });
    let gemma = parse(gemma).unwrap();
    assert_eq!((gemma.ropes[0].theta, gemma.ropes[1].theta), (5e5, 2e4));
    assert_eq!(gemma.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(gemma.ropes[1].scaling, RopeScaling::Default);
    assert_eq!(gemma.head_dim, 256);

    let experts = json!({
        "model_type": "qwen3_moe", "num_experts": 8, "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    });
    let experts = parse(experts).unwrap().layers;
    let experts: Vec<bool> = experts.iter().map(|layer| layer.experts).collect();
    assert_eq!(experts, [false, true, false, false, false, true]);
}

#[test]
fn values_that_cannot_be_used_are_errors() {
    let cases = [
        (
            json!({"model_type": "llama", "hidden_size": 1 << 24, "head_dim": 1 << 24}),
            "hidden_size: with the other sizes of this file, 16777216 makes a model of up to",
        ),
        (
            json!({"model_type": "llama", "num_attention_heads": 0}),
            "num_attention_heads: expected a whole number",
        ),
        (
            json!({"model_type": "llama", "num_attention_heads": 3}),
            "num_attention_heads: 3 does not divide",
        ),
        (
            json!({"model_type": "llama", "num_key_value_heads": 3}),
            "num_key_value_heads: 3 does not divide",
        ),
        (
            json!({"model_type": "llama", "num_hidden_layers": 1_000_000}),
            "num_hidden_layers: expected at most",
        ),
        (json!({"model_type": "llama", "head_dim": 15}), "head"),
        (
            json!({"model_type": "llama", "rms_norm_eps": 0.0}),
            "rms_norm_eps: 0 is not between",
        ),
        (
            json!({"model_type": "llama", "hidden_act": "relu"}),
            "hidden_act: \"relu\" is not supported",
        ),
        (
            json!({"model_type": "llama", "rope_theta": 1.0}),
            "rope_theta: 1 is not above 1",
        ),
        (
            json!({"model_type": "llama", "rope_scaling": {"type": "yarn"}}),
            "is missing",
        ),
        (
            json!({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": -1}}),
            "rope_scaling.factor: -1 is not positive",
        ),
        (
            json!({"model_type": "llama", "partial_rotary_factor": 0.01}),
            "partial_rotary_factor: 0.01 of head_dim",
        ),
        (
            json!({"model_type": "llama", "attention_dropout": 0.1}),
            "attention_dropout: 0.1: dropout inside the model",
        ),
        (
            json!({"model_type": "llama", "id2label": {}}),
            "id2label: names no label",
        ),
        (
            json!({"model_type": "phi3", "max_position_embeddings": 128, "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
            "rope_scaling.short_factor: has 1 entries, expected 8",
        ),
        (
            json!({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}),
            "num_experts_per_tok: 3 is more than the 2 experts",
        ),
        (
            json!({"model_type": "mixtral", "num_local_experts": 100_000}),
            "num_local_experts: expected at most",
        ),
        (
            json!({"model_type": "mixtral", "router_jitter_noise": 0.1}),
            "router_jitter_noise: 0.1: noise",
        ),
        (
            json!({"model_type": "mixtral", "router_aux_loss_coef": -1.0}),
            "router_aux_loss_coef: -1 is not",
        ),
        (
            json!({"model_type": "gemma3_text", "layer_types": ["full_attention"]}),
            "layer_types: has 1 entries for 6 layers",
        ),
        (
            json!({"model_type": "gemma3_text", "layer_types": "all"}),
            "layer_types: expected a list of",
        ),
        (
            json!({"model_type": "gemma3_text", "use_bidirectional_attention": true}),
            "use_bidirectional_attention: true is not supported",
        ),
        (
            json!({"model_type": "smollm3", "no_rope_layers": [2, 0, 0, 0, 0, 0]}),
            "no_rope_layers: expected a list of 0 or 1, found 2",
        ),
        (
            json!({"model_type": "granite", "logits_scaling": 0.0}),
            "logits_scaling: 0 is not positive",
        ),
    ];
    for (config, want) in cases {
        let error = parse(config.clone()).expect_err(&config.to_string());
        assert!(error.contains(want), "{config}: {error}");
    }
    for family in supported() {
        parse(json!({"model_type": family})).unwrap();
    }
}

/// A folder written is the folder read: names and layouts of tensors stay those
/// of the family's files.
#[test]
fn folders_keep_their_layout() {
    let names_of = |folder: &Path| -> Vec<String> {
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<String> = tensors.iter().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names
    };
    for name in ["gemma3", "mixtral", "olmo2", "phi3", "qwen2", "qwen3-moe"] {
        let target = tempfile::tempdir().unwrap();
        let model = load(&folder(name), &cpu());
        save_model(&model, target.path(), SaveDtype::F32).unwrap();
        assert_eq!(names_of(target.path()), names_of(&folder(name)), "{name}");
        let again = load(target.path(), &cpu());
        assert_eq!(values(&model), values(&again), "{name}");
    }
}
