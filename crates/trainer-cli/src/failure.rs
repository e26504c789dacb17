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
    /// The run was asked to stop, and did.
    stopped: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            stopped: false,
        }
    }

    /// The end of a run that was asked to stop.
    pub(crate) fn stopped(message: impl Into<String>) -> Self {
        Self {
            stopped: true,
            ..Self::new(message)
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.stopped {
            true => ExitCode::from(EXIT_STOPPED as u8),
            false => ExitCode::FAILURE,
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
        if is_full(&error) {
            text += DISK_FULL;
        }
        // Messages of the configuration come with their own heading.
        if text.starts_with("error") {
            Self::new(text)
        } else {
            Self::new(format!("error: {text}"))
        }
    }
}

/// What to do about a full disk.
const DISK_FULL: &str = "
  = help: free some space; fewer or smaller files are written with a lower save_total_limit, \
`save_only_model: true` or an adapter; output_dir and dataset_prepared_path may be on another disk";

/// Whether an error comes from a disk or a quota without space.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut kinds = causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    kinds.any(|kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}
