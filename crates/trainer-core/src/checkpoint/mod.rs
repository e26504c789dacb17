//! Checkpoints: a run between two steps, complete enough to go on to the bit.
//!
//! ```text
//! checkpoint-120/
//!   model or adapter files    in f32, as any saved model
//!   optimizer.safetensors     moments and counters, by parameter
//!   training_state.json       position in the data, counters, log, configuration
//!   manifest.json             sizes and hashes of the others; written last
//! ```
//!
//! Randomness needs no state of its own: every random choice of a step derives
//! from the seed of the run and the number of the step.
//!
//! Invariants: a folder named `checkpoint-N` was complete when it got its name;
//! nothing of an older checkpoint is touched before the newer one has its name.

mod exact;
mod folders;
mod manifest;
mod optimizer;
mod state;
mod writer;

use std::path::{Path, PathBuf};

use serde::Serialize;
use trainer_model::write_atomically;

pub(crate) use exact::Exact;
pub(crate) use folders::{newest, of_run, sweep};
pub(crate) use manifest::new_run;
pub(crate) use optimizer::read as read_optimizer;
pub(crate) use state::{
    BestState, FeedPosition, SavedRun, SavedSums, config_differences, config_texts,
};
pub(crate) use writer::{Retention, SaveModel, Snapshot, Writer, Written};

use crate::error::{Result, TrainerError};

/// Name of the optimizer's file.
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";

/// The checkpoint that a run goes on from.
pub(crate) struct Found {
    /// Its folder; none where a run begins anew.
    pub(crate) path: Option<PathBuf>,
    /// Newer ones that cannot be used, and why.
    pub(crate) skipped: Vec<String>,
}

/// The checkpoint of a folder: `named` itself, or the newest complete one in
/// `output` where `newest` asks for it.
///
/// # Errors
/// When the named one is incomplete or damaged.
pub(crate) fn find(output: &Path, named: Option<&Path>, newest: bool) -> Result<Found> {
    // Of whatever run: what it is to go on from is for the user to say.
    let newest_in = |folder: &Path| -> Result<Found> {
        let (found, skipped) = folders::newest(folder, |_| true, |_| Ok(()))?;
        let path = found.map(|(path, ())| path);
        Ok(Found { path, skipped })
    };
    let Some(path) = named else {
        return match newest {
            true => newest_in(output),
            false => Ok(Found {
                path: None,
                skipped: Vec::new(),
            }),
        };
    };
    // An output folder stands for the newest checkpoint in it.
    if !path.join(manifest::MANIFEST).exists() {
        let found = newest_in(path)?;
        if found.path.is_some() {
            return Ok(found);
        }
    }
    let usable = match path.is_dir() {
        true => folders::check(path),
        false => Err("there is no such folder".to_owned()),
    };
    usable.map_err(|message| TrainerError::Checkpoint {
        path: path.to_path_buf(),
        message: format!("{message}; name another one, or none to begin anew"),
    })?;
    Ok(Found {
        path: Some(path.to_path_buf()),
        skipped: Vec::new(),
    })
}

/// Whether a folder is one of a checkpoint, or of a run with checkpoints, by the names
/// of its files alone.
pub(crate) fn is_there(path: &Path) -> bool {
    path.join(manifest::MANIFEST).exists()
        || folders::all(path).is_ok_and(|found| !found.is_empty())
}

/// What to tell of checkpoints that lie in the folder of a run that begins anew.
pub(crate) fn others(output: &Path) -> Result<Option<String>> {
    let found = folders::all(output)?;
    Ok(found.last().map(|(_, last)| {
        format!(
            "{} holds checkpoints of an earlier run, which stay until this one comes to the same \
             steps. To go on from one of them, stop this run and set `resume_from_checkpoint: {}`",
            output.display(),
            last.display()
        )
    }))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| TrainerError::Checkpoint {
        path: path.to_path_buf(),
        message: error.to_string(),
    })?;
    write_atomically(path, |temporary| {
        std::fs::write(temporary, format!("{text}\n")).map_err(|source| {
            trainer_model::ModelError::Io {
                path: path.to_path_buf(),
                source,
            }
        })
    })?;
    Ok(())
}
