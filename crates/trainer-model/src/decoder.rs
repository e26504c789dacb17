//! The decoder: embedding, layers of attention and MLP around a residual
//! stream, final norm, output head. Field names are the tensor names of
//! Hugging Face's files.
//!
//! Reference: `LlamaForCausalLM` of transformers; arXiv 2302.13971. The parts
//! that differ between families are chosen by [`ModelConfig`]; see
//! [`crate::families`].
//!
//! Shape suffixes: `b` rows, `t` tokens, `d` model width, `n` selected tokens,
//! `v` vocabulary.

use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use burn::tensor::{FloatDType, TensorData};

use crate::adapters::{DropoutScope, linears};
use crate::attention::Attention;
use crate::config::{LayerConfig, ModelConfig, NormPlacement};
use crate::feed_forward::{Balance, FeedForward, SparseMoe};
use crate::generate::KvCache;
use crate::input::{Fork, ModelInput, Tokens};
use crate::linear::{Embedding, Linear};
use crate::noise::with_noise;
use crate::norm::RmsNorm;
use crate::ops::{linear, linear_cross_entropy, plain, token_scores};
use crate::scores::TokenScores;
use crate::weight::Weight;

/// One layer: attention and MLP, each added to the stream, with norms before,
/// behind or on both sides of them. Of `mlp` and `block_sparse_moe` there is one.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Attention.
    pub self_attn: Attention,
    /// MLP or experts.
    pub mlp: Option<FeedForward>,
    /// Experts under Mixtral's name.
    pub block_sparse_moe: Option<SparseMoe>,
    /// Norm before the attention.
    pub input_layernorm: Option<RmsNorm>,
    /// Norm behind the attention where norms stand behind a block, else before
    /// the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// Norm before the MLP, where the one above stands behind the attention.
    pub pre_feedforward_layernorm: Option<RmsNorm>,
    /// Norm behind the MLP.
    pub post_feedforward_layernorm: Option<RmsNorm>,
    #[module(skip)]
    placement: NormPlacement,
    #[module(skip)]
    residual: f64,
}

linears!(DecoderLayer: self_attn, mlp, block_sparse_moe);

impl DecoderLayer {
    fn new(config: &ModelConfig, layer: &LayerConfig, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, &config.norm, device);
        let placement = config.norm.placement;
        let (before, behind) = (
            placement != NormPlacement::After,
            placement != NormPlacement::Before,
        );
        let experts = config.experts.as_ref().filter(|_| layer.experts);
        let sparse = || experts.map(|experts| SparseMoe::new(config, experts, device));
        let sparse_name = experts.is_some_and(|experts| experts.sparse_name);
        Self {
            self_attn: Attention::new(config, layer, device),
            mlp: match sparse() {
                _ if sparse_name => None,
                Some(experts) => Some(FeedForward::Experts(experts)),
                None => Some(FeedForward::mlp(config, config.intermediate_size, device)),
            },
            block_sparse_moe: sparse().filter(|_| sparse_name),
            input_layernorm: before.then(norm),
            post_attention_layernorm: norm(),
            pre_feedforward_layernorm: (before && behind).then(norm),
            post_feedforward_layernorm: behind.then(norm),
            placement,
            residual: config.multipliers.residual,
        }
    }

    pub(crate) fn forward(
        &self,
        x_btd: Tensor<3>,
        input: &ModelInput,
        cache: Option<&mut KvCache>,
        balance: Option<&mut Balance>,
    ) -> Tensor<3> {
        let _dropout = DropoutScope::new(input.dropout_seed);
        let normed = normalized(self.input_layernorm.as_ref(), x_btd.clone());
        let mut change = self.self_attn.forward(normed, input, cache);
        let before_mlp = match self.placement {
            NormPlacement::Before => Some(&self.post_attention_layernorm),
            NormPlacement::After | NormPlacement::Both => {
                change = self.post_attention_layernorm.forward(change);
                self.pre_feedforward_layernorm.as_ref()
            }
        };
        let x_btd = self.add(x_btd, change);
        let normed = normalized(before_mlp, x_btd.clone());
        let change = self.feed_forward(normed, &input.real, balance);
        let change = normalized(self.post_feedforward_layernorm.as_ref(), change);
        self.add(x_btd, change)
    }

    fn add(&self, x_btd: Tensor<3>, change: Tensor<3>) -> Tensor<3> {
        x_btd + scaled(change, self.residual)
    }

    fn feed_forward(
        &self,
        x_btd: Tensor<3>,
        real: &[bool],
        balance: Option<&mut Balance>,
    ) -> Tensor<3> {
        let dims = x_btd.dims();
        let [b, t, d] = dims;
        let x_nd = x_btd.reshape([b * t, d]);
        let y_nd = match (&self.mlp, &self.block_sparse_moe) {
            (Some(mlp), _) => mlp.forward(x_nd, real, balance),
            (None, Some(experts)) => experts.forward(x_nd, real, balance),
            (None, None) => x_nd.zeros_like(),
        };
        y_nd.reshape(dims)
    }
}

fn normalized(norm: Option<&RmsNorm>, x_btd: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x_btd),
        None => x_btd,
    }
}

fn scaled<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    if factor == 1.0 { x } else { x * factor }
}

/// Embedding, layers and final norm: a model below its head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding.
    pub embed_tokens: Embedding,
    /// The layers.
    pub layers: Vec<DecoderLayer>,
    /// Final norm.
    pub norm: RmsNorm,
    #[module(skip)]
    config: ModelConfig,
}

linears!(Decoder: layers);

impl Decoder {
    /// Random weights: N(0, `initializer_range`²), norms that change nothing,
    /// biases zero. Seed the device first.
    #[must_use]
    pub fn new(config: &ModelConfig, device: &Device) -> Self {
        let (d, std) = (config.hidden_size, config.initializer_range);
        let layers = config.layers.iter();
        Self {
            embed_tokens: Embedding::new(config.vocab_size, d, std, device),
            layers: layers
                .map(|layer| DecoderLayer::new(config, layer, device))
                .collect(),
            norm: RmsNorm::new(d, &config.norm, device),
            config: config.clone(),
        }
    }

    /// The same decoder, computing in this number format from now on. Weights stay
    /// `f32`.
    #[must_use]
    pub fn computing_in(mut self, format: FloatDType) -> Self {
        self.config.compute = format;
        self
    }

    /// The same decoder, with noise of this strength on its embeddings in training
    /// (NEFTune's α, arXiv 2310.05914); 0 turns it off.
    #[must_use]
    pub fn with_embedding_noise(mut self, alpha: f64) -> Self {
        self.config.embedding_noise = alpha;
        self
    }

    /// The configuration that the model was built from.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Raises the number of positions that the model is made for, as
    /// [`ModelConfig::raise_position_limit`] does.
    pub fn raise_position_limit(&mut self, positions: usize) -> bool {
        self.config.raise_position_limit(positions)
    }

    pub(crate) fn config_mut(&mut self) -> &mut ModelConfig {
        &mut self.config
    }

    /// Device of the weights; on an autodiff device, operations are recorded.
    #[must_use]
    pub fn device(&self) -> Device {
        self.norm.weight.val().device()
    }

    /// Moves a batch to the device of the weights.
    #[must_use]
    pub fn input(&self, tokens: &Tokens<'_>) -> ModelInput {
        ModelInput::new(tokens, &self.config, &self.device())
    }

    /// Moves a batch with forks to the device of the weights.
    #[must_use]
    pub fn forked_input(&self, tokens: &Tokens<'_>, forks: &[Fork]) -> ModelInput {
        ModelInput::forked(tokens, forks, &self.config, &self.device())
    }

    /// Final hidden states, `[b, t, d]`.
    #[must_use]
    pub fn hidden(&self, input: &ModelInput) -> Tensor<3> {
        self.layers_of(self.embed(input), input, None, None)
    }

    /// As [`hidden`](Self::hidden), from the [vectors](Self::vectors) of the tokens, with
    /// the load-balancing loss of the experts, `[1]`, times its coefficient, where the
    /// configuration asks for one.
    pub(crate) fn hidden_of_vectors(
        &self,
        vectors_btd: Tensor<3>,
        input: &ModelInput,
    ) -> (Tensor<3>, Option<Tensor<1>>) {
        let x_btd = self.first_input(vectors_btd, input);
        let Some(coefficient) = self.balance_coefficient() else {
            return (self.layers_of(x_btd, input, None, None), None);
        };
        let mut balance = Balance::default();
        let hidden_btd = self.layers_of(x_btd, input, None, Some(&mut balance));
        (hidden_btd, balance.loss().map(|loss| loss * coefficient))
    }

    /// Factor of the load-balancing loss; `None` without one.
    pub(crate) fn balance_coefficient(&self) -> Option<f64> {
        self.config.experts.as_ref()?.balance
    }

    /// As [`hidden`](Self::hidden), continuing after the cached tokens.
    pub(crate) fn hidden_cached(&self, input: &ModelInput, caches: &mut [KvCache]) -> Tensor<3> {
        self.layers_of(self.embed(input), input, Some(caches), None)
    }

    /// The embedding's vectors of the tokens, `[b, t, d]`.
    pub(crate) fn vectors(&self, input: &ModelInput) -> Tensor<3> {
        self.embed_tokens.forward(input.ids_bt.clone())
    }

    /// What the first layer takes, `[b, t, d]`.
    pub(crate) fn embed(&self, input: &ModelInput) -> Tensor<3> {
        self.first_input(self.vectors(input), input)
    }

    /// What the first layer takes, of the [vectors](Self::vectors) of the tokens.
    pub(crate) fn first_input(&self, vectors_btd: Tensor<3>, input: &ModelInput) -> Tensor<3> {
        let x_btd = scaled(vectors_btd, self.config.multipliers.embedding);
        let x_btd = match (self.config.embedding_noise, input.dropout_seed) {
            (alpha, Some(seed)) if alpha > 0.0 => with_noise(x_btd, alpha, seed, &input.lengths),
            _ => x_btd,
        };
        x_btd.cast(self.config.compute)
    }

    fn layers_of(
        &self,
        mut x_btd: Tensor<3>,
        input: &ModelInput,
        mut caches: Option<&mut [KvCache]>,
        mut balance: Option<&mut Balance>,
    ) -> Tensor<3> {
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = caches.as_mut().map(|caches| &mut caches[index]);
            x_btd = layer.forward(x_btd, input, cache, balance.as_deref_mut());
        }
        self.norm.forward(x_btd)
    }
}

/// A causal language model.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// Everything below the output head.
    pub model: Decoder,
    /// The output head; `None` when it is the embedding.
    pub lm_head: Option<Linear>,
}

linears!(CausalLm: model, lm_head);

/// Which tokens a loss is taken over, and what each should predict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Flat index (`row · width + token`) of each predicting token.
    pub positions: Vec<u32>,
    /// The token id that follows it.
    pub ids: Vec<u32>,
}

impl Targets {
    /// Targets of `labels` (row-major, `width` a row, not shifted): the token
    /// before a label other than negative predicts it. A label at the start of
    /// a row has no token before it and is no target.
    #[must_use]
    pub fn from_labels(labels: &[i32], width: usize) -> Self {
        let mut targets = Self::default();
        for (index, &label) in labels.iter().enumerate() {
            if let Ok(id) = u32::try_from(label)
                && index % width != 0
            {
                targets.positions.push(index as u32 - 1);
                targets.ids.push(id);
            }
        }
        targets
    }

    /// Number of targets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no target.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl CausalLm {
    /// A model with random weights; see [`Decoder::new`].
    #[must_use]
    pub fn new(config: &ModelConfig, device: &Device) -> Self {
        let (d, v, std) = (
            config.hidden_size,
            config.vocab_size,
            config.initializer_range,
        );
        let head = !config.tie_word_embeddings;
        Self {
            model: Decoder::new(config, device),
            lm_head: head.then(|| Linear::new(d, v, false, std, device)),
        }
    }

    /// The same model, computing in this number format from now on. Weights stay
    /// `f32`, and so do logits and losses.
    #[must_use]
    pub fn computing_in(mut self, format: FloatDType) -> Self {
        self.model = self.model.computing_in(format);
        self
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

    /// Final hidden states as the output head takes them, `[b, t, d]`.
    #[must_use]
    pub fn hidden(&self, input: &ModelInput) -> Tensor<3> {
        self.for_head(self.model.hidden(input))
    }

    /// As [`hidden`](Self::hidden), continuing after the cached tokens.
    pub(crate) fn hidden_cached(&self, input: &ModelInput, caches: &mut [KvCache]) -> Tensor<3> {
        self.for_head(self.model.hidden_cached(input, caches))
    }

    /// A factor of the logits is one of the hidden states before them, which are
    /// fewer numbers.
    pub(crate) fn for_head(&self, hidden_btd: Tensor<3>) -> Tensor<3> {
        scaled(hidden_btd, self.config().multipliers.logits)
    }

    /// Scores of every vocabulary entry, `[b, t, v]`.
    #[must_use]
    pub fn logits(&self, hidden_btd: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = hidden_btd.dims();
        self.logits_of(hidden_btd.reshape([b * t, d]))
            .reshape([b, t, self.config().vocab_size])
    }

    fn logits_of(&self, hidden_nd: Tensor<2>) -> Tensor<2> {
        let logits_nv = linear(hidden_nd, self.head_vd()).cast(FloatDType::F32);
        match self.config().final_softcap {
            Some(cap) => (logits_nv / cap).tanh() * cap,
            None => logits_nv,
        }
    }

    /// Sum of the cross entropies of `targets`, `[1]`. Logits are computed for
    /// the predicting tokens alone, a chunk at a time (at once where the model
    /// caps them). `targets` must not be empty.
    #[must_use]
    pub fn loss_sum(&self, hidden_btd: Tensor<3>, targets: &Targets) -> Tensor<1> {
        let (hidden_nd, ids_n) = selected(hidden_btd, targets);
        if self.config().final_softcap.is_none() {
            return linear_cross_entropy(hidden_nd, self.head_vd(), ids_n);
        }
        let log_probs_nv = log_softmax(self.logits_of(hidden_nd), 1);
        log_probs_nv.gather(1, ids_n.unsqueeze_dim(1)).sum().neg()
    }

    /// What the model says of each target. Logits are computed for the predicting
    /// tokens alone, a chunk at a time (at once where the model caps them).
    /// `targets` must not be empty.
    #[must_use]
    pub fn token_scores(&self, hidden_btd: Tensor<3>, targets: &Targets) -> TokenScores {
        let (hidden_nd, ids_n) = selected(hidden_btd, targets);
        TokenScores::new(if self.config().final_softcap.is_none() {
            token_scores(hidden_nd, self.head_vd(), ids_n)
        } else {
            plain::token_scores(self.logits_of(hidden_nd), ids_n)
        })
    }

    /// The same model with an output head of its own, which begins as the embedding,
    /// where the two were one. [`Pretrained`](crate::Pretrained) saves it as such.
    #[must_use]
    pub fn untied(mut self) -> Self {
        if self.lm_head.is_some() {
            return self;
        }
        self.model.config_mut().untie();
        let embedding = &self.model.embed_tokens.weight;
        let (value, trainable) = (embedding.val(), embedding.is_require_grad());
        let device = value.device();
        let [v, d] = value.dims();
        let plain = match value.is_autodiff() {
            true => value.inner(),
            false => value,
        };
        let copy = Tensor::from_data(plain.into_data(), &device);
        // Nothing is drawn: the weight is replaced before its first use.
        let mut head = Linear::new(d, v, false, 0.0, &device);
        head.weight = Weight::Full(Param::from_tensor(copy).set_require_grad(trainable));
        self.lm_head = Some(head);
        self
    }

    /// The output projection, `[v, d]`.
    fn head_vd(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }
}

/// Hidden states of the predicting tokens, `[n, d]`, and the ids they predict.
fn selected(hidden_btd: Tensor<3>, targets: &Targets) -> (Tensor<2>, Tensor<1, Int>) {
    let [b, t, d] = hidden_btd.dims();
    let device = hidden_btd.device();
    let hidden_nd = hidden_btd.reshape([b * t, d]);
    let hidden_nd = hidden_nd.select(0, indices(&targets.positions, &device));
    (hidden_nd, indices(&targets.ids, &device))
}

pub(crate) fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&v| i64::from(v)).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}
