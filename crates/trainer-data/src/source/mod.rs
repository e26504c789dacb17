//! Files to rows.
//!
//! A [`Row`] is a JSON object that knows its [`Place`]. Readers are lazy where
//! the format allows it (json lines, csv, text, parquet), so memory is bound by
//! the consumer. A format is one module with one `open` function.

mod csv;
mod json;
mod parquet;
mod text;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde_json::{Map, Value};
use trainer_config::{Dataset, DatasetFormat};

use crate::error::{kind, nearest};
use crate::{DataError, Place};

/// One row of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it comes from.
    pub at: Place,
    /// Its columns, in file order.
    pub columns: Map<String, Value>,
}

impl Row {
    /// Names of the columns.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.columns.keys().cloned().collect()
    }

    /// A column that the strategy cannot do without.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`], with `hint` at the end of the message.
    pub fn column(
        &self,
        column: &str,
        strategy: &'static str,
        hint: impl Into<String>,
    ) -> Result<&Value, DataError> {
        self.columns
            .get(column)
            .ok_or_else(|| DataError::MissingColumn {
                at: self.at.clone(),
                column: column.to_owned(),
                strategy,
                found: self.names(),
                hint: hint.into(),
            })
    }

    /// A column of text that the strategy cannot do without.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`] and [`DataError::WrongType`].
    pub fn text(
        &self,
        column: &str,
        strategy: &'static str,
        hint: impl Into<String>,
    ) -> Result<&str, DataError> {
        match self.column(column, strategy, hint)? {
            Value::String(text) => Ok(text),
            other => Err(self.wrong_type(column, "text", other)),
        }
    }

    pub(crate) fn wrong_type(
        &self,
        what: impl Into<String>,
        expected: &'static str,
        found: &Value,
    ) -> DataError {
        DataError::WrongType {
            at: self.at.clone(),
            what: what.into(),
            expected,
            found: kind(found).to_owned(),
        }
    }
}

/// The rows of a file, in order.
pub type Rows = Box<dyn Iterator<Item = Result<Row, DataError>> + Send>;

/// Opens the file of a data set.
///
/// # Errors
/// A path that is missing, a folder, of unknown format, or unreadable. What is
/// wrong inside the file is reported by the iterator, at its row.
pub fn open(dataset: &Dataset) -> Result<Rows, DataError> {
    let path = &dataset.path;
    if path.is_dir() {
        return Err(DataError::Folder { path: path.clone() });
    }
    if !path.exists() {
        return Err(DataError::Missing {
            what: "data file",
            path: path.clone(),
            hint: nearest(path),
        });
    }
    let format = match dataset.ds_type {
        Some(format) => format,
        None => format_of(path)?,
    };
    match format {
        DatasetFormat::Json => json::open(path),
        DatasetFormat::Csv => csv::open(path),
        DatasetFormat::Text => text::open(path),
        DatasetFormat::Parquet => parquet::open(path),
    }
}

/// The format that the end of a file name stands for.
fn format_of(path: &Path) -> Result<DatasetFormat, DataError> {
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let hint = match extension.as_str() {
        "json" | "jsonl" | "ndjson" => return Ok(DatasetFormat::Json),
        "csv" => return Ok(DatasetFormat::Csv),
        "txt" | "text" => return Ok(DatasetFormat::Text),
        "parquet" => return Ok(DatasetFormat::Parquet),
        "gz" | "zst" | "bz2" | "xz" | "zip" => "; compressed files have to be unpacked first",
        "arrow" => "; Arrow files are not supported, Parquet files are",
        _ => "",
    };
    Err(DataError::UnknownFormat {
        path: path.to_owned(),
        hint,
    })
}

fn open_file(path: &Path) -> Result<File, DataError> {
    File::open(path).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// The lines of a UTF-8 file, without their ends and without a byte order
/// mark; the number of each, from 1.
struct Lines {
    path: std::path::PathBuf,
    reader: BufReader<File>,
    number: usize,
    failed: bool,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, DataError> {
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 16, open_file(path)?),
            number: 0,
            failed: false,
        })
    }

    fn read(&mut self) -> Result<Option<(usize, String)>, DataError> {
        use std::io::BufRead;
        let mut bytes = Vec::new();
        let read = self
            .reader
            .read_until(b'\n', &mut bytes)
            .map_err(|source| DataError::Io {
                action: "read",
                path: self.path.clone(),
                source,
            })?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        match String::from_utf8(bytes) {
            Ok(line) => Ok(Some((self.number, line))),
            Err(error) => Err(DataError::InvalidUtf8 {
                path: self.path.clone(),
                line: self.number,
                byte: error.utf8_error().valid_up_to() + 1,
            }),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<(usize, String), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let line = self.read().transpose();
        self.failed = matches!(line, Some(Err(_)));
        line
    }
}
