//! Chat templates: Jinja as Hugging Face's transformers runs it.
//!
//! The dialect: `trim_blocks` and `lstrip_blocks`, `break` and `continue`,
//! `raise_exception`, `strftime_now`, `tojson` with Python's separators and
//! without escaping, the string methods of Python, `{% generation %}` blocks
//! (which only matter to tools that ask for them, and are rendered through).
//! `tools` and `documents` are none when absent, as there.
//!
//! Invariant: rendering always ends. A budget of instructions stops templates
//! that loop.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;
use trainer_config::{Config, Dataset};

use crate::error::nearest;
use crate::{DataError, Tokenizer};

/// Turns between `<|im_start|>role` and `<|im_end|>`.
const CHATML: &str = "\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// Instructions that one rendering may take; the longest conversations of real
/// data need a hundredth of it.
const FUEL: u64 = 50_000_000;

const DEFAULT: &str = "tokenizer_default";
const FALLBACK: &str = "tokenizer_default_fallback_";

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
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|error| syntax(name, &error))?,
        );
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        for (token, text) in tokens {
            environment.add_global(token.to_owned(), text.to_owned());
        }
        environment
            .add_template_owned("chat", without_generation_blocks(source))
            .map_err(|error| syntax(name, &error))?;
        Ok(Self {
            name: name.to_owned(),
            source: source.to_owned(),
            environment,
        })
    }

    /// The template that a data set uses: its own setting, else the
    /// configuration's, else the tokenizer's template.
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
        let (name, jinja) = settings
            .into_iter()
            .flatten()
            .find(|(name, jinja)| name.is_some() || jinja.is_some())
            .map_or((DEFAULT, None), |(name, jinja)| match (name, jinja) {
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
                let fallback = name.strip_prefix(FALLBACK);
                let bundled = bundled(fallback.unwrap_or(name)).ok_or_else(|| {
                    DataError::UnknownChatTemplate {
                        name: name.to_owned(),
                    }
                })?;
                match (fallback, own) {
                    (Some(_), Some(own)) => (DEFAULT.to_owned(), own.to_owned()),
                    (fallback, _) => (fallback.unwrap_or(name).to_owned(), bundled.to_owned()),
                }
            }
        };
        Self::new(&name, &source, tokenizer.special_tokens())
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
        #[derive(Serialize)]
        struct Context<'a> {
            messages: &'a serde_json::Value,
            tools: Option<&'a serde_json::Value>,
            documents: Option<()>,
            add_generation_prompt: bool,
        }
        self.environment
            .get_template("chat")
            .and_then(|template| {
                template.render(Value::from(Serde(Context {
                    messages,
                    tools,
                    documents: None,
                    add_generation_prompt,
                })))
            })
            .map_err(|error| failed(&self.name, &error))
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

fn bundled(name: &str) -> Option<&'static str> {
    (name == "chatml").then_some(CHATML)
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

/// `{% generation %}` and `{% endgeneration %}` as a condition that always
/// holds, which keeps whitespace control as it was.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (tag, after) = (
            &rest[start..start + length + 2],
            &rest[start + length + 2..],
        );
        out.push_str(&rest[..start]);
        let word =
            tag[2..tag.len() - 2].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => out.push_str(&tag.replace(word, "if true")),
            "endgeneration" => out.push_str(&tag.replace(word, "endif")),
            _ => {
                // Not the whole tag: text such as '{%' may open inside a string.
                out.push_str("{%");
                rest = &rest[start + 2..];
                continue;
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    use std::fmt::Write;
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(format)).map_err(|_| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now cannot use the format {format:?}"),
        )
    })?;
    Ok(out)
}

/// `json.dumps(value, ensure_ascii=False, indent=..., sort_keys=...)`.
fn tojson(
    value: Serde<serde_json::Value>,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    // Jinja2's own filter has no other options; transformers' takes these too,
    // and their defaults are what is printed here.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut value = value.0;
    if sort == Some(true) {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut out, Spaced,
        )),
        Some(width) => {
            let indent = " ".repeat(width.min(64));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut out, pretty,
            ))
        }
    };
    let bad = |message: String| Error::new(ErrorKind::BadSerialization, message);
    written.map_err(|error| bad(error.to_string()))?;
    String::from_utf8(out).map_err(|error| bad(error.to_string()))
}

/// `, ` and `: ` between items, as Python prints them.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

fn message(error: &Error) -> String {
    let text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does not come to an end".to_owned(),
        // What the template itself raised stands alone.
        (ErrorKind::InvalidOperation | ErrorKind::SyntaxError, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match std::error::Error::source(error) {
        Some(source) => format!("{text}: {source}"),
        None => text,
    }
}

fn syntax(name: &str, error: &Error) -> DataError {
    DataError::TemplateSyntax {
        name: name.to_owned(),
        line: error.line(),
        message: message(error),
    }
}

fn failed(name: &str, error: &Error) -> DataError {
    DataError::TemplateFailed {
        name: name.to_owned(),
        line: error.line(),
        message: message(error),
    }
}
