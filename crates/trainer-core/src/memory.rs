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

/// Memory that a process can still get, in bytes: what the system has free or can
/// free, or what is left of the limit of the control group, whichever is less. `None`
/// where the system does not tell.
#[must_use]
pub fn available() -> Option<u64> {
    let system = meminfo_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let number = |path: &str| -> Option<u64> {
        // A group without a limit says "max".
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let groups = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ];
    let left = groups
        .into_iter()
        .filter_map(|(limit, used)| Some(number(limit)?.saturating_sub(number(used).unwrap_or(0))));
    Some(left.fold(system, u64::min))
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
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
    fn reads_what_is_available() {
        let text = "MemTotal:   16 kB\nMemFree:  1 kB\nMemAvailable:   8 kB\n";
        assert_eq!(meminfo_available(text), Some(8192));
        assert_eq!(meminfo_available("MemTotal: 16 kB\n"), None);
    }

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
