//! Numbers that are not finite: NaN passes comparisons, so that every way in and out looks
//! for it, and names the tensor.

use std::fs;
use std::path::Path;

use trainer_model::{
    CausalLm, GgufExport, GgufType, LoraAdapter, ModelConfig, Quantization, RewardTask, SaveDtype,
    check_finite, check_saved, export_gguf, load_causal_lm, load_reward_model, map_values,
    open_gguf, parameters, save_model,
};

use crate::adapters::recorded;
use crate::{cpu, edit, folder, load};

const WRONG: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

fn spoil(path: &Path, tensor: &str, wrong: f32) {
    edit::tensors(path, |all| {
        let found = all.iter_mut().find(|(name, ..)| name == tensor);
        let (_, _, values) = found.unwrap_or_else(|| panic!("{tensor}"));
        let last = values.len() - 1;
        values[last] = wrong;
    });
}

fn named(error: &str, tensor: &str) {
    let start = format!("tensor {tensor} has numbers that are not finite: 1 of ");
    assert!(error.contains(&start), "{tensor}: {error}");
}

#[test]
fn weights_of_models() {
    for tensor in [
        "model.embed_tokens.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "lm_head.weight",
    ] {
        for wrong in WRONG {
            let target = edit::copy("llama");
            spoil(&target.path().join("model.safetensors"), tensor, wrong);
            let config = ModelConfig::from_folder(target.path(), None).unwrap();
            for quantization in [None, Some(Quantization::Nf4), Some(Quantization::Int8)] {
                let config = ModelConfig {
                    quantization,
                    ..config.clone()
                };
                let error = load_causal_lm(target.path(), &config, &cpu()).unwrap_err();
                named(&error.to_string(), tensor);
            }
        }
    }
    let target = edit::copy("llama-reward");
    spoil(
        &target.path().join("model.safetensors"),
        "score.weight",
        f32::NAN,
    );
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let error = load_reward_model(target.path(), &config, RewardTask::Sequence, &cpu());
    named(&error.unwrap_err().to_string(), "score.weight");
}

#[test]
fn weights_of_adapters() {
    let layer = "base_model.model.model.layers.1.self_attn.q_proj";
    for (adapter, tensor) in [
        ("lora", format!("{layer}.lora_A.weight")),
        ("lora", format!("{layer}.lora_B.weight")),
        ("dora", format!("{layer}.lora_magnitude_vector")),
        ("olora", format!("{layer}.lora_B.weight")),
        (
            "modules",
            "base_model.model.model.layers.0.self_attn.o_proj.weight".to_owned(),
        ),
    ] {
        let target = edit::copy_of(&recorded(adapter));
        let path = target.path().join("adapter_model.safetensors");
        spoil(&path, &tensor, f32::NAN);
        let error = LoraAdapter::load(load(&folder("llama"), &cpu()), target.path()).unwrap_err();
        named(&error.to_string(), &tensor);
    }
}

/// A model one number of which is another.
fn spoilt(tensor: &str, wrong: f32) -> CausalLm {
    let model = load(&folder("llama"), &cpu());
    let place = parameters(&model)
        .iter()
        .position(|info| info.name == tensor);
    map_values(model, |index, value| match Some(index) == place {
        true => value.slice_fill(0..1, wrong),
        false => value,
    })
}

fn export(model: &CausalLm, path: &Path, format: GgufType) -> Result<(), String> {
    let export = GgufExport {
        name: "a".into(),
        format,
        tokenizer: Vec::new(),
    };
    let exported = export_gguf(model, &export, path);
    exported.map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn exports_and_checks() {
    let tensor = "model.layers.0.mlp.up_proj.weight";
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("m.gguf");
    assert!(check_finite(&load(&folder("llama"), &cpu())).is_ok());
    for wrong in WRONG {
        let model = spoilt(tensor, wrong);
        assert_eq!(
            check_finite(&model).unwrap_err().to_string(),
            format!("tensor {tensor} has numbers that are not finite")
        );
        for (_, format) in GgufType::WRITTEN {
            named(&export(&model, &path, format).unwrap_err(), tensor);
            assert!(!path.exists());
        }
    }
    // What a format has no number for becomes none that is not finite.
    for (format, large, fits) in [
        (GgufType::F16, 65_504.0, true),
        (GgufType::F16, 65_505.0, false),
        (GgufType::Bf16, 1e38, true),
        (GgufType::Bf16, f32::MAX, false),
        (GgufType::Q8_0, 8e6, true),
        (GgufType::Q8_0, 9e6, false),
        (GgufType::F32, f32::MAX, true),
    ] {
        let exported = export(&spoilt(tensor, large), &path, format);
        assert_eq!(exported.is_ok(), fits, "{format:?} {large}");
        match exported {
            Ok(()) => {
                let back = target.path().join("back");
                open_gguf(&path)
                    .unwrap()
                    .write(&back, SaveDtype::F32)
                    .unwrap();
                assert!(check_finite(&load(&back, &cpu())).is_ok());
                fs::remove_file(&path).unwrap();
            }
            Err(error) => assert!(error.contains("choose another format"), "{error}"),
        }
    }
}

/// A scale that is NaN makes a block of such numbers.
#[test]
fn imports() {
    for (format, scale) in [
        (GgufType::F32, f32::NAN.to_le_bytes().to_vec()),
        (GgufType::F16, half::f16::NAN.to_le_bytes().to_vec()),
        (GgufType::Bf16, half::bf16::INFINITY.to_le_bytes().to_vec()),
        (GgufType::Q8_0, half::f16::NAN.to_le_bytes().to_vec()),
    ] {
        let target = tempfile::tempdir().unwrap();
        let path = target.path().join("m.gguf");
        export(&load(&folder("llama"), &cpu()), &path, format).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        // The output head is the last tensor, and its end that of the file.
        let size = match format {
            GgufType::F32 => 1024 * 64 * 4,
            GgufType::Q8_0 => 1024 * 64 / 32 * 34,
            _ => 1024 * 64 * 2,
        };
        let start = bytes.len() - size;
        bytes[start..start + scale.len()].copy_from_slice(&scale);
        fs::write(&path, bytes).unwrap();
        let back = target.path().join("back");
        let error = open_gguf(&path)
            .unwrap()
            .write(&back, SaveDtype::F32)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("tensor output.weight has numbers that are not finite"),
            "{format:?}: {error}"
        );
    }
}

/// What is in a folder is compared with what was to be written, number by number.
#[test]
fn saved_weights_are_compared() {
    let model = load(&folder("llama"), &cpu());
    for dtype in [SaveDtype::F32, SaveDtype::Bf16] {
        let target = tempfile::tempdir().unwrap();
        save_model(&model, target.path(), dtype).unwrap();
        check_saved(&model, target.path(), dtype).unwrap();
        let tensor = "model.layers.1.self_attn.o_proj.weight";
        for other in [0.25, f32::NAN] {
            let error = check_saved(&spoilt(tensor, other), target.path(), dtype);
            let error = error.unwrap_err().to_string();
            assert!(
                error.ends_with(&format!("{tensor} is not what was to be written")),
                "{error}"
            );
        }
    }
}
