//! The memory of this process and of the machine, as the system counts it.

use std::fs;
use std::path::{Path, PathBuf};

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
/// free, or what is left of the limit of a control group, whichever is less. `None`
/// where the system does not tell.
#[must_use]
pub fn available() -> Option<u64> {
    Some(left(Path::new("/"), Swap::Unused)?.left)
}

/// How far the system is from ending a process for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    /// Bytes that can still be had, swap included.
    pub left: u64,
    /// Bytes that there are for everything that runs: of the machine, or of the control
    /// group whose limit is nearest.
    pub of: u64,
}

/// How far the system is from ending a process for want of memory; `None` where it does
/// not tell.
#[must_use]
pub fn headroom() -> Option<Headroom> {
    left(Path::new("/"), Swap::Used)
}

/// Whether space for pages outside of the memory counts.
#[derive(Clone, Copy, PartialEq)]
enum Swap {
    Used,
    Unused,
}

/// What is left, by the files of the kernel under `root`.
fn left(root: &Path, swap: Swap) -> Option<Headroom> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let free_swap = match swap {
        Swap::Used => field(&meminfo, "SwapFree:").unwrap_or(0),
        Swap::Unused => 0,
    };
    let machine = Headroom {
        left: field(&meminfo, "MemAvailable:")? + free_swap,
        of: field(&meminfo, "MemTotal:")?,
    };
    let groups = groups(root).into_iter().filter_map(|group| {
        let mut space = group.left()?;
        if free_swap > 0 {
            space.left += group.swap().min(free_swap);
        }
        Some(space)
    });
    groups.chain([machine]).min_by_key(|space| space.left)
}

/// A control group that may limit the memory.
struct Group {
    folder: PathBuf,
    /// Names of the files with the limit, the use, and the line of `memory.stat` with
    /// the pages of files that are dropped first.
    names: [&'static str; 3],
}

impl Group {
    /// `None` without a limit: the file then says `max`, or is not there.
    fn left(&self) -> Option<Headroom> {
        let [limit, used, droppable] = self.names;
        let of = number(&self.folder.join(limit))?;
        let used = number(&self.folder.join(used))?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let droppable = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == droppable)
            .and_then(|(_, bytes)| bytes.trim().parse().ok())
            .unwrap_or(0);
        Some(Headroom {
            left: of.saturating_sub(used.saturating_sub(droppable)),
            of,
        })
    }

    /// Swap that the group may still use.
    fn swap(&self) -> u64 {
        let used = number(&self.folder.join("memory.swap.current")).unwrap_or(0);
        match number(&self.folder.join("memory.swap.max")) {
            Some(limit) => limit.saturating_sub(used),
            None => u64::MAX,
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The control groups of this process, up to the outermost that can be seen.
fn groups(root: &Path) -> Vec<Group> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut groups = Vec::new();
    for line in text.lines() {
        // `0::/path` in version 2, `7:memory:/path` in version 1.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mount, names) = match controllers {
            "" => (
                "sys/fs/cgroup",
                ["memory.max", "memory.current", "inactive_file"],
            ),
            _ if controllers.split(',').any(|it| it == "memory") => (
                "sys/fs/cgroup/memory",
                [
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                ],
            ),
            _ => continue,
        };
        // In a container the path may be one outside of it: what is not there is
        // passed over.
        groups.extend(Path::new(path).ancestors().map(|group| {
            Group {
                folder: root
                    .join(mount)
                    .join(group.strip_prefix("/").unwrap_or(group)),
                names,
            }
        }));
    }
    groups
}

/// The bytes of a line like `MemTotal:   16 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Bytes as GiB.
#[must_use]
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

fn parse(status: &str) -> Option<Resident> {
    Some(Resident {
        now: field(status, "VmRSS:")?,
        peak: field(status, "VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose kernel says this.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let meminfo =
            "MemTotal:  4000 kB\nMemFree: 1 kB\nMemAvailable:  1000 kB\nSwapFree: 500 kB\n";
        let all = [("proc/meminfo", meminfo)].into_iter();
        for (path, text) in all.chain(files.iter().copied()) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn kib(left: u64, of: u64) -> Option<Headroom> {
        Some(Headroom {
            left: left * 1024,
            of: of * 1024,
        })
    }

    #[test]
    fn the_machine_alone() {
        let root = machine(&[]);
        assert_eq!(left(root.path(), Swap::Unused), kib(1000, 4000));
        assert_eq!(left(root.path(), Swap::Used), kib(1500, 4000));
        assert_eq!(left(&root.path().join("nothing"), Swap::Used), None);
    }

    #[test]
    fn the_nearest_limit_of_nested_groups() {
        let root = machine(&[
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "1024\n"),
            ("sys/fs/cgroup/outer/memory.max", "1024000\n"),
            ("sys/fs/cgroup/outer/memory.current", "819200\n"),
            // A fifth of it are pages of files that nobody reads any more.
            (
                "sys/fs/cgroup/outer/memory.stat",
                "anon 1\ninactive_file 102400\n",
            ),
            ("sys/fs/cgroup/outer/memory.swap.max", "102400\n"),
            ("sys/fs/cgroup/outer/memory.swap.current", "0\n"),
        ]);
        assert_eq!(left(root.path(), Swap::Unused), kib(300, 1000));
        assert_eq!(left(root.path(), Swap::Used), kib(400, 1000));
    }

    #[test]
    fn groups_of_the_first_version_seen_from_a_container() {
        let root = machine(&[
            (
                "proc/self/cgroup",
                "8:cpu,memory:/docker/abc\n3:pids:/docker/abc\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2048000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1843200\n"),
        ]);
        assert_eq!(left(root.path(), Swap::Unused), kib(200, 2000));
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
