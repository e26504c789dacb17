//! Apache Parquet. Columns are those of Arrow, into which the file is decoded.
//!
//! Every column is read by itself. Those that the rows so far were asked for are
//! decoded as the file is read, one batch after the other; another one is decoded
//! for the batch in which it is first asked for. The rest of the file is not looked
//! at but for the list of columns at its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{ConvertedType, LogicalType};
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;

use super::features::{features, of_metadata, shape};
use super::table::{Batch, Decoded, Table};
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
    metadata: ArrowReaderMetadata,
    table: Arc<Table>,
    /// Rows and bytes of each row group.
    groups: Vec<(usize, usize)>,
}

impl Source {
    fn open(path: &Arc<PathBuf>) -> Result<Self, DataError> {
        let file = super::open_file(path)?;
        let metadata = guarded(path, FORMAT, || {
            // The schema that Arrow's writers leave in the file only says more about
            // the types; where it contradicts the file, the file is right.
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).or_else(|_| {
                let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
                ArrowReaderMetadata::load(&file, plain)
            })
        })?;
        let described = metadata.metadata().file_metadata();
        let pairs = described.key_value_metadata().into_iter().flatten();
        let mut pairs = pairs.filter(|pair| pair.key == "huggingface");
        let written = pairs.next().and_then(|pair| pair.value.as_deref());
        let schema = metadata.schema();
        let features = features(written.or_else(|| of_metadata(schema.metadata())), path);
        let leaves = metadata.parquet_schema().columns().iter();
        let mut leaves = leaves.map(|column| {
            column.converted_type() == ConvertedType::JSON
                || matches!(column.logical_type_ref(), Some(LogicalType::Json))
        });
        let columns = schema.fields().iter().map(|field| {
            let feature = features.as_ref().and_then(|all| all.get(field.name()));
            (field.name().clone(), shape(field, feature, &mut leaves))
        });
        let table = Arc::new(Table::new(path, FORMAT, columns.collect()));
        let groups = metadata.metadata().row_groups().iter().map(|group| {
            // A damaged file may claim any numbers.
            let size = |number: i64| usize::try_from(number).unwrap_or(0);
            (size(group.num_rows()), size(group.total_byte_size()))
        });
        Ok(Self {
            path: Arc::clone(path),
            groups: groups.collect(),
            table,
            metadata,
        })
    }

    /// Rows of a batch in a row group, and the bytes of one.
    fn batch(&self, group: usize) -> (usize, usize) {
        let (rows, bytes) = self.groups[group];
        let bytes_of_a_row = bytes / rows.max(1);
        let rows = BATCH_BYTES / bytes_of_a_row.max(1);
        (rows.clamp(1, BATCH_ROWS), bytes_of_a_row)
    }

    /// Reads a column of a row group from a row on.
    fn column(
        &self,
        column: usize,
        group: usize,
        from: usize,
    ) -> Result<ParquetRecordBatchReader, String> {
        // Not a handle that others move about in.
        let file = File::open(&*self.path).map_err(|error| error.to_string())?;
        let columns = ProjectionMask::roots(self.metadata.parquet_schema(), [column]);
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(columns)
            .with_batch_size(self.batch(group).0)
            .with_offset(from)
            .build()
            .map_err(|error| error.to_string())
    }

    /// The next rows of a column.
    fn next(reader: &mut ParquetRecordBatchReader, rows: usize) -> Decoded {
        let batch = match reader.next() {
            Some(batch) => batch.map_err(|error| error.to_string())?,
            None => return Err("it has fewer rows than the file".to_owned()),
        };
        match batch.columns() {
            [column] if column.len() >= rows => Ok(Arc::clone(column)),
            _ => Err("it has fewer rows than the file".to_owned()),
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
    /// Columns of the group that are read along.
    readers: Vec<Option<ParquetRecordBatchReader>>,
}

impl Iterator for Batches {
    type Item = (Arc<Batch>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let source = &self.source;
        while self.from >= source.groups.get(self.group)?.0 {
            self.group += 1;
            self.from = 0;
            self.readers.clear();
        }
        let (group, from) = (self.group, self.from);
        let (rows, bytes_of_a_row) = source.batch(group);
        let rows = rows.min(source.groups[group].0 - from);
        let late = Arc::clone(source);
        let load = Box::new(move |column| late.load(column, group, from, rows));
        let batch = Batch::stored(Arc::clone(&source.table), load, bytes_of_a_row);
        self.readers.resize_with(batch.names().len(), || None);
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
    let batches = Batches {
        source,
        group,
        from,
        readers: Vec::new(),
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
    let file = super::open_file(path)?;
    guarded(path, FORMAT, || {
        let reader = SerializedFileReader::new(file)?;
        let groups = reader.metadata().row_groups().iter();
        let rows = groups.map(|group| usize::try_from(group.num_rows()).unwrap_or(0));
        // A damaged file may claim any numbers.
        Ok::<_, ParquetError>(rows.fold(0, usize::saturating_add))
    })
}
