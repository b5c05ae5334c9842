//! One attempt: two homes, a node in each, a relay in the world between them.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use barewire_tests::{
    nat::{self, Home, Nat, PUBLIC, World},
    peers::{self, Foreign},
    process::{Failure, Process, text},
};
use tokio::time::sleep;

/// From the world to a home: 40 ms from home to home and back.
const DELAY: Duration = Duration::from_millis(10);
/// Every step ends within this, also on a machine that does other things.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the cable stays pulled where it is.
const PULLED: Duration = Duration::from_secs(1);

/// Who made a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stack {
    Ours,
    Go,
}

impl Stack {
    pub(crate) const ALL: [Self; 2] = [Self::Ours, Self::Go];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "go",
        }
    }

    /// Where the relay of this stack is.
    const fn relay_ip(self) -> &'static str {
        PUBLIC[self as usize]
    }
}

/// What nodes listen with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    Tcp,
    Quic,
}

impl Transport {
    pub(crate) const ALL: [Self; 2] = [Self::Tcp, Self::Quic];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }

    fn at(self, ip: &str) -> String {
        match self {
            Self::Tcp => format!("/ip4/{ip}/tcp/4001"),
            Self::Quic => format!("/ip4/{ip}/udp/4001/quic-v1"),
        }
    }
}

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Case {
    pub(crate) transport: Transport,
    pub(crate) nats: [Nat; 2],
    /// Of dialler and listener.
    pub(crate) stacks: [Stack; 2],
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [dialler, listener] = [0, 1].map(|at| {
            let (stack, nat) = (self.stacks[at].name(), self.nats[at].name());
            format!("{stack} behind {nat}")
        });
        write!(f, "{}: {dialler} → {listener}", self.transport.name())
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// A direct connection, so long after the relayed one.
    Direct(Duration),
    /// There was none when the stack gave up; its last word.
    Relayed(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(took) => write!(f, "direct after {took:.0?}"),
            Self::Relayed(why) => write!(f, "relayed: {why}"),
        }
    }
}

/// A world with a relay of each stack.
pub(crate) struct Lab {
    _relays: Vec<Process>,
    relay_peers: Vec<String>,
    world: World,
    programs: [PathBuf; 2],
    homes: AtomicU32,
}

impl Lab {
    /// `None` where it cannot be made, with the reason printed.
    pub(crate) async fn new() -> Option<Self> {
        if let Err(reason) = nat::available() {
            barewire_tests::skip(&reason);
            return None;
        }
        let go = Foreign::Go.build_or_skip()?;
        let programs = [peers::barewire().expect("barewire builds"), go];
        let world = World::new(DELAY).unwrap();
        let mut relays = Vec::new();
        let mut relay_peers = Vec::new();
        for stack in Stack::ALL {
            let mut command = world.namespace().command(&programs[stack as usize]);
            command.args(["listen", "--json", "--relay-server"]);
            for transport in Transport::ALL {
                command.args(["--listen", &transport.at(stack.relay_ip())]);
            }
            let mut relay = Process::spawn(command).unwrap();
            let addr = relay.listening(DEADLINE).await.unwrap();
            relay_peers.push(addr.rsplit('/').next().unwrap().to_owned());
            relays.push(relay);
        }
        Some(Self {
            _relays: relays,
            relay_peers,
            world,
            programs,
            homes: AtomicU32::new(0),
        })
    }

    fn home(&self, nat: Nat) -> Result<Home, Failure> {
        let number = self.homes.fetch_add(1, Ordering::Relaxed);
        // 5.5.0 is the world's own. Who was the first has long ended when the last number is taken.
        self.world.home(u8::try_from(1 + number % 250)?, nat)
    }

    /// A node in a home.
    fn node(
        &self,
        home: &Home,
        stack: Stack,
        transport: Transport,
        more: &[&str],
    ) -> Result<Process, Failure> {
        let mut command = home.command(&self.programs[stack as usize]);
        let listen = transport.at("0.0.0.0");
        command.args(["listen", "--json", "--listen", &listen]);
        match stack {
            Stack::Ours => command.arg("--events"),
            // It would have to hear it from four peers.
            Stack::Go => command.args(["--punch-addr", &transport.at(home.outside())]),
        };
        command.args(more);
        Process::spawn(command)
    }

    /// How to reach a relay from behind a router.
    fn relay(&self, relay: Stack, nat: Nat, transport: Transport) -> String {
        let transport = match nat {
            Nat::UdpBlocked => Transport::Tcp,
            _ => transport,
        };
        let peer = &self.relay_peers[relay as usize];
        format!("{}/p2p/{peer}", transport.at(relay.relay_ip()))
    }

    /// Both nodes are new, and so are their routers, which remember.
    pub(crate) async fn attempt(&self, case: Case, relay: Stack) -> Result<Outcome, Failure> {
        let Case {
            transport,
            nats,
            stacks: [dialler, listener],
        } = case;
        let homes = [self.home(nats[0])?, self.home(nats[1])?];
        let relay_addr = self.relay(relay, nats[1], transport);
        let mut listening = self.node(&homes[1], listener, transport, &["--relay", &relay_addr])?;
        let reserved = listening.expect("relay_address", DEADLINE).await?;
        let peer = text(&reserved, "peer")?;
        let relay_addr = self.relay(relay, nats[0], transport);
        let through = format!("{relay_addr}/p2p-circuit/p2p/{peer}");
        let how = match dialler {
            Stack::Ours => "--keep",
            Stack::Go => "--connect",
        };
        let dialling = self.node(&homes[0], dialler, transport, &[how, &through])?;
        let watched = watch(&mut listening, listener, &homes).await;
        for process in [dialling, listening] {
            // The relay hears that they have gone. That they are gone is enough here.
            drop(process.stop(Duration::from_secs(3)).await);
        }
        watched
    }
}

/// What the listener makes of who comes through the relay.
async fn watch(
    listening: &mut Process,
    listener: Stack,
    homes: &[Home; 2],
) -> Result<Outcome, Failure> {
    let mut relayed: Option<(String, Instant)> = None;
    let mut failures = 0;
    loop {
        let (at, event) = listening.timed_event(DEADLINE).await?;
        match event["event"].as_str() {
            Some("connected" | "link") => {
                let (peer, remote) = (text(&event, "peer")?, text(&event, "remote")?);
                match &relayed {
                    None if remote.contains("/p2p-circuit") => {
                        relayed = Some((peer.to_owned(), at));
                        pull(homes).await?;
                    }
                    Some((known, since)) if peer == known && !remote.contains("/p2p-circuit") => {
                        return Ok(Outcome::Direct(at - *since));
                    }
                    _ => {}
                }
            }
            Some("hole_punch") => {
                // go-libp2p tells of each of its three attempts, we of the end.
                let (step, ours) = (event["step"].as_str(), listener == Stack::Ours);
                failures += match step {
                    Some("failed") if ours => 3,
                    Some("failed" | "attempt_failed") => 1,
                    _ => 0,
                };
                if failures >= 3 {
                    return Ok(Outcome::Relayed(event["error"].to_string()));
                }
            }
            _ => {}
        }
    }
}

async fn pull(homes: &[Home; 2]) -> Result<(), Failure> {
    let flapping: Vec<_> = homes
        .iter()
        .filter(|home| home.nat() == Nat::Flap)
        .collect();
    for home in &flapping {
        home.plug(false)?;
    }
    if !flapping.is_empty() {
        sleep(PULLED).await;
    }
    for home in &flapping {
        home.plug(true)?;
    }
    Ok(())
}
