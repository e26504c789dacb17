//! Calls of tools and their results, in the ways in which data sets write them.

use serde_json::{Map, Value, json};

use super::conversation::{bad_json, container, row_error};
use crate::source::Row;
use crate::{DataError, values};

/// What a role of a data set says, where it is not one that templates know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The assistant calls tools: the content is the JSON of the calls.
    Calls,
    /// A tool answers.
    Result,
}

/// Roles in the spelling of ShareGPT, LLaMA-Factory, OpenAI and others.
pub(super) fn role_of(name: &str) -> Option<Role> {
    let name = name.to_lowercase().replace(['-', ' '], "_");
    Some(match name.as_str() {
        "function_call" | "function_calls" | "tool_call" | "tool_calls" => Role::Calls,
        "observation" | "observations" | "function" | "function_response" | "function_result"
        | "function_output" | "tool_response" | "tool_responses" | "tool_result"
        | "tool_results" | "tool_output" | "ipython" => Role::Result,
        _ => return None,
    })
}

/// Brings the calls of a message into `tool_calls`, with arguments that are JSON.
pub(super) fn normalize(
    row: &Row,
    place: &str,
    message: &mut Map<String, Value>,
) -> Result<(), DataError> {
    // OpenAI's older form.
    if let Some(call) = message.shift_remove("function_call")
        && !message.contains_key("tool_calls")
    {
        let place = format!("{place}.function_call");
        message.insert("tool_calls".to_owned(), of_value(row, &place, call)?);
    }
    if let Some(value @ Value::String(text)) = message.get("tool_calls") {
        let place = format!("{place}.tool_calls");
        const EXPECTED: &str = "a list of calls";
        let parsed = match text.trim().is_empty() {
            true => Value::Array(Vec::new()),
            false => values::parse(text)
                .map_err(|error| bad_json(row, &place, EXPECTED, value, Some(&error)))?,
        };
        if !parsed.is_array() {
            return Err(bad_json(row, &place, EXPECTED, value, None));
        }
        message.insert("tool_calls".to_owned(), parsed);
    }
    match message.get_mut("tool_calls") {
        None => Ok(()),
        // What columnar files give to turns that call nothing.
        Some(Value::Array(calls)) if calls.is_empty() => {
            message.shift_remove("tool_calls");
            Ok(())
        }
        Some(Value::Array(calls)) => {
            for (index, call) in calls.iter_mut().enumerate() {
                arguments(row, format!("{place}.tool_calls[{index}]"), call)?;
            }
            Ok(())
        }
        Some(other) => Err(row.wrong_type(format!("{place}.tool_calls"), "a list of calls", other)),
    }
}

/// Parses what of a call is text.
fn arguments(row: &Row, place: String, call: &mut Value) -> Result<(), DataError> {
    if let Value::String(text) = &*call
        && let Some(parsed @ Value::Object(_)) = container(text)
    {
        *call = parsed;
    }
    let Value::Object(call) = call else {
        return Err(row.wrong_type(place, "an object", call));
    };
    if let Some(Value::String(text)) = call.get("function")
        && let Some(parsed @ Value::Object(_)) = container(text)
    {
        call.insert("function".to_owned(), parsed);
    }
    let (place, call) = match call.get_mut("function") {
        Some(Value::Object(function)) => (format!("{place}.function"), function),
        _ => (place, call),
    };
    if let Some(Value::String(text)) = call.get("arguments") {
        let parsed = match text.trim().is_empty() {
            // A call without arguments.
            true => json!({}),
            false => values::parse(text).map_err(|error| {
                row_error(
                    row,
                    format!(
                        "`{place}.arguments` is text that is not JSON ({error}); give an object, or the JSON of one"
                    ),
                )
            })?,
        };
        call.insert("arguments".to_owned(), parsed);
    }
    Ok(())
}

/// The calls that the content of a message is: one or a list of them, as JSON or as
/// its text.
pub(super) fn of_value(row: &Row, place: &str, value: Value) -> Result<Value, DataError> {
    let value = match value {
        Value::String(text) => values::parse(&text).map_err(|error| {
            row_error(
                row,
                format!(
                    "`{place}` has to be calls of tools, the JSON of `{{\"name\": ..., \"arguments\": ...}}` or of a list of them, but is text that is not JSON ({error}); `roles` says what the role stands for"
                ),
            )
        })?,
        other => other,
    };
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let several = list.len() > 1;
    let calls = list.into_iter().enumerate().map(|(index, call)| {
        let place = match several {
            true => format!("{place}[{index}]"),
            false => place.to_owned(),
        };
        one(row, &place, call)
    });
    Ok(Value::Array(calls.collect::<Result<_, _>>()?))
}

/// A call as templates read it.
fn one(row: &Row, place: &str, call: Value) -> Result<Value, DataError> {
    let Value::Object(mut call) = call else {
        return Err(row.wrong_type(place, "a call of a tool, an object with a name", &call));
    };
    if call.get("function").is_some_and(Value::is_object) {
        return Ok(Value::Object(call));
    }
    let name = match call.shift_remove("name") {
        Some(name @ Value::String(_)) => name,
        other => {
            let place = format!("{place}.name");
            return Err(row.wrong_type(place, "the name of a tool", &other.unwrap_or(Value::Null)));
        }
    };
    let given = ["arguments", "parameters", "args", "input"];
    let given = given.iter().find_map(|key| call.shift_remove(*key));
    let mut out = Map::new();
    if let Some(id) = call.shift_remove("id") {
        out.insert("id".to_owned(), id);
    }
    let mut function = Map::new();
    function.insert("name".to_owned(), name);
    function.insert("arguments".to_owned(), given.unwrap_or_else(|| json!({})));
    // What else is said of the call is kept.
    for (key, value) in call {
        if key != "type" {
            function.insert(key, value);
        }
    }
    out.insert("type".to_owned(), Value::from("function"));
    out.insert("function".to_owned(), Value::Object(function));
    Ok(Value::Object(out))
}
