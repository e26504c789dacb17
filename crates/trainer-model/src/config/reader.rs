//! Typed reads of a JSON object, with errors that name file and key.
//!
//! A key whose value is `null` counts as absent, except for
//! [`Reader::names`], which says whether the file mentions it.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Activation, MAX_SIZE};
use crate::error::{ModelError, Result};

/// The object, and what to call it in errors.
pub(crate) struct Reader<'a> {
    raw: &'a Map<String, Value>,
    path: &'a Path,
    /// Keys that lead to this object, each with a full stop behind it.
    prefix: String,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(raw: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self {
            raw,
            path,
            prefix: String::new(),
        }
    }

    pub(crate) fn error(&self, key: &str, message: String) -> ModelError {
        ModelError::Config {
            path: self.path.to_path_buf(),
            key: format!("{}{key}", self.prefix),
            message,
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is written, if only as `null`.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.raw.contains_key(key)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err(self.error(key, format!("expected a string, found {other}"))),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.error(key, format!("expected true or false, found {other}"))),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => v
                .as_f64()
                .map(Some)
                .ok_or_else(|| self.error(key, format!("expected a number, found {v}"))),
        }
    }

    /// A number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.number(key)? {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(self.error(key, format!("{x} is not positive")))
            }
            other => Ok(other),
        }
    }

    /// As [`positive`](Self::positive), where the key must be there.
    pub(crate) fn required(&self, key: &str) -> Result<f64> {
        self.positive(key)?
            .ok_or_else(|| self.error(key, "is missing".into()))
    }

    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
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

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?
            .ok_or_else(|| self.error(key, "is missing".into()))
    }

    /// A list of what `convert` accepts; `what` describes one.
    pub(crate) fn list<T>(
        &self,
        key: &str,
        what: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong =
            |found: &Value| self.error(key, format!("expected a list of {what}, found {found}"));
        let Value::Array(items) = value else {
            return Err(wrong(value));
        };
        items
            .iter()
            .map(|item| convert(item).ok_or_else(|| wrong(item)))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// A list with one entry for each of `layers`.
    pub(crate) fn layer_list<T>(
        &self,
        key: &str,
        what: &str,
        layers: usize,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        match self.list(key, what, convert)? {
            Some(list) if list.len() != layers => Err(self.error(
                key,
                format!("has {} entries for {layers} layers", list.len()),
            )),
            other => Ok(other),
        }
    }

    /// `layer_types`: whether each layer's attention slides.
    pub(crate) fn sliding_layers(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        let what = "\"full_attention\" or \"sliding_attention\"";
        self.layer_list("layer_types", what, layers, |value| match value.as_str() {
            Some("full_attention") => Some(false),
            Some("sliding_attention") => Some(true),
            _ => None,
        })
    }

    /// The object under `key`, which may be absent.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Reader<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(raw)) => Ok(Some(Reader {
                raw,
                path: self.path,
                prefix: format!("{}{key}.", self.prefix),
            })),
            Some(other) => Err(self.error(key, format!("expected an object, found {other}"))),
        }
    }

    pub(crate) fn activation(&self, key: &str, default: Activation) -> Result<Activation> {
        match self.text(key)?.as_deref() {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some(other) => Err(self.error(
                key,
                format!("\"{other}\" is not supported; supported: silu, gelu_pytorch_tanh"),
            )),
        }
    }

    /// Outputs of a classification head; two where the file does not say, as in
    /// transformers.
    pub(super) fn num_labels(&self) -> Result<usize> {
        if let Some(n) = self.optional_size("num_labels")? {
            return Ok(n);
        }
        match self.object("id2label")? {
            Some(labels) if labels.raw.is_empty() => {
                Err(self.error("id2label", "names no label".into()))
            }
            Some(labels) => Ok(labels.raw.len()),
            None => Ok(2),
        }
    }
}
