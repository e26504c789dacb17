//! From a configuration file to everything that a run needs.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use burn::tensor::Device;
use trainer_config::{Config, Layers, Loaded};
use trainer_core::{TrainerTokenizer, backend};
use trainer_data::stream::{SampleStream, StreamCursor, StreamOptions};
use trainer_data::{CacheOutcome, ChatTemplate, PreparedData, Tokenizer};
use trainer_model::{CausalLm, ModelConfig, load_causal_lm};

use crate::EXIT_STOPPED;
use crate::args::{Overrides, Run};

/// Why a command failed, ready to be printed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    /// The run was asked to stop, and did.
    stopped: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            stopped: false,
        }
    }

    /// The end of a run that was asked to stop.
    pub(crate) fn stopped(message: impl Into<String>) -> Self {
        Self {
            stopped: true,
            ..Self::new(message)
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.stopped {
            true => ExitCode::from(EXIT_STOPPED as u8),
            false => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let text = error.to_string();
        // Messages of the configuration come with their own heading.
        if text.starts_with("error") {
            Self::new(text)
        } else {
            Self::new(format!("error: {text}"))
        }
    }
}

/// Loads a configuration with the layers of this process and prints warnings.
pub(crate) fn load_config(run: &Run) -> Result<Loaded, Failure> {
    load_layers(&run.config, run.overrides()?)
}

/// As [`load_config`], with overrides that are parsed already.
pub(crate) fn load_layers(file: &Path, overrides: Overrides) -> Result<Loaded, Failure> {
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let layers = Layers {
        file: Some(file.to_path_buf()),
        env,
        cli: overrides,
    };
    let loaded = trainer_config::load(&layers)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded)
}

/// The tokenizer of a configuration, with the chat template it names: what is
/// saved beside the model is what the model was trained with.
pub(crate) fn load_tokenizer(config: &Config) -> Result<Tokenizer, Failure> {
    let folder = config
        .tokenizer_config
        .as_ref()
        .unwrap_or(&config.base_model);
    let mut tokenizer = Tokenizer::from_dir(folder, &config.special_tokens)?;
    if config.chat_template.is_some() {
        let template = ChatTemplate::resolve(config, None, &tokenizer)?;
        if tokenizer.chat_template() != Some(template.source()) {
            tokenizer.set_chat_template(template.source());
        }
    }
    Ok(tokenizer)
}

/// The samples of a configuration, and where they come from.
pub(crate) fn load_samples(
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<(PreparedData, CacheOutcome), Failure> {
    let (prepared, outcome) = trainer_data::prepare_cached(config, tokenizer)?;
    if let CacheOutcome::Stored {
        entry,
        damaged: Some(reason),
    } = &outcome
    {
        eprintln!(
            "warning: the prepared data in {} was damaged and is replaced: {reason}",
            entry.display()
        );
    }
    Ok((prepared, outcome))
}

/// Whether the training data is read while training.
pub(crate) fn is_streamed(config: &Config) -> bool {
    config.streaming || config.pretraining_dataset.is_some()
}

/// The training data as a stream, from its beginning or from a cursor.
pub(crate) fn open_stream(
    config: &Config,
    cursor: Option<StreamCursor>,
) -> Result<SampleStream, Failure> {
    // The stream tokenizes in a thread of its own.
    let tokenizer = Arc::new(load_tokenizer(config)?);
    let options = StreamOptions::new(config);
    Ok(match cursor {
        Some(cursor) => SampleStream::resume(config, tokenizer, options, cursor)?,
        None => SampleStream::start(config, tokenizer, options)?,
    })
}

/// Prints why prepared data is used, or is not.
pub(crate) fn explain(config: &Config, tokenizer: &Tokenizer) -> Result<(), Failure> {
    eprint!("{}", trainer_data::explain_cache(config, tokenizer)?);
    Ok(())
}

/// The model of a configuration on `device`, recording gradients.
pub(crate) fn load_model(config: &Config, device: &Device) -> Result<CausalLm, Failure> {
    let device = device.clone().autodiff();
    device.seed(config.seed);
    let model_config = ModelConfig::from_folder(&config.base_model, config.model_config.as_ref())?;
    if config.reinit_weights {
        // Drawn now and in order, so that the seed decides every weight.
        return Ok(burn::module::Module::materialize(CausalLm::new(
            &model_config,
            &device,
        )));
    }
    Ok(load_causal_lm(&config.base_model, &model_config, &device)?)
}

/// A working device that has what the configuration asks for.
pub(crate) fn select_device(config: &Config) -> Result<backend::Selected, Failure> {
    let selected = backend::select(config.backend)?;
    backend::compute_format(config, &selected.device)?;
    Ok(selected)
}

/// The tokenizer as the trainer uses it.
pub(crate) struct SavedTokenizer(pub(crate) Tokenizer);

impl TrainerTokenizer for SavedTokenizer {
    fn pad_id(&self) -> u32 {
        self.0.pad_id().unwrap_or(0)
    }

    fn save(&self, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.save(folder)?)
    }
}
