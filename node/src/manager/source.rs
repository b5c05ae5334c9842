//! Where a node reads how much memory is used.

use std::{
    fmt, fs, io,
    io::{Read as _, Seek as _},
    path::PathBuf,
};

use parking_lot::Mutex;

use super::{Limits, Machine, MemoryGroup};

/// Memory in use, and the limit it should stay below, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// In use.
    pub used: u64,
    /// The limit.
    pub limit: u64,
}

/// Tells a node how much memory is used.
pub trait MemorySource: fmt::Debug + Send + Sync {
    /// What is used of the limit that is nearest; `None` if there is no limit.
    ///
    /// # Errors
    /// It cannot be read now. It is asked again in a moment, and until then what was true is.
    fn read(&self) -> io::Result<Option<MemoryUse>>;
}

/// The control group of this process, and its resident memory where that is limited. Its files stay
/// open, so that they can be read when no descriptor is left.
#[derive(Debug)]
pub(crate) struct SystemMemory {
    group: Option<(u64, GroupFiles)>,
    process: Option<(u64, KeptFile)>,
}

impl SystemMemory {
    pub(crate) fn new(machine: &Machine, limits: &Limits) -> Self {
        let group = machine.group.as_ref();
        let status = |limit| (limit, KeptFile::new("/proc/self/status".into()));
        Self {
            group: group.map(|group| (group.limit, GroupFiles::new(group))),
            process: limits.max_resident.map(status),
        }
    }
}

impl MemorySource for SystemMemory {
    fn read(&self) -> io::Result<Option<MemoryUse>> {
        let group = match &self.group {
            Some((limit, files)) => known(*limit, files.used())?,
            None => None,
        };
        let process = match &self.process {
            Some((limit, status)) => known(*limit, resident(status))?,
            None => None,
        };
        let share = |of: &MemoryUse| of.used.saturating_mul(100) / of.limit.max(1);
        Ok(group.into_iter().chain(process).max_by_key(share))
    }
}

/// A system that has no such file does not say; that is no failure.
fn known(limit: u64, used: io::Result<u64>) -> io::Result<Option<MemoryUse>> {
    match used {
        Ok(used) => Ok(Some(MemoryUse { used, limit })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes of memory this process holds.
fn resident(status: &KeptFile) -> io::Result<u64> {
    let text = status.read()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| number(line.trim().strip_suffix("kB")?));
    kilobytes
        .and_then(|kilobytes| kilobytes.checked_mul(1024))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The files of a control group that say what it uses.
#[derive(Debug)]
struct GroupFiles {
    usage: KeptFile,
    stat: KeptFile,
    /// Lines of `stat` with the bytes that cached files take.
    cached: [&'static str; 2],
}

impl GroupFiles {
    fn new(group: &MemoryGroup) -> Self {
        let (usage, cached) = match group.version {
            1 => (
                "memory.usage_in_bytes",
                ["total_inactive_file", "total_active_file"],
            ),
            _ => ("memory.current", ["inactive_file", "active_file"]),
        };
        let file = |name| KeptFile::new(group.folder().join(name));
        Self {
            usage: file(usage),
            stat: file("memory.stat"),
            cached,
        }
    }

    /// Bytes in use that cannot be taken back by dropping cached files.
    fn used(&self) -> io::Result<u64> {
        let usage = number(&self.usage.read()?).ok_or(io::ErrorKind::InvalidData)?;
        let stat = self.stat.read()?;
        let cached = self.cached.iter().filter_map(|name| field(&stat, name));
        Ok(usage.saturating_sub(cached.sum()))
    }
}

/// A file of the kernel that stays open and is read anew each time.
#[derive(Debug)]
struct KeptFile {
    path: PathBuf,
    /// `None` while it could not be opened.
    file: Mutex<Option<fs::File>>,
}

impl KeptFile {
    fn new(path: PathBuf) -> Self {
        let file = fs::File::open(&path).ok();
        Self {
            path,
            file: Mutex::new(file),
        }
    }

    fn read(&self) -> io::Result<String> {
        let mut slot = self.file.lock();
        let file = match &mut *slot {
            Some(file) => file,
            none => none.insert(fs::File::open(&self.path)?),
        };
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of `name value` in a `memory.stat`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| number(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_group_is_read_less_its_cached_files() {
        let folder = std::env::temp_dir().join(format!("barewire-use-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        put("memory.usage_in_bytes", "5000\n");
        let stat = "cache 5\ntotal_inactive_file 1000\ntotal_active_file 500\ninactive_file 7\n";
        put("memory.stat", stat);
        put("memory.current", "4000\n");
        let [one, two] =
            [1, 2].map(|version| GroupFiles::new(&MemoryGroup::at(&folder, version, 9_000)));
        assert_eq!(one.used().unwrap(), 3_500);
        assert_eq!(two.used().unwrap(), 3_993);
        put("memory.current", "6007\n");
        assert_eq!(two.used().unwrap(), 6_000, "it is read anew");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn no_limit_no_file_and_no_answer_are_told_apart() {
        let mut limits = Limits::derive(&Machine::default(), None);
        let system = SystemMemory::new(&Machine::default(), &limits);
        assert_eq!(system.read().unwrap(), None, "nothing is limited");
        limits.max_resident = Some(1 << 30);
        let mut system = SystemMemory::new(&Machine::default(), &limits);
        let mut file = |path: &str| {
            system.process = Some((1 << 30, KeptFile::new(path.into())));
            system.read()
        };
        assert_eq!(file("/none/at/all").unwrap(), None, "this system has none");
        file("/").unwrap_err();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_known() {
        let mut limits = Limits::derive(&Machine::default(), None);
        limits.max_resident = Some(1 << 30);
        let system = SystemMemory::new(&Machine::default(), &limits);
        assert!(system.read().unwrap().unwrap().used > 1 << 16);
    }
}
