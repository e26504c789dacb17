//! One run at a time in an output folder.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use crate::error::{Result, TrainerError};

/// Held while a run writes to a folder. The system releases it when the process
/// ends, however that happens.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let unusable = |source| TrainerError::Output {
            path: folder.to_path_buf(),
            source,
        };
        fs::create_dir_all(folder).map_err(unusable)?;
        let file = File::create(folder.join(".lock")).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(TrainerError::Locked {
                path: folder.to_path_buf(),
            }),
            // Some network file systems have no locks; that is no reason to stop.
            Err(TryLockError::Error(_)) => Ok(Self { _file: file }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("another run is writing to this folder"),
            "{error}"
        );
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
}
