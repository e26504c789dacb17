//! Values of Arrow arrays as JSON.
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
use serde_json::{Map, Value};

use super::features::Shape;
use crate::values;

/// The value of a row.
pub(super) fn value(array: &dyn Array, i: usize, shape: &Shape) -> Value {
    use DataType as T;
    if array.is_null(i) {
        return Value::Null;
    }
    if *shape == Shape::Json {
        return json(value(array, i, &Shape::Plain));
    }
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => values::unreadable("binary data"),
    };
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
        // Writers that leave out the annotation store text as plain bytes.
        T::Binary => text(array.as_binary::<i32>().value(i)),
        T::LargeBinary => text(array.as_binary::<i64>().value(i)),
        T::BinaryView => text(array.as_binary_view().value(i)),
        T::FixedSizeBinary(_) => text(array.as_fixed_size_binary().value(i)),
        T::List(_) => list(&*array.as_list::<i32>().value(i), shape),
        T::LargeList(_) => list(&*array.as_list::<i64>().value(i), shape),
        T::FixedSizeList(..) => list(&*array.as_fixed_size_list().value(i), shape),
        T::Struct(fields) => {
            let columns = array.as_struct().columns();
            let mut object = Map::new();
            for (index, (field, column)) in fields.iter().zip(columns).enumerate() {
                let shape = shape.entry(index);
                let value = value(column, i, shape);
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
            let key = value(dictionary.keys(), i, &Shape::Plain);
            let key = key.as_u64().and_then(|key| usize::try_from(key).ok());
            match key {
                Some(key) if key < dictionary.values().len() => {
                    value(dictionary.values(), key, shape)
                }
                _ => values::unreadable("a value outside of its dictionary"),
            }
        }
        T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => {
            values::unreadable("a decimal")
        }
        T::Date32 | T::Date64 => values::unreadable("a date"),
        T::Time32(_) | T::Time64(_) => values::unreadable("a time of day"),
        T::Timestamp(..) => values::unreadable("a timestamp"),
        T::Duration(_) => values::unreadable("a duration"),
        T::Interval(_) => values::unreadable("an interval"),
        other => values::unreadable(format!("a value of the Arrow type {other}")),
    }
}

fn list(items: &dyn Array, shape: &Shape) -> Value {
    let item = shape.item();
    (0..items.len()).map(|i| value(items, i, item)).collect()
}

fn map(array: &dyn Array, i: usize, shape: &Shape) -> Value {
    let entries = array.as_map().value(i);
    let mut object = Map::new();
    for entry in 0..entries.len() {
        let Value::String(key) = value(entries.column(0), entry, &Shape::Plain) else {
            return values::unreadable("a map whose keys are not text");
        };
        object.insert(key, value(entries.column(1), entry, shape.item()));
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
