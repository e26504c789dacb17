//! From a GGUF file to a folder in Hugging Face's layout.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use super::GgufValue;
use super::export::slowing;
use super::families::{FAMILIES, Family, Heads, ROPE_FREQS, reorder, turned_heads};
use super::read::Reader;
use crate::config::ModelConfig;
use crate::decoder::CausalLm;
use crate::error::Result;
use crate::files::layout::GENERATION;
use crate::files::save::{SaveOptions, WeightsWriter, write_json};
use crate::finite::not_finite;
use crate::parameters::parameters;

/// An open GGUF file of a model that this crate knows.
pub struct GgufImport {
    reader: Reader,
    family: &'static Family,
    config: ModelConfig,
}

/// Opens a GGUF file. Only its metadata is read.
///
/// # Errors
/// A damaged file, or a model of a family that is not imported.
pub fn open_gguf(path: &Path) -> Result<GgufImport> {
    let reader = Reader::open(path)?;
    let architecture = reader.metadata.get("general.architecture");
    let architecture = architecture.and_then(GgufValue::text).unwrap_or_default();
    let family = FAMILIES
        .iter()
        .find(|family| family.architecture == architecture)
        .ok_or_else(|| {
            let mut known: Vec<&str> = FAMILIES.iter().map(|f| f.architecture).collect();
            known.dedup();
            reader.damaged(format!(
                "models of architecture \"{architecture}\" are not imported; supported: {}",
                known.join(", ")
            ))
        })?;
    let raw = Described {
        reader: &reader,
        family,
    }
    .config()
    .map_err(|message| reader.damaged(message))?;
    let config = ModelConfig::from_json(raw, path.to_path_buf())?;
    Ok(GgufImport {
        reader,
        family,
        config,
    })
}

impl GgufImport {
    /// The metadata, with the tokenizer.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, GgufValue> {
        &self.reader.metadata
    }

    /// The model's configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Writes `config.json`, `generation_config.json` and the weights. Quantized
    /// tensors become plain ones. One tensor at a time is in memory.
    ///
    /// # Errors
    /// Tensors that are missing, that the model does not have, or of another shape; what
    /// the file system reports.
    pub fn write(mut self, folder: &Path, options: impl Into<SaveOptions>) -> Result<()> {
        let options = options.into();
        let mut missing: BTreeMap<String, Vec<usize>> =
            parameters(&CausalLm::new(&self.config, &Device::default()))
                .into_iter()
                .map(|info| (info.name, info.shape))
                .collect();
        let mut names = Vec::new();
        let mut described = Vec::new();
        for (name, tensor) in &self.reader.tensors {
            // The settings have been made of it.
            if name == ROPE_FREQS {
                continue;
            }
            let hf = self.family.hf_name(name).ok_or_else(|| {
                self.reader
                    .damaged(format!("tensor {name} has no counterpart in the model"))
            })?;
            // Removed, so that no second tensor stands for the same one.
            match missing.remove(&hf) {
                Some(shape) if shape == tensor.shape => {}
                Some(shape) => {
                    return Err(self.reader.damaged(format!(
                        "tensor {name} is {:?}, the model that the file describes needs {shape:?}",
                        tensor.shape
                    )));
                }
                None => {
                    return Err(self.reader.damaged(format!(
                        "tensor {name} has no counterpart in the model that the file describes"
                    )));
                }
            }
            names.push((name.clone(), hf.clone()));
            described.push((hf, tensor.shape.clone()));
        }
        if let Some((hf, shape)) = missing.first_key_value() {
            let name = self.family.gguf_name(hf).unwrap_or_else(|| hf.clone());
            return Err(self
                .reader
                .damaged(format!("there is no tensor {name} {shape:?}")));
        }
        let mut config = self.config.raw.clone();
        config.insert("dtype".into(), Value::from(options.dtype.torch_name()));
        let mut generation = Map::new();
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(id) = config.get(key) {
                generation.insert(key.into(), id.clone());
            }
        }
        write_json(&folder.join("config.json"), &Value::Object(config))?;
        write_json(&folder.join(GENERATION), &Value::Object(generation))?;
        let mut writer = WeightsWriter::create(folder, described, options)?;
        for (name, hf) in names {
            let mut values = self.reader.values(&name)?;
            if self.family.norms_plus_one && hf.ends_with("norm.weight") {
                values.iter_mut().for_each(|x| *x -= 1.0);
            }
            if let (true, Some(heads)) = (self.family.pairs, turned_heads(&hf)) {
                let heads = self.heads(heads);
                values = reorder(&values, heads, heads * self.config.head_dim, false);
            }
            if let Some(message) = not_finite(&values) {
                return Err(self.reader.damaged(format!("tensor {name} {message}")));
            }
            writer.append([values])?;
        }
        writer.finish()?;
        Ok(())
    }

    fn heads(&self, heads: Heads) -> usize {
        match heads {
            Heads::Query => self.config.num_attention_heads,
            Heads::Key => self.config.num_key_value_heads,
        }
    }
}

/// A file's metadata as a model's configuration.
struct Described<'a> {
    reader: &'a Reader,
    family: &'a Family,
}

impl Described<'_> {
    fn get(&self, key: &str) -> Option<&GgufValue> {
        let key = format!("{}.{key}", self.family.architecture);
        self.reader.metadata.get(&key)
    }

    fn size(&self, key: &str) -> Result<Option<usize>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .size()
                .map(Some)
                .ok_or_else(|| format!("{}.{key} is no whole number", self.family.architecture)),
        }
    }

    fn needed(&self, key: &str) -> Result<usize, String> {
        self.size(key)?
            .ok_or_else(|| format!("there is no {}.{key}", self.family.architecture))
    }

    /// A number as it was meant: 1e-5 is not 9.99999974e-6.
    fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            GgufValue::F32(x) => x.to_string().parse().ok(),
            value => value.number(),
        }
    }

    fn config(&self) -> Result<Map<String, Value>, String> {
        let hidden = self.needed("embedding_length")?;
        let heads = self.needed("attention.head_count")?;
        let turned = self.size("rope.dimension_count")?;
        let head_dim = self
            .size("attention.key_length")?
            .or(turned.filter(|_| self.family.model_type == "llama"))
            .or(hidden.checked_div(heads))
            .unwrap_or_default();
        let layers = self.needed("block_count")?;
        let tensors = &self.reader.tensors;
        let rows = tensors.get("token_embd.weight");
        let rows = rows.and_then(|tensor| tensor.shape.first());
        let vocabulary = rows.ok_or("there is no tensor token_embd.weight")?;
        let mut config = json!({
            "architectures": [self.family.class],
            "model_type": self.family.model_type,
            "hidden_size": hidden,
            "intermediate_size": self.needed("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.size("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": head_dim,
            "max_position_embeddings": self.needed("context_length")?,
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
            "vocab_size": vocabulary,
            "tie_word_embeddings": !tensors.contains_key("output.weight"),
            "use_cache": true,
        });
        let object = config.as_object_mut().ok_or("no object")?;
        let theta = self.number("rope.freq_base").unwrap_or(10_000.0);
        object.insert("rope_theta".into(), json!(theta));
        if let Some(scaling) = self.rope_scaling(theta, turned.unwrap_or(head_dim))? {
            object.insert("rope_scaling".into(), scaling);
        }
        let further = match self.family.model_type {
            "llama" => json!({
                "hidden_act": "silu",
                "attention_bias": tensors.contains_key("blk.0.attn_q.bias"),
                "mlp_bias": false,
            }),
            "gemma3_text" => {
                let kind = |layer: usize| match (layer + 1).is_multiple_of(6) {
                    true => "full_attention",
                    false => "sliding_attention",
                };
                // A number from the file, checked by the time it is used again.
                let kinds: Vec<&str> = (0..layers.min(1 << 12)).map(kind).collect();
                json!({
                    "hidden_activation": "gelu_pytorch_tanh",
                    "query_pre_attn_scalar": head_dim,
                    "sliding_window": self.needed("attention.sliding_window")?,
                    "rope_local_base_freq": self.number("rope.freq_base_swa").unwrap_or(10_000.0),
                    "layer_types": kinds,
                })
            }
            "phi3" => json!({
                "hidden_act": "silu",
                "original_max_position_embeddings": self.needed("context_length")?,
                "partial_rotary_factor": turned.unwrap_or(head_dim) as f64 / head_dim.max(1) as f64,
                "sliding_window": self.size("attention.sliding_window")?,
            }),
            _ => json!({"hidden_act": "silu"}),
        };
        object.extend(further.as_object().cloned().unwrap_or_default());
        for (key, from) in [
            ("bos_token_id", "bos"),
            ("eos_token_id", "eos"),
            ("pad_token_id", "padding"),
        ] {
            let value = self
                .reader
                .metadata
                .get(&format!("tokenizer.ggml.{from}_token_id"));
            if let Some(id) = value.and_then(GgufValue::size) {
                object.insert(key.into(), json!(id));
            }
        }
        Ok(object.clone())
    }

    fn rope_scaling(&self, theta: f64, turned: usize) -> Result<Option<Value>, String> {
        if let Some(tensor) = self.reader.tensors.get(ROPE_FREQS) {
            return self.llama3(theta, turned, tensor.shape.first().copied());
        }
        match self.get("rope.scaling.type").and_then(GgufValue::text) {
            None | Some("none") => Ok(None),
            Some("linear") => Ok(Some(json!({
                "rope_type": "linear",
                "factor": self.number("rope.scaling.factor").unwrap_or(1.0),
            }))),
            Some(other) => Err(format!("rope scaling \"{other}\" is not imported")),
        }
    }

    /// The file has the factors, a configuration the numbers that they follow from:
    /// those of the models that were published.
    fn llama3(
        &self,
        theta: f64,
        turned: usize,
        length: Option<usize>,
    ) -> Result<Option<Value>, String> {
        let mut reader = Reader::open(self.reader.path()).map_err(|error| error.to_string())?;
        let factors = reader
            .values(ROPE_FREQS)
            .map_err(|error| error.to_string())?;
        if length != Some(turned / 2) {
            return Err(format!(
                "{ROPE_FREQS} does not have a factor for each frequency"
            ));
        }
        // The published ones: 8 and 32, 8192; others for models made like them.
        for (factor, shift) in [8.0, 32.0, 16.0, 4.0, 2.0]
            .into_iter()
            .flat_map(|factor| (5..=17).rev().map(move |shift| (factor, shift)))
        {
            let original = f64::from(1_u32 << shift);
            let expected = slowing(theta, turned, factor, (1.0, 4.0), original);
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * b.abs();
            if factors.iter().zip(&expected).all(close) {
                return Ok(Some(json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 1_u32 << shift,
                })));
            }
        }
        Err(format!("{ROPE_FREQS} holds factors of no known scaling"))
    }
}
