//! What a model folder holds: names of its files, shards by their index, and
//! files that are not read for a reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::safetensors::WeightFile;
use crate::error::{ModelError, Result};

/// All weights in one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// How the model's authors generate text.
pub(super) const GENERATION: &str = "generation_config.json";

/// `generation_config.json` of a folder; empty where there is none.
///
/// # Errors
/// When it cannot be read or is no JSON object.
pub(crate) fn read_generation_config(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join(GENERATION);
    if !path.is_file() {
        return Ok(Map::new());
    }
    read_json(&path)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(ModelError::io(path))?;
    serde_json::from_str(&text).map_err(|error| ModelError::Json {
        path: path.to_path_buf(),
        message: error.to_string(),
    })
}

/// The settings of a model.
const CONFIG: &str = "config.json";

/// The settings of an adapter.
pub(crate) const ADAPTER: &str = "adapter_config.json";

/// Whether a folder has weights of a model.
#[must_use]
pub fn has_weights(folder: &Path) -> bool {
    [SINGLE, INDEX]
        .iter()
        .any(|name| folder.join(name).is_file())
}

/// Whether a folder holds an adapter and no model.
#[must_use]
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER).is_file() && !has_weights(folder)
}

/// The name of a model on the Hugging Face hub, where a path that leads to no folder has
/// the form of one: `organization/name`, or an address of the hub.
#[must_use]
pub fn hub_name(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let text = ["https://huggingface.co/", "hf://", "hf.co/"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    let (organization, name) = text.split_once('/')?;
    let is_part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(plain)
    };
    let is_there = path.exists() || Path::new(organization).is_dir();
    (!is_there && is_part(organization) && is_part(name)).then_some(text)
}

/// Checks that a path is that of a folder that has the settings of a model.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    refuse_file(folder)?;
    if folder.join(CONFIG).is_file() {
        return Ok(());
    }
    if !folder.is_dir() {
        let hint = match hub_name(folder) {
            Some(name) => format!(
                "; models are not downloaded: a model is a folder here, such as \
                 `hf download {name} --local-dir FOLDER` makes"
            ),
            None => String::new(),
        };
        return Err(ModelError::NoFolder {
            folder: folder.to_path_buf(),
            hint,
        });
    }
    let hint = match is_adapter(folder) {
        true => adapter_hint(),
        false => "a model is a folder in Hugging Face layout".to_owned(),
    };
    Err(ModelError::MissingFile {
        folder: folder.to_path_buf(),
        name: CONFIG.into(),
        hint,
    })
}

fn adapter_hint() -> String {
    format!(
        "it holds an adapter ({ADAPTER}), which is loaded on top of the model that it was trained on, \
         or merged with it"
    )
}

/// A model is a folder: says what to do with a file.
fn refuse_file(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let message = if name.ends_with(".gguf") {
        "this is a GGUF file; `trainer import FILE.gguf FOLDER` makes a model folder of it"
            .to_owned()
    } else if is_pickle(&name) {
        format!("this is a file, and {}", pickle_hint(&name))
    } else {
        "this is a file; name the folder that holds config.json".to_owned()
    };
    Err(ModelError::Damaged {
        path: path.to_path_buf(),
        message,
    })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the weights of a folder: the single file, else the shards.
pub(super) fn open_weights(folder: &Path) -> Result<Vec<WeightFile>> {
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok(vec![WeightFile::open(&single)?]);
    }
    let index_path = folder.join(INDEX);
    if !index_path.is_file() {
        return Err(ModelError::MissingFile {
            folder: folder.to_path_buf(),
            name: SINGLE.into(),
            hint: missing_hint(folder),
        });
    }
    let index: Index = read_json(&index_path)?;
    let wrong = |message: String| ModelError::Json {
        path: index_path.clone(),
        message,
    };
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    let mut files = Vec::new();
    for shard in shards {
        // A name from a file must not lead out of the folder.
        if PathBuf::from(shard).file_name() != Some(shard.as_ref()) || shard.contains('\\') {
            return Err(wrong(format!("\"{shard}\" is not a plain file name")));
        }
        if is_pickle(shard) {
            return Err(wrong(pickle_hint(shard)));
        }
        let path = folder.join(shard);
        if !path.is_file() {
            return Err(ModelError::MissingFile {
                folder: folder.to_path_buf(),
                name: shard.clone(),
                hint: format!("{INDEX} names it as a shard of the weights"),
            });
        }
        files.push(WeightFile::open(&path)?);
    }
    check_index(&index, &files).map_err(wrong)?;
    Ok(files)
}

/// Each tensor is in one shard, the one that the index names.
fn check_index(index: &Index, files: &[WeightFile]) -> Result<(), String> {
    let name_of = |file: &WeightFile| {
        let name = file.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut holders: HashMap<&str, String> = HashMap::new();
    for file in files {
        for tensor in file.names() {
            if let Some(other) = holders.insert(tensor, name_of(file)) {
                return Err(format!(
                    "tensor {tensor} is in {other} and in {}",
                    name_of(file)
                ));
            }
        }
    }
    for (tensor, shard) in &index.weight_map {
        if holders.get(tensor.as_str()) != Some(shard) {
            return Err(format!("tensor {tensor} is not in {shard}"));
        }
    }
    Ok(())
}

fn missing_hint(folder: &Path) -> String {
    if is_adapter(folder) {
        return adapter_hint();
    }
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if let Some(name) = names.iter().find(|name| is_pickle(name)) {
        return pickle_hint(name);
    }
    if let Some(name) = names.iter().find(|name| name.ends_with(".gguf")) {
        return format!(
            "there is {name}: `trainer import {name} FOLDER` makes a model folder of a GGUF file"
        );
    }
    format!(
        "weights must be {SINGLE}, or shards with {INDEX}; to start from random weights set \
         reinit_weights: true"
    )
}

fn is_pickle(name: &str) -> bool {
    let endings = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];
    endings.iter().any(|ending| name.ends_with(ending))
}

fn pickle_hint(name: &str) -> String {
    format!(
        "{name} is a Python pickle, which can run programs when it is read: pickles are never read. \
         Load the model in transformers and save it with save_pretrained, which writes safetensors"
    )
}

/// Removes weight files of an earlier save that do not belong to this one.
pub(super) fn remove_stale_weights(folder: &Path, names: &[&str], single: bool) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(ModelError::io(folder))?;
    for entry in entries {
        let entry = entry.map_err(ModelError::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stale = match name.as_str() {
            SINGLE => !single,
            INDEX => single,
            name => is_shard(name) && !names.contains(&name),
        };
        if stale {
            fs::remove_file(entry.path()).map_err(ModelError::io(entry.path()))?;
        }
    }
    Ok(())
}

/// `model-00001-of-00002.safetensors`
fn is_shard(name: &str) -> bool {
    let numbers = name
        .strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(a, b)| digits(a) && digits(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub() {
        let is_name = |text: &str| hub_name(Path::new(text)).is_some();
        for name in [
            "someone/some-model-0.5B",
            "Qwen/Qwen2.5-0.5B-Instruct",
            "hf://someone/model",
        ] {
            assert!(is_name(name), "{name}");
        }
        assert_eq!(
            hub_name(Path::new("https://huggingface.co/someone/model_1")),
            Some("someone/model_1")
        );
        for path in [
            "./someone/model",
            "../models/llama",
            "/models/llama",
            "~/model",
            "model",
            "a/b/c",
            "some one/model",
            // This crate has such a folder, in which something is missing.
            "src/model",
            "src/files",
        ] {
            assert!(!is_name(path), "{path}");
        }
    }
}
