//! Conversations that a model is to go on with, rendered and tokenized as its
//! training data was.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};
use trainer_config::{Config, Dataset, PreferenceLayout, PromptStrategy};

use super::chats::Chats;
use super::conversation::{Conversation, Turn, row_error};
use super::fields::Fields;
use crate::ledger::Note;
use crate::preference::{PreferenceObjective, begin};
use crate::source::Row;
use crate::{DataError, Place, Tokenizer, values};

/// Column of a prompt that is no list of messages in a column of its own.
const PROMPT: &str = "prompt";

/// Makes prompts of conversations.
///
/// Names of columns, properties and roles, and the template, are those of the first
/// data set of chats, else the usual ones and the template of the configuration, else
/// of the tokenizer. As in training, text that reads like a special token stays text
/// unless `allow_special_tokens_in_content` is set.
#[derive(Debug)]
pub struct ChatPrompts<'a> {
    chats: Chats<'a>,
    /// Reads messages whose properties have their usual names.
    usual: Fields,
    /// The name of roles in the data.
    role: String,
    /// The tokens that training puts in front of a prompt.
    opening: Vec<u32>,
    stop_ids: Vec<u32>,
}

/// What a row asks of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The tokens up to the answer.
    pub ids: Vec<u32>,
    /// What is to be said about the row, which is no error.
    pub notes: Vec<Note>,
}

impl<'a> ChatPrompts<'a> {
    /// # Errors
    /// As [`ChatTemplate::resolve`](crate::ChatTemplate::resolve); an `eot_tokens`
    /// entry that the template never prints.
    pub fn new(config: &Config, tokenizer: &'a Tokenizer) -> Result<Self, DataError> {
        let is_chat = |dataset: &&Dataset| {
            let strategy = dataset.strategy.as_ref();
            strategy.is_some_and(PromptStrategy::is_chat)
        };
        let found = config.datasets.iter().find(is_chat);
        let mut dataset = found.cloned().unwrap_or_default();
        if reads_system(&dataset) && dataset.field_system.is_none() {
            dataset.field_system = Some("system".to_owned());
        }
        let chats = Chats::new(config, &dataset, tokenizer)?;
        let named = dataset.message_property_mappings.take().unwrap_or_default();
        let objective = PreferenceObjective::of(config);
        let opening = objective.map(|objective| objective.opening(tokenizer));
        Ok(Self {
            stop_ids: chats.stop_ids().collect(),
            chats,
            usual: Fields::new(config, &dataset)?,
            role: named
                .get("role")
                .cloned()
                .unwrap_or_else(|| "role".to_owned()),
            opening: opening.unwrap_or_default(),
        })
    }

    /// Tokens that end an assistant's turn: the end of sequence, `eot_tokens`, and
    /// the token that the template prints after an answer.
    #[must_use]
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The tokens of a conversation and of the header of the assistant's next
    /// turn. `messages` are objects with `role` and `content`;
    /// `default_system_message` goes before them unless they begin with a system
    /// message.
    ///
    /// # Errors
    /// A message that cannot be read; a template that rejects the conversation; the
    /// tokenizer's errors.
    pub fn encode(&self, messages: &[Value]) -> Result<Asked, DataError> {
        let row = Row {
            at: Place {
                path: Arc::new(PathBuf::from("conversation")),
                unit: "message",
                number: messages.len(),
            },
            columns: Map::new().into(),
        };
        let turns = messages.iter().enumerate().map(|(index, message)| {
            self.usual
                .message(&row, format!("messages[{index}]"), message)
        });
        let turns = turns.collect::<Result<Vec<_>, _>>()?;
        self.asked(&row, self.usual.conversation(&row, turns)?)
    }

    /// The tokens of a row as training reads it, up to its answer: messages in the
    /// column of the data set, in `messages` or in `prompt`, or what a user says in
    /// `prompt`, with the row's tools and its system message.
    ///
    /// # Errors
    /// As [`ChatPrompts::encode`]; a row without a prompt.
    pub fn encode_row(&self, row: &Row) -> Result<Asked, DataError> {
        let there = |column: &&str| {
            let value = row.columns.get(column);
            value.is_some_and(|value| !value.is_null())
        };
        let column = self.chats.fields().messages_column(row);
        let messages = [column, "messages"].into_iter().find(there);
        let prompt = Some(PROMPT).filter(there);
        let expected =
            "expected `prompt`, a text, or `messages`, a list of objects with `role` and `content`";
        let column = match (messages, prompt) {
            (Some(column), None) => column,
            (None, Some(column)) => column,
            (Some(column), Some(_)) => {
                return Err(row_error(
                    row,
                    format!("`{column}` and `{PROMPT}` are two prompts; keep one of them"),
                ));
            }
            (None, None) => {
                let found: Vec<String> = row.names().iter().map(|n| format!("`{n}`")).collect();
                let found = match found.is_empty() {
                    true => "nothing".to_owned(),
                    false => found.join(", "),
                };
                return Err(row_error(row, format!("{expected}; the row has {found}")));
            }
        };
        let value = row.columns.get(column).unwrap_or(&Value::Null);
        let parsed;
        let list = match value {
            Value::Array(list) => Some(list),
            Value::String(text) => {
                let list = text.trim_start().starts_with('[');
                parsed = list.then(|| values::parse(text).ok()).flatten();
                parsed.as_ref().and_then(Value::as_array)
            }
            _ => None,
        };
        let is_message = |message: &Value| {
            let names = [self.role.as_str(), "role"];
            names.iter().any(|name| message.get(name).is_some())
        };
        let messages = list.filter(|list| !list.is_empty() && list.iter().all(is_message));
        let turns = match (value, messages) {
            (_, Some(list)) => {
                let usual = list.iter().all(|message| message.get(&self.role).is_none());
                let fields = if usual {
                    &self.usual
                } else {
                    self.chats.fields()
                };
                fields.messages(row, column, value)?
            }
            (Value::String(text), None) if column == PROMPT => {
                vec![Turn::new(PROMPT, "user", text)]
            }
            _ => return Err(row_error(row, format!("`{column}`: {expected}"))),
        };
        self.asked(row, self.chats.fields().conversation(row, turns)?)
    }

    /// The tokens of a conversation, of which nothing is trained.
    fn asked(&self, row: &Row, mut conversation: Conversation) -> Result<Asked, DataError> {
        for turn in &mut conversation.turns {
            turn.trained = false;
        }
        let rendered = self.chats.render(row, &conversation, true)?;
        let tokenizer = self.chats.tokenizer;
        let mut ids = match rendered.cuts.is_empty() {
            true => tokenizer.encode(&rendered.text, false)?,
            false => tokenizer.encode_cut(&rendered.text, &rendered.cuts)?.ids,
        };
        begin(&mut ids, &self.opening);
        Ok(Asked {
            ids,
            notes: rendered.notes,
        })
    }
}

/// Whether a layout reads a column `system` that nothing names.
fn reads_system(dataset: &Dataset) -> bool {
    use PreferenceLayout as L;
    matches!(
        dataset.strategy,
        Some(PromptStrategy::Preference(
            L::ChatTemplateArgilla | L::OrpoChatTemplate | L::BradleyTerryChatTemplate
        ))
    )
}
