//! A memory cgroup for one process, of either version.

use std::{fs, path::PathBuf, process::Command};

/// A limit on the memory of the process in it. Removed when dropped, which must be after the process has ended.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    second: bool,
}

impl Cgroup {
    /// A group that may use `limit` bytes.
    pub fn new(name: &str, limit: u64) -> Result<Self, String> {
        let (root, second) = root().ok_or("no memory controller of cgroups is mounted")?;
        if second {
            // Fails where it is set already.
            fs::write(root.join("cgroup.subtree_control"), "+memory").ok();
        }
        let path = root.join(format!("barewire-{name}-{}", std::process::id()));
        let fail = |error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(&path).map_err(fail)?;
        let file = if second {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        fs::write(path.join(file), limit.to_string()).map_err(fail)?;
        Ok(Self { path, second })
    }

    /// Where a process writes its id to join.
    #[must_use]
    pub fn door(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Most memory the group has used, in KiB: all of it, page cache and kernel buffers too.
    #[must_use]
    pub fn peak_kib(&self) -> u64 {
        let file = if self.second {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        self.read(file).trim().parse().unwrap_or(0) / 1024
    }

    /// How often the kernel has killed a process of the group; the largest number if it does not tell.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let file = if self.second {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        self.field(file, "oom_kill").unwrap_or(u64::MAX)
    }

    /// How often the group has met its limit, and the kernel had to look for memory.
    #[must_use]
    pub fn limit_hits(&self) -> u64 {
        let hits = if self.second {
            self.field("memory.events", "max")
        } else {
            self.read("memory.failcnt").trim().parse().ok()
        };
        hits.unwrap_or(0)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// The number of a line `name number`.
    fn field(&self, file: &str, name: &str) -> Option<u64> {
        let text = self.read(file);
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, number) = lines.find(|(key, _)| *key == name)?;
        number.trim().parse().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Where the memory controller is mounted, and whether it is that of version 2.
fn root() -> Option<(PathBuf, bool)> {
    let find = || {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let (path, kind, options) = (*fields.get(1)?, *fields.get(2)?, *fields.get(3)?);
            let controllers = || fs::read_to_string(format!("{path}/cgroup.controllers")).ok();
            match kind {
                "cgroup" if options.split(',').any(|option| option == "memory") => {
                    Some((path.into(), false))
                }
                "cgroup2"
                    if controllers()?
                        .split_whitespace()
                        .any(|name| name == "memory") =>
                {
                    Some((path.into(), true))
                }
                _ => None,
            }
        })
    };
    find().or_else(|| {
        let place = "/sys/fs/cgroup/memory";
        fs::create_dir_all(place).ok()?;
        let mount = ["-t", "cgroup", "-o", "memory", "cgroup", place];
        Command::new("mount").args(mount).output().ok()?;
        find()
    })
}
