//! Folders that are there complete or not at all.

use std::fs::{self, File};
use std::path::Path;

use super::atomic::{folder_of, sync_folder, temporary};
use crate::error::{ModelError, Result};

/// Lets `fill` write files into a hidden folder beside `path`, makes all of them
/// durable, and gives the folder its name. A folder that was at `path` before is gone,
/// and was whole until then. On an error the hidden folder is removed and `path` is as
/// it was.
///
/// `fill` makes no folders in it: they would not be durable.
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
        let named = match path.is_dir() {
            true if exchange(&temporary, path) => Ok(()),
            true => put_aside(&temporary, path),
            false => fs::rename(&temporary, path),
        };
        named.map_err(ModelError::io(path))?;
        sync_folder(folder_of(path));
        Ok(())
    };
    let result = finish();
    // What was not written to its end, or what was at `path` before. That it cannot be
    // removed does no harm: its name is that of nothing complete.
    let _ = fs::remove_dir_all(&temporary);
    result
}

/// Lets two folders change their names, at one moment; false where the file system does
/// not do that.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

/// Gives `new` the name of the folder at `path`, which is removed. A crash between the
/// two steps leaves none of that name, but never a part of one.
fn put_aside(new: &Path, path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let old = temporary(&path.with_file_name(format!("{name}.old")));
    fs::rename(path, &old)?;
    let named = fs::rename(new, path);
    let _ = match named.is_ok() {
        true => fs::remove_dir_all(&old),
        false => fs::rename(&old, path),
    };
    named
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, file: &str) -> Result<()> {
        write_folder_atomically(path, |folder| {
            let path = folder.join(file);
            fs::write(&path, file).map_err(ModelError::io(&path))
        })
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_takes_the_place_of_another_as_a_whole() {
        let output = tempfile::tempdir().unwrap();
        let path = output.path().join("checkpoint-5");
        write(&path, "old").unwrap();
        write(&path, "new").unwrap();
        assert_eq!(names(&path), ["new"]);
        assert_eq!(names(output.path()), ["checkpoint-5"]);

        let failed = write_folder_atomically(&path, |folder| {
            fs::write(folder.join("half"), "").unwrap();
            Err(ModelError::io(folder)(std::io::Error::other("no room")))
        });
        assert!(failed.is_err());
        assert_eq!(names(&path), ["new"]);
        assert_eq!(names(output.path()), ["checkpoint-5"]);
    }

    #[test]
    fn where_names_cannot_be_exchanged_the_old_folder_is_put_aside() {
        let output = tempfile::tempdir().unwrap();
        let [path, new] = ["checkpoint-5", "new"].map(|name| output.path().join(name));
        write(&path, "old").unwrap();
        write(&new, "new").unwrap();
        put_aside(&new, &path).unwrap();
        assert_eq!(names(&path), ["new"]);
        // There is no folder to be named: the old one has its name again.
        assert!(put_aside(&new, &path).is_err());
        assert_eq!(names(&path), ["new"]);
        assert_eq!(names(output.path()), ["checkpoint-5"]);
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_stays() {
        let output = tempfile::tempdir().unwrap();
        let path = output.path().join("checkpoint-5");
        fs::write(&path, "a file").unwrap();
        assert!(write(&path, "new").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        assert_eq!(names(output.path()), ["checkpoint-5"]);
    }
}
