//! Folders that are there complete or not at all.

use std::fs::{self, File};
use std::path::Path;

use super::atomic::{sync_folder, temporary};
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
    let temporary = temporary(path);
    let finish = || {
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(ModelError::io(&temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(ModelError::io(&temporary))?;
        fill(&temporary)?;
        sync(&temporary)?;
        let before = path.exists().then(|| temporary.with_extension("old.tmp"));
        if let Some(before) = &before {
            fs::rename(path, before).map_err(ModelError::io(path))?;
        }
        if let Err(error) = fs::rename(&temporary, path) {
            if let Some(before) = &before {
                let _ = fs::rename(before, path);
            }
            return Err(ModelError::io(path)(error).into());
        }
        if let Some(before) = &before {
            // The new folder has its name: what is left of the old one only takes room.
            let _ = fs::remove_dir_all(before);
        }
        path.parent().into_iter().for_each(sync_folder);
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
    sync_folder(folder);
    Ok(())
}
