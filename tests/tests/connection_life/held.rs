//! Many connections that do nothing: what they cost.

use std::time::{Duration, Instant};

use barewire_node::CloseReason;
use barewire_tests::process::Process;
use tokio::process::Command;

use crate::{Node, SOON, barewire, client, full, within};

/// `barewire bench connections` holding so many.
async fn hold(node: &Node, count: usize) -> Process {
    let count = count.to_string();
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--nofile={0}:{0}", descriptors(&count)))
        .arg(barewire())
        .args(["bench", "connections"])
        .arg(node.addr.to_string())
        .args(["--count", &count, "--concurrency", "16", "--json"]);
    let mut holder = Process::spawn(command).unwrap();
    holder.expect("held", 30 * SOON).await.unwrap();
    holder
}

fn descriptors(count: &str) -> u64 {
    count.parse::<u64>().unwrap() + 1_000
}

async fn start(count: usize) -> Node {
    let count = count.to_string();
    let limit = format!("--nofile={0}:{0}", descriptors(&count) + 10_000);
    let args = ["--max-connections", &count, "--idle-timeout", "off"];
    Node::behind("prlimit", &[&limit], &args).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_node_with_100_connections_uses_hardly_any_processor() {
    const OVER: Duration = Duration::from_secs(30);
    let node = start(100).await;
    let holder = hold(&node, 100).await;
    // Identify and its pushes are over by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = node.usage.cpu();
    tokio::time::sleep(OVER).await;
    let used = node.usage.cpu() - before;
    let share = 100.0 * used.as_secs_f64() / OVER.as_secs_f64();
    println!(
        "idle node with 100 connections: {used:?} in {OVER:?}, {share:.2} % of a core (target 0.2 %)"
    );
    // 0.2 %, counted in steps of 10 ms.
    within("processor time", used, OVER / 500);
    holder.stop(SOON).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_are_held_and_one_more_is_told_why_not() {
    let count = if full() { 10_000 } else { 1_000 };
    let node = start(count).await;
    let before = node.usage.rss_kib();
    let began = Instant::now();
    let holder = hold(&node, count).await;
    let took = began.elapsed();
    let held = node.usage.rss_kib();
    let descriptors = node.usage.descriptors();
    assert!(descriptors >= count, "{descriptors} descriptors");
    let client = client().await;
    let refused = client.connect(node.addr.clone()).await.unwrap();
    let reason = tokio::time::timeout(SOON, refused.closed()).await.unwrap();
    println!(
        "{count} connections over TCP with Noise, made in {took:.1?}: {:.1} MiB resident ({:.1} before), {:.1} KiB each; \
         the next one: {reason}",
        held as f64 / 1024.0,
        before as f64 / 1024.0,
        (held - before) as f64 / count as f64,
    );
    assert_eq!(reason, CloseReason::Remote(0x1001));
    if count == 10_000 {
        assert!(held <= 250 * 1024, "{held} KiB");
    }
    // All at once.
    let ended = Instant::now();
    let cpu = node.usage.cpu();
    drop(holder);
    while node.usage.descriptors() > 100 {
        assert!(
            ended.elapsed() < 3 * SOON,
            "still {}",
            node.usage.descriptors()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "{count} connections that end at once are gone after {:.2?}, {:?} of processor time",
        ended.elapsed(),
        node.usage.cpu() - cpu
    );
    client.connect(node.addr.clone()).await.unwrap();
    node.stop().await;
}
