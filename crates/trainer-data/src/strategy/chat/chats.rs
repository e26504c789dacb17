//! Rows to rendered conversations: what supervised data, preferences and prompts
//! share.

use std::borrow::Cow;

use trainer_config::{Config, Dataset, TrainOnEos};

use super::conversation::{Conversation, row_error};
use super::escape::Escaper;
use super::fields::Fields;
use super::layout::{Layout, Renderer};
use super::lost;
use super::marks::Marks;
use super::probe::Probe;
use super::{ends, escaper};
use crate::ledger::Note;
use crate::source::Row;
use crate::template::Templates;
use crate::{ChatTemplate, DataError, Tokenizer};

/// Reads the chats of a data set and renders them.
#[derive(Debug)]
pub(crate) struct Chats<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    fields: Fields,
    templates: Templates<Known>,
    escaper: Option<Escaper>,
    /// Tokens that end a turn, and when each is trained.
    pub(super) ends: Vec<(u32, TrainOnEos)>,
}

/// A template and what was found out about it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) template: ChatTemplate,
    pub(super) probe: Probe,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// Its text.
    pub(crate) text: String,
    /// Bytes of the text at which it is divided, so that the name of a special token
    /// in a message does not become the token ([`Tokenizer::encode_cut`]).
    pub(crate) cuts: Vec<usize>,
    /// Where the last message begins behind its header, if it is one of the assistant
    /// that is trained and the place is known.
    pub(crate) answer: Option<usize>,
    /// What the template does not print, and other remarks on the row.
    pub(crate) notes: Vec<Note>,
}

impl<'a> Chats<'a> {
    /// # Errors
    /// As [`ChatTemplate::resolve`]; an `eot_tokens` entry that no template prints.
    pub(crate) fn new(
        config: &Config,
        dataset: &Dataset,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self, DataError> {
        let templates = ChatTemplate::all(config, Some(dataset), tokenizer)?;
        let templates = templates.try_map(|template| {
            Ok(Known {
                probe: Probe::new(&template, tokenizer)?,
                template,
            })
        })?;
        let known: Vec<&Known> = templates.iter().collect();
        let ends = ends(config, dataset, tokenizer, &known)?;
        Ok(Self {
            fields: Fields::new(config, dataset)?,
            escaper: escaper(config, tokenizer, &known, &ends),
            ends,
            templates,
            tokenizer,
        })
    }

    /// The reader of messages.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Tokens that end an assistant's turn: the end of sequence, `eot_tokens`, and the
    /// token that the template prints after an answer.
    pub(crate) fn stop_ids(&self) -> impl Iterator<Item = u32> {
        self.ends.iter().map(|(id, _)| *id)
    }

    /// Renders a conversation; with `prompt`, the header of the assistant's next turn
    /// follows.
    ///
    /// # Errors
    /// A template that rejects the conversation, or that does not print something of a
    /// turn that is `trained`.
    pub(crate) fn render(
        &self,
        row: &Row,
        conversation: &Conversation,
        prompt: bool,
    ) -> Result<Rendered, DataError> {
        let mut notes = conversation.notes.clone();
        let layout = self.layout(row, conversation, prompt)?;
        notes.extend(self.judge(row, conversation, &layout)?);
        let mut turns = conversation.turns.iter().zip(&layout.spans);
        if let Some(turn) = turns.position(|(turn, span)| turn.trained && span.lost_thinking) {
            return Err(self.no_thinking(row, conversation, turn));
        }
        let last = conversation.turns.last().zip(layout.spans.last());
        let answer = last
            .filter(|(turn, _)| turn.is_assistant() && turn.trained)
            .and_then(|(_, span)| span.body.as_ref());
        Ok(Rendered {
            answer: answer.map(|body| body.start),
            text: layout.text,
            cuts: layout.cuts,
            notes,
        })
    }

    /// The error of a turn that would be learnt without its reasoning.
    pub(super) fn no_thinking(
        &self,
        row: &Row,
        conversation: &Conversation,
        turn: usize,
    ) -> DataError {
        let template = match self.known(row, conversation) {
            Ok(known) => known.template.name(),
            Err(error) => return error,
        };
        row_error(
            row,
            format!(
                "chat template {template} leaves out the reasoning of `{}`, which would not be trained; use a template that prints it (`template_thinking_key` is the name it reads, now `{}`), or take the reasoning out of the data",
                conversation.turns[turn].place, self.fields.thinking_key,
            ),
        )
    }

    /// The template of a row: that of the tools where it has some.
    pub(super) fn known(
        &self,
        row: &Row,
        conversation: &Conversation,
    ) -> Result<&Known, DataError> {
        let tools = conversation.tools.is_some();
        self.templates.of(tools).map_err(|names| {
            row_error(
                row,
                format!(
                    "the tokenizer's chat templates are {names}, of which rows without tools take `default`: name a template in `chat_template`, or add one of that name to the tokenizer"
                ),
            )
        })
    }

    fn renderer<'k>(&'k self, known: &'k Known) -> Renderer<'k> {
        Renderer {
            template: &known.template,
            probe: &known.probe,
            fields: &self.fields,
        }
    }

    /// What is to be said about what a rendering lacks.
    ///
    /// # Errors
    /// Something of a trained turn is lost.
    pub(super) fn judge(
        &self,
        row: &Row,
        conversation: &Conversation,
        layout: &Layout,
    ) -> Result<Vec<Note>, DataError> {
        if layout.lost.is_empty() {
            return Ok(Vec::new());
        }
        let renderer = self.renderer(self.known(row, conversation)?);
        lost::judge(&renderer, row, conversation, &layout.lost)
    }

    /// Renders a conversation, with the names of special tokens in it cut.
    pub(super) fn layout(
        &self,
        row: &Row,
        conversation: &Conversation,
        prompt: bool,
    ) -> Result<Layout, DataError> {
        let known = self.known(row, conversation)?;
        let renderer = self.renderer(known);
        let marks = Marks::new(conversation).ok_or_else(|| {
            row_error(
                row,
                format!(
                    "a conversation of {} messages is more than can be kept apart; divide it",
                    conversation.turns.len()
                ),
            )
        })?;
        let mut conversation = Cow::Borrowed(conversation);
        if let Some(content) = &known.probe.no_content {
            for turn in 0..conversation.turns.len() {
                let bare = &conversation.turns[turn];
                if bare.calls_tools() && !bare.message.contains_key("content") {
                    let message = &mut conversation.to_mut().turns[turn].message;
                    message.insert("content".to_owned(), content.clone());
                }
            }
        }
        if let Some(escaper) = &self.escaper
            && escaper.concerns(&conversation)
        {
            escaper.escape(conversation.to_mut(), marks.cut());
        }
        let layout = renderer.layout(&conversation, marks, prompt);
        layout.map_err(|error| error.at(&row.at))
    }
}
