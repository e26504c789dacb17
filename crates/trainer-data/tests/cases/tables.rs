//! Rows in every format that data comes in, for tests that hold for all of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DurationSecondArray,
    Float64Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::basic::Compression;
use serde_json::{Map, Value, json};

use crate::parquet_files::{Written, write_parquet};
use crate::support::Lab;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Form {
    Jsonl,
    JsonArray,
    Csv,
    Parquet(Compression),
    ArrowFile(Option<CompressionType>),
    ArrowStream,
    /// A folder of `save_to_disk`.
    Saved,
}

/// All of them, with every codec.
pub(crate) fn forms() -> Vec<Form> {
    let mut forms = vec![
        Form::Jsonl,
        Form::JsonArray,
        Form::Csv,
        Form::ArrowStream,
        Form::Saved,
    ];
    forms.extend(codecs().into_iter().map(Form::Parquet));
    let packed = [
        None,
        Some(CompressionType::LZ4_FRAME),
        Some(CompressionType::ZSTD),
    ];
    forms.extend(packed.map(Form::ArrowFile));
    forms
}

pub(crate) fn codecs() -> [Compression; 7] {
    [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ]
}

/// The array of values whose types fit; objects become structs of all of their keys.
pub(crate) fn array(values: &[Value]) -> ArrayRef {
    let some = |test: fn(&Value) -> bool| values.iter().any(test);
    let nulls = || NullBuffer::from(values.iter().map(|v| !v.is_null()).collect::<Vec<_>>());
    if some(Value::is_object) {
        let mut keys: Vec<&String> = Vec::new();
        for object in values.iter().filter_map(Value::as_object) {
            for key in object.keys() {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        let columns: Vec<ArrayRef> = keys
            .iter()
            .map(|key| {
                let entries = values.iter().map(|value| value[key.as_str()].clone());
                array(&entries.collect::<Vec<_>>())
            })
            .collect();
        let fields = keys.iter().zip(&columns);
        let fields: Fields = fields
            .map(|(key, column)| Field::new(*key, column.data_type().clone(), true))
            .collect();
        return Arc::new(StructArray::new(fields, columns, Some(nulls())));
    }
    if some(Value::is_array) {
        let items: Vec<Value> = values
            .iter()
            .flat_map(|value| value.as_array().cloned().unwrap_or_default())
            .collect();
        let lengths = values
            .iter()
            .map(|value| value.as_array().map_or(0, Vec::len));
        let items = array(&items);
        let field = Arc::new(Field::new("item", items.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths(lengths);
        return Arc::new(ListArray::new(field, offsets, items, Some(nulls())));
    }
    if some(Value::is_boolean) {
        return Arc::new(values.iter().map(Value::as_bool).collect::<BooleanArray>());
    }
    if some(Value::is_i64) {
        return Arc::new(values.iter().map(Value::as_i64).collect::<Int64Array>());
    }
    if some(Value::is_f64) {
        return Arc::new(values.iter().map(Value::as_f64).collect::<Float64Array>());
    }
    Arc::new(values.iter().map(Value::as_str).collect::<StringArray>())
}

/// The rows as a batch, with columns of types that nothing reads in front.
pub(crate) fn batch(rows: &[Value]) -> RecordBatch {
    let all = array(rows);
    let all = all.as_any().downcast_ref::<StructArray>().unwrap();
    let n = rows.len();
    let bytes = BinaryArray::from(vec![&b"\xff\xd8\xff"[..]; n]);
    let keys = Int64Array::from((0..n as i64).collect::<Vec<_>>());
    let entries = StructArray::from(vec![
        (
            Arc::new(Field::new("key", DataType::Int64, false)),
            Arc::new(keys.clone()) as ArrayRef,
        ),
        (
            Arc::new(Field::new("value", DataType::Int64, true)),
            Arc::new(keys) as ArrayRef,
        ),
    ]);
    let field = Field::new("entries", entries.data_type().clone(), false);
    let map = MapArray::new(
        Arc::new(field),
        OffsetBuffer::from_lengths(vec![1; n]),
        entries,
        None,
        false,
    );
    let image = StructArray::from(vec![(
        Arc::new(Field::new("bytes", DataType::Binary, true)),
        Arc::new(bytes.clone()) as ArrayRef,
    )]);
    let price = Decimal128Array::from(vec![1250; n])
        .with_precision_and_scale(9, 2)
        .unwrap();
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("photo".into(), Arc::new(bytes)),
        ("price".into(), Arc::new(price)),
        ("counts".into(), Arc::new(map)),
        ("image".into(), Arc::new(image)),
        ("day".into(), Arc::new(Date32Array::from(vec![1; n]))),
    ];
    let names = all.column_names().into_iter().map(str::to_owned);
    columns.extend(names.zip(all.columns().iter().cloned()));
    let fields = columns.iter();
    let fields: Vec<Field> = fields
        .map(|(name, column)| Field::new(name, column.data_type().clone(), true))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The same with a duration, a type that Parquet has not.
fn with_duration(batch: &RecordBatch) -> RecordBatch {
    let mut fields = batch.schema().fields().to_vec();
    let length = DurationSecondArray::from(vec![1; batch.num_rows()]);
    fields.push(Arc::new(Field::new(
        "length",
        length.data_type().clone(),
        true,
    )));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(length));
    let schema = Schema::new(fields).with_metadata(batch.schema().metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

pub(crate) fn write_arrow(path: &Path, batch: &RecordBatch, packed: Option<CompressionType>) {
    let options = IpcWriteOptions::default()
        .try_with_compression(packed)
        .unwrap();
    let file = File::create(path).unwrap();
    let mut writer = FileWriter::try_new_with_options(file, &batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
}

pub(crate) fn write_stream(path: &Path, batch: &RecordBatch) {
    let file = File::create(path).unwrap();
    let mut writer = StreamWriter::try_new(file, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
}

/// A folder as `save_to_disk` writes it, with a description of the columns.
pub(crate) fn write_saved(folder: &Path, batch: &RecordBatch, features: &Value) {
    std::fs::create_dir_all(folder).unwrap();
    write_stream(&folder.join("data-00000-of-00001.arrow"), batch);
    let state = json!({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": null});
    std::fs::write(folder.join("state.json"), state.to_string()).unwrap();
    let info = json!({"features": features});
    std::fs::write(folder.join("dataset_info.json"), info.to_string()).unwrap();
}

/// Writes rows, unless the format cannot hold them: a table of values has text alone.
pub(crate) fn write(lab: &Lab, form: Form, rows: &[Value]) -> Option<PathBuf> {
    let objects: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
    let path = |name: &str| lab.path().join(name);
    Some(match form {
        Form::Jsonl => {
            let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
            lab.write("rows.jsonl", lines.join("\n"))
        }
        Form::JsonArray => lab.write("rows.json", json!(rows).to_string()),
        Form::Csv => {
            let flat = objects.iter().all(|row| row.values().all(Value::is_string));
            let same = objects.iter().all(|row| row.keys().eq(objects[0].keys()));
            if !flat || !same {
                return None;
            }
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(objects[0].keys()).unwrap();
            for row in objects {
                writer
                    .write_record(row.values().map(|value| value.as_str().unwrap()))
                    .unwrap();
            }
            lab.write("rows.csv", writer.into_inner().unwrap())
        }
        Form::Parquet(codec) => {
            let written = Written {
                codec,
                others: true,
                ..Written::default()
            };
            write_parquet(&path("rows.parquet"), rows, &written);
            path("rows.parquet")
        }
        Form::ArrowFile(packed) => {
            write_arrow(&path("rows.arrow"), &with_duration(&batch(rows)), packed);
            path("rows.arrow")
        }
        Form::ArrowStream => {
            write_stream(&path("rows.arrow"), &with_duration(&batch(rows)));
            path("rows.arrow")
        }
        Form::Saved => {
            write_saved(&path("saved"), &with_duration(&batch(rows)), &json!({}));
            path("saved")
        }
    })
}
