//! Apache Parquet, through its record interface: columns of text, numbers,
//! booleans, lists, structs and maps. Null stays null; dates and times are not
//! text and are handed on as numbers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};

use super::{Record, Records, Row, guarded};
use crate::{DataError, Place};

const FORMAT: &str = "Parquet";

pub(super) fn open(path: &Arc<PathBuf>, start: usize) -> Result<Records, DataError> {
    let groups = row_groups(path)?;
    // Row groups in front of the row are not read.
    let mut first = 0;
    let mut within = start;
    while let Some(rows) = groups.get(first).filter(|rows| **rows <= within) {
        within -= rows;
        first += 1;
    }
    let file = super::open_file(path)?;
    let mut records = guarded(path, FORMAT, || {
        let options = ReadOptionsBuilder::new()
            .with_predicate(Box::new(move |_, index| index >= first))
            .build();
        let reader = SerializedFileReader::new_with_options(file, options)?;
        let mut records = reader.into_iter();
        if let Some(last) = within.checked_sub(1) {
            records.nth(last).transpose()?;
        }
        Ok::<_, ParquetError>(records)
    })?;
    let path = Arc::clone(path);
    let mut number = start;
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
        Some(record.map(|record| {
            let row = row(at, record).map_or_else(Record::Bad, Record::Ready);
            (row, None)
        }))
    })))
}

/// Number of rows, as the file says at its end.
pub(super) fn count(path: &Path) -> Result<usize, DataError> {
    let groups = row_groups(path)?;
    // A damaged file may claim any numbers.
    Ok(groups.into_iter().fold(0, usize::saturating_add))
}

/// Number of rows of each row group.
fn row_groups(path: &Path) -> Result<Vec<usize>, DataError> {
    let file = super::open_file(path)?;
    guarded(path, FORMAT, || {
        let reader = SerializedFileReader::new(file)?;
        let groups = reader.metadata().row_groups().iter();
        let rows = groups.map(|group| usize::try_from(group.num_rows()).unwrap_or(0));
        Ok::<_, ParquetError>(rows.collect())
    })
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
