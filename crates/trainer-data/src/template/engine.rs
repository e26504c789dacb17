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
use minijinja::value::{Kwargs, Serde, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde::Serialize;

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
fn tojson(
    value: Serde<serde_json::Value>,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let mut value = value.0;
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
    let mut out = Vec::new();
    let python = Python {
        item,
        key,
        indent: indent.map(|width| width.min(64)),
        ascii: ascii == Some(true),
        depth: 0,
        filled: false,
    };
    let bad = |message: String| Error::new(ErrorKind::BadSerialization, message);
    value
        .serialize(&mut serde_json::Serializer::with_formatter(
            &mut out, python,
        ))
        .map_err(|error| bad(error.to_string()))?;
    String::from_utf8(out).map_err(|error| bad(error.to_string()))
}

/// JSON as Python writes it.
struct Python {
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
    depth: usize,
    /// Whether the innermost container has an entry.
    filled: bool,
}

type Written = std::io::Result<()>;

impl Python {
    fn line<W: ?Sized + std::io::Write>(&self, out: &mut W) -> Written {
        match self.indent {
            Some(width) => write!(out, "\n{:width$}", "", width = width * self.depth),
            None => Ok(()),
        }
    }

    fn open<W: ?Sized + std::io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> Written {
        self.depth += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + std::io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> Written {
        self.depth -= 1;
        if std::mem::replace(&mut self.filled, true) {
            self.line(out)?;
        }
        out.write_all(bracket)
    }

    fn entry<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> Written {
        self.filled = true;
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }
}

impl serde_json::ser::Formatter for Python {
    fn begin_array<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> Written {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> Written {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> Written {
        self.entry(out, first)
    }

    fn begin_object<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> Written {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> Written {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> Written {
        self.entry(out, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> Written {
        out.write_all(self.key.as_bytes())
    }

    fn write_f64<W: ?Sized + std::io::Write>(&mut self, out: &mut W, value: f64) -> Written {
        out.write_all(python_float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> Written {
        if !self.ascii {
            return out.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if c.is_ascii() {
                out.write_all(&[c as u8])?;
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
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
