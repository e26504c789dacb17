//! JSON whose integers keep all their digits.
//!
//! serde_json holds integers of up to 64 bits and turns longer ones into floats.
//! Its feature `arbitrary_precision` is no way out: it changes how numbers reach
//! every visitor of the build, among them those of the tokenizers library. So a
//! longer integer is an object with the one key [`INTEGER`] here, whose value is
//! its digits; templates see a number again.

use minijinja::value::{Object, ObjectRepr, Serde, ValueKind};
use minijinja::{Error, ErrorKind, Value as Rendered};
use serde_json::{Map, Number, Value};
use std::fmt;
use std::sync::Arc;

/// Key of the object that stands for an integer of more than 64 bits.
const INTEGER: &str = "$integer";

/// 2^63, from which on a float may have been an integer that was too long.
const LONG: f64 = 9_223_372_036_854_775_808.0;

/// Parses a JSON text.
pub(crate) fn parse(text: &str) -> serde_json::Result<Value> {
    let value = serde_json::from_str(text)?;
    match rounded(&value) {
        true => serde_json::from_str(&spelled(text)),
        false => Ok(value),
    }
}

/// Parses a JSON text that has to be an object or a list.
pub(crate) fn container(text: &str) -> Option<Value> {
    let start = text.trim_start();
    if !start.starts_with(['{', '[']) {
        return None;
    }
    parse(text).ok()
}

/// Whether a value may hold an integer that was made a float.
pub(crate) fn rounded(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|value| value.abs() >= LONG)
        }
        Value::Array(values) => values.iter().any(rounded),
        Value::Object(object) => object.values().any(rounded),
        _ => false,
    }
}

/// The text of a valid JSON value with every integer of more than 64 bits as an
/// object.
pub(crate) fn spelled(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len() + 64);
    let (mut copied, mut at) = (0, 0);
    let mut quoted = false;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'-' | b'0'..=b'9' if !quoted => {
                let number = |byte: &u8| {
                    byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')
                };
                let length = bytes[at..].iter().take_while(|byte| number(byte)).count();
                let digits = &text[at..at + length];
                if is_long(digits) {
                    out.push_str(&text[copied..at]);
                    out.push_str(&format!("{{\"{INTEGER}\":\"{digits}\"}}"));
                    copied = at + length;
                }
                at += length;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&text[copied..]);
    out
}

fn is_long(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && number.parse::<i64>().is_err()
        && number.parse::<u64>().is_err()
}

/// The digits of an integer of more than 64 bits, where a value is one.
pub(crate) fn long_integer(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get(INTEGER)?.as_str().filter(|text| is_long(text))
}

/// A value as templates see it.
pub(crate) fn rendered(value: &Value) -> Rendered {
    fn any(value: &Value) -> bool {
        match value {
            Value::Array(values) => values.iter().any(any),
            Value::Object(object) => long_integer(value).is_some() || object.values().any(any),
            _ => false,
        }
    }
    if !any(value) {
        return Rendered::from(Serde(value));
    }
    match value {
        Value::Array(values) => values.iter().map(rendered).collect(),
        Value::Object(object) => match long_integer(value) {
            Some(digits) => match digits.parse::<i128>() {
                Ok(number) => Rendered::from(number),
                Err(_) => Rendered::from_object(Long(digits.to_owned())),
            },
            None => {
                let pairs = object.iter();
                Rendered::from_pairs(pairs.map(|(key, value)| (key.as_str(), rendered(value))))
            }
        },
        other => Rendered::from(Serde(other)),
    }
}

/// The JSON of what a template made.
pub(crate) fn of_rendered(value: &Rendered) -> Result<Value, Error> {
    let no_json = |what: &str| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("{what} cannot be written as JSON"),
        )
    };
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => {
            if let Ok(number) = i64::try_from(value.clone()) {
                Value::from(number)
            } else if let Ok(number) = u64::try_from(value.clone()) {
                Value::from(number)
            } else {
                long(value.to_string())
            }
        }
        ValueKind::Number => {
            let number = f64::try_from(value.clone())?;
            Number::from_f64(number).map_or(Value::Null, Value::Number)
        }
        ValueKind::String => Value::from(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut values = Vec::new();
            for value in value.try_iter()? {
                values.push(of_rendered(&value)?);
            }
            Value::Array(values)
        }
        ValueKind::Map => {
            let mut object = Map::new();
            for key in value.try_iter()? {
                let inner = of_rendered(&value.get_item(&key)?)?;
                object.insert(key.to_string(), inner);
            }
            Value::Object(object)
        }
        kind => match value.downcast_object_ref::<Long>() {
            Some(number) => long(number.0.clone()),
            None => return Err(no_json(&format!("a value of the kind {kind}"))),
        },
    })
}

fn long(digits: String) -> Value {
    Value::Object(
        [(INTEGER.to_owned(), Value::String(digits))]
            .into_iter()
            .collect(),
    )
}

/// An integer of more than 128 bits.
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_integers_keep_their_digits() {
        let longest = "9".repeat(60);
        let text = format!(
            r#"{{"a": [18446744073709551615, 18446744073709551616, -9223372036854775809, 1e30],
                "b": "40302010908070605040302 \" 40302010908070605040302", "c": {longest}}}"#
        );
        let value = parse(&text).unwrap();
        assert_eq!(value["a"][0], json!(u64::MAX));
        assert_eq!(long_integer(&value["a"][1]), Some("18446744073709551616"));
        assert_eq!(long_integer(&value["a"][2]), Some("-9223372036854775809"));
        assert_eq!(value["a"][3], json!(1e30));
        assert_eq!(
            value["b"],
            "40302010908070605040302 \" 40302010908070605040302"
        );
        assert_eq!(long_integer(&value["c"]), Some(longest.as_str()));
        // Through a template and back.
        assert_eq!(of_rendered(&rendered(&value)).unwrap(), value);
        assert_eq!(rendered(&value["a"][1]).to_string(), "18446744073709551616");
        assert_eq!(rendered(&value["c"]).to_string(), longest);
    }

    proptest::proptest! {
        /// Texts without long integers are what serde_json makes of them.
        #[test]
        fn other_values_are_untouched(text in r#"\{"k": (-?[1-9][0-9]{0,17}|"[0-9\\\\"]{0,24}"|[0-9]\.[0-9]{1,30}|\[[1-9]{1,3}(, [1-9]{1,18}){0,3}\])\}"#) {
            proptest::prop_assert_eq!(
                parse(&text).ok(),
                serde_json::from_str::<Value>(&text).ok()
            );
        }
    }
}
