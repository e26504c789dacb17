//! Folders that are there complete or not at all.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{ModelError, Result};

/// Lets `fill` write files into a hidden folder beside `path`, makes all of them
/// durable, and gives the folder its name. What was at `path` before is gone. On
/// an error the hidden folder is removed and `path` is as it was.
///
/// # Errors
/// What `fill` or the file system reports.
pub fn write_folder_atomically<E: From<ModelError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The process id keeps two runs from sharing a temporary folder.
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let finish = || {
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(ModelError::io(&temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(ModelError::io(&temporary))?;
        fill(&temporary)?;
        sync(&temporary)?;
        if path.exists() {
            fs::remove_dir_all(path).map_err(ModelError::io(path))?;
        }
        fs::rename(&temporary, path).map_err(ModelError::io(path))?;
        // Some systems cannot sync a folder, which is no reason to fail.
        if let Some(Ok(parent)) = path.parent().map(File::open) {
            let _ = parent.sync_all();
        }
        Ok(())
    };
    let result = finish();
    if result.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

fn sync(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(ModelError::io(folder))? {
        let path = entry.map_err(ModelError::io(folder))?.path();
        let file = File::open(&path).map_err(ModelError::io(&path))?;
        file.sync_all().map_err(ModelError::io(&path))?;
    }
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
