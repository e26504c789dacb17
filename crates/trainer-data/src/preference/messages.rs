//! Columns of preference rows as the turns of a conversation.
//!
//! Messages are read as those of supervised rows are, by the same reader: names of
//! properties and roles, parts of contents, calls of tools, reasoning.

use serde_json::Value;
use trainer_config::{Config, Dataset};

use crate::source::Row;
use crate::strategy::chat::{Conversation, Fields, Turn};
use crate::{DataError, values};

/// What the column of an answer has to be.
pub(super) const ANSWER: &str = "a list of messages that ends with the answer";

pub(super) struct Messages {
    fields: Fields,
    /// The column of the messages, where the configuration names it.
    named: Option<String>,
    drop_system: bool,
    /// Names of role and content in the data.
    names: [String; 2],
    /// Name under which a turn holds its reasoning.
    thinking_key: String,
}

/// Which column holds a system message where the configuration names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// None.
    Named,
    /// `system`, where it holds text.
    Column,
    /// `system`, where it is there: an empty text is a message too.
    EvenEmpty,
}

impl Messages {
    pub(super) fn new(
        config: &Config,
        dataset: &Dataset,
        system: System,
    ) -> Result<Self, DataError> {
        let mut dataset = dataset.clone();
        if system != System::Named && dataset.field_system.is_none() {
            dataset.field_system = Some("system".to_owned());
        }
        let mappings = dataset.message_property_mappings.as_ref();
        let name = |property: &str| {
            let mapped = mappings.and_then(|names| names.get(property));
            mapped.map_or(property, String::as_str).to_owned()
        };
        let reasoning = dataset.template_thinking_key.as_deref();
        Ok(Self {
            fields: Fields::new(config, &dataset)?,
            names: [name("role"), name("content")],
            thinking_key: reasoning.unwrap_or("reasoning_content").to_owned(),
            drop_system: dataset.drop_system_message == Some(true),
            named: dataset.field_messages,
        })
    }

    /// Name under which a turn holds its reasoning.
    pub(super) fn thinking_key(&self) -> &str {
        &self.thinking_key
    }

    /// The column of the messages of a row.
    pub(super) fn column(&self, row: &Row) -> &str {
        self.fields.messages_column(row)
    }

    /// The column of the tools, where it holds any.
    pub(super) fn tools(&self, row: &Row) -> Option<&str> {
        let column = self.fields.tools_column();
        let there = row.columns.get(column).is_some_and(|value| match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            Value::String(text) => !matches!(text.trim(), "" | "[]" | "null"),
            _ => true,
        });
        there.then_some(column)
    }

    /// Messages with the system message and the tools of their row.
    pub(super) fn conversation(
        &self,
        row: &Row,
        turns: Vec<Turn>,
        system: System,
    ) -> Result<Conversation, DataError> {
        let first = turns.first().is_some_and(|turn| turn.role == "system");
        if system != System::Named && first && !self.drop_system {
            let column = row.columns.get("system").and_then(Value::as_str);
            if column.is_some_and(|text| !text.is_empty()) {
                return Err(row_error(
                    row,
                    "there are two system messages, in the column `system` and at the start of the conversation; set `drop_system_message: true`, or take one of them out",
                ));
            }
        }
        let mut conversation = self.fields.conversation(row, turns)?;
        if system == System::Column
            && let Some(turn) = conversation.turns.first()
            && turn.role == "system"
            && turn.content() == Some("")
        {
            conversation.turns.remove(0);
        }
        Ok(conversation)
    }

    /// The messages that come before the answers, where a column of their own holds
    /// them: the list, or the text of a user.
    pub(super) fn prompt(&self, row: &Row) -> Result<Option<(&str, Vec<Turn>)>, DataError> {
        let names = [self.column(row), "prompt"];
        let names = &names[..if self.named.is_some() { 1 } else { 2 }];
        let Some(column) = names.iter().copied().find(|column| has(row, column)) else {
            return Ok(None);
        };
        let value = row.columns.get(column).unwrap_or(&Value::Null);
        let turns = match value {
            Value::String(text) if !self.is_written(text) => {
                vec![Turn::new(column, "user", text)]
            }
            Value::String(_) | Value::Array(_) => self.whole(row, column, value)?,
            other => return Err(row.wrong_type(column, "text or a list of messages", other)),
        };
        Ok(Some((column, turns)))
    }

    /// Whether a text is the JSON of a list of messages.
    fn is_written(&self, text: &str) -> bool {
        let [role, _] = &self.names;
        let list = text.trim_start().starts_with('[');
        let list = list.then(|| values::parse(text).ok()).flatten();
        let list = list.as_ref().and_then(Value::as_array);
        list.is_some_and(|list| {
            !list.is_empty() && list.iter().all(|message| message.get(role).is_some())
        })
    }

    /// The turns of a list of messages.
    pub(super) fn list(
        &self,
        row: &Row,
        column: &str,
        list: &[Value],
    ) -> Result<Vec<Turn>, DataError> {
        let messages = list.iter().enumerate();
        messages
            .map(|(index, message)| self.turn(row, format!("{column}[{index}]"), message))
            .collect()
    }

    fn turn(&self, row: &Row, place: String, message: &Value) -> Result<Turn, DataError> {
        Ok(untrained(self.fields.message(row, place, message)?))
    }

    /// An answer with what its column holds before it: a text, a message, or a
    /// conversation that ends with it.
    pub(super) fn answer(
        &self,
        row: &Row,
        column: &str,
        value: &Value,
    ) -> Result<Vec<Turn>, DataError> {
        match value {
            Value::String(text) => {
                let [role, content] = &self.names;
                // Through the reader, which may take the reasoning out of it.
                let message = serde_json::json!({role: "assistant", content: text});
                Ok(vec![self.turn(row, column.to_owned(), &message)?])
            }
            Value::Object(_) => Ok(vec![self.turn(row, column.to_owned(), value)?]),
            Value::Array(list) => self.list(row, column, list),
            other => Err(row.wrong_type(column, "text, a message or a list of messages", other)),
        }
    }

    /// A list of messages, or the JSON of one.
    pub(super) fn whole(
        &self,
        row: &Row,
        column: &str,
        value: &Value,
    ) -> Result<Vec<Turn>, DataError> {
        let turns = self.fields.messages(row, column, value)?;
        Ok(turns.into_iter().map(untrained).collect())
    }

    /// Takes the answer off the end of a conversation.
    pub(super) fn last(
        &self,
        row: &Row,
        column: &str,
        turns: &mut Vec<Turn>,
    ) -> Result<Turn, DataError> {
        let Some(mut turn) = turns.pop() else {
            return Err(row.wrong_type(column, ANSWER, &Value::Array(Vec::new())));
        };
        if !turn.is_assistant() {
            return Err(row_error(
                row,
                format!(
                    "`{}` is of role `{}`, but an answer is the assistant's; `roles` says which names stand for it",
                    turn.place, turn.role
                ),
            ));
        }
        turn.trained = true;
        Ok(turn)
    }

    /// Where an answer's column repeats messages of the prompt, they have to be those
    /// that the prompt ends with.
    pub(super) fn repeats(
        &self,
        row: &Row,
        prompt: &str,
        history: &[Turn],
        column: &str,
        turns: &[Turn],
    ) -> Result<(), DataError> {
        let from = history.len().checked_sub(turns.len());
        let there = from.map(|from| &history[from..]);
        if there.is_some_and(|there| same(there, turns)) {
            return Ok(());
        }
        Err(row_error(
            row,
            format!(
                "`{column}` has messages before its last that are not those at the end of `{prompt}`; an answer is one message of the assistant: move what comes before it into `{prompt}`"
            ),
        ))
    }

    /// The messages before the answer, which both conversations share.
    pub(super) fn shared(&self, row: &Row, before: Vec<Vec<Turn>>) -> Result<Vec<Turn>, DataError> {
        let mut all = before.into_iter();
        let history = all.next().unwrap_or_default();
        if all.any(|other| !same(&other, &history)) {
            return Err(row_error(row, OTHER_HISTORY));
        }
        Ok(history)
    }
}

/// What is learned of an answer is all of it, and of other turns nothing.
fn untrained(mut turn: Turn) -> Turn {
    turn.trained = false;
    turn.masked.clear();
    turn.masked_thinking.clear();
    turn
}

/// Whether a row has a column, and something in it.
pub(super) fn has(row: &Row, column: &str) -> bool {
    row.columns
        .get(column)
        .is_some_and(|value| !value.is_null())
}

/// Whether messages are the same, whatever their place.
fn same(one: &[Turn], other: &[Turn]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.message == b.message)
}

/// Conversations that are answers to different questions.
const OTHER_HISTORY: &str = "`chosen` and `rejected` differ before their last message, so they are no answers to the same prompt";

pub(super) fn row_error(row: &Row, message: impl Into<String>) -> DataError {
    DataError::Row {
        at: row.at.clone(),
        message: message.into(),
    }
}
