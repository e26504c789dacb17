//! JSON: one object a line, or one array of objects.
//!
//! Lines are read lazily; an array is read whole. Which of the two a file is
//! is told from its first character.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Lines, Row, Rows};
use crate::error::kind;
use crate::{DataError, Place};

pub(super) fn open(path: &Path) -> Result<Rows, DataError> {
    if starts_with_bracket(path)? {
        return array(path);
    }
    let shared = Arc::new(path.to_owned());
    let lines = Lines::open(path)?;
    Ok(Box::new(lines.filter_map(move |line| match line {
        Err(error) => Some(Err(error)),
        Ok((_, text)) if text.trim().is_empty() => None,
        Ok((number, text)) => Some(parse_line(&shared, number, &text)),
    })))
}

fn parse_line(path: &Arc<PathBuf>, number: usize, text: &str) -> Result<Row, DataError> {
    let value = serde_json::from_str(text).map_err(|error| DataError::Json {
        path: path.to_path_buf(),
        line: number,
        column: error.column().max(1),
        message: message(&error, "the file holds one JSON object a line"),
    })?;
    let at = Place {
        path: Arc::clone(path),
        unit: "line",
        number,
    };
    Ok(Row {
        columns: object(value, &at)?,
        at,
    })
}

fn array(path: &Path) -> Result<Rows, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let start = before
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |i| i + 1);
        DataError::InvalidUtf8 {
            path: path.to_owned(),
            line: before.iter().filter(|b| **b == b'\n').count() + 1,
            byte: before.len() - start + 1,
        }
    })?;
    let values: Vec<Value> = serde_json::from_str(text).map_err(|error| DataError::Json {
        path: path.to_owned(),
        line: error.line(),
        column: error.column().max(1),
        message: message(&error, "the file holds one array of JSON objects"),
    })?;
    let shared = Arc::new(path.to_owned());
    Ok(Box::new(values.into_iter().enumerate().map(
        move |(index, value)| {
            let at = Place {
                path: Arc::clone(&shared),
                unit: "row",
                number: index + 1,
            };
            Ok(Row {
                columns: object(value, &at)?,
                at,
            })
        },
    )))
}

fn object(value: Value, at: &Place) -> Result<Map<String, Value>, DataError> {
    match value {
        Value::Object(columns) => Ok(columns),
        other => Err(DataError::NotAnObject {
            at: at.clone(),
            found: kind(&other),
        }),
    }
}

/// serde_json's message without its own position, and what the file should be.
fn message(error: &serde_json::Error, expected: &str) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    if text.starts_with("recursion limit") {
        return "JSON nested deeper than 128 levels".to_owned();
    }
    if error.is_eof() {
        return format!("the JSON ends too early ({text}); {expected}");
    }
    format!("malformed JSON: {text}; {expected}")
}

fn starts_with_bracket(path: &Path) -> Result<bool, DataError> {
    use std::io::{BufReader, Read};
    let mut reader = BufReader::new(super::open_file(path)?);
    let mut byte = [0u8];
    loop {
        match reader.read(&mut byte) {
            Ok(0) => return Ok(false),
            Ok(_) if byte[0].is_ascii_whitespace() || b"\xef\xbb\xbf".contains(&byte[0]) => {}
            Ok(_) => return Ok(byte[0] == b'['),
            Err(source) => {
                return Err(DataError::Io {
                    action: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}
