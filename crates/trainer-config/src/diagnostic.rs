//! What is said about a configuration: where, what, and how to put it right.
//!
//! A [`Diagnostic`] holds everything it shows, the source lines included, so it
//! outlives the text it is about and can be printed, tested, or turned into
//! another form (an editor's, for example). [`std::fmt::Display`] lays it out as
//! the Rust compiler does. Lines and columns count from 1, in characters.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the YAML file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    CommandLine {
        /// The flag, with its dashes.
        flag: String,
    },
}

impl Origin {
    /// Whether both are in the same text.
    fn same_source(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { path: a, .. }, Self::File { path: b, .. }) => a == b,
            _ => self == other,
        }
    }

    fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            _ => None,
        }
    }
}

/// Without the column: `config.yaml:3`, `environment TRAINER__SEED`,
/// `command line --seed`, `default`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::CommandLine { flag } => write!(f, "command line {flag}"),
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but does not do all that it says.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A marked piece of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Where the line is.
    pub origin: Origin,
    /// The line: of the file, or the variable or flag with its value.
    pub source: String,
    /// First marked character of `source`, from 1.
    pub column: usize,
    /// Number of marked characters, at least 1.
    pub width: usize,
    /// What is said beside the mark.
    pub note: String,
}

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line without a full stop.
    pub message: String,
    /// The file as a whole, where no line of it can be named.
    pub file: Option<PathBuf>,
    /// The places it is about, the main one first.
    pub labels: Vec<Label>,
    /// How to put it right, most specific first.
    pub help: Vec<String>,
}

impl Diagnostic {
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            file: None,
            labels: Vec::new(),
            help: Vec::new(),
        }
    }

    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    pub(crate) fn label(mut self, label: Label) -> Self {
        self.labels.push(label);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    pub(crate) fn in_file(mut self, file: Option<PathBuf>) -> Self {
        self.file = file;
        self
    }

    /// The order in which diagnostics are shown: those of the file by line,
    /// then those of the environment, the command line and no place at all.
    pub(crate) fn sort_key(&self) -> (u8, usize, usize) {
        match self.labels.first().map(|label| &label.origin) {
            Some(Origin::File { line, column, .. }) => (1, *line, *column),
            Some(Origin::Environment { .. }) => (2, 0, 0),
            Some(Origin::CommandLine { .. }) => (3, 0, 0),
            Some(Origin::Default) => (4, 0, 0),
            None => (0, 0, 0),
        }
    }
}

/// Longest source line that is shown whole, in characters.
const LINE_WIDTH: usize = 120;
/// Characters that are shown before the mark in a longer line.
const CONTEXT: usize = 40;
const ELLIPSIS: &str = "...";

/// The part of a line that is shown.
struct Excerpt {
    text: String,
    /// Column of the line that stands first in `text`; below 1 where `text` starts
    /// with an ellipsis.
    offset: isize,
    /// Last column that is shown.
    last: usize,
}

fn excerpt(label: &Label) -> Excerpt {
    // A tab is as wide as the terminal says; one space keeps the mark in place.
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let chars: Vec<char> = label.source.chars().map(clean).collect();
    let first = if chars.len() <= LINE_WIDTH {
        0
    } else {
        // Near enough to the start, the line is shown from there.
        match label.column.saturating_sub(CONTEXT) {
            near if near <= ELLIPSIS.len() => 0,
            far => far.min(chars.len()),
        }
    };
    let last = (first + LINE_WIDTH).min(chars.len());
    let before = if first == 0 { "" } else { ELLIPSIS };
    let after = if last == chars.len() { "" } else { ELLIPSIS };
    let shown: String = chars[first..last].iter().collect();
    Excerpt {
        text: format!("{before}{shown}{after}"),
        offset: first as isize + 1 - before.len() as isize,
        last,
    }
}

/// Writes the labels of one source: its place, then its lines with their marks.
///
/// `labels` come with their rank in the diagnostic; `digits` is the width of the
/// line numbers.
fn write_source(
    f: &mut fmt::Formatter<'_>,
    arrow: &str,
    digits: usize,
    place: &Origin,
    labels: &[(usize, &Label)],
) -> fmt::Result {
    write!(f, "\n{:digits$}{arrow} ", "")?;
    match place {
        Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display())?,
        other => write!(f, "{other}")?,
    }
    write!(f, "\n{:digits$} |", "")?;
    let mut shown: Option<(Option<usize>, Excerpt)> = None;
    for (rank, label) in labels {
        let line = label.origin.line();
        if let (Some((Some(last), _)), Some(line)) = (&shown, line)
            && line > last + 1
        {
            f.write_str("\n...")?;
        }
        // A second mark of the same line goes below the first, unless it lies
        // outside of the part that is shown.
        let same = shown
            .take()
            .filter(|(last, excerpt)| *last == line && label.column <= excerpt.last)
            .filter(|(_, excerpt)| label.column as isize >= excerpt.offset);
        let excerpt = match same {
            Some((_, excerpt)) => excerpt,
            None => {
                let excerpt = excerpt(label);
                let number = line.map_or_else(String::new, |line| line.to_string());
                write!(f, "\n{number:>digits$} | {}", excerpt.text)?;
                excerpt
            }
        };
        let visible = (excerpt.last + 1).saturating_sub(label.column).max(1);
        let mark = if *rank == 0 { "^" } else { "-" }.repeat(label.width.clamp(1, visible));
        let indent = usize::try_from(label.column as isize - excerpt.offset).unwrap_or(0);
        write!(f, "\n{:digits$} | {:indent$}{mark}", "", "")?;
        if !label.note.is_empty() {
            write!(f, " {}", label.note)?;
        }
        shown = Some((line, excerpt));
    }
    Ok(())
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        let lines = self.labels.iter().filter_map(|label| label.origin.line());
        let digits = lines.max().map_or(1, |line| line.to_string().len());
        if let Some(file) = self.file.as_ref().filter(|_| self.labels.is_empty()) {
            write!(f, "\n{:digits$}--> {}", "", file.display())?;
        }
        let mut rest: Vec<(usize, &Label)> = self.labels.iter().enumerate().collect();
        let mut arrow = "-->";
        while let Some((_, head)) = rest.first().copied() {
            let (mut group, others): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|(_, label)| label.origin.same_source(&head.origin));
            rest = others;
            group.sort_by_key(|(rank, label)| (label.origin.line(), *rank));
            write_source(f, arrow, digits, &head.origin, &group)?;
            arrow = ":::";
        }
        if !self.help.is_empty() && !self.labels.is_empty() {
            write!(f, "\n{:digits$} |", "")?;
        }
        for help in &self.help {
            write!(f, "\n{:digits$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, found in one pass.
///
/// There is at least one error among the diagnostics; warnings are included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    diagnostics: Vec<Diagnostic>,
}

impl ConfigErrors {
    /// Errors and the warnings beside them.
    #[must_use]
    pub fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        let errors_last = |d: &Diagnostic| d.severity == Severity::Error;
        diagnostics.sort_by_key(|d| (errors_last(d), d.sort_key()));
        Self { diagnostics }
    }

    /// The warnings and then the errors, each in the order of the file.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Number of errors, warnings left out.
    #[must_use]
    pub fn count(&self) -> usize {
        self.diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .count()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            write!(f, "{diagnostic}\n\n")?;
        }
        match self.count() {
            1 => f.write_str("1 error in the configuration"),
            n => write!(f, "{n} errors in the configuration"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
