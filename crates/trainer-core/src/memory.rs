//! The memory of this process, as the system counts it.

use std::fs;

/// Memory of this process that is in use, in bytes. Pages of files that are mapped
/// count where they have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Now.
    pub now: u64,
    /// At most since the process began.
    pub peak: u64,
}

/// The memory of this process; `None` where the system does not tell (it is read
/// from `/proc`, as on Linux).
#[must_use]
pub fn resident() -> Option<Resident> {
    parse(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes as GiB.
#[must_use]
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

fn parse(status: &str) -> Option<Resident> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some(Resident {
        now: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = "Name:\ttrainer\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let expected = Resident {
            now: 1 << 20,
            peak: 2 << 20,
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Name:\ttrainer\n"), None);
    }
}
