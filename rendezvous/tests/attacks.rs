//! Floods against a registry: what it holds stays within its bounds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use barewire_base::{Keypair, PeerId, peer_record::PeerRecord};
use barewire_rendezvous::{Answer, Limits, Registry, Request, Status};
use bytes::Bytes;

/// A million with `BAREWIRE_FULL=1`.
fn times() -> u32 {
    if std::env::var_os("BAREWIRE_FULL").is_some() {
        1_000_000
    } else {
        50_000
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

struct Peer {
    id: PeerId,
    record: Bytes,
}

fn peer(seed: u32) -> Peer {
    let mut bytes = [1; 32];
    bytes[..4].copy_from_slice(&seed.to_be_bytes());
    let keypair = Keypair::from_seed(&bytes);
    let record = PeerRecord {
        peer_id: keypair.peer_id(),
        seq: 1,
        addrs: vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap()],
    };
    Peer {
        id: keypair.peer_id(),
        record: record.sign(&keypair).unwrap().into(),
    }
}

fn register(registry: &mut Registry, now: Instant, peer: &Peer, ns: &str) -> Status {
    let request = Request::Register {
        ns: Bytes::copy_from_slice(ns.as_bytes()),
        record: peer.record.clone(),
        ttl: 0,
    };
    match registry.handle(now, &peer.id, None, None, &request) {
        Some(Answer::Register { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn registrations_without_end_meet_the_quotas() {
    let now = Instant::now();
    let mut limits = Limits::default();
    limits.max_total = 100;
    let mut registry = Registry::new(limits, [7; 32], now);
    let peers: Vec<_> = (0..10).map(peer).collect();
    let before = resident();
    let mut refused = 0;
    for number in 0..times() {
        let who = &peers[number as usize % peers.len()];
        let status = register(&mut registry, now, who, &format!("room {number}"));
        refused += u32::from(status == Status::Unavailable);
        registry.take_changes();
    }
    assert_eq!((registry.len(), refused), (100, times() - 100));
    assert_eq!(registry.timers(), 100);
    // Those that are there may renew all the same.
    assert_eq!(
        register(&mut registry, now, &peers[0], "room 0"),
        Status::Ok
    );
    let grown = resident().saturating_sub(before);
    println!(
        "{} REGISTER, {refused} refused, RSS +{grown} bytes",
        times()
    );
    assert!(grown < 16 << 20, "RSS +{grown}");
}

#[test]
fn refreshes_of_one_namespace_replace() {
    let begun = Instant::now();
    let mut registry = Registry::new(Limits::default(), [7; 32], begun);
    let peers = [peer(1), peer(2)];
    register(&mut registry, begun, &peers[1], "room");
    let before = resident();
    for number in 0..times() {
        let now = begun + Duration::from_micros(number.into());
        assert_eq!(register(&mut registry, now, &peers[0], "room"), Status::Ok);
        registry.take_changes();
        assert_eq!((registry.len(), registry.timers()), (2, 2));
    }
    let grown = resident().saturating_sub(before);
    println!(
        "{} refreshes in {:?}, RSS +{grown} bytes",
        times(),
        begun.elapsed()
    );
    assert!(grown < 16 << 20, "RSS +{grown}");
}

#[test]
fn cookies_leave_no_trace() {
    let now = Instant::now();
    let mut registry = Registry::new(Limits::default(), [7; 32], now);
    let someone = peer(1);
    register(&mut registry, now, &someone, "room");
    let before = resident();
    let (mut cookie, mut refused) = (Bytes::new(), 0);
    for number in 0..times() {
        // Own cookies, and every other time one that is forged.
        let mut sent = cookie.to_vec();
        let forged = number % 2 == 1;
        if forged && let Some(byte) = sent.get_mut(number as usize % 8) {
            *byte ^= 1 + (number / 2 % 255) as u8;
        }
        let request = Request::Discover {
            ns: Bytes::from_static(b"room"),
            limit: u64::MAX,
            cookie: sent.into(),
        };
        match registry.handle(now, &someone.id, None, None, &request) {
            Some(Answer::Discover {
                status: Status::Ok,
                cookie: next,
                ..
            }) => cookie = next,
            Some(Answer::Discover {
                status: Status::InvalidCookie,
                ..
            }) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    // Of 24 bits of a MAC one in sixteen million is guessed.
    assert!(refused >= times() / 2 - 2, "{refused}");
    let grown = resident().saturating_sub(before);
    println!(
        "{} DISCOVER, {refused} refused, RSS +{grown} bytes",
        times()
    );
    assert!(registry.take_changes().len() == 1 && grown < 16 << 20);
}
