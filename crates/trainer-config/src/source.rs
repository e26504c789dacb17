//! The texts that values are read from, and places in them.
//!
//! A [`Span`] lies on one line: a value of several lines is marked on its first.
//! A [`Site`] is a key with its value in one text; the layers carry the number of
//! a site beside every value, so that whatever is said later can point at it.

use std::path::PathBuf;
use std::rc::Rc;

use crate::diagnostic::{Label, Origin};

/// A piece of one line; line and column from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
}

/// What a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceKind {
    File(PathBuf),
    Environment(String),
    CommandLine(String),
}

/// A text that values are read from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) kind: SourceKind,
    lines: Vec<String>,
}

impl Source {
    pub(crate) fn new(kind: SourceKind, text: &str) -> Self {
        Self {
            kind,
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    pub(crate) fn line(&self, line: usize) -> &str {
        self.lines
            .get(line.saturating_sub(1))
            .map_or("", String::as_str)
    }

    pub(crate) fn origin(&self, span: Span) -> Origin {
        match &self.kind {
            SourceKind::File(path) => Origin::File {
                path: path.clone(),
                line: span.line,
                column: span.column,
            },
            SourceKind::Environment(variable) => Origin::Environment {
                variable: variable.clone(),
            },
            SourceKind::CommandLine(flag) => Origin::CommandLine { flag: flag.clone() },
        }
    }

    pub(crate) fn label(&self, span: Span, note: impl Into<String>) -> Label {
        let source = self.line(span.line).to_owned();
        let length = source.chars().count();
        // A mark past the end of the line (something is missing there) is kept.
        let room = length.saturating_sub(span.column - 1).max(1);
        Label {
            origin: self.origin(span),
            column: span.column,
            width: span.width.clamp(1, room),
            source,
            note: note.into(),
        }
    }
}

/// A key with its value in one text.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) source: Rc<Source>,
    pub(crate) key: Span,
    pub(crate) value: Span,
}

impl Site {
    pub(crate) fn origin(&self) -> Origin {
        self.source.origin(self.key)
    }

    pub(crate) fn at_key(&self, note: impl Into<String>) -> Label {
        self.source.label(self.key, note)
    }

    pub(crate) fn at_value(&self, note: impl Into<String>) -> Label {
        self.source.label(self.value, note)
    }
}
