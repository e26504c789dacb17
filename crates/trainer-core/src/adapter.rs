//! From the keys of a configuration to an adapter on a model.

use std::path::Path;
use trainer_config::{AdapterConfig, Config, InitLoraWeights, OneOrMany};
use trainer_model::{
    LoraAdapter, LoraConfig, LoraInit, ModelError, Pretrained, Quantization, TargetModules,
    WrittenFile,
};

use crate::error::{Result, TrainerError};

/// Weights trained beside the model's own, which are frozen.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Adapter {
    /// Low-rank factors.
    Lora(LoraAdapter),
}

impl Adapter {
    /// Gives `model` the adapter that the configuration asks for: a new one, or
    /// that of `lora_model_dir`. Without `adapter`, the model is as it was.
    ///
    /// # Errors
    /// When a file cannot be read, or the settings do not fit the model or the
    /// adapter of `lora_model_dir`.
    pub fn attach<M: Pretrained>(config: &Config, model: M) -> Result<(M, Option<Self>)> {
        let keys = &config.adapters;
        if keys.adapter.is_none() {
            return Ok((model, None));
        }
        let Some(folder) = &keys.lora_model_dir else {
            let settings = overlay(keys, LoraConfig::default(), &config.base_model)?;
            let (model, adapter) =
                LoraAdapter::attach(model, settings, config.seed).map_err(under_our_names)?;
            return Ok((model, Some(Self::Lora(adapter))));
        };
        let (mut model, mut adapter) = LoraAdapter::load(model, folder)?;
        if let Some(dropout) = keys.lora_dropout {
            adapter.set_dropout(&mut model, dropout);
        }
        // A file that began an adapter can go on with it, unless it says otherwise now.
        let settings = overlay(keys, adapter.config().clone(), &config.base_model)?;
        adapter
            .expect(&mut model, &settings)
            .map_err(|error| match under_our_names(error) {
                TrainerError::Setup(message) => TrainerError::Setup(format!(
                    "{message}; remove the key: the adapter in lora_model_dir, {}, brings its own",
                    folder.display()
                )),
                other => other,
            })?;
        Ok((model, Some(Self::Lora(adapter))))
    }

    /// The model without the adapter, as it was before training.
    #[must_use]
    pub fn switched_off<M: Pretrained>(&self, model: &M) -> M {
        match self {
            Self::Lora(adapter) => adapter.switched_off(model),
        }
    }

    /// Whether a parameter of the model that carries the adapter is trained with it.
    #[must_use]
    pub fn trains(&self, name: &str) -> bool {
        match self {
            Self::Lora(adapter) => adapter.trains(name),
        }
    }

    /// Writes the adapter that `model` carries, in PEFT's layout. Returns the file of
    /// weights.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn save<M: Pretrained>(&self, model: &M, folder: &Path) -> Result<WrittenFile> {
        match self {
            Self::Lora(adapter) => Ok(adapter.save(model, folder)?),
        }
    }

    /// `model`, which carries this adapter, with the weights that [`save`](Self::save)
    /// wrote.
    ///
    /// # Errors
    /// When the file is missing or damaged, or of another adapter.
    pub fn restore<M: Pretrained>(&self, model: M, folder: &Path) -> Result<M> {
        match self {
            Self::Lora(adapter) => Ok(adapter.restore(model, folder)?),
        }
    }
}

/// How a configuration keeps the frozen weights of its model.
#[must_use]
pub fn quantization(config: &Config) -> Option<Quantization> {
    let keys = &config.adapters;
    match (keys.load_in_4bit, keys.load_in_8bit) {
        (true, _) => Some(Quantization::Nf4),
        (false, true) => Some(Quantization::Int8),
        (false, false) => None,
    }
}

/// The settings in `base` with the keys that the configuration sets in their place.
fn overlay(keys: &AdapterConfig, base: LoraConfig, model: &Path) -> Result<LoraConfig> {
    let target_modules = match &keys.lora_target_modules {
        Some(names) => targets(names, keys.lora_target_linear),
        None if keys.lora_target_linear => TargetModules::Names {
            names: Vec::new(),
            all_linear: true,
        },
        None => base.target_modules,
    };
    Ok(LoraConfig {
        r: keys.lora_r.unwrap_or(base.r),
        lora_alpha: keys.lora_alpha.unwrap_or(base.lora_alpha),
        lora_dropout: keys.lora_dropout.unwrap_or(base.lora_dropout),
        target_modules,
        modules_to_save: keys
            .lora_modules_to_save
            .clone()
            .unwrap_or(base.modules_to_save),
        rank_pattern: match &keys.lora_rank_pattern {
            Some(patterns) => patterns.clone().into_iter().collect(),
            None => base.rank_pattern,
        },
        alpha_pattern: match &keys.lora_alpha_pattern {
            Some(patterns) => patterns.clone().into_iter().collect(),
            None => base.alpha_pattern,
        },
        layers_to_transform: keys
            .peft_layers_to_transform
            .clone()
            .unwrap_or(base.layers_to_transform),
        layers_pattern: keys
            .peft_layers_pattern
            .clone()
            .unwrap_or(base.layers_pattern),
        use_dora: keys.peft_use_dora || base.use_dora,
        use_rslora: keys.peft_use_rslora || base.use_rslora,
        ensure_weight_tying: base.ensure_weight_tying,
        init_lora_weights: match &keys.peft_init_lora_weights {
            Some(InitLoraWeights::Named(name)) => {
                LoraInit::parse(&name.as_str().into()).map_err(|message| {
                    TrainerError::Setup(format!("peft_init_lora_weights: {message}"))
                })?
            }
            // An adapter that is gone on with has begun already.
            Some(InitLoraWeights::Default(_)) | None => base.init_lora_weights,
        },
        base_model_name_or_path: model.display().to_string(),
    })
}

fn targets(names: &OneOrMany, all_linear: bool) -> TargetModules {
    let plain = |name: &str| {
        name.chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    match names {
        OneOrMany::One(name) if name == "all-linear" => TargetModules::Names {
            names: Vec::new(),
            all_linear: true,
        },
        OneOrMany::One(pattern) if !all_linear && !plain(pattern) => {
            TargetModules::Pattern(pattern.clone())
        }
        names => TargetModules::Names {
            names: names.as_slice().to_vec(),
            all_linear,
        },
    }
}

/// Messages about a setting name the key of the configuration.
fn under_our_names(error: ModelError) -> TrainerError {
    let ModelError::Adapter { setting, message } = error else {
        return error.into();
    };
    let prefix = match setting {
        "lora_alpha" => "",
        "layers_to_transform" | "layers_pattern" | "use_dora" | "init_lora_weights" => "peft_",
        _ => "lora_",
    };
    TrainerError::Setup(format!("{prefix}{setting}: {message}"))
}
