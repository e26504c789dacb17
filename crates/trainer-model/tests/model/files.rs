//! Model folders: every layout gives the same weights, and what is written can
//! be read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;
use trainer_model::{ModelConfig, SaveDtype, SaveOptions, load_causal_lm, parameters, save_model};

use crate::{cpu, folder, load};

fn values(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    crate::values(&load(folder, &cpu()))
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

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Shards hold no more than the limit but where one tensor does, their index
/// names every tensor, and one save replaces another whatever the layouts.
#[test]
fn shards_are_saved_and_replaced() {
    let target = tempfile::tempdir().unwrap();
    let model = load(&folder("llama"), &cpu());
    let save = |dtype, max_shard_bytes| {
        let options = SaveOptions {
            dtype,
            max_shard_bytes,
        };
        save_model(&model, target.path(), options).unwrap();
        names(target.path())
    };
    let limit = 100_000;
    let files = save(SaveDtype::F32, limit);
    let shards: Vec<&String> = files.iter().filter(|name| name.contains("-of-")).collect();
    assert!(shards.len() > 2, "{files:?}");
    assert_eq!(
        shards[0],
        &format!("model-00001-of-{:05}.safetensors", shards.len())
    );
    let text = fs::read_to_string(target.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let mut total = 0;
    for shard in &shards {
        let bytes = fs::read(target.path().join(shard)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let size: usize = tensors.iter().map(|(_, view)| view.data().len()).sum();
        assert!(
            size as u64 <= limit || tensors.len() == 1,
            "{shard}: {size}"
        );
        assert!(tensors.iter().all(|(name, _)| map[name] == shard.as_str()));
        total += size;
    }
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(map.len(), parameters(&model).len());
    assert_eq!(values(target.path()), values(&folder("llama")));

    let fewer = save(SaveDtype::Bf16, limit);
    assert!(fewer.len() < files.len(), "{fewer:?}");
    values(target.path());
    let one = save(SaveDtype::F32, SaveOptions::MAX_SHARD_BYTES);
    let expected = ["config.json", "generation_config.json", "model.safetensors"];
    assert_eq!(one, expected);
    assert_eq!(values(target.path()), values(&folder("llama")));
    let again = save(SaveDtype::F32, limit);
    assert_eq!(again, files);
    assert_eq!(values(target.path()), values(&folder("llama")));
}

/// Keys that nothing here knows come back, and what is known of the model's
/// tokens is put where it is missing.
#[test]
fn configurations_keep_unknown_keys() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    rewrite(source.path(), Dtype::F32, |_| "model.safetensors".into());
    let path = source.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["a_new_key"] = json!({"deep": [1, 2]});
    config["eos_token_id"] = json!(2);
    config["bos_token_id"] = json!(1);
    fs::write(&path, config.to_string()).unwrap();
    let generation = json!({"eos_token_id": [2, 5], "top_p": 0.9, "max_new_tokens": 77});
    let file = "generation_config.json";
    fs::write(source.path().join(file), generation.to_string()).unwrap();

    save_model(&load(source.path(), &cpu()), target.path(), SaveDtype::Bf16).unwrap();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(target.path().join(name)).unwrap()).unwrap()
    };
    let saved = read("config.json");
    assert_eq!(saved["a_new_key"], config["a_new_key"]);
    assert_eq!(saved["dtype"], "bfloat16");
    assert_eq!(saved["torch_dtype"], serde_json::Value::Null);
    assert_eq!(
        read(file),
        json!({"eos_token_id": [2, 5], "top_p": 0.9, "max_new_tokens": 77, "bos_token_id": 1, "pad_token_id": 0})
    );
}

/// A safetensors file of this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// What a file must not make the reader believe. Nothing panics, nothing is
/// allocated by a number that the file's length does not bear out.
#[test]
fn hostile_weight_files_are_errors() {
    let target = tempfile::tempdir().unwrap();
    let config = folder("llama").join("config.json");
    fs::copy(config, target.path().join("config.json")).unwrap();
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let good = fs::read(folder("llama").join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap());
    let two = |a: &str, b: &str| format!(r#"{{"a":{a},"b":{b}}}"#);
    let entry = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |shape: &str, from: u64, to: u64| format!(r#"{{"a":{}}}"#, entry(shape, from, to));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "not a safetensors file: 0 bytes"),
        (b"abc".to_vec(), "not a safetensors file: 3 bytes"),
        (vec![0; 64], "header is damaged"),
        (vec![0xFF; 64], "claims 18446744073709551615 bytes of 64"),
        (
            [&(i64::MAX as u64).to_le_bytes()[..], b"{}"].concat(),
            "claims 9223372036854775807 bytes of 10",
        ),
        (
            [&99_u64.to_le_bytes()[..], b"{}"].concat(),
            "claims 99 bytes of 10",
        ),
        (file("{]", 0), "header is damaged"),
        (file("[]", 0), "expected an object of tensors"),
        (file(&"[".repeat(100_000), 0), "header is damaged"),
        (
            file(&one("[2]", 4, 12), 12),
            "tensor a begins at byte 4, but the one before it ends at 0",
        ),
        (file(&one("[2]", 8, 0), 8), "its offsets are 8 to 0"),
        (
            file(&one("[2]", 0, 4), 4),
            "is 8 bytes, but its offsets are 0 to 4",
        ),
        (file(&one("[2]", 0, 8), 4), "bytes, its header describes "),
        (
            file(&one("[2]", 0, 8), 9),
            "was not written or copied to its end",
        ),
        (
            file(&one("[4611686018427387905,4]", 0, 16), 16),
            "sizes of shape [4611686018427387905, 4] overflow",
        ),
        (
            // 4 times 2⁶² elements of 4 bytes: the product of bytes overflows alone.
            file(&one("[4611686018427387904]", 0, 0), 0),
            "overflow",
        ),
        (file(&one("[-1]", 0, 4), 4), "header is damaged"),
        (file(&one("[1e3]", 0, 4), 4), "header is damaged"),
        (
            file(&two(&entry("[2]", 0, 8), &entry("[2]", 4, 12)), 12),
            "tensor b begins at byte 4, inside of tensor a, which ends at 8",
        ),
        (
            file(&two(&entry("[2]", 0, 8), &entry("[2]", 0, 8)), 8),
            "tensor b begins at byte 0, inside of tensor a, which ends at 8",
        ),
        (
            file(&format!(r#"{{"a":{0},"a":{0}}}"#, entry("[1]", 0, 4)), 4),
            "tensor a is described twice",
        ),
        (
            file(
                r#"{"a":{"dtype":"Q8_0","shape":[1],"data_offsets":[0,4]}}"#,
                4,
            ),
            "unknown variant `Q8_0`",
        ),
        (
            file(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}"#,
                4,
            ),
            "is 4 bytes, but its offsets are 0 to 18446744073709551615",
        ),
        (file("{}", 0), "missing: model.embed_tokens.weight"),
        (
            [b"PK\x03\x04".as_slice(), &[0; 60]].concat(),
            "pickles are never read",
        ),
        (
            [b"\x80\x02\x8a\x0a".as_slice(), &[0; 60]].concat(),
            "pickles are never read",
        ),
        (
            [b"GGUF".as_slice(), &[0; 60]].concat(),
            "this is a GGUF file under another name",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1".to_vec(),
            "Git LFS pointer",
        ),
        // Cut off in the header and in the data, and one byte too long.
        (good[..header as usize].to_vec(), "or cut off"),
        (
            good[..good.len() - 1].to_vec(),
            "was not written or copied to its end",
        ),
        (
            [&good[..], b"x"].concat(),
            "was not written or copied to its end",
        ),
        (
            String::from_utf8_lossy(&good[..8 + header as usize])
                .replacen("[1024,64]", "[64,1024]", 1)
                .bytes()
                .chain(good[8 + header as usize..].iter().copied())
                .collect(),
            "wrong shape: lm_head.weight is [64, 1024], config.json gives [1024, 64]",
        ),
    ];
    for (bytes, message) in cases {
        fs::write(target.path().join("model.safetensors"), bytes).unwrap();
        let error = load_causal_lm(target.path(), &config, &cpu()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(message), "{message}: {error}");
        assert!(
            error.starts_with(target.path().to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn integers_are_no_weights() {
    let target = tempfile::tempdir().unwrap();
    rewrite(target.path(), Dtype::F32, |_| "model.safetensors".into());
    let path = target.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[..header].to_vec()).unwrap();
    let text = text.replace(r#""dtype":"F32""#, r#""dtype":"I32""#);
    fs::write(&path, [text.as_bytes(), &bytes[header..]].concat()).unwrap();
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let error = load_causal_lm(target.path(), &config, &cpu()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("is stored as I32; supported: F32, BF16, F16, F64"),
        "{error}"
    );
}

/// Indexes that name what is not theirs, and folders whose weights are not read.
#[test]
fn hostile_folders_are_errors() {
    let index = |shard: &str| json!({"weight_map": {"model.norm.weight": shard}}).to_string();
    const INDEX: &str = "model.safetensors.index.json";
    // Name and text of a file beside config.json, and what the error says.
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "notes.txt",
            "x".into(),
            "weights must be model.safetensors, or shards",
        ),
        (
            "pytorch_model.bin",
            "x".into(),
            "pytorch_model.bin is a Python pickle",
        ),
        (
            "consolidated.00.pth",
            "x".into(),
            "consolidated.00.pth is a Python pickle",
        ),
        (
            "m-Q4_0.gguf",
            "x".into(),
            "`trainer import m-Q4_0.gguf FOLDER`",
        ),
        (
            INDEX,
            index("../../etc/passwd"),
            "\"../../etc/passwd\" is not a plain file name",
        ),
        (
            INDEX,
            index("/etc/passwd"),
            "\"/etc/passwd\" is not a plain file name",
        ),
        (INDEX, index(".."), "\"..\" is not a plain file name"),
        (INDEX, index(""), "\"\" is not a plain file name"),
        (INDEX, index("a\\b.safetensors"), "is not a plain file name"),
        (INDEX, index("pytorch_model-1.bin"), "is a Python pickle"),
        (
            INDEX,
            index("nowhere.safetensors"),
            "no nowhere.safetensors in this folder",
        ),
        (INDEX, "{}".into(), "missing field `weight_map`"),
        (INDEX, "[".repeat(100_000), "model.safetensors.index.json: "),
        (
            INDEX,
            r#"{"weight_map": {"a": 1}}"#.into(),
            "expected a string",
        ),
        (
            "generation_config.json",
            "[]".into(),
            "generation_config.json: invalid type",
        ),
    ];
    for (name, text, message) in cases {
        let target = tempfile::tempdir().unwrap();
        let config = folder("llama").join("config.json");
        fs::copy(config, target.path().join("config.json")).unwrap();
        fs::write(target.path().join(name), text).unwrap();
        let loaded = ModelConfig::from_folder(target.path(), None)
            .and_then(|config| load_causal_lm(target.path(), &config, &cpu()));
        let error = loaded.unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn an_index_must_agree_with_its_shards() {
    let target = tempfile::tempdir().unwrap();
    rewrite(target.path(), Dtype::F32, |name| {
        let shard = if name.contains("layers.1") { 2 } else { 1 };
        format!("model-0000{shard}-of-00002.safetensors")
    });
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let load = || {
        let loaded = load_causal_lm(target.path(), &config, &cpu());
        loaded.unwrap_err().to_string()
    };
    let path = target.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&text).unwrap();
    index["weight_map"]["model.norm.weight"] = json!("model-00002-of-00002.safetensors");
    fs::write(&path, index.to_string()).unwrap();
    let error = load();
    assert!(
        error.ends_with("tensor model.norm.weight is not in model-00002-of-00002.safetensors"),
        "{error}"
    );
    fs::copy(
        target.path().join("model-00001-of-00002.safetensors"),
        target.path().join("extra.safetensors"),
    )
    .unwrap();
    index["weight_map"]["model.norm.weight"] = json!("extra.safetensors");
    fs::write(&path, index.to_string()).unwrap();
    let error = load();
    assert!(
        error.contains("is in extra.safetensors and in model-00001-of-00002.safetensors"),
        "{error}"
    );
}

#[test]
fn a_file_is_no_model_folder() {
    let target = tempfile::tempdir().unwrap();
    for (name, message) in [
        (
            "m.gguf",
            "this is a GGUF file; `trainer import FILE.gguf FOLDER`",
        ),
        ("m.pt", "this is a file, and m.pt is a Python pickle"),
        ("m.safetensors", "name the folder that holds config.json"),
    ] {
        let path = target.path().join(name);
        fs::write(&path, "x").unwrap();
        let error = ModelConfig::from_folder(&path, None).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// What stands in the place of a model is named, with what to do.
#[test]
fn folders_that_hold_no_model() {
    let message = |path: &Path| {
        let error = ModelConfig::from_folder(path, None).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        message(Path::new("someone/some-model-0.5B")),
        "someone/some-model-0.5B: there is no such folder; models are not downloaded: a model is a \
         folder here, such as `hf download someone/some-model-0.5B --local-dir FOLDER` makes"
    );
    assert_eq!(
        message(Path::new("./nowhere")),
        "./nowhere: there is no such folder"
    );
    let adapter = crate::adapters::recorded("lora");
    assert!(trainer_model::is_adapter(&adapter) && !trainer_model::has_weights(&adapter));
    let hint = "it holds an adapter (adapter_config.json), which is loaded on top of the model";
    assert!(message(&adapter).contains(hint));
    // With the settings of its model beside it, as some programs leave it.
    let target = crate::edit::copy_of(&adapter);
    let config = target.path().join("config.json");
    fs::copy(folder("llama").join("config.json"), config).unwrap();
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let error = load_causal_lm(target.path(), &config, &cpu()).unwrap_err();
    assert!(error.to_string().contains(hint), "{error}");

    let error = trainer_model::LoraConfig::from_folder(&folder("llama")).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "no adapter_config.json in this folder; it holds a whole model, which needs no other to \
             be loaded"
        ),
        "{error}"
    );
}

/// Files of whole models hold neither factors nor codes, so that neither is left out.
#[test]
fn what_is_not_whole_is_not_written() {
    let target = tempfile::tempdir().unwrap();
    let gguf = target.path().join("m.gguf");
    let export = trainer_model::GgufExport {
        name: "a".into(),
        format: trainer_model::GgufType::F32,
        tokenizer: Vec::new(),
    };
    let base = load(&folder("llama"), &cpu());
    let settings = trainer_model::LoraConfig::default();
    let (adapted, adapter) = trainer_model::LoraAdapter::attach(base.clone(), settings, 1).unwrap();
    let mut config = ModelConfig::from_folder(&folder("llama"), None).unwrap();
    config.quantization = Some(trainer_model::Quantization::Nf4);
    let quantized = load_causal_lm(&folder("llama"), &config, &cpu()).unwrap();
    for (model, message) in [
        (&adapted, "carries factors of an adapter"),
        (&quantized, "is quantized, and files of models hold numbers"),
    ] {
        let saved = save_model(model, target.path(), SaveDtype::F32);
        let exported = trainer_model::export_gguf(model, &export, &gguf);
        for error in [saved.unwrap_err(), exported.unwrap_err()] {
            let error = error.to_string();
            assert!(
                error.starts_with("model.layers.0.self_attn.q_proj ") && error.contains(message),
                "{error}"
            );
        }
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    }
    let merged = adapter.merged(adapted);
    trainer_model::export_gguf(&merged, &export, &gguf).unwrap();
    save_model(&merged, target.path(), SaveDtype::F32).unwrap();
}
