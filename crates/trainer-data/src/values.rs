//! JSON values with what [`serde_json::Value`] has no place for: integers beyond
//! 64 bits, and values of columns that have no meaning as JSON.
//!
//! Both stand as an object of one entry under a key that no data holds. Whoever
//! asks a value for text, a number or a list meets an object and complains, with
//! [`crate::error::kind`] saying what it is. A chat template gets them through
//! [`to_template`]: an integer with all of its digits, or an error as soon as it
//! looks at a value that cannot be read.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

const INTEGER: &str = "\u{10FFFE}integer";
const UNREADABLE: &str = "\u{10FFFE}unreadable";

/// Fewest digits of an integer that 64 bits may not hold.
const DIGITS: usize = 19;

/// A value that is not what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special<'a> {
    /// An integer beyond 64 bits, by its digits.
    Integer(&'a str),
    /// A value that has no meaning as JSON, by what it is: `binary data`.
    Unreadable(&'a str),
}

/// What a value stands for, if it is not what it looks like.
pub(crate) fn special(value: &Value) -> Option<Special<'_>> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    match object.iter().next()? {
        (key, Value::String(text)) if key == INTEGER => Some(Special::Integer(text)),
        (key, Value::String(text)) if key == UNREADABLE => Some(Special::Unreadable(text)),
        _ => None,
    }
}

fn marked(key: &str, text: impl Into<String>) -> Value {
    Value::Object(
        [(key.to_owned(), Value::from(text.into()))]
            .into_iter()
            .collect(),
    )
}

/// A value that has no meaning as JSON; `what` stands after "not" in messages.
pub(crate) fn unreadable(what: impl Into<String>) -> Value {
    marked(UNREADABLE, what)
}

/// The JSON text of a value of a row, integers beyond 64 bits with all of their digits.
#[must_use]
pub fn to_json(value: &Value) -> String {
    let text = value.to_string();
    // Quotes inside of strings are escaped: this is where an object begins.
    let open = format!("{{\"{INTEGER}\":\"");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(&open) {
        let (digits, next) = after.split_once("\"}").unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(digits);
        rest = next;
    }
    out.push_str(rest);
    out
}

/// About how many bytes a value takes up.
pub(crate) fn size(value: &Value) -> usize {
    std::mem::size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(size).sum(),
            Value::Object(object) => object.values().map(size).sum(),
            _ => 0,
        }
}

/// Parses a JSON text, integers of any size included; a key that stands twice in an
/// object is an error. This is how all JSON of the data is read, whether it is a row
/// or text in a column.
pub(crate) fn parse(text: &str) -> serde_json::Result<Value> {
    if let Cow::Owned(marked) = mark_integers(text)
        && let Ok(value) = parse_plain(&marked)
    {
        return Ok(value);
    }
    // Positions in messages are those of the text itself.
    parse_plain(text)
}

fn parse_plain(text: &str) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Puts an object in the place of each integer beyond 64 bits.
fn mark_integers(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    // So many digits in a row hold one at a multiple of their number.
    let some = bytes.iter().step_by(DIGITS).any(u8::is_ascii_digit);
    if !some {
        return text.into();
    }
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let start = at;
                let part =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                at += 1 + bytes[at + 1..].iter().take_while(|byte| part(byte)).count();
                let number = &text[start..at];
                if is_large(number) {
                    out.push_str(&text[copied..start]);
                    out.push_str(&marked(INTEGER, number).to_string());
                    copied = at;
                }
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return text.into();
    }
    out.push_str(&text[copied..]);
    out.into()
}

/// Whether a number is an integer that 64 bits do not hold.
fn is_large(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    digits.len() >= DIGITS
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && number.parse::<i64>().is_err()
        && number.parse::<u64>().is_err()
}

/// The value that a chat template sees.
pub(crate) fn to_template(value: &Value) -> minijinja::Value {
    use minijinja::Value as Seen;
    match value {
        Value::Null => Seen::from(()),
        Value::Bool(value) => Seen::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Seen::from(number),
            (None, Some(number)) => Seen::from(number),
            (None, None) => Seen::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Seen::from(text.as_str()),
        Value::Array(values) => values.iter().map(to_template).collect(),
        Value::Object(object) => match special(value) {
            Some(Special::Integer(digits)) => {
                match (digits.parse::<i128>(), digits.parse::<u128>()) {
                    (Ok(number), _) => Seen::from(number),
                    (_, Ok(number)) => Seen::from(number),
                    _ => Seen::from_object(Long(digits.to_owned())),
                }
            }
            Some(Special::Unreadable(what)) => refused(format!(
                "the template prints {what}, which has no meaning as text; take it out of the data, or give it as text"
            )),
            None => {
                let entries = object.iter();
                Seen::from_pairs(entries.map(|(key, value)| (key.as_str(), to_template(value))))
            }
        },
    }
}

/// A value that is an error as soon as a template looks at it.
fn refused(message: String) -> minijinja::Value {
    Error::new(ErrorKind::InvalidOperation, message).into()
}

/// The reverse of [`to_template`], for what a template hands to a filter.
///
/// # Errors
/// A value that cannot be JSON.
pub(crate) fn from_template(value: &minijinja::Value) -> Result<Value, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => {
            match (i64::try_from(value.clone()), u64::try_from(value.clone())) {
                (Ok(number), _) => Value::from(number),
                (_, Ok(number)) => Value::from(number),
                _ => marked(INTEGER, value.to_string()),
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let values = value.try_iter()?.map(|value| from_template(&value));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let mut object = Map::new();
            for key in value.try_iter()? {
                let name = match key.as_str() {
                    Some(name) => name.to_owned(),
                    None => key.to_string(),
                };
                object.insert(name, from_template(&value.get_item(&key)?)?);
            }
            Value::Object(object)
        }
        ValueKind::Plain => match value.downcast_object_ref::<Long>() {
            Some(Long(digits)) => marked(INTEGER, digits),
            None => plain(value)?,
        },
        _ => plain(value)?,
    })
}

fn plain(value: &minijinja::Value) -> Result<Value, Error> {
    Value::deserialize(value.clone())
}

/// An integer beyond 128 bits, of which templates know the digits alone.
#[derive(Debug)]
struct Long(String);

impl Object for Long {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads JSON; a key that stands twice in an object is an error.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format!(
                    "the key `{key}` stands twice in one object; keep one of them"
                )));
            }
            let value = access.next_value_seed(Strict)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_keep_their_digits() {
        for (text, large) in [
            ("1", false),
            ("9223372036854775807", false),
            ("18446744073709551615", false),
            ("-9223372036854775808", false),
            ("18446744073709551616", true),
            ("-9223372036854775809", true),
            ("40302010908070605040302", true),
            ("340282366920938463463374607431768211455", true),
            ("-999999999999999999999999999999999999999999999999999", true),
        ] {
            let nested = format!("{{\"a\": [\"x \\\" 1\", {{\"b\": {text}}}]}}");
            let value = parse(&nested).unwrap();
            assert_eq!(special(&value["a"][1]["b"]).is_some(), large, "{text}");
            assert_eq!(
                to_json(&value),
                nested.replace(": ", ":").replace(", ", ",")
            );
            let seen = to_template(&value);
            let again = from_template(&seen).unwrap();
            assert_eq!(again, value, "{text}");
            let digits = seen.get_attr("a").unwrap().get_item_by_index(1).unwrap();
            assert_eq!(digits.get_attr("b").unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_integer_is_read_as_before() {
        for text in [
            "1.5",
            "12345678901234567890.5",
            "12345678901234567890e3",
            "\"40302010908070605040302\"",
            "\"\\\\\"",
            "\"a\\\"40302010908070605040302\"",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in [
            "00000000000000000000001",
            "4030201090807060504030a",
            "-",
            "[40302010908070605040302",
        ] {
            let expected = serde_json::from_str::<Value>(text).unwrap_err().to_string();
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn templates_refuse_what_cannot_be_read() {
        let mut environment = minijinja::Environment::new();
        environment
            .add_template("t", "{{ name }}{% if show %}{{ photo }}{% endif %}")
            .unwrap();
        let render = |show: bool| {
            let context =
                serde_json::json!({"name": "n", "show": show, "photo": unreadable("binary data")});
            environment
                .get_template("t")
                .unwrap()
                .render(to_template(&context))
        };
        assert_eq!(render(false).unwrap(), "n");
        let error = render(true).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the template prints binary data"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn rows_without_large_integers_are_those_of_serde_json(text in r#"\{"a": ?("([a-z0-9"\\,{}-]|\\")*"|-?[0-9]{1,18}(\.[0-9]{1,25})?)\}"#) {
            match (parse(&text), serde_json::from_str::<Value>(&text)) {
                (Ok(here), Ok(there)) => prop_assert_eq!(here, there),
                (Err(here), Err(there)) => prop_assert_eq!(here.to_string(), there.to_string()),
                (here, there) => prop_assert!(false, "{:?} {:?}", here, there),
            }
        }
    }
}
