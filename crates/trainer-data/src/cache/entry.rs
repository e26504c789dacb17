//! One prepared data set on disk: written, checked, opened.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seqprep::{Preferences, Sample};
use serde::{Deserialize, Serialize};
use trainer_config::Config;

use super::atomic::{self, io};
use super::key::{self, Fingerprint, Hashed};
use super::record::Record;
use super::samples::{PreparedData, Samples};
use super::tokens::{TokenFile, TokenWriter, read_varint, varint};
use crate::ledger::LEDGER_FILE;
use crate::pipeline::{self, Kind};
use crate::prepare::Plan;
use crate::prepare::in_pool;
use crate::{DataError, Ledger, PreparedPreferences, Tokenizer};

const MANIFEST: &str = "manifest.json";
const SAMPLES: &str = "samples.tokens";
const TRAIN: &str = "train.order";
const EVAL: &str = "eval.order";

/// The contents of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    key: String,
    pub(super) inputs: Fingerprint,
    files: Vec<FileRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileRecord {
    name: String,
    /// Hash and size, as `hash_file` gives them.
    content: String,
}

pub(super) fn read_manifest(entry: &Path) -> Result<Manifest, String> {
    let text = fs::read(entry.join(MANIFEST)).map_err(|error| format!("{MANIFEST}: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))
}

/// Whether an entry is there; an error says what is wrong with it.
pub(super) fn check(entry: &Path, fingerprint: &Fingerprint) -> Result<bool, String> {
    if !entry.exists() {
        return Ok(false);
    }
    let manifest = read_manifest(entry)?;
    if manifest.key != fingerprint.key() || !fingerprint.differences(&manifest.inputs).is_empty() {
        return Err(format!("{MANIFEST}: it belongs to other data"));
    }
    for name in [SAMPLES, TRAIN, EVAL, LEDGER_FILE] {
        let record = manifest.files.iter().find(|record| record.name == name);
        let Some(record) = record else {
            return Err(format!("{MANIFEST}: {name} is missing"));
        };
        let found = key::hash_file(&entry.join(name)).map_err(|error| error.to_string())?;
        if found != record.content {
            return Err(format!("{name} is {found}, not {}", record.content));
        }
    }
    Ok(true)
}

/// An entry that is there.
pub(super) struct Stored<K> {
    path: PathBuf,
    file: TokenFile<K>,
    /// Places in the file, in the order of use.
    pub(super) train: Vec<u32>,
    pub(super) eval: Vec<u32>,
    pub(super) ledger: Ledger,
}

impl<K: Record> Stored<K> {
    /// Samples in memory.
    pub(super) fn preferences(
        self,
        wrap: fn(Vec<K>) -> Preferences,
    ) -> Result<PreparedPreferences, DataError> {
        Ok(PreparedPreferences {
            train: wrap(self.read(&self.train)?),
            eval: wrap(self.read(&self.eval)?),
            ledger: self.ledger,
        })
    }

    /// Samples by their places in the file.
    fn read(&self, order: &[u32]) -> Result<Vec<K>, DataError> {
        order
            .iter()
            .map(|place| self.file.get(*place as usize))
            .collect::<std::io::Result<_>>()
            .map_err(|error| io("read", &self.path)(error))
    }
}

impl Stored<Sample> {
    /// Samples that stay in the file.
    pub(super) fn samples(self) -> PreparedData {
        let file = Arc::new(self.file);
        PreparedData {
            train: Samples::in_file(self.path.clone(), Arc::clone(&file), self.train),
            eval: Samples::in_file(self.path, file, self.eval),
            ledger: self.ledger,
        }
    }
}

/// An entry, `None` if there is none, or what is wrong with it.
pub(super) fn load<K: Record>(
    entry: &Path,
    fingerprint: &Fingerprint,
    config: &Config,
) -> Result<Option<Stored<K>>, String> {
    match check(entry, fingerprint)? {
        true => open(entry, config).map(Some),
        false => Ok(None),
    }
}

/// The entry whose inputs are these, in which data files count by their size, with files
/// of the right size: nothing is read as a whole.
pub(super) fn find_by_size<K: Record>(
    root: &Path,
    by_size: &Fingerprint,
    config: &Config,
) -> Option<Stored<K>> {
    let entries = fs::read_dir(root).ok()?.flatten();
    let mut found = entries.map(|entry| entry.path()).filter(|entry| {
        read_manifest(entry).is_ok_and(|manifest| {
            let size = |record: &FileRecord| {
                let data = fs::metadata(entry.join(&record.name)).ok();
                data.is_some_and(|data| {
                    record.content.ends_with(&format!("({} bytes)", data.len()))
                })
            };
            manifest.inputs.is_of_size(by_size) && manifest.files.iter().all(size)
        })
    });
    found.find_map(|entry| open(&entry, config).ok())
}

/// What an entry holds, once it is known to be whole.
fn open<K: Record>(entry: &Path, config: &Config) -> Result<Stored<K>, String> {
    let read = |name: &str| fs::read(entry.join(name)).map_err(|e| format!("{name}: {e}"));
    let mut ledger: Ledger = serde_json::from_slice(&read(LEDGER_FILE)?)
        .map_err(|error| format!("{LEDGER_FILE}: {error}"))?;
    // The files may have been elsewhere then.
    let tests = config.test_datasets.iter().flatten();
    let paths = config.datasets.iter().chain(tests).map(|set| &set.path);
    if ledger.datasets.len() == paths.clone().count() {
        for (account, path) in ledger.datasets.iter_mut().zip(paths) {
            account.path.clone_from(path);
        }
    }
    let path = entry.join(SAMPLES);
    let file = TokenFile::open(&path).map_err(|error| format!("{SAMPLES}: {error}"))?;
    let places = |name: &str| -> Result<Vec<u32>, String> {
        let order = order_from(&read(name)?).filter(|order| {
            let outside = |place: &u32| *place as usize >= file.len();
            !order.iter().any(outside)
        });
        order.ok_or_else(|| format!("{name}: it is damaged"))
    };
    Ok(Stored {
        train: places(TRAIN)?,
        eval: places(EVAL)?,
        path,
        file,
        ledger,
    })
}

/// Why an entry was not written.
pub(super) enum NotWritten {
    /// The data is at fault.
    Data(DataError),
    /// The disk is.
    Disk(DataError),
}

/// Prepares the data into a folder beside the entry's place and moves it there.
pub(super) fn write<K: Kind + Record>(
    entry: &Path,
    fingerprint: &Fingerprint,
    config: &Config,
    tokenizer: &Tokenizer,
    purpose: K::Purpose,
) -> Result<(), NotWritten> {
    let temporary = atomic::temporary(entry);
    let result = fill::<K>(&temporary, fingerprint, config, tokenizer, purpose)
        .and_then(|()| replace(&temporary, entry, fingerprint).map_err(NotWritten::Disk));
    if result.is_err() {
        // That it cannot be removed is no news: the next writer tries again.
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

fn fill<K: Kind + Record>(
    folder: &Path,
    fingerprint: &Fingerprint,
    config: &Config,
    tokenizer: &Tokenizer,
    purpose: K::Purpose,
) -> Result<(), NotWritten> {
    fs::create_dir(folder)
        .map_err(io("create", folder))
        .map_err(NotWritten::Disk)?;
    let path = folder.join(SAMPLES);
    let on_disk = |error| NotWritten::Disk(io("write", &path)(error));
    let file = File::create(&path).map_err(on_disk)?;
    let out = BufWriter::with_capacity(1 << 20, Hashed::new(file));
    let mut writer = TokenWriter::new(out).map_err(on_disk)?;
    let mut failed = false;
    let mut sink = |sample: K| {
        writer.push(&sample).map_err(|error| {
            failed = true;
            io("write", &path)(error)
        })
    };
    let plan = in_pool(config, || {
        pipeline::run(config, tokenizer, purpose, &mut sink)
    });
    let plan = plan.and_then(|plan| plan);
    let plan = plan.map_err(|error| match failed {
        true => NotWritten::Disk(error),
        false => NotWritten::Data(error),
    })?;
    let out = writer.finish().map_err(on_disk)?;
    out.get_ref().get_ref().sync_all().map_err(on_disk)?;
    let content = out.get_ref().content();
    finish(folder, fingerprint, &plan, content).map_err(NotWritten::Disk)
}

/// Writes what belongs to the samples, whose hash is given; the manifest last.
fn finish(
    folder: &Path,
    fingerprint: &Fingerprint,
    plan: &Plan,
    samples: String,
) -> Result<(), DataError> {
    for (name, order) in [(TRAIN, &plan.train), (EVAL, &plan.eval)] {
        let bytes = order_bytes(order);
        atomic::write_atomically(&folder.join(name), |file| file.write_all(&bytes))?;
    }
    plan.ledger.save(folder)?;
    let samples = FileRecord {
        name: SAMPLES.to_owned(),
        content: samples,
    };
    let others = [TRAIN, EVAL, LEDGER_FILE].map(|name| {
        Ok(FileRecord {
            name: name.to_owned(),
            content: key::hash_file(&folder.join(name))?,
        })
    });
    let files = std::iter::once(Ok(samples)).chain(others);
    let manifest = Manifest {
        key: fingerprint.key(),
        inputs: fingerprint.clone(),
        files: files.collect::<Result<_, DataError>>()?,
    };
    atomic::write_atomically(&folder.join(MANIFEST), |file| {
        serde_json::to_writer_pretty(file, &manifest).map_err(Into::into)
    })
}

/// Gives a complete entry its name. What is there is another process's work on
/// the same data, which is as good, or damaged.
fn replace(temporary: &Path, entry: &Path, fingerprint: &Fingerprint) -> Result<(), DataError> {
    if fs::rename(temporary, entry).is_ok() {
        atomic::sync_folder(entry);
        return Ok(());
    }
    if check(entry, fingerprint) == Ok(true) {
        return fs::remove_dir_all(temporary).map_err(io("remove", temporary));
    }
    let remove = match entry.is_dir() {
        true => fs::remove_dir_all(entry),
        false => fs::remove_file(entry),
    };
    match remove {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("remove", entry)(error));
        }
        _ => {}
    }
    fs::rename(temporary, entry).map_err(io("write", entry))?;
    atomic::sync_folder(entry);
    Ok(())
}

/// Makes other processes wait that prepare the same entry, where the file system
/// can do that. The file stays: were it removed, two processes could each hold a
/// lock on a file of this name.
pub(super) fn lock(entry: &Path) -> Option<File> {
    let name = entry.file_name().unwrap_or_default().to_string_lossy();
    let file = File::create(entry.with_file_name(format!(".{name}.lock"))).ok()?;
    file.lock().ok()?;
    // What killed processes left: nobody else is writing this entry now.
    let prefix = format!(".{name}.");
    let root: Option<PathBuf> = entry.parent().map(Path::to_owned);
    for other in root
        .map(fs::read_dir)
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
    {
        let other_name = other.file_name().to_string_lossy().into_owned();
        if other_name.starts_with(&prefix) && other_name.ends_with(".tmp") {
            let _ = fs::remove_dir_all(other.path());
        }
    }
    Some(file)
}

/// Places as differences, so that an order that is that of the files takes one
/// byte a sample.
fn order_bytes(order: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(order.len() * 2);
    let mut last = 0;
    for &place in order {
        let step = i64::from(place) - last;
        last = i64::from(place);
        varint(&mut out, ((step << 1) ^ (step >> 63)) as u64);
    }
    out
}

fn order_from(mut bytes: &[u8]) -> Option<Vec<u32>> {
    let mut order = Vec::new();
    let mut last = 0i64;
    while !bytes.is_empty() {
        let word = read_varint(&mut bytes).ok()?;
        last = last.checked_add((word >> 1) as i64 ^ -((word & 1) as i64))?;
        order.push(u32::try_from(last).ok()?);
    }
    Some(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_order_takes_a_byte_a_sample() {
        let order: Vec<u32> = (0..1000).collect();
        assert_eq!(order_bytes(&order).len(), 1000);
    }

    proptest! {
        #[test]
        fn orders_survive(order in prop::collection::vec(any::<u32>(), 0..50)) {
            prop_assert_eq!(order_from(&order_bytes(&order)), Some(order));
        }

        #[test]
        fn any_bytes_are_an_order_or_none(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = order_from(&bytes);
        }
    }
}
