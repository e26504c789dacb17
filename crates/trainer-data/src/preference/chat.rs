//! Layouts that a chat template renders.
//!
//! The prompt is the conversation with the header of the next answer; an answer is
//! what the template prints after that once the answer is part of the
//! conversation. Where a template prints the header differently then, the answer
//! is found by its text.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trainer_config::{Config, Dataset};

use super::PreferenceObjective;
use super::layouts::{Texts, other_history};
use crate::source::Row;
use crate::strategy::plain::Plain;
use crate::{ChatTemplate, DataError, Tokenizer};

/// Where prompt and answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `messages`, and answers that are texts, messages or conversations.
    Messages,
    /// The answers are whole conversations.
    Conversations,
    /// The same, with white space after the last message kept, and with an
    /// optional `system` and `prompt`.
    Whole,
    /// `system` and `input`, and answers that are texts.
    SystemAndInput,
}

pub(super) struct ChatLayout<'a> {
    template: ChatTemplate,
    shape: Shape,
    messages: &'a str,
    answers: [&'a str; 2],
    role: &'a str,
    content: &'a str,
    /// The role that each other name stands for.
    roles: BTreeMap<&'a str, &'a str>,
}

impl<'a> ChatLayout<'a> {
    pub(super) fn new(
        config: &'a Config,
        dataset: &'a Dataset,
        tokenizer: &Tokenizer,
        shape: Shape,
    ) -> Result<Self, DataError> {
        let mut roles = BTreeMap::from([("human", "user"), ("gpt", "assistant")]);
        for (role, names) in dataset.roles.iter().flatten() {
            roles.extend(names.iter().map(|name| (name.as_str(), role.as_str())));
        }
        let property = |name: &'static str| {
            let mapped = dataset.message_property_mappings.as_ref();
            mapped
                .and_then(|names| names.get(name))
                .map_or(name, String::as_str)
        };
        Ok(Self {
            template: ChatTemplate::resolve(config, Some(dataset), tokenizer)?,
            shape,
            messages: dataset.field_messages.as_deref().unwrap_or("messages"),
            answers: [
                dataset.field_chosen.as_deref().unwrap_or("chosen"),
                dataset.field_rejected.as_deref().unwrap_or("rejected"),
            ],
            role: property("role"),
            content: property("content"),
            roles,
        })
    }

    /// The columns that are read, for messages.
    pub(super) fn columns(&self) -> String {
        let [chosen, rejected] = self.answers;
        match self.shape {
            Shape::Messages => format!("`{}`, `{chosen}`, `{rejected}`", self.messages),
            Shape::Conversations | Shape::Whole => {
                format!("`{chosen}` and `{rejected}`, conversations")
            }
            Shape::SystemAndInput => {
                format!("`input`, `{chosen}`, `{rejected}` and an optional `system`")
            }
        }
    }

    pub(super) fn texts(
        &self,
        row: &Row,
        name: &'static str,
        objective: PreferenceObjective,
        plain: &Plain,
    ) -> Result<Texts, DataError> {
        let [chosen, rejected] = self.answers;
        let values = [
            row.column(chosen, name, "")?,
            row.column(rejected, name, "")?,
        ];
        let mut history = Vec::new();
        match self.shape {
            Shape::Messages => match row.column(self.messages, name, "")? {
                Value::String(text) => history.push(json!({"role": "user", "content": text})),
                value => history = self.list(row, self.messages, value)?,
            },
            Shape::SystemAndInput => {
                // An empty message is one too.
                if let Some(Value::String(system)) = row.columns.get("system") {
                    history.push(json!({"role": "system", "content": system}));
                }
                let input = row.text("input", name, "")?;
                history.push(json!({"role": "user", "content": input}));
            }
            Shape::Conversations | Shape::Whole => {
                history = self.history(row, values)?;
                if self.shape == Shape::Whole {
                    let system = row.optional_text("system")?;
                    let prompt = row.optional_text("prompt")?;
                    if let ([only], false) = (history.as_mut_slice(), prompt.is_empty()) {
                        only["content"] = Value::from(prompt);
                    }
                    if !system.is_empty() {
                        history.insert(0, json!({"role": "system", "content": system}));
                    }
                }
            }
        }
        for message in &mut history {
            let marked = message["content"].as_str().map(|text| plain.mark(text));
            let marked = marked.transpose().map_err(|error| error.at(&row.at))?;
            if let Some(std::borrow::Cow::Owned(marked)) = marked {
                message["content"] = Value::from(marked);
            }
        }
        let chosen = self.answer(row, chosen, values[0])?;
        let rejected = self.answer(row, rejected, values[1])?;
        let render = |messages: &[Value], next| {
            let rendered = self.template.render(&Value::from(messages.to_vec()), next);
            rendered.map_err(|error| error.at(&row.at))
        };
        let prompt = render(&history, true)?;
        // The end of the text is left as it is where the text is read as a whole.
        let whole = self.shape == Shape::Whole || objective == PreferenceObjective::RewardModel;
        let mut answers = [const { String::new() }; 2];
        for (out, answer) in answers.iter_mut().zip([chosen, rejected]) {
            let mut messages = history.clone();
            messages.push(answer);
            let text = render(&messages, false)?;
            let after = match text.strip_prefix(&prompt) {
                Some(after) => after.to_owned(),
                None => {
                    let content = messages[messages.len() - 1]["content"].as_str();
                    let content = content.unwrap_or_default().trim();
                    let start = text.rfind(content).filter(|_| !content.is_empty());
                    let start = start.ok_or_else(|| DataError::Row {
                        at: row.at.clone(),
                        message: format!(
                            "cannot tell which part of the rendered conversation is the answer, because chat template {} leaves it out or rewrites it",
                            self.template.name()
                        ),
                    })?;
                    text[start..].to_owned()
                }
            };
            *out = if whole {
                after
            } else {
                after.trim_end().to_owned()
            };
        }
        Ok(Texts {
            prompt,
            answers,
            rendered: true,
            marked: true,
        })
    }

    /// The messages before the answer, which both conversations share.
    fn history(&self, row: &Row, values: [&Value; 2]) -> Result<Vec<Value>, DataError> {
        let mut both = Vec::new();
        for (column, value) in self.answers.into_iter().zip(values) {
            let mut messages = self.list(row, column, value)?;
            messages.pop();
            both.push(messages);
        }
        let other = both.pop();
        let history = both.pop().unwrap_or_default();
        if other.is_some_and(|other| other != history) {
            return Err(other_history(row));
        }
        Ok(history)
    }

    fn list(&self, row: &Row, column: &str, value: &Value) -> Result<Vec<Value>, DataError> {
        let Value::Array(list) = value else {
            return Err(row.wrong_type(column, "a list of messages", value));
        };
        let messages = list.iter().enumerate();
        messages
            .map(|(index, message)| self.message(row, &format!("{column}[{index}]"), message))
            .collect()
    }

    /// A text, a message, or a conversation that ends with the answer.
    fn answer(&self, row: &Row, column: &str, value: &Value) -> Result<Value, DataError> {
        match value {
            Value::String(text) => Ok(json!({"role": "assistant", "content": text})),
            Value::Object(_) => self.message(row, column, value),
            Value::Array(list) => match list.last() {
                Some(last) => self.message(row, &format!("{column}[{}]", list.len() - 1), last),
                None => Err(row.wrong_type(
                    column,
                    "a list of messages that ends with the answer",
                    &Value::Null,
                )),
            },
            other => Err(row.wrong_type(column, "text, a message or a list of messages", other)),
        }
    }

    fn message(&self, row: &Row, place: &str, message: &Value) -> Result<Value, DataError> {
        let part = |key: &str| match message.get(key) {
            Some(Value::String(text)) => Ok(text.as_str()),
            other => {
                let place = format!("{place}.{key}");
                Err(row.wrong_type(place, "text", other.unwrap_or(&Value::Null)))
            }
        };
        let role = part(self.role)?;
        let role = self.roles.get(role).copied().unwrap_or(role);
        Ok(json!({"role": role, "content": part(self.content)?}))
    }
}
