//! For how many positions a model is made, and how that number is raised.
//!
//! Some scalings of rotary embeddings follow from it where the file does not give their
//! own numbers; these are written down before it changes, so that a model computes what it
//! did.

use serde_json::{Map, Number, Value};

use super::{ModelConfig, Reader, RopeScaling};
use crate::error::Result;

const LIMIT: &str = "max_position_embeddings";
const ORIGINAL: &str = "original_max_position_embeddings";

/// `max_position_embeddings` of a file; `default` where it has none.
pub(super) fn read(read: &Reader<'_>, default: usize) -> Result<usize> {
    Ok(read.positive(LIMIT)?.map_or(default, |n| n as usize))
}

impl ModelConfig {
    /// Raises `max_position_embeddings` to `positions`, so that the files of the model
    /// allow what it was trained on. False where it stays as it is: it is as large already,
    /// or the frequencies themselves depend on it (`dynamic`).
    pub fn raise_position_limit(&mut self, positions: usize) -> bool {
        let depends = |scaling: &RopeScaling| matches!(scaling, RopeScaling::Dynamic { .. });
        if positions <= self.max_positions || self.ropes.iter().any(|r| depends(&r.scaling)) {
            return false;
        }
        let outer = self.raw.get(ORIGINAL).cloned();
        let old = self.max_positions;
        for key in ["rope_parameters", "rope_scaling"] {
            let Some(Value::Object(settings)) = self.raw.get_mut(key) else {
                continue;
            };
            keep(settings, old, outer.as_ref());
            for kind in ["full_attention", "sliding_attention"] {
                if let Some(Value::Object(settings)) = settings.get_mut(kind) {
                    keep(settings, old, outer.as_ref());
                }
            }
        }
        self.raw.insert(LIMIT.into(), Value::from(positions));
        self.max_positions = positions;
        true
    }
}

/// Writes down what follows from a limit of `old` positions. `outer` is the original
/// context where the file has it outside of the settings.
fn keep(settings: &mut Map<String, Value>, old: usize, outer: Option<&Value>) {
    let kind = settings.get("rope_type").or_else(|| settings.get("type"));
    let kind = kind.and_then(Value::as_str).unwrap_or_default().to_owned();
    if !matches!(kind.as_str(), "yarn" | "longrope" | "su") {
        return;
    }
    let given = |settings: &Map<String, Value>, key: &str| {
        settings
            .get(key)
            .and_then(Value::as_f64)
            .filter(|x| *x > 0.0)
    };
    let original = given(settings, ORIGINAL).or_else(|| outer.and_then(Value::as_f64));
    let original = original.unwrap_or_else(|| {
        settings.insert(ORIGINAL.into(), Value::from(old));
        old as f64
    });
    let mut put = |key: &str, value: f64| {
        if given(settings, key).is_none()
            && let Some(number) = Number::from_f64(value)
        {
            settings.insert(key.into(), Value::Number(number));
        }
        given(settings, key).unwrap_or(value)
    };
    let factor = put("factor", old as f64 / original);
    if kind != "yarn" {
        put(
            "attention_factor",
            super::rope::long_attention(factor, original),
        );
    }
}
