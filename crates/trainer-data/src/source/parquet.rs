//! Apache Parquet, through its record interface.
//!
//! Every column is read by itself. Those that the rows so far were asked for are
//! decoded as the file is read, one batch after the other; another one is decoded
//! for the batch in which it is first asked for. The rest of the file is not looked
//! at but for the list of columns at its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::{Type, TypePtr};

use super::features::{self, Shape};
use super::table::{Batch, Column, Decoded, Table};
use super::{Columns, Record, Records, Row, guarded};
use crate::{DataError, Place};

const FORMAT: &str = "Parquet";

/// Most rows in a batch.
const BATCH_ROWS: usize = 1024;

/// A batch ends after about this many bytes, unpacked.
const BATCH_BYTES: usize = 16 << 20;

/// A file, and what is known of it from its end.
struct Source {
    path: Arc<PathBuf>,
    /// The columns, in order.
    fields: Vec<TypePtr>,
    name: String,
    table: Arc<Table>,
    /// Rows and bytes of each row group.
    groups: Vec<(usize, usize)>,
}

impl Source {
    fn open(path: &Arc<PathBuf>) -> Result<Self, DataError> {
        let metadata = metadata(path)?;
        let described = metadata.file_metadata();
        let value = |key: &str| {
            let mut pairs = described.key_value_metadata().into_iter().flatten();
            let pair = pairs.find(|pair| pair.key == key)?;
            pair.value.as_deref()
        };
        let features = features::features(value(features::METADATA), path);
        // What Arrow's writers leave in the file says more about the types.
        let arrow = value("ARROW:schema").and_then(features::of_arrow_schema);
        let schema = described.schema();
        let columns = schema.get_fields().iter().map(|field| {
            let name = field.name().to_owned();
            let feature = features.as_ref().and_then(|all| all.get(&name));
            let arrow = arrow.as_ref().map(|schema| schema.field_with_name(&name));
            let arrow = arrow.and_then(Result::ok);
            let shape = features::shape_of_parquet(field, feature, arrow);
            (name, shape)
        });
        let columns: Vec<(String, Shape)> = columns.collect();
        Ok(Self {
            path: Arc::clone(path),
            fields: schema.get_fields().to_vec(),
            name: schema.name().to_owned(),
            table: Arc::new(Table::new(path, FORMAT, columns)),
            groups: groups(&metadata),
        })
    }

    /// Rows of a batch in a row group, and the bytes of one.
    fn batch(&self, group: usize) -> (usize, usize) {
        let (rows, bytes) = self.groups[group];
        let bytes_of_a_row = bytes / rows.max(1);
        let rows = BATCH_BYTES / bytes_of_a_row.max(1);
        (rows.clamp(1, BATCH_ROWS), bytes_of_a_row)
    }

    /// Reads a column from a row of a row group on.
    fn column(&self, column: usize, group: usize, from: usize) -> Result<RowIter<'static>, String> {
        let read = || -> Result<RowIter<'static>, ParquetError> {
            // A handle of its own: others move about in theirs.
            let file = std::fs::File::open(&*self.path)?;
            let options = ReadOptionsBuilder::new()
                .with_predicate(Box::new(move |_, index| index >= group))
                .build();
            let reader = SerializedFileReader::new_with_options(file, options)?;
            let alone = Type::group_type_builder(&self.name)
                .with_fields(vec![Arc::clone(&self.fields[column])])
                .build()?;
            let mut rows = RowIter::from_file_into(Box::new(reader)).project(Some(alone))?;
            if let Some(last) = from.checked_sub(1) {
                rows.nth(last).transpose()?;
            }
            Ok(rows)
        };
        read().map_err(|error| error.to_string())
    }

    /// The next rows of a column.
    fn next(reader: &mut RowIter<'static>, rows: usize) -> Decoded {
        let mut values: Vec<Field> = Vec::with_capacity(rows);
        for row in reader.take(rows) {
            let row = row.map_err(|error| error.to_string())?;
            values.extend(row.into_columns().into_iter().map(|(_, value)| value));
        }
        match values.len() == rows {
            true => Ok(Column::Parquet(values)),
            false => Err("it has fewer rows than the file".to_owned()),
        }
    }

    /// The rows of a column in a batch.
    fn load(&self, column: usize, group: usize, from: usize, rows: usize) -> Decoded {
        undamaged(|| Self::next(&mut self.column(column, group, from)?, rows))
    }
}

/// Runs a decoder, which may panic on a damaged file.
fn undamaged<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
    decoded.unwrap_or_else(|_| Err("the file is damaged".to_owned()))
}

/// The batches of a file, in order.
struct Batches {
    source: Arc<Source>,
    group: usize,
    /// Rows of the group before the next batch.
    from: usize,
    /// Columns that are read along.
    readers: Vec<Option<RowIter<'static>>>,
}

impl Iterator for Batches {
    type Item = (Arc<Batch>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let source = &self.source;
        while self.from >= source.groups.get(self.group)?.0 {
            self.group += 1;
            self.from = 0;
        }
        let (group, from) = (self.group, self.from);
        let (rows, bytes_of_a_row) = source.batch(group);
        let rows = rows.min(source.groups[group].0 - from);
        let late = Arc::clone(source);
        let load = Box::new(move |column| late.load(column, group, from, rows));
        let batch = Batch::stored(Arc::clone(&source.table), load, bytes_of_a_row);
        for column in source.table.wanted() {
            let slot = &mut self.readers[column];
            let decoded = undamaged(|| {
                let mut reader = match slot.take() {
                    Some(reader) => reader,
                    None => source.column(column, group, from)?,
                };
                let decoded = Source::next(&mut reader, rows)?;
                *slot = Some(reader);
                Ok(decoded)
            });
            batch.put(column, decoded);
        }
        self.from += rows;
        Some((Arc::new(batch), rows))
    }
}

pub(super) fn open(path: &Arc<PathBuf>, start: usize) -> Result<Records, DataError> {
    let source = Arc::new(Source::open(path)?);
    // Row groups in front of the row are not read.
    let mut group = 0;
    let mut from = start;
    while let Some((rows, _)) = source.groups.get(group).filter(|(rows, _)| *rows <= from) {
        from -= rows;
        group += 1;
    }
    let mut readers = Vec::new();
    readers.resize_with(source.fields.len(), || None);
    let batches = Batches {
        source,
        group,
        from,
        readers,
    };
    let path = Arc::clone(path);
    let rows = batches.flat_map(|(batch, rows)| {
        (0..rows).map(move |row| Columns::stored(Arc::clone(&batch), row))
    });
    Ok(Box::new(rows.zip(start + 1..).map(
        move |(columns, number)| {
            let at = Place {
                path: Arc::clone(&path),
                unit: "row",
                number,
            };
            Ok((Record::Ready(Row { at, columns }), None))
        },
    )))
}

/// Number of rows, as the file says at its end.
pub(super) fn count(path: &Path) -> Result<usize, DataError> {
    let groups = groups(&metadata(path)?).into_iter();
    // A damaged file may claim any numbers.
    Ok(groups.fold(0, |sum, (rows, _)| sum.saturating_add(rows)))
}

/// What a file says at its end.
fn metadata(path: &Path) -> Result<ParquetMetaData, DataError> {
    let file = super::open_file(path)?;
    guarded(path, FORMAT, || {
        let reader = SerializedFileReader::new(file)?;
        Ok::<_, ParquetError>(reader.metadata().clone())
    })
}

/// Rows and bytes of each row group.
fn groups(metadata: &ParquetMetaData) -> Vec<(usize, usize)> {
    let groups = metadata.row_groups().iter().map(|group| {
        let size = |number: i64| usize::try_from(number).unwrap_or(0);
        (size(group.num_rows()), size(group.total_byte_size()))
    });
    groups.collect()
}
