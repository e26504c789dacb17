//! `chat_template`: conversations rendered by a chat template.
//!
//! [`Fields`] reads a row as a [`Conversation`], which [`Chats`] renders and takes
//! apart again; the rest of this module turns the spans that it finds into labels. What is trained follows from the configuration and from where the
//! parts of the messages came to stand, never from a search for their text.
//!
//! - A token is trained if it stands for a byte of what is trained, and for none
//!   that a message excludes.
//! - The token that ends a turn is the end of sequence, one of `eot_tokens`, or
//!   the one that the template prints after an answer. `train_on_eos` and
//!   `train_on_eot` decide on it. A trained turn without such a token is an
//!   error where it would have been trained.
//! - A template that leaves out the reasoning of earlier turns gives one more
//!   sample for each of them, in which the turn is the last one and its reasoning
//!   is there. In the sample of the whole conversation it is not trained again.

mod calls;
mod chats;
mod conversation;
mod escape;
mod fields;
mod layout;
mod lost;
mod marks;
mod media;
mod parts;
mod probe;
mod prompt;
mod roles;
mod thinking;
mod tools;
mod turn;

use std::ops::Range;

use seqprep::{IGNORE_INDEX, Sample};
use trainer_config::{Config, Dataset, TrainOnEos};

use self::chats::Known;
pub(crate) use self::chats::{Chats, Rendered};
use self::conversation::row_error;
pub(crate) use self::conversation::{Conversation, Turn};
use self::escape::Escaper;
pub(crate) use self::fields::Fields;
use self::layout::{Layout, Span};
pub use self::prompt::{Asked, ChatPrompts};
use super::{Made, Strategy, TokenRoles, label};

use crate::ledger::Note;
use crate::source::Row;
use crate::tokenizer::Encoded;
use crate::{DataError, Tokenizer};

const NAME: &str = "chat_template";

/// Behind the content of another role, the end of the turn is looked for this many
/// tokens on, so that no end of the next turn is taken for it.
const END_DISTANCE: usize = 3;

pub(super) struct Chat<'a> {
    tokenizer: &'a Tokenizer,
    chats: Chats<'a>,
}

impl<'a> Chat<'a> {
    pub(super) fn new(
        config: &Config,
        dataset: &Dataset,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self, DataError> {
        Ok(Self {
            tokenizer,
            chats: Chats::new(config, dataset, tokenizer)?,
        })
    }

    /// The samples of a conversation: one for each earlier turn whose reasoning
    /// the template leaves out, then that of the whole.
    fn conversation(
        &self,
        row: &Row,
        conversation: &Conversation,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Sample>, DataError> {
        let layout = self.chats.layout(row, conversation, false)?;
        notes.extend(self.chats.judge(row, conversation, &layout)?);
        if !layout.spans.iter().any(|span| span.lost_thinking) {
            return Ok(vec![self.sample(row, conversation, &layout)?]);
        }
        let mut samples = Vec::new();
        let mut whole = conversation.clone();
        for turn in 0..conversation.turns.len() {
            if !conversation.turns[turn].trained || !layout.spans[turn].lost_thinking {
                continue;
            }
            let mut part = conversation.clone();
            part.turns.truncate(turn + 1);
            for earlier in &mut part.turns[..turn] {
                earlier.trained = false;
            }
            let layout = self.chats.layout(row, &part, false)?;
            if layout.spans[turn].lost_thinking {
                return Err(self.chats.no_thinking(row, conversation, turn));
            }
            samples.push(self.sample(row, &part, &layout)?);
            whole.turns[turn].trained = false;
        }
        // Where nothing else is trained, the whole has nothing to say.
        if samples.is_empty() || whole.turns.iter().any(|turn| turn.trained) {
            samples.push(self.sample(row, &whole, &layout)?);
        }
        Ok(samples)
    }

    fn sample(
        &self,
        row: &Row,
        conversation: &Conversation,
        layout: &Layout,
    ) -> Result<Sample, DataError> {
        let encoded = self.tokenizer.encode_cut(&layout.text, &layout.cuts)?;
        let mut labels = vec![IGNORE_INDEX; encoded.ids.len()];
        let last = conversation.turns.len() - 1;
        for (index, (turn, span)) in conversation.turns.iter().zip(&layout.spans).enumerate() {
            let policy = |policy: TrainOnEos| match policy {
                TrainOnEos::All => true,
                TrainOnEos::Turn => turn.trained,
                TrainOnEos::Last => index == last && turn.trained,
                TrainOnEos::None => false,
            };
            let end = span.end_from.and_then(|from| {
                // What the assistant writes ends with the end, however far that is.
                let distance = if turn.is_assistant() {
                    usize::MAX
                } else {
                    END_DISTANCE
                };
                self.end(&encoded, from..span.end_before, distance)
            });
            if turn.trained {
                let body = match &span.body {
                    Some(_) if span.lost_parts => {
                        return Err(self.not_found(row, conversation, index, "which parts of"));
                    }
                    Some(body) => body.clone(),
                    None => return Err(self.not_found(row, conversation, index, "which part of")),
                };
                let body = match (end, span.closed) {
                    (Some(end), false) if turn.is_assistant() => {
                        body.start..encoded.offsets[end].start.max(body.end)
                    }
                    _ => body,
                };
                self.train(&encoded, &body, span, &mut labels);
                if end.is_none() && self.chats.ends.iter().any(|(_, when)| policy(*when)) {
                    return Err(self.no_end(row, conversation, layout, index));
                }
            }
            let Some(end) = end else { continue };
            // Some templates end the text with another token behind the first.
            let near = end..encoded.ids.len().min(end + END_DISTANCE + 2);
            let mut done: Vec<u32> = Vec::new();
            for token in near {
                let id = encoded.ids[token];
                if encoded.offsets[token].start >= span.end_before && token > end {
                    break;
                }
                let Some((_, when)) = self.chats.ends.iter().find(|(known, _)| *known == id) else {
                    continue;
                };
                if !done.contains(&id) {
                    done.push(id);
                    if policy(*when) {
                        labels[token] = label(id);
                    } else {
                        labels[token] = IGNORE_INDEX;
                    }
                }
            }
        }
        Ok(Sample {
            input_ids: encoded.ids,
            labels,
            position_ids: None,
        })
    }

    /// Labels the tokens of a body, but for those that stand for excluded bytes.
    fn train(&self, encoded: &Encoded, body: &Range<usize>, span: &Span, labels: &mut [i32]) {
        for token in tokens_of(encoded, body) {
            labels[token] = label(encoded.ids[token]);
        }
        for masked in &span.masked {
            for token in tokens_of(encoded, masked) {
                labels[token] = IGNORE_INDEX;
            }
        }
    }

    /// The first token in a part of the text that ends a turn.
    fn end(&self, encoded: &Encoded, within: Range<usize>, distance: usize) -> Option<usize> {
        let first = encoded
            .offsets
            .partition_point(|token| token.end <= within.start);
        // The token at the end of the content may cover text behind it.
        let tokens = first
            ..encoded
                .ids
                .len()
                .min(first.saturating_add(distance).saturating_add(2));
        tokens
            .take_while(|token| encoded.offsets[*token].start < within.end)
            .find(|token| {
                encoded.offsets[*token].start >= within.start
                    && self
                        .chats
                        .ends
                        .iter()
                        .any(|(id, _)| *id == encoded.ids[*token])
            })
    }

    fn not_found(
        &self,
        row: &Row,
        conversation: &Conversation,
        turn: usize,
        what: &str,
    ) -> DataError {
        let name = self.template(row, conversation);
        let turn = &conversation.turns[turn];
        row_error(
            row,
            format!(
                "cannot tell {what} the rendered conversation {} `{}` ({}), because chat template {} leaves it out or rewrites it; leave the role out of `roles_to_train`, or use a template that prints the content as it is",
                if what == "which part of" {
                    "is"
                } else {
                    "are the trained parts of"
                },
                turn.place,
                turn.role,
                name,
            ),
        )
    }

    /// How messages call the template of a conversation.
    fn template(&self, row: &Row, conversation: &Conversation) -> String {
        let known = self.chats.known(row, conversation);
        // It was rendered.
        known.map_or_else(|_| String::new(), |known| known.template.name().to_owned())
    }

    fn no_end(
        &self,
        row: &Row,
        conversation: &Conversation,
        layout: &Layout,
        index: usize,
    ) -> DataError {
        const SHOWN: usize = 120;
        let turn = &conversation.turns[index];
        let span = &layout.spans[index];
        let from = span.body.as_ref().map_or(0, |body| body.start);
        let shown = &layout.text[from..span.end_before.max(from)];
        let skip = shown.chars().count().saturating_sub(SHOWN);
        let shown: String = shown.chars().skip(skip).collect();
        let ends: Vec<String> = self
            .chats
            .ends
            .iter()
            .filter_map(|(id, _)| self.tokenizer.decode(&[*id], false).ok())
            .map(|text| format!("{text:?}"))
            .collect();
        row_error(
            row,
            format!(
                "`{}` ({}) is trained, but chat template {} prints no token that ends it ({}), so that the model would not learn to stop; the turn ends with {shown:?}. Use a template that prints `eos_token` there, name the token it prints in `eot_tokens`, or set `train_on_eos: none`",
                turn.place,
                turn.role,
                self.template(row, conversation),
                if ends.is_empty() {
                    "the tokenizer has no end-of-sequence token".to_owned()
                } else {
                    ends.join(" or ")
                },
            ),
        )
    }
}

impl Strategy for Chat<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        Ok(self.made(row)?.samples)
    }

    fn made(&self, row: &Row) -> Result<Made, DataError> {
        let conversation = self.chats.fields().read(row)?;
        if conversation.turns.is_empty() {
            return Ok(Vec::new().into());
        }
        let mut notes = conversation.notes.clone();
        let samples = self.conversation(row, &conversation, &mut notes);
        Ok(Made {
            samples: samples.map_err(|error| error.at(&row.at))?,
            notes,
        })
    }

    fn roles(&self, row: &Row) -> Result<Option<TokenRoles>, DataError> {
        self.token_roles(row).map_err(|error| error.at(&row.at))
    }
}

/// Finds the names of special tokens in texts, unless they are welcome there.
fn escaper(
    config: &Config,
    tokenizer: &Tokenizer,
    templates: &[&Known],
    ends: &[(u32, TrainOnEos)],
) -> Option<Escaper> {
    (!config.allow_special_tokens_in_content).then(|| {
        let all = tokenizer.special_texts();
        let structure: Vec<String> = all
            .iter()
            .filter(|name| {
                let id = tokenizer.token_to_id(name);
                let printed = |known: &&Known| known.probe.text.contains(name.as_str());
                templates.iter().any(printed)
                    || id.is_some_and(|id| ends.iter().any(|(end, _)| *end == id))
                    || tokenizer.special_tokens().any(|(_, text)| text == *name)
            })
            .cloned()
            .collect();
        Escaper::new(&all, &structure)
    })
}

/// The tokens that end turns, and when each is trained.
fn ends(
    config: &Config,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    templates: &[&Known],
) -> Result<Vec<(u32, TrainOnEos)>, DataError> {
    let on_eos = dataset.train_on_eos.unwrap_or(TrainOnEos::Turn);
    let on_eot = dataset.train_on_eot.unwrap_or(on_eos);
    let eos = tokenizer.eos_id();
    let mut ends: Vec<(u32, TrainOnEos)> = eos.map(|id| (id, on_eos)).into_iter().collect();
    let error = |token: &str, message: String| DataError::EndToken {
        token: token.to_owned(),
        message,
    };
    for token in config.eot_tokens.iter().flatten() {
        let ids = match tokenizer.token_to_id(token) {
            Some(id) => vec![id],
            None => tokenizer.encode(token, false)?,
        };
        let [id] = ids[..] else {
            return Err(error(
                token,
                format!(
                    "is {} tokens for this tokenizer; it has to be one",
                    ids.len()
                ),
            ));
        };
        if Some(id) == eos && on_eot != on_eos {
            return Err(error(
                token,
                format!(
                    "is the end of sequence too, and `train_on_eos: {on_eos}` and `train_on_eot: {on_eot}` contradict each other; give both the same value, or leave the token out"
                ),
            ));
        }
        let printed = |known: &&Known| {
            let source = known.template.source();
            source.contains(token)
                || known.probe.text.contains(token)
                || (eos == Some(id) && source.contains("eos_token"))
        };
        if !templates.iter().any(printed) {
            let names: Vec<&str> = templates
                .iter()
                .map(|known| known.template.name())
                .collect();
            return Err(error(
                token,
                format!(
                    "is never printed by chat template {}; take it out of the list, or use a template that ends turns with it",
                    names.join(" or ")
                ),
            ));
        }
        if !ends.iter().any(|(known, _)| *known == id) {
            ends.push((id, on_eot));
        }
    }
    for id in templates.iter().filter_map(|known| known.probe.end) {
        if !ends.iter().any(|(known, _)| *known == id) {
            ends.push((id, on_eot));
        }
    }
    Ok(ends)
}

/// The tokens that cover a byte of a span.
fn tokens_of(encoded: &Encoded, span: &Range<usize>) -> Range<usize> {
    let start = encoded
        .offsets
        .partition_point(|token| token.end <= span.start);
    let end = encoded
        .offsets
        .partition_point(|token| token.start < span.end);
    start..end.max(start)
}
