//! Folders that the `datasets` library of Hugging Face saves and loads
//! (`load_from_disk`): Arrow streams, and two JSON files that describe them.
//! They are read by [`source`](crate::source).

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, PrimitiveBuilder};
use arrow_array::types::{ArrowPrimitiveType, Int8Type, Int32Type, Int64Type};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use seqprep::Sample;
use serde_json::{Map, Value, json};

use crate::cache::atomic::{io, write_atomically};
use crate::{DataError, Samples};

/// Rows in one batch, as the `datasets` library writes them.
const BATCH: usize = 1000;

/// A file ends after about this many bytes, as there.
const FILE_BYTES: usize = 500_000_000;

/// Writes samples as a data set that `datasets.load_from_disk` loads, and that
/// can be the `path` of a data set here. The columns are `input_ids`
/// (list of int32), `labels` (list of int64), `attention_mask` (list of int8,
/// all ones), and `position_ids` (list of int32) if a sample brings its own;
/// the others then count from 0.
///
/// The folder is made if it is not there. Its `state.json` is written last, so
/// that it names complete files only.
///
/// # Errors
/// [`DataError::Io`] if a file cannot be written; [`DataError::Dataset`] if the
/// folder holds something else than such a data set.
pub fn save_to_disk(samples: &Samples, folder: &Path) -> Result<(), DataError> {
    make_room(folder)?;
    let (positions, fingerprint) = survey(samples)?;
    let schema = Arc::new(schema(positions));
    // Where each file begins.
    let mut starts = vec![0];
    let mut size = 0;
    for index in 0..samples.len() {
        if size > FILE_BYTES && index % BATCH == 0 {
            starts.push(index);
            size = 0;
        }
        size += samples.length(index).unwrap_or(0) * if positions { 17 } else { 13 };
    }
    let mut names = Vec::new();
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(samples.len());
        let name = format!("data-{number:05}-of-{:05}.arrow", starts.len());
        write_atomically(&folder.join(&name), |file| {
            write(samples, *start..end, &schema, file)
        })?;
        names.push(json!({"filename": name}));
    }
    let info = json!({
        "citation": "",
        "description": "",
        "features": features(&schema),
        "homepage": "",
        "license": "",
    });
    let state = json!({
        "_data_files": names,
        "_fingerprint": fingerprint,
        "_format_columns": null,
        "_format_kwargs": {},
        "_format_type": null,
        "_output_all_columns": false,
        "_split": null,
    });
    for (name, json) in [("dataset_info.json", info), ("state.json", state)] {
        write_atomically(&folder.join(name), |file| {
            serde_json::to_writer_pretty(&mut *file, &json)?;
            file.write_all(b"\n")
        })?;
    }
    Ok(())
}

/// Makes the folder, and takes an older data set out of it.
fn make_room(folder: &Path) -> Result<(), DataError> {
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let mut old = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io("read", folder))? {
        let path = entry.map_err(io("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let data = name.starts_with("data-") && name.ends_with(".arrow");
        if !data && name != "dataset_info.json" && name != "state.json" {
            return Err(DataError::Dataset {
                path: folder.to_owned(),
                message: format!(
                    "the folder is to hold a prepared data set, but there is {name} in it; choose an empty or a new folder"
                ),
            });
        }
        old.push((name != "state.json", path));
    }
    // What names the files goes first.
    old.sort();
    for (_, path) in old {
        std::fs::remove_file(&path).map_err(io("remove", &path))?;
    }
    Ok(())
}

fn schema(positions: bool) -> Schema {
    let column = |name: &str, kind| Field::new_list(name, Field::new("item", kind, true), true);
    let mut fields = vec![
        column("input_ids", DataType::Int32),
        column("labels", DataType::Int64),
        column("attention_mask", DataType::Int8),
    ];
    if positions {
        fields.push(column("position_ids", DataType::Int32));
    }
    let schema = Schema::new(fields);
    let info = json!({"info": {"features": features(&schema)}}).to_string();
    schema.with_metadata([("huggingface".to_owned(), info)])
}

/// The columns as the `datasets` library describes them. `Sequence` is the name
/// that all of its versions know.
fn features(schema: &Schema) -> Value {
    let mut features = Map::new();
    for field in schema.fields() {
        let kind = match field.data_type() {
            DataType::List(item) => item.data_type().to_string().to_lowercase(),
            other => other.to_string().to_lowercase(),
        };
        features.insert(
            field.name().clone(),
            json!({"feature": {"dtype": kind, "_type": "Value"}, "_type": "Sequence"}),
        );
    }
    Value::Object(features)
}

fn write(
    samples: &Samples,
    range: Range<usize>,
    schema: &Arc<Schema>,
    file: &mut BufWriter<File>,
) -> std::io::Result<()> {
    let failed = |error| match error {
        ArrowError::IoError(_, source) => source,
        other => std::io::Error::other(other),
    };
    let mut writer = StreamWriter::try_new(file, schema).map_err(failed)?;
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start + BATCH);
        let batch = (start..end).map(|index| samples.get(index));
        let batch: Vec<Cow<'_, Sample>> = batch
            .collect::<Result<_, _>>()
            .map_err(std::io::Error::other)?;
        let columns = columns(&batch, schema.fields().len() > 3);
        let rows = RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)?;
        writer.write(&rows).map_err(failed)?;
        start = end;
    }
    writer.finish().map_err(failed)
}

fn columns(batch: &[Cow<'_, Sample>], positions: bool) -> Vec<ArrayRef> {
    // Ids and positions beyond i32 are beyond every vocabulary and length.
    let narrow = |id: &u32| i32::try_from(*id).unwrap_or(i32::MAX);
    let mut columns: Vec<ArrayRef> = vec![
        lists::<Int32Type, _>(batch, |s| s.input_ids.iter().map(narrow)),
        lists::<Int64Type, _>(batch, |s| s.labels.iter().map(|label| i64::from(*label))),
        lists::<Int8Type, _>(batch, |s| std::iter::repeat_n(1, s.len())),
    ];
    if positions {
        columns.push(lists::<Int32Type, _>(batch, |s| {
            let own = s.position_ids.as_deref();
            (0..s.len()).map(move |i| match own {
                Some(own) => own.get(i).map_or(0, narrow),
                None => i32::try_from(i).unwrap_or(i32::MAX),
            })
        }));
    }
    columns
}

fn lists<'a, T: ArrowPrimitiveType, I: Iterator<Item = T::Native>>(
    samples: &'a [Cow<'_, Sample>],
    values: impl Fn(&'a Sample) -> I,
) -> ArrayRef {
    let mut builder = ListBuilder::new(PrimitiveBuilder::<T>::new());
    for sample in samples {
        for value in values(sample) {
            builder.values().append_value(value);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

/// Whether a sample brings its own positions, and 16 hexadecimal digits that
/// stand for the content.
fn survey(samples: &Samples) -> Result<(bool, String), DataError> {
    let mut positions = false;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for sample in samples.iter() {
        let sample = sample?;
        bytes.clear();
        bytes.extend((sample.len() as u64).to_le_bytes());
        bytes.extend(sample.input_ids.iter().flat_map(|id| id.to_le_bytes()));
        bytes.extend(sample.labels.iter().flat_map(|label| label.to_le_bytes()));
        for position in sample.position_ids.iter().flatten() {
            positions = true;
            bytes.extend(position.to_le_bytes());
        }
        hasher.update(&bytes);
    }
    Ok((positions, hasher.finalize().to_hex()[..16].to_owned()))
}
