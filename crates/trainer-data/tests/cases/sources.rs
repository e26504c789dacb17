//! Every file format gives the same rows.

use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use trainer_config::{Dataset, DatasetFormat};
use trainer_data::source::open;

use crate::support::Lab;

fn read(lab: &Lab, name: &str, bytes: impl AsRef<[u8]>) -> Vec<(String, Value)> {
    let path = lab.write(name, bytes);
    rows(
        lab,
        Dataset {
            path,
            ..Dataset::default()
        },
    )
}

fn rows(lab: &Lab, dataset: Dataset) -> Vec<(String, Value)> {
    let folder = format!("{}/", lab.path().display());
    open(&dataset)
        .unwrap()
        .map(|row| {
            let row = row.unwrap();
            (
                row.at.to_string().replace(&folder, ""),
                Value::Object(row.columns.into_map()),
            )
        })
        .collect()
}

#[test]
fn json_lines_and_arrays() {
    let lab = Lab::new("</s>");
    let expected = [json!({"text": "a", "n": 1}), json!({"text": "é\n"})];
    let lines = "\u{feff}{\"text\": \"a\", \"n\": 1}\r\n\n  {\"text\": \"é\\n\"}";
    assert_eq!(
        read(&lab, "a.jsonl", lines),
        [
            ("a.jsonl, line 1".to_owned(), expected[0].clone()),
            ("a.jsonl, line 3".to_owned(), expected[1].clone()),
        ]
    );
    let array = format!("\n {}", json!(expected));
    assert_eq!(
        read(&lab, "a.json", array),
        [
            ("a.json, row 1".to_owned(), expected[0].clone()),
            ("a.json, row 2".to_owned(), expected[1].clone()),
        ]
    );
}

#[test]
fn csv_with_quotes_and_line_ends() {
    let lab = Lab::new("</s>");
    let rows = read(&lab, "a.csv", "\u{feff}a,b\n1,\"x, \"\"y\"\"\nz\"\n,2\n");
    assert_eq!(
        rows,
        [
            (
                "a.csv, line 2".to_owned(),
                json!({"a": "1", "b": "x, \"y\"\nz"})
            ),
            ("a.csv, line 4".to_owned(), json!({"a": "", "b": "2"})),
        ]
    );
}

#[test]
fn text_is_one_row_a_line() {
    let lab = Lab::new("</s>");
    let expected = [
        ("a.txt, line 1".to_owned(), json!({"text": "one"})),
        ("a.txt, line 2".to_owned(), json!({"text": ""})),
        ("a.txt, line 3".to_owned(), json!({"text": " three"})),
    ];
    assert_eq!(read(&lab, "a.txt", "one\r\n\n three"), expected);
    // The format may be named where the file name does not tell it.
    let path = lab.write("notes", "one\r\n\n three");
    let rows = rows(
        &lab,
        Dataset {
            path,
            ds_type: Some(DatasetFormat::Text),
            ..Dataset::default()
        },
    );
    assert_eq!(rows[2].1, expected[2].1);
}

/// Two rows: text, a number that may be null, and a list of structs.
fn write_parquet(lab: &Lab, codec: Compression) -> PathBuf {
    let path = lab.path().join("a.parquet");
    let schema = parse_message_type(
        "message schema {
            required binary text (STRING);
            optional int64 n;
            optional group messages (LIST) {
                repeated group list {
                    optional group element {
                        optional binary role (STRING);
                        optional binary content (STRING);
                    }
                }
            }
        }",
    );
    let properties = WriterProperties::builder().set_compression(codec).build();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema.unwrap()), Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let bytes = |texts: &[&str]| {
        texts
            .iter()
            .map(|t| ByteArray::from(*t))
            .collect::<Vec<_>>()
    };
    let mut column = group.next_column().unwrap().unwrap();
    let texts = bytes(&["a", "é"]);
    column
        .typed::<ByteArrayType>()
        .write_batch(&texts, None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<Int64Type>()
        .write_batch(&[7], Some(&[1, 0]), None)
        .unwrap();
    column.close().unwrap();
    for texts in [
        bytes(&["user", "assistant", "user"]),
        bytes(&["q", "r", "s"]),
    ] {
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, Some(&[4, 4, 4]), Some(&[0, 1, 0]))
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    path
}

#[test]
fn parquet_with_lists_of_structs() {
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
    ] {
        let lab = Lab::new("</s>");
        let path = write_parquet(&lab, codec);
        assert_eq!(
            rows(
                &lab,
                Dataset {
                    path,
                    ..Dataset::default()
                }
            ),
            [
                (
                    "a.parquet, row 1".to_owned(),
                    json!({"text": "a", "n": 7, "messages": [
                        {"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]})
                ),
                (
                    "a.parquet, row 2".to_owned(),
                    json!({"text": "é", "n": null, "messages": [{"role": "user", "content": "s"}]})
                ),
            ]
        );
    }
}

#[test]
fn damaged_parquet_is_an_error() {
    let lab = Lab::new("</s>");
    let path = write_parquet(&lab, Compression::UNCOMPRESSED);
    let bytes = std::fs::read(&path).unwrap();
    let dataset = Dataset {
        path,
        ..Dataset::default()
    };
    let mut errors = 0;
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x10;
        lab.write("a.parquet", damaged);
        // Damage to a text or a statistic cannot be noticed.
        // Columns are decoded when they are asked for.
        let read = open(&dataset).and_then(|rows| {
            for row in rows.take(100) {
                let row = row?;
                for name in ["text", "n", "messages"] {
                    row.column(name, "test", "")?;
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            assert!(lab.message(&error).contains("a.parquet"), "{error}");
            errors += 1;
        }
    }
    assert!(errors > 100);
}
