//! Content in parts, and which of its bytes are trained.

use std::ops::Range;

use serde_json::{Map, Value};

use super::calls;
use super::conversation::row_error;
use crate::DataError;
use crate::source::Row;

/// A text that may have been given in parts.
pub(super) struct Text {
    pub(super) text: String,
    /// Whether each part says itself that it is trained.
    pub(super) parts: Vec<(Range<usize>, Option<bool>)>,
}

/// What a content is made of.
pub(super) struct Content {
    pub(super) text: Text,
    /// Parts that are reasoning.
    pub(super) thinking: Option<Text>,
    /// Parts that are calls of tools.
    pub(super) calls: Vec<Value>,
}

/// What a part of a list is.
enum Part {
    Text,
    Thinking,
    Calls,
}

/// A text, or a list of parts that are put together without anything between.
pub(super) fn text(row: &Row, place: &str, key: &str, value: Value) -> Result<Text, DataError> {
    let place = format!("{place}.{key}");
    let parts = match value {
        Value::String(text) => return Ok(Text::whole(text)),
        Value::Array(parts) => parts,
        other => return Err(row.wrong_type(place, "text or a list of parts", &other)),
    };
    let mut out = Text::whole(String::new());
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}[{index}]");
        match kind(row, &place, part)? {
            Part::Text | Part::Thinking => out.push(row, &place, part)?,
            Part::Calls => return Err(no_text(row, &place, part)),
        }
    }
    Ok(out)
}

/// As [`text`], of a content: reasoning and calls of tools may be parts of it.
pub(super) fn content(row: &Row, place: &str, value: Value) -> Result<Content, DataError> {
    let Value::Array(parts) = value else {
        return Ok(Content {
            text: text(row, place, "content", value)?,
            thinking: None,
            calls: Vec::new(),
        });
    };
    let mut out = Content {
        text: Text::whole(String::new()),
        thinking: None,
        calls: Vec::new(),
    };
    for (index, part) in parts.into_iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        match kind(row, &place, &part)? {
            Part::Text => out.text.push(row, &place, &part)?,
            Part::Thinking => {
                let thinking = out
                    .thinking
                    .get_or_insert_with(|| Text::whole(String::new()));
                thinking.push(row, &place, &part)?;
            }
            Part::Calls => {
                let Value::Object(mut part) = part else {
                    continue;
                };
                part.shift_remove("type");
                let given = ["value", "tool_call", "function_call"];
                let given = given.iter().find_map(|key| part.shift_remove(*key));
                let value = given.unwrap_or(Value::Object(part));
                let calls = calls::of_value(row, &place, value)?;
                if let Value::Array(calls) = calls {
                    out.calls.extend(calls);
                }
            }
        }
    }
    Ok(out)
}

fn kind(row: &Row, place: &str, part: &Value) -> Result<Part, DataError> {
    let Some(kind) = part.get("type").and_then(Value::as_str) else {
        return Ok(match part.get("thinking").is_some_and(Value::is_string) {
            true => Part::Thinking,
            false => Part::Text,
        });
    };
    Ok(match kind {
        "text" => Part::Text,
        "thinking" | "reasoning" => Part::Thinking,
        "tool_call" | "function_call" | "tool_use" => Part::Calls,
        _ => return Err(no_text(row, place, part)),
    })
}

fn no_text(row: &Row, place: &str, part: &Value) -> DataError {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    row_error(
        row,
        format!(
            "`{place}` is of type `{kind}`; only parts of text can be trained on: take it out, or put text in its place"
        ),
    )
}

impl Text {
    fn whole(text: String) -> Self {
        Self {
            text,
            parts: Vec::new(),
        }
    }

    /// Adds a part, a text or an object with one.
    fn push(&mut self, row: &Row, place: &str, part: &Value) -> Result<(), DataError> {
        let start = self.text.len();
        let train = match part {
            Value::String(text) => {
                self.text.push_str(text);
                None
            }
            Value::Object(part) => {
                let keys = ["text", "value", "thinking", "reasoning"];
                let text = keys.iter().find_map(|key| part.get(*key)?.as_str());
                let text = text.ok_or_else(|| {
                    row_error(
                        row,
                        format!("`{place}` has no text; a part is `{{type: text, text: ...}}`"),
                    )
                })?;
                self.text.push_str(text);
                flag(row, place, part)?
            }
            other => return Err(row.wrong_type(place, "an object with a text", other)),
        };
        self.parts.push((start..self.text.len(), train));
        Ok(())
    }
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
                    other => crate::error::kind(other).to_owned(),
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
