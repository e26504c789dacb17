//! A row as a conversation: names, roles, tools, reasoning, and what is trained.
//!
//! Invariants of a [`Conversation`]: every message has a `role`; its `content`,
//! where it has one, is text; nulls are gone at every depth; tool calls have
//! arguments that are JSON, not text; reasoning stands under the name that the
//! template reads.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};
use trainer_config::{Config, Dataset};

use super::NAME;
use super::parts::{Text, detail, text, untrained};
use super::thinking;
use crate::DataError;
use crate::source::Row;

/// What the configuration says about the columns and properties of rows.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub(super) messages: &'a str,
    tools: &'a str,
    system: Option<&'a str>,
    default_system: Option<String>,
    drop_system: bool,
    /// Name in the data of each property of a message that has another name.
    properties: BTreeMap<&'a str, &'a str>,
    /// The role that each other name stands for.
    roles: BTreeMap<&'a str, &'a str>,
    roles_to_train: Vec<&'a str>,
    train_on_inputs: bool,
    training: Option<&'a str>,
    detail: Option<&'a str>,
    thinking: &'a str,
    /// Name under which templates read the reasoning.
    pub(super) thinking_key: &'a str,
    split_thinking: bool,
    /// Whether the configuration speaks of reasoning, so that losing it is wrong.
    pub(super) expects_thinking: bool,
}

/// The messages of one row, ready to be rendered.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) turns: Vec<Turn>,
    pub(super) tools: Option<Value>,
}

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    /// Its place in the row, for messages: `messages[3]`.
    pub(super) place: String,
    pub(super) role: String,
    /// What the template sees.
    pub(super) message: Map<String, Value>,
    /// Whether any of it is trained.
    pub(super) trained: bool,
    /// Bytes of the content that are not, where only a part is.
    pub(super) masked: Vec<Range<usize>>,
    /// Bytes of the reasoning that are not.
    pub(super) masked_thinking: Vec<Range<usize>>,
}

impl Turn {
    pub(super) fn content(&self) -> Option<&str> {
        self.message.get("content")?.as_str()
    }

    pub(super) fn calls_tools(&self) -> bool {
        self.message
            .get("tool_calls")
            .and_then(Value::as_array)
            .is_some_and(|calls| !calls.is_empty())
    }

    pub(super) fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(config: &'a Config, dataset: &'a Dataset) -> Result<Self, DataError> {
        let mut roles = BTreeMap::from([("human", "user"), ("gpt", "assistant")]);
        for (role, names) in dataset.roles.iter().flatten() {
            roles.extend(names.iter().map(|name| (name.as_str(), role.as_str())));
        }
        let mut properties = BTreeMap::from([("role", "role"), ("content", "content")]);
        for (property, name) in dataset.message_property_mappings.iter().flatten() {
            properties.insert(property, name);
        }
        Ok(Self {
            messages: dataset.field_messages.as_deref().unwrap_or("messages"),
            tools: dataset.field_tools.as_deref().unwrap_or("tools"),
            system: dataset.field_system.as_deref(),
            default_system: default_system(config)?,
            drop_system: dataset.drop_system_message == Some(true),
            properties,
            roles,
            roles_to_train: match &dataset.roles_to_train {
                Some(roles) => roles.iter().map(String::as_str).collect(),
                None => vec!["assistant"],
            },
            train_on_inputs: config.train_on_inputs,
            training: dataset.message_field_training.as_deref(),
            detail: dataset.message_field_training_detail.as_deref(),
            thinking: dataset
                .field_thinking
                .as_deref()
                .unwrap_or("reasoning_content"),
            thinking_key: dataset
                .template_thinking_key
                .as_deref()
                .unwrap_or("reasoning_content"),
            split_thinking: dataset.split_thinking == Some(true),
            expects_thinking: dataset.split_thinking == Some(true)
                || dataset.field_thinking.is_some()
                || dataset.template_thinking_key.is_some(),
        })
    }

    /// The conversation of a row; without turns if its list is empty.
    pub(super) fn read(&self, row: &Row) -> Result<Conversation, DataError> {
        let value = row.column(
            self.messages,
            NAME,
            "; `field_messages` names the column of the messages",
        )?;
        let parsed;
        let list = match value {
            Value::Array(list) => list,
            Value::String(text) => {
                parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|error| {
                    bad_json(row, self.messages, "a list of messages", value, &error)
                })?;
                &parsed
            }
            other => return Err(row.wrong_type(self.messages, "a list of messages", other)),
        };
        let mut turns = list
            .iter()
            .enumerate()
            .map(|(index, message)| self.turn(row, index, message))
            .collect::<Result<Vec<_>, _>>()?;
        self.system(row, &mut turns)?;
        Ok(Conversation {
            turns,
            tools: self.tools(row)?,
        })
    }

    fn tools(&self, row: &Row) -> Result<Option<Value>, DataError> {
        let value = match row.columns.get(self.tools) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let expected = "a list of tools";
        let tools = match value {
            Value::Array(_) => without_nulls(value),
            Value::String(text) if text.trim().is_empty() => return Ok(None),
            Value::String(text) => {
                let parsed: Vec<Value> = serde_json::from_str(text)
                    .map_err(|error| bad_json(row, self.tools, expected, value, &error))?;
                without_nulls(&Value::Array(parsed))
            }
            other => return Err(row.wrong_type(self.tools, expected, other)),
        };
        // An empty list would make templates write the introduction of no tools.
        let some = tools.as_array().is_some_and(|tools| !tools.is_empty());
        Ok(some.then_some(tools))
    }

    /// Leaves out or puts in the system message.
    fn system(&self, row: &Row, turns: &mut Vec<Turn>) -> Result<(), DataError> {
        if turns.is_empty() {
            return Ok(());
        }
        if self.drop_system && turns[0].role == "system" {
            turns.remove(0);
        }
        let column = match self.system.map(|name| (name, row.columns.get(name))) {
            None | Some((_, None | Some(Value::Null))) => None,
            Some((_, Some(Value::String(text)))) => Some(text.as_str()),
            Some((name, Some(other))) => return Err(row.wrong_type(name, "text", other)),
        };
        let first = turns.first().map(|turn| turn.role.as_str());
        let text = match (column, first) {
            (Some(_), Some("system")) => {
                return Err(row_error(
                    row,
                    format!(
                        "there are two system messages, in the column `{}` and at the start of `{}`; set `drop_system_message: true`, or remove `field_system`",
                        self.system.unwrap_or_default(),
                        self.messages
                    ),
                ));
            }
            (None, Some("system")) => return Ok(()),
            (column, _) => column.or(self.default_system.as_deref()),
        };
        if let Some(text) = text {
            let mut message = Map::new();
            message.insert("role".to_owned(), Value::from("system"));
            message.insert("content".to_owned(), Value::from(text));
            turns.insert(
                0,
                Turn {
                    place: match column {
                        Some(_) => self.system.unwrap_or_default().to_owned(),
                        None => "default_system_message".to_owned(),
                    },
                    role: "system".to_owned(),
                    message,
                    trained: !text.is_empty() && self.trains("system"),
                    masked: Vec::new(),
                    masked_thinking: Vec::new(),
                },
            );
        }
        Ok(())
    }

    fn trains(&self, role: &str) -> bool {
        self.train_on_inputs || self.roles_to_train.contains(&role)
    }

    fn turn(&self, row: &Row, index: usize, message: &Value) -> Result<Turn, DataError> {
        let place = format!("{}[{index}]", self.messages);
        let Value::Object(message) = message else {
            return Err(row.wrong_type(place, "an object with a role and a content", message));
        };
        let mut out = self.named(message);
        let role = match out.get_mut("role") {
            Some(Value::String(role)) => {
                if let Some(other) = self.roles.get(role.as_str()) {
                    *role = (*other).to_owned();
                }
                role.clone()
            }
            Some(other) => {
                return Err(row.wrong_type(format!("{place}.role"), "text", other));
            }
            None => return Err(self.no_property(row, &place, "role", message)),
        };
        calls(row, &place, &mut out)?;
        let calls = out.contains_key("tool_calls") || out.contains_key("function_call");
        let content = match out.get_mut("content") {
            // Turns that only call tools have no content.
            None if calls => None,
            None => return Err(self.no_property(row, &place, "content", message)),
            Some(value) => Some(text(row, &place, "content", value.take())?),
        };
        let thinking = match out.get_mut(self.thinking_key) {
            Some(value) if role == "assistant" => {
                Some(text(row, &place, self.thinking_key, value.take())?)
            }
            _ => None,
        };
        let silent = content.as_ref().is_none_or(|text| text.text.is_empty())
            && thinking.as_ref().is_none_or(|text| text.text.is_empty())
            && !calls;
        let mut turn = Turn {
            trained: self.trains(&role),
            role,
            masked: Vec::new(),
            masked_thinking: Vec::new(),
            message: out,
            place,
        };
        let detail = match self
            .detail
            .and_then(|name| Some((name, message.get(name)?)))
        {
            None | Some((_, Value::Null)) => None,
            Some((name, value)) => Some(detail(row, &turn.place, name, value, &content)?),
        };
        if let Some(detail) = detail {
            turn.trained = detail.iter().any(|(_, train)| *train);
            let length = content.as_ref().map_or(0, |text| text.text.len());
            turn.masked = untrained(&detail, length);
        } else {
            let inherited = turn.trained;
            let parts = || {
                let texts = content.iter().chain(&thinking);
                texts.flat_map(|text| &text.parts)
            };
            // A part speaks for itself, the others follow the role.
            if parts().any(|(_, train)| train.is_some()) {
                turn.trained = parts().any(|(_, train)| train.unwrap_or(inherited))
                    || (inherited && turn.calls_tools());
                let masked = |text: &Option<Text>| -> Vec<Range<usize>> {
                    let parts = text.iter().flat_map(|text| &text.parts);
                    parts
                        .filter(|(range, train)| !range.is_empty() && !train.unwrap_or(inherited))
                        .map(|(range, _)| range.clone())
                        .collect()
                };
                turn.masked = masked(&content);
                turn.masked_thinking = masked(&thinking);
            }
        }
        if let Some(name) = self.training {
            match message.get(name) {
                None | Some(Value::Null) => {}
                Some(Value::Bool(train)) => turn.trained = *train,
                Some(Value::Number(n)) if n.as_f64() == Some(0.0) => turn.trained = false,
                Some(Value::Number(n)) if n.as_f64() == Some(1.0) => turn.trained = true,
                Some(other) => {
                    return Err(row.wrong_type(
                        format!("{}.{name}", turn.place),
                        "true or false",
                        other,
                    ));
                }
            }
        }
        turn.trained &= !silent;
        for (key, text) in [("content", content), (self.thinking_key, thinking)] {
            // It was taken from there.
            if let (Some(text), Some(value)) = (text, turn.message.get_mut(key)) {
                *value = Value::from(text.text);
            }
        }
        if self.split_thinking && turn.is_assistant() {
            self.split(row, &mut turn)?;
        }
        Ok(turn)
    }

    /// The properties of a message under the names that templates use, without
    /// nulls and without what only says what is trained.
    fn named(&self, message: &Map<String, Value>) -> Map<String, Value> {
        let mut out = Map::new();
        for (property, name) in &self.properties {
            if let Some(value) = message.get(*name).filter(|value| !value.is_null()) {
                out.insert((*property).to_owned(), without_nulls(value));
            }
        }
        for (name, value) in message {
            let mapped = self.properties.values().any(|source| source == name);
            let training = [self.training, self.detail].contains(&Some(name.as_str()));
            let key = if name == self.thinking {
                self.thinking_key
            } else {
                name
            };
            if !mapped && !training && !value.is_null() && !out.contains_key(key) {
                out.insert(key.to_owned(), without_nulls(value));
            }
        }
        out
    }

    /// Moves reasoning between tags out of the content.
    fn split(&self, row: &Row, turn: &mut Turn) -> Result<(), DataError> {
        if turn.message.contains_key(self.thinking_key) {
            return Ok(());
        }
        let Some(parts) = turn.content().and_then(thinking::split) else {
            return Ok(());
        };
        if !turn.masked.is_empty() {
            return Err(row_error(
                row,
                format!(
                    "`{}` has reasoning that `split_thinking` takes out of the content, and parts of the content that are not trained; give the reasoning as `{}`",
                    turn.place, self.thinking
                ),
            ));
        }
        let (thinking, content) = (Value::from(parts.thinking), Value::from(parts.content));
        turn.message.insert("content".to_owned(), content);
        turn.message.insert(self.thinking_key.to_owned(), thinking);
        Ok(())
    }

    fn no_property(
        &self,
        row: &Row,
        place: &str,
        property: &str,
        message: &Map<String, Value>,
    ) -> DataError {
        let name = self.properties.get(property).unwrap_or(&property);
        let found: Vec<_> = message.keys().map(|key| format!("`{key}`")).collect();
        let found = match message.get(*name) {
            Some(_) => "null there".to_owned(),
            None if found.is_empty() => "nothing".to_owned(),
            None => found.join(", "),
        };
        row_error(
            row,
            format!(
                "`{place}` has no `{name}`; it has {found}; `message_property_mappings` says which property holds the {property}"
            ),
        )
    }
}

pub(super) fn row_error(row: &Row, message: String) -> DataError {
    DataError::Row {
        at: row.at.clone(),
        message,
    }
}

/// Text that should have been JSON.
fn bad_json(
    row: &Row,
    what: &str,
    expected: &'static str,
    value: &Value,
    error: &serde_json::Error,
) -> DataError {
    match error.classify() {
        // JSON, but not a list.
        serde_json::error::Category::Data => row.wrong_type(what, expected, value),
        _ => row_error(
            row,
            format!("`{what}` has to be {expected}, but is text that is not JSON ({error})"),
        ),
    }
}

/// `default_system_message`, read from the file that it may name.
pub(super) fn default_system(config: &Config) -> Result<Option<String>, DataError> {
    let Some(text) = &config.default_system_message else {
        return Ok(None);
    };
    let path = std::path::Path::new(text);
    if text.contains('\n') || !path.is_file() {
        return Ok(Some(text.clone()));
    }
    let read = std::fs::read_to_string(path).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(read.trim_end_matches('\n').to_owned()))
}

/// Parses the arguments of tool calls where they are given as text.
fn calls(row: &Row, place: &str, message: &mut Map<String, Value>) -> Result<(), DataError> {
    if let Some(Value::String(text)) = message.get("tool_calls") {
        let place = format!("{place}.tool_calls");
        let parsed: Vec<Value> = serde_json::from_str(text).map_err(|error| {
            bad_json(
                row,
                &place,
                "a list of calls",
                &Value::from(text.as_str()),
                &error,
            )
        })?;
        let parsed = without_nulls(&Value::Array(parsed));
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
                let place = format!("{place}.tool_calls[{index}]");
                let call = match call {
                    Value::Object(call) => call,
                    other => return Err(row.wrong_type(place, "an object", other)),
                };
                let (place, inner) = match call.get("function") {
                    Some(Value::Object(_)) => (format!("{place}.function"), true),
                    _ => (place, false),
                };
                let holder = if inner {
                    call.get_mut("function").and_then(Value::as_object_mut)
                } else {
                    Some(call)
                };
                if let Some(arguments) = holder.and_then(|call| call.get_mut("arguments"))
                    && let Value::String(text) = &*arguments
                {
                    let parsed: Value = serde_json::from_str(text).map_err(|error| {
                        row_error(
                            row,
                            format!(
                                "`{place}.arguments` is text that is not JSON ({error}); give an object, or the JSON of one"
                            ),
                        )
                    })?;
                    *arguments = without_nulls(&parsed);
                }
            }
            Ok(())
        }
        Some(other) => Err(row.wrong_type(format!("{place}.tool_calls"), "a list of calls", other)),
    }
}

/// Columns of structs hold null where a row lacks the entry; templates that
/// ask whether an entry is there must not see those.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        Value::Array(values) => values.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}
