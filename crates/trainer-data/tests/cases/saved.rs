//! Arrow files, and the folders of the `datasets` library.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StringDictionaryBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int64Array, LargeStringArray,
    RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use proptest::prelude::*;
use seqprep::Sample;
use serde_json::{Value, json};
use trainer_config::{Dataset, PromptStrategy};
use trainer_data::save_to_disk;
use trainer_data::source::open;

use crate::support::{Lab, config};

fn dataset(path: &Path) -> Dataset {
    Dataset {
        path: path.to_owned(),
        ..Dataset::default()
    }
}

fn rows(path: &Path) -> Vec<(String, Value)> {
    let folder = format!("{}/", path.parent().unwrap().display());
    open(&dataset(path))
        .unwrap()
        .map(|row| {
            let row = row.unwrap();
            let at = row.at.to_string().replace(&folder, "");
            (at, Value::Object(row.columns.into_map()))
        })
        .collect()
}

/// Two rows of every kind of column that data sets have.
fn batch() -> RecordBatch {
    let texts = |texts: &[&str]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value([Some("x"), None]);
    list.append_null();
    let mut names = StringDictionaryBuilder::<Int32Type>::new();
    names.append_value("one");
    names.append_value("one");
    let field = |name: &str, array: &ArrayRef| {
        Arc::new(arrow_schema::Field::new(
            name,
            array.data_type().clone(),
            true,
        ))
    };
    let (role, content) = (texts(&["user", "tool"]), texts(&["q", "r"]));
    let message = StructArray::from(vec![
        (field("role", &role), role.clone()),
        (field("content", &content), content.clone()),
    ]);
    let pairs = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
        [Some([Some(1), Some(2)]), Some([Some(3), None])],
        2,
    );
    RecordBatch::try_from_iter_with_nullable([
        ("text", texts(&["a", "é"]), false),
        (
            "n",
            Arc::new(Int64Array::from(vec![Some(7), None])) as _,
            true,
        ),
        ("list", Arc::new(list.finish()) as _, true),
        ("name", Arc::new(names.finish()) as _, true),
        ("message", Arc::new(message) as _, true),
        ("pair", Arc::new(pairs) as _, true),
        (
            "large",
            Arc::new(LargeStringArray::from(vec!["l", ""])) as _,
            true,
        ),
        (
            "view",
            Arc::new(StringViewArray::from(vec![
                "v",
                "a longer text than twelve",
            ])) as _,
            true,
        ),
        (
            "yes",
            Arc::new(BooleanArray::from(vec![true, false])) as _,
            true,
        ),
        (
            "score",
            Arc::new(Float32Array::from(vec![0.5, -1.0])) as _,
            true,
        ),
    ])
    .unwrap()
}

fn expected(name: &str) -> Vec<(String, Value)> {
    vec![
        (
            format!("{name}, row 1"),
            json!({"text": "a", "n": 7, "list": ["x", null], "name": "one",
                   "message": {"role": "user", "content": "q"}, "pair": [1, 2], "large": "l",
                   "view": "v", "yes": true, "score": 0.5}),
        ),
        (
            format!("{name}, row 2"),
            json!({"text": "é", "n": null, "list": null, "name": "one",
                   "message": {"role": "tool", "content": "r"}, "pair": [3, null], "large": "",
                   "view": "a longer text than twelve", "yes": false, "score": -1.0}),
        ),
    ]
}

#[test]
fn arrow_files_and_streams() {
    let lab = Lab::new("</s>");
    let path = lab.path().join("a.arrow");
    let batch = batch();
    for compression in [
        None,
        Some(CompressionType::ZSTD),
        Some(CompressionType::LZ4_FRAME),
    ] {
        let options = IpcWriteOptions::default()
            .try_with_compression(compression)
            .unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer =
            FileWriter::try_new_with_options(file, &batch.schema(), options.clone()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        assert_eq!(rows(&path), expected("a.arrow"));
        let file = std::fs::File::create(&path).unwrap();
        let mut writer =
            StreamWriter::try_new_with_options(file, &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        assert_eq!(rows(&path), expected("a.arrow"));
    }
}

#[test]
fn damaged_arrow_is_an_error() {
    let lab = Lab::new("</s>");
    let batch = batch();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    stream.finish().unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    file.finish().unwrap();
    let path = lab.path().join("a.arrow");
    for bytes in [stream.into_inner().unwrap(), file.into_inner().unwrap()] {
        let mut errors = 0;
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << (position % 8);
            lab.write("a.arrow", damaged);
            // Damage to a text or to padding cannot be noticed.
            let read = open(&dataset(&path)).and_then(|rows| {
                for row in rows.take(100) {
                    // Which decodes every column.
                    assert!(row?.columns.iter().count() < 100);
                }
                Ok(())
            });
            if let Err(error) = read {
                assert!(lab.message(&error).contains("a.arrow"), "{error}");
                errors += 1;
            }
        }
        assert!(errors > 100, "{errors}");
    }
    lab.write("a.arrow", "{\"text\": \"this is json\"}");
    let error = open(&dataset(&path)).err().unwrap();
    assert!(
        lab.message(&error)
            .starts_with("cannot read a.arrow as Arrow: "),
        "{error}"
    );
}

#[test]
fn saved_data_sets_are_read() {
    let lab = Lab::new("</s>");
    let sample = |id| Sample::all_trained(vec![id, 2, 3]);
    save_to_disk(&vec![sample(1)].into(), &lab.path().join("sets/train")).unwrap();
    save_to_disk(&vec![sample(7)].into(), &lab.path().join("sets/other")).unwrap();
    lab.write(
        "sets/dataset_dict.json",
        "{\"splits\": [\"train\", \"other\"]}",
    );
    let read = |path: &str, split: Option<&str>| {
        let dataset = Dataset {
            path: lab.path().join(path),
            split: split.map(str::to_owned),
            ..Dataset::default()
        };
        match open(&dataset) {
            Ok(rows) => rows
                .map(|row| row.unwrap().columns["input_ids"].to_string())
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => lab.message(&error),
        }
    };
    assert_eq!(read("sets", None), "[1,2,3]");
    assert_eq!(read("sets", Some("other")), "[7,2,3]");
    assert_eq!(read("sets", Some("train+other[:1]")), "[1,2,3] [7,2,3]");
    assert_eq!(read("sets/other", None), "[7,2,3]");
    assert_eq!(
        read("sets", Some("test")),
        "data set sets: no split `test`; its splits are `train`, `other`"
    );
    lab.write(
        "sets/train/state.json",
        "{\"_data_files\": [{\"filename\": \"../x.arrow\"}]}",
    );
    assert_eq!(
        read("sets/train", None),
        "data set sets/train/state.json: `../x.arrow` is no name of a file beside it"
    );
    lab.write("sets/train/state.json", "{");
    assert_eq!(
        read("sets/train", None),
        "sets/train/state.json, line 1, column 1: the JSON ends too early (EOF while parsing an object); the `datasets` library writes it whole"
    );
    lab.write("sets/train/state.json", "{}");
    assert_eq!(
        read("sets/train", None),
        "data set sets/train/state.json: names no files in `_data_files`, so that it is no data set that the `datasets` library saved"
    );
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let lab = Lab::new("</s>");
    let error = save_to_disk(&Vec::new().into(), lab.path()).unwrap_err();
    let message = lab.message(&error);
    assert!(
        message.starts_with(
            "data set FOLDER: the folder is to hold a prepared data set, but there is tokenizer"
        ),
        "{message}"
    );
    assert!(lab.path().join("tokenizer.json").exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What is saved is what is read again, positions and order included.
    #[test]
    fn saved_samples_come_back(rows in prop::collection::vec(
        (prop::collection::vec((0u32..256, any::<bool>()), 2..20), any::<bool>()), 1..40), repeat in 1usize..40) {
        let lab = Lab::new("</s>");
        let samples: Vec<Sample> = rows.iter().map(|(tokens, positions)| Sample {
            input_ids: tokens.iter().map(|(id, _)| *id).collect(),
            labels: tokens.iter().enumerate()
                .map(|(i, (id, trained))| if *trained || i == 1 { *id as i32 } else { -100 }).collect(),
            position_ids: positions.then(|| (0..tokens.len() as u32).map(|i| 2 * i).collect()),
        }).collect();
        let samples: Vec<Sample> = samples.iter().cycle().take(samples.len() * repeat).cloned().collect();
        let folder = lab.path().join("saved");
        // The second save replaces the first.
        save_to_disk(&samples[..1].to_vec().into(), &folder).unwrap();
        save_to_disk(&samples.clone().into(), &folder).unwrap();
        let config = config(Dataset {
            path: folder,
            strategy: Some(PromptStrategy::Pretokenized),
            ..Dataset::default()
        });
        let mut expected = samples;
        if expected.iter().any(|sample| sample.position_ids.is_some()) {
            for sample in &mut expected {
                let length = sample.len() as u32;
                sample.position_ids.get_or_insert_with(|| (0..length).collect());
            }
        }
        prop_assert_eq!(lab.prepare(&config).unwrap().train, expected);
    }
}
