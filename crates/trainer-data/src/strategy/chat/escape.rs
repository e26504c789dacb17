//! Names of special tokens inside the texts of a conversation.
//!
//! A cut mark behind the first character of such a name keeps it from becoming
//! the token. In the assistant's own messages this is done only for the tokens
//! that give a conversation its structure: others, such as those that open a
//! call of a tool, the model may have to write.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use super::conversation::Conversation;

/// Finds names of special tokens.
#[derive(Debug)]
pub(super) struct Escaper {
    all: Option<AhoCorasick>,
    structure: Option<AhoCorasick>,
}

impl Escaper {
    /// `names` are those of all special tokens, `structure` of those that have a
    /// part in the layout of conversations.
    pub(super) fn new(names: &[String], structure: &[String]) -> Self {
        Self {
            all: finder(names),
            structure: finder(structure),
        }
    }

    /// Whether any name stands anywhere in the conversation.
    pub(super) fn concerns(&self, conversation: &Conversation) -> bool {
        let turns = conversation.turns.iter().any(|turn| {
            let finder = self.of(turn.is_assistant());
            finder.is_some_and(|finder| turn.message.values().any(|value| holds(value, finder)))
        });
        turns
            || self
                .all
                .as_ref()
                .is_some_and(|finder| conversation.tools.iter().any(|tools| holds(tools, finder)))
    }

    /// Puts `cut` into every name.
    pub(super) fn escape(&self, conversation: &mut Conversation, cut: char) {
        for turn in &mut conversation.turns {
            if let Some(finder) = self.of(turn.is_assistant()) {
                for (key, value) in &mut turn.message {
                    if key != "role" {
                        escape(value, finder, cut);
                    }
                }
            }
        }
        if let (Some(tools), Some(finder)) = (&mut conversation.tools, &self.all) {
            escape(tools, finder, cut);
        }
    }

    fn of(&self, assistant: bool) -> Option<&AhoCorasick> {
        if assistant {
            self.structure.as_ref()
        } else {
            self.all.as_ref()
        }
    }
}

fn finder(names: &[String]) -> Option<AhoCorasick> {
    if names.is_empty() {
        return None;
    }
    // Building fails only for texts of gigabytes.
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(names)
        .ok()
}

fn holds(value: &Value, finder: &AhoCorasick) -> bool {
    match value {
        Value::String(text) => finder.is_match(text),
        Value::Array(values) => values.iter().any(|value| holds(value, finder)),
        Value::Object(object) => object.values().any(|value| holds(value, finder)),
        _ => false,
    }
}

fn escape(value: &mut Value, finder: &AhoCorasick, cut: char) {
    match value {
        Value::String(text) => {
            let mut out = String::new();
            let mut from = 0;
            for found in finder.find_iter(&*text) {
                let first = text[found.start()..]
                    .chars()
                    .next()
                    .map_or(0, char::len_utf8);
                let at = found.start() + first;
                out.push_str(&text[from..at]);
                out.push(cut);
                from = at;
            }
            if from > 0 {
                out.push_str(&text[from..]);
                *text = out;
            }
        }
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| escape(value, finder, cut)),
        Value::Object(object) => {
            for value in object.values_mut() {
                escape(value, finder, cut);
            }
        }
        _ => {}
    }
}
