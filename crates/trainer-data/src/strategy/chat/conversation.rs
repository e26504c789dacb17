//! The messages of one row, ready to be rendered.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::ledger::Note;
use crate::source::Row;
use crate::{DataError, values};

/// The messages of one row and the tools that may be called in them.
///
/// Invariants: every message has a `role`; its `content`, where it has one, is
/// text; calls of tools stand in `tool_calls` and have arguments that are JSON, not
/// text; reasoning stands under the name that the template reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    pub(crate) turns: Vec<Turn>,
    pub(crate) tools: Option<Value>,
    /// What reading the row found that is no error.
    pub(crate) notes: Vec<Note>,
}

/// One message.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    /// Its place in the row, for messages: `messages[3]`.
    pub(crate) place: String,
    pub(crate) role: String,
    /// What the template sees.
    pub(crate) message: Map<String, Value>,
    /// Whether any of it is trained.
    pub(crate) trained: bool,
    /// Bytes of the content that are not, where only a part is.
    pub(crate) masked: Vec<Range<usize>>,
    /// Bytes of the reasoning that are not.
    pub(crate) masked_thinking: Vec<Range<usize>>,
}

impl Turn {
    /// A message of a role and a text.
    pub(crate) fn new(place: impl Into<String>, role: &str, content: &str) -> Self {
        let mut message = Map::new();
        message.insert("role".to_owned(), Value::from(role));
        message.insert("content".to_owned(), Value::from(content));
        Self {
            place: place.into(),
            role: role.to_owned(),
            message,
            trained: false,
            masked: Vec::new(),
            masked_thinking: Vec::new(),
        }
    }

    pub(crate) fn content(&self) -> Option<&str> {
        self.message.get("content")?.as_str()
    }

    /// The calls of tools.
    pub(crate) fn calls(&self) -> &[Value] {
        let calls = self.message.get("tool_calls").and_then(Value::as_array);
        calls.map_or(&[], Vec::as_slice)
    }

    pub(crate) fn calls_tools(&self) -> bool {
        !self.calls().is_empty()
    }

    pub(crate) fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }
}

pub(super) fn row_error(row: &Row, message: String) -> DataError {
    DataError::Row {
        at: row.at.clone(),
        message,
    }
}

/// Text that should have been JSON.
pub(super) fn bad_json(
    row: &Row,
    what: &str,
    expected: &'static str,
    value: &Value,
    error: Option<&serde_json::Error>,
) -> DataError {
    match error {
        Some(error) => row_error(
            row,
            format!("`{what}` has to be {expected}, but is text that is not JSON ({error})"),
        ),
        // JSON of another type.
        None => row.wrong_type(what, expected, value),
    }
}

/// The object or list that a text is the JSON of, if it is.
pub(super) fn container(text: &str) -> Option<Value> {
    match text.trim_start().starts_with(['{', '[']) {
        true => values::parse(text).ok(),
        false => None,
    }
}
