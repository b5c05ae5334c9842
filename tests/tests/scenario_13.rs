//! Scenario 13, as far as gossip goes: a message that comes on many ways, and again later, is delivered once; the same content said
//! anew is a new message; and between the socket's buffers and the subscriber nothing is copied.
//!
//! Prints what it counted. `BAREWIRE_FULL=1` sends more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    alloc::System,
    collections::BTreeMap,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use barewire_base::Keypair;
use barewire_node::protocols::gossip::{
    Config, GossipConfig, GossipEvent, SeqnoPolicy, SubscribeOptions, Subscription,
    SubscriptionOptions, Version,
    core::{Author, Event, RejectReason},
};
use barewire_tests::{
    full,
    gossip::{Node, SOON, Stranger, rpc, until},
    peers,
    process::{Process, number},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::sync::RwLock;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Every allocation of the process is counted: the test that does so runs alone.
static ALONE: RwLock<()> = RwLock::const_new(());

const TOPIC: &str = "once";

/// A heartbeat of 250 ms and go's other parameters, without IDONTWANT, which would keep duplicates away.
fn config() -> GossipConfig {
    let mut router = Config::default();
    router.heartbeat_interval = Duration::from_millis(250);
    let mut config = GossipConfig::new(router);
    config.newest = Version::V1_1;
    config
}

async fn next(inbox: &mut Subscription) -> Vec<u8> {
    let message = tokio::time::timeout(SOON, inbox.next()).await;
    message
        .expect("a message")
        .unwrap()
        .data()
        .to_bytes()
        .to_vec()
}

/// Whatever else was to come has come.
async fn nothing_more(inbox: &mut Subscription) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(inbox.try_next().is_none());
}

/// Keys that no other test has.
fn keypair() -> Keypair {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    Keypair::from_seed(&[NEXT.fetch_add(1, Ordering::Relaxed); 32])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_ways_are_one_delivery() {
    let _others = ALONE.read().await;
    const WAYS: usize = 5;
    let count: u8 = if full() { 250 } else { 50 };
    let (author, reader) = (Node::start(config()).await, Node::start(config()).await);
    let _author = author.gossip.subscribe(TOPIC).await.unwrap();
    let mut inbox = reader.gossip.subscribe(TOPIC).await.unwrap();
    let mut ways = Vec::new();
    for _ in 0..WAYS {
        let way = Node::start(config()).await;
        let inbox = way.gossip.subscribe(TOPIC).await.unwrap();
        way.connect(&author.addr.to_string()).await;
        way.connect(&reader.addr.to_string()).await;
        ways.push((way, inbox));
    }
    author.meshed(TOPIC, WAYS).await;
    reader.meshed(TOPIC, WAYS).await;
    for number in 0..count {
        author
            .gossip
            .publish(TOPIC, vec![number; 300])
            .await
            .unwrap();
        assert_eq!(next(&mut inbox).await, vec![number; 300]);
    }
    nothing_more(&mut inbox).await;
    let metrics = reader.gossip.metrics();
    println!(
        "{count} messages on {WAYS} ways: {} came, {} were duplicates, {} delivered",
        metrics.messages_in, metrics.duplicates, metrics.delivered
    );
    assert_eq!(metrics.delivered, u64::from(count));
    assert!(metrics.duplicates >= 3 * u64::from(count), "{metrics:?}");

    // The same content said anew has another id, and is delivered each time.
    for _ in 0..3 {
        author.gossip.publish(TOPIC, "again").await.unwrap();
        assert_eq!(next(&mut inbox).await, b"again");
    }
    nothing_more(&mut inbox).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_reconnect_is_no_second_delivery() {
    let _others = ALONE.read().await;
    let reader = Node::start(config()).await;
    let mut inbox = reader.gossip.subscribe(TOPIC).await.unwrap();
    let keypair = keypair();
    let author = Author::signed(&keypair, 1);
    let sent = author.message(TOPIC, b"sent again".to_vec().into());
    let sent = rpc::publish(&sent.message().encoded.to_bytes());
    for round in 1..=3 {
        let mut peer = Stranger::at(&reader.addr, &keypair).await;
        assert!(peer.say(sent.clone()).await);
        until("its arrival", || async {
            reader.gossip.metrics().messages_in == round
        })
        .await;
        peer.endpoint.shutdown(Duration::from_secs(1)).await;
        until("its end", || async {
            reader.gossip.peers().await.unwrap().is_empty()
        })
        .await;
    }
    assert_eq!(next(&mut inbox).await, b"sent again");
    nothing_more(&mut inbox).await;
    assert_eq!(reader.gossip.metrics().duplicates, 2);
}

/// Who puts another's id on a message of its own does not keep the right one away, whichever comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_id_does_not_displace_the_message() {
    let _others = ALONE.read().await;
    let count: u64 = if full() { 1_000 } else { 100 };
    let reader = Node::start(config()).await;
    let mut inbox = reader.gossip.subscribe(TOPIC).await.unwrap();
    let mut events = reader.gossip.events();
    let (honest, forger) = (keypair(), keypair());
    let author = Author::signed(&honest, 1);
    // Of the same author and number, and said by another.
    let same_ids = Author::signed(&honest, 1);
    let mut right = Stranger::at(&reader.addr, &honest).await;
    let mut wrong = Stranger::at(&reader.addr, &forger).await;
    for number in 0..count {
        let message = author.message(TOPIC, number.to_be_bytes().to_vec().into());
        let message = message.message().encoded.to_bytes();
        let forged = same_ids.message(TOPIC, b"another".to_vec().into());
        let mut forged = forged.message().encoded.to_bytes().to_vec();
        // Its last bytes are the signature.
        *forged.last_mut().unwrap() ^= 1;
        let (message, forged) = (rpc::publish(&message), rpc::publish(&forged));
        if number % 2 == 0 {
            let before = reader.gossip.metrics().rejected;
            assert!(wrong.say(forged).await);
            until("the forgery is found out", || async {
                reader.gossip.metrics().rejected > before
            })
            .await;
            assert!(right.say(message).await);
        } else {
            assert!(right.say(message).await && wrong.say(forged).await);
        }
        assert_eq!(next(&mut inbox).await, number.to_be_bytes());
    }
    nothing_more(&mut inbox).await;
    let mut blamed = BTreeMap::<_, usize>::new();
    while let Ok(event) = events.try_recv() {
        if let GossipEvent::Router {
            peer,
            event: Event::Rejected { reason, .. },
        } = event
        {
            assert_eq!(reason, RejectReason::InvalidSignature);
            *blamed.entry(peer).or_default() += 1;
        }
    }
    println!("{count} messages and as many forgeries of their ids: {blamed:?} blamed");
    // One that came behind the right message was a duplicate of it, and nobody looked.
    assert!(blamed[&forger.peer_id()] as u64 >= count / 2, "{blamed:?}");
    assert_eq!(blamed.len(), 1);
}

/// When the id is forgotten, the author's number still tells a replay, if numbers have to increase.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_after_the_window_is_refused_by_its_number() {
    let _others = ALONE.read().await;
    let replay = async |policy, deliveries| {
        let mut config = config();
        config.router.seen_ttl = Duration::from_secs(1);
        config.router.seqno_policy = policy;
        let reader = Node::start(config).await;
        let mut inbox = reader.gossip.subscribe(TOPIC).await.unwrap();
        let keypair = keypair();
        let author = Author::signed(&keypair, 1);
        let mut peer = Stranger::at(&reader.addr, &keypair).await;
        let old = author.message(TOPIC, b"old".to_vec().into());
        let old = rpc::publish(&old.message().encoded.to_bytes());
        let new = author.message(TOPIC, b"new".to_vec().into());
        let new = rpc::publish(&new.message().encoded.to_bytes());
        assert!(peer.say(old.clone()).await);
        assert_eq!(next(&mut inbox).await, b"old");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(peer.say(old.clone()).await && peer.say(new).await);
        for _ in 1..deliveries {
            assert_eq!(next(&mut inbox).await, b"old", "{policy:?}");
        }
        assert_eq!(next(&mut inbox).await, b"new", "{policy:?}");
        nothing_more(&mut inbox).await;
        println!("{policy:?}: a message and its replay 3 s later are {deliveries} deliveries");
    };
    tokio::join!(
        replay(SeqnoPolicy::Increasing, 1),
        replay(SeqnoPolicy::Opaque, 2)
    );
}

/// A process publishes; what this one allocates while it receives is what the bytes came in, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_copied_on_the_way_to_the_subscriber() {
    let _alone = ALONE.write().await;
    let count: usize = if full() { 500 } else { 60 };
    const SIZE: usize = 1 << 20;
    let reader = Node::start(GossipConfig::default()).await;
    let roomy = SubscriptionOptions::default().bounded(usize::MAX, 1 << 30);
    let inbox = reader
        .gossip
        .subscribe_with(TOPIC, roomy, SubscribeOptions::default());
    let mut inbox = inbox.await.unwrap();
    let (addr, counted) = (reader.addr.to_string(), (count + 1).to_string());
    let args = [
        "publish", &addr, "--topic", TOPIC, "--count", &counted, "--size", "1MiB", "--json",
    ];
    let program = peers::barewire().expect("barewire builds");
    let mut publishing = Process::start(&program, args).unwrap();
    // The first sets up what stays.
    assert_eq!(next(&mut inbox).await.len(), SIZE);
    let region = Region::new(ALLOCATOR);
    for _ in 0..count {
        let message = tokio::time::timeout(SOON, inbox.next()).await;
        let data = message.expect("a message").unwrap().data();
        assert_eq!(data.len(), SIZE);
    }
    let allocated = region.change().bytes_allocated as f64 / (count * SIZE) as f64;
    let published = publishing.expect("published", SOON).await.unwrap();
    assert_eq!(number(&published, "dropped").unwrap(), 0.0);
    let connection = reader.endpoint.connections().into_iter().next();
    let stats = connection.map(|connection| connection.stats()).unwrap();
    let metrics = reader.gossip.metrics();
    println!(
        "{count} messages of 1 MiB: {allocated:.2} bytes allocated for each received, {} copied by the router, {} by the connection",
        metrics.bytes_copied, stats.bytes_copied_in
    );
    assert!(allocated < 1.5, "{allocated}");
    assert_eq!(metrics.bytes_copied, 0);
    let copied = stats.bytes_copied_in as f64 / (count * SIZE) as f64;
    assert!(copied < 0.05, "{copied}");
}
