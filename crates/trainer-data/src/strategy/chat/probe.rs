//! What a template does, found out from small conversations when it is loaded.
//!
//! The header of an assistant's turn is what a rendering of a question with the
//! generation prompt shares with a rendering of the answered question: this is
//! what the model is given when it generates, and all that follows is its own.
//! The end of a turn is the first added token behind an answer.

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::json;

use crate::{ChatTemplate, DataError, Tokenizer};

const QUESTION: &str = "31415926";
const ANSWER: &str = "27182818";

/// How turns of a template begin and end.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Texts that may stand before what the assistant generates, shortest first;
    /// each begins with the one before it. Empty if there is none.
    pub(super) headers: Vec<String>,
    /// The token that ends a turn of the assistant.
    pub(super) end: Option<u32>,
    /// Its text.
    pub(super) end_text: Option<String>,
    /// What the template makes of a short conversation.
    pub(super) text: String,
    /// The `content` of a turn that only calls tools: some templates want it to be
    /// absent, others text or none. Where no call comes out, it is text: that the call
    /// is lost is then said, and not that there is no content.
    pub(super) no_content: Option<serde_json::Value>,
}

impl Probe {
    /// # Errors
    /// The tokenizer's. A template that rejects a conversation may still accept
    /// those of the data, so that is none.
    pub(super) fn new(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let user = json!({"role": "user", "content": QUESTION});
        let assistant = json!({"role": "assistant", "content": ANSWER});
        let render = |messages: serde_json::Value, prompt: bool| {
            let text = template.render(&messages, prompt).ok()?;
            text.contains(QUESTION).then_some(text)
        };
        let Some(answered) = render(json!([user, assistant]), false) else {
            return Ok(Self::default());
        };
        let mut probe = Self {
            no_content: no_content(template),
            ..Self::default()
        };
        if let Some(at) = answered.rfind(ANSWER) {
            let tail = &answered[at + ANSWER.len()..];
            let mut ids = tokenizer.encode(tail, false)?.into_iter();
            probe.end = ids.find(|id| tokenizer.is_added(*id));
            let decode = |end| tokenizer.decode(&[end], false);
            probe.end_text = probe.end.map(decode).transpose()?;
        }
        let asked = render(json!([user]), true);
        if let Some(asked) = &asked {
            let longer = render(json!([user, assistant, user, assistant]), false);
            let shared = longer.iter().chain([&answered, asked]);
            for shared in shared.map(|text| &asked[..common(asked, text)]) {
                if let Some(header) = header(shared, probe.end_text.as_deref())
                    && !probe.headers.contains(&header)
                {
                    probe.headers.push(header);
                }
            }
        }
        // Without a generation prompt, all that stands before the answer.
        if probe.headers.is_empty()
            && let Some(at) = answered.rfind(ANSWER)
        {
            probe
                .headers
                .extend(header(&answered[..at], probe.end_text.as_deref()));
        }
        // Each has to begin with the shortest, which is looked for first.
        probe.headers.sort_by_key(String::len);
        if let Some(shortest) = probe.headers.first().cloned() {
            probe.headers.retain(|header| header.starts_with(&shortest));
        }
        probe.text = answered;
        Ok(probe)
    }
}

/// The part of a text behind the question and what ends the user's turn.
fn header(text: &str, end: Option<&str>) -> Option<String> {
    let tail = &text[text.rfind(QUESTION)? + QUESTION.len()..];
    let split = end
        .filter(|end| !end.is_empty())
        .and_then(|end| tail.split_once(end));
    let tail = split.map_or(tail, |(_, rest)| rest.trim_start());
    (!tail.trim().is_empty()).then(|| tail.to_owned())
}

/// Length of the beginning that two texts share.
fn common(a: &str, b: &str) -> usize {
    let pairs = a.char_indices().zip(b.chars());
    pairs
        .take_while(|((_, x), y)| x == y)
        .last()
        .map_or(0, |((at, c), _)| at + c.len_utf8())
}

fn no_content(template: &ChatTemplate) -> Option<serde_json::Value> {
    [None, Some(json!("")), Some(json!(null))]
        .into_iter()
        .find(|content| {
            let mut call = json!({"role": "assistant", "tool_calls": [
                {"id": "abcdefghi", "type": "function",
                 "function": {"name": ANSWER, "arguments": {"a": "b"}}}]});
            if let (Some(content), Some(call)) = (content, call.as_object_mut()) {
                call.insert("content".to_owned(), content.clone());
            }
            let messages = json!([{"role": "user", "content": QUESTION}, call]);
            let tools = json!([{"type": "function", "function": {
                "name": ANSWER, "description": "d",
                "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}]);
            let messages = Value::from(Serde(&messages));
            let tools = Value::from(Serde(&tools));
            template
                .render_values(messages, Some(&tools), false, None)
                .is_ok_and(|text| {
                    text.rfind(QUESTION)
                        .is_some_and(|at| text[at..].contains(ANSWER))
                })
        })
        .unwrap_or_else(|| Some(json!("")))
}
