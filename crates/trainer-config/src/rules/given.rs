//! Which keys were given a value, and where.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::schema::Config;
use crate::source::Site;

/// What "is set" means for a key.
pub(crate) enum Given<'a> {
    /// Some layer gave it a value, which may be that of its default.
    Layers(&'a BTreeMap<String, Site>),
    /// Its value is not that of its default, in a configuration made in Rust, in which
    /// every field has a value and none has a line.
    Values(BTreeSet<String>),
}

impl<'a> Given<'a> {
    /// What a configuration made in Rust sets; `json` is the configuration, `batch_size`
    /// included.
    pub(crate) fn by_values(json: &Value) -> Self {
        let default = serde_json::to_value(Config::default()).unwrap_or_default();
        let mut set = BTreeSet::new();
        collect(&mut set, "", json, &default);
        Self::Values(set)
    }

    /// Whether lines are known.
    pub(crate) fn by_layers(&self) -> bool {
        matches!(self, Self::Layers(_))
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        match self {
            Self::Layers(sites) => sites.contains_key(key),
            Self::Values(set) => set.contains(key),
        }
    }

    pub(crate) fn site(&self, key: &str) -> Option<&'a Site> {
        match self {
            Self::Layers(sites) => sites.get(key),
            Self::Values(_) => None,
        }
    }

    /// The first value inside a table or list.
    pub(crate) fn inside(&self, path: &str) -> Option<&'a Site> {
        let prefix = format!("{path}.");
        match self {
            Self::Layers(sites) => {
                let mut found = sites.iter().filter(|(key, _)| key.starts_with(&prefix));
                found.next().map(|(_, site)| site)
            }
            Self::Values(_) => None,
        }
    }
}

/// The dotted keys of values that are not those of `default`.
fn collect(set: &mut BTreeSet<String>, path: &str, value: &Value, default: &Value) {
    if value == default || value.is_null() {
        return;
    }
    if !path.is_empty() {
        set.insert(path.to_owned());
    }
    let mut inner = |key: &str, value: &Value| {
        let default = default.get(key).unwrap_or(&Value::Null);
        collect(set, &crate::validate::join(path, key), value, default);
    };
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| inner(key, value)),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, item)| inner(&index.to_string(), item));
        }
        _ => {}
    }
}
