//! The gossip router: a duplicate, a heartbeat, and RPCs both ways. What a peer takes in memory is asserted by the tests of the
//! router (`cargo test --release -p barewire-gossip --test figures`), which count allocations.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench is a test, and its macros make undocumented items"
)]

#[path = "../../gossip/tests/common/mod.rs"]
mod common;

use std::{hint::black_box, time::Duration};

use barewire_gossip::{Author, Payload, RpcLimits, rpc::Rpc};
use common::{
    loads::{self, crowd, seen},
    message, publish,
};
use criterion::{Criterion, criterion_group, criterion_main};
use prost::Message;

fn router(c: &mut Criterion) {
    let mut group = c.benchmark_group("gossip");
    let (mut victim, peer, bodies) = seen(20_000);
    let now = victim.net.now;
    let mut next = bodies.iter().cycle();
    group.bench_function("duplicate of 200 B", |b| {
        b.iter(|| victim.router().receive(now, peer, next.next().unwrap()));
    });
    let mut victim = crowd(1_000);
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(1));
    group.bench_function("heartbeat, 1,000 peers × 20 topics", |b| {
        b.iter_custom(|beats| (0..beats).map(|_| loads::heartbeat(&mut victim)).sum());
    });
    group.finish();
}

fn rpc(c: &mut Criterion) {
    let author = Author::anonymous();
    let signed = Author::signed(&common::keypair(1), 1);
    for (name, size) in [("200 B", 200), ("64 KiB", 64 << 10)] {
        let mut group = c.benchmark_group(format!("gossip/{name}"));
        let data = Payload::from(vec![7; size]);
        // Without a signature, which would be what is measured.
        group.bench_function("encode", |b| {
            b.iter(|| author.message("topic", black_box(&data).clone()));
        });
        let body = publish(message(&signed, "topic", vec![7; size])).encode_to_vec();
        let (body, limits) = (Payload::from(body), RpcLimits::default());
        group.bench_function("decode", |b| {
            b.iter(|| Rpc::decode(black_box(&body), &limits).unwrap());
        });
        group.finish();
    }
}

criterion_group!(benches, router, rpc);
criterion_main!(benches);
