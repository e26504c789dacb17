//! Which weights a run writes and reads back: all of a model, or those of its
//! adapter.

use std::path::Path;

use trainer_config::Config;
use trainer_model::{
    CausalLm, Pretrained, RewardModel, SaveDtype, SaveOptions, load_causal_lm, load_reward_model,
    save_model,
};

use super::objective::Precision;
use crate::adapter::Adapter;
use crate::checkpoint::SaveModel;
use crate::error::Result;

/// How a configuration saves weights.
#[must_use]
pub fn save_options(config: &Config) -> SaveOptions {
    SaveOptions {
        dtype: match config.checkpoint.save_dtype {
            trainer_config::SaveDtype::Float32 => SaveDtype::F32,
            trainer_config::SaveDtype::Bfloat16 => SaveDtype::Bf16,
        },
        max_shard_bytes: config.checkpoint.max_shard_bytes(),
    }
}

/// A model that can be read again from a folder of its files.
pub(super) trait Reload: Pretrained {
    /// The same model, on the same device, with the weights of `folder`.
    ///
    /// # Errors
    /// When a file is missing or damaged, or does not fit the model.
    fn reload(&self, folder: &Path) -> Result<Self>;
}

impl Reload for CausalLm {
    fn reload(&self, folder: &Path) -> Result<Self> {
        Ok(load_causal_lm(folder, self.config(), &self.device())?)
    }
}

impl Reload for RewardModel {
    fn reload(&self, folder: &Path) -> Result<Self> {
        let (config, task) = (self.config(), self.task());
        Ok(load_reward_model(folder, config, task, &self.device())?)
    }
}

/// What of a model is trained, and how it is saved.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) adapter: Option<Adapter>,
    pub(super) save: SaveOptions,
}

impl Weights {
    pub(super) fn new(config: &Config, adapter: Option<Adapter>) -> Self {
        Self {
            adapter,
            save: save_options(config),
        }
    }

    /// What writes the files of a model into a folder.
    pub(super) fn saver<M: Pretrained + Send + 'static>(
        &self,
        model: M,
        precision: Precision,
    ) -> SaveModel {
        if let Some(adapter) = self.adapter.clone() {
            return Box::new(move |folder| Ok(vec![adapter.save(&model, folder)?]));
        }
        let dtype = match precision {
            Precision::Exact => SaveDtype::F32,
            Precision::Configured => self.save.dtype,
        };
        let options = SaveOptions { dtype, ..self.save };
        Box::new(move |folder| Ok(save_model(&model, folder, options)?))
    }

    /// `model` with the weights that a [`saver`](Self::saver) wrote.
    ///
    /// # Errors
    /// When a file is missing or damaged, or does not fit the model.
    pub(super) fn restore<M: Reload>(&self, model: M, folder: &Path) -> Result<M> {
        match &self.adapter {
            Some(adapter) => adapter.restore(model, folder),
            None => model.reload(folder),
        }
    }
}
