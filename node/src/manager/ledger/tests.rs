#![allow(clippy::unwrap_used, reason = "tests")]
use barewire_base::Keypair;

use super::*;

fn limits() -> Limits {
    Limits {
        max_connections: 12,
        max_inbound: 10,
        reserved_slots: 2,
        high_water: 10,
        low_water: 8,
        max_per_peer: 3,
        max_per_ip: 4,
        rate_per_ip: 2,
        burst_per_ip: 6,
        max_descriptors: usize::MAX,
        ..Limits::default()
    }
}

fn peer() -> PeerId {
    Keypair::generate(&mut rand::rng()).peer_id()
}

fn inbound(peer: PeerId) -> Entry {
    Entry {
        peer,
        inbound: true,
        descriptor: true,
    }
}

fn outbound(peer: PeerId) -> Entry {
    Entry {
        inbound: false,
        ..inbound(peer)
    }
}

/// A ledger with `n` connections of as many peers, entered at `now`.
fn filled(now: Instant, n: u64) -> (Ledger, Vec<PeerId>) {
    let mut ledger = Ledger::new(limits());
    let peers: Vec<_> = (0..n).map(|_| peer()).collect();
    for (id, peer) in peers.iter().enumerate() {
        ledger.enter(now, id as u64, inbound(*peer)).unwrap();
    }
    (ledger, peers)
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn totals_leave_room_for_dials_and_reserved_peers() {
    let now = Instant::now();
    let (mut ledger, peers) = filled(now, 10);
    let stranger = peer();
    assert_eq!(ledger.check(&inbound(stranger)), Err(Refusal::Connections));
    ledger.remove(0);
    ledger.enter(now, 20, outbound(peers[0])).unwrap();
    ledger.remove(20);
    ledger.protect(stranger, "admin".into());
    for id in 30..33 {
        ledger.enter(now, id, inbound(stranger)).unwrap();
    }
    assert_eq!(ledger.len(), 12);
    assert_eq!(ledger.check(&inbound(stranger)), Err(Refusal::PerPeer));
    ledger.remove(32);
    ledger.enter(now, 34, inbound(stranger)).unwrap();
    ledger.assert_consistent();
    assert!(ledger.unprotect(&stranger, "admin"));
    assert!(!ledger.unprotect(&stranger, "admin"));
    ledger.remove(34);
    assert_eq!(ledger.check(&inbound(stranger)), Err(Refusal::Connections));
}

#[test]
fn inbound_and_descriptors_have_limits_of_their_own() {
    let now = Instant::now();
    let mut limits = limits();
    limits.max_inbound = 2;
    limits.max_descriptors = 9;
    limits.max_pending_inbound = 4;
    let mut ledger = Ledger::new(limits);
    for id in 0..2 {
        ledger.enter(now, id, inbound(peer())).unwrap();
    }
    assert_eq!(ledger.check(&inbound(peer())), Err(Refusal::Inbound));
    for id in 2..5 {
        ledger.enter(now, id, outbound(peer())).unwrap();
    }
    // The other four are for handshakes.
    assert_eq!(ledger.check(&outbound(peer())), Err(Refusal::Descriptors));
    let without = Entry {
        descriptor: false,
        ..outbound(peer())
    };
    ledger.enter(now, 9, without).unwrap();
    ledger.assert_consistent();
}

#[test]
fn one_network_has_a_rate_and_a_share() {
    let start = Instant::now();
    let mut ledger = Ledger::new(limits());
    let from = ip("192.0.2.1");
    let network = ledger.visit(start, from).unwrap().unwrap();
    for _ in 1..4 {
        ledger.visit(start, from).unwrap();
    }
    assert_eq!(ledger.visit(start, from), Err(Refusal::PerIp));
    // The same host by another name, and another host.
    let mapped = ip("::ffff:192.0.2.1");
    assert_eq!(ledger.visit(start, mapped), Err(Refusal::PerIp));
    ledger.visit(start, ip("192.0.2.2")).unwrap();
    for _ in 0..4 {
        ledger.leave(network);
    }
    for _ in 0..2 {
        ledger.visit(start, from).unwrap();
        ledger.leave(network);
    }
    // Six came at once; two come per second.
    assert_eq!(ledger.visit(start, from), Err(Refusal::IpRate));
    assert!(ledger.visit(start + SECOND / 2, from).is_ok());
    let at = start + SECOND / 2;
    assert_eq!(ledger.visit(at, from), Err(Refusal::IpRate));
    assert!(ledger.visit(start + SECOND, from).is_ok());
    ledger.assert_consistent();
}

#[test]
fn an_ipv6_customer_is_one_network_and_loopback_is_none() {
    let now = Instant::now();
    let mut ledger = Ledger::new(limits());
    for n in 0..4 {
        let from = ip(&format!("2001:db8:0:{n:x}::{n}"));
        assert!(ledger.visit(now, from).unwrap().is_some());
    }
    let from = ip("2001:db8:0:ff::1");
    assert_eq!(ledger.visit(now, from), Err(Refusal::PerIp));
    assert!(ledger.visit(now, ip("2001:db8:0:100::1")).is_ok());
    for from in [ip("127.0.0.1"), ip("127.9.9.9"), ip("::1"), None] {
        for _ in 0..100 {
            assert_eq!(ledger.visit(now, from), Ok(None));
        }
    }
    let mut strict = limits();
    strict.limit_loopback = true;
    let mut ledger = Ledger::new(strict);
    for _ in 0..4 {
        assert!(ledger.visit(now, ip("127.0.0.1")).unwrap().is_some());
    }
    assert_eq!(ledger.visit(now, ip("127.0.0.1")), Err(Refusal::PerIp));
    assert!(ledger.visit(now, ip("127.0.0.2")).is_ok());
}

#[test]
fn invented_addresses_leave_their_owner_a_share() {
    let start = Instant::now();
    let mut limits = limits();
    limits.max_per_ip = 8;
    let (rate, burst) = (limits.rate_per_ip, limits.burst_per_ip);
    let mut ledger = Ledger::new(limits);
    let from = ip("192.0.2.1");
    // A minute of packets with this address, each held until a newcomer has to prove itself.
    for n in 0..6_000 {
        let now = start + Duration::from_millis(10) * n;
        if ledger.wants_proof(now, from) {
            continue;
        }
        assert!(ledger.visit_unproven(now, from).unwrap().is_some());
    }
    let now = start + 60 * SECOND;
    let network = Network::of(from.unwrap());
    for _ in 0..burst.min(4) {
        ledger.visit(now, from).unwrap();
    }
    for _ in 0..8 {
        ledger.leave(network);
    }
    // Connections do pay, if only afterwards.
    let mut ledger = Ledger::new(ledger.limits().clone());
    let mut unproven = 0;
    while !ledger.wants_proof(now, from) {
        ledger.visit_unproven(now, from).unwrap();
        ledger.proven(now, network);
        ledger.leave(network);
        unproven += 1;
    }
    assert_eq!(unproven, burst.div_ceil(2), "{rate} a second");
    let proven = (0..burst).filter(|_| ledger.visit(now, from).is_ok());
    assert_eq!(proven.count(), (burst - unproven) as usize);
    ledger.assert_consistent();
}

#[test]
fn networks_that_owe_nothing_are_forgotten() {
    let mut now = Instant::now();
    let mut ledger = Ledger::new(limits());
    for n in 0..200_000u32 {
        now += Duration::from_millis(1);
        let network = ledger.visit(now, Some(IpAddr::V4(n.into()))).unwrap();
        ledger.leave(network.unwrap_or_else(|| Network::of(IpAddr::V4(n.into()))));
    }
    assert!(ledger.networks.len() <= 2 * MIN_NETWORKS);
}

#[test]
fn the_least_worthy_are_trimmed_down_to_low_water() {
    let start = Instant::now();
    let (mut ledger, peers) = filled(start, 10);
    ledger.protect(peers[0], "admin".into());
    ledger.tag(peers[1], "useful".into(), 10);
    ledger.tag(peers[2], "bad".into(), -5);
    assert_eq!(
        ledger.trim(start, 1, |_, _| false),
        [0u64; 0],
        "all in grace"
    );
    let later = start + Duration::from_secs(70);
    let busy = |_: &PeerId, id| id >= 5;
    let trimmed = ledger.trim(later, 1, busy);
    assert_eq!(trimmed, [2, 3], "the negative one, then the first idle one");
    assert_eq!(ledger.len(), 8);
    ledger.assert_consistent();
    // Twelve again, but it was done a moment ago.
    for id in 20..22 {
        ledger.enter(later, id, inbound(peer())).unwrap();
    }
    assert_eq!(ledger.trim(later + SECOND, 1, busy), [0u64; 0]);
    let trimmed = ledger.trim(later + 10 * SECOND, 1, |_, _| false);
    assert_eq!(trimmed.len(), 2);
    assert!(!trimmed.contains(&0) && !trimmed.contains(&1));
    // What was trimmed ends in its own time.
    for id in trimmed {
        ledger.remove(id);
    }
    ledger.assert_consistent();
}

#[test]
fn trimming_waits_for_silence() {
    let start = Instant::now();
    let mut limits = limits();
    limits.high_water = 5;
    limits.low_water = 4;
    let mut ledger = Ledger::new(limits);
    for id in 0..5 {
        ledger.enter(start, id, inbound(peer())).unwrap();
    }
    assert_eq!(ledger.poll_timeout(start), None);
    ledger.enter(start, 5, inbound(peer())).unwrap();
    assert_eq!(ledger.poll_timeout(start), Some(start));
    assert!(ledger.trim(start, 0, |_, _| false).is_empty());
    let mut now = start;
    let mut rounds = 0;
    let trimmed = loop {
        now = ledger.poll_timeout(now).unwrap();
        let trimmed = ledger.trim(now, 0, |_, _| false);
        rounds += 1;
        if !trimmed.is_empty() {
            break trimmed;
        }
    };
    assert_eq!((rounds, now - start), (6, 60 * SECOND));
    assert_eq!(trimmed.len(), 2);
    assert_eq!(ledger.poll_timeout(now), None);
}

#[test]
fn short_memory_refuses_first_and_then_closes_the_worst() {
    let now = Instant::now();
    let (mut ledger, peers) = filled(now, 6);
    ledger.set_memory_short(true);
    assert_eq!(ledger.visit(now, None), Err(Refusal::Memory));
    ledger.protect(peers[5], "admin".into());
    ledger.tag(peers[0], "useful".into(), 1);
    assert_eq!(ledger.shed(3, |_, _| false), [1, 2, 3]);
    assert_eq!(ledger.shed_peer(&peers[5]), [0u64; 0]);
    assert_eq!(ledger.shed_peer(&peers[0]), [0]);
    assert_eq!(ledger.shed_peer(&peers[0]), [0u64; 0]);
    assert_eq!(ledger.shed(9, |_, _| false), [4]);
    assert_eq!(ledger.len(), 1);
    ledger.set_memory_short(false);
    assert_eq!(ledger.visit(now, None), Ok(None));
    ledger.assert_consistent();
}

#[test]
fn tags_outlive_connections_and_are_forgotten_when_taken_back() {
    let now = Instant::now();
    let (mut ledger, peers) = filled(now, 1);
    ledger.tag(peers[0], "a".into(), i64::MAX);
    ledger.tag(peers[0], "b".into(), i64::MAX);
    ledger.protect(peers[0], "a".into());
    assert_eq!(ledger.value(&peers[0]), i64::MAX);
    assert_eq!(ledger.holds(&peers[0]).len(), 2);
    ledger.remove(0);
    assert_eq!(ledger.holds(&peers[0]).len(), 2);
    assert!(ledger.untag(&peers[0], "a") && ledger.untag(&peers[0], "b"));
    assert!(ledger.unprotect(&peers[0], "a"));
    assert!(ledger.peers.is_empty());
    ledger.remove(0);
    ledger.assert_consistent();
}
