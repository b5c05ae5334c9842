//! Scenario 1: one node on TCP, WebSocket and QUIC over IPv4 and IPv6 at once, dialled by every stack with both secure
//! channels, and left alone by those who only want to hurt it.
//!
//! Prints a line per cell and what the hostile half found. In CI foreign stacks meet each address once, with one of the
//! two secure channels; `BAREWIRE_FULL=1` crosses all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_base::Multiaddr;
use barewire_tests::{
    full,
    peers::{self, Foreign, Unavailable},
    process::{Process, number, run, run_failing, text},
    usage::Usage,
};
use futures::StreamExt;
use rand::Rng;

/// For one command, on a machine that does other things.
const SOON: Duration = Duration::from_secs(60);
/// The upgrade's own deadline is 15 s; the rest is for a busy machine.
const REFUSED: Duration = Duration::from_secs(30);

const LISTEN: [&str; 6] = [
    "/ip4/127.0.0.1/tcp/0",
    "/ip6/::1/tcp/0",
    "/ip4/127.0.0.1/tcp/0/ws",
    "/ip6/::1/tcp/0/ws",
    "/ip4/127.0.0.1/udp/0/quic-v1",
    "/ip6/::1/udp/0/quic-v1",
];

struct Node {
    process: Process,
    addrs: Vec<String>,
}

impl Node {
    async fn start(barewire: &Path) -> Self {
        let mut line = vec!["listen", "--json", "--security", "noise,tls"];
        for addr in LISTEN {
            line.extend(["--listen", addr]);
        }
        let mut process = Process::start(barewire, line).unwrap();
        let mut addrs = Vec::new();
        for _ in LISTEN {
            addrs.push(process.listening(SOON).await.unwrap());
        }
        Self { process, addrs }
    }

    fn usage(&self) -> Usage {
        Usage(self.process.id().unwrap())
    }

    /// The sockets, in the order of [`LISTEN`].
    fn sockets(&self) -> Vec<SocketAddr> {
        let socket = |addr: &String| {
            let parts: Vec<_> = addr.split('/').collect();
            SocketAddr::new(parts[2].parse().unwrap(), parts[4].parse().unwrap())
        };
        self.addrs.iter().map(socket).collect()
    }
}

/// One dialler at one address with one secure channel.
struct Cell {
    stack: String,
    program: PathBuf,
    at: usize,
    security: &'static str,
}

impl Cell {
    fn quic(&self) -> bool {
        LISTEN[self.at].ends_with("quic-v1")
    }

    async fn try_all(self, addr: &str) -> String {
        let line = |command: &[&str]| {
            let mut line: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
            line.extend(
                [
                    "--security",
                    self.security,
                    "--timeout",
                    "50",
                    "--json",
                    addr,
                ]
                .map(str::to_owned),
            );
            line
        };
        let name = format!("{} {} {}", self.stack, LISTEN[self.at], self.security);
        let fail = |cause| -> ! { panic!("{name}: {cause}") };
        let identify = run(&self.program, line(&["identify"]), "identify", SOON);
        let identify = identify.await.unwrap_or_else(|cause| fail(cause));
        assert!(
            text(&identify, "agent").unwrap().starts_with("barewire/"),
            "{name}: {identify}"
        );
        let ping = run(&self.program, line(&["ping", "--count", "5"]), "ping", SOON);
        let ping = ping.await.unwrap_or_else(|cause| fail(cause));
        let echo = run(
            &self.program,
            line(&["echo", "--size", "10MB"]),
            "echo",
            SOON,
        );
        if let Err(cause) = echo.await {
            fail(cause);
        }
        let mut pair = String::new();
        if self.stack == "barewire" {
            let told = |field| text(&identify, field).unwrap().to_owned();
            let (transport, security, muxer) = (told("transport"), told("security"), told("muxer"));
            let wanted = match (LISTEN[self.at].rsplit('/').next().unwrap(), self.security) {
                ("quic-v1", _) => ("quic-v1", "/tls/1.0.0", "quic"),
                ("ws", "noise") => ("ws", "/noise", "/yamux/1.0.0"),
                ("ws", _) => ("ws", "/tls/1.0.0", "/yamux/1.0.0"),
                (_, "noise") => ("tcp", "/noise", "/yamux/1.0.0"),
                _ => ("tcp", "/tls/1.0.0", "/yamux/1.0.0"),
            };
            assert_eq!((&*transport, &*security, &*muxer), wanted, "{name}");
            pair = format!(", negotiated {security} and {muxer}");
        }
        format!(
            "{name}: identify, ping {:.0} us, 10 MB came back{pair}",
            number(&ping, "p50_us").unwrap()
        )
    }
}

fn cells(barewire: &Path) -> Vec<Cell> {
    let mut programs = vec![(None, barewire.to_owned())];
    for stack in [Foreign::Go, Foreign::Rust, Foreign::Js, Foreign::Py] {
        match stack.build() {
            Ok(program) => programs.push((Some(stack), program)),
            Err(Unavailable::NoToolchain(reason)) => {
                barewire_tests::skip(&format!("{stack}: {reason}"))
            }
            Err(cause) => panic!("{stack}: {cause}"),
        }
    }
    let mut cells = Vec::new();
    for (stack, program) in programs {
        for (at, listen) in LISTEN.iter().enumerate() {
            let quic = listen.ends_with("quic-v1");
            for (nth, security) in ["noise", "tls"].into_iter().enumerate() {
                // QUIC has TLS in it, whatever is asked for.
                let once = quic && nth > 0;
                // IPv4 with the one, IPv6 with the other; the other way round on a WebSocket.
                let sampled = stack.is_some() && !full() && !quic && nth != (at / 2 + at) % 2;
                // It loses data over QUIC, which the interop matrix checks against itself.
                let unable = stack == Some(Foreign::Py) && (quic || listen.starts_with("/ip6"));
                if once || sampled || unable {
                    continue;
                }
                cells.push(Cell {
                    stack: stack.map_or_else(|| "barewire".to_owned(), |stack| stack.to_string()),
                    program: program.clone(),
                    at,
                    security,
                });
            }
        }
    }
    cells
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stack_over_every_transport_at_once() {
    let barewire = peers::barewire().expect("barewire builds");
    let node = Node::start(&barewire).await;
    let begun = Instant::now();
    let cells = cells(&barewire);
    let count = cells.len();
    futures::stream::iter(cells)
        .map(|cell| {
            let addr = node.addrs[cell.at].clone();
            async move {
                let quic = cell.quic();
                println!(
                    "{}{}",
                    cell.try_all(&addr).await,
                    if quic { " (TLS of QUIC)" } else { "" }
                );
            }
        })
        .buffer_unordered(3)
        .collect::<()>()
        .await;
    println!(
        "scenario 1: {count} cells in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    node.process.stop(SOON).await.unwrap();
}

/// Connects, says `first`, then `then` byte by byte, one a second, and returns when the node has ended it.
fn hold(to: SocketAddr, first: &[u8], then: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut socket = TcpStream::connect(to).unwrap();
    socket.write_all(first).ok();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut drip = then.iter().cycle();
    let mut scratch = [0; 4096];
    while begun.elapsed() < REFUSED {
        match socket.read(&mut scratch) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                if let Some(byte) = drip.next()
                    && socket.write_all(&[*byte]).is_err()
                {
                    return begun.elapsed();
                }
            }
            Err(_) => return begun.elapsed(),
        }
    }
    panic!("{to} still holds it after {REFUSED:?}");
}

const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";
const WEBSOCKET: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\n";

/// Lets a client's first datagram through to the node and nothing else, in either direction.
fn one_datagram(node: SocketAddr, stop: Arc<AtomicBool>) -> SocketAddr {
    let any = SocketAddr::new(node.ip(), 0);
    let (near, far) = (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
    let addr = near.local_addr().unwrap();
    near.set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    std::thread::spawn(move || {
        let mut passed = false;
        let mut datagram = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok(len) = near.recv(&mut datagram)
                && !passed
            {
                far.send_to(&datagram[..len], node).unwrap();
                passed = true;
            }
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hostile_are_refused_in_time_and_cost_nothing() {
    let each = if full() { 200 } else { 20 };
    let barewire = peers::barewire().expect("barewire builds");
    let node = Node::start(&barewire).await;
    let serves = async || {
        for addr in &node.addrs {
            run(
                &barewire,
                ["echo", "--size", "1MiB", "--json", addr],
                "echo",
                SOON,
            )
            .await
            .unwrap();
        }
    };
    serves().await;
    serves().await;
    let sockets = node.sockets();
    let (rss, descriptors) = (node.usage().rss_kib(), node.usage().descriptors());
    let stop = Arc::new(AtomicBool::new(false));
    let mut attackers = Vec::new();
    for &socket in &sockets[..4] {
        for _ in 0..each {
            attackers.push(std::thread::spawn(move || {
                let mut random = [0; 600];
                rand::rng().fill_bytes(&mut random);
                ("random bytes", hold(socket, &random, &[]))
            }));
        }
        let half = if socket == sockets[0] || socket == sockets[1] {
            MULTISTREAM
        } else {
            WEBSOCKET
        };
        for _ in 0..each {
            attackers.push(std::thread::spawn(move || {
                ("half a handshake", hold(socket, half, &[]))
            }));
            attackers.push(std::thread::spawn(move || {
                ("a byte a second", hold(socket, &[], half))
            }));
        }
    }
    for &socket in &sockets[4..] {
        let random = UdpSocket::bind(SocketAddr::new(socket.ip(), 0)).unwrap();
        for nth in 0..10 * each {
            let mut datagram = [0; 1200];
            rand::rng().fill_bytes(&mut datagram);
            if nth % 2 == 0 {
                // A long header of version 1, of which the rest makes no sense.
                datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            }
            random.send_to(&datagram, socket).unwrap();
        }
    }
    // Half a QUIC handshake: the node answers into the void.
    let quic: Multiaddr = node.addrs[4].parse().unwrap();
    let peer = quic.peer_id().unwrap();
    let mut halves = Vec::new();
    for _ in 0..each.min(10) {
        let proxy = one_datagram(sockets[4], Arc::clone(&stop));
        let addr = format!("/ip4/127.0.0.1/udp/{}/quic-v1/p2p/{peer}", proxy.port());
        let barewire = barewire.clone();
        halves.push(tokio::spawn(async move {
            let line = ["ping", "--timeout", "20", &addr];
            run_failing(&barewire, line, SOON).await.unwrap()
        }));
    }
    // Meanwhile the others are served.
    serves().await;
    // Whoever expects somebody else hears who is there.
    let stranger = barewire_node::Keypair::generate(&mut rand::rng())
        .peer_id()
        .to_string();
    for addr in &node.addrs {
        let (base, actual) = addr.rsplit_once("/p2p/").unwrap();
        let wrong = format!("{base}/p2p/{stranger}");
        for security in ["noise", "tls"] {
            let said = run_failing(&barewire, ["ping", "--security", security, &wrong], SOON)
                .await
                .unwrap();
            assert!(said.contains(actual) && said.contains(&stranger), "{said}");
        }
    }
    let refused = tokio::task::spawn_blocking(|| {
        attackers
            .into_iter()
            .map(|attacker| attacker.join().unwrap())
            .collect::<Vec<_>>()
    });
    let refused = refused.await.unwrap();
    for kind in ["random bytes", "half a handshake", "a byte a second"] {
        let times = refused
            .iter()
            .filter(|(of, _)| *of == kind)
            .map(|(_, time)| *time);
        let (count, longest) = (times.clone().count(), times.max().unwrap());
        println!(
            "scenario 1: {count} times {kind}: all ended, the last after {:.1} s",
            longest.as_secs_f64()
        );
    }
    for half in halves {
        let said = half.await.unwrap();
        assert!(
            said.contains("in time") || said.contains("no answer"),
            "{said}"
        );
    }
    stop.store(true, Ordering::Relaxed);
    serves().await;
    let begun = Instant::now();
    let (mut now, mut open) = (0, 0);
    while begun.elapsed() < REFUSED {
        (now, open) = (node.usage().rss_kib(), node.usage().descriptors());
        if now <= rss + 4096 && open <= descriptors {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!(
        "scenario 1: resident {rss} KiB before, {now} KiB after; descriptors {descriptors} and {open}"
    );
    assert!(now <= rss + 4096, "memory grew from {rss} to {now} KiB");
    assert!(
        open <= descriptors,
        "descriptors grew from {descriptors} to {open}"
    );
    node.process.stop(SOON).await.unwrap();
}
