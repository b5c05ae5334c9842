//! What a point does on one processor and what it holds: `cargo run --release -p barewire-rendezvous --example figures`.
#![allow(clippy::unwrap_used, reason = "an example")]

use std::time::{Duration, Instant};

use barewire_base::{Keypair, PeerId, peer_record::PeerRecord};
use barewire_rendezvous::{Limits, Registry, Request};
use bytes::Bytes;

const REGISTRATIONS: u32 = 100_000;
const NAMESPACES: u32 = 100;
const DISCOVERS: u32 = 20_000;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn request(seed: u32, seq: u64) -> (PeerId, Vec<u8>) {
    let mut bytes = [1; 32];
    bytes[..4].copy_from_slice(&seed.to_be_bytes());
    let keypair = Keypair::from_seed(&bytes);
    let record = PeerRecord {
        peer_id: keypair.peer_id(),
        seq,
        addrs: ["/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/udp/4001/quic-v1"]
            .map(|addr| addr.parse().unwrap())
            .to_vec(),
    };
    let request = Request::Register {
        ns: format!("namespace {}", seed % NAMESPACES)
            .into_bytes()
            .into(),
        record: record.sign(&keypair).unwrap().into(),
        ttl: 7_200,
    };
    (keypair.peer_id(), request.encode())
}

/// Decodes and answers each; returns how long each took, sorted.
fn run(registry: &mut Registry, requests: &[(PeerId, Vec<u8>)]) -> Vec<Duration> {
    let mut took = Vec::with_capacity(requests.len());
    for (peer, bytes) in requests {
        let begun = Instant::now();
        let request = barewire_rendezvous::decode_request(&Bytes::copy_from_slice(bytes)).unwrap();
        let answer = registry.handle(begun, peer, None, None, &request);
        drop(answer.map(|answer| answer.encode()));
        registry.take_changes();
        took.push(begun.elapsed());
    }
    took.sort();
    took
}

fn show(what: &str, took: &[Duration]) {
    let total: Duration = took.iter().sum();
    let rate = took.len() as f64 / total.as_secs_f64();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    println!("{what}: {rate:.0}/s, p50 {:?}, p99 {:?}", at(50), at(99));
}

fn main() {
    let now = Instant::now();
    let mut registry = Registry::new(Limits::unlimited(), [7; 32], now);
    let mut first = Vec::new();
    let mut grown = 0;
    // In parts, so that the requests that wait are not taken for memory of the registry.
    for part in 0..10 {
        let range = REGISTRATIONS / 10 * part..REGISTRATIONS / 10 * (part + 1);
        let requests: Vec<_> = range.map(|seed| request(seed, 1)).collect();
        let before = resident();
        first.extend(run(&mut registry, &requests));
        grown += resident().saturating_sub(before);
    }
    first.sort();
    show("REGISTER, new", &first);
    println!(
        "{} registrations, {} bytes of memory each",
        registry.len(),
        grown / registry.len()
    );
    let again: Vec<_> = (0..20_000).map(|seed| request(seed, 2)).collect();
    show("REGISTER, new record", &run(&mut registry, &again));
    show("REGISTER, same record", &run(&mut registry, &again));
    let asker = again[0].0;
    for limit in [1, 20, 1_000] {
        let request = |n: u32| Request::Discover {
            ns: format!("namespace {}", n % NAMESPACES).into_bytes().into(),
            limit,
            cookie: Bytes::new(),
        };
        let requests: Vec<_> = (0..DISCOVERS / limit as u32 + 100)
            .map(|n| (asker, request(n).encode()))
            .collect();
        show(
            &format!("DISCOVER, {limit} at most"),
            &run(&mut registry, &requests),
        );
    }
}
