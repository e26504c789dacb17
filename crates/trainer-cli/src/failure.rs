//! Why a command failed: an error of one of the crates as the message that is printed,
//! and the exit code.

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

use crate::EXIT_STOPPED;

/// Why a command failed, ready to be printed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    /// The run was asked to stop, and did.
    Stopped,
    /// Whoever read what is printed has read enough, as `head` does.
    Unread,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            kind: Kind::Failed,
        }
    }

    /// The end of a run that was asked to stop.
    pub(crate) fn stopped(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Stopped,
            ..Self::new(message)
        }
    }

    /// Says why, where there is something to say, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.kind != Kind::Unread {
            eprintln!("{self}");
        }
        match self.kind {
            Kind::Failed => ExitCode::FAILURE,
            Kind::Stopped => ExitCode::from(EXIT_STOPPED as u8),
            Kind::Unread => ExitCode::SUCCESS,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        if has_kind(&error, &[ErrorKind::StorageFull, ErrorKind::QuotaExceeded]) {
            text += DISK_FULL;
        }
        // Messages of the configuration come with their own heading.
        let failure = match text.starts_with("error") {
            true => Self::new(text),
            false => Self::new(format!("error: {text}")),
        };
        match has_kind(&error, &[ErrorKind::BrokenPipe]) {
            true => Self {
                kind: Kind::Unread,
                ..failure
            },
            false => failure,
        }
    }
}

/// What to do about a full disk.
const DISK_FULL: &str = "
  = help: free some space; fewer or smaller files are written with a lower save_total_limit, \
`save_only_model: true` or an adapter; output_dir and dataset_prepared_path may be on another disk";

/// Whether an error, or what caused it, is one of the system of these kinds.
fn has_kind(error: &(dyn std::error::Error + 'static), kinds: &[ErrorKind]) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut found = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    found.any(|cause| kinds.contains(&cause.kind()))
}
