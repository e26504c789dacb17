//! What a user asks of a run that is under way: signals, and files in the output
//! folder.
//!
//! - SIGINT and SIGTERM: finish the step, write a checkpoint, end. A second signal
//!   ends at once.
//! - a file named `SAVE`, `EVALUATE` or `STOP` in the output folder: the same
//!   without a terminal. The file is taken away when the wish is granted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use trainer_core::{Observer, Requests};

use crate::EXIT_STOPPED;

/// Watches for wishes.
pub(crate) struct Wishes {
    folder: PathBuf,
    signalled: Arc<AtomicBool>,
}

impl Wishes {
    /// Signals are taken from here on.
    ///
    /// # Errors
    /// When the system refuses to deliver them.
    pub(crate) fn watch(output: &Path) -> std::io::Result<Self> {
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset and sets it.
            flag::register_conditional_shutdown(signal, EXIT_STOPPED, Arc::clone(&signalled))?;
            flag::register(signal, Arc::clone(&signalled))?;
        }
        Ok(Self {
            folder: output.to_path_buf(),
            signalled,
        })
    }
}

impl Observer for Wishes {
    fn requests(&mut self) -> Requests {
        let file = |name: &str| fs::remove_file(self.folder.join(name)).is_ok();
        Requests {
            evaluate: file("EVALUATE"),
            save: file("SAVE"),
            stop: file("STOP") || self.signalled.load(Ordering::Relaxed),
        }
    }
}
