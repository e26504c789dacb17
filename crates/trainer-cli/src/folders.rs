//! The folders that a configuration names: what is said where one is not there, or holds
//! something else.

use std::path::Path;

use trainer_config::Config;
use trainer_model::{LoraConfig, hub_name, is_adapter};

use crate::failure::Failure;

/// Checks that the folders of models, tokenizers and adapters are there and hold what their
/// keys ask for, as far as names tell.
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    let adapter = config.adapters.lora_model_dir.as_deref();
    for (key, folder) in [
        ("base_model", Some(config.base_model.as_path())),
        ("tokenizer_config", config.tokenizer_config.as_deref()),
        ("lora_model_dir", adapter),
    ] {
        if let Some(folder) = folder
            && !folder.exists()
        {
            return Err(Failure::new(missing(key, folder)));
        }
    }
    if is_adapter(&config.base_model) && !config.reinit_weights {
        return Err(Failure::new(adapter_as_base(&config.base_model)));
    }
    Ok(())
}

/// What to do about a folder that is not there.
fn missing(key: &str, folder: &Path) -> String {
    let shown = folder.display();
    let Some(name) = hub_name(folder) else {
        return format!("error: {key}: there is no folder {shown}{}", near(folder));
    };
    let (_, last) = name.rsplit_once('/').unwrap_or_default();
    let what = match key {
        "tokenizer_config" => "tokenizer",
        "lora_model_dir" => "adapter",
        _ => "model",
    };
    format!(
        "error: {key}: there is no folder {shown}
  = note: it has the form of the name of a {what} on the Hugging Face hub. Models are not \
  downloaded: `{key}` is a folder here
  = help: `hf download {name} --local-dir models/{last}` gets it; then write \
  `{key}: models/{last}`"
    )
}

/// The folders that are beside one that is not.
fn near(folder: &Path) -> String {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    match (parent.is_dir(), names.as_slice()) {
        (false, _) => format!(", nor {}", parent.display()),
        (true, []) => format!("; there are no folders in {}", parent.display()),
        (true, names) => {
            let some: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
            let more = if names.len() > some.len() { ", ..." } else { "" };
            format!(
                "; in {} there are {}{more}",
                parent.display(),
                some.join(", ")
            )
        }
    }
}

/// What to do about an adapter in the place of a model.
fn adapter_as_base(folder: &Path) -> String {
    let shown = folder.display();
    let base = LoraConfig::from_folder(folder).map(|config| config.base_model_name_or_path);
    let base = match base {
        Ok(base) if !base.is_empty() => format!(", {base}"),
        _ => String::new(),
    };
    format!(
        "error: base_model: {shown} holds an adapter, which is no model by itself
  = help: to use it, write the model that it was trained on{base}, as `base_model`, with \
  `adapter: lora` and `lora_model_dir: {shown}`; `trainer merge-lora` with such a configuration \
  makes one model of the two"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key that takes a folder says its name and how to get what it names.
    #[test]
    fn names_of_the_hub_are_explained() {
        for key in ["base_model", "tokenizer_config", "lora_model_dir"] {
            let message = missing(key, Path::new("someone/some-model-0.5B"));
            for part in [
                format!("error: {key}: there is no folder someone/some-model-0.5B"),
                "Models are not downloaded".to_owned(),
                format!("`{key}` is a folder here"),
                "hf download someone/some-model-0.5B --local-dir models/some-model-0.5B".to_owned(),
                format!("`{key}: models/some-model-0.5B`"),
            ] {
                assert!(message.contains(&part), "{part}: {message}");
            }
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let message = missing("base_model", &here.join("nothing"));
        assert!(!message.contains("download"), "{message}");
        assert!(message.contains("there are src, tests"), "{message}");
    }
}
