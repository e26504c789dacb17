//! Apache Arrow IPC: files (`ARROW1` at their start) and streams, which is
//! what the `datasets` library writes. Columns and nulls as in Parquet.
//!
//! One batch is in memory at a time; its rows become JSON values one by one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use serde_json::{Map, Value};

use super::messages::Batches;
use super::{Record, Records, Row, guarded};
use crate::{DataError, Place};

const FORMAT: &str = "Arrow";

fn batches(path: &Path) -> Result<Batches, DataError> {
    let file = super::open_file(path)?;
    guarded(path, FORMAT, || Batches::open(file))
}

pub(super) fn open(path: &Arc<PathBuf>, start: usize) -> Result<Records, DataError> {
    let mut batches = batches(path)?;
    // Batches in front of the row are not decoded; the first one that is
    // begins with some rows too many.
    let mut surplus = start - guarded(path, FORMAT, || batches.pass(start))?;
    let path = Arc::clone(path);
    let mut current: Option<(Arc<RecordBatch>, usize)> = None;
    let mut number = start;
    let mut failed = false;
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            if failed {
                return None;
            }
            if let Some((batch, next)) = &mut current
                && *next < batch.num_rows()
            {
                let index = *next;
                *next += 1;
                number += 1;
                let at = Place {
                    path: Arc::clone(&path),
                    unit: "row",
                    number,
                };
                let batch = Arc::clone(batch);
                return Some(Ok((Record::Arrow { at, batch, index }, None)));
            }
            match guarded(&path, FORMAT, || batches.next()) {
                Ok(None) => return None,
                Ok(Some(batch)) => {
                    let passed = surplus.min(batch.num_rows());
                    surplus -= passed;
                    current = Some((Arc::new(batch), passed));
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

pub(super) fn row(at: Place, batch: &RecordBatch, index: usize) -> Result<Row, DataError> {
    let mut columns = Map::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let value = value(column, index).map_err(|found| DataError::WrongType {
            at: at.clone(),
            what: field.name().clone(),
            expected: "text, a number, a boolean, a list or a struct",
            found,
        })?;
        columns.insert(field.name().clone(), value);
    }
    Ok(Row { at, columns })
}

fn value(array: &dyn Array, i: usize) -> Result<Value, String> {
    use DataType as T;
    if array.is_null(i) {
        return Ok(Value::Null);
    }
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::from(text)),
        Err(_) => Err("binary data".to_owned()),
    };
    macro_rules! number {
        ($kind:ty) => {
            Value::from(array.as_primitive::<$kind>().value(i))
        };
    }
    Ok(match array.data_type() {
        T::Null => Value::Null,
        T::Boolean => Value::from(array.as_boolean().value(i)),
        T::Int8 => number!(Int8Type),
        T::Int16 => number!(Int16Type),
        T::Int32 => number!(Int32Type),
        T::Int64 => number!(Int64Type),
        T::UInt8 => number!(UInt8Type),
        T::UInt16 => number!(UInt16Type),
        T::UInt32 => number!(UInt32Type),
        T::UInt64 => number!(UInt64Type),
        T::Float16 => Value::from(array.as_primitive::<Float16Type>().value(i).to_f32()),
        T::Float32 => number!(Float32Type),
        T::Float64 => number!(Float64Type),
        T::Date32 => number!(Date32Type),
        T::Date64 => number!(Date64Type),
        T::Utf8 => Value::from(array.as_string::<i32>().value(i)),
        T::LargeUtf8 => Value::from(array.as_string::<i64>().value(i)),
        T::Utf8View => Value::from(array.as_string_view().value(i)),
        T::Binary => text(array.as_binary::<i32>().value(i))?,
        T::LargeBinary => text(array.as_binary::<i64>().value(i))?,
        T::BinaryView => text(array.as_binary_view().value(i))?,
        T::List(_) => list(&*array.as_list::<i32>().value(i))?,
        T::LargeList(_) => list(&*array.as_list::<i64>().value(i))?,
        T::FixedSizeList(..) => list(&*array.as_fixed_size_list().value(i))?,
        T::Struct(fields) => {
            let columns = array.as_struct().columns();
            let mut object = Map::new();
            for (field, column) in fields.iter().zip(columns) {
                object.insert(field.name().clone(), value(column, i)?);
            }
            Value::Object(object)
        }
        T::Map(..) => {
            let entries = array.as_map().value(i);
            let mut object = Map::new();
            for entry in 0..entries.len() {
                let Value::String(key) = value(entries.column(0), entry)? else {
                    return Err("a map whose keys are not text".to_owned());
                };
                object.insert(key, value(entries.column(1), entry)?);
            }
            Value::Object(object)
        }
        T::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = value(dictionary.keys(), i)?;
            let key = key.as_u64().and_then(|key| usize::try_from(key).ok());
            match key {
                Some(key) if key < dictionary.values().len() => value(dictionary.values(), key)?,
                _ => return Err("a value outside of its dictionary".to_owned()),
            }
        }
        other => return Err(format!("a value of the Arrow type {other}")),
    })
}

fn list(items: &dyn Array) -> Result<Value, String> {
    (0..items.len()).map(|i| value(items, i)).collect()
}
