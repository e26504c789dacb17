//! Content in parts, and which of its bytes are trained.

use std::ops::Range;

use serde_json::{Map, Value};

use super::messages::row_error;
use crate::DataError;
use crate::error::kind;
use crate::source::Row;

/// A text that may have been given in parts.
pub(super) struct Text {
    pub(super) text: String,
    /// Whether each part says itself that it is trained.
    pub(super) parts: Vec<(Range<usize>, Option<bool>)>,
}

/// A text, or a list of parts that are put together without anything between.
pub(super) fn text(row: &Row, place: &str, key: &str, value: Value) -> Result<Text, DataError> {
    let parts = match value {
        Value::String(text) => {
            return Ok(Text {
                text,
                parts: Vec::new(),
            });
        }
        Value::Array(parts) => parts,
        other => {
            let place = format!("{place}.{key}");
            return Err(row.wrong_type(place, "text or a list of parts", &other));
        }
    };
    let mut out = Text {
        text: String::new(),
        parts: Vec::new(),
    };
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}.{key}[{index}]");
        let start = out.text.len();
        let train = match part {
            Value::String(text) => {
                out.text.push_str(text);
                None
            }
            Value::Object(part) => {
                if let Some(other) = part.get("type").and_then(Value::as_str)
                    && !matches!(other, "text" | "thinking" | "reasoning")
                {
                    return Err(row_error(
                        row,
                        format!(
                            "`{place}` is of type `{other}`; only parts of text can be trained on: take it out, or put text in its place"
                        ),
                    ));
                }
                let Some(Value::String(text)) = part.get("text").or_else(|| part.get("thinking"))
                else {
                    return Err(row_error(
                        row,
                        format!("`{place}` has no text; a part is `{{type: text, text: ...}}`"),
                    ));
                };
                out.text.push_str(text);
                flag(row, &place, part)?
            }
            other => return Err(row.wrong_type(place, "an object with a text", other)),
        };
        out.parts.push((start..out.text.len(), train));
    }
    Ok(out)
}

/// `train` of a part, or its `weight`.
fn flag(row: &Row, place: &str, part: &Map<String, Value>) -> Result<Option<bool>, DataError> {
    match part.get("train") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(train)) => return Ok(Some(*train)),
        Some(other) => {
            return Err(row.wrong_type(format!("{place}.train"), "true or false", other));
        }
    }
    match part.get("weight") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(n)) if n.as_f64() == Some(0.0) => Ok(Some(false)),
        Some(Value::Number(n)) if n.as_f64() == Some(1.0) => Ok(Some(true)),
        Some(other) => Err(row_error(
            row,
            format!(
                "`{place}.weight` is {}; it has to be 0 (masked) or 1 (trained), since tokens have no other weights",
                match other {
                    Value::Number(n) => n.to_string(),
                    other => kind(other).to_owned(),
                }
            ),
        )),
    }
}

/// Ranges of characters as ranges of bytes.
pub(super) fn detail(
    row: &Row,
    place: &str,
    name: &str,
    value: &Value,
    content: &Option<Text>,
) -> Result<Vec<(Range<usize>, bool)>, DataError> {
    let place = format!("{place}.{name}");
    let Value::Array(entries) = value else {
        return Err(row.wrong_type(place, "a list of {begin_offset, end_offset, train}", value));
    };
    let text = content.as_ref().map_or("", |content| &content.text);
    let mut starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    starts.push(text.len());
    let mut out = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let number = |key: &str| {
            let number = entry.get(key)?.as_u64()?;
            usize::try_from(number).ok()
        };
        let train = entry.get("train").and_then(Value::as_bool);
        let (Some(begin), Some(end), Some(train)) =
            (number("begin_offset"), number("end_offset"), train)
        else {
            return Err(row_error(
                row,
                format!(
                    "`{place}[{index}]` has to be an object with `begin_offset` and `end_offset` (numbers of characters) and `train` (true or false)"
                ),
            ));
        };
        let characters = starts.len() - 1;
        if begin > end || end >= characters {
            return Err(row_error(
                row,
                format!(
                    "`{place}[{index}]` is from character {begin} to {end}, which does not lie in the content of {characters} characters; offsets count from 0, the end is included"
                ),
            ));
        }
        out.push((starts[begin]..starts[end + 1], train));
    }
    Ok(out)
}

/// The bytes below `length` that no trained entry covers, or that an untrained
/// one does.
pub(super) fn untrained(detail: &[(Range<usize>, bool)], length: usize) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = detail
        .iter()
        .filter(|(_, train)| !train)
        .map(|(range, _)| range.clone())
        .collect();
    let mut trained: Vec<_> = detail
        .iter()
        .filter(|(_, train)| *train)
        .map(|(range, _)| range.clone())
        .collect();
    trained.sort_by_key(|range| range.start);
    let mut from = 0;
    for range in trained {
        if from < range.start {
            out.push(from..range.start);
        }
        from = from.max(range.end);
    }
    if from < length {
        out.push(from..length);
    }
    out
}
