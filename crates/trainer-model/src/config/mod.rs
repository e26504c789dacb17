//! `config.json` of a Hugging Face folder, checked, as the parts of a decoder.
//!
//! [`ModelConfig`] does not name a family: it says which parts there are and of
//! which size. What the keys of Llama's file mean is read here; a file in
//! [`crate::families`] changes what differs in its family.
//!
//! Invariants of a [`ModelConfig`]: no count is zero, the key-value heads
//! divide the query heads, the rotated part of a head is even (rotary embeddings
//! pair its halves), there is one [`LayerConfig`] a layer, and the numbers of all
//! weights can be counted without overflow.

mod known;
mod positions;
mod reader;
mod rope;

use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::families::{self, Family};
use crate::files::{check_folder, read_generation_config};
use crate::quantized::Quantization;

pub(crate) use known::is_empty;
pub(crate) use reader::Reader;
pub use rope::{RopeConfig, RopeScaling};

/// Largest accepted value of any single size in `config.json`; a guard against
/// allocating by a number from a damaged file.
const MAX_SIZE: usize = 1 << 24;

/// Most accepted layers: each is an object of its own before any weight is read.
const MAX_LAYERS: usize = 1 << 12;

/// Most accepted experts of all layers together, for the same reason.
const MAX_EXPERTS: usize = 1 << 16;

/// Most accepted numbers of a model: their bytes, and those of all that training keeps
/// beside them, can be added up.
const MAX_NUMBERS: u128 = 1 << 44;

/// Shape and constants of a decoder model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `model_type` of the file.
    pub model_type: String,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Norms of the residual stream.
    pub norm: NormConfig,
    /// The attention block.
    pub attention: AttentionConfig,
    /// The MLP, or one expert of a mixture.
    pub mlp: MlpConfig,
    /// Mixture of experts, in the layers that say so.
    pub experts: Option<ExpertsConfig>,
    /// Positions that the model is made for.
    pub max_positions: usize,
    /// Rotary position embeddings that layers choose from.
    pub ropes: Vec<RopeConfig>,
    /// What differs from layer to layer; one entry a layer.
    pub layers: Vec<LayerConfig>,
    /// Constant factors in the stream.
    pub multipliers: Multipliers,
    /// Logits become `cap · tanh(logits / cap)`.
    pub final_softcap: Option<f64>,
    /// The output projection is the input embedding.
    pub tie_word_embeddings: bool,
    /// Outputs of a classification head.
    pub num_labels: usize,
    /// Number format of the hidden states; weights are `f32`. Not from the file.
    pub compute: FloatDType,
    /// Strength of the noise on embeddings in training (NEFTune's α); 0 is none. Not
    /// from the file.
    pub embedding_noise: f64,
    /// How linear maps of the layers are kept when they are loaded from files: frozen,
    /// in few bits. `None`: in `f32`.
    pub quantization: Option<Quantization>,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// The file as read, with overrides: what is written back beside trained weights.
    pub raw: Map<String, Value>,
    /// `generation_config.json` as read, written back too; empty where there is none.
    pub generation: Map<String, Value>,
}

/// RMSNorms of the residual stream and of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormConfig {
    /// Added to the mean square.
    pub eps: f64,
    /// Where they stand in a layer.
    pub placement: NormPlacement,
    /// Weights are stored as the difference from one.
    pub zero_centred: bool,
}

/// Where a layer's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// `x + block(norm(x))`.
    Before,
    /// `x + norm(block(x))`.
    After,
    /// `x + norm(block(norm(x)))`.
    Both,
}

/// The attention block.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// The projections of queries, keys and values have biases.
    pub input_bias: bool,
    /// The output projection has a bias.
    pub output_bias: bool,
    /// Queries, keys and values come of one projection.
    pub fused: bool,
    /// RMSNorm of queries and keys before they are rotated.
    pub qk_norm: QkNorm,
    /// Factor of the scores.
    pub scale: f64,
    /// Scores become `cap · tanh(scores / cap)`.
    pub softcap: Option<f64>,
}

/// RMSNorm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head.
    Head,
    /// Over all heads together.
    Projection,
}

/// A gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlpConfig {
    /// Activation of the gate.
    pub activation: Activation,
    /// The projections have biases.
    pub bias: bool,
    /// Projections and their names.
    pub layout: MlpLayout,
}

/// Activation of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in the approximation by `tanh`.
    GeluTanh,
}

/// How the projections of an MLP are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpLayout {
    /// `gate_proj`, `up_proj`, `down_proj`.
    Split,
    /// `gate_up_proj`, `down_proj`.
    Fused,
    /// `w1`, `w3`, `w2`.
    Numbered,
}

/// A mixture of experts in place of an MLP.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsConfig {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that each token is sent to.
    pub per_token: usize,
    /// Width inside one expert.
    pub intermediate_size: usize,
    /// The weights of a token's experts are made to sum to one.
    pub normalized: bool,
    /// The block is named `block_sparse_moe`, not `mlp`.
    pub sparse_name: bool,
    /// Coefficient of the load-balancing loss; `None` where there is none.
    pub balance: Option<f64>,
}

/// What may differ from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Index into [`ModelConfig::ropes`]; `None` for a layer without positions.
    pub rope: Option<usize>,
    /// Tokens that a token sees, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// The MLP is a mixture of experts.
    pub experts: bool,
}

/// Constant factors, one where a family has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multipliers {
    /// Of the embedded tokens.
    pub embedding: f64,
    /// Of what a block adds to the stream.
    pub residual: f64,
    /// Of the final hidden states before the output projection.
    pub logits: f64,
}

impl ModelConfig {
    /// Reads `config.json` of a folder, with `overrides` merged over it.
    ///
    /// # Errors
    /// When the file is missing or is not JSON, names an unknown model type, or
    /// holds a value that cannot be used; when an override is of no setting that is known.
    pub fn from_folder(folder: &Path, overrides: Option<&Map<String, Value>>) -> Result<Self> {
        check_folder(folder)?;
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(ModelError::io(&path))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| ModelError::Json {
            path: path.clone(),
            message: e.to_string(),
        })?;
        let Value::Object(mut raw) = value else {
            return Err(ModelError::Json {
                path,
                message: "expected a JSON object".into(),
            });
        };
        if let Some(overrides) = overrides
            && let Some(key) = known::unknown(overrides).into_iter().next()
        {
            return Err(ModelError::Config {
                path,
                key,
                message: "is a setting that nothing reads, so that it cannot be overridden".into(),
            });
        }
        for (key, value) in overrides.into_iter().flatten() {
            raw.insert(key.clone(), value.clone());
        }
        let mut config = Self::from_json(raw, path)?;
        config.generation = read_generation_config(folder)?;
        Ok(config)
    }

    /// Checks a parsed `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_json(raw: Map<String, Value>, path: PathBuf) -> Result<Self> {
        let read = Reader::new(&raw, &path);
        let model_type = read.text("model_type")?.unwrap_or_default();
        let Some(family) = families::find(&model_type) else {
            return Err(ModelError::UnknownArchitecture {
                path: path.clone(),
                found: model_type,
                supported: families::supported().join(", "),
            });
        };
        for key in ["attention_dropout", "resid_pdrop", "embd_pdrop"] {
            if let Some(rate) = read.number(key)?
                && rate != 0.0
            {
                let message =
                    format!("{rate}: dropout inside the model is not supported; set it to 0");
                return Err(read.error(key, message));
            }
        }
        let mut config = Self::as_llama(&read, family)?;
        (family.configure)(&read, &mut config)?;
        config.check(&read)?;
        config.raw = raw;
        Ok(config)
    }

    /// Settings of the file that ask for something and that nothing reads: what they ask
    /// for is not done. The class of transformers for this type of model does not know them
    /// either, but code that comes with a model may.
    #[must_use]
    pub fn unknown_settings(&self) -> Vec<String> {
        known::unknown(&self.raw)
    }

    /// What the keys mean for Llama, with the defaults of `family`.
    fn as_llama(read: &Reader<'_>, family: &Family) -> Result<Self> {
        let defaults = &family.defaults;
        let hidden_size = read.size("hidden_size")?;
        let heads = read.size("num_attention_heads")?;
        let head_dim = match read.optional_size("head_dim")?.or(defaults.head_dim) {
            Some(dim) => dim,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                let message = format!(
                    "{heads} does not divide hidden_size, {hidden_size}, and there is no head_dim"
                );
                return Err(read.error("num_attention_heads", message));
            }
        };
        let layers = read.size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(read.error(
                "num_hidden_layers",
                format!("expected at most {MAX_LAYERS}, found {layers}"),
            ));
        }
        let bias = read.flag("attention_bias")?.unwrap_or(false);
        Ok(Self {
            model_type: family.name.into(),
            vocab_size: read.size("vocab_size")?,
            hidden_size,
            intermediate_size: read.size("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: read.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            norm: NormConfig {
                eps: read
                    .number("rms_norm_eps")?
                    .unwrap_or(defaults.rms_norm_eps),
                placement: NormPlacement::Before,
                zero_centred: false,
            },
            attention: AttentionConfig {
                input_bias: bias,
                output_bias: bias,
                fused: false,
                qk_norm: QkNorm::None,
                scale: (head_dim as f64).sqrt().recip(),
                softcap: None,
            },
            mlp: MlpConfig {
                activation: read.activation("hidden_act", Activation::Silu)?,
                bias: read.flag("mlp_bias")?.unwrap_or(false),
                layout: MlpLayout::Split,
            },
            experts: None,
            max_positions: positions::read(read, defaults.max_positions)?,
            ropes: vec![RopeConfig::read(read, head_dim, defaults.rope_theta)?],
            layers: vec![
                LayerConfig {
                    rope: Some(0),
                    window: None,
                    experts: false,
                };
                layers
            ],
            multipliers: Multipliers {
                embedding: 1.0,
                residual: 1.0,
                logits: 1.0,
            },
            final_softcap: None,
            tie_word_embeddings: read.flag("tie_word_embeddings")?.unwrap_or(defaults.tied),
            num_labels: read.num_labels()?,
            compute: FloatDType::F32,
            embedding_noise: 0.0,
            quantization: None,
            initializer_range: read.number("initializer_range")?.unwrap_or(0.02),
            raw: Map::new(),
            generation: Map::new(),
        })
    }

    fn check(&self, read: &Reader<'_>) -> Result<()> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if heads % kv_heads != 0 {
            return Err(read.error(
                "num_key_value_heads",
                format!("{kv_heads} does not divide num_attention_heads, {heads}"),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(read.error(
                "head_dim",
                format!(
                    "{} is odd; rotary embeddings pair two halves",
                    self.head_dim
                ),
            ));
        }
        let eps = self.norm.eps;
        if !(eps > 0.0 && eps < 1.0) {
            return Err(read.error("rms_norm_eps", format!("{eps} is not between 0 and 1")));
        }
        if !(self.initializer_range >= 0.0 && self.initializer_range.is_finite()) {
            let message = format!("{} is not a standard deviation", self.initializer_range);
            return Err(read.error("initializer_range", message));
        }
        if let Some(experts) = &self.experts {
            let (count, per_token) = (experts.count, experts.per_token);
            if per_token > count {
                return Err(read.error(
                    "num_experts_per_tok",
                    format!("{per_token} is more than the {count} experts of a layer"),
                ));
            }
            if count * self.layers.len() > MAX_EXPERTS {
                return Err(read.error(
                    "num_local_experts",
                    format!("expected at most {MAX_EXPERTS} in all layers, found {count} a layer"),
                ));
            }
        }
        let numbers = self.most_numbers();
        if numbers > MAX_NUMBERS {
            let message = format!(
                "with the other sizes of this file, {} makes a model of up to {numbers} numbers, \
                 more than {MAX_NUMBERS}; is one of them damaged?",
                self.hidden_size
            );
            return Err(read.error("hidden_size", message));
        }
        Ok(())
    }

    /// No fewer numbers than all weights have: every vector of the stream's width, and
    /// some more for biases and norms.
    fn most_numbers(&self) -> u128 {
        let wide = |sizes: &[usize]| sizes.iter().map(|&size| size as u128).product::<u128>();
        let attention = 2 * wide(&[self.num_attention_heads, self.head_dim])
            + 2 * wide(&[self.num_key_value_heads, self.head_dim]);
        let experts = self.experts.as_ref();
        let experts = experts.map_or(0, |e| wide(&[e.count, 3 * e.intermediate_size + 1]));
        let mlp = 3 * wide(&[self.intermediate_size]);
        let layer = attention + mlp + experts;
        let outer = 2 * wide(&[self.vocab_size]) + wide(&[self.num_labels]);
        // Two more of the stream's width for what is no matrix.
        (wide(&[self.num_hidden_layers]) * layer + outer) * (wide(&[self.hidden_size]) + 2)
    }

    /// From now on the output head is not the embedding, here and where the configuration
    /// is saved.
    pub(crate) fn untie(&mut self) {
        self.tie_word_embeddings = false;
        let key = "tie_word_embeddings".to_owned();
        self.raw.insert(key, Value::Bool(false));
    }

    /// Gives every layer whose entry of `kinds` is true a sliding window.
    pub(crate) fn slide(&mut self, window: usize, kinds: impl IntoIterator<Item = bool>) {
        for (layer, slides) in self.layers.iter_mut().zip(kinds) {
            layer.window = slides.then_some(window);
        }
    }
}
