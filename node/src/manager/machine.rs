//! What this machine gives the process: memory, control group, descriptors. Read from `/proc` and
//! `/sys`; elsewhere than on Linux nothing is known and the defaults are modest.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// A control group that bounds the memory of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryGroup {
    /// Its limit in bytes: the least of its own and those above it.
    pub limit: u64,
    /// 1 or 2.
    pub version: u8,
    /// Folder of the group with that limit.
    folder: PathBuf,
}

/// What is known about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Machine {
    /// Bytes of memory.
    pub ram: Option<u64>,
    /// The control group, if it has a limit below the memory of the machine.
    pub group: Option<MemoryGroup>,
    /// Most files the process may have open (the soft `RLIMIT_NOFILE`).
    pub descriptors: Option<u64>,
}

impl Machine {
    /// Reads it now.
    #[must_use]
    pub fn read() -> Self {
        let ram = read("/proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal:"));
        let group = read("/proc/self/cgroup")
            .and_then(|text| memory_group(&text, Path::new("/sys/fs/cgroup")))
            .filter(|group| ram.is_none_or(|ram| group.limit < ram));
        let descriptors = read("/proc/self/limits").and_then(|text| open_files(&text));
        Self {
            ram,
            group,
            descriptors,
        }
    }

    /// As it was when it was first asked for.
    #[must_use]
    pub fn get() -> &'static Self {
        static MACHINE: OnceLock<Machine> = OnceLock::new();
        MACHINE.get_or_init(Self::read)
    }
}

impl MemoryGroup {
    /// Where the kernel keeps its files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    #[cfg(test)]
    pub(super) fn at(folder: &Path, version: u8, limit: u64) -> Self {
        let folder = folder.to_owned();
        Self {
            limit,
            version,
            folder,
        }
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of `Name:   123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes = number(line.trim().strip_suffix("kB")?)?;
    kilobytes.checked_mul(1024)
}

/// The soft limit of `Max open files  1024  4096  files`.
fn open_files(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    number(line.split_whitespace().next()?)
}

/// The tightest limit on the way from the process's group to the root of the hierarchy that
/// controls memory: the one named in version 1, else the unified one.
fn memory_group(cgroups: &str, root: &Path) -> Option<MemoryGroup> {
    let mut found = None;
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (version, top, file) = if controllers.split(',').any(|name| name == "memory") {
            (1, root.join("memory"), "memory.limit_in_bytes")
        } else if controllers.is_empty() {
            (2, root.to_owned(), "memory.max")
        } else {
            continue;
        };
        let mut folder = top.join(path.trim_start_matches('/'));
        loop {
            let limit = read(folder.join(file)).and_then(|text| number(&text));
            if let Some(limit) = limit
                && found
                    .as_ref()
                    .is_none_or(|found: &MemoryGroup| limit < found.limit)
            {
                found = Some(MemoryGroup {
                    limit,
                    version,
                    folder: folder.clone(),
                });
            }
            if folder == top || !folder.pop() {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let meminfo = "MemTotal:       24605764 kB\nMemFree:         1 kB\n";
        assert_eq!(kilobytes(meminfo, "MemTotal:"), Some(24_605_764 * 1024));
        assert_eq!(kilobytes("MemTotal: many kB", "MemTotal:"), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files unlimited unlimited"), None);
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("barewire-cgroup-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/a/memory.limit_in_bytes", "1000000\n");
        put("memory/a/b/memory.limit_in_bytes", "2000000\n");
        let group = memory_group("4:cpu:/x\n3:memory:/a/b\n0::/\n", &root).unwrap();
        assert_eq!((group.limit, group.version), (1_000_000, 1));
        assert_eq!(group.folder(), root.join("memory/a"));
        put("c/d/memory.max", "max\n");
        put("c/memory.max", "300000\n");
        let group = memory_group("0::/c/d\n", &root).unwrap();
        assert_eq!((group.limit, group.version), (300_000, 2));
        assert_eq!(memory_group("0::/none\n", &root), None);
        assert_eq!(memory_group("garbage", &root), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_is_known() {
        let machine = Machine::read();
        assert!(machine.ram.unwrap() > 1 << 20);
        assert!(machine.descriptors.is_none_or(|limit| limit > 0));
    }
}
