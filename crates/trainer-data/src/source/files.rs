//! Which files a data set consists of, and which split each belongs to.
//!
//! Invariant: the order of the files does not depend on the file system; a
//! pattern or folder that gives no file is an error, and so is a file that
//! nobody could tell the split or the format of.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use trainer_config::{Dataset, DatasetFormat, PromptStrategy, SplitSpec};

use super::input::Packing;
use super::json;
use super::splits::split_of;
use super::{DataFile, Format};
use crate::DataError;
use crate::error::nearest;

/// Folders in folders are followed this deep.
const DEPTH: usize = 16;

/// Files beside the data that describe it.
const DESCRIPTIONS: [&str; 4] = [
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
];

/// The files of a data set by split, in the order of the splits.
pub(super) struct Layout {
    splits: Vec<(String, Vec<DataFile>)>,
    /// Whether the one split is used, whatever its name is.
    saved: bool,
}

impl Layout {
    fn one(files: Vec<DataFile>) -> Self {
        Self {
            splits: vec![("train".to_owned(), files)],
            saved: false,
        }
    }

    /// What the data set wants of the splits.
    pub(super) fn spec(&self, dataset: &Dataset) -> Result<SplitSpec, DataError> {
        match (&dataset.split, &self.splits[..]) {
            (Some(split), _) => SplitSpec::parse(split)
                .map_err(|message| error(&dataset.path, format!("`split`: {message}"))),
            (None, [(only, _)]) if self.saved => Ok(SplitSpec::whole(only)),
            (None, _) => Ok(SplitSpec::whole("train")),
        }
    }

    /// The files of a split.
    pub(super) fn split(&self, dataset: &Dataset, name: &str) -> Result<&[DataFile], DataError> {
        let found = self.splits.iter().find(|(split, _)| split == name);
        if let Some((_, files)) = found {
            return Ok(files);
        }
        let names: Vec<_> = self.splits.iter().map(|(n, _)| format!("`{n}`")).collect();
        Err(error(
            &dataset.path,
            format!(
                "no split `{name}`; its split{} {}{}",
                if names.len() == 1 { " is" } else { "s are" },
                names.join(", "),
                if dataset.split.is_some() {
                    ""
                } else {
                    ": choose with `split`"
                }
            ),
        ))
    }
}

fn error(path: &Path, message: String) -> DataError {
    DataError::Dataset {
        path: path.to_owned(),
        message,
    }
}

/// Finds the files of a data set.
pub(super) fn resolve(dataset: &Dataset) -> Result<Layout, DataError> {
    let path = &dataset.path;
    if dataset.strategy == Some(PromptStrategy::Synthetic) {
        return Ok(Layout::one(vec![DataFile {
            path: path.clone(),
            format: Format::Empty(dataset.length.unwrap_or(1000)),
        }]));
    }
    let text = path.to_string_lossy();
    if path.exists() && dataset.revision.is_some() {
        return Err(error(
            path,
            "`revision` chooses a version of a data set of the hub, but this is a local path; remove `revision`".to_owned(),
        ));
    }
    if path.is_dir() {
        return named(dataset, path);
    }
    if path.exists() {
        if dataset.data_files.is_some() {
            return Err(error(
                path,
                "`data_files` names files inside `path`, which is a file itself; write its folder as `path`, or remove `data_files`".to_owned(),
            ));
        }
        unread(dataset, "this is one file")?;
        return Ok(Layout::one(vec![file(dataset, path)?]));
    }
    if let (Some(_), Some(format)) = (&dataset.data_files, builder(&text)) {
        // The name of a reader in place of a folder, as the `datasets` library
        // has it: the files are those of the working directory.
        let dataset = Dataset {
            ds_type: dataset.ds_type.or(Some(format)),
            ..dataset.clone()
        };
        return data_files(&dataset, Path::new(""));
    }
    if text.contains(WILD) {
        unread(dataset, "this is a pattern, which names the files")?;
        let found = matches(dataset, &text)?;
        if found.is_empty() {
            return Err(error(
                path,
                format!("no file matches this pattern{}", unmatched(path)),
            ));
        }
        let files = found.iter().map(|path| file(dataset, path));
        return Ok(Layout::one(files.collect::<Result<_, _>>()?));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        let how = match scheme {
            "s3" => format!(", such as with `aws s3 cp {text} .` (`--recursive` for a folder)"),
            "gs" | "gcs" => format!(", such as with `gcloud storage cp -r {text} .`"),
            "http" | "https" => format!(", such as with `curl -LO {text}`"),
            _ => String::new(),
        };
        return Err(error(
            path,
            format!(
                "`{scheme}` addresses cannot be read; download the files{how}, and give their path"
            ),
        ));
    }
    if is_hub_id(path) {
        return hub(dataset);
    }
    Err(DataError::Missing {
        what: "data file",
        path: path.clone(),
        hint: nearest(path),
    })
}

/// Keys that choose files inside a folder or a data set of the hub, where `path` names
/// files.
fn unread(dataset: &Dataset, what: &str) -> Result<(), DataError> {
    for (key, set) in [
        ("name", dataset.name.is_some()),
        ("data_files", dataset.data_files.is_some()),
        ("revision", dataset.revision.is_some()),
    ] {
        if set {
            return Err(error(
                &dataset.path,
                format!(
                    "`{key}` has no effect: {what}; write the folder as `path`, or remove `{key}`"
                ),
            ));
        }
    }
    Ok(())
}

/// `owner/name` without a file type, in a folder that is not there.
pub(crate) fn is_hub_id(path: &Path) -> bool {
    let parts: Vec<_> = path.components().collect();
    let [Component::Normal(owner), Component::Normal(_)] = parts[..] else {
        return false;
    };
    format_of(path).is_err() && !Path::new(owner).exists()
}

#[cfg(not(feature = "hub"))]
fn hub(dataset: &Dataset) -> Result<Layout, DataError> {
    Err(error(
        &dataset.path,
        format!(
            "there is no such file or folder. It reads like a data set of the Hugging Face hub: download it with `hf download {0} --repo-type dataset --local-dir {1}` and write `path: {1}`, or use a build with the feature `hub`",
            dataset.path.display(),
            dataset.path.file_name().unwrap_or_default().display()
        ),
    ))
}

#[cfg(feature = "hub")]
fn hub(dataset: &Dataset) -> Result<Layout, DataError> {
    named(dataset, &super::hub::download(dataset)?)
}

/// The folder that `name` chooses, or the whole.
fn named(dataset: &Dataset, root: &Path) -> Result<Layout, DataError> {
    match &dataset.name {
        None => folder(dataset, root),
        Some(name) if root.join(name).is_dir() => folder(dataset, &root.join(name)),
        Some(name) => Err(error(
            &dataset.path,
            format!("has no folder `{name}`; remove `name`, and choose files with `data_files`"),
        )),
    }
}

/// A format by the name of its reader in the `datasets` library.
fn builder(name: &str) -> Option<DatasetFormat> {
    Some(match name {
        "json" => DatasetFormat::Json,
        "csv" => DatasetFormat::Csv,
        "text" => DatasetFormat::Text,
        "parquet" => DatasetFormat::Parquet,
        "arrow" => DatasetFormat::Arrow,
        _ => return None,
    })
}

/// The format that the end of a file name stands for, apart from compression.
fn format_of(path: &Path) -> Result<DatasetFormat, DataError> {
    let inner = Packing::of(path).map(|(_, inner)| inner);
    let extension = inner
        .unwrap_or(path)
        .extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let hint = match (extension.as_str(), inner.is_some()) {
        ("json" | "jsonl" | "ndjson", _) => return Ok(DatasetFormat::Json),
        ("csv", _) => return Ok(DatasetFormat::Csv),
        ("txt" | "text", _) => return Ok(DatasetFormat::Text),
        ("parquet", false) => return Ok(DatasetFormat::Parquet),
        ("arrow", false) => return Ok(DatasetFormat::Arrow),
        ("parquet" | "arrow", true) => "; unpack it first, the format is compressed in itself",
        ("bz2" | "xz" | "zip" | "7z" | "tar", _) => {
            "; gzip and zstd are unpacked as they are read, other archives have to be unpacked first"
        }
        _ => "",
    };
    Err(DataError::UnknownFormat {
        path: path.to_owned(),
        hint,
    })
}

fn file(dataset: &Dataset, path: &Path) -> Result<DataFile, DataError> {
    let format = match dataset.ds_type {
        Some(format) => format,
        None => format_of(path)?,
    };
    if matches!(format, DatasetFormat::Parquet | DatasetFormat::Arrow)
        && Packing::of(path).is_some()
    {
        return Err(DataError::UnknownFormat {
            path: path.to_owned(),
            hint: "; unpack it first, the format is compressed in itself",
        });
    }
    Ok(DataFile {
        path: path.to_owned(),
        format: format.into(),
    })
}

/// Characters that make a pattern of a path.
const WILD: [char; 3] = ['*', '?', '['];

/// Names of files that a message shows.
const SHOWN: usize = 5;

/// What to look at where no file matches: the folder in front of the pattern.
fn unmatched(pattern: &Path) -> String {
    let plain =
        |part: &std::path::Component<'_>| !part.as_os_str().to_string_lossy().contains(WILD);
    let folder: PathBuf = pattern.components().take_while(plain).collect();
    let read = match folder.as_os_str().is_empty() {
        true => std::fs::read_dir("."),
        false => std::fs::read_dir(&folder),
    };
    let Ok(entries) = read else {
        return format!(
            ": there is no folder {}{}",
            folder.display(),
            working_directory(&folder)
        );
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.truncate(SHOWN);
    let holds = match names.is_empty() {
        true => "nothing".to_owned(),
        false => format!("{}{more}", names.join(", ")),
    };
    let place = match folder.as_os_str().is_empty() {
        true => "the working directory".to_owned(),
        false => folder.display().to_string(),
    };
    format!("; {place} holds {holds} (`*` stands for a part of one name, `**` for any folders)")
}

/// The files that match a pattern, sorted.
fn matches(dataset: &Dataset, pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let entries = glob::glob_with(pattern, options).map_err(|problem| {
        error(
            &dataset.path,
            format!("`{pattern}` is no pattern: {}", problem.msg),
        )
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| DataError::Io {
            action: "read",
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The files that `data_files` names, inside a folder.
fn data_files(dataset: &Dataset, folder: &Path) -> Result<Layout, DataError> {
    let names = dataset
        .data_files
        .as_ref()
        .map_or(&[][..], |names| names.as_slice());
    let mut files = Vec::new();
    for name in names {
        let path = folder.join(name);
        if path.is_file() {
            files.push(file(dataset, &path)?);
            continue;
        }
        // Only the name is a pattern, not the folder.
        let escaped = glob::Pattern::escape(&folder.to_string_lossy());
        let pattern = Path::new(&escaped).join(name);
        let found = matches(dataset, &pattern.to_string_lossy())?;
        if found.is_empty() {
            return Err(error(
                &dataset.path,
                match name.contains(WILD) {
                    true => format!(
                        "`data_files`: no file {}{}",
                        path.display(),
                        unmatched(&path)
                    ),
                    false => format!("`data_files`: no file {}{}", path.display(), nearest(&path)),
                },
            ));
        }
        for path in found {
            files.push(file(dataset, &path)?);
        }
    }
    if files.is_empty() {
        return Err(error(&dataset.path, "`data_files` is empty".to_owned()));
    }
    Ok(Layout::one(files))
}

fn folder(dataset: &Dataset, root: &Path) -> Result<Layout, DataError> {
    if dataset.data_files.is_some() {
        return data_files(dataset, root);
    }
    if root.join("dataset_dict.json").is_file() {
        return saved_splits(root);
    }
    if root.join("state.json").is_file() {
        let (split, files) = saved(root)?;
        return Ok(Layout {
            splits: vec![(split.unwrap_or_else(|| "train".to_owned()), files)],
            saved: true,
        });
    }
    let mut files = Vec::new();
    walk(root, DEPTH, &mut files)?;
    files.sort();
    by_split(dataset, root, files)
}

/// The data files below a folder. Hidden ones and links to folders are left out.
fn walk(folder: &Path, depth: usize, files: &mut Vec<DataFile>) -> Result<(), DataError> {
    let failed = |source| DataError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(['.', '_']) || DESCRIPTIONS.contains(&name.as_str()) {
            continue;
        }
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            if depth > 0 {
                walk(&path, depth - 1, files)?;
            }
        } else if path.is_file()
            && let Ok(format) = format_of(&path)
        {
            files.push(DataFile {
                path,
                format: format.into(),
            });
        }
    }
    Ok(())
}

/// Sorts the files of a folder into splits, by their names or those of their
/// folders; without any such name all of them are `train`.
fn by_split(dataset: &Dataset, root: &Path, files: Vec<DataFile>) -> Result<Layout, DataError> {
    let mut formats: BTreeMap<Format, usize> = BTreeMap::new();
    for file in &files {
        *formats.entry(file.format).or_default() += 1;
    }
    let wanted = match (dataset.ds_type.map(Format::from), formats.len()) {
        (Some(format), _) => format,
        (None, 1) => files[0].format,
        (None, 0) => {
            return Err(error(
                &dataset.path,
                "the folder holds no data files (json, jsonl, csv, txt, parquet or arrow)"
                    .to_owned(),
            ));
        }
        (None, _) => {
            let counts: Vec<_> = formats
                .iter()
                .map(|(format, n)| format!("{n} {}", format.name()))
                .collect();
            return Err(error(
                &dataset.path,
                format!(
                    "the folder holds files of several formats ({}); choose one with `ds_type`, or name the files in `data_files`",
                    counts.join(", ")
                ),
            ));
        }
    };
    let files: Vec<_> = files.into_iter().filter(|f| f.format == wanted).collect();
    if files.is_empty() {
        return Err(error(
            &dataset.path,
            format!("the folder holds no {} files", wanted.name()),
        ));
    }
    let mut splits: BTreeMap<String, Vec<DataFile>> = BTreeMap::new();
    let mut without = Vec::new();
    for file in files {
        match split_of(file.path.strip_prefix(root).unwrap_or(&file.path)) {
            Ok(Some(split)) => splits.entry(split).or_default().push(file),
            Ok(None) => without.push(file),
            Err((one, other)) => {
                return Err(error(
                    &dataset.path,
                    format!(
                        "{} belongs to `{one}` or to `{other}` by its name; name the files in `data_files`",
                        file.path.display()
                    ),
                ));
            }
        }
    }
    if splits.is_empty() {
        return Ok(Layout::one(without));
    }
    if let Some(file) = without.first() {
        let names: Vec<_> = splits.keys().map(|name| format!("`{name}`")).collect();
        return Err(error(
            &dataset.path,
            format!(
                "the folder is laid out in splits ({}), but {} names none; rename it, or name the files in `data_files`",
                names.join(", "),
                file.path.display()
            ),
        ));
    }
    let order = |name: &str| {
        let known = ["train", "validation", "test"];
        known.iter().position(|n| *n == name).unwrap_or(known.len())
    };
    let mut splits: Vec<_> = splits.into_iter().collect();
    splits.sort_by_key(|(name, _)| order(name));
    Ok(Layout {
        splits,
        saved: false,
    })
}

/// The splits of a `DatasetDict` that the `datasets` library saved.
fn saved_splits(root: &Path) -> Result<Layout, DataError> {
    let path = root.join("dataset_dict.json");
    let json = read_json(&path)?;
    let names = json.get("splits").and_then(Value::as_array);
    let mut splits = Vec::new();
    for name in names.into_iter().flatten() {
        let name = plain(&path, name)?;
        let (_, files) = saved(&root.join(&name))?;
        splits.push((name, files));
    }
    if splits.is_empty() {
        return Err(error(&path, "has no list `splits`".to_owned()));
    }
    Ok(Layout {
        splits,
        saved: true,
    })
}

/// The name of the split and the files of a `Dataset` that the `datasets`
/// library saved.
fn saved(root: &Path) -> Result<(Option<String>, Vec<DataFile>), DataError> {
    let path = root.join("state.json");
    let json = read_json(&path)?;
    let indices = json.get("_indices_data_files").and_then(Value::as_array);
    if indices.is_some_and(|files| !files.is_empty()) {
        return Err(error(
            &path,
            "the rows are chosen by a file of indices, as old versions of `datasets` did; load and save it with a new one".to_owned(),
        ));
    }
    let mut files = Vec::new();
    for entry in json
        .get("_data_files")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let name = plain(&path, entry.get("filename").unwrap_or(&Value::Null))?;
        files.push(DataFile {
            path: root.join(name),
            format: Format::Arrow,
        });
    }
    if files.is_empty() {
        return Err(error(
            &path,
            "names no files in `_data_files`, so that it is no data set that the `datasets` library saved".to_owned(),
        ));
    }
    let split = json.get("_split").and_then(Value::as_str);
    Ok((split.map(str::to_owned), files))
}

/// The name of a file or folder beside the file that mentions it.
fn plain(path: &Path, name: &Value) -> Result<String, DataError> {
    let name = name.as_str().unwrap_or_default();
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(name.to_owned()),
        _ => Err(error(
            path,
            format!("`{name}` is no name of a file beside it"),
        )),
    }
}

fn read_json(path: &Path) -> Result<Value, DataError> {
    let text = std::fs::read_to_string(path).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|error| DataError::Json {
        path: path.to_owned(),
        line: error.line(),
        column: error.column().max(1),
        message: json::message(&error, "the `datasets` library writes it whole"),
    })
}

fn working_directory(path: &Path) -> String {
    match std::env::current_dir() {
        Ok(folder) if path.is_relative() => {
            format!(" in the working directory {}", folder.display())
        }
        _ => String::new(),
    }
}
