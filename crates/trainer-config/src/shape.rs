//! The JSON schema of [`Config`](crate::Config), read back into the few shapes it
//! is made of.
//!
//! The validator walks a [`Shape`], so what an editor is told and what is
//! enforced are the same derived schema; [`json_schema`](crate::json_schema) adds what is
//! taken besides.

use std::sync::LazyLock;

use serde_json::Value;

use crate::layers::PREPARED_FOLDER;

/// What a value must be. A null is allowed everywhere: it means the default.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    /// Anything, kept as written.
    Any,
    Bool,
    Integer(Range),
    Number(Range),
    Text,
    Names(Vec<String>),
    OneOf(Vec<Shape>),
    List {
        items: Box<Shape>,
        min: u64,
    },
    /// Keys of the user's own.
    Map(Box<Shape>),
    Struct {
        properties: Vec<(String, Shape)>,
        required: Vec<String>,
    },
}

/// Most names that a message lists.
const MOST_NAMES: usize = 24;

/// Bounds of a number.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Range {
    min: Option<f64>,
    max: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
}

impl Range {
    pub(crate) fn contains(&self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min)
            && self.max.is_none_or(|max| value <= max)
            && self.above.is_none_or(|above| value > above)
            && self.below.is_none_or(|below| value < below)
    }

    /// `at least 0 and below 1`, for messages.
    pub(crate) fn describe(&self) -> String {
        let low = match (self.min, self.above) {
            (Some(min), _) => Some(format!("at least {min}")),
            (None, Some(above)) => Some(format!("above {above}")),
            (None, None) => None,
        };
        let high = match (self.max, self.below) {
            (Some(max), _) => Some(format!("at most {max}")),
            (None, Some(below)) => Some(format!("below {below}")),
            (None, None) => None,
        };
        match (low, high) {
            (Some(low), Some(high)) => format!("{low} and {high}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "any number".to_owned(),
        }
    }
}

impl Shape {
    /// What is wanted, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Any => "any value".to_owned(),
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Integer(_) => "a whole number".to_owned(),
            Self::Number(_) => "a number".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Names(names) if names.len() > MOST_NAMES => {
                format!("one of {} names", names.len())
            }
            Self::Names(names) => names
                .iter()
                .map(|n| format!("`{n}`"))
                .collect::<Vec<_>>()
                .join(", "),
            Self::OneOf(shapes) => shapes
                .iter()
                .map(Self::describe)
                .collect::<Vec<_>>()
                .join(", or "),
            Self::List { .. } => "a list".to_owned(),
            Self::Map(_) | Self::Struct { .. } => "a mapping".to_owned(),
        }
    }

    /// The words that a value can be, if it can be nothing else.
    pub(crate) fn words(&self) -> Option<Vec<&str>> {
        match self {
            Self::Bool => Some(vec!["true", "false"]),
            Self::Names(names) => Some(names.iter().map(String::as_str).collect()),
            Self::OneOf(shapes) => {
                let words: Option<Vec<_>> = shapes.iter().map(Self::words).collect();
                Some(words?.concat())
            }
            _ => None,
        }
    }

    /// What to write for the key `name`, for messages.
    pub(crate) fn advice(&self, name: &str) -> String {
        // The entry of a list has a number.
        let key = match name.bytes().all(|b| b.is_ascii_digit()) {
            true => "- ".to_owned(),
            false => format!("{name}: "),
        };
        if let Some(words) = self.words() {
            return known_words(&words);
        }
        match self {
            Self::Integer(range) => format!("give a whole number: {}", range.describe()),
            Self::Number(range) => format!("give a number: {}", range.describe()),
            Self::Text => format!("write one text: `{key}...`"),
            Self::List { items, .. } => match &**items {
                Self::Struct { properties, .. } => {
                    let first = properties.first().map_or("...", |(name, _)| name);
                    format!("write a list of entries that begin with `- {first}: ...`")
                }
                _ => format!("write a list: `{key}[...]`"),
            },
            Self::Map(_) => format!("write a mapping: `{key}{{...: ...}}`"),
            Self::Struct { properties, .. } => {
                let first = properties.first().map_or("...", |(name, _)| name);
                format!("write `{first}: ...` and further keys here")
            }
            Self::OneOf(shapes) => {
                let all: Vec<String> = shapes.iter().map(|shape| shape.advice(name)).collect();
                all.join("; or ")
            }
            Self::Any | Self::Bool | Self::Names(_) => String::new(),
        }
    }

    pub(crate) fn property(&self, name: &str) -> Option<&Shape> {
        match self {
            Self::Struct { properties, .. } => properties
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, shape)| shape),
            Self::OneOf(shapes) => shapes.iter().find_map(|shape| shape.property(name)),
            _ => None,
        }
    }
}

/// The words that may be written, or how to see them where there are many.
pub(crate) fn known_words<S: AsRef<str>>(words: &[S]) -> String {
    if words.len() > MOST_NAMES {
        return format!(
            "`trainer schema` prints the {} known values with their meaning",
            words.len()
        );
    }
    let words: Vec<String> = words.iter().map(|w| format!("`{}`", w.as_ref())).collect();
    format!("known values: {}", words.join(", "))
}

/// The schema with every key that is required as such.
pub(crate) fn full_schema() -> Value {
    let mut schema = schemars::schema_for!(crate::Config).to_value();
    without_default(&mut schema);
    if let Some(folder) = schema.pointer_mut("/properties/dataset_prepared_path/default") {
        *folder = PREPARED_FOLDER.into();
    }
    for entry in ["Dataset", "PretrainingDataset", "LrGroup"] {
        if let Some(entry) = schema.pointer_mut(&format!("/$defs/{entry}")) {
            without_default(entry);
        }
    }
    schema
}

/// What is required has no default.
fn without_default(schema: &mut Value) {
    for name in strings(schema.get("required")) {
        if let Some(property) = schema
            .pointer_mut(&format!("/properties/{name}"))
            .and_then(Value::as_object_mut)
        {
            property.remove("default");
        }
    }
}

/// The shape of the whole file.
pub(crate) static ROOT: LazyLock<Shape> = LazyLock::new(|| {
    let root = full_schema();
    shape(&root, &root)
});

fn shape(schema: &Value, root: &Value) -> Shape {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = name
            .strip_prefix('#')
            .and_then(|pointer| root.pointer(pointer));
        return target.map_or(Shape::Any, |target| shape(target, root));
    }
    if let Some(names) = names(schema) {
        return Shape::Names(names);
    }
    let choices = ["anyOf", "oneOf"]
        .into_iter()
        .find_map(|key| schema.get(key));
    if let Some(choices) = choices.and_then(Value::as_array) {
        let mut shapes: Vec<Shape> = Vec::new();
        for choice in choices {
            if choice.get("type").and_then(Value::as_str) == Some("null") {
                continue;
            }
            let known = shapes.iter_mut().find_map(|shape| match shape {
                Shape::Names(names) => Some(names),
                _ => None,
            });
            match (shape(choice, root), known) {
                // The words of all choices are one enumeration.
                (Shape::Names(names), Some(known)) => known.extend(names),
                (other, _) => shapes.push(other),
            }
        }
        return if shapes.len() == 1 {
            shapes.remove(0)
        } else {
            Shape::OneOf(shapes)
        };
    }
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let range = || Range {
        min: bound("minimum"),
        max: bound("maximum"),
        above: bound("exclusiveMinimum"),
        below: bound("exclusiveMaximum"),
    };
    match type_name(schema) {
        Some("boolean") => Shape::Bool,
        Some("integer") => Shape::Integer(range()),
        Some("number") => Shape::Number(range()),
        Some("string") => Shape::Text,
        Some("array") => Shape::List {
            items: Box::new(
                schema
                    .get("items")
                    .map_or(Shape::Any, |items| shape(items, root)),
            ),
            min: schema.get("minItems").and_then(Value::as_u64).unwrap_or(0),
        },
        Some("object") => match schema.get("properties").and_then(Value::as_object) {
            Some(properties) => Shape::Struct {
                properties: properties
                    .iter()
                    .map(|(name, property)| (name.clone(), shape(property, root)))
                    .collect(),
                required: strings(schema.get("required")),
            },
            None => Shape::Map(Box::new(
                schema
                    .get("additionalProperties")
                    .map_or(Shape::Any, |values| shape(values, root)),
            )),
        },
        _ => Shape::Any,
    }
}

/// The type beside `null`.
fn type_name(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null"),
        _ => None,
    }
}

/// The words of an enumeration.
pub(crate) fn names(schema: &Value) -> Option<Vec<String>> {
    if let Some(name) = schema.get("const").and_then(Value::as_str) {
        return Some(vec![name.to_owned()]);
    }
    if schema.get("enum").is_some() {
        return Some(strings(schema.get("enum")));
    }
    let choices = schema.get("oneOf")?.as_array()?;
    let mut all = Vec::new();
    for choice in choices {
        all.extend(names(choice)?);
    }
    Some(all)
}

fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array)
        .map(|list| {
            list.iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A construct of the schema that is not understood would read as
    /// [`Shape::Any`] and so would not be checked at all.
    #[test]
    fn every_property_has_a_known_shape() {
        fn visit(shape: &Shape, path: &str) {
            match shape {
                Shape::Struct { properties, .. } => {
                    for (name, shape) in properties {
                        visit(shape, &format!("{path}.{name}"));
                    }
                }
                Shape::List { items, .. } => visit(items, &format!("{path}[]")),
                Shape::OneOf(shapes) => shapes.iter().for_each(|shape| visit(shape, path)),
                Shape::Any => panic!("{path} is not checked"),
                _ => {}
            }
        }
        visit(&ROOT, "");
        assert_eq!(
            ROOT.property("adam_beta1"),
            Some(&Shape::Number(Range {
                min: Some(0.0),
                below: Some(1.0),
                ..Range::default()
            }))
        );
    }
}
