//! The files of a tokenizer's folder. They are read once: what is saved, and what
//! prepared data is found by, are the bytes that the tokenizer was made of, whatever
//! becomes of the folder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{ADDED, CONFIG, MODEL, SPECIAL, TEMPLATE};
use crate::DataError;
use crate::cache::content_of;
use crate::template::DEFAULT_NAME;

/// Files that some tokenizers have beside `tokenizer.json`.
const EXTRA: [&str; 5] = [
    ADDED,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
];

/// Files that decide on tokens. The chat template counts by its text, wherever it
/// comes from.
const DECIDING: [&str; 4] = [MODEL, CONFIG, SPECIAL, ADDED];

/// Folder of the chat templates that have a name, one a file.
const NAMED: &str = "additional_chat_templates";

/// End of the names of templates' files.
const JINJA: &str = ".jinja";

/// Files of a folder by name, with their bytes.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    files: Vec<(&'static str, Vec<u8>)>,
    /// Chat templates by their names.
    named: Vec<(String, Vec<u8>)>,
}

impl Files {
    /// All files that are there.
    pub(super) fn read(folder: &Path) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for name in names() {
            if let Some(bytes) = read(&folder.join(name))? {
                files.push((name, bytes));
            }
        }
        let mut named = Vec::new();
        for name in names_in(folder)? {
            if let Some(bytes) = read(&template_path(folder, &name))? {
                named.push((name, bytes));
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            files,
            named,
        })
    }

    /// Names and texts of the chat templates that are files of their own.
    pub(super) fn templates(&self) -> Result<Vec<(String, String)>, DataError> {
        let main = self.text(TEMPLATE)?;
        let mut out: Vec<(String, String)> = main
            .map(|text| (DEFAULT_NAME.to_owned(), text))
            .into_iter()
            .collect();
        for (name, bytes) in &self.named {
            let text = utf8(&template_path(&self.folder, name), bytes.clone())?;
            // The file beside the others is the default.
            if !out.iter().any(|(other, _)| other == name) {
                out.push((name.clone(), text));
            }
        }
        Ok(out)
    }

    /// Forgets the chat templates, which are then not written.
    pub(super) fn remove_templates(&mut self) {
        self.remove(TEMPLATE);
        self.named.clear();
    }

    /// The folder that they were read from.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        let mut files = self.files.iter();
        files
            .find(|(other, _)| *other == name)
            .map(|(_, bytes)| bytes.as_slice())
    }

    /// The object in a file.
    pub(super) fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, DataError> {
        let bytes = self.get(name);
        bytes
            .map(|bytes| object(&self.folder.join(name), bytes))
            .transpose()
    }

    /// The text of a file.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, DataError> {
        let bytes = self.get(name);
        bytes
            .map(|bytes| utf8(&self.folder.join(name), bytes.to_vec()))
            .transpose()
    }

    /// Puts other bytes in the place of a file's.
    pub(super) fn replace(&mut self, name: &'static str, bytes: Vec<u8>) {
        self.remove(name);
        self.files.push((name, bytes));
    }

    /// Forgets a file, which is then not written.
    pub(super) fn remove(&mut self, name: &str) {
        self.files.retain(|(other, _)| *other != name);
    }

    /// Names of the files that decide on tokens, with hash and size.
    pub(super) fn contents(&self) -> Vec<(&'static str, String)> {
        let content = |name| Some((name, content_of(self.get(name)?)));
        DECIDING.into_iter().filter_map(content).collect()
    }

    /// Writes all of them into a folder, and removes what another tokenizer has left
    /// there: its files would be loaded with these.
    pub(super) fn write(&self, folder: &Path) -> Result<(), DataError> {
        for name in names().filter(|name| self.get(name).is_none()) {
            remove(&folder.join(name))?;
        }
        for name in names_in(folder)? {
            if !self.named.iter().any(|(own, _)| *own == name) {
                remove(&template_path(folder, &name))?;
            }
        }
        let mut files = self.files.iter();
        files.try_for_each(|(name, bytes)| write(&folder.join(name), bytes))?;
        write_templates(folder, &self.named)
    }
}

/// All files that a tokenizer may consist of.
fn names() -> impl Iterator<Item = &'static str> {
    [MODEL, CONFIG, SPECIAL, TEMPLATE].into_iter().chain(EXTRA)
}

/// Names of the chat templates in the folder for them, in alphabetic order.
fn names_in(folder: &Path) -> Result<Vec<String>, DataError> {
    let path = folder.join(NAMED);
    let failed = |source| DataError::Io {
        action: "read",
        path: path.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(JINJA));
        names.extend(name.map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes chat templates under their names.
pub(super) fn write_templates<T: AsRef<[u8]>>(
    folder: &Path,
    templates: &[(String, T)],
) -> Result<(), DataError> {
    if templates.is_empty() {
        return Ok(());
    }
    let path = folder.join(NAMED);
    std::fs::create_dir_all(&path).map_err(|source| DataError::Io {
        action: "create",
        path,
        source,
    })?;
    let mut templates = templates.iter();
    templates.try_for_each(|(name, text)| write(&template_path(folder, name), text.as_ref()))
}

fn template_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(NAMED).join(format!("{name}{JINJA}"))
}

fn remove(path: &Path) -> Result<(), DataError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(DataError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

pub(super) fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, DataError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..valid];
        let start = before
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |i| i + 1);
        DataError::InvalidUtf8 {
            path: path.to_owned(),
            line: before.iter().filter(|b| **b == b'\n').count() + 1,
            byte: valid - start + 1,
        }
    })
}

pub(super) fn json_value(path: &Path, bytes: &[u8]) -> Result<Value, DataError> {
    serde_json::from_slice(bytes).map_err(|error| DataError::Tokenizer {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// Indented, as the tokenizers library writes it.
pub(super) fn json_bytes(path: &Path, value: &Value) -> Result<Vec<u8>, DataError> {
    serde_json::to_vec_pretty(value).map_err(|error| DataError::Tokenizer {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// A file that holds an object.
pub(super) fn object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, DataError> {
    serde_json::from_slice(bytes).map_err(|error| DataError::Tokenizer {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    std::fs::write(path, bytes).map_err(|source| DataError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// An object as a file of its own.
pub(super) fn object_bytes(path: &Path, object: &Map<String, Value>) -> Result<Vec<u8>, DataError> {
    let mut bytes = serde_json::to_vec_pretty(object).map_err(|error| DataError::Tokenizer {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn write_object(path: &Path, object: &Map<String, Value>) -> Result<(), DataError> {
    write(path, &object_bytes(path, object)?)
}
