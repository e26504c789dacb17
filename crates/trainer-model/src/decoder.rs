//! The decoder: embedding, layers of attention and MLP around a residual
//! stream, final norm, output head. Field names are the tensor names of
//! Hugging Face's files.
//!
//! Reference: `LlamaForCausalLM` of transformers; arXiv 2302.13971. The parts
//! that differ between families (biases, tied head, rotary scaling) are chosen
//! by [`ModelConfig`].
//!
//! Shape suffixes: `b` rows, `t` tokens, `d` model width, `n` selected tokens,
//! `v` vocabulary.

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;

use crate::attention::{Attention, KvCache};
use crate::config::ModelConfig;
use crate::input::{ModelInput, Tokens};
use crate::linear::{Embedding, Linear, RmsNorm};
use crate::ops::{linear_cross_entropy, swiglu};
use crate::rotary::inverse_frequencies;

/// Gated MLP: `down(silu(gate(x)) · up(x))` (arXiv 2002.05202).
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate.
    pub gate_proj: Linear,
    /// Up.
    pub up_proj: Linear,
    /// Down.
    pub down_proj: Linear,
}

impl Mlp {
    fn forward(&self, x_btd: Tensor<3>) -> Tensor<3> {
        let gate = self.gate_proj.forward(x_btd.clone());
        self.down_proj
            .forward(swiglu(gate, self.up_proj.forward(x_btd)))
    }
}

/// One layer, norms before the blocks.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Attention.
    pub self_attn: Attention,
    /// MLP.
    pub mlp: Mlp,
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn forward(
        &self,
        x_btd: Tensor<3>,
        input: &ModelInput,
        cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x_btd.clone());
        let x_btd = x_btd + self.self_attn.forward(normed, input, cache);
        let normed = self.post_attention_layernorm.forward(x_btd.clone());
        x_btd + self.mlp.forward(normed)
    }
}

/// Embedding, layers and final norm.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding.
    pub embed_tokens: Embedding,
    /// The layers.
    pub layers: Vec<DecoderLayer>,
    /// Final norm.
    pub norm: RmsNorm,
}

/// A causal language model.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// Everything below the output head.
    pub model: Decoder,
    /// The output head; `None` when it is the embedding.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    frequencies: Vec<f32>,
    #[module(skip)]
    config: ModelConfig,
}

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
    /// A model with random weights: N(0, `initializer_range`²), norms one,
    /// biases zero. Seed the device first.
    #[must_use]
    pub fn new(config: &ModelConfig, device: &Device) -> Self {
        let (d, inner, std) = (
            config.hidden_size,
            config.intermediate_size,
            config.initializer_range,
        );
        let norm = || RmsNorm::new(d, config.rms_norm_eps, device);
        let layer = || DecoderLayer {
            self_attn: Attention::new(config, device),
            mlp: Mlp {
                gate_proj: Linear::new(d, inner, config.mlp_bias, std, device),
                up_proj: Linear::new(d, inner, config.mlp_bias, std, device),
                down_proj: Linear::new(inner, d, config.mlp_bias, std, device),
            },
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
        };
        Self {
            model: Decoder {
                embed_tokens: Embedding::new(config.vocab_size, d, std, device),
                layers: (0..config.num_hidden_layers).map(|_| layer()).collect(),
                norm: norm(),
            },
            lm_head: (!config.tie_word_embeddings)
                .then(|| Linear::new(d, config.vocab_size, false, std, device)),
            frequencies: inverse_frequencies(&config.rope, config.head_dim),
            config: config.clone(),
        }
    }

    /// The configuration that the model was built from.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Device of the weights; on an autodiff device, operations are recorded.
    #[must_use]
    pub fn device(&self) -> Device {
        self.model.norm.weight.val().device()
    }

    /// Moves a batch to the device of the weights.
    #[must_use]
    pub fn input(&self, tokens: &Tokens<'_>) -> ModelInput {
        ModelInput::new(tokens, &self.frequencies, &self.device())
    }

    /// Final hidden states, `[b, t, d]`.
    #[must_use]
    pub fn hidden(&self, input: &ModelInput) -> Tensor<3> {
        let mut x_btd = self.model.embed_tokens.forward(input.ids_bt.clone());
        for layer in &self.model.layers {
            x_btd = layer.forward(x_btd, input, None);
        }
        self.model.norm.forward(x_btd)
    }

    /// As [`hidden`](Self::hidden), continuing after the cached tokens.
    pub(crate) fn hidden_cached(&self, input: &ModelInput, caches: &mut [KvCache]) -> Tensor<3> {
        let mut x_btd = self.model.embed_tokens.forward(input.ids_bt.clone());
        for (layer, cache) in self.model.layers.iter().zip(caches) {
            x_btd = layer.forward(x_btd, input, Some(cache));
        }
        self.model.norm.forward(x_btd)
    }

    pub(crate) fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// Scores of every vocabulary entry, `[b, t, v]`.
    #[must_use]
    pub fn logits(&self, hidden_btd: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = hidden_btd.dims();
        let logits = hidden_btd
            .reshape([b * t, d])
            .matmul(self.head_vd().transpose());
        logits.reshape([b, t, self.config.vocab_size])
    }

    /// Sum of the cross entropies of `targets`, `[1]`. Logits are computed for
    /// the predicting tokens alone, a chunk at a time. `targets` must not be
    /// empty.
    #[must_use]
    pub fn loss_sum(&self, hidden_btd: Tensor<3>, targets: &Targets) -> Tensor<1> {
        let [b, t, d] = hidden_btd.dims();
        let device = hidden_btd.device();
        let hidden_nd = hidden_btd.reshape([b * t, d]);
        let hidden_nd = hidden_nd.select(0, indices(&targets.positions, &device));
        linear_cross_entropy(hidden_nd, self.head_vd(), indices(&targets.ids, &device))
    }

    /// The output projection, `[v, d]`.
    fn head_vd(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }
}

fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&v| i64::from(v)).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}
