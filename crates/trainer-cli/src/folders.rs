//! The folders that a configuration names: what is said where one is not there, or holds
//! something else.

use std::fmt;
use std::path::Path;

use trainer_config::Config;
use trainer_data::DataError;
use trainer_model::{LoraConfig, hub_name, is_adapter};

/// What is wrong with the folder that a key names.
#[derive(Debug)]
pub(crate) struct WrongFolder {
    pub(crate) key: &'static str,
    pub(crate) message: String,
    /// What to do; empty where the message says it.
    pub(crate) help: String,
}

impl fmt::Display for WrongFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        match self.help.is_empty() {
            true => Ok(()),
            false => write!(f, "\n  = help: {}", self.help),
        }
    }
}

impl std::error::Error for WrongFolder {}

/// Checks the folder of the tokenizer.
pub(crate) fn check_tokenizer(config: &Config) -> Result<(), WrongFolder> {
    match &config.tokenizer_config {
        Some(folder) => exists("tokenizer_config", folder),
        None => check_base(config),
    }
}

/// Checks the folder of the adapter that a run begins with.
pub(crate) fn check_adapter(config: &Config) -> Result<(), WrongFolder> {
    match &config.adapters.lora_model_dir {
        Some(folder) => exists("lora_model_dir", folder),
        None => Ok(()),
    }
}

/// Checks the folder of the model.
pub(crate) fn check_base(config: &Config) -> Result<(), WrongFolder> {
    let folder = &config.base_model;
    exists("base_model", folder)?;
    // The settings of a model are enough where its weights are drawn.
    let settings = config.reinit_weights && folder.join("config.json").is_file();
    match is_adapter(folder) && !settings {
        true => Err(adapter_as_base(folder)),
        false => Ok(()),
    }
}

/// Checks that the folder that a key or flag names is there.
pub(crate) fn exists(key: &'static str, folder: &Path) -> Result<(), WrongFolder> {
    match folder.exists() {
        true => Ok(()),
        false => Err(missing(key, folder)),
    }
}

/// What to do about a folder that is not there.
fn missing(key: &'static str, folder: &Path) -> WrongFolder {
    let (what, of_what) = match key {
        "tokenizer_config" => ("tokenizer", "tokenizer folder"),
        "lora_model_dir" => ("adapter", "adapter folder"),
        _ => ("model", "model folder"),
    };
    let Some(name) = hub_name(folder) else {
        return WrongFolder {
            key,
            message: DataError::missing(of_what, folder).to_string(),
            help: String::new(),
        };
    };
    let (_, last) = name.rsplit_once('/').unwrap_or_default();
    WrongFolder {
        key,
        message: format!(
            "there is no folder {}; it has the form of the name of a {what} on the Hugging Face hub, \
             and models are not downloaded: `{key}` is a folder here",
            folder.display()
        ),
        help: format!(
            "`hf download {name} --local-dir models/{last}` gets it; then write `{key}: models/{last}`"
        ),
    }
}

/// What to do about an adapter in the place of a model.
fn adapter_as_base(folder: &Path) -> WrongFolder {
    let shown = folder.display();
    let base = LoraConfig::from_folder(folder).map(|config| config.base_model_name_or_path);
    let base = match base {
        Ok(base) if !base.is_empty() => format!(", {base}"),
        _ => String::new(),
    };
    WrongFolder {
        key: "base_model",
        message: format!("{shown} holds an adapter, which is no model by itself"),
        help: format!(
            "to use it, write the model that it was trained on{base}, as `base_model`, with \
             `adapter: lora` and `lora_model_dir: {shown}`; `trainer merge-lora` with such a \
             configuration makes one model of the two"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key that takes a folder says its name and how to get what it names.
    #[test]
    fn names_of_the_hub_are_explained() {
        for key in ["base_model", "tokenizer_config", "lora_model_dir"] {
            let message = missing(key, Path::new("someone/some-model-0.5B")).to_string();
            for part in [
                format!("{key}: there is no folder someone/some-model-0.5B"),
                "models are not downloaded".to_owned(),
                format!("`{key}` is a folder here"),
                "hf download someone/some-model-0.5B --local-dir models/some-model-0.5B".to_owned(),
                format!("`{key}: models/some-model-0.5B`"),
            ] {
                assert!(message.contains(&part), "{part}: {message}");
            }
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let message = missing("base_model", &here.join("test")).to_string();
        assert!(!message.contains("download"), "{message}");
        assert!(message.ends_with("did you mean tests?"), "{message}");
    }
}
