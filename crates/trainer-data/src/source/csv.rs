//! Comma-separated values with a header; every value is text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Row, Rows};
use crate::{DataError, Place};

pub(super) fn open(path: &Path) -> Result<Rows, DataError> {
    let mut reader = csv::ReaderBuilder::new().from_reader(super::open_file(path)?);
    let shared = Arc::new(path.to_owned());
    let header: Vec<String> = reader
        .headers()
        .map_err(|error| convert(&shared, error))?
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').to_owned())
        .collect();
    for (index, name) in header.iter().enumerate() {
        if header[..index].contains(name) {
            return Err(DataError::Csv {
                path: path.to_owned(),
                line: 1,
                message: format!("the header names the column `{name}` twice"),
            });
        }
    }
    let mut failed = false;
    let mut records = reader.into_records();
    Ok(Box::new(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let row = match records.next()? {
            Ok(record) => Ok(row(&shared, &header, &record)),
            Err(error) => Err(convert(&shared, error)),
        };
        failed = row.is_err();
        Some(row)
    })))
}

fn row(path: &Arc<PathBuf>, header: &[String], record: &csv::StringRecord) -> Row {
    let columns: Map<String, Value> = header
        .iter()
        .zip(record)
        .map(|(name, value)| (name.clone(), Value::String(value.to_owned())))
        .collect();
    let line = record.position().map_or(0, csv::Position::line);
    Row {
        at: Place {
            path: Arc::clone(path),
            unit: "line",
            number: usize::try_from(line).unwrap_or(usize::MAX),
        },
        columns,
    }
}

fn convert(path: &Path, error: csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(source) => DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        },
        csv::ErrorKind::Utf8 { err, .. } => DataError::Csv {
            path: path.to_owned(),
            line,
            message: format!(
                "invalid UTF-8 in value {} of the row that starts here; convert the file to UTF-8",
                err.field() + 1
            ),
        },
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => DataError::Csv {
            path: path.to_owned(),
            line,
            message: format!(
                "the row has {len} values, the header has {expected_len}; a value that contains a comma or a line end has to stand in double quotes"
            ),
        },
        other => DataError::Csv {
            path: path.to_owned(),
            line,
            message: format!("{other:?}"),
        },
    }
}
