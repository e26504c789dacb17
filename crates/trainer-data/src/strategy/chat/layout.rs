//! Where the turns of a conversation are in its rendered text.
//!
//! The conversation is rendered twice, as it is and with marks in it. Taken out
//! of the second rendering, the marks must leave the first; then they show where
//! each part of each message came to stand, whatever the template does with the
//! rest. Only where a template handles a marked text in another way are further
//! renderings needed.
//!
//! Of an assistant's turn, what counts is all that the model generates: from
//! the end of the header, which the model is given, to the token that ends the
//! turn, with opening tags of reasoning and calls of tools. Of other turns it is
//! the content.

use std::ops::Range;

use minijinja::Value;
use serde_json::Value as Json;

use super::conversation::{Conversation, Turn};
use super::fields::Fields;
use super::lost::{self, Lost};
use super::marks::{Marks, Place, Seen, Stripped};
use super::probe::Probe;
use super::thinking;
use crate::{ChatTemplate, DataError, values};

/// A rendered conversation.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) text: String,
    /// Bytes of `text` at which no special token may be made of it.
    pub(super) cuts: Vec<usize>,
    /// One for each turn.
    pub(super) spans: Vec<Span>,
    /// What the template does not print.
    pub(super) lost: Vec<Lost>,
}

/// Where a turn is in the text.
#[derive(Debug, Clone, Default)]
pub(super) struct Span {
    /// What may be trained, without the end of the turn; none if it is not known.
    pub(super) body: Option<Range<usize>>,
    /// Whether the body is all that is trained, up to the end of a block of the
    /// template, or what lies between it and the end of the turn is trained too.
    pub(super) closed: bool,
    /// Bytes of the body that are not trained.
    pub(super) masked: Vec<Range<usize>>,
    /// The end of the turn is looked for from here on.
    pub(super) end_from: Option<usize>,
    /// Up to here.
    pub(super) end_before: usize,
    /// Whether the template left out the reasoning of the turn.
    pub(super) lost_thinking: bool,
    /// Whether parts that are not trained could not be found in the body.
    pub(super) lost_parts: bool,
}

/// A template, what is known about it, and what rows hold.
#[derive(Debug)]
pub(super) struct Renderer<'a> {
    pub(super) template: &'a ChatTemplate,
    pub(super) probe: &'a Probe,
    pub(super) fields: &'a Fields,
}

/// How marks are put into a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Around the whole content where its outer white space matters.
    Whole,
    /// Inside the outer white space, which the template may take off.
    Trimmed,
    /// As `Trimmed`, and only in turns that are trained.
    Trained,
}

impl Renderer<'_> {
    /// Renders a conversation, which may hold marks of cuts already; with `prompt`,
    /// the header of the assistant's next turn follows.
    pub(super) fn layout(
        &self,
        conversation: &Conversation,
        marks: Marks,
        prompt: bool,
    ) -> Result<Layout, DataError> {
        let tools = conversation.tools.as_ref().map(values::to_template);
        let plain: Vec<Value> = conversation
            .turns
            .iter()
            .map(|turn| object(&turn.message, &[]))
            .collect();
        let render = |messages: Vec<Value>, prompt: bool, blocks| {
            self.template
                .render_values(Value::from(messages), tools.as_ref(), prompt, blocks)
        };
        let raw = render(plain.clone(), prompt, None)?;
        let unmarked = marks.strip(&raw);
        let exact = conversation.turns.iter().any(is_exact);
        let attempts = [Attempt::Whole, Attempt::Trimmed, Attempt::Trained];
        let found = attempts
            .into_iter()
            .filter(|attempt| exact || *attempt != Attempt::Whole)
            .find_map(|attempt| {
                let marked: Vec<Value> = conversation
                    .turns
                    .iter()
                    .zip(&plain)
                    .enumerate()
                    .map(|(index, (turn, plain))| self.mark(marks, index, turn, attempt, plain))
                    .collect();
                let text = render(marked.clone(), prompt, Some(marks.block())).ok()?;
                let stripped = marks.strip(&text);
                (stripped.text == unmarked.text).then_some((stripped, marked, attempt))
            });
        let found = found.unwrap_or((unmarked, plain.clone(), Attempt::Trained));
        let (stripped, marked, attempt) = found;
        let prefix = |turns: usize, prompt: bool| {
            let text = render(marked[..turns].to_vec(), prompt, None).ok()?;
            Some(marks.strip(&text))
        };
        let lost = lost::find(self, conversation, &stripped.turns, &raw, prompt);
        let all_marked = attempt != Attempt::Trained;
        Ok(Layout {
            lost,
            ..self.spans(conversation, stripped, all_marked, prefix)
        })
    }

    /// The text of a conversation.
    pub(super) fn render(
        &self,
        conversation: &Conversation,
        prompt: bool,
    ) -> Result<String, DataError> {
        let messages: Vec<Value> = conversation
            .turns
            .iter()
            .map(|turn| object(&turn.message, &[]))
            .collect();
        let tools = conversation.tools.as_ref().map(values::to_template);
        self.template
            .render_values(Value::from(messages), tools.as_ref(), prompt, None)
    }

    /// A message with marks in it.
    fn mark(
        &self,
        marks: Marks,
        index: usize,
        turn: &Turn,
        attempt: Attempt,
        plain: &Value,
    ) -> Value {
        if attempt == Attempt::Trained && !turn.trained {
            return plain.clone();
        }
        let mark = |place| marks.place(index, place);
        let mut changed = Vec::with_capacity(3);
        // A template may ask whether there is content beside the calls of tools.
        let content = turn
            .content()
            .filter(|content| !turn.calls_tools() || !content.trim().is_empty());
        if let Some(content) = content {
            let exact = is_exact(turn);
            let (before, inner, after) = if exact && attempt == Attempt::Whole {
                ("", content, "")
            } else {
                trim(content)
            };
            let mut text = String::with_capacity(content.len() + 12);
            text.push_str(before);
            if exact || self.probe.headers.is_empty() {
                text.push(mark(Place::ContentStart));
            }
            match self
                .inline_thinking(turn)
                .and_then(|end| end.checked_sub(before.len()))
            {
                Some(end) if end <= inner.len() => {
                    text.push_str(&inner[..end]);
                    text.push(mark(Place::ThinkingEnd));
                    text.push_str(&inner[end..]);
                }
                _ => text.push_str(inner),
            }
            text.push(mark(Place::ContentEnd));
            text.push_str(after);
            changed.push(("content", Value::from(text)));
        }
        if let Some(thinking) = self.thinking(turn) {
            let (before, inner, after) = trim(thinking);
            let start = if turn.masked_thinking.is_empty() {
                String::new()
            } else {
                mark(Place::ThinkingStart).to_string()
            };
            let end = mark(Place::ThinkingEnd);
            changed.push((
                self.fields.thinking_key.as_str(),
                Value::from(format!("{before}{start}{inner}{end}{after}")),
            ));
        }
        if turn.calls_tools()
            && let Some(calls) = turn.message.get("tool_calls")
        {
            let mut calls = calls.clone();
            for call in calls.as_array_mut().into_iter().flatten() {
                let name = match call.get_mut("function") {
                    Some(function @ Json::Object(_)) => function.get_mut("name"),
                    _ => call.get_mut("name"),
                };
                if let Some(Json::String(name)) = name {
                    name.push(mark(Place::Call));
                }
            }
            changed.push(("tool_calls", values::to_template(&calls)));
        }
        object(&turn.message, &changed)
    }

    /// Reasoning that stands apart from the content and that the template is
    /// expected to print.
    pub(super) fn thinking<'t>(&self, turn: &'t Turn) -> Option<&'t str> {
        let key = &self.fields.thinking_key;
        let text = turn.message.get(key)?.as_str()?;
        let wanted = self.fields.expects_thinking || self.template.source().contains(key.as_str());
        (wanted && turn.is_assistant() && !text.trim().is_empty()).then_some(text)
    }

    /// Where reasoning inside the content ends.
    fn inline_thinking(&self, turn: &Turn) -> Option<usize> {
        if !turn.is_assistant() || self.thinking(turn).is_some() {
            return None;
        }
        thinking::end_of_inline(turn.content()?)
    }

    fn spans(
        &self,
        conversation: &Conversation,
        stripped: Stripped,
        all_marked: bool,
        prefix: impl Fn(usize, bool) -> Option<Stripped>,
    ) -> Layout {
        let text = &stripped.text;
        let mut floor = 0;
        let mut spans = Vec::with_capacity(conversation.turns.len());
        for (index, (turn, seen)) in conversation.turns.iter().zip(&stripped.turns).enumerate() {
            let later = stripped.turns[index + 1..]
                .iter()
                .filter_map(|seen| seen.first);
            let mut span = Span {
                end_from: seen.last,
                end_before: later.min().unwrap_or(text.len()),
                ..Span::default()
            };
            if turn.is_assistant() {
                let block = seen.last.and_then(|last| {
                    let blocks = stripped.blocks.iter();
                    blocks
                        .copied()
                        .find(|(start, end)| *start <= last && last <= *end)
                });
                if let Some((start, end)) = block {
                    span.body = Some(start..end);
                    span.closed = true;
                } else if let Some(last) = seen.last.filter(|_| turn.trained) {
                    let first = seen.first.unwrap_or(last);
                    let start = all_marked
                        .then(|| self.header_end(text, &stripped.cuts, floor..first))
                        .flatten()
                        .or_else(|| {
                            self.prefix_end(&stripped, index, &prefix)
                                .filter(|at| *at <= first)
                        })
                        .or_else(|| seen.at(Place::ContentStart));
                    span.body = start
                        .filter(|start| *start <= last)
                        .map(|start| start..last);
                } else if turn.trained {
                    span.body = self.between_prefixes(&stripped, index, &prefix);
                    span.end_from = span.body.as_ref().map(|body| body.end);
                }
            } else if let (Some(start), Some(end)) =
                (seen.at(Place::ContentStart), seen.at(Place::ContentEnd))
            {
                span.body = (start <= end).then_some(start..end);
            }
            self.parts(text, turn, seen, &mut span);
            floor = seen.last.map_or(floor, |last| last.max(floor));
            spans.push(span);
        }
        Layout {
            spans,
            lost: Vec::new(),
            cuts: stripped.cuts,
            text: stripped.text,
        }
    }

    /// What of the body is not trained, and whether the reasoning is there.
    fn parts(&self, text: &str, turn: &Turn, seen: &Seen, span: &mut Span) {
        let thinking = self.thinking(turn);
        let inline = self.inline_thinking(turn);
        if thinking.is_some() || inline.is_some() {
            span.lost_thinking = match (&span.body, seen.last) {
                (_, Some(_)) => !seen.has(Place::ThinkingEnd),
                (Some(body), None) => {
                    let content = turn.content().unwrap_or_default();
                    let whole = thinking.or(inline.map(|end| &content[..end]));
                    let lines = whole.unwrap_or_default().trim();
                    let lines = lines.rsplit("<think>").next().unwrap_or(lines);
                    !text[body.clone()].contains(lines.trim())
                }
                (None, None) => false,
            };
        }
        let content = turn.content().unwrap_or_default();
        let texts = [
            (
                &turn.masked,
                content,
                Place::ContentStart,
                Place::ContentEnd,
            ),
            (
                &turn.masked_thinking,
                thinking.unwrap_or_default(),
                Place::ThinkingStart,
                Place::ThinkingEnd,
            ),
        ];
        for (masked, whole, start, end) in texts {
            if masked.is_empty() || !turn.trained {
                continue;
            }
            let shown = match (seen.at(start), seen.at(end)) {
                (Some(start), Some(end)) if start <= end => start..end,
                _ => {
                    span.lost_parts = true;
                    continue;
                }
            };
            // Printed whole, or without its outer white space.
            let before = whole.len() - whole.trim_start().len();
            let offset = if text[shown.clone()] == *whole {
                0
            } else if text[shown.clone()] == *whole.trim() {
                before
            } else {
                span.lost_parts = true;
                continue;
            };
            span.masked.extend(masked.iter().filter_map(|range| {
                let place = |at: usize| (at.saturating_sub(offset) + shown.start).min(shown.end);
                let range = place(range.start)..place(range.end);
                (!range.is_empty()).then_some(range)
            }));
        }
    }

    /// The end of the first header in a part of the text.
    fn header_end(&self, text: &str, cuts: &[usize], within: Range<usize>) -> Option<usize> {
        let shortest = self.probe.headers.first()?;
        let mut from = within.start;
        loop {
            let at = from + text.get(from..within.end)?.find(shortest.as_str())?;
            let end = at + shortest.len();
            // Text that reads like a header is not one.
            if cuts.iter().any(|cut| (at..end).contains(cut)) {
                from = end;
                continue;
            }
            let longest = self.probe.headers.iter().rev();
            return longest
                .map(String::as_str)
                .find(|header| text[at..].starts_with(header))
                .map(|header| at + header.len());
        }
    }

    /// Where a turn begins behind its header, from a rendering of the conversation
    /// before it: what follows the last mark there, or the whole of it, is found in
    /// the same place here.
    fn prefix_end(
        &self,
        whole: &Stripped,
        turn: usize,
        prefix: &impl Fn(usize, bool) -> Option<Stripped>,
    ) -> Option<usize> {
        let last = |stripped: &Stripped| stripped.turns[turn.checked_sub(1)?].last;
        [true, false].into_iter().find_map(|prompt| {
            let before = prefix(turn, prompt)?;
            let (from, tail) = match (last(whole), last(&before)) {
                (Some(here), Some(there)) => (here, &before.text[there..]),
                _ => (0, before.text.as_str()),
            };
            let rest = whole.text[from..].strip_prefix(tail)?;
            let mut headers = self.probe.headers.iter().rev();
            let header = headers.find(|header| rest.starts_with(header.as_str()));
            Some(from + tail.len() + header.map_or(0, String::len))
        })
    }

    /// What a turn adds to the conversation.
    fn between_prefixes(
        &self,
        whole: &Stripped,
        turn: usize,
        prefix: &impl Fn(usize, bool) -> Option<Stripped>,
    ) -> Option<Range<usize>> {
        let start = self.prefix_end(whole, turn, prefix)?;
        let after = prefix(turn + 1, false)?.text;
        if !whole.text.starts_with(&after) {
            return None;
        }
        // The end of the turn is found behind the body.
        let added = after.get(start..)?;
        let name = self.probe.end_text.as_deref();
        let inner = match name.and_then(|name| added.rfind(name)) {
            Some(at) => &added[..at],
            None => added.trim_end(),
        };
        (!inner.is_empty()).then(|| start..start + inner.len())
    }
}

/// Whether the bounds of the content matter, not only those of the turn.
fn is_exact(turn: &Turn) -> bool {
    turn.trained
        && (!turn.is_assistant() || !turn.masked.is_empty() || !turn.masked_thinking.is_empty())
}

/// A message for the template, with some values changed.
fn object(message: &serde_json::Map<String, Json>, changed: &[(&str, Value)]) -> Value {
    Value::from_pairs(message.iter().map(|(key, value)| {
        let other = changed.iter().find(|(name, _)| name == key);
        let value = match (other, value) {
            (Some((_, value)), _) => value.clone(),
            (None, Json::String(text)) => Value::from(text.as_str()),
            (None, value) => values::to_template(value),
        };
        (key.as_str(), value)
    }))
}

/// White space before, what is between, and white space behind.
pub(super) fn trim(text: &str) -> (&str, &str, &str) {
    let inner = text.trim_start();
    let (before, rest) = text.split_at(text.len() - inner.len());
    let (inner, after) = rest.split_at(inner.trim_end().len());
    (before, inner, after)
}
