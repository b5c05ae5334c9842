//! Scenario 12, as far as gossip goes: who does not keep up costs the others nothing. A subscriber that sleeps holds what it was
//! allowed to hold and loses the rest by count; a validator that sleeps slows down who sends; and a peer that reads nothing is cut off.
//!
//! Prints what it measured. In CI a sleep of three seconds and 64 MiB; `BAREWIRE_FULL=1` sleeps thirty and pushes 1 GiB.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_base::Keypair;
use barewire_node::protocols::{
    gossip::{
        Acceptance, Config, DropReason, GossipConfig, GossipEvent, Message, PublishOptions,
        SubscribeOptions, SubscriptionOptions, Validator, core::Event,
    },
    ping,
};
use barewire_tests::{
    full,
    gossip::{Node, SOON, Stranger, rpc, until},
    usage::Usage,
    within,
};
use tokio::sync::Mutex;

/// Memory is that of the process: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

const TOPIC: &str = "flood";
const OTHER: &str = "other";
const SIZE: usize = 16 << 10;

fn sleep() -> Duration {
    Duration::from_secs(if full() { 30 } else { 3 })
}

/// Messages of a flood.
fn count() -> u64 {
    let bytes: u64 = if full() { 1 << 30 } else { 64 << 20 };
    bytes / SIZE as u64
}

fn config() -> GossipConfig {
    GossipConfig::new(Config::lan())
}

fn message(number: u64) -> Vec<u8> {
    let mut data = vec![3; SIZE];
    data[..8].copy_from_slice(&number.to_be_bytes());
    data
}

fn number_of(message: &Message) -> u64 {
    let data = message.data().to_bytes();
    u64::from_be_bytes(data[..8].try_into().unwrap())
}

/// Publishes the flood as fast as it is taken; counts what was taken.
async fn flood(sender: barewire_node::protocols::gossip::Gossip, taken: Arc<AtomicU64>) {
    let patient = PublishOptions::default().wait_for_space(Duration::from_secs(600));
    for number in 0..count() {
        let published = sender.publish_with(TOPIC, message(number).into(), patient);
        let receipt = published.await.unwrap().await.unwrap();
        assert_eq!(receipt.accepted(), 1, "{receipt:?}");
        taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// The longest round trip of pings and of messages in another topic until told to stop.
async fn bystander(node: &Node, at: &Node, stop: &AtomicBool) -> [Duration; 2] {
    let connection = node.endpoint.connect(at.addr.clone()).await.unwrap();
    let mut inbox = at.gossip.subscribe(OTHER).await.unwrap();
    let waited = node.gossip.wait_for_peers(OTHER, 1, SOON).await;
    waited.unwrap();
    let mut longest = [Duration::ZERO; 2];
    while !stop.load(Ordering::Relaxed) {
        let ping = ping::ping(&connection, SOON).await.unwrap();
        let begun = Instant::now();
        node.gossip.publish(OTHER, "there?").await.unwrap();
        let came = tokio::time::timeout(SOON, inbox.next()).await;
        came.expect("the other topic's message");
        longest = [longest[0].max(ping), longest[1].max(begun.elapsed())];
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_subscriber_holds_what_it_may_and_loses_by_count() {
    let _alone = ALONE.lock().await;
    let (sender, reader, other) = (
        Node::start(config()).await,
        Node::start(config()).await,
        Node::start(config()).await,
    );
    let mut sleeping = Vec::new();
    for bytes in [64 << 10, 1 << 20, 8 << 20] {
        let bounds = SubscriptionOptions::default().bounded(usize::MAX, bytes);
        let core = SubscribeOptions::default();
        let inbox = reader.gossip.subscribe_with(TOPIC, bounds, core).await;
        sleeping.push((bytes, inbox.unwrap()));
    }
    let mut awake = reader.gossip.subscribe(TOPIC).await.unwrap();
    sender.connect(&reader.addr.to_string()).await;
    sender.gossip.wait_for_peers(TOPIC, 1, SOON).await.unwrap();
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let flooding = tokio::spawn(flood(sender.gossip.clone(), Arc::default()));
    let reading = async {
        let mut order = Vec::new();
        for _ in 0..count() {
            let next = tokio::time::timeout(SOON, awake.next()).await;
            order.push(number_of(&next.expect("every message").unwrap()));
        }
        stop.store(true, Ordering::Relaxed);
        order
    };
    let (longest, order) = tokio::join!(bystander(&other, &reader, &stop), reading);
    flooding.await.unwrap();
    let took = begun.elapsed();
    let mut lost = 0;
    for (bytes, mut inbox) in sleeping {
        let (held, dropped) = (inbox.waiting(), inbox.dropped());
        println!("{bytes} bytes of buffer: {held} messages held, {dropped} dropped");
        assert_eq!(held, bytes / SIZE);
        assert_eq!(held as u64 + dropped, count());
        lost += dropped;
        // What it holds is the oldest, in the order it came, which is that in which signatures were found valid.
        for number in &order[..held] {
            assert_eq!(number_of(&inbox.try_next().unwrap()), *number);
        }
    }
    assert_eq!(awake.dropped(), 0);
    assert_eq!(reader.gossip.dropped().await.unwrap()[TOPIC], lost);
    println!(
        "{} messages in {took:.1?}, pings within {:.0?}, another topic within {:.0?}",
        count(),
        longest[0],
        longest[1]
    );
    for (what, took) in ["a ping", "another topic"].into_iter().zip(longest) {
        within(what, took, Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_validator_slows_down_who_sends() {
    let _alone = ALONE.lock().await;
    let (sender, reader, other) = (
        Node::start(config()).await,
        Node::start(config()).await,
        Node::start(config()).await,
    );
    let mut inbox = reader.gossip.subscribe(TOPIC).await.unwrap();
    let (awake, awakes) = tokio::sync::watch::channel(false);
    let validator = Validator::asynchronous(move |_| {
        let mut awakes = awakes.clone();
        async move {
            // Fails when the test has ended.
            drop(awakes.wait_for(|awake| *awake).await);
            Acceptance::Accept
        }
    });
    let validator = validator.timeout(Duration::from_secs(50));
    reader.gossip.validate(TOPIC, validator).await.unwrap();
    sender.connect(&reader.addr.to_string()).await;
    sender.gossip.wait_for_peers(TOPIC, 1, SOON).await.unwrap();
    let usage = Usage(std::process::id());
    let before = usage.rss_kib();
    let (taken, stop) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
    let flooding = tokio::spawn(flood(sender.gossip.clone(), Arc::clone(&taken)));
    let sleeping = async {
        tokio::time::sleep(sleep()).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (longest, ()) = tokio::join!(bystander(&other, &reader, &stop), sleeping);
    // A busy machine may take longer to fill what there is.
    let mut stuck = 0;
    until("the sender is slowed down", || {
        let before = std::mem::replace(&mut stuck, taken.load(Ordering::Relaxed));
        let taken = Arc::clone(&taken);
        async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            before > 0 && taken.load(Ordering::Relaxed) == before
        }
    })
    .await;
    let held = usage.rss_kib();
    let bytes = stuck * SIZE as u64;
    println!(
        "after {:?} of sleep: {} KiB taken from the sender, {} KiB more in memory; pings within {:.0?}, another topic within {:.0?}",
        sleep(),
        bytes >> 10,
        held.saturating_sub(before),
        longest[0],
        longest[1]
    );
    // What waits to be validated, the sender's queue, and what is on its way between.
    let config = Config::lan();
    let pending = config.max_pending_per_peer * SIZE;
    let bound = (pending + config.queue.max_bytes + (16 << 20)) as u64;
    assert!(bytes < bound, "{bytes} of {bound}");
    assert!(held.saturating_sub(before) < (2 * bound) >> 10);
    for (what, took) in ["a ping", "another topic"].into_iter().zip(longest) {
        within(what, took, Duration::from_millis(200));
    }
    awake.send_replace(true);
    let begun = Instant::now();
    let mut seen = vec![false; count() as usize];
    for _ in 0..count() {
        let next = tokio::time::timeout(SOON, inbox.next()).await;
        let number = number_of(&next.expect("every message").unwrap());
        assert!(!std::mem::replace(&mut seen[number as usize], true));
    }
    flooding.await.unwrap();
    println!("awake, it gets all {} in {:.1?}", count(), begun.elapsed());
    let metrics = reader.gossip.metrics();
    assert_eq!((metrics.throttled, metrics.ignored), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_nothing_is_cut_off() {
    let _alone = ALONE.lock().await;
    let patience = Duration::from_secs(2);
    let mut impatient = config();
    impatient.write_timeout = patience;
    let (sender, reader) = (Node::start(impatient).await, Node::start(config()).await);
    let _sender = sender.gossip.subscribe(TOPIC).await.unwrap();
    let mut inbox = reader.gossip.subscribe(TOPIC).await.unwrap();
    reader.connect(&sender.addr.to_string()).await;
    let mut deaf = Stranger::deaf(&sender.addr, &Keypair::from_seed(&[9; 32])).await;
    assert!(deaf.say(rpc::subscribe(TOPIC)).await);
    sender.meshed(TOPIC, 2).await;
    let mut events = sender.gossip.events();
    let queue = Config::lan().queue.max_bytes;
    let usage = Usage(std::process::id());
    let before = usage.rss_kib();
    let (begun, mut sent) = (Instant::now(), 0);
    let (mut dropped, mut cut) = (0u64, None);
    while cut.is_none() {
        assert!(begun.elapsed() < SOON, "it is not cut off");
        sender.gossip.publish(TOPIC, message(sent)).await.unwrap();
        sent += 1;
        // The other gets each at once.
        let next = tokio::time::timeout(SOON, inbox.next()).await;
        let data = next.expect("the message").unwrap().data().to_bytes();
        assert_eq!(data[..8], (sent - 1).to_be_bytes());
        while let Ok(event) = events.try_recv() {
            match event {
                GossipEvent::StreamCut { peer } => {
                    assert_eq!(peer, deaf.endpoint.peer_id());
                    cut = Some(begun.elapsed());
                }
                GossipEvent::Router {
                    peer,
                    event: Event::Dropped { reason, .. },
                } => {
                    assert_eq!(peer, deaf.endpoint.peer_id());
                    let full = [
                        DropReason::QueueFull,
                        DropReason::Displaced,
                        DropReason::Disconnected,
                    ];
                    assert!(full.contains(&reason), "{reason:?}");
                    dropped += 1;
                }
                _ => {}
            }
        }
        let peers = sender.gossip.peers().await.unwrap();
        let most = peers.iter().map(|peer| peer.queued_bytes).max();
        assert!(most.unwrap() <= queue, "{most:?}");
    }
    let cut = cut.unwrap();
    let grown = usage.rss_kib().saturating_sub(before);
    println!(
        "{sent} messages: cut off after {cut:.1?}, {dropped} dropped before, {grown} KiB more in memory"
    );
    within(
        "the end of its stream",
        cut,
        patience + Duration::from_secs(2),
    );
    // Caches and buffers of three nodes beside the queue; without a bound on that, it would be what was dropped more.
    assert!(grown < (queue as u64 >> 10) + (64 << 10), "{grown} KiB");
    until("its dropped messages are counted", || async {
        sender.gossip.metrics().messages_dropped >= dropped
    })
    .await;
}
