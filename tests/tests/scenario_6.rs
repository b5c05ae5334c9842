//! Scenario 6: twenty nodes of ours and peers of all stacks in two topics get everything once, keep their meshes within bounds, and
//! heal when some of them die; and who forges, floods or replays is scored down, while the others notice nothing.
//!
//! Prints what it measured. In CI a tenth of the messages; `BAREWIRE_FULL=1` sends a thousand in each topic, with a heartbeat of 1 s.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use barewire_base::Keypair;
use barewire_node::protocols::gossip::{
    Config, GossipConfig, MessageIdFn, SeqnoPolicy, Subscription, core::Author,
};
use barewire_tests::{
    full,
    gossip::{Node, SOON, Stranger, config, rpc, until},
    peers::Foreign,
    process::{Process, number, text},
    within,
};
use futures::future::join_all;

const OWN: usize = 20;
const TOPICS: [&str; 2] = ["left", "right"];
/// Each connects to those so many places on, so that each has twelve connections.
const STEPS: [usize; 6] = [1, 2, 3, 5, 7, 9];
/// Nodes that die.
const DYING: usize = 6;
const SIZE: usize = 1024;

fn heartbeat() -> Duration {
    Duration::from_millis(if full() { 1_000 } else { 400 })
}

fn messages() -> usize {
    if full() { 1_000 } else { 100 }
}

fn beating(every: Duration) -> GossipConfig {
    let mut config = config();
    let router = &mut config.router;
    router.heartbeat_interval = every;
    // A minute, as usual, outlasts five heartbeats: whoever was pruned by all that are left would have to wait for it.
    router.prune_backoff = Duration::from_secs(1);
    router.graft_flood_threshold = Duration::from_secs(1);
    config
}

/// Message `number` of a topic.
fn content(topic: &str, number: usize) -> Vec<u8> {
    let mut data = vec![topic.len() as u8; SIZE];
    data[..8].copy_from_slice(&(number as u64).to_be_bytes());
    data
}

fn number_of(data: &[u8]) -> u64 {
    u64::from_be_bytes(data[..8].try_into().unwrap())
}

/// A node and what it was delivered: how often each message of each topic.
struct Member {
    node: Node,
    inboxes: Vec<Subscription>,
    got: BTreeMap<(String, u64), usize>,
}

impl Member {
    async fn new(config: GossipConfig) -> Self {
        let node = Node::start(config).await;
        let mut inboxes = Vec::new();
        for topic in TOPICS {
            inboxes.push(node.gossip.subscribe(topic).await.unwrap());
        }
        Self {
            node,
            inboxes,
            got: BTreeMap::new(),
        }
    }

    fn drain(&mut self) {
        for inbox in &mut self.inboxes {
            while let Some(message) = inbox.try_next() {
                let key = (
                    message.topic.to_string(),
                    number_of(&message.data().to_bytes()),
                );
                *self.got.entry(key).or_default() += 1;
            }
        }
    }
}

async fn smallest_mesh(members: &[Member]) -> usize {
    let mut smallest = usize::MAX;
    for member in members {
        for topic in TOPICS {
            smallest = smallest.min(member.node.gossip.mesh(topic).await.unwrap().len());
        }
    }
    smallest
}

/// Publishes messages of both topics by the members in turn, and waits until every member has those of the others.
async fn spread(members: &mut [Member], numbers: std::ops::Range<usize>) {
    let count = members.len();
    for number in numbers.clone() {
        for (at, topic) in TOPICS.into_iter().enumerate() {
            let author = &members[(number + 7 * at) % count];
            let data = content(topic, number);
            let receipt = author.node.gossip.publish(topic, data).await.unwrap();
            assert!(receipt.accepted() > 0);
        }
        // Ten milliseconds each: 200 messages a second for everybody.
        tokio::time::sleep(Duration::from_millis(5)).await;
        members.iter_mut().for_each(Member::drain);
    }
    let begun = Instant::now();
    for (at, member) in members.iter_mut().enumerate() {
        let missing = |member: &Member| {
            let own = |number: usize, topic: usize| (number + 7 * topic) % count == at;
            numbers
                .clone()
                .flat_map(|number| [(number, 0), (number, 1)])
                .filter(|(number, topic)| {
                    let key = (TOPICS[*topic].to_owned(), *number as u64);
                    !own(*number, *topic) && !member.got.contains_key(&key)
                })
                .count()
        };
        while missing(member) > 0 {
            let missing = missing(member);
            assert!(begun.elapsed() < SOON, "node {at} misses {missing}");
            tokio::time::sleep(Duration::from_millis(10)).await;
            member.drain();
        }
        let twice = member.got.values().filter(|times| **times > 1).count();
        assert_eq!(twice, 0, "node {at}");
    }
}

/// A foreign peer that expects all messages of both topics.
async fn foreign(stack: Foreign, addrs: &[&str], expect: usize) -> Option<Process> {
    let program = stack.build_or_skip()?;
    let expect = expect.to_string();
    let mut args = vec!["subscribe"];
    args.extend(addrs);
    for topic in TOPICS {
        args.extend(["--topic", topic]);
    }
    args.extend(["--expect", &expect, "--timeout", "300", "--verbose"]);
    args.extend(["--json", "--message-id", "sha256"]);
    args.extend(["--max-message-size", "2MiB"]);
    Some(Process::start(&program, args).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_everything_once_and_meshes_heal() {
    let heartbeat = heartbeat();
    let mut members = Vec::new();
    for _ in 0..OWN {
        members.push(Member::new(beating(heartbeat)).await);
    }
    let addrs: Vec<String> = members
        .iter()
        .map(|member| member.node.addr.to_string())
        .collect();
    for (at, member) in members.iter().enumerate() {
        for step in STEPS {
            member.node.connect(&addrs[(at + step) % OWN]).await;
        }
    }
    let mut others = Vec::new();
    let stacks = [Foreign::Go, Foreign::Rust, Foreign::Js, Foreign::Py];
    for (at, stack) in stacks.into_iter().enumerate() {
        // None of those that die.
        let near: Vec<&str> = (0..3).map(|n| &*addrs[DYING + 3 * at + n]).collect();
        if let Some(process) = foreign(stack, &near, 2 * messages()).await {
            others.push((stack, process));
        }
    }
    for (stack, process) in &mut others {
        let subscribed = process.expect("subscribed", SOON).await;
        subscribed.unwrap_or_else(|cause| panic!("{stack}: {cause}"));
    }
    let bounds = Config::default();
    until("full meshes", || async {
        smallest_mesh(&members).await >= bounds.d_low
    })
    .await;
    let begun = Instant::now();
    spread(&mut members, 0..messages()).await;
    let took = begun.elapsed();
    let mut degrees = BTreeSet::new();
    for member in &members {
        for topic in TOPICS {
            degrees.insert(member.node.gossip.mesh(topic).await.unwrap().len());
        }
    }
    println!(
        "{} messages to {OWN} nodes in {took:.1?}, meshes of {degrees:?}",
        2 * messages()
    );
    assert!(*degrees.last().unwrap() <= bounds.d_high, "{degrees:?}");
    // Who has just been pruned by another is below until its next heartbeat.
    until("meshes within bounds", || async {
        smallest_mesh(&members).await >= bounds.d_low
    })
    .await;
    for (stack, mut process) in others {
        let mut seen = BTreeSet::new();
        for _ in 0..2 * messages() {
            let message = process.expect("message", SOON).await;
            let message = message.unwrap_or_else(|cause| panic!("{stack}: {cause}"));
            seen.insert(text(&message, "sha256").unwrap().to_owned());
        }
        let received = process.expect("received", SOON).await.unwrap();
        let count = number(&received, "count").unwrap() as usize;
        assert_eq!(
            (count, seen.len()),
            (2 * messages(), 2 * messages()),
            "{stack}"
        );
        println!("{stack} got {count}, each once");
    }

    // Some die without a word.
    let dead: Vec<_> = members.drain(..DYING).collect();
    join_all(
        dead.iter()
            .map(|member| member.node.endpoint.shutdown(Duration::ZERO)),
    )
    .await;
    let begun = Instant::now();
    until("healed meshes", || async {
        smallest_mesh(&members).await >= bounds.d_low
    })
    .await;
    let healed = begun.elapsed();
    println!("{DYING} of {OWN} died: meshes are full again after {healed:.1?}");
    within("healing", healed, 5 * heartbeat);
    spread(&mut members, messages()..messages() + 20).await;
}

#[tokio::test]
async fn the_heartbeat_is_what_is_configured() {
    let window = Duration::from_secs(if full() { 20 } else { 4 });
    let (fast, slow) = (Duration::from_millis(100), Duration::from_secs(1));
    let nodes = [
        Node::start(beating(fast)).await,
        Node::start(beating(slow)).await,
    ];
    let mut inboxes = Vec::new();
    for node in &nodes {
        inboxes.push(node.gossip.subscribe(TOPICS[0]).await.unwrap());
    }
    // One without peers has nothing to look after.
    nodes[0].connect(&nodes[1].addr.to_string()).await;
    nodes[1].meshed(TOPICS[0], 1).await;
    let beats = || {
        nodes
            .each_ref()
            .map(|node| node.gossip.metrics().heartbeats)
    };
    let before = beats();
    tokio::time::sleep(window).await;
    let after = beats();
    let counts = [after[0] - before[0], after[1] - before[1]];
    println!(
        "in {window:?}: {} heartbeats of {fast:?}, {} of {slow:?}",
        counts[0], counts[1]
    );
    let seconds = window.as_secs();
    // A busy machine may be late, but none comes early.
    assert!(
        (5 * seconds..=10 * seconds + 2).contains(&counts[0]),
        "{counts:?}"
    );
    assert!(
        (seconds - 2..=seconds + 1).contains(&counts[1]),
        "{counts:?}"
    );
}

/// What a hostile peer sends, and what has to come of it.
struct Attack {
    name: &'static str,
    /// The RPCs, of which each comes `times` times.
    rpcs: Vec<Vec<u8>>,
    times: usize,
    /// Whether its sender has to end below zero or without its stream.
    blamed: bool,
}

fn attacks(hostile: &Keypair, honest: &Keypair, known: &[u8]) -> Vec<Attack> {
    let topic = TOPICS[0];
    let message = |author: &Author, content: &[u8]| {
        let message = author.message(topic, content.to_vec().into());
        message.message().encoded.to_bytes().to_vec()
    };
    let unsigned = message(&Author::anonymous(), b"unsigned");
    // The author is another, the signature is ours.
    let mut forged = message(&Author::signed(hostile, 1), b"forged");
    let (ours, theirs) = (hostile.peer_id(), honest.peer_id());
    let at = forged
        .windows(ours.as_bytes().len())
        .position(|window| window == ours.as_bytes())
        .unwrap();
    forged[at..at + theirs.as_bytes().len()].copy_from_slice(theirs.as_bytes());
    let later = message(&Author::signed(hostile, 1_000), b"later");
    let replayed = message(&Author::signed(hostile, 999), b"replayed");
    // Out of the mesh and in again, whatever the backoff.
    let grafts = std::iter::repeat_n([rpc::prune(topic), rpc::graft(topic)], 5);
    let grafts = grafts.flatten().collect();
    vec![
        Attack {
            name: "unsigned messages",
            rpcs: vec![rpc::publish(&unsigned)],
            times: 20,
            blamed: true,
        },
        Attack {
            name: "messages with another's name",
            rpcs: vec![rpc::publish(&forged)],
            times: 20,
            blamed: true,
        },
        Attack {
            // Whoever relays may relay late: refused, and nobody is to blame.
            name: "replayed numbers",
            rpcs: vec![rpc::publish(&later), rpc::publish(&replayed)],
            times: 20,
            blamed: false,
        },
        Attack {
            name: "a flood of IWANT",
            rpcs: vec![rpc::iwant(std::iter::repeat_n(known, 1_000))],
            times: 200,
            blamed: false,
        },
        Attack {
            name: "a flood of GRAFT",
            rpcs: grafts,
            times: 20,
            blamed: true,
        },
        Attack {
            name: "promises that are not kept",
            rpcs: (0..20u64)
                .map(|n| {
                    let ids: Vec<_> = (0..50u64).map(|m| (n * 50 + m).to_be_bytes()).collect();
                    rpc::ihave(topic, ids.iter().map(|id| &id[..]))
                })
                .collect(),
            times: 1,
            blamed: true,
        },
        Attack {
            name: "a control frame of 8 MiB",
            rpcs: vec![rpc::iwant(std::iter::repeat_n(
                known,
                (8 << 20) / known.len(),
            ))],
            times: 1,
            blamed: true,
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_peers_are_scored_down_and_others_unaffected() {
    let topic = TOPICS[0];
    let adversarial = || {
        let mut router = Config::adversarial();
        router.topic_defaults.message_id = MessageIdFn::Sha256;
        router.heartbeat_interval = Duration::from_millis(400);
        // A peer that lingers below zero is grafted no more for a while.
        router.prune_backoff = Duration::from_secs(5);
        router.graft_flood_threshold = Duration::from_secs(5);
        assert_eq!(router.seqno_policy, SeqnoPolicy::Increasing);
        GossipConfig::new(router)
    };
    let (victim, author) = (
        Node::start(adversarial()).await,
        Node::start(adversarial()).await,
    );
    let mut inbox = victim.gossip.subscribe(topic).await.unwrap();
    let _author = author.gossip.subscribe(topic).await.unwrap();
    author.connect(&victim.addr.to_string()).await;
    victim.meshed(topic, 1).await;
    let mut number = 0;
    let honest = Keypair::from_seed(&[1; 32]);
    for at in 0..attacks(&honest, &honest, &[0; 32]).len() {
        let hostile = Keypair::from_seed(&[100 + at as u8; 32]);
        // Something that may be asked for.
        author
            .gossip
            .publish(topic, content(topic, number))
            .await
            .unwrap();
        let message = tokio::time::timeout(SOON, inbox.next()).await;
        let known = message.expect("a message").unwrap().id;
        number += 1;
        let attack = attacks(&hostile, &honest, known.as_bytes()).remove(at);
        let mut peer = Stranger::at(&victim.addr, &hostile).await;
        assert!(peer.say(rpc::subscribe(topic)).await);
        let id = hostile.peer_id();
        until("the peer", || async {
            let peers = victim.gossip.peers().await.unwrap();
            peers.iter().any(|peer| peer.peer_id == id)
        })
        .await;
        let before = victim.gossip.metrics();
        let mut cut = false;
        // Somebody honest goes on meanwhile.
        let mut latest = Duration::ZERO;
        'attack: for _ in 0..attack.times {
            for rpc in &attack.rpcs {
                if !peer.say(rpc.clone()).await {
                    cut = true;
                    break 'attack;
                }
            }
            let begun = Instant::now();
            author
                .gossip
                .publish(topic, content(topic, number))
                .await
                .unwrap();
            loop {
                let message = tokio::time::timeout(SOON, inbox.next()).await;
                let data = message
                    .expect("the honest message")
                    .unwrap()
                    .data()
                    .to_bytes();
                if data.len() == SIZE && number_of(&data) == number as u64 {
                    break;
                }
                assert_eq!(&data[..], b"later", "{}", attack.name);
            }
            latest = latest.max(begun.elapsed());
            number += 1;
        }
        // Promises are broken after three seconds, and what is long is read in pieces.
        let (mut score, mut ended) = (0.0, false);
        let begun = Instant::now();
        loop {
            match victim.gossip.score(id).await.unwrap() {
                Some(breakdown) => score = breakdown.total,
                None => ended = true,
            }
            ended |= cut || !peer.say(Vec::new()).await;
            if !attack.blamed || ended || score < 0.0 || begun.elapsed() > SOON {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let after = victim.gossip.metrics();
        println!(
            "{}: score {score:.0}{}, {} bytes sent to it, honest messages within {latest:.0?}",
            attack.name,
            if ended { ", its stream was ended" } else { "" },
            peer.received()
        );
        assert_eq!(ended || score < 0.0, attack.blamed, "{}", attack.name);
        if score < 0.0 {
            // Within a heartbeat it is in no mesh any more.
            until("the end of its place in the mesh", || async {
                !victim.gossip.mesh(topic).await.unwrap().contains(&id)
            })
            .await;
        }
        if attack.name == "a flood of IWANT" {
            // Three times at most, whatever is asked.
            assert!(after.iwant_served - before.iwant_served <= 3, "{after:?}");
        }
        within("an honest message", latest, Duration::from_millis(200));
        peer.endpoint.shutdown(Duration::ZERO).await;
    }
    assert!(
        inbox.try_next().is_none(),
        "something hostile was delivered"
    );
    let honest = victim.gossip.score(author.peer()).await.unwrap().unwrap();
    assert!(honest.total >= 0.0, "{honest:?}");
}
