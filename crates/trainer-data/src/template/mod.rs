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

use minijinja::{Environment, Error, Value};
use trainer_config::{CHAT_TEMPLATE_FALLBACK, Config, Dataset, PromptStrategy};

use crate::error::nearest;
use crate::{DataError, Tokenizer, values};

const DEFAULT: &str = "tokenizer_default";

/// Name of a tokenizer's template for rows that no other is for.
pub(crate) const DEFAULT_NAME: &str = "default";

/// Name of a tokenizer's template for rows with tools, as in transformers.
const TOOL_USE: &str = "tool_use";

/// What there is for rows without tools and for rows with them.
#[derive(Debug)]
pub(crate) struct Templates<T> {
    plain: Option<T>,
    tools: Option<T>,
    /// Names of the templates that it was chosen from.
    names: String,
}

impl<T> Templates<T> {
    /// That of rows with tools, or of rows without.
    ///
    /// # Errors
    /// The names of the templates where none is for such rows.
    pub(crate) fn of(&self, tools: bool) -> Result<&T, &str> {
        let own = self.tools.as_ref().filter(|_| tools);
        own.or(self.plain.as_ref()).ok_or(&self.names)
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.plain.iter().chain(&self.tools)
    }

    /// The same of something else.
    pub(crate) fn try_map<U, E>(
        self,
        mut map: impl FnMut(T) -> Result<U, E>,
    ) -> Result<Templates<U>, E> {
        Ok(Templates {
            plain: self.plain.map(&mut map).transpose()?,
            tools: self.tools.map(&mut map).transpose()?,
            names: self.names,
        })
    }
}

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
    /// setting, else the configuration's, else the tokenizer's template. Of several
    /// templates of a tokenizer, that of rows without tools.
    ///
    /// # Errors
    /// An unknown name, a missing file, a tokenizer without a template, or a
    /// template that does not compile.
    pub fn resolve(
        config: &Config,
        dataset: Option<&Dataset>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, DataError> {
        let Templates { plain, tools, .. } = Self::all(config, dataset, tokenizer)?;
        // One of the two is there.
        plain.or(tools).ok_or_else(|| DataError::NoChatTemplate {
            path: tokenizer.folder().to_owned(),
        })
    }

    /// As [`ChatTemplate::resolve`], with the template of rows that have tools where
    /// the tokenizer has another one for them.
    pub(crate) fn all(
        config: &Config,
        dataset: Option<&Dataset>,
        tokenizer: &Tokenizer,
    ) -> Result<Templates<Self>, DataError> {
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
        let compile = |name: &str, source: &str| {
            let mut template = Self::new(name, source, tokenizer.special_tokens())?;
            for (variable, value) in config.chat_template_kwargs.iter().flatten() {
                template.set(variable, value);
            }
            Ok(template)
        };
        let one = |name: &str, source: &str| {
            Ok(Templates {
                plain: Some(compile(name, source)?),
                tools: None,
                names: name.to_owned(),
            })
        };
        let fallback = name.strip_prefix(CHAT_TEMPLATE_FALLBACK);
        if name == "jinja" {
            // A data set may choose `jinja` and leave the text to the top level.
            let jinja = jinja.or(config.chat_template_jinja.as_deref());
            let (name, source) = jinja_source(jinja.ok_or(DataError::NoJinja)?)?;
            return one(&name, &source);
        }
        if name != DEFAULT && (fallback.is_none() || tokenizer.chat_templates().next().is_none()) {
            let name = fallback.unwrap_or(name);
            let source = bundled::source(name).ok_or_else(|| DataError::UnknownChatTemplate {
                name: name.to_owned(),
            })?;
            return one(name, source);
        }
        let names: Vec<String> = tokenizer
            .chat_templates()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let own = |name: &str| {
            let source = tokenizer.named_chat_template(name);
            let called = match name {
                DEFAULT_NAME => DEFAULT.to_owned(),
                other => format!("{DEFAULT} `{other}`"),
            };
            source.map(|source| compile(&called, source)).transpose()
        };
        let templates = Templates {
            plain: own(DEFAULT_NAME)?,
            tools: own(TOOL_USE)?,
            names: names.join(", "),
        };
        let path = || tokenizer.folder().to_owned();
        match templates {
            Templates {
                plain: None,
                tools: None,
                names,
            } => Err(match names.is_empty() {
                true => DataError::NoChatTemplate { path: path() },
                false => DataError::NoDefaultTemplate {
                    path: path(),
                    names,
                },
            }),
            templates => Ok(templates),
        }
    }

    /// Whether it is one that the tokenizer brought.
    #[must_use]
    pub fn is_of_tokenizer(&self) -> bool {
        self.name.starts_with(DEFAULT)
    }

    /// Names of the bundled templates, in alphabetic order.
    pub fn bundled() -> impl Iterator<Item = &'static str> {
        bundled::names()
    }

    /// Sets a variable of the template, such as `enable_thinking`.
    pub fn set(&mut self, variable: &str, value: &serde_json::Value) {
        self.environment
            .add_global(variable.to_owned(), values::to_template(value));
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
        let tools = tools.map(values::to_template);
        self.render_values(
            values::to_template(messages),
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
