//! An offline run of Weights & Biases, for `wandb sync`: a folder
//! `offline-run-DATE-ID` with a file `run-ID.wandb`.
//!
//! The file is a log of LevelDB: after seven bytes of its own, blocks of 32 KiB
//! with records of checksum (CRC-32 of zlib over kind and data), length, kind and
//! data; a record that does not fit is cut into a first, middle and last part. The
//! data are `wandb_internal.Record` messages, numbered from 1.
//!
//! A run that goes on from a checkpoint goes on in its file, which is cut after the
//! last row that is still in the log. So `wandb sync` finds one run with each row once,
//! and needs no `--append`; a run that was sent before is sent again, whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Value, json};
use trainer_core::LogRow;

use super::wire::{Message, crc32, parts};
use super::{Ending, Log, Mark, Run, at, calendar, drawn_id, logged, now, same, step_of};

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
/// `:W&B`, a magic number and the version of the format.
const PREAMBLE: [u8; 7] = [b':', b'W', b'&', b'B', 0xE1, 0xBE, 0];

/// Which run a folder is of.
const MARK: Mark = Mark("wandb.json");

/// The step of a row, among its values.
const STEP: &str = "train/global_step";
/// Values of a row that Weights & Biases has beside those of the log.
const OWN: [&str; 3] = ["_step", "_timestamp", "_runtime"];

// Kinds of records.
const HISTORY: u32 = 2;
const SUMMARY: u32 = 3;
const CONFIG: u32 = 5;
const RUN: u32 = 17;
const EXIT: u32 = 18;
const VERSION: u32 = 21;

/// A run that is being written.
pub(super) struct Wandb {
    file: File,
    /// Bytes of the file.
    length: usize,
    records: i64,
    started: f64,
    history_step: i64,
    /// Last value of each key.
    summary: LogRow,
}

/// What Weights & Biases calls a run.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) project: Option<String>,
    pub(super) entity: Option<String>,
    pub(super) name: Option<String>,
    pub(super) id: Option<String>,
}

impl Wandb {
    /// Begins a run; goes on with that of `output` after `steps_done` steps.
    pub(super) fn create(
        output: &Path,
        names: &Names,
        run: &Run,
        steps_done: usize,
    ) -> io::Result<Self> {
        let output = fs::canonicalize(output)?;
        if steps_done == 0 {
            return Self::begin(&output, names, run);
        }
        let rows = logged(&output)?;
        let (mut wandb, known) = match Self::go_on(&output, names, run, &rows)? {
            Some(wandb) => wandb,
            None => (Self::begin(&output, names, run)?, 0),
        };
        // Those of a run that had no tracker.
        for row in &rows[known..] {
            wandb.row(step_of(row), row)?;
        }
        Ok(wandb)
    }

    fn begin(output: &Path, names: &Names, run: &Run) -> io::Result<Self> {
        let started = now();
        let id = names.id.clone().unwrap_or_else(|| drawn_id(8));
        let [year, month, day, hour, minute, second] = calendar(started as u64);
        let folder = format!(
            "wandb/offline-run-{year:04}{month:02}{day:02}_{hour:02}{minute:02}{second:02}-{id}"
        );
        fs::create_dir_all(output.join(&folder).join("files"))?;
        let path = format!("{folder}/run-{id}.wandb");
        let mut file = File::create(output.join(&path))?;
        file.write_all(&PREAMBLE)?;
        let mut wandb = Self {
            file,
            length: PREAMBLE.len(),
            records: 0,
            started,
            history_step: 0,
            summary: LogRow::new(),
        };
        // The version that wrote the file and the oldest that can read it.
        let version = Message::default().text(1, "0.17.0").text(2, "0.12.0");
        wandb.record(VERSION, &Message::default().message(1, &version))?;
        let project = names.project.as_deref().unwrap_or("uncategorized");
        let name = names.name.as_deref().unwrap_or(&run.name);
        let seconds = Message::default()
            .integer(1, started as i64)
            .integer(2, (started.fract() * 1e9) as i64);
        let mut message = Message::default().text(1, &id);
        if let Some(entity) = &names.entity {
            message = message.text(2, entity);
        }
        let message = message
            .text(3, project)
            .message(4, &items(&run.config))
            .text(8, name)
            .message(17, &seconds);
        wandb.record(RUN, &message)?;
        MARK.write(output, json!({ "run_id": id, "file": path }))?;
        Ok(wandb)
    }

    /// The run that `output` is of, cut after the first `rows` that it has, and their
    /// number; none where there is no such run.
    fn go_on(
        output: &Path,
        names: &Names,
        run: &Run,
        rows: &[LogRow],
    ) -> io::Result<Option<(Self, usize)>> {
        let Some(mark) = MARK.read(output) else {
            return Ok(None);
        };
        let id = mark["run_id"].as_str().unwrap_or_default();
        let asked = names.id.as_deref().unwrap_or(id);
        let path = output.join(mark["file"].as_str().unwrap_or_default());
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(at(&path))?,
        };
        let Some(kept) = Kept::of(&bytes, rows).filter(|_| asked == id) else {
            return Ok(None);
        };
        // `wandb sync` leaves out what has this file.
        let sent = path.with_extension("wandb.synced");
        match fs::remove_file(&sent) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&sent)(error)),
            _ => (),
        }
        let mut file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        file.set_len(kept.length as u64)?;
        file.seek(SeekFrom::End(0))?;
        let mut wandb = Self {
            file,
            length: kept.length,
            records: kept.records,
            // The time between is not the run's.
            started: now() - kept.runtime,
            history_step: kept.rows as i64,
            summary: kept.summary,
        };
        wandb.record(CONFIG, &items(&run.config))?;
        Ok(Some((wandb, kept.rows)))
    }

    /// Writes a record that has `message` in `field`.
    fn record(&mut self, field: u32, message: &Message) -> io::Result<()> {
        self.records += 1;
        let record = Message::default().integer(1, self.records);
        let bytes = log_record(self.length, &record.message(field, message).bytes());
        self.length += bytes.len();
        self.file.write_all(&bytes)
    }
}

/// Keys with their values, as rows, summaries and configurations have them.
fn items(values: &LogRow) -> Message {
    let item = |(key, value): (&String, &Value)| {
        Message::default().text(1, key).text(16, &value.to_string())
    };
    values
        .iter()
        .map(item)
        .fold(Message::default(), |all, item| all.message(1, &item))
}

/// What a run that goes on keeps of its file.
struct Kept {
    /// Bytes.
    length: usize,
    records: i64,
    /// Rows: so many of the log.
    rows: usize,
    /// Last value of each key.
    summary: LogRow,
    /// Seconds until the last row.
    runtime: f64,
}

impl Kept {
    /// None where `bytes` are no file of a run, or of one that has no row of `rows`.
    fn of(bytes: &[u8], rows: &[LogRow]) -> Option<Self> {
        let mut kept = Self {
            length: PREAMBLE.len(),
            records: 0,
            rows: 0,
            summary: LogRow::new(),
            runtime: 0.0,
        };
        let mut begun = false;
        for (record, end) in read_log(bytes.starts_with(&PREAMBLE).then_some(bytes)?) {
            let (kind, message) = parts(&record).next()?;
            match kind {
                SUMMARY | EXIT => break,
                RUN => begun = true,
                HISTORY => {
                    let (row, runtime) = read_row(message);
                    let logged = rows.get(kept.rows);
                    if !logged.is_some_and(|logged| same_rows(&row, logged)) {
                        // Another training than that of the log.
                        if kept.rows == 0 && !rows.is_empty() {
                            return None;
                        }
                        break;
                    }
                    kept.rows += 1;
                    kept.runtime = runtime;
                    kept.summary
                        .extend(row.into_iter().filter(|(key, _)| key != "step"));
                }
                _ => (),
            }
            (kept.length, kept.records) = (end, kept.records + 1);
        }
        begun.then_some(kept)
    }
}

/// The row of a history record, and the seconds until it.
fn read_row(message: &[u8]) -> (LogRow, f64) {
    let (mut row, mut runtime) = (LogRow::new(), 0.0);
    for (_, item) in parts(message).filter(|(field, _)| *field == 1) {
        let field = |wanted| parts(item).find(|(field, _)| *field == wanted);
        let (Some((_, key)), Some((_, value))) = (field(1), field(16)) else {
            continue;
        };
        let key = String::from_utf8_lossy(key);
        let value = serde_json::from_slice(value).unwrap_or(Value::Null);
        match &*key {
            "_runtime" => runtime = value.as_f64().unwrap_or(0.0),
            STEP => {
                row.insert("step".to_owned(), value);
            }
            key if !OWN.contains(&key) => {
                row.insert(key.to_owned(), value);
            }
            _ => (),
        }
    }
    (row, runtime)
}

fn same_rows(a: &LogRow, b: &LogRow) -> bool {
    let same = |(key, value): (&String, &Value)| {
        b.get(key)
            .is_some_and(|other| match (value.as_f64(), other.as_f64()) {
                (Some(value), Some(other)) => same(value, other),
                _ => value == other,
            })
    };
    a.len() == b.len() && a.iter().all(same)
}

/// The whole records of a log, each with the length of the file up to its end; ends
/// at one that is cut off or damaged.
fn read_log(bytes: &[u8]) -> Vec<(Vec<u8>, usize)> {
    let (mut records, mut open, mut at) = (Vec::new(), Vec::new(), PREAMBLE.len());
    loop {
        let room = BLOCK - at % BLOCK;
        if room < HEADER {
            at += room;
            continue;
        }
        let Some(header) = bytes.get(at..at + HEADER) else {
            return records;
        };
        let sum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let end = at + HEADER + length;
        let Some(checked) = bytes.get(at + HEADER - 1..end) else {
            return records;
        };
        if sum != crc32(checked) {
            return records;
        }
        open.extend(&checked[1..]);
        if matches!(checked[0], 1 | 4) {
            records.push((std::mem::take(&mut open), end));
        }
        at = end;
    }
}

/// A record of a LevelDB log that has `length` bytes so far.
fn log_record(length: usize, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + HEADER);
    let mut rest = data;
    let mut first = true;
    loop {
        let room = BLOCK - (length + out.len()) % BLOCK;
        if room < HEADER {
            out.resize(out.len() + room, 0);
            continue;
        }
        let (part, after) = rest.split_at(rest.len().min(room - HEADER));
        let kind = match (first, after.is_empty()) {
            (true, true) => 1_u8,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let checked = [&[kind], part].concat();
        out.extend(crc32(&checked).to_le_bytes());
        out.extend((part.len() as u16).to_le_bytes());
        out.extend(checked);
        (rest, first) = (after, false);
        if rest.is_empty() {
            return out;
        }
    }
}

impl Log for Wandb {
    fn row(&mut self, step: i64, row: &LogRow) -> io::Result<()> {
        let mut values = row.clone();
        values.remove("step");
        self.summary.extend(values.clone());
        let time = now();
        let runtime = time - self.started;
        values.insert(STEP.to_owned(), step.into());
        let own = [json!(self.history_step), json!(time), json!(runtime)];
        values.extend(OWN.map(str::to_owned).into_iter().zip(own));
        let number = Message::default().integer(1, self.history_step);
        self.history_step += 1;
        let history = items(&values).message(2, &number);
        self.record(HISTORY, &history)
    }

    fn ended(&mut self, ending: Ending) -> io::Result<()> {
        self.record(SUMMARY, &items(&self.summary))?;
        let code = i64::from(ending != Ending::Finished);
        let exit = Message::default()
            .integer(1, code)
            .integer(2, (now() - self.started) as i64);
        self.record(EXIT, &exit)?;
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(step: i64, loss: f64) -> LogRow {
        LogRow::from_iter([
            ("loss".to_owned(), json!(loss)),
            ("step".to_owned(), json!(step)),
        ])
    }

    /// A training of `output` that has `rows` in its log and logs those of `more`.
    fn train(output: &Path, steps_done: usize, rows: &[LogRow], more: &[LogRow]) {
        let lines: String = rows
            .iter()
            .map(|row| format!("{}\n", Value::Object(row.clone())))
            .collect();
        fs::write(output.join("metrics.jsonl"), lines).unwrap();
        let run = Run {
            name: "out".to_owned(),
            config: LogRow::from_iter([("seed".to_owned(), json!(1))]),
        };
        let mut log = Wandb::create(output, &Names::default(), &run, steps_done).unwrap();
        for row in more {
            log.row(step_of(row), row).unwrap();
        }
        log.ended(Ending::Finished).unwrap();
    }

    /// The file that the mark names.
    fn file(output: &Path) -> std::path::PathBuf {
        let mark = MARK.read(&fs::canonicalize(output).unwrap()).unwrap();
        output.join(mark["file"].as_str().unwrap())
    }

    /// Kinds and rows of a file.
    fn read(path: &Path) -> (Vec<u32>, Vec<LogRow>) {
        let (mut kinds, mut rows) = (Vec::new(), Vec::new());
        let bytes = fs::read(path).unwrap();
        for (record, _) in read_log(&bytes) {
            let (kind, message) = parts(&record).next().unwrap();
            kinds.push(kind);
            if kind == HISTORY {
                rows.push(read_row(message).0);
            }
        }
        (kinds, rows)
    }

    #[test]
    fn a_run_goes_on_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path();
        let rows: Vec<LogRow> = (1..=4).map(|step| row(step, 1.0 / step as f64)).collect();
        train(output, 0, &[], &rows[..3]);
        let path = file(output);
        let sent = path.with_extension("wandb.synced");
        fs::write(&sent, "").unwrap();
        // Row 3 came after the checkpoint.
        train(output, 2, &rows[..2], &rows[2..]);
        let whole = (
            vec![
                VERSION, RUN, HISTORY, HISTORY, CONFIG, HISTORY, HISTORY, SUMMARY, EXIT,
            ],
            rows.clone(),
        );
        assert_eq!((file(output), read(&path)), (path.clone(), whole));
        assert!(!sent.exists());

        // Killed while it wrote; the log has a row of a time without the tracker.
        let bytes = fs::read(&path).unwrap();
        let (_, second_row) = read_log(&bytes)[3];
        for cut in 1..12 {
            fs::write(&path, &bytes[..second_row - cut]).unwrap();
            train(output, 3, &rows[..3], &rows[3..]);
            let kinds = vec![
                VERSION, RUN, HISTORY, CONFIG, HISTORY, HISTORY, HISTORY, SUMMARY, EXIT,
            ];
            assert_eq!(read(&path), (kinds, rows.clone()), "{cut}");
        }
    }

    #[test]
    fn another_training_is_another_run() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path();
        train(output, 0, &[], &[row(1, 1.0)]);
        let first = file(output);
        let before = fs::read(&first).unwrap();
        // Begun without the tracker.
        train(output, 1, &[row(1, 2.0)], &[row(2, 0.5)]);
        assert_eq!(fs::read(&first).unwrap(), before);
        assert_eq!(read(&file(output)).1, [row(1, 2.0), row(2, 0.5)]);
        // Thrown away.
        fs::remove_dir_all(output.join("wandb")).unwrap();
        train(output, 1, &[row(1, 2.0)], &[row(2, 0.5)]);
        assert_eq!(read(&file(output)).1, [row(1, 2.0), row(2, 0.5)]);
    }

    proptest! {
        #[test]
        fn records_cross_blocks(lengths in prop::collection::vec(0..70_000_usize, 1..8)) {
            let mut bytes = PREAMBLE.to_vec();
            let records: Vec<Vec<u8>> = lengths
                .iter()
                .enumerate()
                .map(|(seed, length)| (0..*length).map(|at| (at * 31 + seed) as u8).collect())
                .collect();
            for record in &records {
                let more = log_record(bytes.len(), record);
                bytes.extend(more);
            }
            let read: Vec<_> = read_log(&bytes).into_iter().map(|(record, _)| record).collect();
            prop_assert_eq!(read, records);
        }
    }
}
