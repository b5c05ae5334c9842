//! The connection ledger as a list of operations: its counters match its entries after each, no
//! limit is exceeded, nobody privileged or young is trimmed, and equal operations decide equally.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, PeerId};
use barewire_node::manager::{Backoff, Entry, Ledger, Limits, MemoryWatch, Network};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

static PEERS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
    (0..8u8)
        .map(|n| Keypair::from_seed(&[n; 32]).peer_id())
        .collect()
});

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Op {
    Wait(u16),
    Visit(Option<u16>, bool),
    Leave(u8),
    Enter {
        peer: u8,
        inbound: bool,
        descriptor: bool,
    },
    Remove(u8),
    Tag {
        peer: u8,
        name: u8,
        value: i64,
    },
    Untag {
        peer: u8,
        name: u8,
    },
    Protect {
        peer: u8,
        name: u8,
    },
    Unprotect {
        peer: u8,
        name: u8,
    },
    Trim {
        coming: u8,
        busy: u8,
    },
    Shed {
        count: u8,
        busy: u8,
    },
    ShedPeer(u8),
    MemoryShort(bool),
    Observe {
        used: u32,
        limit: u32,
        closable: u32,
    },
    Fail(u8),
}

#[derive(Arbitrary, Debug)]
struct Input {
    memory: u32,
    connections: u8,
    high: u8,
    low: u8,
    per_peer: u8,
    per_ip: u8,
    burst: u8,
    descriptors: u8,
    reserved: u8,
    privileged: u8,
    ops: Vec<Op>,
}

fn limits(input: &Input) -> Limits {
    let mut limits = Limits::derive(&Default::default(), Some(u64::from(input.memory)));
    limits.set_connections(usize::from(input.connections));
    limits.set_per_ip(usize::from(input.per_ip));
    limits.high_water = usize::from(input.high);
    limits.low_water = usize::from(input.low);
    limits.max_per_peer = usize::from(input.per_peer);
    limits.burst_per_ip = u32::from(input.burst);
    limits.max_descriptors = usize::from(input.descriptors);
    limits.max_pending_inbound = 4;
    limits.reserved_slots = usize::from(input.reserved);
    limits
        .reserved_peers
        .extend(PEERS.get(usize::from(input.privileged)));
    limits
}

fn peer(n: u8) -> PeerId {
    PEERS[usize::from(n) % PEERS.len()]
}

fn name(n: u8) -> &'static str {
    NAMES[usize::from(n) % NAMES.len()]
}

fn address(n: u16, six: bool) -> IpAddr {
    if six {
        Ipv6Addr::new(0x2001, 0xdb8, n, n << 4, 0, 0, 0, n).into()
    } else {
        Ipv4Addr::from(u32::from(n) << 9).into()
    }
}

/// One run; what it decided, to be compared with a second run.
fn run(input: &Input) -> Vec<u64> {
    let limits = limits(input);
    let mut ledger = Ledger::new(limits.clone());
    let mut watch = MemoryWatch::default();
    let mut backoff = Backoff::default();
    let mut now = *START;
    let mut visits: Vec<Network> = Vec::new();
    let mut links: Vec<(u64, PeerId, Instant)> = Vec::new();
    let mut decided = Vec::new();
    let mut next = 0;
    for op in &input.ops {
        match *op {
            Op::Wait(ms) => now += Duration::from_millis(u64::from(ms) * 10),
            Op::Visit(n, six) => match ledger.visit(now, n.map(|n| address(n, six))) {
                Ok(network) => visits.extend(network),
                Err(refusal) => decided.push(refusal as u64),
            },
            Op::Leave(n) if !visits.is_empty() => {
                ledger.leave(visits.swap_remove(usize::from(n) % visits.len()));
            }
            Op::Enter {
                peer: n,
                inbound,
                descriptor,
            } => {
                let entry = Entry {
                    peer: peer(n),
                    inbound,
                    descriptor,
                };
                let fits = ledger.check(&entry);
                let entered = ledger.enter(now, next, entry);
                assert_eq!(fits, entered);
                match entered {
                    Ok(()) => links.push((next, entry.peer, now)),
                    Err(refusal) => decided.push(refusal as u64),
                }
                next += 1;
            }
            Op::Remove(n) if !links.is_empty() => {
                let (id, ..) = links.swap_remove(usize::from(n) % links.len());
                ledger.remove(id);
                ledger.remove(id);
            }
            Op::Leave(_) | Op::Remove(_) => ledger.remove(u64::MAX),
            Op::Tag {
                peer: n,
                name: m,
                value,
            } => ledger.tag(peer(n), name(m).into(), value),
            Op::Untag { peer: n, name: m } => {
                ledger.untag(&peer(n), name(m));
                assert!(!ledger.untag(&peer(n), name(m)));
            }
            Op::Protect { peer: n, name: m } => {
                ledger.protect(peer(n), name(m).into());
                assert!(ledger.is_privileged(&peer(n)));
            }
            Op::Unprotect { peer: n, name: m } => {
                ledger.unprotect(&peer(n), name(m));
            }
            Op::Trim { coming, busy } => {
                let before = ledger.len();
                let coming = usize::from(coming);
                let gone = ledger.trim(now, coming, |_, id| id % 8 == u64::from(busy));
                assert!(gone.is_empty() || before + coming > limits.high_water);
                assert_eq!(ledger.len(), before - gone.len());
                assert!(gone.is_empty() || ledger.len() >= limits.low_water.min(before));
                for id in &gone {
                    let (_, peer, since) = links.iter().find(|(link, ..)| link == id).unwrap();
                    assert!(!ledger.is_privileged(peer) && now - *since >= limits.grace);
                }
                if !gone.is_empty() {
                    assert!(ledger.trim(now, 255, |_, _| false).is_empty(), "no silence");
                }
                decided.extend(gone);
            }
            Op::Shed { count, busy } => {
                let gone = ledger.shed(usize::from(count), |_, id| id % 8 == u64::from(busy));
                assert!(gone.len() <= usize::from(count));
                decided.extend(gone);
            }
            Op::ShedPeer(n) => {
                let gone = ledger.shed_peer(&peer(n));
                assert!(gone.is_empty() || !ledger.is_connected(&peer(n)));
                decided.extend(gone);
            }
            Op::MemoryShort(short) => {
                ledger.set_memory_short(short);
                assert_eq!(ledger.visit(now, None).is_err(), short);
            }
            Op::Observe {
                used,
                limit,
                closable,
            } => {
                let step = watch.observe(now, used.into(), limit.into(), || closable.into());
                assert!(step.free <= u64::from(used));
                assert!(step.free == 0 || step.short);
                assert!(!step.short || !step.helpless);
                watch.freed(now, step.free);
                decided.push(step.free);
            }
            Op::Fail(random) => {
                let delay = backoff.failed(now, f64::from(random) / 255.0);
                assert!(delay >= Duration::from_millis(125) && delay <= Duration::from_secs(60));
                decided.push(delay.as_nanos() as u64);
            }
        }
        ledger.assert_consistent();
        if let Some(at) = ledger.poll_timeout(now) {
            assert!(at <= now + limits.silence);
        }
    }
    decided
}

fuzz_target!(|input: Input| {
    assert_eq!(run(&input), run(&input));
});
