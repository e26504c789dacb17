//! Everything that can go wrong between a file and its samples.
//!
//! Invariant: a message says where (file, line or row), what is wrong, and
//! what to change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a row comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as written in the configuration.
    pub path: Arc<PathBuf>,
    /// What `number` counts: `line` or `row`.
    pub unit: &'static str,
    /// Counted from 1.
    pub number: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} {}", self.path.display(), self.unit, self.number)
    }
}

/// An error of the data path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder that is not there.
    #[error("{what} {} does not exist{hint}", path.display())]
    Missing {
        /// What was looked for: `data file`, `tokenizer folder`, ...
        what: &'static str,
        /// The path, as written in the configuration.
        path: PathBuf,
        /// The working directory and the nearest existing name.
        hint: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A data set path that is a folder.
    #[error("data set {} is a folder; `path` has to be one file (json, jsonl, csv, txt or parquet)", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// A file whose format cannot be told from its name.
    #[error("cannot tell the format of {} from its name; set `ds_type` to json, csv, text or parquet{hint}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// A remark on names that are known but not supported.
        hint: &'static str,
    },
    /// Bytes that are not UTF-8.
    #[error("{}, line {line}: invalid UTF-8 at byte {byte} of the line; convert the file to UTF-8", path.display())]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Byte within the line, from 1.
        byte: usize,
    },
    /// Text that is not JSON.
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A row that is not an object.
    #[error("{at}: a row has to be a JSON object with one key a column, not {found}")]
    NotAnObject {
        /// The row.
        at: Place,
        /// What it is.
        found: &'static str,
    },
    /// A CSV file that breaks the rules.
    #[error("{}, line {line}: {message}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A Parquet file that cannot be decoded.
    #[error("cannot read {} as Parquet: {message}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        message: String,
    },
    /// A row without a column that its strategy needs.
    #[error(
        "{at}: no column `{column}`, which `type: {strategy}` needs; the row has {}{hint}",
        names(found)
    )]
    MissingColumn {
        /// The row.
        at: Place,
        /// The column.
        column: String,
        /// The strategy.
        strategy: &'static str,
        /// The columns of the row.
        found: Vec<String>,
        /// Which key of the data set chooses another column.
        hint: String,
    },
    /// A value of another type than the strategy needs.
    #[error("{at}: `{what}` has to be {expected}, not {found}")]
    WrongType {
        /// The row.
        at: Place,
        /// Column, or path within the row.
        what: String,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Values that do not fit together, such as labels of another length.
    #[error("{at}: {message}")]
    Row {
        /// The row.
        at: Place,
        /// What is wrong and how to fix it.
        message: String,
    },
    /// A data set whose `type` is absent and cannot be told from its rows.
    #[error("data set {} has no `type`, and its rows are not tokenized; they have {}: set `type` to {suggestion}", path.display(), names(found))]
    NoStrategy {
        /// The file.
        path: PathBuf,
        /// The columns of the first row.
        found: Vec<String>,
        /// Strategies that fit the columns.
        suggestion: &'static str,
    },
    /// A file without rows.
    #[error("data set {} has no rows", path.display())]
    EmptyDataset {
        /// The file.
        path: PathBuf,
    },
    /// A data set of which nothing is left.
    #[error("all {rows} rows of data set {} were dropped: {}; {advice}", path.display(), reasons.join(", "))]
    AllDropped {
        /// The file.
        path: PathBuf,
        /// Rows read.
        rows: usize,
        /// Reasons with their counts.
        reasons: Vec<String>,
        /// What to change.
        advice: String,
    },
    /// A row longer than the limit under `excess_length_strategy: raise`.
    #[error(
        "{at}: {length} tokens are more than the limit of {limit}; raise `sequence_len`, or set `excess_length_strategy` to drop or truncate"
    )]
    TooLong {
        /// The row.
        at: Place,
        /// Its tokens.
        length: usize,
        /// The limit in tokens.
        limit: usize,
    },
    /// A validation split that leaves nothing to train or to evaluate.
    #[error(
        "`val_set_size: {size}` of {rows} rows leaves {left}; choose a smaller part, or give `test_datasets`"
    )]
    Split {
        /// The setting.
        size: f64,
        /// Rows to split.
        rows: usize,
        /// What is left.
        left: &'static str,
    },
    /// More samples than can be shuffled.
    #[error(
        "{rows} samples are more than can be shuffled (2^32); set `shuffle_merged_datasets: false`"
    )]
    TooManySamples {
        /// Number of samples.
        rows: usize,
    },
    /// A tokenizer folder that cannot be loaded.
    #[error("cannot load the tokenizer from {}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A special token that the vocabulary lacks.
    #[error("`special_tokens.{name}`: {token:?} is not in the vocabulary of {}; name a token that is, adding new ones is not supported", path.display())]
    UnknownSpecialToken {
        /// Key of `special_tokens`.
        name: &'static str,
        /// The token.
        token: String,
        /// The tokenizer folder.
        path: PathBuf,
    },
    /// A tokenizer that fails on a text.
    #[error("the tokenizer failed: {message}")]
    Encode {
        /// What it said.
        message: String,
    },
    /// A chat template that is not there.
    #[error("the tokenizer in {} has no chat template; set `chat_template` to chatml, or to jinja with `chat_template_jinja`", path.display())]
    NoChatTemplate {
        /// The tokenizer folder.
        path: PathBuf,
    },
    /// A name of a chat template that is not known.
    #[error(
        "unknown chat template `{name}`; choose tokenizer_default, tokenizer_default_fallback_chatml, chatml, or jinja with `chat_template_jinja`"
    )]
    UnknownChatTemplate {
        /// The name.
        name: String,
    },
    /// `chat_template: jinja` without the template.
    #[error(
        "`chat_template: jinja` needs `chat_template_jinja`: the template itself, or the path of a file that holds it"
    )]
    NoJinja,
    /// A chat template that is not valid Jinja.
    #[error("chat template {name}{}: {message}", line.map(|l| format!(", line {l}")).unwrap_or_default())]
    TemplateSyntax {
        /// Where the template comes from.
        name: String,
        /// Line of the template, from 1.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// A chat template that fails on a conversation.
    #[error("chat template {name}{}: {message}", line.map(|l| format!(", line {l}")).unwrap_or_default())]
    TemplateFailed {
        /// Where the template comes from.
        name: String,
        /// Line of the template, from 1.
        line: Option<usize>,
        /// What it said: the text of `raise_exception`, or the engine's.
        message: String,
    },
    /// An error of the tokenizer or the template, at a row.
    #[error("{at}: {source}")]
    AtRow {
        /// The row.
        at: Place,
        /// What went wrong.
        source: Box<DataError>,
    },
}

impl DataError {
    /// The same error, at a row.
    #[must_use]
    pub fn at(self, at: &Place) -> Self {
        match self {
            Self::Encode { .. } | Self::TemplateFailed { .. } => Self::AtRow {
                at: at.clone(),
                source: Box::new(self),
            },
            other => other,
        }
    }
}

fn names(found: &[String]) -> String {
    if found.is_empty() {
        return "no columns".to_owned();
    }
    let quoted: Vec<_> = found.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// What a JSON value is, for messages.
pub(crate) fn kind(value: &serde_json::Value) -> &'static str {
    use serde_json::Value as V;
    match value {
        V::Null => "null",
        V::Bool(_) => "a boolean",
        V::Number(_) => "a number",
        V::String(_) => "text",
        V::Array(_) => "a list",
        V::Object(_) => "an object",
    }
}

/// The hint of a missing file: the working directory of a relative path and
/// the most similar name beside it.
pub(crate) fn nearest(path: &std::path::Path) -> String {
    let mut hint = String::new();
    if path.is_relative()
        && let Ok(cwd) = std::env::current_dir()
    {
        hint = format!(" in the working directory {}", cwd.display());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return hint;
    };
    let folder = if parent.as_os_str().is_empty() {
        std::path::Path::new(".")
    } else {
        parent
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return format!("{hint}; nor does the folder {}", folder.display());
    };
    let name = name.to_string_lossy();
    let best = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|other| (strsim::jaro_winkler(&name, &other), other))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)));
    match best {
        Some((_, other)) => format!("{hint}; did you mean {}?", parent.join(other).display()),
        None => hint,
    }
}
