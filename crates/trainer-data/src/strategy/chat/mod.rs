//! `chat_template`: conversations rendered by a chat template.
//!
//! A row becomes a [`messages::Conversation`], which [`layout::Renderer`] renders
//! and takes apart again; the rest of this module turns the spans it finds into
//! labels. What is trained follows from the configuration and from where the
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

mod escape;
mod layout;
mod marks;
mod messages;
mod parts;
mod probe;
mod prompt;
mod roles;
mod thinking;

use std::ops::Range;

use seqprep::{IGNORE_INDEX, Sample};
use trainer_config::{Config, Dataset, TrainOnEos};

use self::escape::Escaper;
use self::layout::{Layout, Renderer, Span};
use self::marks::Marks;
use self::messages::{Conversation, Fields, row_error};
use self::probe::Probe;
pub use self::prompt::ChatPrompts;
use super::{Strategy, TokenRoles, label};

use crate::source::Row;
use crate::tokenizer::Encoded;
use crate::{ChatTemplate, DataError, Tokenizer};

const NAME: &str = "chat_template";

/// Behind the content of another role, the end of the turn is looked for this many
/// tokens on, so that no end of the next turn is taken for it.
const END_DISTANCE: usize = 3;

pub(super) struct Chat<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    probe: Probe,
    fields: Fields<'a>,
    escaper: Option<Escaper>,
    /// Tokens that end a turn, and when each is trained.
    ends: Vec<(u32, TrainOnEos)>,
}

impl<'a> Chat<'a> {
    pub(super) fn new(
        config: &'a Config,
        dataset: &'a Dataset,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self, DataError> {
        let template = ChatTemplate::resolve(config, Some(dataset), tokenizer)?;
        let probe = Probe::new(&template, tokenizer)?;
        let ends = ends(config, dataset, tokenizer, &template, &probe)?;
        Ok(Self {
            fields: Fields::new(config, dataset)?,
            tokenizer,
            escaper: escaper(config, tokenizer, &probe, &ends),
            template,
            probe,
            ends,
        })
    }

    /// The conversation of a row, with what the template needs put in.
    fn read(&self, row: &Row) -> Result<Conversation, DataError> {
        let mut conversation = self.fields.read(row)?;
        if let Some(content) = &self.probe.no_content {
            for turn in &mut conversation.turns {
                if turn.calls_tools() && !turn.message.contains_key("content") {
                    turn.message.insert("content".to_owned(), content.clone());
                }
            }
        }
        Ok(conversation)
    }

    fn renderer(&self) -> Renderer<'_> {
        Renderer {
            template: &self.template,
            probe: &self.probe,
            thinking_key: self.fields.thinking_key,
            expects_thinking: self.fields.expects_thinking,
        }
    }

    /// Renders a conversation, with the names of special tokens in it cut.
    fn layout(&self, row: &Row, conversation: &Conversation) -> Result<Layout, DataError> {
        let marks = Marks::new(conversation).ok_or_else(|| {
            row_error(
                row,
                format!(
                    "a conversation of {} messages is more than can be kept apart; divide it",
                    conversation.turns.len()
                ),
            )
        })?;
        if let Some(escaper) = &self.escaper
            && escaper.concerns(conversation)
        {
            let mut conversation = conversation.clone();
            escaper.escape(&mut conversation, marks.cut());
            return self.renderer().layout(&conversation, marks);
        }
        self.renderer().layout(conversation, marks)
    }

    /// The samples of a conversation: one for each earlier turn whose reasoning
    /// the template leaves out, then that of the whole.
    fn conversation(
        &self,
        row: &Row,
        conversation: &Conversation,
    ) -> Result<Vec<Sample>, DataError> {
        let layout = self.layout(row, conversation)?;
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
            let layout = self.layout(row, &part)?;
            if layout.spans[turn].lost_thinking {
                return Err(row_error(
                    row,
                    format!(
                        "chat template {} leaves out the reasoning of `{}`, which would not be trained; use a template that prints it (`template_thinking_key` is the name it reads, now `{}`), or take the reasoning out of the data",
                        self.template.name(),
                        conversation.turns[turn].place,
                        self.fields.thinking_key,
                    ),
                ));
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
                if end.is_none() && self.ends.iter().any(|(_, when)| policy(*when)) {
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
                let Some((_, when)) = self.ends.iter().find(|(known, _)| *known == id) else {
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
                    && self.ends.iter().any(|(id, _)| *id == encoded.ids[*token])
            })
    }

    fn not_found(
        &self,
        row: &Row,
        conversation: &Conversation,
        turn: usize,
        what: &str,
    ) -> DataError {
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
                self.template.name(),
            ),
        )
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
                self.template.name(),
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
        let conversation = self.read(row)?;
        if conversation.turns.is_empty() {
            return Ok(Vec::new());
        }
        let made = self.conversation(row, &conversation);
        made.map_err(|error| error.at(&row.at))
    }

    fn roles(&self, row: &Row) -> Result<Option<TokenRoles>, DataError> {
        self.token_roles(row).map_err(|error| error.at(&row.at))
    }
}

/// Finds the names of special tokens in texts, unless they are welcome there.
fn escaper(
    config: &Config,
    tokenizer: &Tokenizer,
    probe: &Probe,
    ends: &[(u32, TrainOnEos)],
) -> Option<Escaper> {
    (!config.allow_special_tokens_in_content).then(|| {
        let all = tokenizer.special_texts();
        let structure: Vec<String> = all
            .iter()
            .filter(|name| {
                let id = tokenizer.token_to_id(name);
                probe.text.contains(name.as_str())
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
    template: &ChatTemplate,
    probe: &Probe,
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
        let by_name = eos == Some(id) && template.source().contains("eos_token");
        if !by_name && !template.source().contains(token) && !probe.text.contains(token) {
            return Err(error(
                token,
                format!(
                    "is never printed by chat template {}; take it out of the list, or use a template that ends turns with it",
                    template.name()
                ),
            ));
        }
        if !ends.iter().any(|(known, _)| *known == id) {
            ends.push((id, on_eot));
        }
    }
    if let Some(id) = probe.end
        && !ends.iter().any(|(known, _)| *known == id)
    {
        ends.push((id, on_eot));
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
