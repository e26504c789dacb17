//! Prepared data sets on disk, found again by their content.
//!
//! ```text
//! dataset_prepared_path/
//!   3f1c...e2/            named by the Fingerprint of everything it depends on
//!     samples.tokens      samples of one kind, in the order of the files (see `tokens`)
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
mod record;
mod samples;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use seqprep::{KtoSample, PreferencePair, Preferences, Sample, StepSample};
use trainer_config::Config;

use crate::pipeline::{Kind, Purpose};
use crate::preference::of_kind;
use crate::prepare::Build;
use crate::{DataError, PreferenceObjective, PreparedPreferences, Tokenizer};
use atomic::io;
use entry::{NotWritten, Stored};
pub use explain::{Explanation, explain_cache};
pub(crate) use key::content_of;
pub use key::{Difference, Fingerprint};
use record::Record;
pub use samples::{PreparedData, Samples};

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

/// As [`prepare`](crate::prepare()), but uses the samples that were prepared
/// before, and keeps them where there are none. Kept samples stay in their file.
///
/// # Errors
/// As [`prepare`](crate::prepare()). That the samples cannot be kept is no error,
/// but in the outcome; they are then in memory.
pub fn prepare_cached(
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<(PreparedData, CacheOutcome), DataError> {
    let (stored, outcome) = cached::<Sample>(config, tokenizer, Build::KNOWN)?;
    let prepared = match stored {
        None => crate::prepare(config, tokenizer)?.into(),
        Some(stored) => stored.samples(),
    };
    Ok((prepared, outcome))
}

/// How prepared samples are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// By the content of the data files, all of which is read; the samples are whole.
    Content,
    /// By the size of the data files, so that any amount of data takes no time: good for
    /// an estimate, not to train on.
    Size,
}

/// The samples that were prepared before for this configuration; nothing is prepared
/// or written. `None` where there are none.
///
/// # Errors
/// [`DataError::Io`] where a file of the data cannot be read.
pub fn find_prepared(
    config: &Config,
    tokenizer: &Tokenizer,
    search: Search,
) -> Result<Option<PreparedData>, DataError> {
    let stored = find::<Sample>(config, tokenizer, Build::KNOWN, search)?;
    Ok(stored.map(Stored::samples))
}

/// As [`find_prepared`], of the samples that an objective learns from.
///
/// # Errors
/// [`DataError::Io`] where a file of the data cannot be read.
pub fn find_prepared_preferences(
    config: &Config,
    tokenizer: &Tokenizer,
    objective: PreferenceObjective,
    search: Search,
) -> Result<Option<PreparedPreferences>, DataError> {
    let found = match objective {
        PreferenceObjective::Kto => {
            let stored = find::<KtoSample>(config, tokenizer, objective, search)?;
            stored.map(|stored| stored.preferences(Preferences::Kto))
        }
        PreferenceObjective::ProcessRewardModel => {
            let stored = find::<StepSample>(config, tokenizer, objective, search)?;
            stored.map(|stored| stored.preferences(Preferences::Steps))
        }
        PreferenceObjective::Pairwise
        | PreferenceObjective::Orpo
        | PreferenceObjective::Cpo
        | PreferenceObjective::RewardModel => {
            let stored = find::<PreferencePair>(config, tokenizer, objective, search)?;
            stored.map(|stored| stored.preferences(Preferences::Pairs))
        }
    };
    found.transpose()
}

/// The entry of a configuration, if there is one.
fn find<K: Kind + Record>(
    config: &Config,
    tokenizer: &Tokenizer,
    purpose: K::Purpose,
    search: Search,
) -> Result<Option<Stored<K>>, DataError> {
    let Some(root) = folder(config) else {
        return Ok(None);
    };
    if search == Search::Size {
        let mut by_size = Fingerprint::by_size(config, tokenizer)?;
        by_size.for_purpose(purpose);
        return Ok(entry::find_by_size(root, &by_size, config));
    }
    let fingerprint = fingerprint(config, tokenizer, purpose)?;
    let entry = root.join(fingerprint.key());
    // A damaged one is none: the run prepares the data anew.
    Ok(entry::load(&entry, &fingerprint, config).unwrap_or(None))
}

/// What the samples of a purpose are made of.
fn fingerprint(
    config: &Config,
    tokenizer: &Tokenizer,
    purpose: impl Purpose,
) -> Result<Fingerprint, DataError> {
    let mut fingerprint = Fingerprint::new(config, tokenizer)?;
    fingerprint.for_purpose(purpose);
    Ok(fingerprint)
}

/// As [`prepare_preferences`](crate::prepare_preferences), but uses the samples
/// that were prepared before for the same objective, and keeps them where there
/// are none. The samples are in memory.
///
/// # Errors
/// As [`prepare_preferences`](crate::prepare_preferences). That the samples cannot
/// be kept is no error, but in the outcome.
pub fn prepare_preferences_cached(
    config: &Config,
    tokenizer: &Tokenizer,
    objective: PreferenceObjective,
) -> Result<(PreparedPreferences, CacheOutcome), DataError> {
    of_kind!(preferences(config, tokenizer, objective))
}

fn preferences<K: Kind<Purpose = PreferenceObjective> + Record>(
    config: &Config,
    tokenizer: &Tokenizer,
    objective: PreferenceObjective,
    wrap: fn(Vec<K>) -> Preferences,
) -> Result<(PreparedPreferences, CacheOutcome), DataError> {
    let (stored, outcome) = cached::<K>(config, tokenizer, objective)?;
    let prepared = match stored {
        None => crate::prepare_preferences(config, tokenizer, objective)?,
        Some(stored) => stored.preferences(wrap)?,
    };
    Ok((prepared, outcome))
}

/// The entry of a run, prepared if there is none; nothing where it cannot be kept.
fn cached<K: Kind + Record>(
    config: &Config,
    tokenizer: &Tokenizer,
    purpose: K::Purpose,
) -> Result<(Option<Stored<K>>, CacheOutcome), DataError> {
    let Some(root) = folder(config) else {
        return Ok((None, CacheOutcome::Off));
    };
    let fingerprint = fingerprint(config, tokenizer, purpose)?;
    let entry = root.join(fingerprint.key());
    let load = || entry::load(&entry, &fingerprint, config);
    if let Ok(Some(stored)) = load() {
        return Ok((Some(stored), CacheOutcome::Loaded { entry }));
    }
    if let Err(error) = fs::create_dir_all(root).map_err(io("create", root)) {
        return Ok((None, CacheOutcome::NotStored { error }));
    }
    let _lock = entry::lock(&entry);
    // Another process may have been at it in the meantime.
    let damaged = match load() {
        Ok(Some(stored)) => return Ok((Some(stored), CacheOutcome::Loaded { entry })),
        Ok(None) => None,
        Err(reason) => Some(reason),
    };
    match entry::write::<K>(&entry, &fingerprint, config, tokenizer, purpose) {
        Ok(()) => {}
        Err(NotWritten::Data(error)) => return Err(error),
        Err(NotWritten::Disk(error)) => return Ok((None, CacheOutcome::NotStored { error })),
    }
    Ok(match load() {
        Ok(Some(stored)) => (Some(stored), CacheOutcome::Stored { entry, damaged }),
        // A disk that does not give back what it was given.
        Ok(None) => (None, not_stored(&entry, "it is gone")),
        Err(reason) => (None, not_stored(&entry, &reason)),
    })
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
