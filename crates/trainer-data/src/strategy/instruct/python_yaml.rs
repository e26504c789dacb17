//! YAML as Python's `yaml.dump` prints it, in block style with sorted keys.
//!
//! Two layouts print scores and critiques this way. Quoting, folding at 80
//! columns and escapes follow PyYAML to the byte, since they are what a model is
//! trained on.

use serde_json::Value;

/// Width after which text is folded at a space.
const WIDTH: usize = 80;
const INDENT: usize = 2;

/// An object or a list as YAML, with a line end; nothing for other values and for
/// what is not printed the way Python does it: numbers with exponents and keys that
/// are empty, of several lines or longer than 120 characters.
pub(super) fn dump(value: &Value) -> Option<String> {
    let mut out = Printer::default();
    match value {
        Value::Object(entries) if entries.is_empty() => out.text.push_str("{}"),
        Value::Array(items) if items.is_empty() => out.text.push_str("[]"),
        Value::Object(_) | Value::Array(_) => out.block(value, 0)?,
        _ => return None,
    }
    out.text.push('\n');
    Some(out.text)
}

#[derive(Default)]
struct Printer {
    text: String,
    /// Characters on the last line.
    column: usize,
}

impl Printer {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.column += text.chars().count();
    }

    fn line(&mut self, indent: usize) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.column = 0;
        self.push(&" ".repeat(indent));
    }

    /// The entries of an object or list; the first one where the cursor is.
    fn block(&mut self, value: &Value, indent: usize) -> Option<()> {
        match value {
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    if index > 0 {
                        self.line(indent);
                    }
                    self.key(key)?;
                    self.push(":");
                    match value {
                        // Lists in objects are not indented.
                        Value::Array(items) if !items.is_empty() => {
                            self.line(indent);
                            self.block(value, indent)?;
                        }
                        Value::Object(entries) if !entries.is_empty() => {
                            self.line(indent + INDENT);
                            self.block(value, indent + INDENT)?;
                        }
                        scalar => self.scalar(scalar, indent + INDENT)?,
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.line(indent);
                    }
                    self.push("-");
                    match item {
                        Value::Array(inner) if !inner.is_empty() => {
                            self.push(" ");
                            self.block(item, indent + INDENT)?;
                        }
                        Value::Object(inner) if !inner.is_empty() => {
                            self.push(" ");
                            self.block(item, indent + INDENT)?;
                        }
                        scalar => self.scalar(scalar, indent + INDENT)?,
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn key(&mut self, key: &str) -> Option<()> {
        if key.is_empty() || key.contains('\n') || key.chars().count() > 120 {
            return None;
        }
        match style(key) {
            Style::Plain => self.push(key),
            Style::Single => {
                let quoted = key.replace('\'', "''");
                self.push(&format!("'{quoted}'"));
            }
            Style::Double => {
                let escaped: String = key.chars().map(escape).collect();
                self.push(&format!("\"{escaped}\""));
            }
        }
        Some(())
    }

    fn scalar(&mut self, value: &Value, indent: usize) -> Option<()> {
        self.push(" ");
        match value {
            Value::Null => self.push("null"),
            Value::Bool(true) => self.push("true"),
            Value::Bool(false) => self.push("false"),
            Value::Array(_) => self.push("[]"),
            Value::Object(_) => self.push("{}"),
            Value::Number(number) => {
                let text = number.to_string();
                if text.contains(['e', 'E']) || number.as_f64().is_some_and(tiny) {
                    return None;
                }
                self.push(&text);
            }
            Value::String(text) => {
                let chars: Vec<char> = text.chars().collect();
                match style(text) {
                    Style::Plain => self.plain(&chars, indent),
                    Style::Single => self.single(&chars, indent),
                    Style::Double => self.double(&chars, indent),
                }
            }
        }
        Some(())
    }

    fn plain(&mut self, chars: &[char], indent: usize) {
        let mut start = 0;
        let mut spaces = false;
        for end in 0..=chars.len() {
            let c = chars.get(end).copied();
            if spaces {
                if c != Some(' ') {
                    if start + 1 == end && self.column > WIDTH {
                        self.line(indent);
                    } else {
                        self.push(&string(&chars[start..end]));
                    }
                    start = end;
                }
            } else if c.is_none() || c == Some(' ') {
                self.push(&string(&chars[start..end]));
                start = end;
            }
            spaces = c == Some(' ');
        }
    }

    fn single(&mut self, chars: &[char], indent: usize) {
        self.push("'");
        let mut start = 0;
        let (mut spaces, mut breaks) = (false, false);
        for end in 0..=chars.len() {
            let c = chars.get(end).copied();
            if spaces {
                if c != Some(' ') {
                    let inside = start != 0 && end != chars.len();
                    if start + 1 == end && self.column > WIDTH && inside {
                        self.line(indent);
                    } else {
                        self.push(&string(&chars[start..end]));
                    }
                    start = end;
                }
            } else if breaks {
                if c != Some('\n') {
                    // A line end of the text is an empty line; one more ends the
                    // line that was begun.
                    for _ in start..end {
                        self.text.push('\n');
                    }
                    self.line(indent);
                    start = end;
                }
            } else if matches!(c, None | Some(' ' | '\n' | '\'')) {
                self.push(&string(&chars[start..end]));
                start = end;
            }
            if c == Some('\'') {
                self.push("''");
                start = end + 1;
            }
            (spaces, breaks) = (c == Some(' '), c == Some('\n'));
        }
        self.push("'");
    }

    fn double(&mut self, chars: &[char], indent: usize) {
        self.push("\"");
        let mut start = 0;
        for end in 0..=chars.len() {
            let c = chars.get(end).copied();
            let escaped = c.filter(|c| !(' '..='~').contains(c) || matches!(c, '"' | '\\'));
            if c.is_none() || escaped.is_some() {
                self.push(&string(&chars[start..end]));
                start = end;
            }
            if let Some(c) = escaped {
                self.push(&escape(c));
                start = end + 1;
            }
            let inside = end > 0 && end + 1 < chars.len();
            let wide = self.column + end > WIDTH + start;
            if inside && (c == Some(' ') || start >= end) && wide {
                self.push(&string(chars.get(start..end).unwrap_or_default()));
                self.push("\\");
                start = start.max(end);
                self.line(indent);
                if chars.get(start) == Some(&' ') {
                    self.push("\\");
                }
            }
        }
        self.push("\"");
    }
}

fn string(chars: &[char]) -> String {
    chars.iter().collect()
}

/// Where Python prints an exponent.
fn tiny(number: f64) -> bool {
    number != 0.0 && number.abs() < 1e-4
}

fn escape(c: char) -> String {
    let short = match c {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{a0}' => '_',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        ' '..='~' => return c.to_string(),
        _ => {
            let code = u32::from(c);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{short}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
}

/// How PyYAML prints a text.
fn style(text: &str) -> Style {
    let chars: Vec<char> = text.chars().collect();
    let blank = |c: Option<&char>| c.is_none_or(|c| matches!(c, '\0' | ' ' | '\t' | '\r' | '\n'));
    let mut indicator = text.starts_with("---") || text.starts_with("...");
    let (mut space_then_break, mut break_then_space) = (false, false);
    for (index, c) in chars.iter().enumerate() {
        let next = chars.get(index + 1);
        indicator |= if index == 0 {
            matches!(
                c,
                '#' | ','
                    | '['
                    | ']'
                    | '{'
                    | '}'
                    | '&'
                    | '*'
                    | '!'
                    | '|'
                    | '>'
                    | '\''
                    | '"'
                    | '%'
                    | '@'
                    | '`'
            ) || (matches!(c, '?' | ':' | '-') && blank(next))
        } else {
            (*c == ':' && blank(next)) || (*c == '#' && blank(chars.get(index - 1)))
        };
        space_then_break |= *c == ' ' && next == Some(&'\n');
        break_then_space |= *c == '\n' && next == Some(&' ');
    }
    let special = chars.iter().any(|c| *c != '\n' && !(' '..='~').contains(c));
    if special || space_then_break || break_then_space {
        return Style::Double;
    }
    let outer = |c: Option<&char>| matches!(c, Some(' ' | '\n'));
    let plain = !indicator
        && !chars.contains(&'\n')
        && !outer(chars.first())
        && !outer(chars.last())
        && !other_type(text);
    if plain { Style::Plain } else { Style::Single }
}

/// Whether YAML 1.1 reads a plain text as something else than text.
fn other_type(text: &str) -> bool {
    const WORDS: [&str; 37] = [
        "", "~", "null", "Null", "NULL", "<<", "=", "yes", "Yes", "YES", "no", "No", "NO", "true",
        "True", "TRUE", "false", "False", "FALSE", "on", "On", "ON", "off", "Off", "OFF", ".nan",
        ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "-.inf", "+.Inf", "-.Inf", "+.INF",
        "-.INF",
    ];
    WORDS.contains(&text) || integer(text) || float(text) || timestamp(text)
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    text.chars().all(allowed)
}

fn digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn integer(text: &str) -> bool {
    let text = unsigned(text);
    let some = |rest: &str, allowed: fn(char) -> bool| !rest.is_empty() && all(rest, allowed);
    if let Some(rest) = text.strip_prefix("0b") {
        return some(rest, |c| matches!(c, '0' | '1' | '_'));
    }
    if let Some(rest) = text.strip_prefix("0x") {
        return some(rest, |c| c.is_ascii_hexdigit() || c == '_');
    }
    if let Some(rest) = text.strip_prefix('0') {
        return all(rest, |c| matches!(c, '0'..='7' | '_'));
    }
    let (first, rest) = text
        .split_once(':')
        .map_or((text, None), |(a, b)| (a, Some(b)));
    first.starts_with(digit)
        && all(first, |c| digit(c) || c == '_')
        && rest.is_none_or(|rest| rest.split(':').all(sixtieth))
}

/// A digit of base 60.
fn sixtieth(text: &str) -> bool {
    match text.as_bytes() {
        [one] => one.is_ascii_digit(),
        [ten, one] => (b'0'..=b'5').contains(ten) && one.is_ascii_digit(),
        _ => false,
    }
}

fn float(text: &str) -> bool {
    let digits = |c| digit(c) || c == '_';
    // The mantissa, and whether the rest is an exponent as YAML wants it.
    let split = |text: &'_ str| -> Option<(String, bool)> {
        match text.find(['e', 'E']) {
            None => Some((text.to_owned(), true)),
            Some(at) => {
                let rest = text[at + 1..].strip_prefix(['-', '+'])?;
                Some((text[..at].to_owned(), !rest.is_empty() && all(rest, digit)))
            }
        }
    };
    if let Some(rest) = text.strip_prefix('.') {
        return split(rest).is_some_and(|(mantissa, exponent)| {
            exponent && mantissa.starts_with(digit) && all(&mantissa, digits)
        });
    }
    let Some((whole, fraction)) = unsigned(text).split_once('.') else {
        return false;
    };
    if !whole.starts_with(digit) {
        return false;
    }
    if let Some((first, rest)) = whole.split_once(':') {
        return all(first, digits) && rest.split(':').all(sixtieth) && all(fraction, digits);
    }
    all(whole, digits)
        && split(fraction).is_some_and(|(mantissa, exponent)| exponent && all(&mantissa, digits))
}

fn timestamp(text: &str) -> bool {
    let number = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && all(text, digit)
    };
    let mut date = text.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (date.next(), date.next(), date.next()) else {
        return false;
    };
    if !number(year, 4..=4) || !number(month, 1..=2) {
        return false;
    }
    let length = rest.find(|c| !digit(c)).unwrap_or(rest.len());
    let (day, rest) = rest.split_at(length);
    if rest.is_empty() {
        return month.len() == 2 && number(day, 2..=2);
    }
    let blank = [' ', '\t'];
    let time = match rest.strip_prefix(['T', 't']) {
        Some(time) => time,
        None => {
            let time = rest.trim_start_matches(blank);
            if time.len() == rest.len() {
                return false;
            }
            time
        }
    };
    let mut parts = time.splitn(3, ':');
    let (Some(hour), Some(minute), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Some(second), Some(rest)) = (rest.get(..2), rest.get(2..)) else {
        return false;
    };
    let fraction = rest
        .strip_prefix('.')
        .map_or(rest, |rest| rest.trim_start_matches(digit));
    let zone = fraction.trim_start_matches(blank);
    let zone_is = match zone.strip_prefix(['-', '+']) {
        Some(offset) => match offset.split_once(':') {
            Some((hours, minutes)) => number(hours, 1..=2) && number(minutes, 2..=2),
            None => number(offset, 1..=2),
        },
        None => zone == "Z" || fraction.is_empty(),
    };
    number(day, 1..=2)
        && number(hour, 1..=2)
        && number(minute, 2..=2)
        && number(second, 2..=2)
        && zone_is
}

#[cfg(test)]
mod tests {
    use super::dump;
    use serde_json::Value;

    /// What PyYAML 6.0 printed for the same values.
    #[test]
    fn as_pyyaml_prints_it() {
        let text = include_str!("../../../tests/data/python_yaml.json");
        let cases: Vec<(Value, String)> = serde_json::from_str(text).unwrap();
        assert!(cases.len() > 100);
        for (value, expected) in cases {
            let printed = dump(&value).unwrap_or_default();
            assert_eq!(printed, expected, "{value}");
        }
    }

    #[test]
    fn values_that_are_not_printed() {
        for text in [
            "7",
            "\"x\"",
            "{\"a\": 1e-9}",
            "{\"a\": 1e300}",
            "{\"a\\nb\": 1}",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(dump(&value), None, "{text}");
        }
    }
}
