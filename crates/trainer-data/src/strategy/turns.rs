//! `llama2_chat` and `pygmalion`: conversations of fixed formats.
//!
//! The conversation is tokenized as a whole; which tokens are trained is known
//! from the parts that it was put together from.

use std::borrow::Cow;

use seqprep::{IGNORE_INDEX, Sample};
use serde_json::Value;
use trainer_config::{Config, PromptStrategy};

use super::plain::Plain;
use super::{Strategy, label};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const COLUMN: &str = "conversations";

/// The system message of conversations without one, as Llama 2 was published.
const LLAMA2_SYSTEM: &str = "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't know the answer to a question, please don't share false information.";

/// A piece of text, and whether it is trained.
type Part = (String, bool);

pub(super) struct Turns<'a> {
    name: &'static str,
    style: Style,
    /// Key of the role, and of the text, in a turn.
    keys: [&'static str; 2],
    tokenizer: &'a Tokenizer,
    plain: Plain,
    bos: String,
    eos: &'a str,
    train_on_inputs: bool,
}

#[derive(Debug, Clone, Copy)]
enum Style {
    Llama2,
    Pygmalion,
}

struct Turn<'a> {
    role: &'a str,
    /// With names of special tokens marked, except in answers.
    text: Cow<'a, str>,
}

impl<'a> Turns<'a> {
    /// The strategy, if it is one of these.
    pub(super) fn new(
        strategy: &PromptStrategy,
        config: &Config,
        tokenizer: &'a Tokenizer,
    ) -> Option<Self> {
        let mut special = tokenizer.special_tokens();
        let eos = special.find(|(name, _)| *name == "eos_token");
        let (style, keys) = match strategy {
            PromptStrategy::Llama2Chat => (Style::Llama2, ["from", "value"]),
            PromptStrategy::Pygmalion => (Style::Pygmalion, ["role", "value"]),
            _ => return None,
        };
        Some(Self {
            name: strategy.as_str(),
            style,
            keys,
            tokenizer,
            plain: Plain::new(config, tokenizer),
            bos: tokenizer.bos_text(),
            eos: eos.map_or("", |(_, text)| text),
            train_on_inputs: config.train_on_inputs,
        })
    }

    fn turns<'r>(&self, row: &'r Row) -> Result<Vec<Turn<'r>>, DataError> {
        let value = row.column(COLUMN, self.name, "")?;
        let Value::Array(turns) = value else {
            return Err(row.wrong_type(COLUMN, "a list of turns", value));
        };
        let text = |index: usize, turn: &'r Value, key: &str| match turn.get(key) {
            Some(Value::String(text)) => Ok(text.as_str()),
            other => {
                let place = format!("{COLUMN}[{index}].{key}");
                Err(row.wrong_type(place, "text", other.unwrap_or(&Value::Null)))
            }
        };
        let [role, content] = self.keys;
        turns
            .iter()
            .enumerate()
            .map(|(index, turn)| {
                let role = text(index, turn, role)?;
                let text = text(index, turn, content)?;
                let text = match role {
                    "gpt" | "bot" => text.into(),
                    _ => self.plain.mark(text).map_err(|error| error.at(&row.at))?,
                };
                Ok(Turn { role, text })
            })
            .collect()
    }

    /// `[INST] <<SYS>> ... <</SYS>> question [/INST] answer`, each pair between
    /// the tokens that begin and end a sequence.
    fn llama2(&self, row: &Row, turns: &[Turn<'_>]) -> Result<Vec<Part>, DataError> {
        let (system, turns) = match turns {
            [first, rest @ ..] if first.role == "system" => (first.text.as_ref(), rest),
            _ => (LLAMA2_SYSTEM, turns),
        };
        let mut parts = Vec::new();
        for (index, turn) in turns.iter().enumerate() {
            let expected = ["human", "gpt"][index % 2];
            if turn.role != expected {
                return Err(DataError::Row {
                    at: row.at.clone(),
                    message: format!(
                        "`type: {}` takes turns of `human` and `gpt` by turns, after an optional `system`; where a turn of `{expected}` is due there is one of `{}`; `type: chat_template` takes any order",
                        self.name, turn.role
                    ),
                });
            }
            let text = turn.text.trim();
            if expected == "gpt" {
                parts.push((format!(" {text} {}", self.eos), true));
            } else if index == 0 {
                let system = format!("<<SYS>>\n{system}\n<</SYS>>\n\n");
                parts.push((format!("{}[INST] {system}{text} [/INST]", self.bos), false));
            } else {
                parts.push((format!("{}[INST] {text} [/INST]", self.bos), false));
            }
        }
        Ok(parts)
    }

    /// `<|system|>Persona: ...<|user|> ...<|model|> ...`, each answer with the end
    /// of the sequence.
    fn pygmalion(&self, row: &Row, turns: &[Turn<'_>]) -> Result<Vec<Part>, DataError> {
        let mut parts = vec![(self.bos.clone(), false)];
        for turn in turns {
            let text = turn.text.trim();
            match turn.role {
                "system" => {
                    let persona = turn.text.strip_suffix("\n<START>").unwrap_or(text);
                    parts.push((format!("<|system|>Persona: {}", persona.trim()), false));
                }
                "human" => parts.push((format!("<|user|> {text}"), false)),
                "bot" => {
                    parts.push(("<|model|>".to_owned(), false));
                    parts.push((format!(" {text}{}", self.eos), true));
                }
                other => {
                    return Err(DataError::Row {
                        at: row.at.clone(),
                        message: format!(
                            "`type: {}` takes turns of `system`, `human` and `bot`, not of `{other}`",
                            self.name
                        ),
                    });
                }
            }
        }
        Ok(parts)
    }
}

impl Strategy for Turns<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        let turns = self.turns(row)?;
        if turns.is_empty() {
            return Ok(Vec::new());
        }
        if self.eos.is_empty() {
            return Err(self.tokenizer.no_end());
        }
        let mut parts = match self.style {
            Style::Llama2 => self.llama2(row, &turns)?,
            Style::Pygmalion => self.pygmalion(row, &turns)?,
        };
        if !self.train_on_inputs
            && let Some(last) = parts.iter().rposition(|(_, trained)| *trained)
        {
            // What follows the last answer teaches nothing.
            parts.truncate(last + 1);
        }
        let mut text = String::new();
        let mut cuts = Vec::new();
        let mut spans = Vec::new();
        for (part, trained) in &parts {
            let (part, marks) = self.plain.unmark(part);
            let start = text.len();
            text.push_str(&part);
            cuts.extend(marks.into_iter().map(|mark| start + mark));
            spans.push((start..text.len(), *trained || self.train_on_inputs));
        }
        let encoded = self.tokenizer.encode_cut(&text, &cuts);
        let encoded = encoded.map_err(|error| error.at(&row.at))?;
        let mut labels = vec![IGNORE_INDEX; encoded.ids.len()];
        for (part, _) in spans.iter().filter(|(_, trained)| *trained) {
            let tokens = labels.iter_mut().zip(&encoded.ids).zip(&encoded.offsets);
            for ((slot, id), span) in tokens {
                if span.start < part.end && span.end > part.start {
                    *slot = label(*id);
                }
            }
        }
        Ok(vec![Sample {
            input_ids: encoded.ids,
            labels,
            position_ids: None,
        }])
    }
}
