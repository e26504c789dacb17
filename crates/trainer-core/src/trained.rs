//! From the keys of a configuration to what of a model is trained without an adapter.

use burn::module::Module;
use trainer_config::Config;
use trainer_model::TrainedRows;

use crate::error::Result;

/// Freezes what `unfrozen_parameters` does not name; without the key, the model is as
/// it was.
///
/// # Errors
/// When a pattern is malformed or matches nothing.
pub fn unfreeze<M: Module>(config: &Config, model: M) -> Result<(M, TrainedRows)> {
    match &config.parameters.unfrozen_parameters {
        Some(patterns) => Ok(TrainedRows::unfreeze(model, patterns)?),
        None => Ok((model, TrainedRows::default())),
    }
}
