//! The account of a data preparation: what came in, what is kept, and why the
//! rest is not.
//!
//! Invariants: for each data set, samples = kept + the dropped of all reasons,
//! tokens = kept tokens + cut tokens + dropped tokens, and rows = those with a
//! sample that is kept + those without. A row that never becomes tokens is counted
//! in `skipped`, one that is used more often in `repeated`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::atomic::write_atomically;
use crate::{DataError, Place};

/// Name of the file that the account is saved under.
pub(crate) const LEDGER_FILE: &str = "data_ledger.json";

/// Samples and their tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Number of samples.
    pub samples: usize,
    /// Number of tokens in them.
    pub tokens: usize,
}

impl Count {
    /// Adds one sample.
    pub fn add(&mut self, tokens: usize) {
        self.samples += 1;
        self.tokens += tokens;
    }
}

/// Why a sample is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The row holds no text.
    Empty,
    /// More tokens than `sequence_len`.
    TooLong,
    /// Fewer tokens than `min_sample_len`.
    TooShort,
    /// No token is a target.
    NothingToTrain,
    /// No token is a target in what the cut at `sequence_len` leaves.
    CutOff,
    /// The tokens and labels of an earlier sample.
    Duplicate,
    /// An evaluation sample that is trained on as well.
    InTraining,
    /// Not in the part that `dataset_shard_idx` chooses.
    OtherShard,
}

impl DropReason {
    /// Whether a sample was dropped because no token of it is a target.
    pub(crate) fn is_untrained(self) -> bool {
        matches!(self, Self::NothingToTrain | Self::CutOff)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::TooLong => "too long",
            Self::TooShort => "too short",
            Self::NothingToTrain => "nothing to train",
            Self::CutOff => "cut off before the trained part",
            Self::Duplicate => "duplicate",
            Self::InTraining => "also trained on",
            Self::OtherShard => "in another shard",
        })
    }
}

/// Why a row never becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Outside of the slice that `split` names, or within `skip`.
    Slice,
    /// In another shard.
    Shard,
    /// Left out by a `weight` below 1.
    Weight,
    /// Malformed, where the configuration says to go on.
    Malformed,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slice => "outside of the slice",
            Self::Shard => "in another shard",
            Self::Weight => "left out by `weight`",
            Self::Malformed => "malformed",
        })
    }
}

/// Rows that became several samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCount {
    /// Number of rows.
    pub rows: usize,
    /// Number of samples that they became.
    pub samples: usize,
}

/// Something about a row that is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is and what to do, the same text for all rows.
    pub message: String,
    /// Where in the row: `messages[2].tool_calls`.
    pub place: String,
}

impl Note {
    /// A remark on a place of a row.
    pub(crate) fn new(message: impl Into<String>, place: &str) -> Self {
        Self {
            message: message.into(),
            place: place.to_owned(),
        }
    }
}

/// Something that is no error, and the rows that it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What it is and what to do.
    pub message: String,
    /// Number of rows.
    pub rows: usize,
    /// The first of them, and where in it.
    pub first: String,
}

/// The account of one data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetLedger {
    /// The file, as written in the configuration.
    pub path: PathBuf,
    /// The strategy that was used.
    pub strategy: String,
    /// Whether it is one of `test_datasets`.
    pub test: bool,
    /// Rows read.
    pub rows: usize,
    /// Rows of which at least one sample is kept.
    #[serde(default)]
    pub kept_rows: usize,
    /// Rows read that were not made into samples, by reason.
    #[serde(default)]
    pub skipped: BTreeMap<SkipReason, usize>,
    /// Samples of the training data that a `weight` above 1 added.
    #[serde(default)]
    pub repeated: usize,
    /// Rows that became more than one sample each.
    #[serde(default)]
    pub split: SplitCount,
    /// Samples made of them and their tokens, before anything is dropped or cut.
    /// A row without text counts as an empty sample.
    pub made: Count,
    /// Samples kept and their tokens.
    pub kept: Count,
    /// Tokens that are targets, in the samples kept.
    pub trained_tokens: usize,
    /// Samples whose end was cut off, and the tokens that were cut.
    pub truncated: Count,
    /// Samples dropped, by reason.
    pub dropped: BTreeMap<DropReason, Count>,
    /// What is to be said about rows, in the order in which it was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

impl DatasetLedger {
    /// Counts a row as left out.
    pub fn skip(&mut self, reason: SkipReason) {
        *self.skipped.entry(reason).or_default() += 1;
    }

    /// Enters what is to be said about a row: each message counts it once.
    pub(crate) fn note(&mut self, at: &Place, notes: Vec<Note>) {
        let mut said: Vec<String> = Vec::new();
        for Note { message, place } in notes {
            if said.contains(&message) {
                continue;
            }
            said.push(message.clone());
            let mut known = self.warnings.iter_mut();
            match known.find(|known| known.message == message) {
                Some(known) => known.rows += 1,
                None => self.warnings.push(Warning {
                    message,
                    rows: 1,
                    first: format!("{at}, `{place}`"),
                }),
            }
        }
    }

    /// Counts a sample that was kept as dropped after all.
    pub(crate) fn unkeep(&mut self, reason: DropReason, tokens: usize, trained: usize) {
        self.kept.samples = self.kept.samples.saturating_sub(1);
        self.kept.tokens = self.kept.tokens.saturating_sub(tokens);
        self.trained_tokens = self.trained_tokens.saturating_sub(trained);
        self.drop(reason, tokens);
    }

    /// Counts a sample as dropped.
    pub(crate) fn drop(&mut self, reason: DropReason, tokens: usize) {
        self.dropped.entry(reason).or_default().add(tokens);
    }
}

/// Sums over a split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Number of rows that the samples are of. A row that is used several times
    /// counts once.
    #[serde(default)]
    pub rows: usize,
    /// Number of samples.
    pub samples: usize,
    /// Number of tokens in them.
    pub tokens: usize,
    /// Tokens that are targets.
    pub trained_tokens: usize,
}

/// The account of a run's data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// One entry a data set, in the order of the configuration, `test_datasets` last.
    pub datasets: Vec<DatasetLedger>,
    /// What is trained on.
    pub train: Totals,
    /// What is evaluated on.
    pub eval: Totals,
    /// Samples of those that are trained on as well, because the data holds them
    /// more than once.
    #[serde(default)]
    pub eval_in_train: usize,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            message,
            rows,
            first,
        } = self;
        let rows = match rows {
            1 => "1 row".to_owned(),
            rows => format!("{rows} rows, the first"),
        };
        write!(f, "{message} ({rows}: {first})")
    }
}

impl Ledger {
    /// What is to be said about the rows of all data sets.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.datasets.iter().flat_map(|set| &set.warnings)
    }

    /// Saves the account as `data_ledger.json` in a folder, which is made if it
    /// is not there. The file is the old one or the complete new one.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save(&self, folder: &Path) -> Result<PathBuf, DataError> {
        let path = folder.join(LEDGER_FILE);
        write_atomically(&path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })?;
        Ok(path)
    }
}

impl fmt::Display for Ledger {
    /// A table, one line a data set, then a line for everything that was left
    /// out, repeated, split, dropped or cut, then the splits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "data set", "type", "rows", "samples", "kept", "tokens", "trained",
        ];
        let lines: Vec<[String; 7]> = self
            .datasets
            .iter()
            .map(|set| {
                [
                    format!(
                        "{}{}",
                        set.path.display(),
                        if set.test { " (test)" } else { "" }
                    ),
                    set.strategy.clone(),
                    set.rows.to_string(),
                    set.made.samples.to_string(),
                    set.kept.samples.to_string(),
                    set.kept.tokens.to_string(),
                    set.trained_tokens.to_string(),
                ]
            })
            .collect();
        let mut widths = head.map(str::len);
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut write = |cells: [&str; 7]| -> fmt::Result {
            for (column, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                // Text to the left, numbers to the right.
                if column < 2 {
                    write!(f, "{gap}{cell:<width$}")?;
                } else {
                    write!(f, "{gap}{cell:>width$}")?;
                }
            }
            writeln!(f)
        };
        write(head)?;
        for line in &lines {
            write(std::array::from_fn(|i| line[i].as_str()))?;
        }
        for set in &self.datasets {
            let path = set.path.display();
            for (reason, rows) in &set.skipped {
                writeln!(f, "{path}: {rows} rows not used, {reason}")?;
            }
            if set.repeated > 0 {
                writeln!(f, "{path}: {} samples added by `weight`", set.repeated)?;
            }
            if set.split.rows > 0 {
                writeln!(
                    f,
                    "{path}: {} rows split into {} samples",
                    set.split.rows, set.split.samples
                )?;
            }
            for (reason, count) in &set.dropped {
                writeln!(
                    f,
                    "{path}: {} dropped, {reason} ({} tokens)",
                    count.samples, count.tokens
                )?;
            }
            if set.truncated.samples > 0 {
                writeln!(
                    f,
                    "{path}: {} cut to the sequence length ({} tokens)",
                    set.truncated.samples, set.truncated.tokens
                )?;
            }
        }
        for (name, split) in [("train", self.train), ("eval", self.eval)] {
            if name == "train" || split.samples > 0 {
                write!(f, "{name}: {} samples", split.samples)?;
                if split.rows < split.samples {
                    write!(f, " of {} rows", split.rows)?;
                }
                writeln!(
                    f,
                    ", {} tokens, {} trained",
                    split.tokens, split.trained_tokens
                )?;
            }
        }
        if self.eval_in_train > 0 {
            writeln!(
                f,
                "warning: {} of {} samples of the evaluation data are trained on as well, since the data holds them more than once; `dataset_exact_deduplication: true` keeps one of each",
                self.eval_in_train, self.eval.samples
            )?;
        }
        Ok(())
    }
}
