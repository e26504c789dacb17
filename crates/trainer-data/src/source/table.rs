//! Rows that stand in columns: a part of a Parquet or Arrow file.
//!
//! A column is decoded when a row is first asked for it, and what goes wrong then
//! belongs to that column alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arrow_array::{Array, ArrayRef};
use parquet::record::Field;
use serde_json::Value;

use super::cells;
use super::features::Shape;
use crate::{DataError, values};

/// What the rows of a file have in common.
pub(super) struct Table {
    path: Arc<PathBuf>,
    /// `Parquet` or `Arrow`.
    format: &'static str,
    names: Vec<String>,
    /// What the values of each column are.
    shapes: Vec<Shape>,
    /// Whether rows were asked for a column.
    wanted: Vec<AtomicBool>,
}

impl Table {
    pub(super) fn new(
        path: &Arc<PathBuf>,
        format: &'static str,
        columns: Vec<(String, Shape)>,
    ) -> Self {
        let wanted = columns.iter().map(|_| AtomicBool::new(false)).collect();
        let (names, shapes) = columns.into_iter().unzip();
        Self {
            path: Arc::clone(path),
            format,
            names,
            shapes,
            wanted,
        }
    }

    /// The columns that rows were asked for so far.
    pub(super) fn wanted(&self) -> impl Iterator<Item = usize> + '_ {
        let wanted = self.wanted.iter().enumerate();
        wanted.filter_map(|(column, wanted)| wanted.load(Ordering::Relaxed).then_some(column))
    }
}

/// The values of a column in a batch.
pub(super) enum Column {
    Arrow(ArrayRef),
    Parquet(Vec<Field>),
}

impl Column {
    fn value(&self, row: usize, shape: &Shape) -> Option<Value> {
        match self {
            Self::Arrow(array) => {
                // A damaged file may have arrays whose parts do not fit.
                let read = || (row < array.len()).then(|| cells::of_arrow(array, row, shape));
                let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
                read.ok().flatten()
            }
            Self::Parquet(values) => Some(cells::of_parquet(values.get(row)?, shape)),
        }
    }
}

/// A column of a batch, or why it cannot be decoded.
pub(super) type Decoded = Result<Column, String>;

/// Decodes a column of a batch.
type Load = Box<dyn Fn(usize) -> Decoded + Send + Sync>;

/// Some rows in a row.
pub(crate) struct Batch {
    table: Arc<Table>,
    columns: Vec<OnceLock<Decoded>>,
    load: Option<Load>,
    bytes_of_a_row: usize,
}

impl Batch {
    /// A batch whose columns are in memory.
    pub(super) fn ready(table: Arc<Table>, columns: &[ArrayRef]) -> Self {
        let rows = columns.first().map_or(1, |column| column.len().max(1));
        let bytes: usize = columns.iter().map(|c| c.get_array_memory_size()).sum();
        let columns = columns.iter();
        let columns = columns.map(|column| Ok(Column::Arrow(Arc::clone(column))).into());
        Self {
            table,
            columns: columns.collect(),
            load: None,
            bytes_of_a_row: bytes / rows,
        }
    }

    /// A batch whose columns are decoded by `load`.
    pub(super) fn stored(table: Arc<Table>, load: Load, bytes_of_a_row: usize) -> Self {
        Self {
            columns: table.names.iter().map(|_| OnceLock::new()).collect(),
            table,
            load: Some(load),
            bytes_of_a_row,
        }
    }

    /// Puts in a column that was decoded already.
    pub(super) fn put(&self, column: usize, decoded: Decoded) {
        // Nobody has the batch yet.
        let _ = self.columns[column].set(decoded);
    }

    pub(super) fn names(&self) -> &[String] {
        &self.table.names
    }

    pub(super) fn bytes_of_a_row(&self) -> usize {
        self.bytes_of_a_row
    }

    pub(super) fn value(&self, column: usize, row: usize) -> Value {
        let decoded = self.columns[column].get_or_init(|| {
            self.table.wanted[column].store(true, Ordering::Relaxed);
            match &self.load {
                Some(load) => load(column),
                None => Err("the column is not there".to_owned()),
            }
        });
        let shape = &self.table.shapes[column];
        let value = decoded
            .as_ref()
            .ok()
            .and_then(|column| column.value(row, shape));
        value.unwrap_or_else(|| values::unreadable("a value that cannot be decoded"))
    }

    /// Why a column could not be decoded, if that was tried.
    pub(super) fn damage(&self, column: usize) -> Option<DataError> {
        match self.columns[column].get()? {
            Ok(_) => None,
            Err(message) => Some(DataError::Columnar {
                format: self.table.format,
                path: self.table.path.to_path_buf(),
                message: format!("column `{}`: {message}", self.table.names[column]),
            }),
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("path", &self.table.path)
            .field("columns", &self.table.names)
            .finish_non_exhaustive()
    }
}
