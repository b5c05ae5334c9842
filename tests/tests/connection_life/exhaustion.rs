//! Attack rows 76 and 77: a node that runs out of descriptors, and one that runs out of memory.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use barewire_node::{Config, Multiaddr, protocols::echo};
use barewire_tests::{cgroup::Cgroup, peers, usage::Usage};
use bytes::Bytes;
use tokio::{process::Command, task::JoinSet};

use crate::{Node, SOON, client, client_with, full, within};

/// A node that was short of something serves again so soon after it has it back.
const BACK: Duration = Duration::from_secs(1);

/// How long the processor is watched, of which a node in want may use a twentieth.
const OVER: Duration = Duration::from_secs(5);

/// Processor time of a process during [`OVER`].
async fn processor(usage: Usage) -> Duration {
    let before = usage.cpu();
    tokio::time::sleep(OVER).await;
    usage.cpu() - before
}

/// Dials until it works; how long that took.
async fn until_served(addr: &Multiaddr) -> Duration {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < SOON, "not served again");
        let dial = async {
            let client = client().await;
            let connection = client.connect(addr.clone()).await.ok()?;
            echo::round_trip(&connection, echo::PROTOCOL, Bytes::from_static(b"there?"))
                .await
                .ok()
        };
        let dialled = tokio::time::timeout(Duration::from_secs(2), dial).await;
        if dialled.is_ok_and(|served| served.is_some()) {
            return began.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Row 76, as the node meets it by itself: its limits follow from the descriptors it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_descriptors_are_shared_out_and_some_kept_back() {
    let node = Node::behind("prlimit", &["--nofile=64:64"], &["--events"]).await;
    let (socket, _) = node.addr.to_tcp().unwrap();
    // Handshakes that are finished and held, as many as it takes.
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..60 {
        let client = client().await;
        if let Ok(connection) = client.connect(node.addr.clone()).await {
            held.push((client, connection));
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    held.retain(|(_, connection)| match connection.close_reason() {
        None => true,
        Some(reason) => {
            refused += 1;
            assert!(reason.to_string().contains("0x1001"), "{reason}");
            false
        }
    });
    // And silent ones on top.
    let silent: Vec<_> = (0..200)
        .filter_map(|_| TcpStream::connect(socket).ok())
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let descriptors = node.usage.descriptors();
    let used = processor(node.usage).await;
    println!(
        "row 76: 64 descriptors: {} connections held, {refused} told 0x1001, {} silent ones: {descriptors} descriptors \
         in use, {used:.2?} of processor time in {OVER:?}",
        held.len(),
        silent.len()
    );
    assert!(!held.is_empty() && refused > 0);
    assert!(descriptors <= 64 - 16, "{descriptors} descriptors");
    within("processor time", used, OVER / 20);
    drop((held, silent));
    let back = until_served(&node.addr).await;
    println!("row 76: served again {back:.2?} after the others left");
    within("back", back, BACK);
    node.stop().await;
}

/// Row 76, as it is forced on the node: something else has taken the descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_accepting_pauses_and_recovers() {
    let node = Node::start(&[]).await;
    let (socket, _) = node.addr.to_tcp().unwrap();
    let first = client().await;
    let connection = first.connect(node.addr.clone()).await.unwrap();
    let limit = node.usage.descriptors() + 2;
    let lowered = Command::new("prlimit")
        .args(["--pid", &node.usage.0.to_string()])
        .arg(format!("--nofile={limit}:20000"))
        .status()
        .await;
    match lowered {
        Ok(status) if status.success() => {}
        other => {
            assert!(!peers::required(), "prlimit does not work: {other:?}");
            println!("skipped: prlimit cannot change a running process here: {other:?}");
            return;
        }
    }
    let silent: Vec<_> = (0..64)
        .filter_map(|_| TcpStream::connect(socket).ok())
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = processor(node.usage).await;
    // Those who are there are served.
    echo::round_trip(&connection, echo::PROTOCOL, Bytes::from_static(b"still?"))
        .await
        .unwrap();
    let log = node.process.stderr();
    println!(
        "row 76: no descriptor left, {} wait to be accepted: {used:.2?} of processor time in {OVER:?}, {} log lines",
        silent.len(),
        log.lines().count()
    );
    assert!(log.contains("cannot accept"), "{log}");
    within("processor time", used, OVER / 20);
    drop(silent);
    let back = until_served(&node.addr).await;
    println!("row 76: served again {back:.2?} after they left");
    within("back", back, BACK);
    node.stop().await;
}

/// Connections with as many streams as they are given, each of which is written to and never read from, again and
/// again.
async fn unread_streams(addr: Multiaddr, until: Instant) -> usize {
    let mut connections = 0;
    let chunk = Bytes::from(vec![0x55; 64 * 1024]);
    while Instant::now() < until {
        let mut config = Config::default();
        config.ping.interval = None;
        let client = client_with(config).await;
        let Ok(Ok(connection)) =
            tokio::time::timeout(Duration::from_secs(2), client.connect(addr.clone())).await
        else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        connections += 1;
        let mut writers = JoinSet::new();
        for _ in 0..100 {
            let opened = connection.open_stream(echo::PROTOCOL);
            let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_secs(2), opened).await
            else {
                break;
            };
            let chunk = chunk.clone();
            writers.spawn(async move { while stream.write_chunk(chunk.clone()).await.is_ok() {} });
        }
        let left = until.saturating_duration_since(Instant::now());
        let _ = tokio::time::timeout(left, connection.closed()).await;
    }
    connections
}

/// Streams that announce 512 MiB and then say nothing.
async fn announced_lengths(addr: Multiaddr, until: Instant) {
    while Instant::now() < until {
        let client = client().await;
        if let Ok(connection) = client.connect(addr.clone()).await {
            let mut streams = Vec::new();
            for _ in 0..50 {
                let Ok(mut stream) = connection.open_stream("/ipfs/id/push/1.0.0").await else {
                    break;
                };
                let prefix = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x01]);
                if stream.write_chunk(prefix).await.is_err() {
                    break;
                }
                streams.push(stream);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Row 77: announced lengths, unread windows and held connections at once, in 128 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_128_mib_the_node_sheds_and_lives() {
    const LIMIT: u64 = 128 << 20;
    let time = Duration::from_secs(if full() { 600 } else { 20 });
    let group = match Cgroup::new("row77", LIMIT) {
        Ok(group) => group,
        Err(error) => {
            assert!(!peers::required(), "{error}");
            println!("skipped: needs root and a memory controller of cgroups: {error}");
            return;
        }
    };
    let join = format!("echo $$ > {} && exec \"$@\"", group.door().display());
    let mut node = Node::behind("sh", &["-c", &join, "sh"], &["--events"]).await;
    let until = Instant::now() + time;
    let mut attack = JoinSet::new();
    for _ in 0..50 {
        attack.spawn(unread_streams(node.addr.clone(), until));
    }
    let mut announce = JoinSet::new();
    for _ in 0..4 {
        announce.spawn(announced_lengths(node.addr.clone(), until));
    }
    let mut peak = 0;
    while Instant::now() < until {
        peak = peak.max(node.usage.rss_kib());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let connections: usize = attack.join_all().await.into_iter().sum();
    announce.join_all().await;
    let back = until_served(&node.addr).await;
    println!(
        "row 77: {connections} connections with 100 unread streams each and 200 announced lengths in {time:?} in a \
         group of 128 MiB: {} OOM kills, peak of the group {} MiB, of the node {:.1} MiB resident, hit the limit {} \
         times; served again after {back:.2?}",
        group.oom_kills(),
        group.peak_kib() / 1024,
        peak as f64 / 1024.0,
        group.limit_hits(),
    );
    let log = node.process.stderr();
    for line in log.lines().filter(|line| line.contains("memory")).take(3) {
        println!("row 77: {line}");
    }
    assert_eq!(group.oom_kills(), 0);
    within("back", back, BACK);
    assert!(node.process.id().is_some());
    // It is the one that was started.
    assert!(node.process.expect("connected", SOON).await.is_ok());
    assert!(!log.contains("panicked"), "{log}");
    // Handlers whose remote has just gone may still be cut off.
    match node.process.stop(SOON).await {
        Ok(()) => println!("row 77: ended in an orderly way"),
        Err(error) => println!("row 77: at its end: {error}"),
    }
}
