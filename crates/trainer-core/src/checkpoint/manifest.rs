//! What a checkpoint consists of: every file with its size and hash.
//!
//! Invariant: the manifest is written after every other file, into a folder that
//! gets its name only once it is complete. A folder whose manifest is missing or
//! does not hold is not a checkpoint.

use std::fs;
use std::path::Path;

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
    /// Optimizer steps taken.
    step: usize,
    files: Vec<Entry>,
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

/// Writes the manifest of a folder's files. Those in `written` are not read again.
///
/// # Errors
/// What the file system reports.
pub(crate) fn write(folder: &Path, step: usize, written: &[WrittenFile]) -> Result<()> {
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
        step,
        files,
    };
    super::write_json(&folder.join(MANIFEST), &manifest)
}

/// What is wrong with a checkpoint, if anything is.
pub(crate) fn check(folder: &Path) -> Result<(), String> {
    for entry in listed(folder)? {
        let found = Digest::of(&folder.join(&entry.name))
            .map_err(|error| format!("{}: {error}", entry.name))?;
        if found.to_string() != entry.xxh3 {
            return Err(format!("{} is damaged: its hash differs", entry.name));
        }
    }
    Ok(())
}

/// Whether every file of a checkpoint is there with its size. Reads none of them but
/// the manifest.
pub(crate) fn is_complete(folder: &Path) -> bool {
    listed(folder).is_ok()
}

/// The files of a checkpoint, each of which is there with its size.
fn listed(folder: &Path) -> Result<Vec<Entry>, String> {
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("it is incomplete: {MANIFEST}: {error}"))?;
    let damaged = |error: serde_json::Error| format!("{MANIFEST} is damaged: {error}");
    // First, since entries of another layout have other fields.
    let Layout { format } = serde_json::from_str(&text).map_err(damaged)?;
    if format != FORMAT {
        return Err(format!(
            "it has layout {format}, this version reads {FORMAT}"
        ));
    }
    let manifest: Manifest = serde_json::from_str(&text).map_err(damaged)?;
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
    Ok(manifest.files)
}
