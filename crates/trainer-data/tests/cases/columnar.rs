//! What every format gives, whatever stands beside the columns that are read; and
//! columns of the type Json.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StructArray};
use arrow_schema::{Field, Schema};
use parquet::basic::Compression;
use seqprep::Sample;
use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy, UserDefined};
use trainer_data::source::open;
use trainer_data::stream::{SampleStream, StreamOptions};
use trainer_data::{PreferenceObjective, prepare_preferences};

use crate::parquet_files::{Written, write_parquet};
use crate::preferences::strategy;
use crate::support::{Lab, config};
use crate::tables::{Form, array, codecs, forms, write, write_arrow, write_saved, write_stream};

/// Three rows each of layouts of every kind, with keys that some rows lack.
fn layouts() -> Vec<(PromptStrategy, Vec<Value>)> {
    let text = |name: &str, row: fn(usize) -> Value| (strategy(name), (0..5).map(row).collect());
    let own = UserDefined {
        field_instruction: Some("ask".into()),
        field_output: Some("say".into()),
        format: Some("[{instruction}]".into()),
        ..UserDefined::default()
    };
    vec![
        text(
            "alpaca",
            |i| json!({"instruction": format!("I{i}"), "input": "", "output": "O"}),
        ),
        text(
            "alpaca_w_system",
            |i| json!({"system": "S", "instruction": format!("I{i}"), "input": "X", "output": "O"}),
        ),
        text("completion", |i| json!({"text": format!("text {i}")})),
        text("pretrain", |i| json!({"text": format!("text {i}")})),
        text(
            "metharme",
            |i| json!({"prompt": format!("P{i}"), "generation": "G"}),
        ),
        text(
            "explainchoice",
            |i| json!({"question": "Q", "choices": ["a", format!("b{i}")], "explanation": "E"}),
        ),
        text(
            "creative_acr.load_critique",
            |i| json!({"instruction": "Q", "answer": "A", "scores": {"x": i}, "critiques": {"x": "bad"}}),
        ),
        text(
            "input_output",
            |i| json!({"segments": [{"text": "q", "label": false}, {"text": format!("a{i}</s>"), "label": true}]}),
        ),
        text(
            "llama2_chat",
            |i| json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": format!("a{i}")}]}),
        ),
        text(
            "pygmalion",
            |i| json!({"conversations": [{"role": "human", "value": "q"}, {"role": "bot", "value": format!("a{i}")}]}),
        ),
        text(
            "pretokenized",
            |i| json!({"input_ids": [i, 2, 3], "labels": [-100, 2, 3]}),
        ),
        text("chat_template", |i| {
            let mut row = json!({"messages": [
                {"role": "user", "content": "q"}, {"role": "assistant", "content": format!("a{i}")}]});
            if i % 2 == 1 {
                row["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters": {"n": {"type": "integer"}}}}]);
            }
            row
        }),
        (
            PromptStrategy::UserDefined(Box::new(own)),
            (0..5)
                .map(|i| json!({"ask": format!("q{i}"), "say": "a"}))
                .collect(),
        ),
    ]
}

fn settings(path: std::path::PathBuf, strategy: &PromptStrategy) -> Config {
    let mut config = config(Dataset {
        path,
        strategy: Some(strategy.clone()),
        ..Dataset::default()
    });
    config.chat_template = Some("qwen_25".into());
    config
}

#[test]
fn every_format_gives_the_same_samples() {
    let lab = Lab::new("<|im_end|>");
    let tokenizer = Arc::new(lab.tokenizer());
    for (strategy, rows) in layouts() {
        let name = strategy.as_str();
        let path = write(&lab, Form::Jsonl, &rows).unwrap();
        let expected = lab.prepare(&settings(path, &strategy)).unwrap().train;
        assert_eq!(expected.len(), rows.len(), "{name}");
        for form in forms() {
            let Some(path) = write(&lab, form, &rows) else {
                continue;
            };
            let config = settings(path, &strategy);
            let prepared = lab.prepare(&config);
            let prepared = prepared.unwrap_or_else(|error| panic!("{name} {form:?}: {error}"));
            assert_eq!(prepared.train, expected, "{name} {form:?}");
            assert_eq!(prepared.ledger.datasets[0].kept_rows, rows.len());
            let options = StreamOptions::new(&config);
            let stream = SampleStream::start(&config, Arc::clone(&tokenizer), options).unwrap();
            let streamed: Vec<Sample> = stream
                .take(expected.len())
                .flat_map(Result::unwrap)
                .collect();
            assert_eq!(streamed, expected, "{name} {form:?}, streamed");
        }
    }
}

/// A type, what it is for, and a row of it.
type Preference = (&'static str, PreferenceObjective, fn(usize) -> Value);

#[test]
fn every_format_gives_the_same_preferences() {
    let lab = Lab::new("</s>");
    let cases: [Preference; 4] = [
        (
            "chatml.intel",
            PreferenceObjective::Pairwise,
            |i| json!({"question": format!("q{i}"), "chosen": "a", "rejected": "b"}),
        ),
        (
            "chat_template.default",
            PreferenceObjective::Pairwise,
            |i| {
                json!({"messages": [{"role": "user", "content": format!("q{i}")}],
                   "chosen": {"role": "assistant", "content": "a"},
                   "rejected": {"role": "assistant", "content": "b"}})
            },
        ),
        (
            "chatml.argilla",
            PreferenceObjective::Kto,
            |i| json!({"instruction": format!("q{i}"), "completion": "a", "label": i % 2 == 0}),
        ),
        (
            "stepwise_supervised",
            PreferenceObjective::ProcessRewardModel,
            |i| json!({"prompt": format!("q{i}"), "completions": ["a", "b"], "labels": [true, i % 2 == 0]}),
        ),
    ];
    for (name, objective, row) in cases {
        let rows: Vec<Value> = (0..5).map(row).collect();
        let prepare = |form| {
            let path = write(&lab, form, &rows)?;
            let mut config = settings(path, &strategy(name));
            config.chat_template = Some("chatml".into());
            let prepared = prepare_preferences(&config, &lab.tokenizer(), objective);
            Some(
                prepared
                    .unwrap_or_else(|error| panic!("{name} {form:?}: {error}"))
                    .train,
            )
        };
        let expected = prepare(Form::Jsonl).unwrap();
        for form in forms() {
            if let Some(train) = prepare(form) {
                assert_eq!(train, expected, "{name} {form:?}");
            }
        }
    }
}

#[test]
fn a_column_that_is_read_needs_a_meaning() {
    let lab = Lab::new("</s>");
    let rows = [json!({"text": "a"}), json!({"text": "b"})];
    for (field, what) in [
        ("photo", "binary data"),
        ("price", "a decimal"),
        ("counts", "a map whose keys are not text"),
        ("image", "an object"),
        ("day", "a date"),
    ] {
        for form in [Form::Parquet(Compression::SNAPPY), Form::ArrowStream] {
            let path = write(&lab, form, &rows).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let mut config = settings(path, &PromptStrategy::Completion);
            config.datasets[0].field = Some(field.into());
            assert_eq!(
                lab.message(&lab.prepare(&config).unwrap_err()),
                format!("{name}, row 1: `{field}` has to be text, not {what}")
            );
        }
    }
    let path = write(&lab, Form::ArrowStream, &rows).unwrap();
    let mut config = settings(path, &PromptStrategy::Completion);
    config.datasets[0].field = Some("length".into());
    assert_eq!(
        lab.message(&lab.prepare(&config).unwrap_err()),
        "rows.arrow, row 1: `length` has to be text, not a duration"
    );
}

/// Nothing of a column that is not read is looked at: its pages may be anything.
#[test]
fn unread_columns_are_not_decoded() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let lab = Lab::new("</s>");
    let rows: Vec<Value> = (0..5)
        .map(|i| json!({"text": format!("text {i}"), "other": format!("other {i}")}))
        .collect();
    for codec in codecs() {
        let path = write(&lab, Form::Parquet(codec), &rows).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        for group in reader.metadata().row_groups() {
            for column in group.columns() {
                if column.column_path().string() == "other" {
                    let (start, length) = column.byte_range();
                    bytes[start as usize..(start + length) as usize].fill(0xff);
                }
            }
        }
        lab.write("rows.parquet", &bytes);
        let mut config = settings(path, &PromptStrategy::Completion);
        assert_eq!(lab.prepare(&config).unwrap().train.len(), 5, "{codec:?}");
        config.datasets[0].field = Some("other".into());
        let message = lab.message(&lab.prepare(&config).unwrap_err());
        assert!(
            message.starts_with("cannot read rows.parquet as Parquet: column `other`: "),
            "{codec:?}: {message}"
        );
        // It is the file that is damaged, and no row to be left out.
        config.malformed_rows = trainer_config::MalformedRows::Skip;
        assert_eq!(lab.message(&lab.prepare(&config).unwrap_err()), message);
    }
}

/// Rows far apart are the same whether a file is read from its beginning or not.
#[test]
fn many_row_groups_and_slices() {
    let lab = Lab::new("</s>");
    let rows: Vec<Value> = (0..2500).map(|i| json!({"text": format!("{i}")})).collect();
    let path = lab.path().join("rows.parquet");
    let written = Written {
        group: 1100,
        ..Written::default()
    };
    write_parquet(&path, &rows, &written);
    for (split, range) in [
        ("train", 0..2500),
        ("train[:1]", 0..1),
        ("train[1050:1150]", 1050..1150),
        ("train[2400:]", 2400..2500),
    ] {
        let dataset = Dataset {
            path: path.clone(),
            split: Some(split.into()),
            ..Dataset::default()
        };
        let got: Vec<String> = open(&dataset)
            .unwrap()
            .map(|row| row.unwrap().text("text", "test", "").unwrap().to_owned())
            .collect();
        let expected: Vec<String> = range.map(|i| i.to_string()).collect();
        assert_eq!(got, expected, "{split}");
    }
}

/// A struct of Json text, a list of it, and a whole column of it, with what the
/// values are.
fn json_columns() -> (RecordBatch, Vec<Value>, Value, Vec<Value>) {
    let values = [
        json!({"n": {"type": "integer", "default": null}}),
        json!([1, {"big": 2}]),
        json!("text"),
    ];
    let texts: Vec<Value> = values.iter().map(|v| json!(v.to_string())).collect();
    let text = array(&texts);
    let names = array(&[json!("a"), Value::Null, json!("c")]);
    let field =
        |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
    let nested = StructArray::from(vec![
        (field("name", &names), names.clone()),
        (field("value", &text), text.clone()),
    ]);
    let lists: Vec<Value> = texts.iter().map(|text| json!([text, null])).collect();
    let lists = array(&lists);
    let columns = vec![
        ("whole", text.clone()),
        ("nested", Arc::new(nested) as ArrayRef),
        ("list", lists),
        ("plain", text),
    ];
    let expected = expected_rows(&values, &texts, false);
    let stored = expected_rows(&values, &texts, true);
    let features = json!({
        "whole": {"_type": "Json"},
        "nested": {"name": {"dtype": "string", "_type": "Value"}, "value": {"_type": "Json"}},
        "list": {"feature": {"_type": "Json"}, "_type": "List"},
        "plain": {"dtype": "string", "_type": "Value"},
    });
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    );
    (batch.unwrap(), stored, features, expected)
}

/// The rows with their values, or with the texts of them where the type is Json.
fn expected_rows(values: &[Value], texts: &[Value], stored: bool) -> Vec<Value> {
    let rows = values.iter().zip(["a", "", "c"]).zip(texts);
    rows.map(|((value, name), text)| {
        let value = if stored { text } else { value };
        let mut nested = json!({"name": name, "value": value});
        if name.is_empty() {
            nested = json!({"value": value});
        }
        json!({"whole": value, "nested": nested, "list": [value, null], "plain": text})
    })
    .collect()
}

/// The type, with the extension wherever the features say Json.
fn extended(field: &Field, feature: &Value) -> Field {
    use arrow_schema::DataType as T;
    if feature["_type"] == "Json" {
        let name = ("ARROW:extension:name".to_owned(), "arrow.json".to_owned());
        return field.clone().with_metadata(HashMap::from([name]));
    }
    let kind = match field.data_type() {
        T::List(item) => T::List(Arc::new(extended(item, &feature["feature"]))),
        T::Struct(fields) => {
            let fields = fields.iter();
            T::Struct(
                fields
                    .map(|f| extended(f, &feature[f.name().as_str()]))
                    .collect(),
            )
        }
        other => other.clone(),
    };
    field.clone().with_data_type(kind)
}

/// The batch under another schema whose types are the same but for their names.
fn cast(batch: &RecordBatch, schema: Schema) -> RecordBatch {
    fn to(array: &ArrayRef, field: &Field) -> ArrayRef {
        use arrow_array::cast::AsArray;
        use arrow_schema::DataType as T;
        match field.data_type() {
            T::List(item) => {
                let (_, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
                let values = to(&values, item);
                Arc::new(arrow_array::ListArray::new(
                    item.clone(),
                    offsets,
                    values,
                    nulls,
                ))
            }
            T::Struct(fields) => {
                let (_, columns, nulls) = array.as_struct().clone().into_parts();
                let columns = columns.iter().zip(fields).map(|(c, f)| to(c, f)).collect();
                Arc::new(StructArray::new(fields.clone(), columns, nulls))
            }
            _ => array.clone(),
        }
    }
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| to(column, field)).collect();
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn values(path: std::path::PathBuf) -> Vec<Value> {
    let rows = open(&Dataset {
        path,
        ..Dataset::default()
    });
    rows.unwrap()
        .map(|row| Value::Object(row.unwrap().columns.into_map()))
        .collect()
}

#[test]
fn json_columns_are_decoded_wherever_the_type_stands() {
    let (plain, stored, features, expected) = json_columns();
    let lab = Lab::new("</s>");
    let info = json!({"info": {"features": features}}).to_string();
    let path = lab.path().join("a.parquet");
    let parquet = |typed: bool, metadata: Vec<(&'static str, String)>| {
        let written = Written {
            features: features.clone(),
            typed,
            metadata,
            ..Written::default()
        };
        write_parquet(&path, &stored, &written);
        values(path.clone())
    };
    // Without the type, text is text.
    assert_eq!(parquet(false, Vec::new()), stored);
    assert_eq!(parquet(true, Vec::new()), expected, "Parquet's own type");
    assert_eq!(
        parquet(false, vec![("huggingface", info.clone())]),
        expected,
        "features"
    );
    let schema = Schema::clone(&plain.schema());
    let described = HashMap::from([("huggingface".to_owned(), info)]);
    let by_features = cast(&plain, schema.clone().with_metadata(described));
    let fields = schema.fields().iter();
    let fields: Vec<Field> = fields
        .map(|field| extended(field, &features[field.name().as_str()]))
        .collect();
    let by_extension = cast(&plain, Schema::new(fields));
    let schema = base64(&schema_message(&by_extension));
    assert_eq!(
        parquet(false, vec![("ARROW:schema", schema)]),
        expected,
        "Arrow's schema"
    );
    for (how, batch) in [("features", &by_features), ("extension", &by_extension)] {
        let path = lab.path().join("a.arrow");
        write_arrow(&path, batch, None);
        assert_eq!(values(path.clone()), expected, "Arrow file, {how}");
        write_stream(&path, batch);
        assert_eq!(values(path), expected, "Arrow stream, {how}");
        let folder = lab.path().join(how);
        write_saved(&folder, batch, &json!({}));
        assert_eq!(values(folder), expected, "saved, {how}");
    }
    // Features in the description alone.
    let folder = lab.path().join("described");
    write_saved(&folder, &plain, &features);
    assert_eq!(values(folder), expected);
}

/// The message that holds the schema of a batch, with its length in front.
fn schema_message(batch: &RecordBatch) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut writer =
        arrow_ipc::writer::StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.finish().unwrap();
    // Without the mark of the end.
    stream.truncate(stream.len() - 8);
    stream
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let digit = (digit <= chunk.len()).then(|| (bits >> (18 - 6 * digit) & 63) as usize);
            text.push(digit.map_or('=', |digit| char::from(DIGITS[digit])));
        }
    }
    text
}

/// Integers beyond 64 bits in JSON text stay what they are.
#[test]
fn json_columns_hold_large_integers() {
    let lab = Lab::new("</s>");
    let path = lab.path().join("a.parquet");
    let text = "{\"x\": 40302010908070605040302}";
    let written = Written {
        features: json!({"a": {"_type": "Json"}}),
        typed: true,
        ..Written::default()
    };
    write_parquet(&path, &[json!({"a": text, "b": text})], &written);
    let row = values(path).remove(0);
    assert!(row["a"]["x"].is_object(), "{row}");
    assert_eq!(row["b"], text);
}

#[test]
fn json_columns_that_hold_no_json() {
    let lab = Lab::new("</s>");
    let path = lab.path().join("a.parquet");
    let written = Written {
        features: json!({"text": {"_type": "Json"}}),
        typed: true,
        ..Written::default()
    };
    write_parquet(
        &path,
        &[json!({"text": "{"}), json!({"text": "\"good\""})],
        &written,
    );
    let config = settings(path, &PromptStrategy::Completion);
    assert_eq!(
        lab.message(&lab.prepare(&config).unwrap_err()),
        "a.parquet, row 1: `text` has to be text, not text that is not JSON (EOF while parsing an object at line 1 column 1), though the data set says that it is of the type Json"
    );
}

/// Nulls of structs stand for keys that a row lacks, others were written.
#[test]
fn nulls_keep_their_meaning() {
    let lab = Lab::new("</s>");
    let rows = [
        json!({"a": {"x": 1, "y": {"z": "t"}}, "l": [1, null]}),
        json!({"a": {"x": 2}, "l": null}),
    ];
    for form in forms() {
        let Some(path) = write(&lab, form, &rows) else {
            continue;
        };
        let read = values(path);
        let columns = |row: &Value| json!({"a": row["a"], "l": row["l"]});
        assert_eq!(
            read.iter().map(columns).collect::<Vec<_>>(),
            rows,
            "{form:?}"
        );
    }
    let written = [json!({"a": {"x": null}})];
    let path = write(&lab, Form::Jsonl, &written).unwrap();
    assert_eq!(values(path), written);
}
