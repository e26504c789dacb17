//! The end of a run that the machine has no memory for, with a word about it.
//!
//! Linux gives memory that it does not have, and ends the process that fills the
//! machine when it is used: without a message, and without a trace in the run's files.
//! A thread watches what is left and ends the run just before. Where the system refuses
//! an allocation (under `ulimit -v`, or without overcommitment), the allocator calls
//! [`refused`].
//!
//! Nothing is saved then, which would take memory; whatever has its name on the disk is
//! complete.

use std::cell::Cell;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use trainer_core::memory::{self, Headroom};

use crate::fit::size;

/// What to change, known before it is too late to find out.
static ADVICE: OnceLock<String> = OnceLock::new();

/// Whether the end has begun.
static ENDING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether it is this thread that ends the process: its own allocations may fail too.
    static ENDING_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Time between two looks where the end is near, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

/// Bytes in a second that a process can fill, at most: what there is goes down by no
/// more in a pause.
const FILLED_PER_SECOND: u64 = 4 << 30;

/// Begins to watch. `advice` says what to change.
pub(crate) fn watch(advice: String) {
    if ADVICE.set(advice).is_err() {
        // One watch is enough.
        return;
    }
    let watch = || {
        while let Some(room) = memory::headroom() {
            let reserve = reserve(room);
            if room.left < reserve && fills_the_machine(room) {
                end(&format!(
                    "{} of {} are left, and the system would end the run without a word",
                    size(room.left),
                    size(room.of)
                ));
            }
            std::thread::sleep(pause(room.left - reserve.min(room.left)));
        }
    };
    // Without a thread for it, nobody watches.
    let _ = std::thread::Builder::new()
        .name("memory".into())
        .spawn(watch);
}

/// What is left when the run has to end: a fiftieth, and neither so little that it is
/// gone before the next look nor more than a GiB.
fn reserve(room: Headroom) -> u64 {
    (room.of / 50).clamp(64 << 20, 1 << 30)
}

/// Whether this process is the one that the system would end. A run is not ended for
/// what others take.
fn fills_the_machine(room: Headroom) -> bool {
    memory::resident().is_some_and(|resident| resident.now > (room.of - room.left.min(room.of)) / 2)
}

/// Time until what is left can have gone down by `spare` bytes.
fn pause(spare: u64) -> Duration {
    let [shortest, longest] = PAUSES;
    Duration::from_millis(spare * 1000 / FILLED_PER_SECOND).clamp(shortest, longest)
}

/// Called when the system gives no memory. Returns, so that the allocation fails in its
/// own way, where no machine would have had so much: that is a wrong length, not a want
/// of memory.
pub(crate) fn refused(bytes: usize) {
    if ENDING_HERE.get() {
        return;
    }
    let machine = memory::headroom().map_or(u64::MAX, |room| room.of);
    if (bytes as u64) < machine {
        end(&format!("the system gave no {} more", size(bytes as u64)));
    }
}

#[expect(clippy::exit, reason = "there is no way back from a failed allocation")]
fn end(why: &str) {
    while ENDING.swap(true, Ordering::Relaxed) {
        // Another thread is about it, and the process is over when it is done.
        std::thread::park();
    }
    ENDING_HERE.set(true);
    #[cfg(feature = "tui")]
    crate::tui::give_back();
    let used = memory::resident().map_or_else(String::new, |resident| {
        format!(" uses {};", size(resident.now))
    });
    let mut text = format!("\nerror: out of memory: this process{used} {why}\n");
    if let Some(advice) = ADVICE.get() {
        text += &format!("  = help: {}\n", advice.replace('\n', "\n          "));
    }
    // That nobody reads it is no reason to go on.
    let _ = std::io::stderr().write_all(text.as_bytes());
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_more_often_the_less_is_left() {
        assert_eq!(pause(0), PAUSES[0]);
        assert_eq!(pause(FILLED_PER_SECOND / 8), Duration::from_millis(125));
        assert_eq!(pause(1 << 40), PAUSES[1]);
    }

    #[test]
    fn the_reserve_is_a_fiftieth_within_bounds() {
        let of = |of: u64| reserve(Headroom { left: of, of });
        assert_eq!(of(1 << 30), 64 << 20);
        assert_eq!(of(50 << 28), 1 << 28);
        assert_eq!(of(1 << 40), 1 << 30);
    }
}
