//! Files that are either the old one or the complete new one, never a part.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{ModelError, Result};

/// Lets `write` fill a temporary file beside `path`, then makes it durable and
/// gives it its name. On an error the temporary file is removed and `path` is
/// as it was.
///
/// In a folder that [`write_folder_atomically`](super::write_folder_atomically) fills,
/// the file is written under its name at once: the folder becomes durable and gets its
/// own name as a whole.
///
/// # Errors
/// What `write` or the file system reports.
pub fn write_atomically<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let pending = Pending::create(path)?;
    let written = write(pending.temporary())?;
    pending.sync()?;
    pending.commit()?;
    Ok(written)
}

/// The name of a file or folder until it is complete. The process id keeps two runs
/// from sharing one.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.ends_with(&format!(".{}.tmp", std::process::id()))
}

/// A file that does not have its name yet; removed if it never gets it.
#[derive(Debug)]
pub(super) struct Pending {
    path: PathBuf,
    /// None where the folder has no name yet either.
    temporary: Option<PathBuf>,
}

impl Pending {
    /// A place beside `path`, in a folder that is made where there is none.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        let temporary = match is_temporary(folder) {
            true => None,
            false => {
                fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
                Some(temporary(path))
            }
        };
        Ok(Self {
            path: path.to_path_buf(),
            temporary,
        })
    }

    /// The name it will have.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where to write.
    pub(super) fn temporary(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.path)
    }

    /// Makes the contents durable.
    pub(super) fn sync(&self) -> Result<()> {
        match &self.temporary {
            Some(temporary) => {
                let file = File::open(temporary).map_err(ModelError::io(temporary))?;
                file.sync_all().map_err(ModelError::io(temporary))
            }
            None => Ok(()),
        }
    }

    /// Gives the file its name.
    pub(super) fn commit(self) -> Result<()> {
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path).map_err(ModelError::io(&self.path))?;
            sync_folder(folder_of(&self.path));
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Not there any more once it has its name.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Makes the names in a folder survive a crash. Some systems cannot sync a folder,
/// which is no reason to fail.
pub(super) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
