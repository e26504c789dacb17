//! Layouts that a chat template renders.
//!
//! The messages are those of supervised rows: the same reader gives them their
//! roles, tools, calls and reasoning, and the same renderer prints them. The prompt
//! is the conversation with the header of the next answer; an answer is what the
//! template prints after that once the answer is part of the conversation.

use trainer_config::{Config, Dataset};

use serde_json::Value;

use super::PreferenceObjective;
use super::layouts::{Text, Texts};
use super::messages::{Messages, System, has, row_error};
use crate::source::Row;
use crate::strategy::chat::{Chats, Conversation, Rendered, Turn};
use crate::{DataError, Tokenizer};

/// Where prompt and answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Messages of the prompt in a column of their own, or in front of the answers;
    /// answers that are texts, messages or conversations.
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
    chats: Chats<'a>,
    messages: Messages,
    system: System,
    shape: Shape,
    objective: PreferenceObjective,
    /// Columns of the answers, where the configuration names them.
    answers: [Option<&'a str>; 2],
}

/// What the messages of a row are.
struct Talk {
    /// What comes before the answer.
    history: Vec<Turn>,
    answers: Vec<Turn>,
}

impl<'a> ChatLayout<'a> {
    pub(super) fn new(
        config: &'a Config,
        dataset: &'a Dataset,
        tokenizer: &'a Tokenizer,
        shape: Shape,
        objective: PreferenceObjective,
    ) -> Result<Self, DataError> {
        let system = match shape {
            Shape::Messages | Shape::Conversations => System::Named,
            Shape::Whole => System::Column,
            Shape::SystemAndInput => System::EvenEmpty,
        };
        Ok(Self {
            chats: Chats::new(config, dataset, tokenizer)?,
            messages: Messages::new(config, dataset, system)?,
            system,
            shape,
            objective,
            answers: [
                dataset.field_chosen.as_deref(),
                dataset.field_rejected.as_deref(),
            ],
        })
    }

    /// The columns of the answers: two, or the one of KTO.
    fn answer_columns(&self, row: &Row) -> Vec<&'a str> {
        if self.objective == PreferenceObjective::Kto {
            return vec!["completion"];
        }
        let names = [
            ["chosen", "chosen_messages"],
            ["rejected", "rejected_messages"],
        ];
        let named = self.answers.iter().zip(names);
        named
            .map(|(named, [usual, other])| match named {
                Some(column) => *column,
                None if !row.columns.contains_key(usual) && row.columns.contains_key(other) => {
                    other
                }
                None => usual,
            })
            .collect()
    }

    /// The columns that are read, for messages.
    pub(super) fn columns(&self, row: &Row) -> String {
        let messages = self.messages.column(row);
        let answers: Vec<String> = self
            .answer_columns(row)
            .iter()
            .map(|column| format!("`{column}`"))
            .collect();
        let answers = answers.join(", ");
        match (self.shape, self.objective) {
            (Shape::Messages, PreferenceObjective::Kto) => {
                format!("`{messages}` (or `prompt` and `completion`) and `label`")
            }
            (Shape::Messages, _) => format!("`{messages}` (or `prompt`), {answers}"),
            (Shape::Conversations | Shape::Whole, PreferenceObjective::Kto) => {
                "`completion`, a conversation, and `label`".to_owned()
            }
            (Shape::Conversations | Shape::Whole, _) => format!("{answers}, conversations"),
            (Shape::SystemAndInput, _) => format!("`input`, {answers} and an optional `system`"),
        }
    }

    /// Prompt and answers of a row, rendered.
    pub(super) fn texts(&self, row: &Row, name: &'static str) -> Result<Texts, DataError> {
        let talk = self.talk(row, name)?;
        let history = self.messages.conversation(row, talk.history, self.system)?;
        let mut prompt = self.chats.render(row, &history, true)?;
        let mut notes = std::mem::take(&mut prompt.notes);
        let mut answered = Vec::with_capacity(talk.answers.len());
        for answer in talk.answers {
            let mut conversation = history.clone();
            let place = answer.place.clone();
            conversation.turns.push(answer);
            let mut whole = self.chats.render(row, &conversation, false)?;
            // Of the answer alone: what stands before it is taken from the prompt, where a
            // template may print what it leaves out once an answer follows.
            whole.notes.retain(|note| note.place.starts_with(&place));
            notes.append(&mut whole.notes);
            answered.push((conversation, whole));
        }
        let mut prompt = Text {
            text: prompt.text,
            cuts: prompt.cuts,
        };
        // A template may begin the answer for the model, but otherwise than the answer
        // of the data begins: the prompt ends before that.
        let ends = answered.iter().filter_map(|(_, whole)| {
            let start = whole.answer?;
            let shared = shared(&prompt.text, &whole.text);
            (shared < prompt.text.len() && shared > start).then_some(start)
        });
        if let Some(end) = ends.min() {
            prompt.text.truncate(end);
            prompt.cuts.retain(|cut| *cut < end);
        }
        let mut answers = [const { Text::EMPTY }; 2];
        for (answer, (conversation, whole)) in answers.iter_mut().zip(&answered) {
            *answer = self.answer(row, &prompt, conversation, whole)?;
        }
        Ok(Texts {
            prompt,
            answers,
            rendered: true,
            notes,
        })
    }

    /// What a rendered conversation holds behind the prompt.
    fn answer(
        &self,
        row: &Row,
        prompt: &Text,
        conversation: &Conversation,
        whole: &Rendered,
    ) -> Result<Text, DataError> {
        let start = match whole.text.starts_with(&prompt.text) {
            true => Some(prompt.text.len()),
            // The header of a finished answer is another than that of the next one.
            false => match self.content_start(row, conversation, &whole.text)? {
                Some(start) => Some(start),
                None => whole.answer,
            },
        };
        let Some(start) = start else {
            return Err(row_error(
                row,
                "cannot tell which part of the rendered conversation is the answer, because the chat template leaves it out or rewrites it",
            ));
        };
        let mut text = whole.text[start..].to_owned();
        // The end of the text is left as it is where the text is read as a whole.
        if self.shape != Shape::Whole && self.objective != PreferenceObjective::RewardModel {
            text.truncate(text.trim_end().len());
        }
        let end = start + text.len();
        let cuts = whole.cuts.iter();
        let cuts = cuts.filter(|cut| (start + 1..end).contains(*cut));
        Ok(Text {
            cuts: cuts.map(|cut| cut - start).collect(),
            text,
        })
    }

    /// Where the content of an answer begins that is nothing but a content, shown by a
    /// character in front of it that the text has nowhere else.
    fn content_start(
        &self,
        row: &Row,
        conversation: &Conversation,
        text: &str,
    ) -> Result<Option<usize>, DataError> {
        let mut marked = conversation.clone();
        let Some(answer) = marked.turns.last_mut() else {
            return Ok(None);
        };
        if answer.calls_tools() || answer.message.contains_key(self.messages.thinking_key()) {
            return Ok(None);
        }
        // Of the private use, as no other mark is.
        let Some(mark) = ('\u{E000}'..'\u{E100}').find(|mark| !text.contains(*mark)) else {
            return Ok(None);
        };
        let content = answer.content().unwrap_or_default();
        let inner = content.trim_start();
        let (before, _) = content.split_at(content.len() - inner.len());
        let content = Value::from(format!("{before}{mark}{inner}"));
        answer.message.insert("content".to_owned(), content);
        let shown = self.chats.render(row, &marked, false)?.text;
        let at = shown.find(mark);
        Ok(at.filter(|_| shown.replacen(mark, "", 1) == text))
    }

    fn talk(&self, row: &Row, name: &'static str) -> Result<Talk, DataError> {
        let columns = self.answer_columns(row);
        let messages = &self.messages;
        let kto = self.objective == PreferenceObjective::Kto;
        // A conversation of KTO that ends with its answer.
        if kto && self.shape == Shape::Messages && !has(row, "completion") {
            let column = messages.column(row);
            let value = row.column(column, name, "")?;
            let mut history = messages.whole(row, column, value)?;
            let answer = messages.last(row, column, &mut history)?;
            return Ok(Talk {
                history,
                answers: vec![answer],
            });
        }
        let mut answers = Vec::with_capacity(columns.len());
        let mut before = Vec::with_capacity(columns.len());
        for column in &columns {
            let mut turns = messages.answer(row, column, row.column(column, name, "")?)?;
            answers.push(messages.last(row, column, &mut turns)?);
            before.push(turns);
        }
        let mut history = match self.shape {
            Shape::Messages => match messages.prompt(row)? {
                Some((column, history)) => {
                    for (answer, turns) in columns.iter().zip(&before) {
                        messages.repeats(row, column, &history, answer, turns)?;
                    }
                    history
                }
                // What comes before the answers stands in front of each.
                None if before.iter().any(|turns| !turns.is_empty()) => {
                    messages.shared(row, before)?
                }
                None => {
                    // It is not there: the error says which columns are.
                    row.column(messages.column(row), name, "")?;
                    Vec::new()
                }
            },
            Shape::Conversations | Shape::Whole => messages.shared(row, before)?,
            Shape::SystemAndInput => {
                vec![Turn::new("input", "user", row.text("input", name, "")?)]
            }
        };
        if self.shape == Shape::Whole {
            let prompt = row.optional_text("prompt")?;
            if let ([only], false) = (history.as_mut_slice(), prompt.is_empty()) {
                only.message
                    .insert("content".to_owned(), Value::from(prompt));
            }
        }
        Ok(Talk { history, answers })
    }
}

/// Bytes of the beginning that two texts share.
fn shared(one: &str, other: &str) -> usize {
    let pairs = one.chars().zip(other.chars());
    pairs
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}
