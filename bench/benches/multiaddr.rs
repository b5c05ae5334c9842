//! Addresses: text and binary, both ways.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench is a test, and its macros make undocumented items"
)]

use std::hint::black_box;

use barewire_base::Multiaddr;
use criterion::{Criterion, criterion_group, criterion_main};

fn multiaddr(c: &mut Criterion) {
    let cases = [
        ("tcp", "/ip4/203.0.113.7/tcp/4001"),
        (
            "tcp with a peer",
            "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWKwYYHfMqsxV8Zun6kvbFBZjQnq352iY4a7eFSpU7PdpT",
        ),
        (
            "a circuit",
            "/dns4/relay.example/tcp/443/tls/ws/p2p/12D3KooWKwYYHfMqsxV8Zun6kvbFBZjQnq352iY4a7eFSpU7PdpT\
             /p2p-circuit",
        ),
    ];
    for (name, text) in cases {
        let addr: Multiaddr = text.parse().unwrap();
        let mut group = c.benchmark_group(format!("multiaddr/{name}"));
        group.bench_function("from text", |b| {
            b.iter(|| black_box(text).parse::<Multiaddr>().unwrap());
        });
        group.bench_function("to text", |b| b.iter(|| black_box(&addr).to_string()));
        group.bench_function("from bytes", |b| {
            b.iter(|| Multiaddr::from_bytes(black_box(addr.as_bytes())).unwrap());
        });
        group.finish();
    }
}

criterion_group!(benches, multiaddr);
criterion_main!(benches);
