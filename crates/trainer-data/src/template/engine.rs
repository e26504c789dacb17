//! The Jinja engine in transformers' dialect.
//!
//! `trim_blocks` and `lstrip_blocks`, `break` and `continue`, `raise_exception`,
//! `strftime_now`, `tojson` with Python's separators, floats and `ensure_ascii`,
//! and the string methods of Python.
//!
//! Invariant: rendering always ends. A budget of instructions stops templates
//! that loop.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use crate::values::{self, Special};

/// Instructions that one rendering may take; the longest conversations of real
/// data need a hundredth of it.
const FUEL: u64 = 10_000_000;

/// An environment without templates.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    Ok(environment)
}

/// A method of Python's types.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let strip = match name {
        "removeprefix" => str::strip_prefix::<&str>,
        "removesuffix" => str::strip_suffix::<&str>,
        _ => {
            return minijinja_contrib::pycompat::unknown_method_callback(
                state, value, name, arguments,
            );
        }
    };
    let Some(text) = value.as_str() else {
        return Err(Error::from(ErrorKind::UnknownMethod));
    };
    let (part,): (&str,) = from_args(arguments)?;
    Ok(Value::from(strip(text, part).unwrap_or(text)))
}

/// What an error says: the text of `raise_exception`, or the engine's.
pub(super) fn message(error: &Error) -> String {
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

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(format)).map_err(|_| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now cannot use the format {format:?}"),
        )
    })?;
    Ok(out)
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=..., sort_keys=...,
/// separators=...)`, which is what transformers puts in the place of Jinja2's
/// filter.
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let mut value = values::from_template(value)?;
    if sort == Some(true) {
        value.sort_all_objects();
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "tojson: `separators` has to be a pair of texts",
            ));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut python = Python {
        out: String::new(),
        item,
        key,
        indent: indent.map(|width| width.min(64)),
        ascii: ascii == Some(true),
        depth: 0,
    };
    python.value(&value);
    Ok(python.out)
}

/// JSON as Python writes it.
struct Python {
    out: String,
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
    depth: usize,
}

impl Python {
    fn value(&mut self, value: &serde_json::Value) {
        use serde_json::Value as V;
        match value {
            V::Null => self.out.push_str("null"),
            V::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            V::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(value) => self.out.push_str(&python_float(value)),
                None => self.out.push_str(&number.to_string()),
            },
            V::String(text) => self.text(text),
            V::Array(values) => {
                self.out.push('[');
                self.entries(values.iter(), |python, value| python.value(value));
                self.out.push(']');
            }
            V::Object(object) => match values::special(value) {
                Some(Special::Integer(digits)) => self.out.push_str(digits),
                _ => {
                    self.out.push('{');
                    self.entries(object.iter(), |python, (key, value)| {
                        python.text(key);
                        python.out.push_str(&python.key.clone());
                        python.value(value);
                    });
                    self.out.push('}');
                }
            },
        }
    }

    fn entries<T>(
        &mut self,
        entries: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        if entries.len() == 0 {
            return;
        }
        self.depth += 1;
        for (index, entry) in entries.enumerate() {
            if index > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.line();
            write(self, entry);
        }
        self.depth -= 1;
        self.line();
    }

    fn line(&mut self) {
        if let Some(width) = self.indent {
            self.out.push('\n');
            self.out
                .extend(std::iter::repeat_n(' ', width * self.depth));
        }
    }

    fn text(&mut self, text: &str) {
        // A text always can be written as JSON.
        let quoted = serde_json::to_string(text).unwrap_or_default();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

/// `repr` of a float: the shortest digits, in exponent form from 1e16 on and
/// below 1e-4.
fn python_float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value:?}")
}
