//! Conversations that a model is to go on with, rendered and tokenized as its
//! training data was.

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::Value as Json;
use trainer_config::{Config, Dataset, PromptStrategy};

use super::chats::Known;
use super::conversation::{Conversation, Turn};
use super::escape::Escaper;
use super::fields::default_system;
use super::marks::Marks;
use super::probe::Probe;
use super::{ends, escaper};
use crate::{ChatTemplate, DataError, Tokenizer};

/// Makes prompts of conversations.
///
/// The template is that of the first data set of chats, else of the
/// configuration, else of the tokenizer. As in training, text that reads like a
/// special token stays text unless `allow_special_tokens_in_content` is set.
#[derive(Debug)]
pub struct ChatPrompts<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    escaper: Option<Escaper>,
    system: Option<String>,
    stop_ids: Vec<u32>,
}

impl<'a> ChatPrompts<'a> {
    /// # Errors
    /// As [`ChatTemplate::resolve`]; an `eot_tokens` entry that the template
    /// never prints.
    pub fn new(config: &Config, tokenizer: &'a Tokenizer) -> Result<Self, DataError> {
        let chats = |dataset: &&Dataset| dataset.strategy == Some(PromptStrategy::ChatTemplate);
        let dataset = config.datasets.iter().find(chats);
        let template = ChatTemplate::resolve(config, dataset, tokenizer)?;
        let known = Known {
            probe: Probe::new(&template, tokenizer)?,
            template,
        };
        let ends = ends(config, &Dataset::default(), tokenizer, &[&known])?;
        Ok(Self {
            escaper: escaper(config, tokenizer, &[&known], &ends),
            system: default_system(config)?,
            stop_ids: ends.into_iter().map(|(id, _)| id).collect(),
            tokenizer,
            template: known.template,
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
    /// A template that rejects the conversation; the tokenizer's errors.
    pub fn encode(&self, messages: &[Json]) -> Result<Vec<u32>, DataError> {
        let mut conversation = self.conversation(messages);
        let plain = self.render(&conversation)?;
        if let Some(escaper) = &self.escaper
            && escaper.concerns(&conversation)
            && let Some(marks) = Marks::new(&conversation)
        {
            escaper.escape(&mut conversation, marks.cut());
            let cut = marks.strip(&self.render(&conversation)?);
            // Unless the template treats the text in another way for its marks.
            if cut.text == plain {
                return Ok(self.tokenizer.encode_cut(&cut.text, &cut.cuts)?.ids);
            }
        }
        self.tokenizer.encode(&plain, false)
    }

    fn conversation(&self, messages: &[Json]) -> Conversation {
        let turn = |place: String, message: serde_json::Map<String, Json>| Turn {
            place,
            role: message
                .get("role")
                .and_then(Json::as_str)
                .unwrap_or_default()
                .to_owned(),
            message,
            trained: false,
            masked: Vec::new(),
            masked_thinking: Vec::new(),
        };
        let objects = messages.iter().filter_map(Json::as_object);
        let mut turns: Vec<Turn> = objects
            .enumerate()
            .map(|(index, message)| turn(format!("messages[{index}]"), message.clone()))
            .collect();
        if let Some(system) = &self.system
            && turns.first().is_none_or(|first| first.role != "system")
        {
            let message = [
                ("role".to_owned(), Json::from("system")),
                ("content".to_owned(), Json::from(system.as_str())),
            ];
            let place = "default_system_message".to_owned();
            turns.insert(0, turn(place, message.into_iter().collect()));
        }
        Conversation {
            turns,
            ..Conversation::default()
        }
    }

    fn render(&self, conversation: &Conversation) -> Result<String, DataError> {
        let messages: Vec<_> = conversation
            .turns
            .iter()
            .map(|turn| &turn.message)
            .collect();
        self.template
            .render_values(Value::from(Serde(messages)), None, true, None)
    }
}
