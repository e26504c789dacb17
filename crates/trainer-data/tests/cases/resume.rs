//! A stream that goes on: the same rows whatever the data is in, without what was
//! read before, and never in a file that is another one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arrow_array::builder::StringDictionaryBuilder;
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use seqprep::Sample;
use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PackingStrategy, PromptStrategy};
use trainer_data::stream::{SampleStream, StreamCursor, StreamOptions, StreamSource};
use trainer_data::{DataError, Tokenizer};

use crate::support::{Lab, config};

/// What a data set is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lines,
    Text,
    Csv,
    Array,
    Gzip,
    Zstd,
    Parquet,
    ArrowFile,
    ArrowStream,
    /// An Arrow stream whose batches have dictionaries of their own.
    Dictionaries,
    /// Several files, of which the last one is compressed.
    Folder,
}

const KINDS: [Kind; 11] = [
    Kind::Lines,
    Kind::Text,
    Kind::Csv,
    Kind::Array,
    Kind::Gzip,
    Kind::Zstd,
    Kind::Parquet,
    Kind::ArrowFile,
    Kind::ArrowStream,
    Kind::Dictionaries,
    Kind::Folder,
];

/// Kinds of which nothing is read twice.
const SEEKABLE: [Kind; 6] = [
    Kind::Lines,
    Kind::Text,
    Kind::Csv,
    Kind::Parquet,
    Kind::ArrowFile,
    Kind::ArrowStream,
];

/// Rows in a row group or batch.
const BATCH: usize = 20;

/// JSON lines as a person may have them: a mark at the start, line ends of two
/// kinds, empty lines, blanks in front.
fn lines(texts: &[String]) -> String {
    let mut out = "\u{feff}\n  ".to_owned();
    for (i, text) in texts.iter().enumerate() {
        out += &json!({"text": text}).to_string();
        out += ["\n", "\r\n", "\n \n", "\n  "][i % 4];
    }
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write_parquet(path: &Path, texts: &[String]) {
    let schema = parse_message_type("message schema { required binary text (STRING); }");
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .build();
    let file = File::create(path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema.unwrap()), Arc::new(properties)).unwrap();
    for texts in texts.chunks(BATCH) {
        let values: Vec<_> = texts.iter().map(|t| ByteArray::from(t.as_str())).collect();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// A column of text; with a dictionary, each batch has one of its own.
fn batch(texts: &[String], dictionary: bool) -> RecordBatch {
    let column: ArrayRef = match dictionary {
        false => Arc::new(StringArray::from_iter_values(texts)),
        true => {
            let mut column = StringDictionaryBuilder::<Int32Type>::new();
            for text in texts {
                column.append_value(text);
            }
            Arc::new(column.finish())
        }
    };
    RecordBatch::try_from_iter([("text", column)]).unwrap()
}

/// Writes a data set of one column.
fn write(lab: &Lab, kind: Kind, name: &str, texts: &[String]) -> PathBuf {
    let plain = || texts.iter().map(|text| text.replace(['\n', '\r'], " "));
    match kind {
        Kind::Lines => lab.write(&format!("{name}.jsonl"), lines(texts)),
        Kind::Text => {
            let lines: Vec<String> = plain().collect();
            lab.write(&format!("{name}.txt"), lines.join("\r\n"))
        }
        Kind::Csv => {
            let mut out = "\u{feff}id,text\r\n".to_owned();
            for (i, text) in texts.iter().enumerate() {
                let end = ["\r\n", "\n", "\n\n"][i % 3];
                out += &format!("{i},\"{}\"{end}", text.replace('"', "\"\""));
            }
            lab.write(&format!("{name}.csv"), out)
        }
        Kind::Array => {
            let rows: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
            lab.write(&format!("{name}.json"), json!(rows).to_string())
        }
        Kind::Gzip => lab.write(&format!("{name}.jsonl.gz"), gzip(lines(texts).as_bytes())),
        Kind::Zstd => {
            let packed = zstd::encode_all(lines(texts).as_bytes(), 1).unwrap();
            lab.write(&format!("{name}.jsonl.zst"), packed)
        }
        Kind::Parquet => {
            let path = lab.path().join(format!("{name}.parquet"));
            write_parquet(&path, texts);
            path
        }
        Kind::ArrowFile => {
            let path = lab.path().join(format!("{name}.arrow"));
            let schema = batch(&[], false).schema();
            let mut writer = FileWriter::try_new(File::create(&path).unwrap(), &schema).unwrap();
            for texts in texts.chunks(BATCH) {
                writer.write(&batch(texts, false)).unwrap();
            }
            writer.finish().unwrap();
            path
        }
        Kind::ArrowStream | Kind::Dictionaries => {
            let path = lab.path().join(format!("{name}.arrow"));
            let dictionary = kind == Kind::Dictionaries;
            let schema = batch(&[], dictionary).schema();
            let mut writer = StreamWriter::try_new(File::create(&path).unwrap(), &schema).unwrap();
            for texts in texts.chunks(BATCH) {
                writer.write(&batch(texts, dictionary)).unwrap();
            }
            writer.finish().unwrap();
            path
        }
        Kind::Folder => {
            let folder = lab.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let (first, rest) = texts.split_at(texts.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            std::fs::write(folder.join("a.jsonl"), lines(first)).unwrap();
            std::fs::write(folder.join("b.jsonl"), lines(second)).unwrap();
            std::fs::write(folder.join("c.jsonl.gz"), gzip(lines(third).as_bytes())).unwrap();
            folder
        }
    }
}

/// Texts that differ, of many lengths; the longest become several samples.
fn texts(count: usize) -> Vec<String> {
    (0..count)
        .map(|i| match i % 7 {
            6 => format!("<{i:04}>\n\"{}\"", "y".repeat((i * 37) % 130)),
            _ => format!("<{i:04}> {}", "x".repeat((i * 37) % 130)),
        })
        .collect()
}

fn completion(path: PathBuf) -> Dataset {
    Dataset {
        path,
        strategy: Some(PromptStrategy::Completion),
        ..Dataset::default()
    }
}

/// A run on a data set, in file order.
fn plain(dataset: Dataset) -> Config {
    Config {
        sequence_len: 200,
        streaming: true,
        ..config(dataset)
    }
}

/// Blocks that are small, so that there are many.
fn options(config: &Config) -> StreamOptions {
    StreamOptions {
        buffer: 40,
        ..StreamOptions::new(config)
    }
}

type Row = Result<Vec<Sample>, String>;

/// A stream and what it gave: rows, and cursors before each row.
struct Run {
    rows: Vec<Row>,
    cursors: Vec<StreamCursor>,
    ledgers: Vec<Value>,
}

impl Run {
    fn of(lab: &Lab, mut stream: SampleStream, rows: usize) -> Self {
        let mut run = Self {
            rows: Vec::new(),
            cursors: vec![stream.cursor()],
            ledgers: vec![serde_json::to_value(stream.ledger()).unwrap()],
        };
        while run.rows.len() < rows {
            let Some(row) = stream.next() else { break };
            run.rows.push(row.map_err(|error| lab.message(&error)));
            run.cursors.push(stream.cursor());
            run.ledgers
                .push(serde_json::to_value(stream.ledger()).unwrap());
        }
        run
    }
}

/// Goes on from a cursor that was written to a file.
fn resume(
    config: &Config,
    tokenizer: &Arc<Tokenizer>,
    options: &StreamOptions,
    cursor: &StreamCursor,
) -> Result<SampleStream, DataError> {
    let saved = serde_json::to_string(cursor).unwrap();
    let cursor: StreamCursor = serde_json::from_str(&saved).unwrap();
    SampleStream::resume(config, Arc::clone(tokenizer), options.clone(), cursor)
}

fn start(
    config: &Config,
    tokenizer: &Arc<Tokenizer>,
    options: &StreamOptions,
) -> Result<SampleStream, DataError> {
    SampleStream::start(config, Arc::clone(tokenizer), options.clone())
}

/// A data set of the property: its kind, rows, split, weight, shards, and rows that
/// are skipped.
type Drawn = (Kind, usize, usize, usize, bool, usize);

fn drawn() -> impl Strategy<Value = Drawn> {
    (
        prop::sample::select(&KINDS[..]),
        4usize..70,
        0usize..4,
        0usize..4,
        any::<bool>(),
        0usize..3,
    )
}

fn source(
    lab: &Lab,
    index: usize,
    (kind, rows, split, weight, shards, skip): Drawn,
) -> StreamSource {
    let texts: Vec<String> = texts(rows)
        .iter()
        .map(|text| format!("{index}{text}"))
        .collect();
    let splits = [
        None,
        Some("train[40%:]"),
        Some("train[2:-1]"),
        Some("train[:30%]+train[60%:]"),
    ];
    StreamSource {
        dataset: Dataset {
            split: splits[split].map(str::to_owned),
            weight: [None, Some(0.5), Some(1.7), Some(2.0)][weight],
            shards: shards.then_some(2),
            shards_idx: shards.then_some(1),
            ..completion(write(lab, kind, &format!("data{index}"), &texts))
        },
        skip,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_resumed_stream_is_the_same_stream(
        sets in prop::collection::vec(drawn(), 1..4),
        buffer in 1usize..120,
        shuffle in any::<bool>(),
        packing in prop::sample::select(&[
            None,
            Some(PackingStrategy::BestFitDecreasing),
            Some(PackingStrategy::FirstFit),
            Some(PackingStrategy::Sequential),
        ][..]),
        seed in any::<u32>(),
        cuts in prop::collection::vec(0.0f64..1.0, 4),
    ) {
        let lab = Lab::new("</s>");
        let sources: Vec<_> = sets.iter().enumerate().map(|(i, set)| source(&lab, i, *set)).collect();
        let config = Config {
            datasets: sources.iter().map(|source| source.dataset.clone()).collect(),
            sequence_len: 64,
            seed: u64::from(seed),
            ..Config::default()
        };
        let options = StreamOptions { sources, buffer, shuffle, packing };
        let tokenizer = Arc::new(lab.tokenizer());
        let whole = Run::of(&lab, start(&config, &tokenizer, &options).unwrap(), 320);
        // Sets that have no rows left, or none that can be trained on, are errors.
        prop_assume!(whole.rows.iter().all(Result::is_ok));
        for cut in cuts {
            let cut = (cut * 290.0) as usize;
            let stream = resume(&config, &tokenizer, &options, &whole.cursors[cut]).unwrap();
            prop_assert!(stream.modified().is_empty());
            let run = Run::of(&lab, stream, 30);
            prop_assert_eq!(&run.rows[..], &whole.rows[cut..cut + 30], "cut after {} rows", cut);
            prop_assert_eq!(&run.cursors[..], &whole.cursors[cut..=cut + 30]);
            prop_assert_eq!(&run.ledgers[1..], &whole.ledgers[cut + 1..=cut + 30]);
        }
    }
}

/// Writes bytes into a file that then looks as if nobody had.
fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let size = bytes.len();
    change(&mut bytes);
    assert_eq!(bytes.len(), size);
    std::fs::write(path, bytes).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
}

/// Makes a file look as if it was written at another time.
fn touch(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
}

fn find(bytes: &[u8], text: &str) -> usize {
    memchr::memmem::find(bytes, text.as_bytes()).unwrap()
}

/// A cursor as a version wrote it that knew no more than the number of the row.
fn older(cursor: &StreamCursor) -> StreamCursor {
    let mut json = serde_json::to_value(cursor).unwrap();
    json.as_object_mut().unwrap().remove("anchor").unwrap();
    serde_json::from_value(json).unwrap()
}

/// Number of the row in its file that a cursor's block begins with.
fn anchored(cursor: &StreamCursor) -> usize {
    let json = serde_json::to_value(cursor).unwrap();
    json["anchor"]["mark"]["row"].as_u64().unwrap() as usize
}

#[test]
fn what_was_read_before_is_not_read_again() {
    const ROWS: usize = 600;
    const CUT: usize = 500;
    for kind in SEEKABLE {
        let lab = Lab::new("</s>");
        let texts = texts(ROWS);
        let path = write(&lab, kind, "data", &texts);
        let config = plain(completion(path.clone()));
        let options = options(&config);
        let tokenizer = Arc::new(lab.tokenizer());
        let whole = Run::of(&lab, start(&config, &tokenizer, &options).unwrap(), ROWS);
        let cursor = &whole.cursors[CUT];
        let row = anchored(cursor);
        assert!((CUT - 40..=CUT).contains(&row), "{kind:?}: {row}");
        // The first row is read always; the beginning of a row group as well.
        let (from, to, byte) = match kind {
            Kind::Lines | Kind::Text | Kind::Csv => (1, row, 0),
            _ => (BATCH, row / BATCH * BATCH, 0xff),
        };
        damage(&path, |bytes| {
            for i in from..to {
                let at = find(bytes, &format!("<{i:04}>"));
                bytes[at..at + 6].fill(byte);
            }
        });
        let resumed = resume(&config, &tokenizer, &options, cursor).unwrap();
        let resumed = Run::of(&lab, resumed, ROWS - CUT);
        assert_eq!(resumed.rows, whole.rows[CUT..], "{kind:?}");
        // The damage is such that reading it is noticed; what is passed over in Parquet
        // is never decoded.
        if kind == Kind::Parquet {
            continue;
        }
        let reread = resume(&config, &tokenizer, &options, &older(cursor)).unwrap();
        let reread = Run::of(&lab, reread, ROWS - CUT);
        assert_ne!(reread.rows, whole.rows[CUT..], "{kind:?}");
    }
}

#[test]
fn older_cursors_are_found_again_by_counting() {
    for kind in KINDS {
        let lab = Lab::new("</s>");
        let config = plain(completion(write(&lab, kind, "data", &texts(150))));
        let options = options(&config);
        let tokenizer = Arc::new(lab.tokenizer());
        let whole = Run::of(&lab, start(&config, &tokenizer, &options).unwrap(), 150);
        let cursor = older(&whole.cursors[110]);
        let resumed = resume(&config, &tokenizer, &options, &cursor).unwrap();
        assert_eq!(Run::of(&lab, resumed, 40).rows, whole.rows[110..]);
    }
}

#[test]
fn errors_after_a_resumption_name_the_same_line() {
    for (kind, name, expected) in [
        (
            Kind::Lines,
            "data.jsonl",
            "data.jsonl, line 252, column 3: malformed JSON",
        ),
        (
            Kind::Text,
            "data.txt",
            "data.txt, line 201: invalid UTF-8 at byte 3 of the line",
        ),
        (
            Kind::Csv,
            "data.csv",
            "data.csv, line 296: the row has 1 values, the header has 2",
        ),
    ] {
        let lab = Lab::new("</s>");
        let path = write(&lab, kind, "data", &texts(200));
        let end: &[u8] = match kind {
            Kind::Lines => b"}}\n",
            Kind::Text => b"\r\nab\xff",
            _ => b"one\n",
        };
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(end).unwrap();
        let config = plain(completion(path));
        let options = options(&config);
        let tokenizer = Arc::new(lab.tokenizer());
        let whole = Run::of(&lab, start(&config, &tokenizer, &options).unwrap(), 300);
        let message = whole.rows.last().unwrap().as_ref().unwrap_err();
        assert!(message.starts_with(expected), "{name}: {message}");
        let cut = whole.rows.len() - 2;
        let resumed = resume(&config, &tokenizer, &options, &whole.cursors[cut]).unwrap();
        assert_eq!(Run::of(&lab, resumed, 300).rows, whole.rows[cut..]);
    }
}

#[test]
fn files_that_were_modified_are_named_and_read_from_the_beginning() {
    for kind in KINDS {
        let lab = Lab::new("</s>");
        let path = write(&lab, kind, "data", &texts(150));
        let config = plain(completion(path.clone()));
        let options = options(&config);
        let tokenizer = Arc::new(lab.tokenizer());
        let whole = Run::of(&lab, start(&config, &tokenizer, &options).unwrap(), 300);
        let touched = match kind {
            Kind::Folder => path.join("b.jsonl"),
            _ => path,
        };
        touch(&touched);
        for cut in [70, 120, 290] {
            let resumed = resume(&config, &tokenizer, &options, &whole.cursors[cut]).unwrap();
            assert_eq!(resumed.modified(), std::slice::from_ref(&touched));
            let rows = Run::of(&lab, resumed, 300 - cut).rows;
            assert_eq!(rows, whole.rows[cut..], "{kind:?}, cut after {cut} rows");
        }
    }
}

/// The place in a file never counts if what is there is something else.
#[test]
fn another_row_at_the_place_is_an_error() {
    let tokenizer = Arc::new(Lab::new("</s>").tokenizer());
    let refused = |lab: &Lab, run: &Run, cut: usize, config: &Config| {
        let resumed = resume(config, &tokenizer, &options(config), &run.cursors[cut]).unwrap();
        let error = Run::of(lab, resumed, 1).rows.remove(0).unwrap_err();
        let (_, reason) = error
            .split_once("the stream cannot go on where it was: ")
            .unwrap();
        reason.to_owned()
    };
    for kind in KINDS {
        // Those that are packed are other bytes, of another size, after any change.
        if matches!(kind, Kind::Folder | Kind::Gzip | Kind::Zstd) {
            continue;
        }
        let lab = Lab::new("</s>");
        let mut texts = texts(150);
        let path = write(&lab, kind, "data", &texts);
        let config = plain(completion(path.clone()));
        let stream = start(&config, &tokenizer, &options(&config)).unwrap();
        let whole = Run::of(&lab, stream, 150);
        let row = anchored(&whole.cursors[120]);
        // Without a trace: only the row itself can tell.
        damage(&path, |bytes| {
            let at = find(bytes, &format!("<{row:04}>"));
            bytes[at + 1] = b'9';
        });
        let reason = refused(&lab, &whole, 120, &config);
        assert!(reason.contains("is not the row that was there"), "{reason}");
        // Rows that have changed places, in a file of the same size and another time.
        texts.swap(row, row - 1);
        write(&lab, kind, "data", &texts);
        touch(&path);
        let reason = refused(&lab, &whole, 120, &config);
        assert!(reason.contains("is not the row that was there"), "{reason}");
    }
    // As many bytes, in fewer rows.
    let lab = Lab::new("</s>");
    let path = write(&lab, Kind::Text, "data", &texts(150));
    let config = plain(completion(path.clone()));
    let stream = start(&config, &tokenizer, &options(&config)).unwrap();
    let whole = Run::of(&lab, stream, 150);
    let size = path.metadata().unwrap().len() as usize;
    std::fs::write(&path, "z".repeat(size)).unwrap();
    touch(&path);
    assert_eq!(
        refused(&lab, &whole, 120, &config),
        "data.txt ends before the row to go on with; restore what was changed, or start anew"
    );
}
