//! What peers say to each other beside messages, with a node of our own that tells what it saw: subscriptions that come and go,
//! PRUNE and its backoff, IDONTWANT, and peer exchange.

use std::{
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use barewire_node::protocols::gossip::{
    Acceptance, GossipConfig, GossipEvent, Subscription, Validator, Version,
    core::{Event, PruneReason},
};
use barewire_tests::{
    gossip::{Node, complaints, config, until},
    peers::Foreign,
    process::{Process, number, text},
};
use serde_json::Value;
use tokio::sync::broadcast::Receiver;

use super::{DEADLINE, TOPIC};

/// Backoff of these tests.
const BACKOFF: Duration = Duration::from_secs(3);
/// Time between heartbeats of these tests.
const HEARTBEAT: Duration = Duration::from_millis(500);

const COMMON: [&str; 9] = [
    "--topic",
    TOPIC,
    "--json",
    "--message-id",
    "sha256",
    "--max-message-size",
    "2MiB",
    "--heartbeat-ms",
    "500",
];

fn quick() -> GossipConfig {
    let mut config = config();
    let router = &mut config.router;
    router.heartbeat_interval = HEARTBEAT;
    // py-libp2p sends GRAFT before the backoff of leaving is over, which begins another.
    (router.prune_backoff, router.graft_flood_threshold) = (BACKOFF, BACKOFF);
    router.unsubscribe_backoff = BACKOFF;
    config
}

/// A mesh of one peer, neither more nor fewer.
fn narrow() -> GossipConfig {
    let mut config = quick();
    let router = &mut config.router;
    (router.d, router.d_low, router.d_high) = (1, 1, 1);
    (router.d_score, router.d_out) = (1, 0);
    config
}

async fn listening(program: &Path, more: &[&str]) -> (Process, String) {
    let listen = ["listen", "--listen", "/ip4/127.0.0.1/tcp/0", "--quiet"];
    let args = [&listen[..], &COMMON, more].concat();
    Process::listen(program, args, DEADLINE).await.unwrap()
}

/// When the router's next event of a kind comes.
async fn next<T>(
    events: &mut Receiver<GossipEvent>,
    mut wanted: impl FnMut(&Event) -> Option<T>,
) -> (Instant, T) {
    let found = tokio::time::timeout(DEADLINE, async {
        loop {
            if let GossipEvent::Router { event, .. } = events.recv().await.unwrap()
                && let Some(found) = wanted(&event)
            {
                return (Instant::now(), found);
            }
        }
    });
    found.await.expect("the event")
}

/// A foreign peer in the middle: one of ours joins its topic, and leaves it again; what is published then does not come any more.
/// And a foreign one that leaves gets nothing more, though it stays connected.
async fn come_and_go(stack: Foreign) {
    let Some(program) = stack.build_or_skip() else {
        return;
    };
    let (relay, addr) = listening(&program, &[]).await;
    let (publisher, joiner) = (Node::start(quick()).await, Node::start(quick()).await);
    let _own = publisher.gossip.subscribe(TOPIC).await.unwrap();
    publisher.connect(&addr).await;
    joiner.connect(&addr).await;
    publisher.meshed(TOPIC, 1).await;
    let counter = AtomicU8::new(0);
    let publish = async |number: u8| {
        // None is like another, for that would give it the same id.
        let data = vec![number, counter.fetch_add(1, Ordering::Relaxed), 7];
        let receipt = publisher.gossip.publish(TOPIC, data).await;
        receipt.unwrap().accepted()
    };
    assert_eq!(publish(0).await, 1);
    for round in 1..3 {
        let mut inbox = joiner.gossip.subscribe(TOPIC).await.unwrap();
        // Left in the first round, it comes back when the backoff of leaving is over, or is offered it by gossip.
        joiner
            .gossip
            .wait_for_peers(TOPIC, 1, DEADLINE)
            .await
            .unwrap();
        if round == 1 {
            joiner.meshed(TOPIC, 1).await;
        }
        // Without a mesh it takes a heartbeat or two, and the relay may not have noticed yet who is there.
        // Earlier ones may be offered by gossip too.
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < DEADLINE, "{stack}: nothing comes");
            publish(round).await;
            let message = tokio::time::timeout(HEARTBEAT, inbox.next()).await;
            let data = message.map(|message| message.unwrap().data().to_bytes());
            if data.is_ok_and(|data| data[0] == round) {
                break;
            }
        }
        drop(inbox);
        // The relay's subscription of the topic is known still, ours is gone: nothing comes.
        tokio::time::sleep(4 * HEARTBEAT).await;
        let before = joiner.gossip.metrics();
        publish(10 + round).await;
        tokio::time::sleep(2 * HEARTBEAT).await;
        let after = joiner.gossip.metrics();
        assert_eq!(
            (after.messages_in, after.ihave_ids_in),
            (before.messages_in, before.ihave_ids_in),
            "{stack} sends to who has left"
        );
    }

    let mut events = publisher.gossip.events();
    let args = ["subscribe", &publisher.addr.to_string()];
    let args = [
        &args[..],
        &COMMON,
        &["--expect", "1", "--leave", "--timeout", "60"],
    ];
    let mut leaver = Process::start(&program, args.concat()).unwrap();
    leaver.expect("subscribed", DEADLINE).await.unwrap();
    let subscribers = |count| {
        let gossip = publisher.gossip.clone();
        move || {
            let gossip = gossip.clone();
            async move {
                let peers = gossip.peers().await.unwrap();
                peers.iter().filter(|peer| !peer.topics.is_empty()).count() == count
            }
        }
    };
    until("two subscribers", subscribers(2)).await;
    publish(20).await;
    leaver.expect("unsubscribed", DEADLINE).await.unwrap();
    until("one subscriber", subscribers(1)).await;
    let (_, ()) = next(&mut events, |event| {
        matches!(event, Event::Unsubscribed { .. }).then_some(())
    })
    .await;
    assert_eq!(publish(21).await, 1, "only to the relay");
    assert_eq!(publisher.gossip.peers().await.unwrap().len(), 2, "{stack}");
    leaver.stop(DEADLINE).await.unwrap();
    relay.stop(DEADLINE).await.unwrap();
    println!("ok   {stack}: subscriptions come and go");
}

#[tokio::test]
async fn subscriptions_come_and_go_with_go() {
    come_and_go(Foreign::Go).await;
}

#[tokio::test]
async fn subscriptions_come_and_go_with_rust() {
    come_and_go(Foreign::Rust).await;
}

#[tokio::test]
async fn subscriptions_come_and_go_with_js() {
    come_and_go(Foreign::Js).await;
}

#[tokio::test]
async fn subscriptions_come_and_go_with_py() {
    come_and_go(Foreign::Py).await;
}

/// Our mesh is full, so that a second peer is pruned: it comes back after the backoff that it was told, and not before. py-libp2p
/// does not wait.
async fn they_keep_the_backoff(stack: Foreign, returns: bool) {
    let Some(program) = stack.build_or_skip() else {
        return;
    };
    let (hub, first) = (Node::start(narrow()).await, Node::start(quick()).await);
    let mut events = hub.gossip.events();
    let _hub = hub.gossip.subscribe(TOPIC).await.unwrap();
    let _first = first.gossip.subscribe(TOPIC).await.unwrap();
    first.connect(&hub.addr.to_string()).await;
    hub.meshed(TOPIC, 1).await;
    let args = ["--connect", &hub.addr.to_string()];
    let (second, _) = listening(&program, &args).await;
    let pruned = |want: u64| {
        let gossip = hub.gossip.clone();
        move || {
            let gossip = gossip.clone();
            async move { gossip.metrics().prunes_out >= want }
        }
    };
    until("the first PRUNE", pruned(1)).await;
    let begun = Instant::now();
    if returns {
        until("the second PRUNE", pruned(2)).await;
    } else {
        tokio::time::sleep(BACKOFF).await;
        assert_eq!(hub.gossip.metrics().prunes_out, 1, "{stack}");
    }
    let again = begun.elapsed();
    let complaints = complaints(&mut events);
    assert!(complaints.is_empty(), "{stack}: {complaints:?}");
    let tolerance = Duration::from_millis(200);
    assert!(
        again + tolerance >= BACKOFF,
        "{stack} grafts again after {again:?}"
    );
    if !returns {
        second.stop(DEADLINE).await.unwrap();
        println!("ok   {stack}: pruned for {BACKOFF:?}, and does not graft before");
        return;
    }
    // When the first has left there is room, and it is taken in.
    first.endpoint.shutdown(Duration::from_secs(1)).await;
    until("the second in the mesh", || async {
        let mesh = hub.gossip.mesh(TOPIC).await.unwrap();
        let peers = hub.gossip.peers().await.unwrap();
        mesh.len() == 1 && peers.len() == 1 && mesh[0] == peers[0].peer_id
    })
    .await;
    println!("ok   {stack}: pruned for {BACKOFF:?}, grafts again after {again:?}");
    second.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn go_keeps_our_backoff() {
    they_keep_the_backoff(Foreign::Go, true).await;
}

#[tokio::test]
async fn rust_keeps_our_backoff() {
    // It takes longer than a minute to come back.
    they_keep_the_backoff(Foreign::Rust, false).await;
}

#[tokio::test]
async fn js_keeps_our_backoff() {
    they_keep_the_backoff(Foreign::Js, true).await;
}

/// What a go peer has counted when it ends.
async fn counted(process: Process) -> Value {
    let told = process.finish("gossip", DEADLINE).await;
    told.expect("what it counted")
}

/// Two of ours in the mesh of go, which has no place for more: a mesh of one go does not have.
async fn occupants(addr: &str) -> Vec<(Node, Subscription)> {
    let mut occupants = Vec::new();
    for _ in 0..2 {
        let node = Node::start(quick()).await;
        let inbox = node.gossip.subscribe(TOPIC).await.unwrap();
        node.connect(addr).await;
        node.meshed(TOPIC, 1).await;
        occupants.push((node, inbox));
    }
    occupants
}

/// A full mesh of go's: we come back after the backoff that we are told and a little more, every time.
#[tokio::test]
async fn we_keep_the_backoff_of_go() {
    let Some(program) = Foreign::Go.build_or_skip() else {
        return;
    };
    let backoff = BACKOFF.as_millis().to_string();
    let more = ["--mesh-degree", "2", "--prune-backoff-ms", &backoff];
    let (hub, addr) = listening(&program, &more).await;
    let occupants = occupants(&addr).await;
    let second = Node::start(quick()).await;
    let mut events = second.gossip.events();
    let _second = second.gossip.subscribe(TOPIC).await.unwrap();
    second.connect(&addr).await;
    let grafted = |event: &Event| matches!(event, Event::Grafted { .. }).then_some(());
    let refused = |event: &Event| match event {
        Event::Pruned { reason, .. } => Some(*reason),
        _ => None,
    };
    let mut pruned = None;
    for _ in 0..2 {
        let (at, ()) = next(&mut events, grafted).await;
        if let Some(pruned) = pruned {
            let after = at - pruned;
            let latest = BACKOFF + 8 * HEARTBEAT;
            assert!(after >= BACKOFF && after < latest, "{after:?}");
            println!("ok   go prunes us for {BACKOFF:?}, we graft again after {after:?}");
        }
        let (at, reason) = next(&mut events, refused).await;
        assert_eq!(reason, PruneReason::ByPeer);
        pruned = Some(at);
    }
    let told = counted(hub).await;
    assert_eq!(number(&told["sent"], "prune").unwrap(), 2.0, "{told}");
    // Those in the mesh may have been grafted by go before they could graft go.
    let grafts = number(&told["got"], "graft").unwrap();
    assert!((2.0..=4.0).contains(&grafts), "{told}");
    drop(occupants);
}

/// Both get every message from its author, look at it for a while, and tell each other meanwhile that they have it: neither sends
/// it to the other. With a version that has no IDONTWANT, both send everything twice.
#[tokio::test]
async fn nothing_is_sent_to_who_does_not_want_it() {
    const COUNT: u64 = 10;
    let Some(program) = Foreign::Go.build_or_skip() else {
        return;
    };
    for (newest, name) in [(Version::V1_2, "1.2"), (Version::V1_1, "1.1")] {
        let more = ["--version", name, "--validation-ms", "400"];
        let (hub, addr) = listening(&program, &more).await;
        let with_version = || {
            let mut config = quick();
            config.newest = newest;
            config
        };
        let (author, ours) = (
            Node::start(with_version()).await,
            Node::start(with_version()).await,
        );
        let slow = Validator::asynchronous(|_| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Acceptance::Accept
        });
        let _author = author.gossip.subscribe(TOPIC).await.unwrap();
        let mut inbox = ours.gossip.subscribe(TOPIC).await.unwrap();
        ours.gossip.validate(TOPIC, slow).await.unwrap();
        author.connect(&addr).await;
        ours.connect(&addr).await;
        author.connect(&ours.addr.to_string()).await;
        author.meshed(TOPIC, 2).await;
        ours.meshed(TOPIC, 2).await;
        tokio::time::sleep(2 * HEARTBEAT).await;
        for number in 0..COUNT {
            let data = vec![u8::try_from(number).unwrap(); 8 << 10];
            let receipt = author.gossip.publish(TOPIC, data).await.unwrap();
            assert_eq!(receipt.accepted(), 2);
        }
        for _ in 0..COUNT {
            let message = tokio::time::timeout(DEADLINE, inbox.next()).await;
            assert_eq!(
                message.expect("a message").unwrap().received_from,
                author.peer()
            );
        }
        // What was sent at the same moment is there then.
        tokio::time::sleep(2 * HEARTBEAT).await;
        let metrics = ours.gossip.metrics();
        let told = counted(hub).await;
        let [sent, got] = [&told["sent"], &told["got"]];
        let count = |of: &Value, what| number(of, what).unwrap() as u64;
        println!(
            "ok   {name}: of {COUNT} messages ours got {}, go got {}; IDONTWANT {} to us, {} to go",
            metrics.messages_in,
            count(got, "messages"),
            metrics.idontwant_ids_in,
            count(got, "idontwant"),
        );
        let duplicates = number(&told, "duplicates").unwrap() as u64;
        let unwanted = if newest == Version::V1_2 { COUNT } else { 0 };
        if newest == Version::V1_2 {
            assert_eq!(metrics.messages_in, COUNT, "{told}");
            assert_eq!(count(got, "messages"), COUNT, "{told}");
            assert_eq!((metrics.duplicates, duplicates), (0, 0), "{told}");
        } else {
            // We do not send it to who has just sent it; go does.
            assert_eq!(metrics.duplicates, COUNT, "{told}");
        }
        // go does not tell the author; we do not either.
        assert_eq!(metrics.idontwant_ids_in, unwanted, "{told}");
        assert_eq!(count(got, "idontwant"), unwanted, "{told}");
        assert_eq!(count(sent, "idontwant"), unwanted, "{told}");
        assert_eq!(metrics.idontwant_saved, unwanted);
    }
}

/// Whom a full node prunes, it tells of others, and they find each other: go as the full node, and go as the one that is sent on.
#[tokio::test]
async fn who_is_pruned_finds_others_by_peer_exchange() {
    let Some(program) = Foreign::Go.build_or_skip() else {
        return;
    };
    let connected = |a: &Node, b: barewire_node::PeerId| {
        let endpoint = a.endpoint.clone();
        move || {
            let endpoint = endpoint.clone();
            async move { endpoint.connection(&b).is_some() }
        }
    };
    let more = ["--mesh-degree", "2", "--peer-exchange"];
    let (hub, addr) = listening(&program, &more).await;
    let occupants = occupants(&addr).await;
    let second = Node::start(quick()).await;
    let _second = second.gossip.subscribe(TOPIC).await.unwrap();
    second.connect(&addr).await;
    for (first, _) in &occupants {
        until("go sends us on", connected(&second, first.peer())).await;
    }
    assert_eq!(second.gossip.metrics().px_connects, 2);
    second.meshed(TOPIC, 2).await;
    hub.stop(DEADLINE).await.unwrap();
    println!("ok   go sends us on");

    let mut exchanging = narrow();
    exchanging.router.peer_exchange = true;
    let (hub, first) = (Node::start(exchanging).await, Node::start(quick()).await);
    let _hub = hub.gossip.subscribe(TOPIC).await.unwrap();
    let _first = first.gossip.subscribe(TOPIC).await.unwrap();
    first.connect(&hub.addr.to_string()).await;
    hub.meshed(TOPIC, 1).await;
    let args = ["--connect", &hub.addr.to_string()];
    let listen = ["listen", "--listen", "/ip4/127.0.0.1/tcp/0", "--quiet"];
    let mut sent_on = Process::start(&program, [&listen[..], &COMMON, &args].concat()).unwrap();
    let event = sent_on.expect("listening", DEADLINE).await.unwrap();
    let peer = text(&event, "peer").unwrap().parse().unwrap();
    until("we send go on", connected(&first, peer)).await;
    first.meshed(TOPIC, 2).await;
    sent_on.stop(DEADLINE).await.unwrap();
    println!("ok   we send go on");
}
