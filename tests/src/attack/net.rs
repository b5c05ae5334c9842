//! Where the processes of a test run: each side in a network namespace of its own and on a processor of its own, so
//! that the attacker costs nobody else processor time, has many addresses, and can be cut off like a pulled cable.
//!
//! ```text
//!   victim 10.231.0.1 ──┐
//!   honest 10.231.0.2 ──┼── a bridge in a namespace of its own
//!   attacker, 10.231.1.1 to 10.231.1.240 ──┘
//! ```
//!
//! That needs root. Without, all is on the loopback interface; CI has to be root.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    netns::{self, Netns},
    process::Failure,
};

/// Addresses of the attacker, so that limits per address do not stop it early.
const SOURCES: u32 = 240;

/// Addresses that only invented packets come from.
pub const SPOOFED: &str = "10.232.0.0/16";

/// Who is where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The node under attack.
    Victim,
    /// Its honest peers.
    Honest,
    /// Who has many addresses and a processor to itself.
    Attacker,
    /// The bridge between them.
    Switch,
}

/// The namespaces; they end with this process, which alone holds them.
struct Namespaces {
    victim: File,
    honest: File,
    attacker: File,
    switch: File,
}

static NAMESPACES: OnceLock<Option<Namespaces>> = OnceLock::new();

fn namespaces() -> Option<&'static Namespaces> {
    NAMESPACES
        .get_or_init(|| {
            // Thousands of connections have their other end in this process.
            let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            files.current = files.maximum;
            rustix::process::setrlimit(rustix::process::Resource::Nofile, files).ok();
            if !rustix::process::geteuid().is_root() {
                println!("attacks: not root, so everything runs on the loopback interface");
                return None;
            }
            match Namespaces::new() {
                Ok(namespaces) => Some(namespaces),
                Err(reason) => {
                    assert!(
                        !crate::peers::required(),
                        "CI needs network namespaces: {reason}"
                    );
                    println!("attacks: everything runs on the loopback interface: {reason}");
                    None
                }
            }
        })
        .as_ref()
}

/// Whether the sides have namespaces.
pub fn isolated() -> bool {
    namespaces().is_some()
}

impl Namespaces {
    fn new() -> Result<Self, Failure> {
        let [victim, honest, attacker, switch] = ["v", "h", "a", "s"].map(Netns::new);
        let (victim, honest, attacker, switch) = (victim?, honest?, attacker?, switch?);
        switch.ip("link add br0 type bridge\nlink set br0 up")?;
        for (side, port) in [
            (&victim, "victim"),
            (&honest, "honest"),
            (&attacker, "attacker"),
        ] {
            netns::cable((&switch, port), (side, "eth0"))?;
            switch.ip(&format!("link set {port} master br0"))?;
        }
        // What the victim answers to addresses that nobody has leaves by the attacker, who drops it.
        victim.ip(&format!(
            "addr add 10.231.0.1/16 dev eth0\nroute add {SPOOFED} via 10.231.1.1"
        ))?;
        honest.ip("addr add 10.231.0.2/16 dev eth0")?;
        let sources =
            (1..=SOURCES).map(|source| format!("addr add 10.231.1.{source}/16 dev eth0\n"));
        attacker.ip(&sources.collect::<String>())?;
        // The open files keep them.
        Ok(Self {
            victim: victim.open()?,
            honest: honest.open()?,
            attacker: attacker.open()?,
            switch: switch.open()?,
        })
    }
}

/// Moves this thread, and what it starts from now on, to a side. The attacker has a processor of its own.
pub fn enter(side: Side) {
    let Some(all) = namespaces() else { return };
    let namespace = match side {
        Side::Victim => &all.victim,
        Side::Honest => &all.honest,
        Side::Attacker => &all.attacker,
        Side::Switch => &all.switch,
    };
    netns::enter(namespace).unwrap();
    let mut cpus = CpuSet::new();
    cpus.set(usize::from(side == Side::Attacker));
    // With one processor all have to share it.
    sched_setaffinity(None, &cpus).ok();
}

/// Runs `work` on a thread of its own at a side.
pub fn at<T: Send>(side: Side, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(side);
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Where the victim, and the sink in its place, listen.
pub fn victim_ip() -> IpAddr {
    if isolated() {
        Ipv4Addr::new(10, 231, 0, 1).into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

/// Bytes that the interface of this thread's namespace has received and sent, as the kernel counts them.
pub fn bytes_on(interface: &str) -> Option<(u64, u64)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{interface}:")))?;
    let mut fields = line.split_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.nth(7)?.ok()?))
}

/// Pulls the attacker's cable, or plugs it in again: no packet passes in either direction, and no side is told.
pub fn plug_attacker(state: &str) {
    at(Side::Switch, || {
        netns::ip(&format!("link set attacker {state}")).unwrap();
    });
}

/// The next of the attacker's addresses; without namespaces the one that all share.
pub fn next_source() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if !isolated() {
        return Ipv4Addr::LOCALHOST.into();
    }
    let host = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 231, 1, 0)) + host).into()
}

/// Connects from the next of the attacker's addresses, with deadlines that keep a test from hanging.
pub fn connect(addr: SocketAddr, wait: Duration) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM,
        None,
    )?;
    if isolated() {
        socket.bind(&SocketAddr::from((next_source(), 0)).into())?;
    }
    socket.connect_timeout(&addr.into(), Duration::from_secs(10))?;
    let socket = TcpStream::from(socket);
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(wait))?;
    socket.set_write_timeout(Some(wait))?;
    Ok(socket)
}
