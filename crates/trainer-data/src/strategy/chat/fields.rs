//! What the configuration says about the columns and properties of rows.

use std::collections::BTreeMap;

use serde_json::Value;
use trainer_config::{Config, Dataset};

use super::conversation::{Conversation, Turn, bad_json, row_error};
use super::{NAME, media, tools};
use crate::ledger::Note;
use crate::source::Row;
use crate::{DataError, values};

/// Column of ShareGPT's data, read where the configuration names none.
const SHAREGPT: &str = "conversations";

/// Columns that belong to conversations in some data sets, and how they can be read.
const UNREAD: [(&str, &str); 5] = [
    (
        "system",
        "`field_system: system` makes it the system message",
    ),
    ("functions", "`field_tools: functions` makes it the tools"),
    ("tools", "`field_tools: tools` makes it the tools"),
    ("documents", "chat templates are given no documents"),
    (
        "chat_template_kwargs",
        "`chat_template_kwargs` of the configuration sets variables of the template for all rows",
    ),
];

/// The reader of messages: names of columns, properties and roles, and what is
/// trained.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Column of the messages, where the configuration names one.
    messages: Option<String>,
    tools: String,
    system: Option<String>,
    default_system: Option<String>,
    drop_system: bool,
    /// Name in the data of each property of a message that has another name.
    pub(super) properties: BTreeMap<String, String>,
    /// The role that each other name stands for.
    pub(super) roles: BTreeMap<String, String>,
    roles_to_train: Vec<String>,
    train_on_inputs: bool,
    pub(super) training: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) thinking: String,
    /// Name under which templates read the reasoning.
    pub(super) thinking_key: String,
    pub(super) split_thinking: bool,
    /// Whether the configuration speaks of reasoning, so that losing it is wrong.
    pub(super) expects_thinking: bool,
}

impl Fields {
    pub(crate) fn new(config: &Config, dataset: &Dataset) -> Result<Self, DataError> {
        let own = |(name, role): (&str, &str)| (name.to_owned(), role.to_owned());
        let mut roles = BTreeMap::from([("human", "user"), ("gpt", "assistant")].map(own));
        for (role, names) in dataset.roles.iter().flatten() {
            roles.extend(names.iter().map(|name| (name.clone(), role.clone())));
        }
        let mut properties = BTreeMap::from([("role", "role"), ("content", "content")].map(own));
        for (property, name) in dataset.message_property_mappings.iter().flatten() {
            properties.insert(property.clone(), name.clone());
        }
        let reasoning = || "reasoning_content".to_owned();
        Ok(Self {
            messages: dataset.field_messages.clone(),
            tools: dataset
                .field_tools
                .clone()
                .unwrap_or_else(|| "tools".to_owned()),
            system: dataset.field_system.clone(),
            default_system: default_system(config)?,
            drop_system: dataset.drop_system_message == Some(true),
            properties,
            roles,
            roles_to_train: match &dataset.roles_to_train {
                Some(roles) => roles.clone(),
                None => vec!["assistant".to_owned()],
            },
            train_on_inputs: config.train_on_inputs,
            training: dataset.message_field_training.clone(),
            detail: dataset.message_field_training_detail.clone(),
            thinking: dataset.field_thinking.clone().unwrap_or_else(reasoning),
            thinking_key: dataset
                .template_thinking_key
                .clone()
                .unwrap_or_else(reasoning),
            split_thinking: dataset.split_thinking == Some(true),
            expects_thinking: dataset.split_thinking == Some(true)
                || dataset.field_thinking.is_some()
                || dataset.template_thinking_key.is_some(),
        })
    }

    /// Column of the messages of a row.
    pub(crate) fn messages_column(&self, row: &Row) -> &str {
        const DEFAULT: &str = "messages";
        match &self.messages {
            Some(name) => name,
            None if row.columns.contains_key(DEFAULT) => DEFAULT,
            None if row.columns.contains_key(SHAREGPT) => SHAREGPT,
            None => DEFAULT,
        }
    }

    /// Column of the tools.
    pub(crate) fn tools_column(&self) -> &str {
        &self.tools
    }

    /// The conversation of a row; without turns if its list is empty.
    pub(crate) fn read(&self, row: &Row) -> Result<Conversation, DataError> {
        let column = self.messages_column(row);
        let value = row.column(
            column,
            NAME,
            "; `field_messages` names the column of the messages",
        )?;
        let turns = self.messages(row, column, value)?;
        self.conversation(row, turns)
    }

    /// The messages of a column, a list or the JSON of one.
    pub(crate) fn messages(
        &self,
        row: &Row,
        column: &str,
        value: &Value,
    ) -> Result<Vec<Turn>, DataError> {
        const EXPECTED: &str = "a list of messages";
        let parsed;
        let list = match value {
            Value::Array(list) => list,
            Value::String(text) => {
                parsed = values::parse(text)
                    .map_err(|error| bad_json(row, column, EXPECTED, value, Some(&error)))?;
                match &parsed {
                    Value::Array(list) => list,
                    _ => return Err(bad_json(row, column, EXPECTED, value, None)),
                }
            }
            other => return Err(row.wrong_type(column, EXPECTED, other)),
        };
        let turns = list
            .iter()
            .enumerate()
            .map(|(index, message)| self.turn(row, format!("{column}[{index}]"), message));
        turns.collect()
    }

    /// One message.
    pub(crate) fn message(
        &self,
        row: &Row,
        place: impl Into<String>,
        message: &Value,
    ) -> Result<Turn, DataError> {
        self.turn(row, place.into(), message)
    }

    /// Messages as a conversation of a row: with its system message and its tools.
    ///
    /// # Errors
    /// Columns of another type; two system messages; pictures, sound or video.
    pub(crate) fn conversation(
        &self,
        row: &Row,
        mut turns: Vec<Turn>,
    ) -> Result<Conversation, DataError> {
        let mut notes = Vec::new();
        notes.extend(media::check(row, &turns)?);
        self.system(row, &mut turns)?;
        notes.extend(self.unread(row));
        let tools = match row.columns.get(&self.tools) {
            None | Some(Value::Null) => None,
            Some(value) => tools::tools(row, &self.tools, value)?,
        };
        notes.extend(turns.iter().find_map(|turn| self.unheeded(turn)));
        Ok(Conversation {
            turns,
            tools,
            notes,
        })
    }

    /// Says so where a row has a column that belongs to its conversation and that
    /// nothing reads.
    fn unread<'r>(&'r self, row: &'r Row) -> impl Iterator<Item = Note> + 'r {
        let read = [
            Some(self.messages_column(row)),
            Some(self.tools_column()),
            self.system.as_deref(),
        ];
        UNREAD.into_iter().filter_map(move |(name, advice)| {
            let holds = match row.columns.get(name)? {
                Value::Null => false,
                Value::String(text) => !text.trim().is_empty(),
                Value::Array(values) => !values.is_empty(),
                Value::Object(object) => !object.is_empty(),
                Value::Bool(_) | Value::Number(_) => true,
            };
            let message = format!("the column `{name}` is not read; {advice}");
            (holds && !read.contains(&Some(name))).then(|| Note::new(message, name))
        })
    }

    /// Leaves out or puts in the system message.
    fn system(&self, row: &Row, turns: &mut Vec<Turn>) -> Result<(), DataError> {
        if turns.is_empty() {
            return Ok(());
        }
        if self.drop_system && turns[0].role == "system" {
            turns.remove(0);
        }
        let named = self.system.as_deref();
        let column = match named.map(|name| (name, row.columns.get(name))) {
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
                        named.unwrap_or_default(),
                        self.messages_column(row)
                    ),
                ));
            }
            (None, Some("system")) => return Ok(()),
            (column, _) => column.or(self.default_system.as_deref()),
        };
        if let Some(text) = text {
            let place = match column {
                Some(_) => named.unwrap_or_default(),
                None => "default_system_message",
            };
            let mut turn = Turn::new(place, "system", text);
            turn.trained = !text.is_empty() && self.trains("system");
            turns.insert(0, turn);
        }
        Ok(())
    }

    /// Whether the turns of a role are trained.
    pub(super) fn trains(&self, role: &str) -> bool {
        self.train_on_inputs || self.roles_to_train.iter().any(|trained| trained == role)
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
