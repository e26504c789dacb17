//! `chat_template`: conversations rendered by a chat template.
//!
//! The conversation is rendered once, as a whole. Which characters are the
//! content of a turn is known from a second rendering in which the contents
//! stand between marker characters; it counts only if it equals the first one
//! once the markers are taken out. Templates that rewrite a content (such as
//! those that cut out reasoning) are handled by rendering the conversation up
//! to the turn. A trained turn that neither of the two finds is an error.
//!
//! A token is trained if it covers a character of a trained content. The token
//! that ends a turn, which follows the content within three tokens, is trained
//! as `train_on_eos` says: the end-of-sequence token, and the special token with which
//! the template ends a turn of the assistant where that is another one.

use std::collections::BTreeMap;
use std::ops::Range;

use seqprep::{IGNORE_INDEX, Sample};
use serde_json::{Map, Value, json};
use trainer_config::{Config, Dataset, TrainOnEos};

use super::{Strategy, label};
use crate::source::Row;
use crate::tokenizer::Encoded;
use crate::{ChatTemplate, DataError, Tokenizer};

const NAME: &str = "chat_template";

/// The end of a turn is looked for this many tokens after the content.
const END_DISTANCE: usize = 3;

pub(super) struct Chat<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    field: &'a str,
    /// Name in the data of each property of a message that has another name.
    properties: BTreeMap<&'a str, &'a str>,
    /// The role that each other name stands for.
    roles: BTreeMap<&'a str, &'a str>,
    roles_to_train: Vec<&'a str>,
    train_on_inputs: bool,
    train_on_eos: TrainOnEos,
    ends: Vec<u32>,
}

impl<'a> Chat<'a> {
    pub(super) fn new(
        config: &'a Config,
        dataset: &'a Dataset,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self, DataError> {
        let template = ChatTemplate::resolve(config, Some(dataset), tokenizer)?;
        let mut roles = BTreeMap::from([("human", "user"), ("gpt", "assistant")]);
        for (role, names) in dataset.roles.iter().flatten() {
            roles.extend(names.iter().map(|name| (name.as_str(), role.as_str())));
        }
        let mut properties = BTreeMap::from([("role", "role"), ("content", "content")]);
        for (property, name) in dataset.message_property_mappings.iter().flatten() {
            properties.insert(property, name);
        }
        let mut ends: Vec<u32> = tokenizer.eos_id().into_iter().collect();
        if let Some(end) = end_of_turn(&template, tokenizer)?
            && !ends.contains(&end)
        {
            ends.push(end);
        }
        Ok(Self {
            tokenizer,
            template,
            field: dataset.field_messages.as_deref().unwrap_or("messages"),
            properties,
            roles,
            roles_to_train: match &dataset.roles_to_train {
                Some(roles) => roles.iter().map(String::as_str).collect(),
                None => vec!["assistant"],
            },
            train_on_inputs: config.train_on_inputs,
            train_on_eos: dataset.train_on_eos.unwrap_or(TrainOnEos::Turn),
            ends,
        })
    }

    /// The messages of a row under the names that templates use.
    fn messages(&self, row: &Row) -> Result<Vec<Value>, DataError> {
        let value = row.column(
            self.field,
            NAME,
            "; `field_messages` names the column of the messages",
        )?;
        let parsed;
        let list = match value {
            Value::Array(list) => list,
            Value::String(text) => {
                parsed = serde_json::from_str::<Vec<Value>>(text)
                    .map_err(|_| row.wrong_type(self.field, "a list of messages", value))?;
                &parsed
            }
            other => return Err(row.wrong_type(self.field, "a list of messages", other)),
        };
        list.iter()
            .enumerate()
            .map(|(index, message)| self.message(row, index, message))
            .collect()
    }

    fn message(&self, row: &Row, index: usize, message: &Value) -> Result<Value, DataError> {
        let place = format!("{}[{index}]", self.field);
        let Value::Object(message) = message else {
            return Err(row.wrong_type(place, "an object with a role and a content", message));
        };
        let mut out = Map::new();
        for (property, name) in &self.properties {
            if let Some(value) = message.get(*name) {
                out.insert((*property).to_owned(), without_nulls(value));
            }
        }
        for (name, value) in message {
            let mapped = self.properties.values().any(|source| source == name);
            if !mapped && !value.is_null() && !out.contains_key(name) {
                out.insert(name.clone(), without_nulls(value));
            }
        }
        match out.get("role") {
            Some(Value::String(role)) => {
                if let Some(role) = self.roles.get(role.as_str()) {
                    out.insert("role".to_owned(), Value::from(*role));
                }
            }
            Some(other) => return Err(row.wrong_type(format!("{place}.role"), "text", other)),
            None => return Err(self.no_property(row, &place, "role", message)),
        }
        match out.get("content") {
            Some(Value::String(_)) => {}
            // Turns that only call tools have no content.
            None | Some(Value::Null) if out.contains_key("tool_calls") => {
                out.shift_remove("content");
            }
            None => return Err(self.no_property(row, &place, "content", message)),
            Some(other) => return Err(row.wrong_type(format!("{place}.content"), "text", other)),
        }
        Ok(Value::Object(out))
    }

    fn no_property(
        &self,
        row: &Row,
        place: &str,
        property: &str,
        message: &Map<String, Value>,
    ) -> DataError {
        let name = self.properties.get(property).unwrap_or(&property);
        let found: Vec<_> = message.keys().map(|key| format!("`{key}`")).collect();
        DataError::Row {
            at: row.at.clone(),
            message: format!(
                "`{place}` has no `{name}`; it has {}; `message_property_mappings` says which property holds the {property}",
                if found.is_empty() {
                    "nothing".to_owned()
                } else {
                    found.join(", ")
                }
            ),
        }
    }
}

impl Strategy for Chat<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        let messages = self.messages(row)?;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let tools = match row.columns.get("tools") {
            None | Some(Value::Null) => None,
            Some(tools @ Value::String(text)) => Some(
                serde_json::from_str(text)
                    .map_err(|_| row.wrong_type("tools", "a list of tools", tools))?,
            ),
            Some(tools) => Some(without_nulls(tools)),
        };
        let conversation = Conversation {
            template: &self.template,
            messages,
            tools,
        };
        let made = self.sample(row, &conversation);
        Ok(vec![made.map_err(|error| error.at(&row.at))?])
    }
}

impl Chat<'_> {
    fn sample(&self, row: &Row, conversation: &Conversation<'_>) -> Result<Sample, DataError> {
        let text = conversation.render(conversation.messages.clone(), false)?;
        let encoded = self.tokenizer.encode_with_offsets(&text, false)?;
        let mut labels = vec![IGNORE_INDEX; encoded.ids.len()];

        let last = conversation.messages.len() - 1;
        let trained: Vec<bool> = (0..=last)
            .map(|turn| {
                let role = conversation.role(turn);
                let silent = conversation.content(turn) == Some("");
                !silent && (self.train_on_inputs || self.roles_to_train.contains(&role))
            })
            .collect();
        let ends: Vec<bool> = (0..=last)
            .map(|turn| match self.train_on_eos {
                TrainOnEos::All => true,
                TrainOnEos::Turn => trained[turn],
                TrainOnEos::Last => turn == last && trained[turn],
                TrainOnEos::None => false,
            })
            .collect();
        let wanted: Vec<usize> = (0..=last)
            .filter(|turn| trained[*turn] || ends[*turn])
            .collect();
        let spans = conversation.locate(&text, &encoded, &self.ends, &wanted);
        for (turn, span) in wanted.into_iter().zip(spans) {
            let Some(span) = span else {
                if trained[turn] {
                    return Err(DataError::Row {
                        at: row.at.clone(),
                        message: format!(
                            "cannot tell which part of the rendered conversation is `{}[{turn}]` ({}), because chat template {} leaves it out or rewrites it; leave the role out of `roles_to_train`, or use a template that prints the content as it is",
                            self.field,
                            conversation.role(turn),
                            self.template.name(),
                        ),
                    });
                }
                continue;
            };
            let covered = tokens_of(&encoded, &span);
            if trained[turn] {
                for token in covered.clone() {
                    labels[token] = label(encoded.ids[token]);
                }
            }
            if ends[turn] {
                for end in &self.ends {
                    let near = encoded
                        .ids
                        .iter()
                        .enumerate()
                        .skip(covered.end)
                        .take(END_DISTANCE + 1);
                    if let Some((token, id)) = near.into_iter().find(|(_, id)| *id == end) {
                        labels[token] = label(*id);
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
}

/// The messages of one row, ready to be rendered.
struct Conversation<'a> {
    template: &'a ChatTemplate,
    messages: Vec<Value>,
    tools: Option<Value>,
}

impl Conversation<'_> {
    fn render(
        &self,
        messages: Vec<Value>,
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        self.template.render_with_tools(
            &Value::Array(messages),
            self.tools.as_ref(),
            add_generation_prompt,
        )
    }

    fn role(&self, turn: usize) -> &str {
        self.messages[turn]["role"].as_str().unwrap_or_default()
    }

    fn content(&self, turn: usize) -> Option<&str> {
        self.messages[turn].get("content")?.as_str()
    }

    /// The bytes of `text`, the rendered conversation, that are the content of
    /// each turn in `turns`.
    fn locate(
        &self,
        text: &str,
        encoded: &Encoded,
        ends: &[u32],
        turns: &[usize],
    ) -> Vec<Option<Range<usize>>> {
        for shape in [Shape::Whole, Shape::Trimmed] {
            if let Some(spans) = self.marked(text, turns, shape) {
                return spans.into_iter().map(Some).collect();
            }
        }
        // Some turn defies marking: each on its own.
        turns
            .iter()
            .map(|turn| {
                [Shape::Whole, Shape::Trimmed]
                    .into_iter()
                    .find_map(|shape| self.marked(text, &[*turn], shape)?.pop())
                    .or_else(|| self.by_prefix(text, encoded, ends, *turn))
            })
            .collect()
    }

    /// Spans from a rendering with markers around the contents, if it equals
    /// `text` without them.
    fn marked(&self, text: &str, turns: &[usize], shape: Shape) -> Option<Vec<Range<usize>>> {
        if turns.len() > MARKERS as usize || text.chars().any(|c| marker(c).is_some()) {
            return None;
        }
        let mut messages = self.messages.clone();
        for (number, turn) in (0..MARKERS).zip(turns) {
            let content = self.content(*turn)?;
            let (before, inner, after) = match shape {
                Shape::Whole => ("", content, ""),
                Shape::Trimmed => {
                    let (before, rest) =
                        content.split_at(content.len() - content.trim_start().len());
                    let (inner, after) = rest.split_at(rest.trim_end().len());
                    (before, inner, after)
                }
            };
            let open = char::from_u32(OPEN + number)?;
            let close = char::from_u32(CLOSE + number)?;
            messages[*turn]["content"] =
                Value::from(format!("{before}{open}{inner}{close}{after}"));
        }
        let marked = self.render(messages, false).ok()?;
        let mut spans = vec![(None, None); turns.len()];
        let mut plain = String::with_capacity(text.len());
        for c in marked.chars() {
            match marker(c) {
                None => plain.push(c),
                Some((number, open)) => {
                    let span = spans.get_mut(number)?;
                    let side = if open { &mut span.0 } else { &mut span.1 };
                    // A content that is printed twice has no one place.
                    if side.replace(plain.len()).is_some() {
                        return None;
                    }
                }
            }
        }
        if plain != text {
            return None;
        }
        spans
            .into_iter()
            .map(|(start, end)| (start? <= end?).then_some(start?..end?))
            .collect()
    }

    /// The part of `text` between the conversation before a turn of the
    /// assistant, with the header of the turn, and the token that ends it.
    fn by_prefix(
        &self,
        text: &str,
        encoded: &Encoded,
        ends: &[u32],
        turn: usize,
    ) -> Option<Range<usize>> {
        if self.role(turn) != "assistant" {
            return None;
        }
        let before = self.render(self.messages[..turn].to_vec(), true).ok()?;
        let start = before.len();
        if !text.starts_with(&before) {
            return None;
        }
        let after = self.render(self.messages[..=turn].to_vec(), false);
        let whole = after.ok().filter(|after| text.starts_with(after));
        let is_end = |token: &usize| ends.contains(&encoded.ids[*token]);
        let end = match whole {
            Some(after) => {
                let turn = text.get(start..after.len())?;
                tokens_of(encoded, &(start..after.len()))
                    .rev()
                    .find(is_end)
                    .map_or(start + turn.trim_end().len(), |token| {
                        encoded.offsets[token].start
                    })
            }
            // The turn looks different once others follow, as with templates
            // that drop the reasoning of earlier turns.
            None => {
                let token = tokens_of(encoded, &(start..text.len())).find(is_end)?;
                encoded.offsets[token].start
            }
        };
        (start < end).then_some(start..end)
    }
}

/// Where markers stand: around the whole content, or inside its outer white
/// space, for templates that trim.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Whole,
    Trimmed,
}

/// Markers are private-use characters (planes 15 and 16), one pair a turn.
const OPEN: u32 = 0xF_0000;
const CLOSE: u32 = 0x10_0000;
const MARKERS: u32 = 0xFFFE;

/// Number of the turn, and whether the marker opens it.
fn marker(c: char) -> Option<(usize, bool)> {
    match u32::from(c) {
        code @ CLOSE.. => Some(((code - CLOSE) as usize, false)),
        code @ OPEN.. => Some(((code - OPEN) as usize, true)),
        _ => None,
    }
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

/// The special token with which a template ends a turn of the assistant.
fn end_of_turn(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Option<u32>, DataError> {
    const PROBE: &str = "xyzzy";
    let messages = json!([
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": PROBE},
    ]);
    // A template that rejects the probe may still accept the data.
    let Ok(text) = template.render(&messages, false) else {
        return Ok(None);
    };
    let Some(start) = text.rfind(PROBE) else {
        return Ok(None);
    };
    let tail = tokenizer.encode(&text[start + PROBE.len()..], false)?;
    let mut near = tail.into_iter().take(END_DISTANCE + 1);
    Ok(near.find(|id| tokenizer.is_special(*id)))
}

/// Columns of structs hold null where a row lacks the entry; templates that
/// ask whether an entry is there must not see those.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        Value::Array(values) => values.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}
