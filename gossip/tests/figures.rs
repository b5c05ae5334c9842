//! What the router costs: time of a heartbeat, memory of an idle peer, allocations of a duplicate. Figures are asserted in
//! release builds; `cargo test --release -p barewire-gossip --test figures -- --nocapture` prints them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    alloc::System,
    time::{Duration, Instant},
};

use barewire_gossip::{Config, Payload, RpcLimits, Version, rpc::Rpc};
use bytes::BytesMut;
use common::{
    Victim,
    loads::{self, crowd, seen, subscriptions},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A debug build does a tenth of it.
const SCALE: usize = if cfg!(debug_assertions) { 10 } else { 1 };

// One test, because the allocator counts the whole process.
#[test]
fn costs() {
    memory_of_an_idle_peer();
    heartbeat();
    duplicate();
    decoding();
}

fn memory_of_an_idle_peer() {
    for config in [Config::default(), Config::adversarial()] {
        let scored = config.score.is_some();
        let mut victim = Victim::new(&config);
        for n in 0..5 {
            victim.net.subscribe(0, &format!("topic/{n}"));
        }
        let body = subscriptions(5);
        let region = Region::new(ALLOCATOR);
        let count = 1000 / SCALE as isize;
        for _ in 0..count {
            let peer = victim.attacker(Version::V1_2);
            let now = victim.net.now;
            victim.router().receive(now, peer, &body).unwrap();
            victim.take(peer);
        }
        victim.net.seconds(130);
        for peer in victim.raw.clone() {
            victim.take(peer);
        }
        victim.net.nodes[0].events = Vec::new();
        victim.net.nodes[0].ready = Vec::new();
        let change = region.change();
        let each = (change.bytes_allocated as isize - change.bytes_deallocated as isize) / count;
        println!("memory of an idle peer with 5 topics: {each} bytes (scoring {scored})");
        assert!(each <= 2048, "{each}");
    }
}

fn heartbeat() {
    let mut victim = crowd(1000 / SCALE);
    let mut worst = Duration::ZERO;
    let mut sum = Duration::ZERO;
    let beats = 30;
    for beat in 0..beats {
        let took = loads::heartbeat(&mut victim);
        if beat > 0 {
            worst = worst.max(took);
            sum += took;
        }
    }
    let mean = sum / (beats - 1);
    println!("heartbeat, 1,000 peers × 20 topics, 100 messages: mean {mean:?}, worst {worst:?}");
    if !cfg!(debug_assertions) {
        assert!(mean <= Duration::from_millis(5), "{mean:?}");
    }
}

fn duplicate() {
    let (mut victim, peer, bodies) = seen(20_000 / SCALE as u32);
    let now = victim.net.now;
    let region = Region::new(ALLOCATOR);
    let begin = Instant::now();
    let rounds = 20;
    for _ in 0..rounds {
        for body in &bodies {
            victim.router().receive(now, peer, body).unwrap();
        }
    }
    let count = rounds * bodies.len();
    let each = begin.elapsed().as_nanos() / count as u128;
    let allocations = region.change().allocations as f64 / count as f64;
    println!("duplicate of 200 B among 20,000: {each} ns, {allocations:.2} allocations");
    if !cfg!(debug_assertions) {
        assert!(each <= 1000, "{each} ns");
    }
}

/// Row 6: a mebibyte, filled with what decodes to most within the limits.
fn decoding() {
    let field = |number: u8, body: &[u8]| {
        let mut out = BytesMut::new();
        barewire_base::framing::encode_prefixed(body, &mut out);
        [&[number << 3 | 2], &out[..]].concat()
    };
    let control = |entries: Vec<u8>| field(3, &entries);
    let ids = |len: usize, count| field(1, &vec![7; len]).repeat(count);
    let limits = RpcLimits::default();
    let filled = |mut body: Vec<u8>| {
        let rest = (1usize << 20).saturating_sub(body.len() + 16);
        body.extend(field(15, &vec![0; rest]));
        body
    };
    let most = [
        field(2, &[]).repeat(limits.max_publish),
        field(1, &[]).repeat(limits.max_subscriptions),
        control(field(2, &ids(0, limits.max_ids))),
        control(field(4, &[]).repeat(limits.max_control - 2)),
        control(field(4, &field(2, &[]).repeat(limits.max_peers))),
    ];
    let all = most.concat();
    let cases = [
        ("empty messages", filled(most[0].clone())),
        ("empty subscriptions", filled(most[1].clone())),
        ("empty ids wanted", filled(most[2].clone())),
        (
            "ids of 20 bytes",
            filled(control(field(2, &ids(20, 32_000)))),
        ),
        ("empty prunes", filled(most[3].clone())),
        ("empty peers", filled(most[4].clone())),
        ("everything at its limit", filled(all)),
        ("one message", field(2, &field(2, &vec![1; 1 << 20]))),
        (
            "unknown fields of a message",
            field(2, &[0x50, 1].repeat(30_000)),
        ),
    ];
    for (name, body) in cases {
        let body = Payload::from(body);
        let begin = Instant::now();
        let region = Region::new(ALLOCATOR);
        let rpc = Rpc::decode(&body, &limits).unwrap();
        let bytes = region.change().bytes_allocated;
        let took = begin.elapsed();
        drop(rpc);
        println!(
            "row 6: {} bytes of {name}: {bytes} allocated, {took:?}",
            body.len()
        );
        assert!(bytes <= 4 * body.len(), "{name}: {bytes}");
        if !cfg!(debug_assertions) {
            assert!(took <= Duration::from_millis(10), "{name}: {took:?}");
        }
    }
}
