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
    let pending = Pending::create(path)?;
    write(pending.temporary())?;
    pending.sync()?;
    pending.commit()
}

/// A file that does not have its name yet; removed if it never gets it.
#[derive(Debug)]
pub(super) struct Pending {
    path: PathBuf,
    temporary: PathBuf,
}

impl Pending {
    /// Makes an empty file beside `path`, and the folder where there is none.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The process id keeps two runs from sharing a temporary file.
        let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        // Made here so that it has the permissions of an ordinary new file,
        // whatever the writer would choose.
        File::create(&temporary).map_err(ModelError::io(&temporary))?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary,
        })
    }

    /// Where to write.
    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Makes the contents durable.
    pub(super) fn sync(&self) -> Result<()> {
        let file = File::open(&self.temporary).map_err(ModelError::io(&self.temporary))?;
        file.sync_all().map_err(ModelError::io(&self.temporary))
    }

    /// Gives the file its name.
    pub(super) fn commit(self) -> Result<()> {
        fs::rename(&self.temporary, &self.path).map_err(ModelError::io(&self.path))?;
        // The new name itself must survive a crash; some systems cannot sync a
        // folder, which is no reason to fail.
        if let Ok(folder) = File::open(folder_of(&self.path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Not there any more once it has its name.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
