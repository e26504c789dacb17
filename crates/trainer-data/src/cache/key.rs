//! What a prepared data set depends on.
//!
//! A [`Fingerprint`] lists every input by name: the bytes of the data files and
//! of the tokenizer's files, the text of each chat template, the settings, and
//! [`ENGINE`]. Two runs with equal fingerprints make equal samples.
//!
//! Settings count unless they are listed in [`NO_INFLUENCE`]: a key that
//! nobody thought of here costs a needless preparation, never stale data. Paths
//! do not count, only what is in the files: a folder can be moved. Neither does
//! the date, which a template can print: samples keep that of their preparation.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainer_config::{Config, Dataset};

use super::atomic::io;
use crate::pipeline::Purpose;
use crate::{ChatTemplate, DataError, Tokenizer, source};

/// Version of the code that makes samples of rows. Raised with every change
/// that makes other samples of the same input; a release has one of its own anyway.
const ENGINE: &str = concat!(env!("CARGO_PKG_VERSION"), "/2");

/// Keys that do not change a token, a label or the order of the samples.
const NO_INFLUENCE: &[&str] = &[
    "base_model",
    "tokenizer_config",
    "model_config",
    "reinit_weights",
    "adapter",
    "load_in_4bit",
    "load_in_8bit",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_linear",
    "lora_target_modules",
    "lora_modules_to_save",
    "lora_rank_pattern",
    "lora_alpha_pattern",
    "lora_model_dir",
    "peft_layers_to_transform",
    "peft_layers_pattern",
    "peft_use_dora",
    "peft_use_rslora",
    "peft_init_lora_weights",
    "unfrozen_parameters",
    "neftune_noise_alpha",
    "backend",
    "bf16",
    "fp16",
    "tf32",
    "gradient_checkpointing",
    "attn_implementation",
    "dataset_prepared_path",
    "dataset_num_proc",
    "chat_template_jinja",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "eval_batch_size",
    "packing_strategy",
    "sample_packing_bin_size",
    "sample_packing_group_size",
    "sample_packing_sequentially",
    "pad_to_sequence_len",
    "pad_to_multiple_of",
    "group_by_length",
    "batch_flattening",
    "use_pose",
    "pose_max_context_len",
    "pose_num_chunks",
    "pose_split_on_token_ids",
    "pose_variant",
    "balance_labels",
    "label_balance_window_optim_steps",
    "streaming_multipack_buffer_size",
    "num_epochs",
    "max_steps",
    "optimizer",
    "optim_args",
    "embedding_lr",
    "embedding_lr_scale",
    "lr_groups",
    "loraplus_lr_ratio",
    "loraplus_lr_embedding",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "lr_scheduler",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "warmup_ratio",
    "lr_quadratic_warmup",
    "cosine_min_lr_ratio",
    "cosine_constant_lr_ratio",
    "jagged_restart_steps",
    "jagged_restart_warmup_steps",
    "jagged_restart_anneal_steps",
    "eval_strategy",
    "eval_steps",
    "evals_per_epoch",
    "eval_on_start",
    "logging_steps",
    "save_strategy",
    "save_steps",
    "saves_per_epoch",
    "save_total_limit",
    "save_only_model",
    "save_first_step",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_patience",
    "loss_watchdog_threshold",
    "loss_watchdog_patience",
    "resume_from_checkpoint",
    "auto_resume_from_checkpoints",
    "rl_beta",
    "dpo_loss_type",
    "dpo_loss_weights",
    "dpo_label_smoothing",
    "dpo_use_weighting",
    "dpo_ld_alpha",
    "dpo_padding_free",
    "rpo_alpha",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "discopop_tau",
    "precompute_ref_log_probs",
    "share_prompts",
    "orpo_alpha",
    "simpo_gamma",
    "cpo_alpha",
    "kto_desirable_weight",
    "kto_undesirable_weight",
    "num_labels",
    "center_rewards_coefficient",
    "save_dtype",
    "on_nonfinite",
    "on_nonfinite_limit",
    "max_shard_size",
    "resize_token_embeddings_to_32x",
    "mean_resizing_embeddings",
    "shrink_embeddings",
    "generate_samples",
    "num_generation_samples",
    "generation_prompt_ratio",
    "generation_max_new_tokens",
    "generation_do_sample",
    "generation_temperature",
    "generation_top_k",
    "generation_top_p",
    "generation_min_p",
    "generation_repetition_penalty",
    "generation_stop_strings",
    "use_tensorboard",
    "use_wandb",
    "wandb_project",
    "wandb_entity",
    "wandb_name",
    "wandb_run_id",
    "wandb_mode",
    "use_mlflow",
    "mlflow_tracking_uri",
    "mlflow_experiment_name",
    "mlflow_run_name",
    "use_trackio",
    "trackio_project_name",
    "trackio_run_name",
    "trackio_space_id",
    "output_dir",
];

/// The inputs of a preparation, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint {
    inputs: BTreeMap<String, String>,
}

/// An input that two preparations do not share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the input: `setting sequence_len`, `datasets.0 chat.jsonl`, ...
    pub input: String,
    /// Its value in the prepared data set, if it has it.
    pub there: Option<String>,
    /// Its value in this run, if it has it.
    pub here: Option<String>,
}

impl Fingerprint {
    /// Hashes the inputs of a configuration. Reads every data file once.
    ///
    /// # Errors
    /// A data set whose files cannot be found or read.
    pub fn new(config: &Config, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        Self::with(config, tokenizer, hash_file)
    }

    /// As [`Fingerprint::new`], but data files count by their size alone, so
    /// that any amount of data takes no time.
    pub(crate) fn by_size(config: &Config, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        Self::with(config, tokenizer, |path| {
            let data = path.metadata().map_err(io("read", path))?;
            Ok(format!("{} bytes", data.len()))
        })
    }

    fn with(
        config: &Config,
        tokenizer: &Tokenizer,
        of_data: impl Fn(&Path) -> Result<String, DataError> + Sync,
    ) -> Result<Self, DataError> {
        let mut inputs = settings(config);
        inputs.insert("engine".to_owned(), ENGINE.to_owned());
        for (name, content) in tokenizer.contents() {
            inputs.insert(format!("tokenizer {name}"), content.to_owned());
        }
        if tokenizer.is_implied() {
            inputs.insert("tokenizer family".to_owned(), "qwen2".to_owned());
        }
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        for (place, dataset) in entries(config) {
            if let Ok(templates) = ChatTemplate::all(config, Some(dataset), tokenizer) {
                let mut hasher = blake3::Hasher::new();
                for template in templates.iter() {
                    hasher.update(template.source().as_bytes());
                }
                inputs.insert(format!("{place} chat template"), short(&hasher.finalize()));
            }
            for (name, path) in data_files(dataset)? {
                files.push((format!("{place} {name}"), path));
            }
        }
        let hashes: Vec<String> = files
            .par_iter()
            .map(|(_, path)| of_data(path))
            .collect::<Result<_, _>>()?;
        inputs.extend(files.into_iter().map(|(name, _)| name).zip(hashes));
        Ok(Self { inputs })
    }

    /// Whether these inputs are those of `by_size`, as far as sizes of files tell.
    pub(super) fn is_of_size(&self, by_size: &Self) -> bool {
        self.inputs.len() == by_size.inputs.len()
            && self.inputs.iter().zip(&by_size.inputs).all(|(a, b)| {
                let sized = b.1.ends_with(" bytes") && a.1.ends_with(&format!("({})", b.1));
                a.0 == b.0 && (a.1 == b.1 || sized)
            })
    }

    /// Adds what the samples are for.
    pub(super) fn for_purpose(&mut self, purpose: impl Purpose) {
        if let Some(name) = purpose.name() {
            self.add("objective", name.to_owned());
        }
    }

    /// Adds an input.
    pub(crate) fn add(&mut self, name: &str, value: String) {
        self.inputs.insert(name.to_owned(), value);
    }

    /// The name of the prepared data set: 32 hexadecimal digits.
    #[must_use]
    pub fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in &self.inputs {
            // Lengths keep one list of names and values from reading as another.
            for text in [name, value] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The inputs and their values: settings as JSON, files by hash and size.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// How a prepared data set's inputs differ from these, by name.
    #[must_use]
    pub fn differences(&self, there: &Self) -> Vec<Difference> {
        let mut names: Vec<&String> = self.inputs.keys().chain(there.inputs.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| Difference {
                input: name.clone(),
                there: there.inputs.get(name).cloned(),
                here: self.inputs.get(name).cloned(),
            })
            .filter(|difference| difference.there != difference.here)
            .collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
        write!(
            f,
            "{}: {} there, {} here",
            self.input,
            value(&self.there),
            value(&self.here)
        )
    }
}

/// The data sets of a configuration, with their place in it.
fn entries(config: &Config) -> impl Iterator<Item = (String, &Dataset)> {
    let lists = [
        ("datasets", Some(&config.datasets)),
        ("test_datasets", config.test_datasets.as_ref()),
    ];
    lists.into_iter().flat_map(|(list, entries)| {
        let entries = entries.into_iter().flatten().enumerate();
        entries.map(move |(index, entry)| (format!("{list}.{index}"), entry))
    })
}

/// The settings that count, one entry a leaf; what is null is left out, so that
/// a new optional key changes nothing.
fn settings(config: &Config) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    // A configuration came from JSON, so it can be written as such.
    let Ok(Value::Object(mut all)) = serde_json::to_value(config) else {
        return out;
    };
    all.retain(|key, _| !NO_INFLUENCE.contains(&key.as_str()));
    for list in ["datasets", "test_datasets"] {
        for entry in all
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Value::Object(entry) = entry {
                entry.retain(|key, _| !["path", "chat_template_jinja"].contains(&key.as_str()));
            }
        }
    }
    flatten(&mut out, "setting ", &Value::Object(all));
    out
}

fn flatten(out: &mut BTreeMap<String, String>, name: &str, value: &Value) {
    let inside = |key: &str| match name.ends_with(' ') {
        true => format!("{name}{key}"),
        false => format!("{name}.{key}"),
    };
    match value {
        Value::Null => {}
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object {
                flatten(out, &inside(key), value);
            }
        }
        Value::Array(values) if values.iter().any(|value| value.is_object()) => {
            for (index, value) in values.iter().enumerate() {
                flatten(out, &inside(&index.to_string()), value);
            }
        }
        Value::Object(_) => {}
        other => {
            out.insert(name.to_owned(), other.to_string());
        }
    }
}

/// The files of a data set by the names that count: their paths, without the
/// folders that all of them share.
fn data_files(dataset: &Dataset) -> Result<Vec<(String, PathBuf)>, DataError> {
    let paths = source::files(dataset)?;
    let mut shared = paths.first().and_then(|path| path.parent());
    while let Some(folder) = shared
        && !paths.iter().all(|path| path.starts_with(folder))
    {
        shared = folder.parent();
    }
    let name = |path: &Path| {
        let inside = shared.and_then(|folder| path.strip_prefix(folder).ok());
        inside.unwrap_or(path).display().to_string()
    };
    Ok(paths
        .iter()
        .map(|path| (name(path), path.clone()))
        .collect())
}

/// Hashes what passes through it.
pub(super) struct Hashed<W> {
    inner: W,
    hasher: blake3::Hasher,
    size: u64,
}

impl<W> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
            size: 0,
        }
    }

    pub(super) fn get_ref(&self) -> &W {
        &self.inner
    }

    /// Hash and size of everything so far, as [`hash_file`] gives them.
    pub(super) fn content(&self) -> String {
        content(&self.hasher.finalize(), self.size)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Hash and size of a file.
pub(super) fn hash_file(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(io("read", path))?;
    let mut hashed = Hashed::new(std::io::sink());
    std::io::copy(
        &mut file,
        &mut BufWriter::with_capacity(1 << 18, &mut hashed),
    )
    .map_err(io("read", path))?;
    Ok(hashed.content())
}

/// Hash and size of bytes, as [`hash_file`] gives them.
pub(crate) fn content_of(bytes: &[u8]) -> String {
    content(&blake3::hash(bytes), bytes.len() as u64)
}

fn content(hash: &blake3::Hash, size: u64) -> String {
    format!("{} ({size} bytes)", short(hash))
}

fn short(hash: &blake3::Hash) -> String {
    hash.to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_influence_exist() {
        let Value::Object(all) = serde_json::to_value(Config::default()).unwrap() else {
            panic!("not an object");
        };
        for key in NO_INFLUENCE {
            assert!(
                all.contains_key(*key),
                "{key} is no key of the configuration"
            );
        }
    }

    #[test]
    fn a_key_that_is_not_listed_counts() {
        let config = Config::default();
        let counted = settings(&config);
        assert_eq!(counted["setting sequence_len"], "512");
        assert_eq!(counted["setting seed"], "42");
        assert_eq!(counted["setting excess_length_strategy"], "\"drop\"");
        assert!(!counted.contains_key("setting learning_rate"));
    }

    #[test]
    fn names_and_values_are_kept_apart() {
        let of = |pairs: &[(&str, &str)]| {
            let inputs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Fingerprint {
                inputs: inputs.collect(),
            }
        };
        assert_ne!(of(&[("ab", "c")]).key(), of(&[("a", "bc")]).key());
        assert_eq!(of(&[("a", "b")]).key().len(), 32);
        let differences = of(&[("a", "1"), ("b", "2")]).differences(&of(&[("a", "1"), ("c", "3")]));
        let text: Vec<_> = differences.iter().map(Difference::to_string).collect();
        assert_eq!(text, ["b: absent there, 2 here", "c: 3 there, absent here"]);
    }
}
