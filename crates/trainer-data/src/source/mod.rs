//! Files to rows.
//!
//! A [`Row`] is a JSON object that knows its [`Place`]. Readers hold one row, or
//! one batch of a columnar file, at a time, so memory is bound by the consumer. What
//! nothing reads of a columnar file is not decoded: see [`Columns`].
//! A format is one module with one `open` function; `files` says which files a
//! data set consists of, `select` which of their rows are used.

mod arrow;
mod cells;
mod columns;
mod csv;
mod features;
mod files;
#[cfg(feature = "hub")]
mod hub;
mod input;
mod json;
mod messages;
mod parquet;
mod select;
mod splits;
mod table;
mod text;
mod wrapped;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use trainer_config::{Dataset, DatasetFormat};

use crate::error::kind;
use crate::{DataError, Place};

pub use columns::Columns;
pub(crate) use files::is_hub_id;

pub(crate) use select::{Chosen, ChosenRows, Mark, Selection, Survey, first, skips};

/// One row of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it comes from.
    pub at: Place,
    /// Its columns, in file order.
    pub columns: Columns,
}

impl Row {
    /// A row that is in no file, which messages call row 1 of `memory`.
    #[must_use]
    pub fn new(columns: Map<String, Value>) -> Self {
        Self {
            at: Place {
                path: Arc::new(PathBuf::from("memory")),
                unit: "row",
                number: 1,
            },
            columns: columns.into(),
        }
    }

    /// What was made of the row, unless a column that it was asked for could not be
    /// decoded: then the file is damaged.
    pub(crate) fn checked<T>(&self, made: Result<T, DataError>) -> Result<T, DataError> {
        match self.columns.damage() {
            Some(damage) => Err(damage),
            None => made,
        }
    }

    /// Names of the columns.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.columns.keys().cloned().collect()
    }

    /// A column that the strategy cannot do without.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`], with `hint` at the end of the message;
    /// [`DataError::Columnar`] where the column cannot be decoded.
    pub fn column(
        &self,
        column: &str,
        strategy: &'static str,
        hint: impl Into<String>,
    ) -> Result<&Value, DataError> {
        let found = self.columns.get(column).ok_or_else(|| {
            let wrapping = self.columns.wrapping(column);
            DataError::MissingColumn {
                at: self.at.clone(),
                column: column.to_owned(),
                strategy,
                found: self.names(),
                hint: match wrapping {
                    Some(key) => format!("; {}", wrapped::advice(&self.at.path, key)),
                    None => hint.into(),
                },
            }
        });
        self.checked(found)
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

    /// A column of text that may be absent or null, which are the empty text.
    ///
    /// # Errors
    /// [`DataError::WrongType`].
    pub fn optional_text(&self, column: &str) -> Result<&str, DataError> {
        match self.columns.get(column) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.wrong_type(column, "text", other)),
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
            found: kind(found),
        }
    }
}

/// A row that may still have to be parsed, which can be done on any thread.
#[derive(Debug)]
pub(crate) enum Record {
    /// An object, from byte `column` of a line on.
    Json {
        at: Place,
        line: usize,
        column: usize,
        bytes: Vec<u8>,
    },
    /// A line of text.
    Text { at: Place, bytes: Vec<u8> },
    /// A row, whose columns may still have to be decoded.
    Ready(Row),
}

impl Record {
    /// Parses the row.
    pub(crate) fn row(self) -> Result<Row, DataError> {
        match self {
            Self::Json {
                at,
                line,
                column,
                bytes,
            } => json::row(at, line, column, &bytes),
            Self::Text { at, bytes } => text::row(at, &bytes),
            Self::Ready(row) => Ok(row),
        }
    }

    /// About how many bytes it takes up.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Json { bytes, .. } | Self::Text { bytes, .. } => bytes.len(),
            Self::Ready(row) => columns::size(&row.columns),
        }
    }
}

/// Where a row begins in a file that can be read from there on: a text file that
/// is not compressed and holds one row after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spot {
    /// Bytes before it.
    byte: u64,
    /// Its line, from 1.
    line: usize,
}

impl Spot {
    /// The beginning of a file.
    const START: Self = Self { byte: 0, line: 1 };
}

/// Where to begin in a file: after so many rows, which is at that spot, if it
/// is known.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    rows: usize,
    spot: Option<Spot>,
}

/// Rows of a file that may still have to be parsed, in order, and where they are.
type Records = Box<dyn Iterator<Item = Result<(Record, Option<Spot>), DataError>> + Send>;

/// The rows of a data set, in order.
pub type Rows = Box<dyn Iterator<Item = Result<Row, DataError>> + Send>;

/// Opens a data set: the rows of the split that it names, or of the part of it.
/// `shards` and `weight` are left to [`prepare`](crate::prepare).
///
/// # Errors
/// Files that are missing, of unknown format, or unreadable; a split that is not
/// there. What is wrong inside a file is reported by the iterator, at its row.
pub fn open(dataset: &Dataset) -> Result<Rows, DataError> {
    let rows = Selection::split(dataset)?.chosen(None)?;
    Ok(Box::new(rows.map(|row| row?.record.row())))
}

/// The files that a data set reads, in order, with the descriptions of columnar ones.
///
/// # Errors
/// As [`open`], without looking into the files.
pub fn files(dataset: &Dataset) -> Result<Vec<PathBuf>, DataError> {
    let layout = files::resolve(dataset)?;
    let mut paths = Vec::new();
    for part in &layout.spec(dataset)?.parts {
        for file in layout.split(dataset, &part.name)? {
            let mut add = |path: PathBuf| {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            };
            if matches!(file.format, Format::Parquet | Format::Arrow)
                && let Some(description) = features::description(&file.path)
            {
                add(description);
            }
            if !matches!(file.format, Format::Empty(_)) {
                add(file.path.clone());
            }
        }
    }
    Ok(paths)
}

/// Whether a data set is one of the hub, which would have to be downloaded first.
pub(crate) fn is_remote(dataset: &Dataset) -> bool {
    cfg!(feature = "hub") && !dataset.path.exists() && files::is_hub_id(&dataset.path)
}

/// The first row of the first file of a data set, once all files are known to be there;
/// none of an empty file beside others.
pub(crate) fn first_row(dataset: &Dataset) -> Result<Option<Row>, DataError> {
    let layout = files::resolve(dataset)?;
    let mut all = Vec::new();
    for part in &layout.spec(dataset)?.parts {
        all.extend(layout.split(dataset, &part.name)?);
    }
    for file in &all {
        if !matches!(file.format, Format::Empty(_)) {
            open_file(&file.path)?;
        }
    }
    let empty = || DataError::EmptyDataset {
        path: dataset.path.clone(),
    };
    let first = all.first().ok_or_else(empty)?;
    match first.records(Start::default())?.next() {
        Some(record) => Ok(Some(record?.0.row()?)),
        None if all.len() == 1 => Err(empty()),
        None => Ok(None),
    }
}

/// A file and how it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct DataFile {
    path: PathBuf,
    format: Format,
}

/// [`DatasetFormat`] in an order of its own, for sorting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Format {
    Json,
    Csv,
    Text,
    Parquet,
    Arrow,
    /// So many rows without columns, in no file.
    Empty(usize),
}

impl From<DatasetFormat> for Format {
    fn from(format: DatasetFormat) -> Self {
        match format {
            DatasetFormat::Json => Self::Json,
            DatasetFormat::Csv => Self::Csv,
            DatasetFormat::Text => Self::Text,
            DatasetFormat::Parquet => Self::Parquet,
            DatasetFormat::Arrow => Self::Arrow,
        }
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Text => "text",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Empty(_) => "synthetic",
        }
    }
}

impl DataFile {
    fn records(&self, start: Start) -> Result<Records, DataError> {
        let path = Arc::new(self.path.clone());
        match self.format {
            Format::Json => json::open(&path, input::open(&path)?, start),
            Format::Csv => csv::open(&path, input::open(&path)?, start),
            Format::Text => text::open(&path, input::open(&path)?, start),
            Format::Parquet => parquet::open(&path, start.rows),
            Format::Arrow => arrow::open(&path, start.rows),
            Format::Empty(rows) => Ok(Box::new((start.rows + 1..=rows).map(move |number| {
                let row = Row {
                    at: Place {
                        path: Arc::clone(&path),
                        unit: "row",
                        number,
                    },
                    columns: Columns::default(),
                };
                Ok((Record::Ready(row), None))
            }))),
        }
    }

    /// Number of rows.
    fn count(&self) -> Result<usize, DataError> {
        match self.format {
            Format::Parquet => parquet::count(&self.path),
            Format::Arrow => arrow::count(&self.path),
            Format::Empty(rows) => Ok(rows),
            _ => {
                let mut rows = 0;
                for record in self.records(Start::default())? {
                    record?;
                    rows += 1;
                }
                Ok(rows)
            }
        }
    }
}

fn open_file(path: &Path) -> Result<File, DataError> {
    File::open(path).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Runs a decoder, which may panic on a damaged file: an error here as
/// everywhere else. Its state is not used after a panic.
fn guarded<T, E: ToString>(
    path: &Path,
    format: &'static str,
    decode: impl FnOnce() -> Result<T, E>,
) -> Result<T, DataError> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
    let message = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the file is damaged".to_owned(),
    };
    Err(DataError::Columnar {
        format,
        path: path.to_owned(),
        message,
    })
}
