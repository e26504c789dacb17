//! Writes checkpoints while training goes on.
//!
//! A [`Snapshot`] shares the weights with the model, which copies those that the
//! next step changes, so that training waits only for the optimizer's state to be
//! copied. One checkpoint is written at a time: the next one waits for it, before
//! anything is copied for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use trainer_model::{WrittenFile, write_folder_atomically};

use super::manifest::Origin;
use super::{OPTIMIZER, SavedRun, folders, manifest};
use crate::error::{Result, TrainerError};
use crate::optimizer::OptimizerState;
use crate::tokenizer::TrainerTokenizer;

/// Writes model files into a folder, and returns those of weights.
pub(crate) type SaveModel = Box<dyn FnOnce(&Path) -> Result<Vec<WrittenFile>> + Send>;

/// A run between two steps, apart from the run itself.
pub(crate) struct Snapshot {
    pub(crate) save_model: SaveModel,
    pub(crate) tokenizer: Arc<dyn TrainerTokenizer>,
    /// What going on takes; none where only the model is kept.
    pub(crate) training: Option<(OptimizerState, SavedRun)>,
    pub(crate) step: usize,
}

/// Which checkpoints are kept.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    /// The run, whose checkpoints alone are deleted.
    pub(crate) run: String,
    /// How many, at least one.
    pub(crate) limit: usize,
    /// Steps of those that stay in any case.
    pub(crate) keep: Vec<usize>,
}

/// What came of a checkpoint.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    /// Older ones that could not be deleted, and why.
    pub(crate) not_deleted: Vec<String>,
}

/// Writes one checkpoint after the other in the background.
#[derive(Default)]
pub(crate) struct Writer {
    running: Option<JoinHandle<Result<Written>>>,
}

impl Writer {
    /// Starts to write. [`finish`](Self::finish) an earlier one first.
    pub(crate) fn start(&mut self, output: &Path, snapshot: Snapshot, retention: Retention) {
        debug_assert!(self.running.is_none(), "one checkpoint at a time");
        let output = output.to_path_buf();
        let write = move || write(&output, snapshot, &retention);
        self.running = Some(std::thread::spawn(write));
    }

    /// Waits for the checkpoint that is being written.
    pub(crate) fn finish(&mut self) -> Option<Result<Written>> {
        let outcome = self.running.take()?.join();
        Some(outcome.unwrap_or_else(|_| {
            Err(TrainerError::Setup(
                "the thread that writes checkpoints stopped unexpectedly".into(),
            ))
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A run that ends with an error still lets its last checkpoint be finished.
        let _ = self.finish();
    }
}

fn write(output: &Path, snapshot: Snapshot, retention: &Retention) -> Result<Written> {
    let path = folders::path(output, snapshot.step);
    let origin = Origin::new(&retention.run, snapshot.step, folders::latest(output)?);
    write_folder_atomically(&path, |folder| -> Result<()> {
        let mut written = (snapshot.save_model)(folder)?;
        let saved = snapshot.tokenizer.save(folder);
        saved.map_err(TrainerError::Tokenizer)?;
        if let Some((optimizer, run)) = &snapshot.training {
            written.push(super::optimizer::write(optimizer, &folder.join(OPTIMIZER))?);
            run.write(folder)?;
        }
        manifest::write(folder, &origin, &written)
    })?;
    let not_deleted = folders::prune(output, &retention.run, retention.limit, &retention.keep)?;
    Ok(Written { path, not_deleted })
}
