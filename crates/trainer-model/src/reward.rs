//! Models with a classification head in place of the vocabulary's: reward models
//! and process reward models.
//!
//! Reference: `LlamaForSequenceClassification` and `LlamaForTokenClassification`
//! of transformers and their like. They differ in the bias of the head and in
//! where a value is read, not in how it is computed. transformers drops hidden
//! states out before a token classifier while it trains; there is no dropout here.
//!
//! Shape suffixes: `b` rows, `t` tokens, `d` model width, `n` selected tokens, `c`
//! labels.

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::FloatDType;

use crate::adapters::linears;
use crate::config::ModelConfig;
use crate::decoder::{Decoder, indices};
use crate::input::{Fork, ModelInput, Tokens};
use crate::linear::Linear;

/// What a classification head judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewardTask {
    /// Whole documents, at their last token; a head without bias
    /// (`ForSequenceClassification`).
    Sequence,
    /// Single tokens; a head with a bias (`ForTokenClassification`).
    Token,
}

/// A decoder with a classification head.
#[derive(Module, Debug)]
pub struct RewardModel {
    /// Everything below the head.
    pub model: Decoder,
    /// The head, `[c, d]`.
    pub score: Linear,
    #[module(skip)]
    task: RewardTask,
}

linears!(RewardModel: model, score);

impl RewardModel {
    /// A model with random weights, [`num_labels`](ModelConfig::num_labels) of
    /// them in the head; see [`Decoder::new`].
    #[must_use]
    pub fn new(config: &ModelConfig, task: RewardTask, device: &Device) -> Self {
        let (d, c, std) = (
            config.hidden_size,
            config.num_labels,
            config.initializer_range,
        );
        Self {
            model: Decoder::new(config, device),
            score: Linear::new(d, c, task == RewardTask::Token, std, device),
            task,
        }
    }

    /// The same model, computing in this number format from now on. Weights stay
    /// `f32`, and so do the values of the head.
    #[must_use]
    pub fn computing_in(mut self, format: FloatDType) -> Self {
        self.model = self.model.computing_in(format);
        self
    }

    /// What the head judges.
    #[must_use]
    pub fn task(&self) -> RewardTask {
        self.task
    }

    /// The same model with noise on embeddings in training; see
    /// [`Decoder::with_embedding_noise`].
    #[must_use]
    pub fn with_embedding_noise(mut self, alpha: f64) -> Self {
        self.model = self.model.with_embedding_noise(alpha);
        self
    }

    /// The configuration that the model was built from.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// Device of the weights; on an autodiff device, operations are recorded.
    #[must_use]
    pub fn device(&self) -> Device {
        self.model.device()
    }

    /// Moves a batch to the device of the weights.
    #[must_use]
    pub fn input(&self, tokens: &Tokens<'_>) -> ModelInput {
        self.model.input(tokens)
    }

    /// Moves a batch with forks to the device of the weights.
    #[must_use]
    pub fn forked_input(&self, tokens: &Tokens<'_>, forks: &[Fork]) -> ModelInput {
        self.model.forked_input(tokens, forks)
    }

    /// Final hidden states, `[b, t, d]`.
    #[must_use]
    pub fn hidden(&self, input: &ModelInput) -> Tensor<3> {
        self.model.hidden(input)
    }

    /// Values of the tokens at `positions`, flat indices (`row · width + token`),
    /// `[n, c]`. For whole documents these are
    /// [`Tokens::document_ends`]. `positions` must not be empty.
    #[must_use]
    pub fn scores(&self, hidden_btd: Tensor<3>, positions: &[u32]) -> Tensor<2> {
        let [b, t, d] = hidden_btd.dims();
        let positions_n = indices(positions, &hidden_btd.device());
        let hidden_nd = hidden_btd.reshape([b * t, d]).select(0, positions_n);
        self.score.forward(hidden_nd.cast(FloatDType::F32))
    }
}
