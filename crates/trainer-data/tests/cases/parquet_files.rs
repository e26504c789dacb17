//! Parquet files of JSON rows, written a column at a time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type,
};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

/// How a file is written.
pub(crate) struct Written<'a> {
    pub(crate) codec: Compression,
    /// Columns of types that nothing reads, in front.
    pub(crate) others: bool,
    /// Rows in a row group.
    pub(crate) group: usize,
    /// The features of the rows, of which those of the type Json become Parquet's
    /// columns of JSON if `typed`.
    pub(crate) features: Value,
    pub(crate) typed: bool,
    pub(crate) metadata: Vec<(&'a str, String)>,
}

impl Default for Written<'_> {
    fn default() -> Self {
        Self {
            codec: Compression::SNAPPY,
            others: false,
            group: 3,
            features: Value::Null,
            typed: false,
            metadata: Vec::new(),
        }
    }
}

/// The type of a column.
enum Node {
    Text { json: bool },
    Int,
    Float,
    Bool,
    List(Box<Node>),
    Struct(Vec<(String, Node)>),
}

impl Node {
    fn of(values: &[&Value], feature: &Value) -> Self {
        let some = |test: fn(&Value) -> bool| values.iter().any(|value| test(value));
        if some(Value::is_object) {
            let mut keys: Vec<&String> = Vec::new();
            for key in values
                .iter()
                .filter_map(|v| v.as_object())
                .flat_map(|o| o.keys())
            {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            let entry = |key: &String| {
                let values: Vec<&Value> = values.iter().map(|value| &value[key.as_str()]).collect();
                (key.clone(), Self::of(&values, &feature[key.as_str()]))
            };
            return Self::Struct(keys.into_iter().map(entry).collect());
        }
        if some(Value::is_array) {
            let items = values.iter().filter_map(|value| value.as_array());
            let items: Vec<&Value> = items.flatten().collect();
            return Self::List(Box::new(Self::of(&items, &feature["feature"])));
        }
        if some(Value::is_boolean) {
            Self::Bool
        } else if some(Value::is_i64) {
            Self::Int
        } else if some(Value::is_f64) {
            Self::Float
        } else {
            Self::Text {
                json: feature["_type"] == "Json",
            }
        }
    }

    fn schema(&self, name: &str, typed: bool) -> String {
        match self {
            Self::Text { json: true } if typed => format!("optional binary {name} (JSON);"),
            Self::Text { .. } => format!("optional binary {name} (STRING);"),
            Self::Int => format!("optional int64 {name};"),
            Self::Float => format!("optional double {name};"),
            Self::Bool => format!("optional boolean {name};"),
            Self::List(item) => format!(
                "optional group {name} (LIST) {{ repeated group list {{ {} }} }}",
                item.schema("element", typed)
            ),
            Self::Struct(entries) => {
                let entries = entries.iter();
                let entries: String = entries
                    .map(|(name, node)| node.schema(name, typed))
                    .collect();
                format!("optional group {name} {{ {entries} }}")
            }
        }
    }

    fn leaves(&self) -> usize {
        match self {
            Self::List(item) => item.leaves(),
            Self::Struct(entries) => entries.iter().map(|(_, node)| node.leaves()).sum(),
            _ => 1,
        }
    }

    /// Adds a value to the columns beneath; `levels` are those of definition and
    /// repetition, and how deep in lists it is.
    fn shred(&self, value: &Value, levels: (i16, i16, i16), columns: &mut [Cells]) {
        let (def, rep, depth) = levels;
        match (self, value) {
            (Self::Struct(entries), _) => {
                let def = def + i16::from(value.is_object());
                let mut from = 0;
                for (name, node) in entries {
                    let inside = value.get(name).unwrap_or(&Value::Null);
                    let to = from + node.leaves();
                    node.shred(inside, (def, rep, depth), &mut columns[from..to]);
                    from = to;
                }
            }
            (Self::List(item), Value::Array(values)) if !values.is_empty() => {
                for (index, value) in values.iter().enumerate() {
                    let rep = if index == 0 { rep } else { depth + 1 };
                    item.shred(value, (def + 2, rep, depth + 1), columns);
                }
            }
            (Self::List(item), _) => {
                let def = def + i16::from(value.is_array());
                item.shred(&Value::Null, (def, rep, depth + 1), columns);
            }
            (_, value) => {
                let cells = &mut columns[0];
                cells.defs.push(def + i16::from(!value.is_null()));
                cells.reps.push(rep);
                if !value.is_null() {
                    cells.values.push(value.clone());
                }
            }
        }
    }

    /// The types of the columns beneath.
    fn kinds<'a>(&'a self, out: &mut Vec<&'a Self>) {
        match self {
            Self::List(item) => item.kinds(out),
            Self::Struct(entries) => entries.iter().for_each(|(_, node)| node.kinds(out)),
            leaf => out.push(leaf),
        }
    }
}

#[derive(Default, Clone)]
struct Cells {
    defs: Vec<i16>,
    reps: Vec<i16>,
    values: Vec<Value>,
}

impl Cells {
    fn write(&self, kind: &Node, column: &mut SerializedColumnWriter<'_>) {
        let values = self.values.iter();
        match kind {
            Node::Int => {
                self.typed::<Int64Type>(column, values.map(|v| v.as_i64().unwrap()).collect())
            }
            Node::Float => {
                self.typed::<DoubleType>(column, values.map(|v| v.as_f64().unwrap()).collect());
            }
            Node::Bool => {
                self.typed::<BoolType>(column, values.map(|v| v.as_bool().unwrap()).collect())
            }
            _ => {
                let texts = values.map(|v| ByteArray::from(v.as_str().unwrap()));
                self.typed::<ByteArrayType>(column, texts.collect());
            }
        }
    }

    fn typed<T: DataType>(&self, column: &mut SerializedColumnWriter<'_>, values: Vec<T::T>) {
        let typed = column.typed::<T>();
        typed
            .write_batch(&values, Some(&self.defs), Some(&self.reps))
            .unwrap();
    }
}

const OTHERS: &str = "optional binary photo; optional int32 price (DECIMAL(9,2)); \
     optional group counts (MAP) { repeated group key_value { required int64 key; optional int64 value; } } \
     optional group image { optional binary bytes; } optional int32 day (DATE);";

/// Writes the columns that nothing reads.
fn write_others(index: usize, rows: usize, column: &mut SerializedColumnWriter<'_>) {
    let reps = vec![0; rows];
    let bytes = || vec![ByteArray::from(vec![0xff_u8, 0xd8, 0xff]); rows];
    let all = |def: i16| vec![def; rows];
    match index {
        0 | 4 => {
            let def = all(if index == 0 { 1 } else { 2 });
            let typed = column.typed::<ByteArrayType>();
            typed
                .write_batch(&bytes(), Some(&def), Some(&reps))
                .unwrap()
        }
        2 | 3 => {
            let def = all(if index == 2 { 2 } else { 3 });
            let typed = column.typed::<Int64Type>();
            typed
                .write_batch(&vec![7; rows], Some(&def), Some(&reps))
                .unwrap()
        }
        _ => {
            let typed = column.typed::<Int32Type>();
            typed
                .write_batch(&vec![7; rows], Some(&all(1)), Some(&reps))
                .unwrap()
        }
    };
}

pub(crate) fn write_parquet(path: &Path, rows: &[Value], written: &Written<'_>) {
    let all: Vec<&Value> = rows.iter().collect();
    let Node::Struct(columns) = Node::of(&all, &written.features) else {
        panic!("rows are objects");
    };
    let schema: String = columns
        .iter()
        .map(|(name, node)| node.schema(name, written.typed))
        .collect();
    let others = if written.others { OTHERS } else { "" };
    let schema = parse_message_type(&format!("message rows {{ {others} {schema} }}")).unwrap();
    let metadata = written.metadata.iter();
    let metadata = metadata.map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone()));
    let properties = WriterProperties::builder()
        .set_compression(written.codec)
        .set_key_value_metadata(Some(metadata.collect()))
        .build();
    let file = File::create(path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    let first = if written.others { 6 } else { 0 };
    for rows in rows.chunks(written.group) {
        let mut cells = Vec::new();
        let mut kinds = Vec::new();
        for (name, node) in &columns {
            let from = cells.len();
            cells.resize(from + node.leaves(), Cells::default());
            node.kinds(&mut kinds);
            for row in rows {
                node.shred(&row[name.as_str()], (0, 0, 0), &mut cells[from..]);
            }
        }
        let mut group = writer.next_row_group().unwrap();
        let mut index = 0_usize;
        while let Some(mut column) = group.next_column().unwrap() {
            match index.checked_sub(first) {
                None => write_others(index, rows.len(), &mut column),
                Some(own) => cells[own].write(kinds[own], &mut column),
            }
            column.close().unwrap();
            index += 1;
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}
