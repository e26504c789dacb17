//! From a model to a GGUF file.

use std::path::Path;

use serde_json::{Map, Value};

use super::families::{FAMILIES, Family, Heads, ROPE_FREQS, reorder, turned_heads};
use super::write::{Planned, Writer};
use super::{GgufType, GgufValue};
use crate::config::ModelConfig;
use crate::decoder::CausalLm;
use crate::error::{ModelError, Result};
use crate::files::atomic::write_atomically;
use crate::files::save::check_whole;
use crate::parameters::{parameters, visit_values};

/// What a GGUF file holds besides the model.
#[derive(Debug, Clone)]
pub struct GgufExport {
    /// Name of the model, for people.
    pub name: String,
    /// Number format of the matrices; vectors are F32.
    pub format: GgufType,
    /// The tokenizer, as metadata.
    pub tokenizer: Vec<(String, GgufValue)>,
}

/// Writes a GGUF file. One tensor at a time is copied to the host; the file gets
/// its name once it is complete. Returns what a user has to know of.
///
/// # Errors
/// A model that GGUF, or this crate's part of it, cannot describe, one that carries an
/// adapter or quantized weights among them; numbers that are not finite in the format
/// that is written; what the file system reports.
pub fn export_gguf(model: &CausalLm, export: &GgufExport, path: &Path) -> Result<Vec<String>> {
    check_whole(model)?;
    let config = model.config();
    let cannot = |message: String| ModelError::Gguf { message };
    let model_type = config.raw.get("model_type").and_then(Value::as_str);
    let family = FAMILIES
        .iter()
        .find(|family| Some(family.model_type) == model_type)
        .ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            cannot(format!(
                "models of type \"{}\" cannot be exported to GGUF; supported: {}",
                model_type.unwrap_or_default(),
                known.join(", ")
            ))
        })?;
    let keys = Keys { config, family };
    let mut notes = Vec::new();
    let (mut metadata, factors) = keys.metadata(export, &mut notes).map_err(cannot)?;
    metadata.extend(export.tokenizer.iter().cloned());

    let (mut planned, mut in_halves) = (Vec::new(), Vec::new());
    for info in parameters(model) {
        let name = family.gguf_name(&info.name).ok_or_else(|| {
            cannot(format!(
                "tensor {} has no name in GGUF's {} models",
                info.name, family.architecture
            ))
        })?;
        let rows = info.shape.last().copied().unwrap_or(1);
        let format = match info.shape.len() {
            1 => GgufType::F32,
            _ if rows.is_multiple_of(export.format.block().0) => export.format,
            _ => {
                in_halves.push(info.name.clone());
                GgufType::F16
            }
        };
        planned.push(Planned {
            name,
            shape: info.shape,
            format,
        });
    }
    if let Some(first) = in_halves.first() {
        notes.push(format!(
            "{} tensors are stored as F16 ({first}, ...): their rows are no whole blocks of {:?}",
            in_halves.len(),
            export.format
        ));
    }
    if let Some(factors) = &factors {
        planned.push(Planned {
            name: ROPE_FREQS.into(),
            shape: vec![factors.len()],
            format: GgufType::F32,
        });
    }
    write_atomically(path, |temporary| {
        let mut writer = Writer::create(temporary, &metadata, &planned)?;
        let mut formats = planned.iter().map(|tensor| tensor.format);
        visit_values(model, |name, value| {
            let values = keys.stored(name, value.read());
            let format = formats.next().unwrap_or(GgufType::F32);
            if let Some(message) = format.unfit(&values) {
                return Err(cannot(format!("tensor {name} {message}")));
            }
            writer.append(&values, format)
        })?;
        if let Some(factors) = &factors {
            writer.append(factors, GgufType::F32)?;
        }
        writer.finish()
    })?;
    Ok(notes)
}

/// A model's configuration as keys.
struct Keys<'a> {
    config: &'a ModelConfig,
    family: &'a Family,
}

/// Keys with values, and factors of the rotary frequencies where there are any.
type Metadata = (Vec<(String, GgufValue)>, Option<Vec<f32>>);

impl Keys<'_> {
    /// A tensor as GGUF has it.
    fn stored(&self, name: &str, values: Vec<f32>) -> Vec<f32> {
        if self.family.norms_plus_one && name.ends_with("norm.weight") {
            return values.iter().map(|x| x + 1.0).collect();
        }
        let c = self.config;
        let heads = match turned_heads(name) {
            Some(Heads::Query) => c.num_attention_heads,
            Some(Heads::Key) => c.num_key_value_heads,
            None => return values,
        };
        if self.family.pairs {
            reorder(&values, heads, heads * c.head_dim, true)
        } else {
            values
        }
    }

    fn metadata(&self, export: &GgufExport, notes: &mut Vec<String>) -> Result<Metadata, String> {
        let (c, raw) = (self.config, &self.config.raw);
        let architecture = self.family.architecture;
        let mut metadata = vec![
            text("general.architecture", architecture),
            text("general.type", "model"),
            text("general.name", &export.name),
            number("general.file_type", export.format.file_type() as usize),
            number("general.quantization_version", 2),
        ];
        let mut own = |key: &str, value: GgufValue| {
            metadata.push((format!("{architecture}.{key}"), value));
        };
        let size = |n: usize| GgufValue::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let float = |x: f64| GgufValue::F32(x as f32);
        let context = c.max_positions as u64;
        own("context_length", size(c.max_positions));
        own("embedding_length", size(c.hidden_size));
        own("block_count", size(c.num_hidden_layers));
        own("feed_forward_length", size(c.intermediate_size));
        own("attention.head_count", size(c.num_attention_heads));
        own("attention.head_count_kv", size(c.num_key_value_heads));
        own("attention.key_length", size(c.head_dim));
        own("attention.value_length", size(c.head_dim));
        own("attention.layer_norm_rms_epsilon", float(c.norm.eps));
        own("vocab_size", size(c.vocab_size));

        let rope = Rope::read(raw)?;
        let turned = rope.partial.map_or(c.head_dim, |part| {
            (part * c.head_dim as f64).round() as usize
        });
        own("rope.dimension_count", size(turned));
        own("rope.freq_base", float(rope.theta));
        let mut factors = None;
        match rope.kind.as_str() {
            "default" => {}
            "linear" => {
                own("rope.scaling.type", GgufValue::Text("linear".into()));
                own("rope.scaling.factor", float(rope.number("factor")?));
            }
            "llama3" => factors = Some(llama3_factors(&rope, turned)?),
            other => return Err(format!("rope type \"{other}\" cannot be exported to GGUF")),
        }
        let window = raw.get("sliding_window").and_then(Value::as_u64);
        match (self.family.model_type, window) {
            ("gemma3_text", window) => {
                let window = window.ok_or("config.json has no sliding_window")?;
                own("attention.sliding_window", size(window as usize));
                let local = raw.get("rope_local_base_freq").and_then(Value::as_f64);
                let local = rope.local.or(local).unwrap_or(10_000.0);
                own("rope.freq_base_swa", float(local));
                self.check_gemma3()?;
            }
            ("phi3", Some(window)) => own("attention.sliding_window", size(window as usize)),
            ("mistral", Some(window)) if window < context => notes.push(format!(
                "llama.cpp has no sliding window for these models: texts of more than {window} tokens \
                 are attended to in full there"
            )),
            ("qwen2" | "qwen3", Some(_)) if raw.get("use_sliding_window") == Some(&true.into()) => {
                return Err("GGUF has no sliding window for these models; config.json asks for one \
                            (use_sliding_window)"
                    .into());
            }
            _ => {}
        }
        Ok((metadata, factors))
    }

    /// What llama.cpp takes for granted about Gemma 3.
    fn check_gemma3(&self) -> Result<(), String> {
        let raw = &self.config.raw;
        let global = |layer: usize| (layer + 1).is_multiple_of(6);
        let layers = raw.get("layer_types").and_then(Value::as_array);
        let as_expected =
            |(layer, kind): (usize, &Value)| (kind == "full_attention") == global(layer);
        if layers.is_some_and(|layers| !layers.iter().enumerate().all(as_expected)) {
            return Err(
                "llama.cpp expects every sixth layer of a Gemma 3 model to attend to all \
                        tokens; layer_types of config.json says otherwise"
                    .into(),
            );
        }
        let scale = raw.get("query_pre_attn_scalar").and_then(Value::as_f64);
        if scale.is_some_and(|scale| scale != self.config.head_dim as f64) {
            return Err(
                "llama.cpp expects query_pre_attn_scalar of a Gemma 3 model to be head_dim; \
                        config.json says otherwise"
                    .into(),
            );
        }
        Ok(())
    }
}

fn text(key: &str, value: &str) -> (String, GgufValue) {
    (key.into(), GgufValue::Text(value.into()))
}

fn number(key: &str, value: usize) -> (String, GgufValue) {
    (key.into(), GgufValue::U32(value as u32))
}

/// Rotary settings, from `rope_parameters` (transformers 5) or from `rope_theta`
/// and `rope_scaling` (before).
struct Rope {
    kind: String,
    theta: f64,
    /// Base of layers that attend to a window.
    local: Option<f64>,
    /// Part of a head that is turned.
    partial: Option<f64>,
    settings: Map<String, Value>,
}

impl Rope {
    fn read(raw: &Map<String, Value>) -> Result<Self, String> {
        let object = |key: &str| raw.get(key).and_then(Value::as_object);
        let mut settings = object("rope_parameters")
            .or_else(|| object("rope_scaling"))
            .cloned()
            .unwrap_or_default();
        let theta_of = |map: &Map<String, Value>| map.get("rope_theta").and_then(Value::as_f64);
        let mut local = None;
        if let Some(Value::Object(sliding)) = settings.get("sliding_attention") {
            local = theta_of(sliding);
        }
        if let Some(Value::Object(full)) = settings.get("full_attention") {
            settings = full.clone();
        }
        let kind = settings.get("rope_type").or_else(|| settings.get("type"));
        Ok(Self {
            kind: kind.and_then(Value::as_str).unwrap_or("default").to_owned(),
            theta: theta_of(&settings)
                .or_else(|| theta_of(raw))
                .unwrap_or(10_000.0),
            local,
            partial: settings
                .get("partial_rotary_factor")
                .or_else(|| raw.get("partial_rotary_factor"))
                .and_then(Value::as_f64),
            settings,
        })
    }

    fn number(&self, key: &str) -> Result<f64, String> {
        let value = self.settings.get(key).and_then(Value::as_f64);
        value.ok_or_else(|| format!("config.json has no {key} among its rope settings"))
    }
}

/// By how much Llama 3.1's scaling slows each frequency.
fn llama3_factors(rope: &Rope, turned: usize) -> Result<Vec<f32>, String> {
    let original = rope.number("original_max_position_embeddings")?;
    Ok(slowing(
        rope.theta,
        turned,
        rope.number("factor")?,
        (
            rope.number("low_freq_factor")?,
            rope.number("high_freq_factor")?,
        ),
        original,
    ))
}

/// Factors of Llama 3.1's rotary scaling, one for each frequency.
pub(super) fn slowing(
    theta: f64,
    turned: usize,
    factor: f64,
    (low, high): (f64, f64),
    original: f64,
) -> Vec<f32> {
    let factors = (0..turned / 2).map(|index| {
        let frequency = theta.powf(-((2 * index) as f64) / turned as f64);
        let turns = original * frequency / (2.0 * std::f64::consts::PI);
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    });
    factors.collect()
}
