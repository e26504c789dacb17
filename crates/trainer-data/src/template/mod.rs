//! Chat templates: Jinja as Hugging Face's transformers runs it.
//!
//! [`ChatTemplate`] is a template that has been compiled once and renders any
//! number of conversations, from any number of threads. Where it comes from is
//! decided in [`ChatTemplate::resolve`]: the tokenizer, the configuration, or
//! one of the templates of [`bundled`].
//!
//! `tools` and `documents` are none when absent, as in transformers.

mod bundled;
mod engine;
mod generation;

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Error, Value};
use trainer_config::{CHAT_TEMPLATE_FALLBACK, Config, Dataset, PromptStrategy};

use crate::error::nearest;
use crate::{DataError, Tokenizer};

const DEFAULT: &str = "tokenizer_default";

/// A chat template, compiled, with the special tokens it may print.
#[derive(Debug)]
pub struct ChatTemplate {
    name: String,
    source: String,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template; `name` is how messages call it, and `tokens` are
    /// variables of the template (`bos_token`, `eos_token`, ...).
    ///
    /// # Errors
    /// [`DataError::TemplateSyntax`].
    pub fn new<'a>(
        name: &str,
        source: &str,
        tokens: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, DataError> {
        let mut environment = engine::environment().map_err(|error| syntax(name, &error))?;
        for (token, text) in tokens {
            environment.add_global(token.to_owned(), text.to_owned());
        }
        environment
            .add_template_owned("chat", generation::rewrite(source))
            .map_err(|error| syntax(name, &error))?;
        Ok(Self {
            name: name.to_owned(),
            source: source.to_owned(),
            environment,
        })
    }

    /// The template that a data set uses, with `chat_template_kwargs`: its own
    /// setting, else the configuration's, else the tokenizer's template.
    ///
    /// # Errors
    /// An unknown name, a missing file, a tokenizer without a template, or a
    /// template that does not compile.
    pub fn resolve(
        config: &Config,
        dataset: Option<&Dataset>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, DataError> {
        let settings = [
            dataset.map(|d| (&d.chat_template, &d.chat_template_jinja)),
            Some((&config.chat_template, &config.chat_template_jinja)),
        ];
        let default = match dataset.and_then(|dataset| dataset.strategy.as_ref()) {
            Some(PromptStrategy::MessagesChat) => "chatml",
            _ => DEFAULT,
        };
        let (name, jinja) = settings
            .into_iter()
            .flatten()
            .find(|(name, jinja)| name.is_some() || jinja.is_some())
            .map_or((default, None), |(name, jinja)| match (name, jinja) {
                (Some(name), _) => (name.as_str(), jinja.as_deref()),
                (None, _) => ("jinja", jinja.as_deref()),
            });
        let own = tokenizer.chat_template();
        let (name, source) = match name {
            "jinja" => {
                // A data set may choose `jinja` and leave the text to the top level.
                let jinja = jinja.or(config.chat_template_jinja.as_deref());
                jinja_source(jinja.ok_or(DataError::NoJinja)?)?
            }
            DEFAULT => (
                DEFAULT.to_owned(),
                own.ok_or_else(|| DataError::NoChatTemplate {
                    path: tokenizer.folder().to_owned(),
                })?
                .to_owned(),
            ),
            name => {
                let fallback = name.strip_prefix(CHAT_TEMPLATE_FALLBACK);
                let source = bundled::source(fallback.unwrap_or(name)).ok_or_else(|| {
                    DataError::UnknownChatTemplate {
                        name: name.to_owned(),
                    }
                })?;
                match (fallback, own) {
                    (Some(_), Some(own)) => (DEFAULT.to_owned(), own.to_owned()),
                    (fallback, _) => (fallback.unwrap_or(name).to_owned(), source.to_owned()),
                }
            }
        };
        let mut template = Self::new(&name, &source, tokenizer.special_tokens())?;
        for (variable, value) in config.chat_template_kwargs.iter().flatten() {
            template.set(variable, value);
        }
        Ok(template)
    }

    /// Names of the bundled templates, in alphabetic order.
    pub fn bundled() -> impl Iterator<Item = &'static str> {
        bundled::names()
    }

    /// Sets a variable of the template, such as `enable_thinking`.
    pub fn set(&mut self, variable: &str, value: &serde_json::Value) {
        self.environment
            .add_global(variable.to_owned(), Value::from(Serde(value)));
    }

    /// The text of a conversation: a list of objects with `role`, `content` and
    /// whatever else the template reads. With `add_generation_prompt`, followed
    /// by the header of the assistant's next turn.
    ///
    /// # Errors
    /// [`DataError::TemplateFailed`], with the text of `raise_exception` where
    /// the template rejects the conversation.
    pub fn render(
        &self,
        messages: &serde_json::Value,
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        self.render_with_tools(messages, None, add_generation_prompt)
    }

    /// As [`ChatTemplate::render`], with the tools that the assistant may call.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_with_tools(
        &self,
        messages: &serde_json::Value,
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        let tools = tools.map(|tools| Value::from(Serde(tools)));
        self.render_values(
            Value::from(Serde(messages)),
            tools.as_ref(),
            add_generation_prompt,
            None,
        )
    }

    /// As [`ChatTemplate::render_with_tools`], for values that are used several
    /// times; `blocks` are the characters to print around generation blocks.
    pub(crate) fn render_values(
        &self,
        messages: Value,
        tools: Option<&Value>,
        add_generation_prompt: bool,
        blocks: Option<(char, char)>,
    ) -> Result<String, DataError> {
        let none = Value::from(());
        let (open, close) = match blocks {
            Some((open, close)) => (
                Value::from(open.to_string()),
                Value::from(close.to_string()),
            ),
            None => (Value::from(""), Value::from("")),
        };
        let context = Value::from_pairs([
            ("messages", messages),
            ("tools", tools.unwrap_or(&none).clone()),
            ("documents", none.clone()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            (generation::OPEN, open),
            (generation::CLOSE, close),
        ]);
        self.environment
            .get_template("chat")
            .and_then(|template| template.render(context))
            .map_err(|error| DataError::TemplateFailed {
                name: self.name.clone(),
                line: error.line(),
                message: engine::message(&error),
            })
    }

    /// How messages call the template: a bundled name, `tokenizer_default`, or
    /// the path of a file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template's text, as it was given.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// The template itself where the text is one, else the file that it names.
fn jinja_source(text: &str) -> Result<(String, String), DataError> {
    if text.contains("{{") || text.contains("{%") {
        return Ok(("chat_template_jinja".to_owned(), text.to_owned()));
    }
    let path = Path::new(text);
    if !path.is_file() {
        return Err(DataError::Missing {
            what: "chat template",
            path: path.to_owned(),
            hint: nearest(path),
        });
    }
    let source = std::fs::read_to_string(path).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok((text.to_owned(), source))
}

fn syntax(name: &str, error: &Error) -> DataError {
    DataError::TemplateSyntax {
        name: name.to_owned(),
        line: error.line(),
        message: engine::message(error),
    }
}
