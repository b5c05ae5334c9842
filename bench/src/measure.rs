//! Running one end of a measurement as a process, and what `/proc` tells about it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_tests::process::{Process, number};
use serde_json::Value;
use tokio::{process::Command, time::sleep};

use crate::Failure;

/// Longest single measurement; two GiB over 60 ms take the slowest peer half a minute.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Clock ticks per second of `/proc/PID/stat`: `USER_HZ`, 100 on every Linux.
const TICKS: f64 = 100.0;

/// A listener and its first address.
#[derive(Debug)]
pub struct Listener {
    process: Process,
    /// Multiaddr with the peer id, or a socket address for a limit.
    pub addr: String,
    /// Process id.
    pub pid: u32,
}

impl Listener {
    /// Starts it and waits for its address.
    pub async fn start(command: Command) -> Result<Self, Failure> {
        let mut process = Process::spawn(command)?;
        let addr = process.listening(DEADLINE).await?;
        let pid = process.id().ok_or("the listener is gone")?;
        Ok(Self { process, addr, pid })
    }

    /// Resident bytes after they have changed by less than 1 % for two seconds, or after ten.
    pub async fn settled(&self) -> Result<u64, Failure> {
        let read = || memory(self.pid, "VmRSS:").ok_or("the listener is gone");
        let start = Instant::now();
        let (mut reference, mut since) = (read()?, Instant::now());
        loop {
            sleep(Duration::from_millis(100)).await;
            let now = read()?;
            if now.abs_diff(reference) * 100 > reference {
                (reference, since) = (now, Instant::now());
            }
            if since.elapsed() > Duration::from_secs(2) || start.elapsed() > Duration::from_secs(10)
            {
                return Ok(now);
            }
        }
    }

    /// Processor seconds used so far, in steps of 10 ms.
    pub fn cpu_secs(&self) -> Result<f64, Failure> {
        let (_, secs) = cpu_secs(self.pid).ok_or("the listener is gone")?;
        Ok(secs)
    }

    /// Ends it the gentle way.
    pub async fn stop(self) -> Result<(), Failure> {
        self.process.stop(DEADLINE).await
    }
}

/// What a run of a client showed.
#[derive(Debug)]
pub struct Run {
    /// The event it printed.
    pub event: Value,
    /// Processor seconds of the client, user and system.
    pub cpu_client: f64,
    /// Processor seconds the listener used meanwhile.
    pub cpu_listener: f64,
    /// Peak resident memory of the client, in bytes.
    pub peak_client: u64,
    /// Peak resident memory of the listener so far, in bytes.
    pub peak_listener: u64,
}

impl Run {
    /// A number of the event.
    pub fn number(&self, field: &str) -> Result<f64, Failure> {
        number(&self.event, field)
    }

    /// Mebibytes per second in one direction of a `perf` event.
    pub fn rate(&self, bytes: &str, secs: &str) -> Result<f64, Failure> {
        Ok(self.number(bytes)? / self.number(secs)? / MIB)
    }
}

/// One mebibyte.
pub const MIB: f64 = 1_048_576.0;

/// Runs a client against `listener` until it has printed `event` and ended.
pub async fn client(command: Command, event: &str, listener: &Listener) -> Result<Run, Failure> {
    let before = cpu_secs(listener.pid).map_or(0.0, |(_, secs)| secs);
    let mut process = Process::spawn(command)?;
    let pid = process.id().ok_or("the client is gone")?;
    // The peak of a process that has ended is not to be had any more.
    let highest = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&highest);
    let watch = tokio::spawn(async move {
        while let Some(bytes) = peak(pid) {
            watched.fetch_max(bytes, Ordering::Relaxed);
            sleep(Duration::from_millis(5)).await;
        }
    });
    let event = process.expect(event, DEADLINE).await?;
    // An ended process keeps its times until it is reaped, which `wait` does.
    let start = Instant::now();
    let cpu_client = loop {
        match cpu_secs(pid) {
            Some(('Z', secs)) => break secs,
            Some(_) if start.elapsed() < DEADLINE => sleep(Duration::from_millis(1)).await,
            other => return Err(format!("the client does not end: {other:?}").into()),
        }
    };
    watch.abort();
    let status = process.wait(DEADLINE).await?;
    if !status.success() {
        return Err(format!("the client ended with {status}: {}", process.stderr()).into());
    }
    let cpu_listener = cpu_secs(listener.pid).map_or(0.0, |(_, secs)| secs) - before;
    Ok(Run {
        event,
        cpu_client,
        cpu_listener,
        peak_client: highest.load(Ordering::Relaxed),
        peak_listener: peak(listener.pid).unwrap_or(0),
    })
}

/// A process that holds connections.
#[derive(Debug)]
pub struct Holder(Process);

impl Holder {
    /// Starts it and waits until all are held.
    pub async fn start(command: Command, count: usize) -> Result<Self, Failure> {
        let mut holder = Process::spawn(command)?;
        let event = holder.expect("held", DEADLINE).await?;
        if number(&event, "count")? as usize != count {
            return Err(format!("not all are held: {event}").into());
        }
        Ok(Self(holder))
    }

    /// A thousand goodbyes are nobody's measurement.
    pub async fn kill(mut self) -> Result<(), Failure> {
        self.0.kill().await
    }
}

/// State letter, and user plus system seconds of a process.
#[must_use]
pub fn cpu_secs(pid: u32) -> Option<(char, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut ticks = fields.skip(10);
    let user: f64 = ticks.next()?.parse().ok()?;
    let system: f64 = ticks.next()?.parse().ok()?;
    Some((state, (user + system) / TICKS))
}

/// Peak resident bytes of a process so far.
#[must_use]
pub fn peak(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

/// A line of `/proc/PID/status`, in bytes.
fn memory(pid: u32, line: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|found| found.strip_prefix(line))?;
    kib.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}
