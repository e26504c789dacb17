//! Plain text: one row a line, in the column `text`.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::input::{Input, Lines, utf8};
use super::{Record, Records, Row, Spot, Start};
use crate::{DataError, Place};

pub(super) fn open(path: &Arc<PathBuf>, input: Input, start: Start) -> Result<Records, DataError> {
    let mut lines = Lines::new(path, input, Spot::START);
    let rows = match start.spot {
        Some(spot) => lines.go_to(spot).map(|()| 0)?,
        None => start.rows,
    };
    let record = |(at, bytes, spot)| (Record::Text { at, bytes }, spot);
    Ok(Box::new(lines.skip(rows).map(move |line| line.map(record))))
}

pub(super) fn row(at: Place, bytes: &[u8]) -> Result<Row, DataError> {
    let text = utf8(&at.path, at.number, 0, bytes)?.to_owned();
    let mut columns = Map::new();
    columns.insert("text".to_owned(), Value::String(text));
    Ok(Row {
        at,
        columns: columns.into(),
    })
}
