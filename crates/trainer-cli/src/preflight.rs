//! What would fail later in a run, found before weights are loaded and data is read: by
//! `config.json`, by the tokenizer, by names and first rows of files, by the backends of
//! this build. `trainer check` and `trainer train` both look here first, so that they say
//! the same.
//!
//! What the configuration alone tells are the rules of `trainer-config`; their errors
//! and these come at once. Each error points at the line of the key that it is about.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::Device;
use trainer_config::{AutoBool, Config, ConfigErrors, Diagnostic, Examined, Loaded, Severity};
use trainer_core::estimate::{BatchShape, Others};
use trainer_core::{Schedule, TrainerError, backend, check_settings};
use trainer_data::{ChatTemplate, DataError, PreferenceObjective, Tokenizer};
use trainer_model::{ModelConfig, ModelError, has_score};

use crate::args::Overrides;
use crate::failure::Failure;
use crate::folders::{self, WrongFolder};
use crate::session::{examine_layers, load_tokenizer, shapes_for_training};

/// Steps of a run whose length is not known yet.
const MANY_STEPS: usize = 1_000_000_000;

/// Loads a configuration for training and prints warnings.
///
/// # Errors
/// Everything that is wrong with it and that can be known without weights.
pub(crate) fn load(file: &Path, overrides: Overrides) -> Result<Loaded, Failure> {
    let Examined { loaded, errors } = examine_layers(file, overrides);
    let Some(loaded) = loaded else {
        return Err(ConfigErrors::new(errors).into());
    };
    let (outside, warnings): (Vec<_>, Vec<_>) = findings(&loaded)
        .into_iter()
        .partition(|finding| finding.severity == Severity::Error);
    let warnings = loaded.warnings.iter().cloned().chain(warnings);
    let errors: Vec<Diagnostic> = errors.into_iter().chain(outside).collect();
    if !errors.is_empty() {
        return Err(ConfigErrors::new(errors.into_iter().chain(warnings).collect()).into());
    }
    for warning in warnings {
        eprintln!("{warning}");
    }
    Ok(loaded)
}

/// What is found about a configuration, each thing once.
struct Findings<'a> {
    loaded: &'a Loaded,
    all: Vec<Diagnostic>,
    seen: BTreeSet<String>,
}

fn findings(loaded: &Loaded) -> Vec<Diagnostic> {
    let mut found = Findings {
        loaded,
        all: Vec::new(),
        seen: BTreeSet::new(),
    };
    let device = found.device();
    found.settings();
    if let Err(wrong) = folders::check_adapter(&loaded.config) {
        found.folder(&wrong);
    }
    let model = found.model();
    let tokenizer = found.tokenizer(model);
    found.templates(tokenizer.as_ref());
    found.data(tokenizer.as_ref());
    if let (Some(device), Some(tokenizer), true) = (device, &tokenizer, model) {
        found.parameters(tokenizer, &device);
    }
    found.output();
    found.all
}

impl<'a> Findings<'a> {
    fn config(&self) -> &'a Config {
        &self.loaded.config
    }

    /// Takes an error down under its key, unless the value of that is known to be wrong
    /// already.
    fn error(&mut self, key: &str, error: &dyn std::fmt::Display) {
        let text = error.to_string();
        if self.loaded.is_usable(&[key]) && self.seen.insert(text.clone()) {
            // Advice that stands in lines of its own goes below the place.
            let mut parts = text.split("\n  = ");
            let message = parts.next().unwrap_or_default();
            let mut finding = self.loaded.error(key, message, "", "");
            finding.help = parts
                .map(|part| part.split_once(": ").map_or(part, |(_, advice)| advice))
                .map(str::to_owned)
                .collect();
            self.all.push(finding);
        }
    }

    fn folder(&mut self, wrong: &WrongFolder) {
        if self.loaded.is_usable(&[wrong.key]) && self.seen.insert(wrong.message.clone()) {
            let message = format!("`{}`: {}", wrong.key, wrong.message);
            let error = self.loaded.error(wrong.key, &message, "", &wrong.help);
            self.all.push(error);
        }
    }

    /// An error of a trainer, which names its key.
    fn trainer_error(&mut self, otherwise: &str, error: &TrainerError) {
        let key = match error {
            TrainerError::Setting { key, .. } => (*key).to_owned(),
            TrainerError::Backend { .. } => "backend".to_owned(),
            TrainerError::Checkpoint { .. } => "resume_from_checkpoint".to_owned(),
            TrainerError::Model(ModelError::Unfrozen { .. }) => "unfrozen_parameters".to_owned(),
            error => {
                named(self.config(), &error.to_string()).unwrap_or_else(|| otherwise.to_owned())
            }
        };
        self.error(&key, error);
    }

    /// The backend, and what it can compute.
    fn device(&mut self) -> Option<Device> {
        let config = self.config();
        match backend::select(config.backend) {
            Err(error) => {
                self.trainer_error("backend", &error);
                // Shapes are the same on every device.
                backend::select(trainer_config::Backend::Auto)
                    .ok()
                    .map(|it| it.device)
            }
            Ok(selected) => {
                let device = selected.device;
                let no_gpu = selected.backend != trainer_config::Backend::Cuda;
                if config.compute.tf32 == AutoBool::Bool(true) && no_gpu {
                    let message = format!(
                        "`tf32` has no effect on the backend `{}`: TensorFloat-32 is a mode of \
                         NVIDIA GPUs",
                        selected.backend
                    );
                    let help = "float32 is computed, which is the more exact of the two";
                    let warning = self.loaded.warning("tf32", &message, "no effect", help);
                    self.all.push(warning);
                }
                if let Err(error) = backend::compute_format(self.config(), &device) {
                    self.trainer_error("bf16", &error);
                }
                Some(device)
            }
        }
    }

    /// Evaluations, checkpoints and the schedule.
    fn settings(&mut self) {
        let keys = [
            "val_set_size",
            "test_datasets",
            "eval_strategy",
            "save_strategy",
            "output_dir",
        ];
        // The rules say whether there are evaluations.
        let mut config = self.config().clone();
        config.checkpoint.load_best_model_at_end = false;
        config.checkpoint.metric_for_best_model = None;
        config.checkpoint.early_stopping_patience = None;
        if config.checkpoint.save_strategy == Some(trainer_config::SaveStrategy::Best) {
            config.checkpoint.save_strategy = None;
        }
        if self.loaded.is_usable(&keys)
            && let Err(error) = check_settings(&config)
        {
            self.trainer_error("output_dir", &error);
        }
        let keys = ["lr_scheduler", "learning_rate", "warmup_steps", "max_steps"];
        if self.loaded.is_usable(&keys) {
            let steps = self.config().max_steps.unwrap_or(MANY_STEPS);
            if let Err(error) = Schedule::new(self.config(), steps) {
                let key = match (&error, &self.config().lr_scheduler_kwargs) {
                    (TrainerError::Setting { key, .. }, None) if *key == "lr_scheduler_kwargs" => {
                        "lr_scheduler"
                    }
                    _ => "",
                };
                match key {
                    "" => self.trainer_error("lr_scheduler", &error),
                    key => self.error(key, &error),
                }
            }
        }
    }

    /// Whether the folder of the model is one that can be trained.
    fn model(&mut self) -> bool {
        let config = self.config();
        let folder = config.base_model.clone();
        if folder.as_os_str().is_empty() || !self.loaded.is_usable(&["base_model", "model_config"])
        {
            return false;
        }
        if let Err(wrong) = folders::check_base(config) {
            self.folder(&wrong);
            return false;
        }
        let read = ModelConfig::from_folder(&folder, config.model_config.as_ref());
        let weights = match (read, config.reinit_weights) {
            (Err(error), _) => Err(error),
            (Ok(_), true) => Ok(false),
            (Ok(_), false) => has_score(&folder),
        };
        match weights {
            Ok(_) => true,
            Err(error) => {
                self.error("base_model", &error);
                false
            }
        }
    }

    /// The tokenizer; that of a model whose folder is wrong is not looked for.
    fn tokenizer(&mut self, model: bool) -> Option<Tokenizer> {
        let config = self.config();
        let key = match config.tokenizer_config {
            Some(_) => "tokenizer_config",
            None if model || config.base_model.join("tokenizer.json").is_file() => "base_model",
            None => return None,
        };
        let keys = [
            key,
            "special_tokens",
            "tokens",
            "added_tokens_overrides",
            "chat_template",
            "chat_template_jinja",
        ];
        if !self.loaded.is_usable(&keys) {
            return None;
        }
        if let Err(wrong) = folders::check_tokenizer(config) {
            self.folder(&wrong);
            return None;
        }
        match Tokenizer::from_config(config) {
            Err(error) => {
                self.error(key, &error);
                None
            }
            Ok(_) => match load_tokenizer(config) {
                Ok(tokenizer) => Some(tokenizer),
                Err(failure) => {
                    let key = match config.chat_template_jinja {
                        Some(_) => "chat_template_jinja",
                        None => "chat_template",
                    };
                    self.error(key, &failure.message());
                    None
                }
            },
        }
    }

    /// Templates of single data sets.
    fn templates(&mut self, tokenizer: Option<&Tokenizer>) {
        let Some(tokenizer) = tokenizer else { return };
        let config = self.config();
        let lists = [
            ("datasets", Some(&config.datasets)),
            ("test_datasets", config.test_datasets.as_ref()),
        ];
        let mut wrong = Vec::new();
        for (list, entries) in lists {
            for (index, entry) in entries.into_iter().flatten().enumerate() {
                let own = match (&entry.chat_template, &entry.chat_template_jinja) {
                    (_, Some(_)) => "chat_template_jinja",
                    (Some(_), None) => "chat_template",
                    (None, None) => continue,
                };
                if let Err(error) = ChatTemplate::resolve(config, Some(entry), tokenizer) {
                    wrong.push((format!("{list}.{index}.{own}"), error));
                }
            }
        }
        for (key, error) in wrong {
            self.error(&key, &error);
        }
    }

    /// Files of data sets and their first rows.
    fn data(&mut self, tokenizer: Option<&Tokenizer>) {
        let config = self.config();
        let objective = PreferenceObjective::of(config);
        let rules = [
            "rl",
            "reward_model",
            "process_reward_model",
            "chat_template",
        ];
        let tokenizer = tokenizer.filter(|_| self.loaded.is_usable(&rules));
        for (place, error) in trainer_data::check_data(config, tokenizer, objective) {
            let key = match error {
                DataError::NoStrategy { .. } => format!("{place}.type"),
                DataError::NoChatTemplate { .. } => format!("{place}.type"),
                _ => format!("{place}.path"),
            };
            // A wrong `type` has been reported, and reads no row.
            if self.loaded.is_usable(&[&format!("{place}.type")]) {
                self.error(&key, &error);
            }
        }
    }

    /// What is trained, by the names and shapes of the model's parameters.
    fn parameters(&mut self, tokenizer: &Tokenizer, device: &Device) {
        let config = self.config();
        let (model, adapter) = match shapes_for_training(config, tokenizer, device) {
            Ok(shapes) => shapes,
            Err(failure) => {
                let message = failure.message();
                let adapter = config.adapters.lora_model_dir.as_ref();
                let of_adapter =
                    adapter.is_some_and(|it| message.starts_with(&*it.to_string_lossy()));
                let folder = if of_adapter {
                    "lora_model_dir"
                } else {
                    "base_model"
                };
                let key = named(config, message).unwrap_or_else(|| folder.to_owned());
                return self.error(&key, &message);
            }
        };
        // An estimate goes through all of it: what is frozen, groups, optimizer.
        let batch = BatchShape::largest(config);
        let others = Others {
            second_model: false,
            tokenizer_file: 0,
            samples: 0,
        };
        if let Err(error) = model.estimate(config, adapter.as_ref(), batch, others) {
            self.trainer_error("base_model", &error);
        }
    }

    fn output(&mut self) {
        let config = self.config();
        let above = config.output_dir.ancestors().find(|it| it.exists());
        if let Some(file) = above.filter(|it| it.is_file()) {
            let message = format!("output_dir: {} is a file, not a folder", file.display());
            self.error("output_dir", &message);
        }
        if cfg!(not(feature = "trackio")) && config.tracking.trackio() {
            let message =
                "this program was built without `use_trackio`; build it with `--features trackio`";
            self.error("use_trackio", &message);
        }
    }
}

/// The key that a message begins with, if it is one.
fn named(config: &Config, message: &str) -> Option<String> {
    let (key, _) = message.split_once(": ")?;
    let json = serde_json::to_value(config).ok()?;
    json.get(key).is_some().then(|| key.to_owned())
}
