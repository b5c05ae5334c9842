//! Honest peers of all stacks around two nodes of ours that score strictly: nobody is blamed, nothing is lost. A quarter of a
//! minute, or an hour with `BAREWIRE_FULL=1`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use barewire_node::protocols::gossip::{GossipConfig, Subscription, core::score::ScoreParams};
use barewire_tests::{
    full,
    gossip::{Node, complaints, config},
    peers::Foreign,
    process::{Failure, Process, number, run},
};

use super::{DEADLINE, TOPIC};

/// Time between two messages of one of ours.
const PACE: Duration = Duration::from_millis(100);
/// Messages of a foreign publisher, which comes, publishes them and goes.
const EACH: u64 = 20;

const COMMON: [&str; 7] = [
    "--topic",
    TOPIC,
    "--json",
    "--message-id",
    "sha256",
    "--max-message-size",
    "2MiB",
];

fn strict() -> GossipConfig {
    let mut config = config();
    config.router.score = Some(ScoreParams::adversarial());
    config
}

/// Publishers of each stack in turn, each of which says that nothing was dropped.
async fn publishers(
    stacks: Vec<(Foreign, PathBuf)>,
    addr: String,
    end: Instant,
) -> Result<u64, Failure> {
    let mut published = 0;
    for (stack, program) in stacks.iter().cycle() {
        if Instant::now() > end {
            break;
        }
        let count = EACH.to_string();
        let what = [
            "publish",
            &addr,
            "--count",
            &count,
            "--size",
            "2000",
            "--settle-ms",
            "500",
            "--linger-ms",
            "500",
        ];
        let told = run(
            program,
            [&what[..], &COMMON].concat(),
            "published",
            DEADLINE,
        )
        .await?;
        if number(&told, "dropped")? != 0.0 {
            return Err(format!("{stack}: {told}").into());
        }
        published += EACH;
    }
    Ok(published)
}

/// Counts what comes in the meantime.
fn drain(inbox: &mut Subscription, got: &mut u64) {
    while inbox.try_next().is_some() {
        *got += 1;
    }
}

async fn listening(program: &Path, addrs: &[String]) -> Process {
    let mut args = vec!["listen", "--listen", "/ip4/127.0.0.1/tcp/0", "--quiet"];
    args.extend(COMMON);
    for addr in addrs {
        args.extend(["--connect", addr]);
    }
    let (process, _) = Process::listen(program, args, DEADLINE).await.unwrap();
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_peers_of_all_stacks_are_not_blamed() {
    let whole = Duration::from_secs(if full() { 3600 } else { 15 });
    let stacks = [Foreign::Go, Foreign::Rust, Foreign::Js, Foreign::Py];
    let stacks: Vec<_> = stacks
        .into_iter()
        .filter_map(|stack| Some((stack, stack.build_or_skip()?)))
        .collect();
    let nodes = [Node::start(strict()).await, Node::start(strict()).await];
    let addrs: Vec<_> = nodes.iter().map(|node| node.addr.to_string()).collect();
    nodes[1].connect(&addrs[0]).await;
    let mut events = Vec::new();
    let mut inboxes = Vec::new();
    for node in &nodes {
        events.push(node.gossip.events());
        inboxes.push(node.gossip.subscribe(TOPIC).await.unwrap());
    }
    let mut listeners = Vec::new();
    for (stack, program) in &stacks {
        listeners.push((*stack, listening(program, &addrs).await));
    }
    for node in &nodes {
        node.meshed(TOPIC, stacks.len() + 1).await;
    }
    let end = Instant::now() + whole;
    let publishing = tokio::spawn(publishers(stacks.clone(), addrs[0].clone(), end));
    let (mut own, mut got, mut lowest) = (0u64, [0; 2], 0f64);
    let mut blamed = HashMap::new();
    while Instant::now() < end || !publishing.is_finished() {
        for (at, node) in nodes.iter().enumerate() {
            // A number, so that none is like another, and all lengths from the shortest to what takes several frames of some.
            let mut data = vec![0; [8, 300, 5_000, 70_000][own as usize % 4]];
            data[..8].copy_from_slice(&(own * 2 + at as u64).to_be_bytes());
            node.gossip.publish(TOPIC, data).await.unwrap();
            drain(&mut inboxes[at], &mut got[at]);
            blamed.extend(complaints(&mut events[at]));
        }
        own += 1;
        if own.is_multiple_of(10) {
            for node in &nodes {
                let peers = node.gossip.peers().await.unwrap();
                lowest = peers.iter().map(|peer| peer.score).fold(lowest, f64::min);
            }
        }
        tokio::time::sleep(PACE).await;
    }
    let foreign = publishing.await.unwrap().unwrap();
    // What was published last arrives.
    let late = Instant::now() + DEADLINE;
    while got.iter().any(|got| *got < own + foreign) && Instant::now() < late {
        tokio::time::sleep(PACE).await;
        for at in 0..2 {
            drain(&mut inboxes[at], &mut got[at]);
        }
    }
    // Publishers leave when they have published; what waits for them then is lost.
    blamed.retain(|complaint: &String, _| !complaint.ends_with("dropped Disconnected"));
    if !blamed.is_empty() {
        for peer in nodes[0].gossip.peers().await.unwrap() {
            let info = nodes[0].endpoint.peer_info(&peer.peer_id);
            println!(
                "{}: {:?}",
                peer.peer_id,
                info.map(|info| info.agent_version.clone())
            );
        }
    }
    for node in &nodes {
        let metrics = node.gossip.metrics();
        println!(
            "{own} of each of ours, {foreign} of others: {} in, {} duplicates, {} dropped, {} asked for, {} not wanted; lowest score {lowest:.2}",
            metrics.messages_in,
            metrics.duplicates,
            metrics.messages_dropped,
            metrics.iwant_asked,
            metrics.idontwant_ids_in
        );
        assert_eq!(
            (metrics.penalties, metrics.broken_promises),
            (0, 0),
            "{blamed:?}"
        );
        assert_eq!((metrics.rejected, metrics.throttled), (0, 0), "{blamed:?}");
    }
    assert!(blamed.is_empty(), "{blamed:?}");
    assert_eq!(got, [own + foreign; 2]);
    assert!(lowest >= 0.0, "a score of {lowest}");
    for (stack, process) in listeners {
        if stack == Foreign::Go {
            let told = process.finish("gossip", DEADLINE).await.unwrap();
            assert_eq!(told["rejected"], serde_json::json!({}), "{told}");
            assert_eq!(told["dropped"], 0, "{told}");
        } else {
            process.stop(DEADLINE).await.unwrap();
        }
    }
}
