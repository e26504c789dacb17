//! Prepared data sets on disk, found again by their content.
//!
//! ```text
//! dataset_prepared_path/
//!   3f1c...e2/            named by the Fingerprint of everything it depends on
//!     samples.tokens      samples, in the order of the files (see `tokens`)
//!     train.order         which of them are trained on, in which order
//!     eval.order          which of them are evaluated on
//!     data_ledger.json    the account of the preparation
//!     manifest.json       the fingerprint, and size and hash of the other files
//! ```
//!
//! Samples go to the file as they are made and are read from it one at a time,
//! so that memory does not depend on their number, but for some bytes each.
//! They are read by place, not mapped into memory: a file that another process
//! cuts short is then an error and not a crash.
//!
//! Invariants: an entry is written under another name, made durable, and then
//! renamed, so that a run that is killed leaves none; the manifest is written
//! last. Whatever is read is checked against the manifest, and an entry that
//! does not fit is prepared anew. A lock makes a second process wait and then
//! load what the first made; where the file system has no locks, both prepare
//! the same bytes and one of them is kept.

pub(crate) mod atomic;
mod entry;
mod explain;
mod key;
mod samples;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use trainer_config::Config;

use crate::{DataError, Tokenizer, prepare};
use atomic::io;
use entry::NotWritten;
pub use explain::{Explanation, explain_cache};
pub use key::{Difference, Fingerprint};
pub use samples::{PreparedData, Samples};
pub use tokens::TokenFile;

/// Where the samples of a run came from.
#[derive(Debug)]
#[non_exhaustive]
pub enum CacheOutcome {
    /// `dataset_prepared_path` is empty: nothing is read or kept.
    Off,
    /// A prepared data set was there.
    Loaded {
        /// Its folder.
        entry: PathBuf,
    },
    /// The data was prepared and kept.
    Stored {
        /// Its folder.
        entry: PathBuf,
        /// What was wrong with the one that was there.
        damaged: Option<String>,
    },
    /// The data was prepared, but cannot be kept.
    NotStored {
        /// Why.
        error: DataError,
    },
}

/// As [`prepare`], but uses the samples that were prepared before, and keeps them
/// where there are none. Kept samples stay in their file.
///
/// # Errors
/// As [`prepare`]. That the samples cannot be kept is no error, but in the
/// outcome; they are then in memory.
pub fn prepare_cached(
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<(PreparedData, CacheOutcome), DataError> {
    let in_memory = |outcome| Ok((prepare(config, tokenizer)?.into(), outcome));
    let Some(root) = folder(config) else {
        return in_memory(CacheOutcome::Off);
    };
    let fingerprint = Fingerprint::new(config, tokenizer)?;
    let entry = root.join(fingerprint.key());
    let load = || entry::load(&entry, &fingerprint, config);
    if let Ok(Some(prepared)) = load() {
        return Ok((prepared, CacheOutcome::Loaded { entry }));
    }
    if let Err(error) = fs::create_dir_all(root).map_err(io("create", root)) {
        return in_memory(CacheOutcome::NotStored { error });
    }
    let _lock = entry::lock(&entry);
    // Another process may have been at it in the meantime.
    let damaged = match load() {
        Ok(Some(prepared)) => return Ok((prepared, CacheOutcome::Loaded { entry })),
        Ok(None) => None,
        Err(reason) => Some(reason),
    };
    match entry::write(&entry, &fingerprint, config, tokenizer) {
        Ok(()) => {}
        Err(NotWritten::Data(error)) => return Err(error),
        Err(NotWritten::Disk(error)) => return in_memory(CacheOutcome::NotStored { error }),
    }
    match load() {
        Ok(Some(prepared)) => Ok((prepared, CacheOutcome::Stored { entry, damaged })),
        // A disk that does not give back what it was given.
        Ok(None) => in_memory(not_stored(&entry, "it is gone")),
        Err(reason) => in_memory(not_stored(&entry, &reason)),
    }
}

fn not_stored(entry: &Path, reason: &str) -> CacheOutcome {
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
    CacheOutcome::NotStored {
        error: io("read back", entry)(error),
    }
}

/// The folder of prepared data sets; an empty name turns them off.
fn folder(config: &Config) -> Option<&Path> {
    let path = config.dataset_prepared_path.as_deref();
    path.filter(|path| !path.as_os_str().is_empty())
}
