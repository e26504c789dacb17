//! Which parts of a columnar file hold JSON text: the type `Json` of the `datasets`
//! library.
//!
//! Three places say so, and one of them is enough: the extension type `arrow.json`
//! of an Arrow field, the logical type JSON of a Parquet column, and the features
//! that the `datasets` library writes into the schema (under `huggingface`) or into
//! `dataset_info.json` beside the file.

use std::path::{Path, PathBuf};

use arrow_ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow_schema::{DataType, Field, Metadata, Schema};
use parquet::basic::{ConvertedType, LogicalType};
use parquet::schema::types::Type;
use serde_json::Value;

const EXTENSION: &str = "ARROW:extension:name";
const JSON: &str = "arrow.json";
pub(super) const METADATA: &str = "huggingface";
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

    fn entries(entries: impl Iterator<Item = Self>) -> Self {
        let entries: Vec<Self> = entries.collect();
        match entries.iter().all(|entry| *entry == Self::Plain) {
            true => Self::Plain,
            false => Self::Struct(entries),
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
        let text = std::fs::read(description(path)?).ok()?;
        let mut all: Value = serde_json::from_slice(&text).ok()?;
        Some(all.get_mut("features")?.take())
    })
}

/// The description beside a file, if there is one.
pub(super) fn description(path: &Path) -> Option<PathBuf> {
    let description = path.parent()?.join(DESCRIPTION);
    description.is_file().then_some(description)
}

/// What the metadata of an Arrow schema say about features.
pub(super) fn of_metadata(metadata: &Metadata) -> Option<&str> {
    metadata.get(METADATA).map(String::as_str)
}

/// Whether the features or Arrow's schema call a column JSON.
fn is_json(feature: Option<&Value>, arrow: Option<&Field>) -> bool {
    let extension = arrow.and_then(|field| field.metadata().get(EXTENSION));
    extension.is_some_and(|name| name == JSON)
        || feature.is_some_and(|feature| feature["_type"] == "Json")
}

/// The shape of an Arrow column.
pub(super) fn shape(field: &Field, feature: Option<&Value>) -> Shape {
    match field.data_type() {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            Shape::list(shape(item, feature.and_then(item_feature)))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => Shape::list(shape(&fields[1], None)),
            _ => Shape::Plain,
        },
        DataType::Struct(fields) => Shape::entries(fields.iter().map(|field| {
            let feature = feature.and_then(|feature| entry_feature(feature, field.name()));
            shape(field, feature.as_ref())
        })),
        _ if is_json(feature, Some(field)) => Shape::Json,
        _ => Shape::Plain,
    }
}

/// The shape of a Parquet column, of which Arrow's schema may say more. What is a list
/// and what a map is read as the record interface of the library does.
pub(super) fn shape_of_parquet(
    kind: &Type,
    feature: Option<&Value>,
    arrow: Option<&Field>,
) -> Shape {
    let info = kind.get_basic_info();
    if kind.is_primitive() {
        let json = info.converted_type() == ConvertedType::JSON
            || matches!(info.logical_type_ref(), Some(LogicalType::Json));
        return match json || is_json(feature, arrow) {
            true => Shape::Json,
            false => Shape::Plain,
        };
    }
    let fields = kind.get_fields();
    match (info.converted_type(), fields) {
        (ConvertedType::LIST, [repeated]) => {
            let item = match repeated.is_group() && repeated.get_fields().len() == 1 {
                true => &repeated.get_fields()[0],
                false => repeated,
            };
            let arrow = arrow.and_then(|field| match field.data_type() {
                DataType::List(item)
                | DataType::LargeList(item)
                | DataType::FixedSizeList(item, _) => Some(item.as_ref()),
                _ => None,
            });
            let feature = feature.and_then(item_feature);
            Shape::list(shape_of_parquet(item, feature, arrow))
        }
        (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, [entries]) => {
            match entries.is_group().then(|| entries.get_fields()) {
                Some([_, value]) => Shape::list(shape_of_parquet(value, None, None)),
                _ => Shape::Plain,
            }
        }
        _ => Shape::entries(fields.iter().map(|field| {
            let feature = feature.and_then(|feature| entry_feature(feature, field.name()));
            let arrow = arrow.and_then(|arrow| match arrow.data_type() {
                DataType::Struct(fields) => fields.find(field.name()).map(|(_, field)| field),
                _ => None,
            });
            shape_of_parquet(field, feature.as_ref(), arrow.map(AsRef::as_ref))
        })),
    }
}

/// The schema that Arrow's writers leave in a Parquet file, in base 64.
pub(super) fn of_arrow_schema(text: &str) -> Option<Schema> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let mut bits = 0_u32;
    let mut held = 0;
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    // The length in front of the message, with or without a mark.
    let bytes = bytes.strip_prefix(&[0xff; 4]).unwrap_or(&bytes);
    let read = || try_schema_from_flatbuffer_bytes(bytes.get(4..)?).ok();
    std::panic::catch_unwind(read).ok().flatten()
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
