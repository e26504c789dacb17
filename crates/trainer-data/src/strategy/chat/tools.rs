//! Definitions of tools, parts of which may be JSON in text.

use serde_json::{Map, Value};

use super::conversation::{bad_json, container, row_error};
use crate::source::Row;
use crate::{DataError, values};

const EXPECTED: &str = "a list of tools";

/// Entries of a tool that are objects; where they are text, it is the JSON of one.
const OBJECTS: [&str; 4] = ["function", "parameters", "input_schema", "inputSchema"];

/// Entries that may be objects or descriptions.
const EITHER: [&str; 5] = ["return", "returns", "response", "output", "output_schema"];

/// Entries of a JSON schema that hold schemas by name.
const SCHEMAS: [&str; 4] = ["properties", "$defs", "definitions", "patternProperties"];

/// Entries of a JSON schema that hold a schema, or a list of them.
const SCHEMA: [&str; 7] = [
    "items",
    "additionalProperties",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "prefixItems",
];

/// Entries of a JSON schema that are lists.
const LISTS: [&str; 2] = ["required", "enum"];

/// The tools of a column: a list, in which every level may be JSON in text, or one
/// tool. `None` where there are none: templates write the introduction of an empty
/// list too.
pub(super) fn tools(row: &Row, column: &str, value: &Value) -> Result<Option<Value>, DataError> {
    let list = match value {
        Value::Array(_) => value.clone(),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => values::parse(text)
            .map_err(|error| bad_json(row, column, EXPECTED, value, Some(&error)))?,
        other => return Err(row.wrong_type(column, EXPECTED, other)),
    };
    let Value::Array(mut list) = list else {
        return Err(bad_json(row, column, EXPECTED, value, None));
    };
    for (index, tool) in list.iter_mut().enumerate() {
        definition(row, &format!("{column}[{index}]"), tool)?;
    }
    Ok((!list.is_empty()).then_some(Value::Array(list)))
}

/// Puts the JSON of texts in their place.
fn definition(row: &Row, place: &str, tool: &mut Value) -> Result<(), DataError> {
    parse(row, place, tool)?;
    let Value::Object(tool) = tool else {
        return Err(row.wrong_type(place, "the definition of a tool, an object", tool));
    };
    for key in OBJECTS {
        let Some(value) = tool.get_mut(key) else {
            continue;
        };
        // Without parameters, some write an empty text.
        if value.as_str().is_some_and(|text| text.trim().is_empty()) {
            continue;
        }
        let place = format!("{place}.{key}");
        parse(row, &place, value)?;
        match (key, value) {
            ("function", value @ Value::Object(_)) => definition(row, &place, value)?,
            (_, Value::Object(value)) => schema(value),
            _ => {}
        }
    }
    for key in EITHER {
        if let Some(value) = tool.get_mut(key) {
            loosely(value);
        }
    }
    Ok(())
}

/// Text that has to be the JSON of an object.
fn parse(row: &Row, place: &str, value: &mut Value) -> Result<(), DataError> {
    let Value::String(text) = &*value else {
        return Ok(());
    };
    let parsed = values::parse(text).map_err(|error| {
        row_error(
            row,
            format!(
                "`{place}` is text that is not JSON ({error}); give an object, or the JSON of one"
            ),
        )
    })?;
    if !parsed.is_object() {
        return Err(row.wrong_type(place, "an object, or the JSON of one", &parsed));
    }
    *value = parsed;
    Ok(())
}

/// Text that is the JSON of an object or a list becomes one; other text is left.
fn loosely(value: &mut Value) {
    if let Value::String(text) = &*value
        && let Some(parsed) = container(text)
    {
        *value = parsed;
    }
    match value {
        Value::Object(object) => schema(object),
        Value::Array(values) => values.iter_mut().for_each(loosely),
        _ => {}
    }
}

/// A JSON schema: only where a schema or a list has to stand is text taken for one.
fn schema(object: &mut Map<String, Value>) {
    for (key, value) in object.iter_mut() {
        let key = key.as_str();
        if SCHEMAS.contains(&key) {
            loosely_once(value);
            for inner in value.as_object_mut().into_iter().flat_map(Map::values_mut) {
                loosely(inner);
            }
        } else if SCHEMA.contains(&key) {
            loosely(value);
        } else if LISTS.contains(&key) {
            loosely_once(value);
        }
    }
}

fn loosely_once(value: &mut Value) {
    if let Value::String(text) = &*value
        && let Some(parsed) = container(text)
    {
        *value = parsed;
    }
}
