//! Apache Arrow IPC: files (`ARROW1` at their start) and streams, which is
//! what the `datasets` library writes.
//!
//! One batch is in memory at a time; its rows become JSON values when they are
//! asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::features::{features, of_metadata, shape};
use super::messages::Batches;
use super::table::{Batch, Table};
use super::{Columns, Record, Records, Row, guarded};
use crate::{DataError, Place};

const FORMAT: &str = "Arrow";

fn batches(path: &Path) -> Result<Batches, DataError> {
    let file = super::open_file(path)?;
    guarded(path, FORMAT, || Batches::open(file))
}

/// What the batches of a file have in common.
fn table(path: &Arc<PathBuf>, batch: &RecordBatch) -> Table {
    let schema = batch.schema_ref();
    let features = features(of_metadata(schema.metadata()), path);
    let columns = schema.fields().iter().map(|field| {
        let feature = features.as_ref().and_then(|all| all.get(field.name()));
        let shape = shape(field, feature);
        (field.name().clone(), shape)
    });
    Table::new(path, FORMAT, columns.collect())
}

pub(super) fn open(path: &Arc<PathBuf>, start: usize) -> Result<Records, DataError> {
    let mut batches = batches(path)?;
    // Batches in front of the row are not decoded; the first one that is
    // begins with some rows too many.
    let mut surplus = start - guarded(path, FORMAT, || batches.pass(start))?;
    let path = Arc::clone(path);
    let mut table: Option<Arc<Table>> = None;
    // A batch, its rows, and the next of them.
    let mut current: Option<(Arc<Batch>, usize, usize)> = None;
    let mut number = start;
    let mut failed = false;
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            if failed {
                return None;
            }
            if let Some((batch, rows, next)) = &mut current
                && next < rows
            {
                let index = *next;
                *next += 1;
                number += 1;
                let at = Place {
                    path: Arc::clone(&path),
                    unit: "row",
                    number,
                };
                let columns = Columns::stored(Arc::clone(batch), index);
                return Some(Ok((Record::Ready(Row { at, columns }), None)));
            }
            match guarded(&path, FORMAT, || batches.next()) {
                Ok(None) => return None,
                Ok(Some(batch)) => {
                    let passed = surplus.min(batch.num_rows());
                    surplus -= passed;
                    let table = table.get_or_insert_with(|| Arc::new(self::table(&path, &batch)));
                    let decoded = Batch::ready(Arc::clone(table), batch.columns());
                    current = Some((Arc::new(decoded), batch.num_rows(), passed));
                }
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            }
        }
    })))
}

/// Number of rows.
pub(super) fn count(path: &Path) -> Result<usize, DataError> {
    let mut batches = batches(path)?;
    guarded(path, FORMAT, || batches.pass(usize::MAX))
}
