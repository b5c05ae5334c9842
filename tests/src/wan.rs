//! Two network namespaces and a link between them that delays and drops packets.
//!
//! The kernels tests run on have no netem, so the link is a pair of TUN devices with this process between them. It
//! carries a few hundred MiB/s: enough for latencies and recovery, not for throughput figures. Needs root and `ip`.

use std::{
    io,
    path::Path,
    process::{Command as StdCommand, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::process::Command;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::process::Failure;

/// Address of the near side.
pub const NEAR: &str = "10.199.0.1";
/// Address of the far side.
pub const FAR: &str = "10.199.0.2";
/// Packets on their way in one direction; more are dropped, as by a full router.
const QUEUE: usize = 16 * 1024;
/// Longest packet.
const MTU: u16 = 1500;

/// What the link does to packets.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Delay of each direction.
    pub delay: Duration,
    /// Share of packets that is lost in each direction, 0 to 1.
    pub loss: f64,
    /// Seed of the choice which packets are lost.
    pub seed: u64,
}

/// The two namespaces, deleted when dropped.
#[derive(Debug)]
pub struct Wan {
    near: String,
    far: String,
    threads: Vec<JoinHandle<()>>,
}

impl Wan {
    /// Lays the link. `name` tells it from other links of this process and has at most four characters.
    pub fn new(name: &str, link: Link) -> Result<Self, Failure> {
        let id = std::process::id();
        let mut wan = Self {
            near: format!("bw{id}{name}n"),
            far: format!("bw{id}{name}f"),
            threads: Vec::new(),
        };
        let near = Arc::new(side(&wan.near, NEAR)?);
        let far = Arc::new(side(&wan.far, FAR)?);
        wan.direction(Arc::clone(&near), Arc::clone(&far), link, 0);
        wan.direction(far, near, link, 1);
        Ok(wan)
    }

    /// A command that runs in the namespace with address [`NEAR`].
    #[must_use]
    pub fn near(&self, program: &Path) -> Command {
        within(&self.near, program)
    }

    /// A command that runs in the namespace with address [`FAR`].
    #[must_use]
    pub fn far(&self, program: &Path) -> Command {
        within(&self.far, program)
    }

    fn direction(&mut self, from: Arc<SyncDevice>, to: Arc<SyncDevice>, link: Link, salt: u64) {
        let (sender, receiver) = sync_channel(QUEUE);
        self.threads.push(thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(link.seed ^ salt);
            receive(&from, &sender, link, &mut rng);
        }));
        self.threads
            .push(thread::spawn(move || deliver(&to, &receiver)));
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            // Takes the device along, which ends the threads that read it.
            drop(ip(&["netns", "del", namespace]));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Whether this process may lay links: it is root and `ip` is there.
#[must_use]
pub fn available() -> bool {
    let name = format!("bw{}try", std::process::id());
    let made = ip(&["netns", "add", &name]).is_ok();
    drop(ip(&["netns", "del", &name]));
    made
}

fn within(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .arg(program)
        .kill_on_drop(true);
    command
}

fn side(namespace: &str, addr: &str) -> Result<SyncDevice, Failure> {
    ip(&["netns", "add", namespace])?;
    let device = DeviceBuilder::new()
        .name(namespace)
        .mtu(MTU)
        .build_sync()
        .map_err(|cause| format!("cannot make a TUN device: {cause}"))?;
    ip(&["link", "set", namespace, "netns", namespace])?;
    let addr = format!("{addr}/24");
    ip(&["-n", namespace, "addr", "add", &addr, "dev", namespace])?;
    ip(&["-n", namespace, "link", "set", namespace, "up"])?;
    ip(&["-n", namespace, "link", "set", "lo", "up"])?;
    Ok(device)
}

fn ip(args: &[&str]) -> Result<(), Failure> {
    let output = StdCommand::new("ip")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| format!("cannot run ip (package iproute2): {cause}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", args.join(" "), said.trim()).into())
}

fn receive(
    from: &SyncDevice,
    sender: &SyncSender<(Instant, Vec<u8>)>,
    link: Link,
    rng: &mut StdRng,
) {
    let mut packet = vec![0; usize::from(MTU)];
    loop {
        match from.recv(&mut packet) {
            Ok(len) => {
                if link.loss > 0.0 && rng.random_bool(link.loss) {
                    continue;
                }
                let due = Instant::now() + link.delay;
                match sender.try_send((due, packet[..len].to_vec())) {
                    Ok(()) | Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn deliver(to: &SyncDevice, receiver: &Receiver<(Instant, Vec<u8>)>) {
    // All have the same delay, so they are due in the order they came.
    while let Ok((due, packet)) = receiver.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A side that is being torn down takes no packets; its reader notices and ends both threads.
        drop(to.send(&packet));
    }
}
