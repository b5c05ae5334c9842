#![allow(clippy::unwrap_used, reason = "tests")]
use std::time::Duration;

use barewire_base::Keypair;
use bytes::Bytes;

use super::*;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn peer(n: u32) -> PeerId {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    Keypair::from_seed(&seed).peer_id()
}

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn port(n: usize) -> Multiaddr {
    addr(&format!("/ip4/198.51.100.1/tcp/{n}"))
}

fn book() -> Book {
    Book::new(PeerBookConfig::default())
}

fn info(peer_id: PeerId, addrs: &[Multiaddr], record: Option<(u64, &'static [u8])>) -> PeerInfo {
    PeerInfo {
        peer_id,
        listen_addrs: addrs.to_vec(),
        protocols: vec!["/x".into()],
        observed_addr: None,
        protocol_version: String::new(),
        agent_version: "a/1".into(),
        record_seq: record.map(|(seq, _)| seq),
        signed_record: record.map(|(_, bytes)| Bytes::from_static(bytes)),
    }
}

fn far() -> Multiaddr {
    addr("/ip4/203.0.113.1/tcp/1")
}

#[test]
fn the_best_address_is_served_first() {
    let mut book = book();
    let peer = peer(1);
    let sources = [
        AddressSource::Dns,
        AddressSource::Identify,
        AddressSource::User,
        AddressSource::SignedRecord,
    ];
    for (n, source) in sources.into_iter().enumerate() {
        assert!(book.add(10, &peer, &port(n + 1), source));
    }
    let served = |book: &Book| book.addresses(20, &peer);
    assert_eq!(served(&book), [port(3), port(4), port(2), port(1)]);
    // What failed goes last, what worked first.
    book.failed(11, &peer, &port(3));
    book.succeeded(12, &peer, &port(1));
    assert_eq!(served(&book), [port(1), port(4), port(2), port(3)]);
    book.succeeded(13, &peer, &port(2));
    book.failed(14, &peer, &port(1));
    book.failed(15, &peer, &port(3));
    assert_eq!(served(&book), [port(2), port(4), port(1), port(3)]);
    let entry = book.entry(&peer).unwrap();
    let first = entry.addrs.iter().find(|a| a.addr == port(1)).unwrap();
    assert_eq!((first.successes, first.failures), (1, 1));
    assert_eq!(
        (first.last_success, first.last_failure),
        (Some(12), Some(14))
    );
    assert_eq!(first.source, AddressSource::Connection);
    // A dial that fails adds nothing.
    book.failed(16, &peer, &port(99));
    assert_eq!(served(&book).len(), 4);
}

#[test]
fn addresses_live_as_long_as_their_source_allows() {
    let mut book = book();
    let peer = peer(1);
    book.add(0, &peer, &port(1), AddressSource::Identify);
    book.add(0, &peer, &port(2), AddressSource::User);
    book.succeeded(0, &peer, &port(3));
    assert_eq!(book.addresses(HOUR - 1, &peer).len(), 3);
    assert_eq!(book.addresses(HOUR, &peer), [port(3), port(2)]);
    assert_eq!(book.addresses(7 * DAY, &peer), [port(2)]);
    // While it is connected nothing expires, and the time begins anew at the end.
    book.connected(10, &peer);
    book.expire(30 * DAY);
    assert_eq!(book.addresses(30 * DAY, &peer).len(), 3);
    book.disconnected(30 * DAY, &peer);
    assert_eq!(book.addresses(30 * DAY + HOUR - 1, &peer).len(), 3);
    assert_eq!(book.addresses(30 * DAY + HOUR, &peer).len(), 2);
    book.expire(40 * DAY);
    assert_eq!(book.entry(&peer).unwrap().addrs.len(), 1);
    // A peer of which nothing is left is gone.
    book.forget(&peer);
    assert!(book.is_empty());
}

#[test]
fn only_a_greater_sequence_number_replaces_a_record() {
    let mut book = book();
    let peer = peer(1);
    let seq = |book: &Book| book.entry(&peer).unwrap().signed_record.clone().unwrap();
    book.learn(0, &info(peer, &[port(1)], Some((5, b"five"))), &far());
    assert_eq!(book.addresses(0, &peer), [port(1)]);
    for (number, bytes) in [(4, &b"four"[..]), (5, b"other"), (0, b"zero")] {
        book.learn(0, &info(peer, &[port(2)], Some((number, bytes))), &far());
        assert_eq!(seq(&book), (5, Bytes::from_static(b"five")));
        assert_eq!(book.addresses(0, &peer), [port(1)]);
    }
    book.learn(1, &info(peer, &[port(2)], Some((u64::MAX, b"max"))), &far());
    assert_eq!(book.addresses(0, &peer), [port(2)]);
    // Nor can an old one come back after the peer is forgotten.
    book.forget(&peer);
    book.learn(2, &info(peer, &[port(1)], Some((5, b"five"))), &far());
    assert_eq!(book.addresses(0, &peer), []);
    assert!(book.entries().is_empty());
}

#[test]
fn what_a_peer_no_longer_says_is_gone_unless_it_was_proven() {
    let mut book = book();
    let peer = peer(1);
    let all: Vec<_> = (1..=4).map(port).collect();
    book.learn(0, &info(peer, &all, None), &far());
    book.succeeded(0, &peer, &port(2));
    book.add(0, &peer, &port(3), AddressSource::User);
    book.learn(1, &info(peer, &[port(1)], None), &far());
    assert_eq!(book.addresses(1, &peer), [port(2), port(3), port(1)]);
}

#[test]
fn only_addresses_that_can_mean_something_are_taken() {
    let all = [
        addr("/ip4/127.0.0.1/tcp/1"),
        addr("/ip4/10.0.0.1/tcp/1"),
        addr("/ip4/198.51.100.1/tcp/1"),
        addr("/ip4/0.0.0.0/tcp/1"),
        addr("/dns4/a.example/tcp/1"),
        addr("/memory/1"),
    ];
    for (remote, taken) in [
        ("/ip4/203.0.113.1/tcp/1", &[2, 4][..]),
        ("/ip4/10.0.0.9/tcp/1", &[1, 2, 4]),
        ("/ip4/127.0.0.1/tcp/1", &[0, 1, 2, 4, 5]),
        ("/memory/9", &[0, 1, 2, 4, 5]),
    ] {
        let mut book = book();
        book.learn(0, &info(peer(1), &all, None), &addr(remote));
        let mut expected: Vec<_> = taken.iter().map(|n| all[*n].clone()).collect();
        expected.sort();
        assert_eq!(book.addresses(0, &peer(1)), expected, "{remote}");
    }
    let mut book = book();
    let other = port(1).with_peer(peer(2)).unwrap();
    assert!(!book.add(0, &peer(1), &other, AddressSource::User));
    let bare = Multiaddr::empty().with_peer(peer(1)).unwrap();
    assert!(!book.add(0, &peer(1), &bare, AddressSource::User));
    let own = port(1).with_peer(peer(1)).unwrap();
    assert!(book.add(0, &peer(1), &own, AddressSource::User));
    assert_eq!(book.addresses(0, &peer(1)), [port(1)]);
}

#[test]
fn a_peer_takes_its_bounds_and_no_more() {
    let mut book = book();
    let peer = peer(1);
    book.succeeded(0, &peer, &port(9));
    // 128 addresses of a kibibyte each, 128 protocols of 400 bytes, a record of 8 KiB.
    let long = "a".repeat(250);
    let addrs: Vec<_> = (0..128)
        .map(|n| {
            addr(&format!(
                "/dns4/{n}.{long}/tcp/1/tls/sni/{long}/http-path/{long}"
            ))
        })
        .collect();
    let mut said = info(peer, &addrs, None);
    said.protocols = (0..128)
        .map(|n| format!("/{n}/{}", "p".repeat(400)).into())
        .collect();
    said.agent_version = "ü".repeat(4_000);
    said.record_seq = Some(1);
    said.signed_record = Some(Bytes::from(vec![0; 8 * 1024]));
    book.learn(0, &said, &far());
    let entry = book.entry(&peer).unwrap();
    let stored = record::encode(entry);
    assert!(stored.len() <= record::MAX_LEN, "{}", stored.len());
    assert!(entry.addrs.len() <= MAX_STORED);
    assert!(entry.agent_version.len() <= MAX_AGENT_LEN);
    assert_eq!(entry.addrs[0].addr, port(9));
    assert_eq!(record::decode(&peer, &stored).unwrap(), {
        let mut entry = entry.clone();
        entry.connected = false;
        entry
    });
    let mut book = Book::new(PeerBookConfig::default());
    for n in 1..=1_000 {
        book.add(0, &peer, &port(n), AddressSource::Identify);
    }
    assert_eq!(book.entry(&peer).unwrap().addrs.len(), MAX_STORED);
    assert_eq!(book.addresses(0, &peer).len(), MAX_SERVED);
}

#[test]
fn too_many_peers_push_out_the_least() {
    let config = PeerBookConfig {
        max_unconnected: 10,
        ..PeerBookConfig::default()
    };
    let mut book = Book::new(config);
    book.add(0, &peer(0), &port(1), AddressSource::User);
    book.succeeded(0, &peer(1), &port(1));
    book.connected(0, &peer(2));
    for n in 3..300 {
        book.add(u64::from(n), &peer(n), &port(1), AddressSource::Identify);
        assert!(book.len() <= 11);
    }
    let left: Vec<_> = (0..300)
        .filter(|n| book.entry(&peer(*n)).is_some())
        .collect();
    assert_eq!(left, [vec![0, 1, 2], (292..300).collect()].concat());
    // Connected peers do not count, however many they are.
    for n in 0..300 {
        book.connected(300, &peer(n));
    }
    assert_eq!(book.len(), 300);
    for n in 0..300 {
        book.disconnected(301, &peer(n));
    }
    assert_eq!(book.len(), 10);
}

#[test]
fn changes_are_taken_once_and_load_again() {
    let mut book = book();
    let config = PeerBookConfig::default();
    book.succeeded(5, &peer(1), &port(1));
    book.learn(5, &info(peer(2), &[port(2)], Some((1, b"r"))), &far());
    book.add(5, &peer(3), &port(3), AddressSource::Identify);
    let stored = book.take_changed();
    assert_eq!(stored.len(), 3);
    assert!(!book.has_changed() && book.take_changed().is_empty());
    book.forget(&peer(3));
    assert_eq!(book.take_changed(), [(peer(3), None)]);
    let entries = stored.iter().map(|(peer, bytes)| {
        let bytes = bytes.as_ref().unwrap();
        record::decode(peer, bytes).unwrap()
    });
    let mut loaded = Book::new(config);
    loaded.load(5 + Duration::from_secs(HOUR).as_secs(), entries);
    // The address proven lives on, the others are over; a record is kept against replay.
    assert_eq!(loaded.addresses(HOUR + 5, &peer(1)), [port(1)]);
    assert_eq!(loaded.addresses(HOUR + 5, &peer(2)), []);
    assert!(loaded.entry(&peer(2)).unwrap().signed_record.is_some());
    assert!(loaded.entry(&peer(3)).is_none());
}
