//! Comma-separated values with a header; every value is text.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value};

use super::input::{Input, Limited, convert as convert_io, is_long_row};
use super::{Record, Records, Row, Spot, Start};
use crate::{DataError, Place};

pub(super) fn open(path: &Arc<PathBuf>, input: Input, start: Start) -> Result<Records, DataError> {
    let plain = input.is_plain();
    let (input, since) = Limited::new(input);
    let mut reader = csv::ReaderBuilder::new().from_reader(input);
    let header: Vec<String> = reader
        .headers()
        .map_err(|error| convert(path, 1, error))?
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').to_owned())
        .collect();
    for (index, name) in header.iter().enumerate() {
        if header[..index].contains(name) {
            return Err(DataError::Csv {
                path: path.to_path_buf(),
                line: 1,
                message: format!("the header names the column `{name}` twice"),
            });
        }
    }
    let rows = match start.spot {
        Some(spot) => {
            let mut position = csv::Position::new();
            position.set_byte(spot.byte).set_line(spot.line as u64);
            reader
                .seek(position)
                .map_err(|error| convert(path, spot.line as u64, error))?;
            0
        }
        None => start.rows,
    };
    let path = Arc::clone(path);
    let mut failed = false;
    let mut records = reader.into_records();
    let records = std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let (byte, line) = {
            let position = records.reader().position();
            (position.byte(), position.line())
        };
        let spot = plain.then_some(Spot {
            byte,
            line: usize::try_from(line).unwrap_or(usize::MAX),
        });
        // Where the row starts, should it have no end.
        let row = match records.next()? {
            Ok(record) => row(&path, &header, &record),
            Err(error) => Err(convert(&path, line, error)),
        };
        since.store(0, Ordering::Relaxed);
        failed = row.is_err();
        Some(row.map(|row| (Record::Ready(row), spot)))
    });
    Ok(Box::new(records.skip(rows)))
}

fn row(
    path: &Arc<PathBuf>,
    header: &[String],
    record: &csv::StringRecord,
) -> Result<Row, DataError> {
    let line = record.position().map_or(0, csv::Position::line);
    let mut columns = Map::new();
    for (index, (name, value)) in header.iter().zip(record).enumerate() {
        if value.contains('\0') {
            return Err(DataError::Csv {
                path: path.to_path_buf(),
                line,
                message: format!(
                    "a NUL byte in value {} of the row that starts here: the file is binary, in UTF-16, or damaged",
                    index + 1
                ),
            });
        }
        columns.insert(name.clone(), Value::String(value.to_owned()));
    }
    Ok(Row {
        at: Place {
            path: Arc::clone(path),
            unit: "line",
            number: usize::try_from(line).unwrap_or(usize::MAX),
        },
        columns: columns.into(),
    })
}

fn convert(path: &Path, start: u64, error: csv::Error) -> DataError {
    let line = error.position().map_or(start, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(source) if is_long_row(&source) => DataError::Csv {
            path: path.to_owned(),
            line,
            message: "the row that starts here is longer than 1 GiB; a double quote without its partner makes the rest of the file one value".to_owned(),
        },
        csv::ErrorKind::Io(source) => convert_io(path, source),
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
