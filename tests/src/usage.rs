//! What a process uses, as Linux tells it.

use std::{fs, time::Duration};

/// A process under observation.
#[derive(Debug, Clone, Copy)]
pub struct Usage(pub u32);

impl Usage {
    fn read(self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap_or_default()
    }

    /// A number of `/proc/PID/status`; 0 when the process is gone.
    fn status(self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Resident memory in KiB; 0 when the process is gone.
    #[must_use]
    pub fn rss_kib(self) -> u64 {
        self.status("VmRSS:")
    }

    /// Most resident memory so far, in KiB.
    #[must_use]
    pub fn peak_kib(self) -> u64 {
        self.status("VmHWM:")
    }

    /// Threads.
    #[must_use]
    pub fn threads(self) -> usize {
        usize::try_from(self.status("Threads:")).unwrap_or(usize::MAX)
    }

    /// Open descriptors.
    #[must_use]
    pub fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }

    /// Processor time used so far, in steps of 10 ms.
    #[must_use]
    pub fn cpu(self) -> Duration {
        let stat = self.read("stat");
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |index: usize| {
            let field = fields.get(index).and_then(|field| field.parse().ok());
            field.unwrap_or(0u64)
        };
        // USER_HZ is 100 on every Linux.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }
}
