//! Model folders: every layout gives the same weights, and what is written can
//! be read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;
use trainer_model::{ModelConfig, SaveDtype, load_causal_lm, save_model, visit_values};

use crate::{cpu, folder, load};

fn values(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let model = load(folder, &cpu());
    let mut values = BTreeMap::new();
    let visited = visit_values(&model, |name, data| {
        values.insert(name.to_owned(), data.iter().collect::<Vec<f32>>());
        Ok::<(), std::convert::Infallible>(())
    });
    assert!(visited.is_ok());
    values
}

/// Name, shape and bytes of a tensor.
type Stored = (String, Vec<usize>, Vec<u8>);

/// Writes the weights of the llama model as files of `format`, by name of tensor.
fn rewrite(target: &Path, format: Dtype, file_of: impl Fn(&str) -> String) {
    fs::copy(
        folder("llama").join("config.json"),
        target.join("config.json"),
    )
    .unwrap();
    let bytes = fs::read(folder("llama").join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut files: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    let mut weight_map = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let floats = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&b| f32::from_le_bytes(b));
        let data: Vec<u8> = match format {
            Dtype::F16 => floats
                .flat_map(|x| half::f16::from_f32(x).to_le_bytes())
                .collect(),
            Dtype::BF16 => floats
                .flat_map(|x| half::bf16::from_f32(x).to_le_bytes())
                .collect(),
            _ => view.data().to_vec(),
        };
        let file = file_of(name);
        weight_map.insert(name.to_owned(), file.clone());
        files
            .entry(file)
            .or_default()
            .push((name.to_owned(), view.shape().to_vec(), data));
    }
    for (file, tensors) in &files {
        let views = tensors.iter().map(|(name, shape, data)| {
            (name, TensorView::new(format, shape.clone(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &target.join(file)).unwrap();
    }
    if files.len() > 1 {
        let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
        fs::write(target.join("model.safetensors.index.json"), index).unwrap();
    }
}

#[test]
fn shards_hold_the_same_weights() {
    let target = tempfile::tempdir().unwrap();
    rewrite(target.path(), Dtype::F32, |name| {
        let shard = if name.contains("layers.1") { 2 } else { 1 };
        format!("model-0000{shard}-of-00002.safetensors")
    });
    assert_eq!(values(target.path()), values(&folder("llama")));
}

#[test]
fn half_precision_files_are_read() {
    for (format, precision) in [(Dtype::BF16, 1.0 / 256.0), (Dtype::F16, 1.0 / 2048.0)] {
        let target = tempfile::tempdir().unwrap();
        rewrite(target.path(), format, |_| "model.safetensors".into());
        let exact = values(&folder("llama"));
        for (name, got) in values(target.path()) {
            for (a, b) in got.iter().zip(&exact[&name]) {
                assert!(
                    (a - b).abs() <= precision * b.abs() + 1e-7,
                    "{name}: {a} {b}"
                );
            }
        }
    }
}

#[test]
fn a_saved_model_is_the_model() {
    let target = tempfile::tempdir().unwrap();
    let model = load(&folder("llama"), &cpu());
    save_model(&model, target.path(), SaveDtype::F32).unwrap();
    assert_eq!(values(target.path()), values(&folder("llama")));
    // Saving over it in another format leaves one complete file and no other.
    save_model(&model, target.path(), SaveDtype::Bf16).unwrap();
    let bytes = fs::read(target.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert!(tensors.iter().all(|(_, view)| view.dtype() == Dtype::BF16));
    let mut names: Vec<String> = fs::read_dir(target.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["config.json", "generation_config.json", "model.safetensors"]
    );
}

#[test]
fn overrides_reach_the_configuration() {
    let overrides = json!({"rope_parameters": {"rope_theta": 500.0}});
    let config = ModelConfig::from_folder(&folder("llama"), overrides.as_object()).unwrap();
    assert_eq!(config.ropes[0].theta, 500.0);
    let wrong = json!({"rope_parameters": {"rope_type": "ntk"}});
    let error = ModelConfig::from_folder(&folder("llama"), wrong.as_object()).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "rope_parameters.rope_type: \"ntk\" is not supported; supported: default, linear, dynamic, yarn, llama3, \
             longrope"
        ),
        "{error}"
    );
}

/// Whatever bytes stand in the header, the answer is an error.
#[test]
fn damaged_headers_are_errors() {
    let target = tempfile::tempdir().unwrap();
    let source = folder("llama");
    fs::copy(
        source.join("config.json"),
        target.path().join("config.json"),
    )
    .unwrap();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let overlapping = {
        let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
        let at = text.rfind("data_offsets\":[").unwrap() + "data_offsets\":[".len();
        let mut text = text.into_bytes();
        text[at] = if text[at] == b'1' { b'2' } else { b'1' };
        [&bytes[..8], &text, &bytes[8 + header..]].concat()
    };
    let huge_shape = {
        let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
        let text = text.replacen("[1024,64]", "[9999999999,9999999999]", 1);
        let size = (text.len() as u64).to_le_bytes();
        [&size[..], text.as_bytes(), &bytes[8 + header..]].concat()
    };
    for damaged in [
        Vec::new(),
        b"abc".to_vec(),
        vec![0; 64],
        overlapping,
        huge_shape,
    ] {
        fs::write(target.path().join("model.safetensors"), damaged).unwrap();
        let error = load_causal_lm(target.path(), &config, &cpu()).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}
