//! An offline run of Weights & Biases, for `wandb sync`: a folder
//! `offline-run-DATE-ID` with a file `run-ID.wandb`.
//!
//! The file is a log of LevelDB: after seven bytes of its own, blocks of 32 KiB
//! with records of checksum (CRC-32 of zlib over kind and data), length, kind and
//! data; a record that does not fit is cut into a first, middle and last part. The
//! data are `wandb_internal.Record` messages, numbered from 1.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use trainer_core::LogRow;

use super::wire::{Message, crc32};
use super::{Ending, Log, Run, calendar, drawn_id, now};

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
/// `:W&B`, a magic number and the version of the format.
const PREAMBLE: [u8; 7] = [b':', b'W', b'&', b'B', 0xE1, 0xBE, 0];

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
    /// Begins a run.
    pub(super) fn create(output: &Path, names: &Names, run: &Run) -> io::Result<Self> {
        let started = now();
        let id = names.id.clone().unwrap_or_else(|| drawn_id(8));
        let [year, month, day, hour, minute, second] = calendar(started as u64);
        let folder = output.join("wandb").join(format!(
            "offline-run-{year:04}{month:02}{day:02}_{hour:02}{minute:02}{second:02}-{id}"
        ));
        fs::create_dir_all(folder.join("files"))?;
        let mut file = File::create(folder.join(format!("run-{id}.wandb")))?;
        file.write_all(&PREAMBLE)?;
        let mut wandb = Self {
            file,
            length: PREAMBLE.len(),
            records: 0,
            started,
            history_step: 0,
            summary: LogRow::new(),
        };
        // Header: the version that wrote the file and the oldest that can read it.
        let version = Message::default().text(1, "0.17.0").text(2, "0.12.0");
        wandb.record(21, &Message::default().message(1, &version))?;
        let mut config = Message::default();
        for (key, value) in &run.config {
            let item = Message::default().text(1, key).text(16, &value.to_string());
            config = config.message(1, &item);
        }
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
            .message(4, &config)
            .text(8, name)
            .message(17, &seconds);
        wandb.record(17, &message)?;
        Ok(wandb)
    }

    /// Writes a record that has `message` in `field`.
    fn record(&mut self, field: u32, message: &Message) -> io::Result<()> {
        self.records += 1;
        let record = Message::default().integer(1, self.records);
        let bytes = log_record(self.length, &record.message(field, message).bytes());
        self.length += bytes.len();
        self.file.write_all(&bytes)
    }

    fn write_summary(&mut self) -> io::Result<()> {
        let mut summary = Message::default();
        for (key, value) in &self.summary {
            let item = Message::default().text(1, key).text(16, &value.to_string());
            summary = summary.message(1, &item);
        }
        self.record(3, &summary)
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
        let mut history = Message::default();
        let mut item = |key: &str, value: &Value| {
            let item = Message::default().text(1, key).text(16, &value.to_string());
            history = std::mem::take(&mut history).message(1, &item);
        };
        for (key, value) in row.iter().filter(|(key, _)| *key != "step") {
            item(key, value);
            self.summary.insert(key.clone(), value.clone());
        }
        let time = now();
        item("train/global_step", &json!(step));
        item("_step", &json!(self.history_step));
        item("_timestamp", &json!(time));
        item("_runtime", &json!(time - self.started));
        let number = Message::default().integer(1, self.history_step);
        self.history_step += 1;
        let history = history.message(2, &number);
        self.record(2, &history)
    }

    fn ended(&mut self, ending: Ending) -> io::Result<()> {
        self.write_summary()?;
        let code = i64::from(ending != Ending::Finished);
        let exit = Message::default()
            .integer(1, code)
            .integer(2, (now() - self.started) as i64);
        self.record(18, &exit)?;
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a log as LevelDB does.
    fn read(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut records, mut open, mut at) = (Vec::new(), Vec::new(), PREAMBLE.len());
        while at < bytes.len() {
            let room = BLOCK - at % BLOCK;
            if room < HEADER {
                at += room;
                continue;
            }
            let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            let checked = &bytes[at + 6..at + HEADER + length];
            let sum = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            assert_eq!(sum, crc32(checked));
            open.extend(&checked[1..]);
            if matches!(checked[0], 1 | 4) {
                records.push(std::mem::take(&mut open));
            }
            at += HEADER + length;
        }
        records
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
            prop_assert_eq!(read(&bytes), records);
        }
    }
}
