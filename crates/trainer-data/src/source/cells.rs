//! Values of Arrow arrays and of Parquet's records as JSON.
//!
//! An entry of a struct that is null is left out: columns of structs hold null where
//! a row lacks the entry, and whoever asks whether it is there must not find it.
//! Nulls in lists, in maps and in JSON text were written, and stay.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_schema::DataType;
use parquet::record::Field;
use serde_json::{Map, Value};

use super::features::Shape;
use crate::values;

const DATE: &str = "a date";
const TIME: &str = "a time of day";
const TIMESTAMP: &str = "a timestamp";
const DECIMAL: &str = "a decimal";
const OTHER_KEYS: &str = "a map whose keys are not text";

/// Bytes, which are text where writers leave out what says so.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => values::unreadable("binary data"),
    }
}

/// A value of a record of Parquet.
pub(super) fn of_parquet(field: &Field, shape: &Shape) -> Value {
    if *shape == Shape::Json {
        return json(of_parquet(field, &Shape::Plain));
    }
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::from(*x),
        Field::Byte(x) => Value::from(*x),
        Field::Short(x) => Value::from(*x),
        Field::Int(x) => Value::from(*x),
        Field::Long(x) => Value::from(*x),
        Field::UByte(x) => Value::from(*x),
        Field::UShort(x) => Value::from(*x),
        Field::UInt(x) => Value::from(*x),
        Field::ULong(x) => Value::from(*x),
        Field::Float16(x) => Value::from(f32::from(*x)),
        Field::Float(x) => Value::from(*x),
        Field::Double(x) => Value::from(*x),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => text(bytes.data()),
        Field::Decimal(_) => values::unreadable(DECIMAL),
        Field::Date(_) => values::unreadable(DATE),
        Field::TimeMillis(_) | Field::TimeMicros(_) => values::unreadable(TIME),
        Field::TimestampMillis(_) | Field::TimestampMicros(_) => values::unreadable(TIMESTAMP),
        Field::Group(row) => {
            let mut object = Map::new();
            for (index, (name, field)) in row.get_column_iter().enumerate() {
                if !matches!(field, Field::Null) {
                    object.insert(name.clone(), of_parquet(field, shape.entry(index)));
                }
            }
            Value::Object(object)
        }
        Field::ListInternal(list) => {
            let items = list.elements().iter();
            items.map(|field| of_parquet(field, shape.item())).collect()
        }
        Field::MapInternal(map) => {
            let mut object = Map::new();
            for (key, field) in map.entries() {
                let Field::Str(key) = key else {
                    return values::unreadable(OTHER_KEYS);
                };
                object.insert(key.clone(), of_parquet(field, shape.item()));
            }
            Value::Object(object)
        }
    }
}

/// A value of an Arrow array.
pub(super) fn of_arrow(array: &dyn Array, i: usize, shape: &Shape) -> Value {
    use DataType as T;
    if array.is_null(i) {
        return Value::Null;
    }
    if *shape == Shape::Json {
        return json(of_arrow(array, i, &Shape::Plain));
    }
    macro_rules! number {
        ($kind:ty) => {
            Value::from(array.as_primitive::<$kind>().value(i))
        };
    }
    match array.data_type() {
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
        T::Utf8 => Value::from(array.as_string::<i32>().value(i)),
        T::LargeUtf8 => Value::from(array.as_string::<i64>().value(i)),
        T::Utf8View => Value::from(array.as_string_view().value(i)),
        T::Binary => text(array.as_binary::<i32>().value(i)),
        T::LargeBinary => text(array.as_binary::<i64>().value(i)),
        T::BinaryView => text(array.as_binary_view().value(i)),
        T::FixedSizeBinary(_) => text(array.as_fixed_size_binary().value(i)),
        T::List(_) => list(&*array.as_list::<i32>().value(i), shape),
        T::LargeList(_) => list(&*array.as_list::<i64>().value(i), shape),
        T::FixedSizeList(..) => list(&*array.as_fixed_size_list().value(i), shape),
        T::ListView(_) => list(&*array.as_list_view::<i32>().value(i), shape),
        T::LargeListView(_) => list(&*array.as_list_view::<i64>().value(i), shape),
        T::Struct(fields) => {
            let columns = array.as_struct().columns();
            let mut object = Map::new();
            for (index, (field, column)) in fields.iter().zip(columns).enumerate() {
                let shape = shape.entry(index);
                let value = of_arrow(column, i, shape);
                let absent = column.is_null(i) || (value.is_null() && *shape != Shape::Json);
                if !absent {
                    object.insert(field.name().clone(), value);
                }
            }
            Value::Object(object)
        }
        T::Map(..) => map(array, i, shape),
        T::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = of_arrow(dictionary.keys(), i, &Shape::Plain);
            let key = key.as_u64().and_then(|key| usize::try_from(key).ok());
            match key {
                Some(key) if key < dictionary.values().len() => {
                    of_arrow(dictionary.values(), key, shape)
                }
                _ => values::unreadable("a value outside of its dictionary"),
            }
        }
        T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => {
            values::unreadable(DECIMAL)
        }
        T::Date32 | T::Date64 => values::unreadable(DATE),
        T::Time32(_) | T::Time64(_) => values::unreadable(TIME),
        T::Timestamp(..) => values::unreadable(TIMESTAMP),
        T::Duration(_) => values::unreadable("a duration"),
        T::Interval(_) => values::unreadable("an interval"),
        other => values::unreadable(format!("a value of the Arrow type {other}")),
    }
}

fn list(items: &dyn Array, shape: &Shape) -> Value {
    let item = shape.item();
    (0..items.len()).map(|i| of_arrow(items, i, item)).collect()
}

fn map(array: &dyn Array, i: usize, shape: &Shape) -> Value {
    let entries = array.as_map().value(i);
    let mut object = Map::new();
    for entry in 0..entries.len() {
        let Value::String(key) = of_arrow(entries.column(0), entry, &Shape::Plain) else {
            return values::unreadable(OTHER_KEYS);
        };
        object.insert(key, of_arrow(entries.column(1), entry, shape.item()));
    }
    Value::Object(object)
}

/// The value of a JSON text.
fn json(text: Value) -> Value {
    let Value::String(text) = &text else {
        return text;
    };
    values::parse(text).unwrap_or_else(|error| {
        values::unreadable(format!(
            "text that is not JSON ({error}), though the data set says that it is of the type Json"
        ))
    })
}
