//! Why a command failed: an error of one of the crates as the message that is printed,
//! and the exit code.

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

use trainer_config::ConfigErrors;

use crate::EXIT_STOPPED;

/// Why a command failed, ready to be printed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Without a heading.
    message: String,
    /// What stands in front of the message.
    heading: &'static str,
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
    /// A message, in front of which `error:` stands when it is printed, whether it brings
    /// that or not.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        let bare = message.strip_prefix("error: ").map(str::to_owned);
        Self {
            message: bare.unwrap_or(message),
            heading: "error: ",
            kind: Kind::Failed,
        }
    }

    /// The end of a run that was asked to stop.
    pub(crate) fn stopped(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Stopped,
            heading: "",
            ..Self::new(message)
        }
    }

    /// The message without its heading.
    pub(crate) fn message(&self) -> &str {
        &self.message
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
        write!(f, "{}{}", self.heading, self.message)
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let any: &(dyn std::error::Error + 'static) = &error;
        let mut text = error.to_string();
        if has_kind(any, &[ErrorKind::StorageFull, ErrorKind::QuotaExceeded]) {
            text += DISK_FULL;
        }
        Self {
            // Each of the errors and warnings of a configuration has a heading of its own.
            heading: match any.is::<ConfigErrors>() {
                true => "",
                false => "error: ",
            },
            kind: match has_kind(any, &[ErrorKind::BrokenPipe]) {
                true => Kind::Unread,
                false => Kind::Failed,
            },
            message: text,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_heading_whatever_comes_first() {
        let yaml = "base_model: m\nflash_attention: true\nlearnig_rate: 1\n";
        let errors = trainer_config::load_str("run.yaml", yaml).unwrap_err();
        let text = Failure::from(errors).to_string();
        assert!(text.starts_with("warning: `flash_attention`"), "{text}");
        assert!(!text.contains("error: warning"), "{text}");
        assert_eq!(Failure::new("it broke").to_string(), "error: it broke");
        assert_eq!(
            Failure::new("error: it broke").to_string(),
            "error: it broke"
        );
        let io = std::io::Error::other("errors everywhere");
        assert_eq!(Failure::from(io).to_string(), "error: errors everywhere");
    }
}
