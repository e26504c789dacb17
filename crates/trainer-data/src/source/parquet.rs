//! Apache Parquet, through its record interface: columns of text, numbers,
//! booleans, lists, structs and maps. Null stays null; dates and times are not
//! text and are handed on as numbers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;
use serde_json::{Map, Value};

use super::{Record, Records, Row, guarded};
use crate::{DataError, Place};

const FORMAT: &str = "Parquet";

pub(super) fn open(path: &Arc<PathBuf>) -> Result<Records, DataError> {
    let file = super::open_file(path)?;
    let mut records = guarded(path, FORMAT, || {
        SerializedFileReader::new(file).map(IntoIterator::into_iter)
    })?;
    let path = Arc::clone(path);
    let mut number = 0;
    let mut failed = false;
    Ok(Box::new(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let record = guarded(&path, FORMAT, || records.next().transpose()).transpose()?;
        number += 1;
        let at = Place {
            path: Arc::clone(&path),
            unit: "row",
            number,
        };
        failed = record.is_err();
        Some(record.map(|record| row(at, record).map_or_else(Record::Bad, Record::Ready)))
    })))
}

/// Number of rows, as the file says at its end.
pub(super) fn count(path: &Path) -> Result<usize, DataError> {
    let file = super::open_file(path)?;
    let rows = guarded(path, FORMAT, || {
        SerializedFileReader::new(file).map(|reader| reader.metadata().file_metadata().num_rows())
    })?;
    Ok(usize::try_from(rows).unwrap_or(0))
}

fn row(at: Place, record: parquet::record::Row) -> Result<Row, DataError> {
    let mut columns = Map::new();
    for (name, field) in record.into_columns() {
        let value = value(&field).map_err(|kind| DataError::WrongType {
            at: at.clone(),
            what: name.clone(),
            expected: "text, a number, a boolean, a list or a struct",
            found: kind.to_owned(),
        })?;
        columns.insert(name, value);
    }
    Ok(Row { at, columns })
}

fn value(field: &Field) -> Result<Value, &'static str> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::from(*x),
        Field::Byte(x) => Value::from(*x),
        Field::Short(x) => Value::from(*x),
        Field::Int(x) | Field::Date(x) | Field::TimeMillis(x) => Value::from(*x),
        Field::Long(x)
        | Field::TimeMicros(x)
        | Field::TimestampMillis(x)
        | Field::TimestampMicros(x) => Value::from(*x),
        Field::UByte(x) => Value::from(*x),
        Field::UShort(x) => Value::from(*x),
        Field::UInt(x) => Value::from(*x),
        Field::ULong(x) => Value::from(*x),
        Field::Float16(x) => Value::from(f32::from(*x)),
        Field::Float(x) => Value::from(*x),
        Field::Double(x) => Value::from(*x),
        Field::Str(text) => Value::from(text.as_str()),
        // Writers that leave out the annotation store text as plain bytes.
        Field::Bytes(bytes) => Value::from(bytes.as_utf8().map_err(|_| "binary data")?),
        Field::Decimal(_) => return Err("a decimal"),
        Field::Group(row) => {
            let mut object = Map::new();
            for (name, field) in row.get_column_iter() {
                object.insert(name.clone(), value(field)?);
            }
            Value::Object(object)
        }
        Field::ListInternal(list) => Value::Array(
            list.elements()
                .iter()
                .map(value)
                .collect::<Result<_, _>>()?,
        ),
        Field::MapInternal(map) => {
            let mut object = Map::new();
            for (key, field) in map.entries() {
                let Field::Str(key) = key else {
                    return Err("a map whose keys are not text");
                };
                object.insert(key.clone(), value(field)?);
            }
            Value::Object(object)
        }
    })
}
