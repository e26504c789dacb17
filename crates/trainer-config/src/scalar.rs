//! What the text of a scalar means.
//!
//! A scalar is kept as text until the schema says which type is wanted, so
//! `save_strategy: no` is the word and `sample_packing: no` is false. The words
//! and number forms are those of PyYAML (YAML 1.1), plus exponents without a
//! point (`2e-4`), which PyYAML takes for a string.

/// The value of a plain scalar where the schema leaves the type open.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text,
}

pub(crate) fn resolve(text: &str) -> Scalar {
    if is_null(text) {
        Scalar::Null
    } else if let Some(value) = boolean(text) {
        Scalar::Bool(value)
    } else if let Some(value) = integer(text) {
        Scalar::Integer(value)
    } else if let Some(value) = number(text) {
        Scalar::Float(value)
    } else {
        Scalar::Text
    }
}

pub(crate) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// A truth value where one is wanted, as pydantic takes it: the words of [`boolean`] in
/// any case, their first letters, and 1 and 0.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => match number(text)? {
            1.0 => Some(true),
            0.0 => Some(false),
            _ => None,
        },
    }
}

/// A whole number in decimal, `0x` or `0o`, with `_` between digits.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ => (10, digits),
    };
    let digits = plain_digits(digits)?;
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(&digits, radix).ok().map(|n| sign * n)
}

/// A finite number in decimal, with or without point and exponent.
pub(crate) fn number(text: &str) -> Option<f64> {
    let known = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E' | '_');
    if !text.chars().all(known) || !text.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    plain_digits(text)?
        .parse()
        .ok()
        .filter(|n: &f64| n.is_finite())
}

/// The text without the `_` between digits; none if one stands elsewhere.
fn plain_digits(text: &str) -> Option<String> {
    if text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    Some(text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_values_as_pydantic_takes_them() {
        for text in ["true", "True", "tRuE", "yes", "Y", "on", "t", "1", "1.0"] {
            assert_eq!(flag(text), Some(true), "{text}");
        }
        for text in ["false", "No", "n", "OFF", "f", "0", "0.0", "-0"] {
            assert_eq!(flag(text), Some(false), "{text}");
        }
        for text in ["", "2", "-1", "yess", "null", "auto", "1e1"] {
            assert_eq!(flag(text), None, "{text}");
        }
        // In a place without a type they are text, as PyYAML has it.
        assert_eq!(resolve("y"), Scalar::Text);
    }

    #[test]
    fn numbers_as_people_write_them() {
        for (text, value) in [
            ("2e-4", 2e-4),
            ("2E-4", 2e-4),
            ("5", 5.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-1.5", -1.5),
            ("+3", 3.0),
            ("1_000.5", 1000.5),
        ] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in [
            "", "e", ".", "inf", ".inf", "nan", "1e999", "1-2", "_1", "1__0", "-",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn integers_as_people_write_them() {
        for (text, value) in [
            ("42", 42),
            ("-7", -7),
            ("1_000", 1000),
            ("0x1F", 31),
            ("0o17", 15),
        ] {
            assert_eq!(integer(text), Some(value), "{text}");
        }
        for text in ["", "-", "--1", "0x", "1.0", "é", "0é", "1e3"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }
}
