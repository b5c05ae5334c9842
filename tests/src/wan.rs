//! Two network namespaces and a link between them that delays and drops packets.
//!
//! The kernels tests run on have no netem, so the link is a pair of TUN devices with this process between them. It
//! carries a few hundred MiB/s: enough for latencies and recovery, not for throughput figures. Needs root and `ip`.

use std::{
    io,
    path::Path,
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

use crate::{
    netns::{self, Netns},
    process::Failure,
};

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
    // It ends first.
    _cable: Cable,
    near: Netns,
    far: Netns,
}

impl Wan {
    /// Lays the link.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn new(link: Link) -> Result<Self, Failure> {
        let (near, far) = (Netns::new("near")?, Netns::new("far")?);
        let cable = Cable::lay((&near, "eth0"), (&far, "eth0"), link)?;
        for (side, addr) in [(&near, NEAR), (&far, FAR)] {
            side.ip(&format!("addr add {addr}/24 dev eth0"))?;
        }
        Ok(Self {
            _cable: cable,
            near,
            far,
        })
    }

    /// A command that runs in the namespace with address [`NEAR`].
    #[must_use]
    pub fn near(&self, program: &Path) -> Command {
        self.near.command(program)
    }

    /// A command that runs in the namespace with address [`FAR`].
    #[must_use]
    pub fn far(&self, program: &Path) -> Command {
        self.far.command(program)
    }
}

/// A cable between two namespaces on which packets take their time; without link addresses, so that there is one neighbour. It ends
/// when dropped, which must be before the namespaces.
#[derive(Debug)]
pub struct Cable {
    /// Namespaces and interfaces.
    ends: [(String, String); 2],
    threads: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Between interfaces that come to be, both up.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn lay(near: (&Netns, &str), far: (&Netns, &str), link: Link) -> Result<Self, Failure> {
        let mut cable = Self {
            ends: [near, far].map(|(at, port)| (at.name().to_owned(), port.to_owned())),
            threads: Vec::new(),
        };
        let near = Arc::new(plug(near)?);
        let far = Arc::new(plug(far)?);
        cable.direction(Arc::clone(&near), Arc::clone(&far), link, 0);
        cable.direction(far, near, link, 1);
        Ok(cable)
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

impl Drop for Cable {
    fn drop(&mut self) {
        for end in &self.ends {
            // That ends the threads that read it.
            drop(netns::ip_in(&end.0, &format!("link del {}", end.1)));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn plug((at, port): (&Netns, &str)) -> Result<SyncDevice, Failure> {
    let name = netns::unique("t");
    let device = DeviceBuilder::new()
        .name(&name)
        .mtu(MTU)
        .build_sync()
        .map_err(|cause| format!("cannot make a TUN device: {cause}"))?;
    netns::ip(&format!("link set {name} netns {}", at.name()))?;
    at.ip(&format!("link set {name} name {port}\nlink set {port} up"))?;
    Ok(device)
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
