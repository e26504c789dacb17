//! Which parts of a columnar file hold JSON text: the type `Json` of the `datasets`
//! library.
//!
//! Three places say so, and one of them is enough: the extension type `arrow.json`
//! of an Arrow field, the logical type JSON of a Parquet column, and the features
//! that the `datasets` library writes into the schema (under `huggingface`) or into
//! `dataset_info.json` beside the file.

use std::path::Path;

use arrow_schema::{DataType, Field, Metadata};
use serde_json::Value;

const EXTENSION: &str = "ARROW:extension:name";
const JSON: &str = "arrow.json";
const METADATA: &str = "huggingface";
const DESCRIPTION: &str = "dataset_info.json";

/// What the values of a column are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// What their type says.
    #[default]
    Plain,
    /// JSON text.
    Json,
    /// Lists of such values, or the values of maps.
    List(Box<Shape>),
    /// Structs with such entries.
    Struct(Vec<Shape>),
}

impl Shape {
    /// That of the items of a list.
    pub(super) fn item(&self) -> &Self {
        match self {
            Self::List(item) => item,
            _ => &Self::Plain,
        }
    }

    /// That of an entry of a struct.
    pub(super) fn entry(&self, index: usize) -> &Self {
        match self {
            Self::Struct(entries) => entries.get(index).unwrap_or(&Self::Plain),
            _ => &Self::Plain,
        }
    }

    fn list(item: Self) -> Self {
        match item {
            Self::Plain => Self::Plain,
            item => Self::List(Box::new(item)),
        }
    }
}

/// The features that the metadata of a schema hold, else those of the description
/// beside the file.
pub(super) fn features(metadata: Option<&str>, path: &Path) -> Option<Value> {
    let written = metadata.and_then(|text| {
        let mut all: Value = serde_json::from_str(text).ok()?;
        Some(all.get_mut("info")?.get_mut("features")?.take())
    });
    written.or_else(|| {
        let text = std::fs::read(path.parent()?.join(DESCRIPTION)).ok()?;
        let mut all: Value = serde_json::from_slice(&text).ok()?;
        Some(all.get_mut("features")?.take())
    })
}

/// What the metadata of an Arrow schema say about features.
pub(super) fn of_metadata(metadata: &Metadata) -> Option<&str> {
    metadata.get(METADATA).map(String::as_str)
}

/// The shape of a column. `leaves` says of each primitive column beneath it, in
/// order, whether the file calls it JSON.
pub(super) fn shape(
    field: &Field,
    feature: Option<&Value>,
    leaves: &mut dyn Iterator<Item = bool>,
) -> Shape {
    let named = field
        .metadata()
        .get(EXTENSION)
        .is_some_and(|name| name == JSON)
        || feature.is_some_and(|feature| feature["_type"] == "Json");
    match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Shape::list(shape(item, feature.and_then(item_feature), leaves))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                shape(&fields[0], None, leaves);
                Shape::list(shape(&fields[1], None, leaves))
            }
            _ => Shape::Plain,
        },
        DataType::Struct(fields) => {
            let entries = fields.iter().map(|field| {
                let feature = feature.and_then(|feature| entry_feature(feature, field.name()));
                shape(field, feature.as_ref(), leaves)
            });
            let entries: Vec<Shape> = entries.collect();
            match entries.iter().all(|entry| *entry == Shape::Plain) {
                true => Shape::Plain,
                false => Shape::Struct(entries),
            }
        }
        _ => match leaves.next().unwrap_or(false) || named {
            true => Shape::Json,
            false => Shape::Plain,
        },
    }
}

/// `{"feature": .., "_type": "List"}`, or a list of one feature.
fn item_feature(feature: &Value) -> Option<&Value> {
    feature.get("feature").or_else(|| feature.get(0))
}

/// `{"name": .., ..}`; a `Sequence` of such an object is an object of lists.
fn entry_feature(feature: &Value, name: &str) -> Option<Value> {
    if let Some(entry) = feature.get(name)
        && !feature["_type"].is_string()
    {
        return Some(entry.clone());
    }
    let inner = feature.get("feature")?.get(name)?;
    Some(serde_json::json!({"feature": inner, "_type": "List"}))
}
