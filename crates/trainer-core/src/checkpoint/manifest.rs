//! What a checkpoint consists of: every file with its size and hash; of which run it is,
//! and when it was written.
//!
//! Invariant: the manifest is written after every other file, into a folder that
//! gets its name only once it is complete. A folder whose manifest is missing or
//! does not hold is not a checkpoint.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use trainer_model::{Digest, WrittenFile};

use crate::error::{Result, TrainerError};

/// Name of the manifest.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Version of the layout; another one cannot be read.
const FORMAT: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    #[serde(flatten)]
    origin: Origin,
    files: Vec<Entry>,
}

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The run: several may have written to one output folder.
    pub(crate) run: String,
    /// Optimizer steps taken.
    pub(crate) step: usize,
    /// Milliseconds since 1970. Of two checkpoints the newer one has the larger number,
    /// though it may be one of fewer steps: of a run that was begun anew, or went back.
    pub(crate) written: u64,
}

/// What a manifest of any version begins with.
#[derive(Deserialize)]
struct Layout {
    format: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    xxh3: String,
}

impl Origin {
    /// Of a checkpoint that is written now, after the one of `latest`.
    pub(crate) fn new(run: &str, step: usize, latest: u64) -> Self {
        Self {
            run: run.to_owned(),
            step,
            // A clock may be put back.
            written: (since_1970().as_millis() as u64).max(latest + 1),
        }
    }
}

/// A name that no other run has.
pub(crate) fn new_run() -> String {
    format!("{:x}-{:x}", since_1970().as_nanos(), std::process::id())
}

fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Writes the manifest of a folder's files. Those in `written` are not read again.
///
/// # Errors
/// What the file system reports.
pub(crate) fn write(folder: &Path, origin: &Origin, written: &[WrittenFile]) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(TrainerError::io(folder))? {
        let path = entry.map_err(TrainerError::io(folder))?.path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let digest = match written.iter().find(|file| file.name == name) {
            Some(file) => file.digest,
            None => Digest::of(&path).map_err(TrainerError::io(&path))?,
        };
        files.push(Entry {
            bytes: digest.bytes(),
            xxh3: digest.to_string(),
            name: name.into_owned(),
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let manifest = Manifest {
        format: FORMAT,
        origin: origin.clone(),
        files,
    };
    super::write_json(&folder.join(MANIFEST), &manifest)
}

/// Where a checkpoint comes from; if it cannot be known, why.
pub(crate) fn origin(folder: &Path) -> Result<Origin, String> {
    Ok(read(folder)?.origin)
}

fn read(folder: &Path) -> Result<Manifest, String> {
    let text = fs::read_to_string(folder.join(MANIFEST))
        .map_err(|error| format!("it is incomplete: {MANIFEST}: {error}"))?;
    let damaged = |error: serde_json::Error| format!("{MANIFEST} is damaged: {error}");
    // First, since entries of another layout have other fields.
    let Layout { format } = serde_json::from_str(&text).map_err(damaged)?;
    if format != FORMAT {
        return Err(format!(
            "it has layout {format}, this version reads {FORMAT}"
        ));
    }
    serde_json::from_str(&text).map_err(damaged)
}

/// What is wrong with a checkpoint, if anything is.
pub(crate) fn check(folder: &Path) -> Result<(), String> {
    for entry in listed(folder)?.files {
        let found = Digest::of(&folder.join(&entry.name))
            .map_err(|error| format!("{}: {error}", entry.name))?;
        if found.to_string() != entry.xxh3 {
            return Err(format!("{} is damaged: its hash differs", entry.name));
        }
    }
    Ok(())
}

/// Where a checkpoint comes from, if every file of it is there with its size. Reads none
/// of them but the manifest.
pub(crate) fn complete(folder: &Path) -> Result<Origin, String> {
    Ok(listed(folder)?.origin)
}

/// The manifest of a checkpoint, each of whose files is there with its size.
fn listed(folder: &Path) -> Result<Manifest, String> {
    let manifest = read(folder)?;
    for entry in &manifest.files {
        // A name from a file must not lead out of the folder.
        if Path::new(&entry.name).file_name() != Some(entry.name.as_ref()) {
            return Err(format!("\"{}\" is not a plain file name", entry.name));
        }
        let bytes = fs::metadata(folder.join(&entry.name))
            .map_err(|error| format!("{}: {error}", entry.name))?
            .len();
        if bytes != entry.bytes {
            return Err(format!(
                "{} has {bytes} bytes, {} were written",
                entry.name, entry.bytes
            ));
        }
    }
    Ok(manifest)
}
