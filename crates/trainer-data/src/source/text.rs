//! Plain text: one row a line, in the column `text`.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::input::{Input, Lines, utf8};
use super::{Record, Records, Row};
use crate::{DataError, Place};

pub(super) fn open(path: &Arc<PathBuf>, input: Input) -> Records {
    Box::new(Lines::new(path, input).map(|line| line.map(|(at, bytes)| Record::Text { at, bytes })))
}

pub(super) fn row(at: Place, bytes: &[u8]) -> Result<Row, DataError> {
    let text = utf8(&at.path, at.number, 0, bytes)?.to_owned();
    let mut columns = Map::new();
    columns.insert("text".to_owned(), Value::String(text));
    Ok(Row { at, columns })
}
