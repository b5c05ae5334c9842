//! A memory cgroup for one process, of either version.

use std::{fs, path::PathBuf, process::Command};

/// A limit on the memory of the process in it. Removed when dropped, which must be after the process has ended.
pub(crate) struct Cgroup {
    path: PathBuf,
    second: bool,
}

impl Cgroup {
    /// A group that may use `limit` bytes.
    pub(crate) fn new(name: &str, limit: u64) -> Result<Self, String> {
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
    pub(crate) fn door(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Most memory the group has used, in KiB: all of it, page cache and kernel buffers too.
    pub(crate) fn peak_kib(&self) -> u64 {
        let file = if self.second {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        let bytes = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        bytes.trim().parse().unwrap_or(0) / 1024
    }

    /// How often the kernel has killed a process of the group.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.second {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.path.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok())
            .expect("the kernel counts kills")
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
