//! What relaying costs: bytes a second through one circuit, beside go-libp2p's relay, and memory of idle circuits.

use std::time::Duration;

use barewire_base::framing;
use barewire_node::{
    Connection, Endpoint, Keypair, Multiaddr, Router, Stream,
    protocols::relay::{HOP_PROTOCOL, STOP_PROTOCOL},
};
use barewire_tests::{
    full,
    peers::{self, Foreign},
    process::{Process, number, run, text},
    usage::Usage,
};
use bytes::{Bytes, BytesMut};

use crate::DEADLINE;

/// MiB a second of a download through a relay, the best of three.
async fn throughput(relay: &std::path::Path, args: &[&str], size: &str) -> f64 {
    let ours = peers::barewire().expect("barewire builds");
    let listen = [
        "listen",
        "--json",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--relay-server",
    ];
    let (relaying, addr) = Process::listen(relay, [&listen[..], args].concat(), DEADLINE)
        .await
        .unwrap();
    let mut listening = Process::start(&ours, ["listen", "--json", "--relay", &addr]).unwrap();
    let event = listening.expect("relay_address", DEADLINE).await.unwrap();
    let way = text(&event, "addr").unwrap();
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let perf = [
            "perf",
            way,
            "--download",
            size,
            "--json",
            "--timeout",
            "120",
        ];
        let event = run(&ours, perf, "perf", 3 * DEADLINE).await.unwrap();
        let of = |field| number(&event, field).unwrap();
        best = best.max(of("download_bytes") / of("download_s") / (1 << 20) as f64);
    }
    relaying.stop(DEADLINE).await.unwrap();
    best
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_a_second_through_a_circuit() {
    let size = if full() { "512MiB" } else { "4MiB" };
    let ours = peers::barewire().expect("barewire builds");
    let free = ["--relay-data", "1000GB", "--relay-duration", "3600"];
    let through_ours = throughput(&ours, &free, size).await;
    let Some(go) = Foreign::Go.build_or_skip() else {
        return;
    };
    let through_go = throughput(&go, &["--relay-unlimited"], size).await;
    let ratio = through_ours / through_go;
    println!(
        "through our relay {through_ours:.0} MiB/s, through go-libp2p's {through_go:.0} MiB/s: {ratio:.2} times (target 1.5)"
    );
    // A debug build on a busy machine says nothing about the target.
    let target = if full() { 1.5 } else { 0.02 };
    assert!(ratio >= target, "{ratio}");
}

/// A message of a relay, and the first bytes of what comes back.
async fn say(stream: &mut Stream, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framing::encode_prefixed(message, &mut framed);
    stream.write_chunk(framed.freeze()).await.unwrap();
    stream.read_chunk(4096).await.unwrap().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_idle_circuits() {
    // Streams of one connection are limited, so several clients share the circuits.
    let (clients, each) = if full() { (8, 125) } else { (2, 100) };
    let circuits = clients * each;
    let ours = peers::barewire().expect("barewire builds");
    let listen = [
        "listen",
        "--json",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--relay-server",
        "--relay-circuits",
        "2000",
        "--relay-circuits-per-peer",
        "2000",
    ];
    let (relaying, addr) = Process::listen(&ours, listen, DEADLINE).await.unwrap();
    let addr: Multiaddr = addr.parse().unwrap();
    let usage = Usage(relaying.id().unwrap());
    let client = async || {
        let endpoint = Endpoint::builder(Keypair::generate(&mut rand::rng()))
            .bind()
            .await
            .unwrap();
        // Accepts whatever comes and keeps it.
        let keep = |mut stream: Stream, _: Connection| async move {
            let _request = stream.read_chunk(4096).await;
            let ok = Bytes::from_static(&[4, 8, 1, 0x20, 100]);
            if stream.write_chunk(ok).await.is_ok() {
                let _end = stream.read_chunk(1).await;
            }
        };
        let router = Router::builder(endpoint)
            .accept(STOP_PROTOCOL, keep)
            .spawn()
            .unwrap();
        let connection = router.endpoint().connect(addr.clone()).await.unwrap();
        (router, connection)
    };
    let mut targets = Vec::new();
    for _ in 0..clients {
        let (router, connection) = client().await;
        let mut stream = connection.open_stream(HOP_PROTOCOL).await.unwrap();
        assert!(!say(&mut stream, &[8, 0]).await.is_empty());
        targets.push((router, connection));
    }
    let mut sources = Vec::new();
    for _ in 0..clients {
        sources.push(client().await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = usage.rss_kib();
    let mut held = Vec::new();
    for ((_, source), (target, _)) in sources.iter().zip(&targets) {
        let id = target.endpoint().peer_id();
        let mut request = vec![
            8,
            1,
            0x12,
            id.as_bytes().len() as u8 + 2,
            10,
            id.as_bytes().len() as u8,
        ];
        request.extend_from_slice(id.as_bytes());
        for _ in 0..each {
            let mut stream = source.open_stream(HOP_PROTOCOL).await.unwrap();
            let answer = say(&mut stream, &request).await;
            // The status is the last field: OK.
            assert!(answer.ends_with(&[0x28, 100]), "{answer:?}");
            held.push(stream);
        }
    }
    let grown = 1024 * usage.rss_kib().saturating_sub(before);
    let per_circuit = grown / circuits as u64;
    println!(
        "{circuits} idle circuits: {grown} bytes of RSS more, {per_circuit} each (target 98304)"
    );
    assert!(per_circuit <= 96 << 10, "{per_circuit} bytes");
    drop(held);
    relaying.stop(DEADLINE).await.unwrap();
}
