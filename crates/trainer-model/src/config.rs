//! `config.json` of a Hugging Face folder, checked, as the decoder needs it.
//!
//! Invariants of a [`ModelConfig`]: no count is zero, the key-value heads
//! divide the query heads, the head dimension is even (rotary embeddings pair
//! its halves), and every size product fits in memory's address space.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{ModelError, Result};

/// The model types that [`ModelConfig::from_folder`] accepts.
pub const SUPPORTED: &[&str] = &["llama"];

/// Largest accepted value of any single size in `config.json`; a guard against
/// allocating by a number from a damaged file.
const MAX_SIZE: usize = 1 << 24;

/// Most accepted layers: each is an object of its own before any weight is read.
const MAX_LAYERS: usize = 1 << 12;

/// Shape and constants of a decoder model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
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
    /// Width of one head; even.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// The output projection is the input embedding.
    pub tie_word_embeddings: bool,
    /// The attention projections have biases.
    pub attention_bias: bool,
    /// The MLP projections have biases.
    pub mlp_bias: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// The file as read, with overrides: what is written back beside trained weights.
    pub raw: Map<String, Value>,
}

/// Rotary position embedding: base and scaling of the frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// Changes to the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a
    /// smooth passage between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context length the model was first trained on.
        original_max_position_embeddings: f64,
    },
}

impl ModelConfig {
    /// Reads `config.json` of a folder, with `overrides` merged over it.
    ///
    /// # Errors
    /// When the file is missing or is not JSON, names an unknown model type, or
    /// holds a value that cannot be used.
    pub fn from_folder(folder: &Path, overrides: Option<&Map<String, Value>>) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.is_file() {
            return Err(ModelError::MissingFile {
                folder: folder.to_path_buf(),
                name: "config.json".into(),
                hint: "base_model must be a folder in Hugging Face layout".into(),
            });
        }
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
        for (key, value) in overrides.into_iter().flatten() {
            raw.insert(key.clone(), value.clone());
        }
        Self::from_json(raw, path)
    }

    /// Checks a parsed `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_json(raw: Map<String, Value>, path: PathBuf) -> Result<Self> {
        let read = Reader {
            raw: &raw,
            path: &path,
        };
        let model_type = read.text("model_type")?.unwrap_or_default();
        if !SUPPORTED.contains(&model_type.as_str()) {
            return Err(ModelError::UnknownArchitecture {
                path: path.clone(),
                found: model_type,
                supported: SUPPORTED.join(", "),
            });
        }
        let act = read.text("hidden_act")?.unwrap_or_else(|| "silu".into());
        if act != "silu" {
            return Err(read.error(
                "hidden_act",
                format!("\"{act}\" is not supported, only \"silu\""),
            ));
        }
        let hidden_size = read.size("hidden_size")?;
        let heads = read.size("num_attention_heads")?;
        let kv_heads = read.optional_size("num_key_value_heads")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(read.error(
                "num_key_value_heads",
                format!("{kv_heads} does not divide num_attention_heads, {heads}"),
            ));
        }
        let head_dim = match read.optional_size("head_dim")? {
            Some(dim) => dim,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                return Err(read.error(
                    "num_attention_heads",
                    format!("{heads} does not divide hidden_size, {hidden_size}, and there is no head_dim"),
                ));
            }
        };
        if head_dim % 2 != 0 {
            return Err(read.error(
                "head_dim",
                format!("{head_dim} is odd; rotary embeddings pair two halves"),
            ));
        }
        let layers = read.size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(read.error(
                "num_hidden_layers",
                format!("expected at most {MAX_LAYERS}, found {layers}"),
            ));
        }
        let rms_norm_eps = read.number("rms_norm_eps")?.unwrap_or(1e-6);
        if !(rms_norm_eps > 0.0 && rms_norm_eps < 1.0) {
            return Err(read.error(
                "rms_norm_eps",
                format!("{rms_norm_eps} is not between 0 and 1"),
            ));
        }
        Ok(Self {
            vocab_size: read.size("vocab_size")?,
            hidden_size,
            intermediate_size: read.size("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps,
            rope: read.rope()?,
            tie_word_embeddings: read.flag("tie_word_embeddings")?,
            attention_bias: read.flag("attention_bias")?,
            mlp_bias: read.flag("mlp_bias")?,
            initializer_range: read.number("initializer_range")?.unwrap_or(0.02),
            raw,
        })
    }

    /// Parameters of the model, tied weights counted once.
    #[must_use]
    pub fn num_parameters(&self) -> usize {
        let (d, h, kv, hd) = (
            self.hidden_size,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
        );
        let mut attention = d * h * hd * 2 + d * kv * hd * 2;
        if self.attention_bias {
            attention += h * hd + 2 * kv * hd + d;
        }
        let mut mlp = 3 * d * self.intermediate_size;
        if self.mlp_bias {
            mlp += 2 * self.intermediate_size + d;
        }
        let head = if self.tie_word_embeddings {
            0
        } else {
            self.vocab_size * d
        };
        self.vocab_size * d + head + d + self.num_hidden_layers * (attention + mlp + 2 * d)
    }
}

/// Typed reads of a JSON object, with errors that name file and key.
struct Reader<'a> {
    raw: &'a Map<String, Value>,
    path: &'a Path,
}

impl Reader<'_> {
    fn error(&self, key: &str, message: String) -> ModelError {
        ModelError::Config {
            path: self.path.to_path_buf(),
            key: key.into(),
            message,
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|v| !v.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err(self.error(key, format!("expected a string, found {other}"))),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.error(key, format!("expected true or false, found {other}"))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => v
                .as_f64()
                .map(Some)
                .ok_or_else(|| self.error(key, format!("expected a number, found {v}"))),
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=MAX_SIZE).contains(&n) => Ok(Some(n)),
            _ => Err(self.error(
                key,
                format!("expected a whole number from 1 to {MAX_SIZE}, found {value}"),
            )),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?
            .ok_or_else(|| self.error(key, "is missing".into()))
    }

    /// Rope settings live in `rope_parameters` (transformers 5) or in
    /// `rope_theta` and `rope_scaling` (before).
    fn rope(&self) -> Result<RopeConfig> {
        let key = if self.get("rope_parameters").is_some() {
            "rope_parameters"
        } else {
            "rope_scaling"
        };
        let empty = Map::new();
        let inner = match self.get(key) {
            None => &empty,
            Some(Value::Object(map)) => map,
            Some(other) => {
                return Err(self.error(key, format!("expected an object, found {other}")));
            }
        };
        let nested = Reader {
            raw: inner,
            path: self.path,
        };
        let theta = match nested.number("rope_theta")? {
            Some(theta) => theta,
            None => self.number("rope_theta")?.unwrap_or(10_000.0),
        };
        if !(theta.is_finite() && theta > 1.0) {
            return Err(self.error("rope_theta", format!("{theta} is not above 1")));
        }
        let kind = match nested.text("rope_type")? {
            Some(kind) => Some(kind),
            None => nested.text("type")?,
        };
        let scaling = match kind.as_deref() {
            None | Some("default") => RopeScaling::Default,
            Some("llama3") => {
                let need = |name: &str| match nested.number(name)? {
                    Some(x) if x.is_finite() && x > 0.0 => Ok(x),
                    Some(x) => {
                        Err(self.error(&format!("{key}.{name}"), format!("{x} is not positive")))
                    }
                    None => Err(self.error(&format!("{key}.{name}"), "is missing".into())),
                };
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if high <= low {
                    return Err(self.error(
                        &format!("{key}.high_freq_factor"),
                        format!("{high} is not above low_freq_factor, {low}"),
                    ));
                }
                RopeScaling::Llama3 {
                    factor: need("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: need("original_max_position_embeddings")?,
                }
            }
            Some(other) => {
                return Err(self.error(
                    &format!("{key}.rope_type"),
                    format!("\"{other}\" is not supported; supported: default, llama3"),
                ));
            }
        };
        Ok(RopeConfig { theta, scaling })
    }
}
