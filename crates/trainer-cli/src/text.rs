//! From a trained model to the text it writes, for `inference`, `chat` and
//! `demo`.

use std::ops::ControlFlow;

use serde_json::{Value, json};
use trainer_config::Config;
use trainer_core::generation_options;
use trainer_data::source::Row;
use trainer_data::{Asked, ChatPrompts, DataError, TextStream, Tokenizer, plain_prompt};
use trainer_model::{CausalLm, Finish, GenerationOptions};

use crate::args::Overrides;
use crate::failure::Failure;

/// Longest answer where the configuration names none.
const MAX_NEW_TOKENS: usize = 512;

/// Flags that are short for keys of the configuration.
const SHORT: [(&str, &str); 6] = [
    ("max_new_tokens", "generation_max_new_tokens"),
    ("temperature", "generation_temperature"),
    ("top_k", "generation_top_k"),
    ("top_p", "generation_top_p"),
    ("min_p", "generation_min_p"),
    ("repetition_penalty", "generation_repetition_penalty"),
];

/// Puts the keys in place of their short forms.
pub(crate) fn written_out(overrides: Overrides) -> Overrides {
    let long = |key: String| {
        let name = key.replace('-', "_");
        let found = SHORT.iter().find(|(short, _)| *short == name);
        found.map_or(key, |(_, long)| (*long).to_owned())
    };
    overrides
        .into_iter()
        .map(|(key, value)| (long(key), value))
        .collect()
}

/// What a model is to go on with.
#[derive(Debug, Clone)]
pub(crate) enum Prompt {
    /// Text as it stands, or what a user says where there is a chat template.
    Text(String),
    /// A conversation, of objects with `role` and `content`.
    Messages(Vec<Value>),
    /// A row as those of the training data, up to its answer.
    Row(Row),
    /// Tokens.
    Ids(Vec<u32>),
}

/// An answer as text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    /// `stop` or `length`, as the field's interfaces call them.
    pub(crate) finish: &'static str,
}

/// A model that writes.
pub(crate) struct Writer<'a> {
    model: &'a CausalLm,
    tokenizer: &'a Tokenizer,
    /// How prompts become conversations; nothing where they are taken as they are.
    chat: Option<ChatPrompts<'a>>,
    config: &'a Config,
    options: GenerationOptions,
    stop_strings: Vec<String>,
}

impl<'a> Writer<'a> {
    /// With `raw`, prompts are taken as they are even where there is a template.
    pub(crate) fn new(
        config: &'a Config,
        model: &'a CausalLm,
        tokenizer: &'a Tokenizer,
        raw: bool,
    ) -> Result<Self, Failure> {
        let chat = match ChatPrompts::new(config, tokenizer) {
            _ if raw => None,
            Err(DataError::NoChatTemplate { .. }) => None,
            chat => Some(chat?),
        };
        let mut options = generation_options(config, model, MAX_NEW_TOKENS);
        match &chat {
            Some(chat) => options.stop_ids.extend(chat.stop_ids()),
            None => options.stop_ids.extend(tokenizer.eos_id()),
        }
        Ok(Self {
            model,
            tokenizer,
            chat,
            config,
            options,
            stop_strings: config.generation.generation_stop_strings.clone(),
        })
    }

    pub(crate) fn has_template(&self) -> bool {
        self.chat.is_some()
    }

    /// Answers prompts in one batch; the first is the `first`-th of all. `show` is
    /// told the index of a prompt and each piece of its answer.
    pub(crate) fn answer(
        &self,
        prompts: &[Prompt],
        first: usize,
        mut show: impl FnMut(usize, &str) -> std::io::Result<()>,
    ) -> Result<Vec<Answer>, Failure> {
        let prompts = prompts
            .iter()
            .map(|prompt| self.encode(prompt))
            .collect::<Result<Vec<_>, _>>()?;
        self.warn_of_length(&prompts);
        let options = GenerationOptions {
            first_row: first as u64,
            ..self.options.clone()
        };
        let stream = |_| TextStream::new(self.tokenizer, true, &self.stop_strings);
        let mut streams: Vec<TextStream<'_>> = (0..prompts.len()).map(stream).collect();
        let mut texts = vec![String::new(); prompts.len()];
        let mut take = |row: usize, piece: Result<String, DataError>| -> Result<(), Failure> {
            let piece = piece?;
            texts[row].push_str(&piece);
            if !piece.is_empty() {
                show(row, &piece)?;
            }
            Ok(())
        };
        let mut failure = None;
        let answers = self.model.generate(&prompts, &options, |row, id| {
            let piece = streams[row].push(id);
            match take(row, piece) {
                Ok(()) if !streams[row].stopped() && failure.is_none() => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        for (row, stream) in streams.iter_mut().enumerate() {
            take(row, stream.finish())?;
        }
        let finished = texts.into_iter().zip(&answers).zip(&streams);
        Ok(finished
            .map(|((text, answer), stream)| Answer {
                text,
                finish: match answer.finish {
                    Finish::Length if !stream.stopped() => "length",
                    _ => "stop",
                },
            })
            .collect())
    }

    /// The tokens of a prompt, and the scores of every token that may follow.
    pub(crate) fn logits(&self, prompt: &Prompt) -> Result<(Vec<u32>, Vec<f32>), Failure> {
        let ids = self.encode(prompt)?;
        Ok((ids.clone(), self.model.next_logits(&ids)?))
    }

    /// The tokens of a prompt.
    pub(crate) fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, Failure> {
        let ids = match (prompt, &self.chat) {
            (Prompt::Ids(ids), _) => ids.clone(),
            (Prompt::Text(text), None) => plain_prompt(self.config, self.tokenizer, text)?,
            (Prompt::Text(text), Some(chat)) => {
                let said = json!({"role": "user", "content": text});
                heard(chat.encode(&[said])?, "the prompt")
            }
            (Prompt::Messages(messages), Some(chat)) => {
                heard(chat.encode(messages)?, "the conversation")
            }
            (Prompt::Row(row), Some(chat)) => heard(chat.encode_row(row)?, &row.at.to_string()),
            (Prompt::Row(row), None) => match row.columns.get("prompt") {
                Some(Value::String(text)) if !has_tools(row) => {
                    plain_prompt(self.config, self.tokenizer, text)?
                }
                _ => {
                    return Err(Failure::new(format!(
                        "{}: a conversation, or a prompt with `tools`, needs a chat \
                         template, and there is none; name one in `chat_template`, or leave \
                         out --raw",
                        row.at
                    )));
                }
            },
            (Prompt::Messages(_), None) => {
                return Err(Failure::new(
                    "a conversation needs a chat template, and there is none; name one in \
                     `chat_template`",
                ));
            }
        };
        if ids.is_empty() {
            return Err(Failure::new(
                "the prompt is empty, and a model continues at least one token",
            ));
        }
        Ok(ids)
    }

    /// Says so where the model was not made for texts as long as these may become.
    fn warn_of_length(&self, prompts: &[Vec<u32>]) {
        let limit = &self.model.config().raw;
        let limit = limit.get("max_position_embeddings").and_then(Value::as_u64);
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        if let Some(limit) = limit
            && (longest + self.options.max_new_tokens) as u64 > limit
        {
            eprintln!(
                "warning: a prompt of {longest} tokens and {} new ones are more than the {limit} \
                 positions that the model was made for",
                self.options.max_new_tokens
            );
        }
    }
}

/// The tokens of a prompt, of which is printed what there is to say.
fn heard(asked: Asked, place: &str) -> Vec<u32> {
    for note in asked.notes {
        eprintln!("warning: {place}, `{}`: {}", note.place, note.message);
    }
    asked.ids
}

/// Whether a row names tools.
fn has_tools(row: &Row) -> bool {
    let tools = row.columns.get("tools");
    tools.is_some_and(|tools| match tools {
        Value::Array(list) => !list.is_empty(),
        other => !other.is_null(),
    })
}
