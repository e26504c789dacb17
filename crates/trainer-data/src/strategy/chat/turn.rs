//! One message: names, roles, reasoning, calls of tools, and what is trained.

use std::ops::Range;

use serde_json::{Map, Value};

use super::calls;
use super::conversation::{Turn, row_error};
use super::fields::Fields;
use super::parts::{self, Text, detail, untrained};
use super::thinking;
use crate::DataError;
use crate::ledger::Note;
use crate::source::Row;

/// Properties by which some data sets say that a message is trained or not.
const FLAGS: [&str; 2] = ["loss_weight", "weight"];

/// Who speaks in a message.
struct Role {
    /// As templates know it.
    name: String,
    /// What it is in the data, where that says more than who speaks.
    own: Option<(calls::Role, String)>,
}

impl Fields {
    pub(super) fn turn(
        &self,
        row: &Row,
        place: String,
        message: &Value,
    ) -> Result<Turn, DataError> {
        let Value::Object(message) = message else {
            return Err(row.wrong_type(place, "an object with a role and a content", message));
        };
        let mut out = self.named(message);
        let Role { name: role, own } = self.role(row, &place, &mut out, message)?;
        if matches!(own, Some((calls::Role::Calls, _))) {
            self.take_calls(row, &place, &mut out)?;
        }
        calls::normalize(row, &place, &mut out)?;
        let mut parts = match out.get_mut("content").map(Value::take) {
            // Turns that only call tools have no content.
            None if out.contains_key("tool_calls") => None,
            None => return Err(self.no_property(row, &place, "content", message)),
            Some(value) => Some(parts::content(row, &place, value)?),
        };
        if let Some(parts) = parts.as_mut().filter(|parts| !parts.calls.is_empty()) {
            let calls = out
                .entry("tool_calls")
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(calls) = calls {
                calls.append(&mut parts.calls);
            }
            calls::normalize(row, &place, &mut out)?;
        }
        let of_parts = parts.as_mut().and_then(|parts| parts.thinking.take());
        let content = parts.map(|parts| parts.text);
        if of_parts.is_some() && out.contains_key(&self.thinking_key) {
            return Err(row_error(
                row,
                format!(
                    "`{place}` has its reasoning twice, as `{}` and as parts of the content; keep one",
                    self.thinking
                ),
            ));
        }
        let thinking = match out.get_mut(&self.thinking_key) {
            Some(value) if role == "assistant" => {
                Some(parts::text(row, &place, &self.thinking_key, value.take())?)
            }
            Some(_) => None,
            None => of_parts.inspect(|_| {
                // Filled in below.
                out.insert(self.thinking_key.clone(), Value::Null);
            }),
        };
        let calls = out.contains_key("tool_calls");
        let silent = content.as_ref().is_none_or(|text| text.text.is_empty())
            && thinking.as_ref().is_none_or(|text| text.text.is_empty())
            && !calls;
        let mut turn = Turn {
            trained: self.trains(&role) || own.is_some_and(|(_, name)| self.trains(&name)),
            role,
            masked: Vec::new(),
            masked_thinking: Vec::new(),
            message: out,
            place,
        };
        let detail = match self
            .detail
            .as_deref()
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
        if let Some(name) = self.training.as_deref() {
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
        for (key, text) in [("content", content), (&self.thinking_key, thinking)] {
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

    /// The role of a message, under the name that templates know.
    fn role(
        &self,
        row: &Row,
        place: &str,
        out: &mut Map<String, Value>,
        message: &Map<String, Value>,
    ) -> Result<Role, DataError> {
        let name = match out.get_mut("role") {
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(row.wrong_type(format!("{place}.role"), "text", other));
            }
            None => return Err(self.no_property(row, place, "role", message)),
        };
        let mut own = None;
        if let Some(other) = self.roles.get(name.as_str()) {
            name.clone_from(other);
        } else if let Some(role) = calls::role_of(name) {
            let known = match role {
                calls::Role::Calls => "assistant",
                calls::Role::Result => "tool",
            };
            own = Some((role, std::mem::replace(name, known.to_owned())));
        }
        Ok(Role {
            name: name.clone(),
            own,
        })
    }

    /// Makes calls of tools of the content of a message whose role says that it is
    /// one. Reasoning may stand in front of them.
    fn take_calls(
        &self,
        row: &Row,
        place: &str,
        out: &mut Map<String, Value>,
    ) -> Result<(), DataError> {
        if out.contains_key("tool_calls") || out.contains_key("function_call") {
            return Ok(());
        }
        // Parts are looked at one by one.
        let is_parts = |value: &Value| {
            let list = value.as_array().map_or(&[][..], Vec::as_slice);
            list.iter()
                .any(|part| part.get("type").is_some() && part.get("name").is_none())
        };
        let Some(mut value) = out.get("content").filter(|value| !is_parts(value)).cloned() else {
            return Ok(());
        };
        if let Value::String(text) = &value
            && let Some(parts) = thinking::split(text)
        {
            out.entry(self.thinking_key.clone())
                .or_insert_with(|| Value::from(parts.thinking));
            value = Value::from(parts.content);
        }
        let calls = calls::of_value(row, &format!("{place}.content"), value)?;
        out.insert("tool_calls".to_owned(), calls);
        out.shift_remove("content");
        Ok(())
    }

    /// The properties of a message under the names that templates use, without those
    /// that are null and without what only says what is trained.
    fn named(&self, message: &Map<String, Value>) -> Map<String, Value> {
        let mut out = Map::new();
        for (property, name) in &self.properties {
            let name = self.name_in(message, property, name);
            if let Some(value) = message.get(name).filter(|value| !value.is_null()) {
                out.insert(property.clone(), value.clone());
            }
        }
        for (name, value) in message {
            let mapped = self
                .properties
                .iter()
                .any(|(property, source)| self.name_in(message, property, source) == name);
            let training = [&self.training, &self.detail]
                .iter()
                .any(|key| key.as_ref() == Some(name));
            let key = if *name == self.thinking {
                &self.thinking_key
            } else {
                name
            };
            if !mapped && !training && !value.is_null() && !out.contains_key(key) {
                out.insert(key.clone(), value.clone());
            }
        }
        out
    }

    /// The name of a property in a message: that of ShareGPT where the configuration
    /// names none and the message is written so.
    fn name_in<'n>(
        &self,
        message: &Map<String, Value>,
        property: &'n str,
        name: &'n str,
    ) -> &'n str {
        let is_sharegpt = || {
            message.get("from").is_some_and(Value::is_string)
                && !message.contains_key("role")
                && !message.contains_key("content")
        };
        match property {
            "role" if name == property && is_sharegpt() => "from",
            "content" if name == property && is_sharegpt() => "value",
            _ => name,
        }
    }

    /// Says so where a message has a flag that would be natural to read, that nothing
    /// reads, and that says otherwise.
    pub(super) fn unheeded(&self, turn: &Turn) -> Option<Note> {
        if self.training.is_some() {
            return None;
        }
        FLAGS.into_iter().find_map(|name| {
            let wanted = match turn.message.get(name)? {
                Value::Bool(wanted) => *wanted,
                Value::Number(number) => match number.as_f64() {
                    Some(0.0) => false,
                    Some(1.0) => true,
                    _ => return None,
                },
                _ => return None,
            };
            let message = format!(
                "messages have a property `{name}` that says what is trained, and the roles say otherwise: it is not read; set `message_field_training: {name}`"
            );
            let silent = turn.content().is_none_or(str::is_empty) && !turn.calls_tools();
            (wanted != turn.trained && !silent).then(|| Note::new(message, &turn.place))
        })
    }

    /// Moves reasoning between tags out of the content.
    fn split(&self, row: &Row, turn: &mut Turn) -> Result<(), DataError> {
        if turn.message.contains_key(&self.thinking_key) {
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
        turn.message.insert(self.thinking_key.clone(), thinking);
        Ok(())
    }

    fn no_property(
        &self,
        row: &Row,
        place: &str,
        property: &str,
        message: &Map<String, Value>,
    ) -> DataError {
        let name = self
            .properties
            .get(property)
            .map_or(property, String::as_str);
        let name = self.name_in(message, property, name);
        let found: Vec<_> = message.keys().map(|key| format!("`{key}`")).collect();
        let found = match message.get(name) {
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
