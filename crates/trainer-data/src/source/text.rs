//! Plain text: one row a line, in the column `text`.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Lines, Row, Rows};
use crate::{DataError, Place};

pub(super) fn open(path: &Path) -> Result<Rows, DataError> {
    let shared = Arc::new(path.to_owned());
    Ok(Box::new(Lines::open(path)?.map(move |line| {
        let (number, text) = line?;
        let mut columns = Map::new();
        columns.insert("text".to_owned(), Value::String(text));
        Ok(Row {
            at: Place {
                path: Arc::clone(&shared),
                unit: "line",
                number,
            },
            columns,
        })
    })))
}
