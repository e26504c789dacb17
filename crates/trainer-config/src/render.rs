//! A configuration back to YAML, each value with its origin beside it.

use serde_json::Value;

use crate::load::Origins;
use crate::scalar::{self, Scalar};
use crate::{Config, Origin};

/// Widest line that a comment is still aligned after.
const WIDEST: usize = 56;

pub(crate) fn render(config: &Config, origins: &Origins) -> String {
    let json = serde_json::to_value(config).unwrap_or_default();
    let mut lines = Vec::new();
    mapping(&json, origins, "", 0, None, &mut lines);
    let widths = lines
        .iter()
        .map(|(text, _): &(String, _)| text.chars().count());
    let column = widths.filter(|width| *width <= WIDEST).max().unwrap_or(0);
    let mut result = String::new();
    for (text, origin) in lines {
        match origin {
            Some(origin) => result.push_str(&format!("{text:column$}  # {}\n", one_line(&origin))),
            None => result.push_str(&format!("{text}\n")),
        }
    }
    result
}

fn one_line(origin: &Origin) -> String {
    origin.to_string().replace(|c: char| c.is_control(), " ")
}

type Lines = Vec<(String, Option<Origin>)>;

/// Writes the entries of a mapping; the first goes behind `dash` if there is one.
fn mapping(
    json: &Value,
    origins: &Origins,
    path: &str,
    indent: usize,
    dash: Option<&str>,
    lines: &mut Lines,
) {
    let mut lead = dash.map_or_else(|| " ".repeat(indent), str::to_owned);
    for (name, value) in json.as_object().into_iter().flatten() {
        let path = crate::validate::join(path, name);
        entry(
            &format!("{lead}{}:", text(name)),
            value,
            origins,
            &path,
            indent + 2,
            lines,
        );
        lead = " ".repeat(indent);
    }
}

fn entry(
    head: &str,
    value: &Value,
    origins: &Origins,
    path: &str,
    indent: usize,
    lines: &mut Lines,
) {
    let origin = || Some(origins.get(path).clone());
    match value {
        Value::Array(items) if items.iter().any(Value::is_object) => {
            lines.push((head.to_owned(), None));
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}.{index}");
                let dash = format!("{}- ", " ".repeat(indent));
                if is_empty(item) || !item.is_object() {
                    lines.push((
                        format!("{dash}{}", flow(item)),
                        Some(origins.get(&path).clone()),
                    ));
                } else {
                    mapping(item, origins, &path, indent + 2, Some(&dash), lines);
                }
            }
        }
        Value::Object(_) if !is_empty(value) => {
            lines.push((head.to_owned(), None));
            mapping(value, origins, path, indent, None, lines);
        }
        Value::Object(_) => lines.push((format!("{head} {{}}"), origin())),
        _ => lines.push((format!("{head} {}", flow(value)), origin())),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn flow(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(value) => text(value),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(flow).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(name, value)| format!("{}: {}", text(name), flow(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A string as YAML: without quotes where it cannot be taken for anything else.
fn text(value: &str) -> String {
    let plain = value
        .starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_'))
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-'))
        && !value.starts_with("...")
        && scalar::resolve(value) == Scalar::Text;
    if plain {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control()
                || matches!(
                    c,
                    '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
                ) =>
            {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
