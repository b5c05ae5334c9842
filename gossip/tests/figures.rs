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

use barewire_gossip::{Config, Payload, Version};
use common::{
    Victim, message,
    proto::{Rpc, SubOpts},
    publish,
};
use prost::Message;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A debug build does a tenth of it.
const SCALE: usize = if cfg!(debug_assertions) { 10 } else { 1 };

fn subscriptions(count: usize) -> Payload {
    let subscriptions = (0..count)
        .map(|n| SubOpts {
            subscribe: Some(true),
            topicid: Some(format!("topic/{n}")),
            ..Default::default()
        })
        .collect();
    Rpc {
        subscriptions,
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

// One test, because the allocator counts the whole process.
#[test]
fn costs() {
    memory_of_an_idle_peer();
    heartbeat();
    duplicate();
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
    let mut victim = Victim::new(&Config::wan());
    for n in 0..20 {
        victim.net.subscribe(0, &format!("topic/{n}"));
    }
    let body = subscriptions(20);
    for n in 0..1000 / SCALE {
        let peer = victim.peer(Version::V1_2, n % 3 == 0);
        let now = victim.net.now;
        victim.router().receive(now, peer, &body).unwrap();
    }
    let mut worst = Duration::ZERO;
    let mut sum = Duration::ZERO;
    let beats = 30;
    for beat in 0..beats {
        for n in 0..20 {
            for part in 0..5u8 {
                victim
                    .net
                    .publish(0, &format!("topic/{n}"), vec![beat, n, part]);
            }
        }
        for peer in victim.raw.clone() {
            victim.take(peer);
        }
        victim.net.now += Duration::from_secs(1);
        let now = victim.net.now;
        let begin = Instant::now();
        victim.router().handle_timeout(now);
        let took = begin.elapsed();
        if beat > 0 {
            worst = worst.max(took);
            sum += took;
        }
    }
    let mean = sum / u32::from(beats - 1);
    println!("heartbeat, 1,000 peers × 20 topics, 100 messages: mean {mean:?}, worst {worst:?}");
    if !cfg!(debug_assertions) {
        assert!(mean <= Duration::from_millis(5), "{mean:?}");
    }
}

fn duplicate() {
    let mut victim = Victim::new(&Config::wan());
    victim.net.subscribe(0, "t");
    let author = barewire_gossip::Author::signed(&common::keypair(50), 1);
    let peers: Vec<_> = (0..2).map(|_| victim.attacker(Version::V1_2)).collect();
    let now = victim.net.now;
    // As in life: many messages, so that tables are not all in the cache.
    let bodies: Vec<Payload> = (0..20_000 / SCALE as u32)
        .map(|n| {
            publish(message(&author, "t", n.to_be_bytes().repeat(50)))
                .encode_to_vec()
                .into()
        })
        .collect();
    for body in &bodies {
        victim.router().receive(now, peers[0], body).unwrap();
        victim.net.settle();
    }
    let region = Region::new(ALLOCATOR);
    let begin = Instant::now();
    let rounds = 20;
    for _ in 0..rounds {
        for body in &bodies {
            victim.router().receive(now, peers[1], body).unwrap();
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
