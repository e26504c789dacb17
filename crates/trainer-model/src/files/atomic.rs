//! Files that are either the old one or the complete new one, never a part.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{ModelError, Result};

/// Lets `write` fill a temporary file beside `path`, then makes it durable and
/// gives it its name. On an error the temporary file is removed and `path` is
/// as it was.
///
/// # Errors
/// What `write` or the file system reports.
pub fn write_atomically(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The process id keeps two runs from sharing a temporary file.
    let temporary: PathBuf = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let finish = || {
        // Made here so that it has the permissions of an ordinary new file,
        // whatever the writer would choose.
        File::create(&temporary).map_err(ModelError::io(&temporary))?;
        write(&temporary)?;
        let file = File::open(&temporary).map_err(ModelError::io(&temporary))?;
        file.sync_all().map_err(ModelError::io(&temporary))?;
        fs::rename(&temporary, path).map_err(ModelError::io(path))?;
        // The new name itself must survive a crash; some systems cannot sync a
        // folder, which is no reason to fail.
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    };
    let result = finish();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}
