//! The model card: `README.md` beside the model, with the front matter that the
//! Hugging Face hub reads.

use std::fs;
use std::path::Path;

use serde_json::Value;
use trainer_config::Config;
use trainer_data::Ledger;

use super::results::Results;

pub(super) fn card(
    config: &Config,
    command: &str,
    results: &Results,
    ledger: Option<&Ledger>,
) -> String {
    let is_adapter = config.output_dir.join("adapter_config.json").is_file();
    let base = base_model_id(&config.base_model);
    let datasets: Vec<String> = config
        .datasets
        .iter()
        .map(|set| set.path.display().to_string())
        .collect();
    let mut front = vec!["---".to_owned()];
    if let Some(base) = &base {
        front.push(format!("base_model: {}", quoted(base)));
    }
    front.push(format!(
        "library_name: {}",
        if is_adapter { "peft" } else { "transformers" }
    ));
    front.push("pipeline_tag: text-generation".to_owned());
    front.push("tags:\n- trainer\n- generated_from_trainer".to_owned());
    if let Some(license) = license(&config.base_model) {
        front.push(format!("license: {}", quoted(&license)));
    }
    // The hub wants ids of its own there; files are named in the text.
    let ids: Vec<&String> = datasets
        .iter()
        .filter(|path| is_hub_id(path) && !Path::new(path).exists())
        .collect();
    if !ids.is_empty() {
        front.push("datasets:".to_owned());
        front.extend(ids.iter().map(|id| format!("- {}", quoted(id))));
    }
    front.push("---".to_owned());

    let name = config.output_dir.file_name().unwrap_or_default();
    let base = base.unwrap_or_else(|| folder_name(&config.base_model));
    let mut text = format!(
        "{}\n\n# {}\n\n{} `{base}` with [trainer](https://github.com/trainer-rs/trainer) {}.\n",
        front.join("\n"),
        name.to_string_lossy(),
        match (is_adapter, config.reinit_weights) {
            (true, _) => "An adapter for",
            (false, true) => "Trained from random weights in the shape of",
            (false, false) => "Fine-tuned from",
        },
        env!("CARGO_PKG_VERSION"),
    );
    text += "\n## Results\n\n";
    text += &table(&["", "value"], &results.table());
    text += "\n## Data\n\n";
    match ledger {
        Some(ledger) => {
            let rows: Vec<Vec<String>> = ledger
                .datasets
                .iter()
                .map(|set| {
                    vec![
                        set.path.display().to_string() + if set.test { " (test)" } else { "" },
                        set.strategy.clone(),
                        set.kept.samples.to_string(),
                        set.kept.tokens.to_string(),
                        set.trained_tokens.to_string(),
                    ]
                })
                .collect();
            text += &table(&["data set", "type", "samples", "tokens", "trained"], &rows);
        }
        None => text += &datasets.join("\n"),
    }
    text += "\n## Settings\n\n";
    text += &table(&["", "value"], &settings(config));
    text += &format!("\n```sh\n{command}\n```\n");
    text += "\nThe curves, every setting and the environment are in `report.html`.\n";
    text
}

/// The settings that people ask for first, under the names of the file.
fn settings(config: &Config) -> Vec<Vec<String>> {
    let json = serde_json::to_value(config).unwrap_or_default();
    [
        "learning_rate",
        "lr_scheduler",
        "warmup_steps",
        "warmup_ratio",
        "optimizer",
        "weight_decay",
        "max_grad_norm",
        "micro_batch_size",
        "gradient_accumulation_steps",
        "num_epochs",
        "max_steps",
        "sequence_len",
        "sample_packing",
        "rl",
        "adapter",
        "load_in_4bit",
        "load_in_8bit",
        "peft_use_dora",
        "lora_r",
        "lora_alpha",
        "seed",
    ]
    .iter()
    .filter_map(|key| {
        let value = match json.get(key)? {
            // A key that asks for nothing says nothing.
            Value::Null | Value::Bool(false) => return None,
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        Some(vec![(*key).to_owned(), value])
    })
    .collect()
}

/// A table in Markdown.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.iter().map(|cell| (*cell).to_owned()).collect());
    text += &line(vec!["---".to_owned(); head.len()]);
    for row in rows {
        let cells = row
            .iter()
            .map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        text += &line(cells.collect());
    }
    text
}

/// The id of the base model on the hub: from its `config.json`, or its path where
/// that is of the form of an id.
fn base_model_id(base: &Path) -> Option<String> {
    let config = fs::read(base.join("config.json")).ok();
    let config: Value = config
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let named = config.get("_name_or_path").and_then(Value::as_str);
    let path = base.to_str().filter(|_| !base.exists());
    named.or(path).filter(|id| is_hub_id(id)).map(str::to_owned)
}

fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    matches!(text.split_once('/'), Some((owner, name)) if part(owner) && part(name))
}

fn folder_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The licence that the base model's card names.
fn license(base: &Path) -> Option<String> {
    let card = fs::read_to_string(base.join("README.md")).ok()?;
    let front = card.strip_prefix("---\n")?.split("\n---").next()?;
    let value = front
        .lines()
        .find_map(|line| line.strip_prefix("license:"))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// A text as YAML.
fn quoted(text: &str) -> String {
    match text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
    {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_hub_are_told_from_paths() {
        let ids = ["org/name", "a/b/c", "name", "./name", "../x", "org/na me"].map(is_hub_id);
        assert_eq!(ids, [true, false, false, false, false, false]);
    }

    #[test]
    fn the_licence_is_that_of_the_base_model() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(license(folder.path()), None);
        let card = "---\ntags:\n- x\nlicense: 'apache-2.0'\n---\nlicense: none\n";
        fs::write(folder.path().join("README.md"), card).unwrap();
        assert_eq!(license(folder.path()).as_deref(), Some("apache-2.0"));
    }
}
