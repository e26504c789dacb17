//! The settings of the model that a configuration starts from, and what there is to say
//! about them.

use serde_json::{Map, Value};
use trainer_config::Config;
use trainer_core::quantization;
use trainer_model::{ModelConfig, has_own_head};

use crate::failure::Failure;
use crate::session::head_of;
use crate::{folders, limits};

/// The settings of the model that a configuration starts from.
pub(crate) fn base_config(
    config: &Config,
    overrides: Option<&Map<String, Value>>,
) -> Result<ModelConfig, Failure> {
    folders::check_base(config)?;
    folders::check_adapter(config)?;
    let mut found = ModelConfig::from_folder(&config.base_model, overrides)?;
    if let Some(warning) = unknown_settings(config, &found) {
        eprintln!("warning: {warning}");
    }
    found.quantization = quantization(config);
    Ok(found)
}

/// Settings of the base model that nothing reads.
fn unknown_settings(config: &Config, model: &ModelConfig) -> Option<String> {
    let unknown = model.unknown_settings();
    (!unknown.is_empty()).then(|| {
        format!(
            "{}: nothing reads {}; what it asks for is not done",
            config.base_model.join("config.json").display(),
            unknown.join(", ")
        )
    })
}

/// That the weights of the base model have a head which is not the embedding, though its
/// settings say so.
pub(crate) fn own_head(config: &Config) -> String {
    format!(
        "{}: lm_head.weight is not the embedding, though tie_word_embeddings of config.json is true; \
         it is used, and saved models say false",
        config.base_model.display()
    )
}

/// What training will say of the model of a configuration, as far as it can be known
/// without the data.
pub(crate) fn model_notes(config: &Config) -> Result<Vec<String>, Failure> {
    let folder = &config.base_model;
    let model = ModelConfig::from_folder(folder, config.model_config.as_ref())?;
    let tied = model.tie_word_embeddings && head_of(config).is_none() && !config.reinit_weights;
    let head = tied && has_own_head(folder).unwrap_or(false);
    let notes = [
        unknown_settings(config, &model),
        head.then(|| own_head(config)),
        limits::warning(config, model),
    ];
    Ok(notes.into_iter().flatten().collect())
}
