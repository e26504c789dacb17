//! Everything that can go wrong between a file and its samples.
//!
//! Invariant: a message says where (file, line or row), what is wrong, and
//! what to change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::values::{self, Special};

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
    /// A data set whose files or rows cannot be chosen as the configuration says.
    #[error("data set {}: {message}", path.display())]
    Dataset {
        /// The path, as written in the configuration.
        path: PathBuf,
        /// What is wrong and what to change.
        message: String,
    },
    /// A compressed file that is damaged, or unpacks to more than is sensible.
    #[error("cannot unpack {}: {message}", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to change.
        message: String,
    },
    /// A file whose format cannot be told from its name.
    #[error("cannot tell the format of {} from its name; set `ds_type` to json, csv, text, parquet or arrow{hint}", path.display())]
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
    /// A raw NUL byte in a text file.
    #[error("{}, line {line}: a NUL byte at byte {byte} of the line: the file is binary, in UTF-16, or damaged; text files are UTF-8", path.display())]
    NulByte {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Byte within the line, from 1.
        byte: usize,
    },
    /// A row that is too long to be kept in memory.
    #[error("{}, line {line}: the row is longer than 1 GiB; split it into several rows", path.display())]
    RowTooLong {
        /// The file.
        path: PathBuf,
        /// Line on which it starts, from 1.
        line: usize,
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
    /// A JSON array whose elements cannot be told apart.
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    JsonArray {
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
        found: String,
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
    /// A Parquet or Arrow file that cannot be decoded.
    #[error("cannot read {} as {format}: {message}", path.display())]
    Columnar {
        /// `Parquet` or `Arrow`.
        format: &'static str,
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
    #[error("data set {} has no rows; give a file with rows, or remove the data set", path.display())]
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
    /// A data set most of whose samples have nothing to train.
    #[error(
        "{untrained} of {samples} samples of data set {} have nothing to train, such as that of {at}: {text:?}; {advice}, or take such rows out",
        path.display()
    )]
    MostlyUntrained {
        /// The file.
        path: PathBuf,
        /// Samples with nothing to train.
        untrained: usize,
        /// All samples.
        samples: usize,
        /// A row that gives one.
        at: Place,
        /// The beginning of its text.
        text: Box<str>,
        /// What to change.
        advice: Box<str>,
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
    /// A part of the prepared data that holds nothing.
    #[error(
        "`dataset_shard_num: {parts}` of {rows} samples leaves part {part} empty; write a smaller number"
    )]
    ShardEmpty {
        /// Number of parts.
        parts: usize,
        /// The part, from 0.
        part: usize,
        /// Samples to divide.
        rows: usize,
    },
    /// Threads that cannot be started.
    #[error("`dataset_num_proc: {threads}`: cannot start the threads: {message}")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// What the system said.
        message: String,
    },
    /// More samples than can be numbered.
    #[error("{rows} samples are more than one run can hold (2^32); use fewer rows, or `shards`")]
    TooManySamples {
        /// Number of samples.
        rows: usize,
    },
    /// A cursor of a stream over other data.
    #[error(
        "the stream cannot go on where it was: {message}; restore what was changed, or start anew"
    )]
    Cursor {
        /// What differs.
        message: String,
    },
    /// A tokenizer folder that cannot be loaded.
    #[error("cannot load the tokenizer from {}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A tokenizer that GGUF cannot describe, or a description that cannot be used.
    #[error("{}: {message}", path.display())]
    GgufTokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A reserved token that cannot have another text.
    #[error("`added_tokens_overrides`: token {id} of {} cannot be replaced: {message}", path.display())]
    TokenOverride {
        /// The id, as written.
        id: String,
        /// The tokenizer folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A tokenizer without a token that ends answers.
    #[error(
        "nothing would end the answers, so that a model trained on them would not learn to stop: of the tokenizer in {}, {reason}; give the token that ends a sequence as `eos_token` under `special_tokens`",
        path.display()
    )]
    NoEnd {
        /// The tokenizer folder.
        path: PathBuf,
        /// Why there is none.
        reason: String,
    },
    /// A tokenizer that fails on a text.
    #[error("the tokenizer failed: {message}")]
    Encode {
        /// What it said.
        message: String,
    },
    /// A chat template that is not there.
    #[error("the tokenizer in {} has no chat template; set `chat_template` to the name of a bundled one (such as chatml), or give one as `chat_template_jinja`", path.display())]
    NoChatTemplate {
        /// The tokenizer folder.
        path: PathBuf,
    },
    /// A tokenizer with chat templates of which none is for chats in general.
    #[error("the tokenizer in {} has the chat templates {names}, but none named `default` (or `tool_use`, for rows with tools); set `chat_template` to the name of a bundled one, or give one as `chat_template_jinja`", path.display())]
    NoDefaultTemplate {
        /// The tokenizer folder.
        path: PathBuf,
        /// Names of its templates.
        names: String,
    },
    /// A name of a chat template that is not known.
    #[error(
        "chat template `{name}` is not bundled; choose tokenizer_default, one of {}, or give the template as `chat_template_jinja`",
        crate::ChatTemplate::bundled().collect::<Vec<_>>().join(", ")
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
    /// A token of `eot_tokens` that cannot end turns.
    #[error("`eot_tokens`: {token:?} {message}")]
    EndToken {
        /// The token.
        token: String,
        /// What is wrong and how to fix it.
        message: String,
    },
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
    /// Whether one row is at fault, and the rows after it can still be read.
    pub(crate) fn is_of_one_row(&self) -> bool {
        matches!(
            self,
            Self::InvalidUtf8 { .. }
                | Self::Json { .. }
                | Self::NotAnObject { .. }
                | Self::MissingColumn { .. }
                | Self::WrongType { .. }
                | Self::Row { .. }
                | Self::AtRow { .. }
        )
    }

    /// The error of a file or folder that is not there, with the name that is nearest.
    #[must_use]
    pub fn missing(what: &'static str, path: &std::path::Path) -> Self {
        Self::Missing {
            what,
            path: path.to_owned(),
            hint: nearest(path),
        }
    }

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
pub(crate) fn kind(value: &serde_json::Value) -> String {
    use serde_json::Value as V;
    match values::special(value) {
        Some(Special::Integer(_)) => return "an integer beyond 64 bits".to_owned(),
        Some(Special::Unreadable(what)) => return what.to_owned(),
        None => {}
    }
    let name = match value {
        V::Null => "null",
        V::Bool(_) => "a boolean",
        V::Number(_) => "a number",
        V::String(_) => "text",
        V::Array(values) if values.is_empty() => "an empty list",
        V::Array(_) => "a list",
        V::Object(_) => "an object",
    };
    name.to_owned()
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
