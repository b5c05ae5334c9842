//! Gossip between nodes over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use barewire_node::{
    Endpoint, Multiaddr, Router,
    protocols::gossip::{
        Acceptance, Config, Gossip, GossipConfig, GossipEvent, PartialError, PartialEvent, Payload,
        PublishOptions, Replay, SubscribeOptions, SubscriptionOptions, TraceWriter, Validator,
        Version, WaitError,
        core::{self, PartialLimits},
    },
};
use bytes::Bytes;
use common::*;
use parking_lot::Mutex;

const TOPIC: &str = "news";

struct Node {
    gossip: Gossip,
    endpoint: Endpoint,
    addr: Multiaddr,
    _router: Router,
}

async fn gossiping(config: GossipConfig) -> Node {
    let endpoint = endpoint(quick()).await;
    let gossip = Gossip::spawn(&endpoint, config).unwrap();
    let builder = gossip.register(Router::builder(endpoint.clone()));
    let router = builder.spawn().unwrap();
    let addr = listen(&endpoint, "/ip4/127.0.0.1/tcp/0").await;
    Node {
        gossip,
        endpoint,
        addr,
        _router: router,
    }
}

fn config() -> GossipConfig {
    GossipConfig::new(Config::lan())
}

/// Nodes in a row, each connected to the one before.
async fn chain(count: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..count {
        let node = gossiping(config()).await;
        if let Some(last) = nodes.last() {
            node.endpoint.connect(last.addr.clone()).await.unwrap();
        }
        nodes.push(node);
    }
    nodes
}

fn numbered(number: u32, len: usize) -> Vec<u8> {
    let mut data = vec![7; len.max(4)];
    data[..4].copy_from_slice(&number.to_be_bytes());
    data
}

#[tokio::test]
async fn messages_cross_several_nodes_in_all_sizes() {
    let nodes = chain(3).await;
    let mut first = nodes[0].gossip.subscribe(TOPIC).await.unwrap();
    let _relays = nodes[1].gossip.subscribe(TOPIC).await.unwrap();
    let mut last = nodes[2].gossip.subscribe(TOPIC).await.unwrap();
    nodes[1].gossip.wait_for_mesh(TOPIC, 2, SOON).await.unwrap();
    nodes[0].gossip.wait_for_mesh(TOPIC, 1, SOON).await.unwrap();
    nodes[2].gossip.wait_for_mesh(TOPIC, 1, SOON).await.unwrap();
    for (number, len) in [(0, 4), (1, 200), (2, 5_000), (3, 200_000), (4, 1 << 20)] {
        let data = numbered(number, len);
        let receipt = nodes[0].gossip.publish(TOPIC, data.clone()).await.unwrap();
        assert_eq!(receipt.accepted(), 1, "{receipt:?}");
        let message = soon("the message", last.next()).await.unwrap();
        assert!(message.data() == data[..]);
        assert_eq!(message.author(), Some(nodes[0].endpoint.peer_id()));
        assert_eq!(message.received_from, nodes[1].endpoint.peer_id());
        let back = numbered(100 + number, len);
        nodes[2].gossip.publish(TOPIC, back.clone()).await.unwrap();
        let message = soon("the answer", first.next()).await.unwrap();
        assert!(message.data() == back[..]);
    }
    assert_eq!((first.dropped(), last.dropped()), (0, 0));
    eventually("the metrics", || {
        let text = nodes[1].endpoint.metrics();
        text.contains("barewire_gossip_messages_total{kind=\"delivered\"} 10")
            && text.contains("barewire_gossip_peers{version=\"/meshsub/1.3.0\"} 2")
    })
    .await;
}

#[tokio::test]
async fn many_messages_arrive_and_older_versions_talk() {
    for newest in [
        Version::V1_3,
        Version::V1_1,
        Version::V1_0,
        Version::Floodsub,
    ] {
        let mut old = config();
        old.newest = newest;
        let (a, b) = (gossiping(old).await, gossiping(config()).await);
        let mut inbox = b.gossip.subscribe(TOPIC).await.unwrap();
        a.endpoint.connect(b.addr.clone()).await.unwrap();
        // Without a subscription of its own: by fanout.
        a.gossip.wait_for_peers(TOPIC, 1, SOON).await.unwrap();
        assert_eq!(b.gossip.peers().await.unwrap()[0].version, newest);
        let options = PublishOptions::default().wait_for_space(SOON);
        let sending = async {
            for number in 0..2_000 {
                let data = Payload::from(numbered(number, 200));
                drop(a.gossip.publish_with(TOPIC, data, options).await.unwrap());
            }
        };
        let receiving = async {
            let mut seen = vec![false; 2_000];
            for _ in 0..2_000 {
                let data = inbox.next().await.unwrap().data().to_bytes();
                let number = u32::from_be_bytes(data[..4].try_into().unwrap());
                assert!(!std::mem::replace(&mut seen[number as usize], true));
            }
        };
        soon("all messages", async { tokio::join!(sending, receiving) }).await;
        soon("the end of writing", a.gossip.flush(SOON))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_slow_subscriber_delays_nobody() {
    let nodes = chain(2).await;
    let few = SubscriptionOptions::default().bounded(10, 1 << 20);
    let core = SubscribeOptions::default();
    let slow = nodes[1]
        .gossip
        .subscribe_with(TOPIC, few, core)
        .await
        .unwrap();
    let mut fast = nodes[1].gossip.subscribe(TOPIC).await.unwrap();
    nodes[0]
        .gossip
        .wait_for_peers(TOPIC, 1, SOON)
        .await
        .unwrap();
    for number in 0..100 {
        nodes[0]
            .gossip
            .publish(TOPIC, numbered(number, 100))
            .await
            .unwrap();
        soon("the message", fast.next()).await.unwrap();
    }
    assert_eq!(
        (slow.waiting(), slow.dropped(), fast.dropped()),
        (10, 90, 0)
    );
    assert_eq!(nodes[1].gossip.dropped().await.unwrap()[TOPIC], 90);
    // The topic is left with the last subscriber.
    drop(slow);
    nodes[0]
        .gossip
        .wait_for_peers(TOPIC, 1, SOON)
        .await
        .unwrap();
    drop(fast);
    soon("the end of the subscription", async {
        while nodes[0]
            .gossip
            .wait_for_peers(TOPIC, 1, Duration::ZERO)
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn validators_accept_reject_ignore_and_panic() {
    let nodes = chain(2).await;
    let mut events = nodes[1].gossip.events();
    let mut inbox = nodes[1].gossip.subscribe(TOPIC).await.unwrap();
    nodes[0]
        .gossip
        .wait_for_peers(TOPIC, 1, SOON)
        .await
        .unwrap();
    fn judge(data: &[u8]) -> Acceptance {
        match data[3] % 4 {
            0 => Acceptance::Accept,
            1 => Acceptance::Reject,
            2 => Acceptance::Ignore,
            // Without the report of a panic, which would look like a failure.
            _ => std::panic::resume_unwind(Box::new("every fourth message")),
        }
    }
    let running = Arc::new(AtomicUsize::new(0));
    let sync = Validator::sync(|message| judge(&message.data().to_bytes()));
    let asynchronous = Validator::asynchronous(move |message| {
        let running = Arc::clone(&running);
        async move {
            assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
            tokio::time::sleep(Duration::from_millis(3)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            judge(&message.data().to_bytes())
        }
    });
    let mut next = 0;
    for validator in [sync, asynchronous.concurrency(3)] {
        nodes[1].gossip.validate(TOPIC, validator).await.unwrap();
        for number in next..next + 40 {
            nodes[0]
                .gossip
                .publish(TOPIC, numbered(number, 50))
                .await
                .unwrap();
        }
        let mut panics = 0;
        let mut rejected = 0;
        for _ in 0..10 {
            let data = soon("an accepted message", inbox.next())
                .await
                .unwrap()
                .data()
                .to_bytes();
            assert_eq!(data[3] % 4, 0);
        }
        while panics < 10 || rejected < 10 {
            match soon("an event", events.recv()).await.unwrap() {
                GossipEvent::ValidatorFailed { panicked: true, .. } => panics += 1,
                GossipEvent::Router {
                    event: barewire_gossip::Event::Rejected { .. },
                    ..
                } => rejected += 1,
                _ => {}
            }
        }
        assert_eq!(inbox.try_next().map(|message| message.data().len()), None);
        next += 40;
    }
    // One that never answers ignores the message in the end, and others go on.
    let stuck = Validator::asynchronous(
        |message: barewire_node::protocols::gossip::Message| async move {
            if message.data().to_bytes()[3] == 200 {
                std::future::pending::<()>().await;
            }
            Acceptance::Accept
        },
    );
    let stuck = stuck.timeout(Duration::from_millis(50));
    nodes[1].gossip.validate(TOPIC, stuck).await.unwrap();
    for number in [200, 201] {
        nodes[0]
            .gossip
            .publish(TOPIC, numbered(number, 50))
            .await
            .unwrap();
    }
    let data = soon("the other message", inbox.next())
        .await
        .unwrap()
        .data()
        .to_bytes();
    assert_eq!(data[3], 201);
    soon("the timeout", async {
        while !matches!(
            events.recv().await.unwrap(),
            GossipEvent::ValidatorFailed {
                panicked: false,
                ..
            }
        ) {}
    })
    .await;
}

#[tokio::test]
async fn waiting_for_peers_ends_by_a_peer_or_the_deadline() {
    let (a, b) = (gossiping(config()).await, gossiping(config()).await);
    let short = Duration::from_millis(30);
    let error = a.gossip.wait_for_peers(TOPIC, 1, short).await.unwrap_err();
    assert_eq!(error, WaitError::Deadline(short));
    let receipt = a.gossip.publish(TOPIC, "to nobody").await.unwrap();
    assert_eq!(receipt.accepted(), 0);
    let waiting = a.gossip.wait_for_peers(TOPIC, 1, SOON);
    let arriving = async {
        tokio::time::sleep(short).await;
        let inbox = b.gossip.subscribe(TOPIC).await.unwrap();
        b.endpoint.connect(a.addr.clone()).await.unwrap();
        inbox
    };
    let (waited, _inbox) = tokio::join!(waiting, arriving);
    waited.unwrap();
    // And the end of the endpoint ends it.
    let other = a.gossip.clone();
    let waiting = tokio::spawn(async move { other.wait_for_peers("nothing", 1, SOON).await });
    tokio::task::yield_now().await;
    assert!(a.endpoint.shutdown(SOON).await.is_clean());
    assert!(matches!(waiting.await.unwrap(), Err(WaitError::Stopped(_))));
    assert!(a.gossip.publish(TOPIC, "too late").await.is_err());
}

#[tokio::test]
async fn peers_in_a_mesh_hold_their_connection_and_come_back() {
    let (a, b) = (gossiping(config()).await, gossiping(config()).await);
    let _one = a.gossip.subscribe(TOPIC).await.unwrap();
    let mut two = b.gossip.subscribe(TOPIC).await.unwrap();
    for _ in 0..2 {
        let connection = a.endpoint.connect(b.addr.clone()).await.unwrap();
        a.gossip.wait_for_mesh(TOPIC, 1, SOON).await.unwrap();
        b.gossip.wait_for_mesh(TOPIC, 1, SOON).await.unwrap();
        let holds = connection.why_open().holds;
        assert!(
            holds.iter().any(|hold| &*hold.name == "gossip"),
            "{holds:?}"
        );
        a.gossip.publish(TOPIC, "again").await.unwrap();
        soon("the message", two.next()).await.unwrap();
        assert!(
            a.gossip
                .score(b.endpoint.peer_id())
                .await
                .unwrap()
                .is_some()
        );
        connection.close(0);
        let gone = async {
            while !a.gossip.peers().await.unwrap().is_empty()
                || !b.gossip.peers().await.unwrap().is_empty()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the end of the connection", gone).await;
    }
}

/// Bytes that several may look at.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_trace_brings_back_what_a_node_knew() {
    let buffer = Buffer::default();
    let mut traced = config();
    traced.trace = Some(TraceWriter::new(buffer.clone()));
    let (a, b) = (gossiping(traced).await, gossiping(config()).await);
    let mut inbox = a.gossip.subscribe(TOPIC).await.unwrap();
    let _other = b.gossip.subscribe(TOPIC).await.unwrap();
    a.endpoint.connect(b.addr.clone()).await.unwrap();
    b.gossip.wait_for_mesh(TOPIC, 1, SOON).await.unwrap();
    a.gossip.wait_for_mesh(TOPIC, 1, SOON).await.unwrap();
    b.gossip.publish(TOPIC, "hello").await.unwrap();
    a.gossip.publish(TOPIC, "there").await.unwrap();
    soon("the message", inbox.next()).await.unwrap();
    let peer = b.endpoint.peer_id().to_string();
    let replayed = || {
        let mut replay = Replay::default();
        let lines = buffer.0.lock().clone();
        for line in String::from_utf8(lines).unwrap().lines() {
            replay.line(line).unwrap();
        }
        replay
    };
    eventually("the trace", || replayed().delivered.len() == 1).await;
    let replay = replayed();
    assert!(replay.meshes[TOPIC].contains(&peer) && replay.subscribed[TOPIC].contains(&peer));
    assert_eq!((replay.published.len(), replay.missed), (1, 0));
}

#[tokio::test]
async fn parts_of_a_message_cross_sockets() {
    let with_parts = || {
        let mut core = Config::lan();
        core.partial_messages = Some(PartialLimits::default());
        GossipConfig::new(core)
    };
    let sends = gossiping(with_parts()).await;
    let requests = gossiping(with_parts()).await;
    let plain = gossiping(config()).await;
    let bounds = SubscriptionOptions::default();
    let mut inboxes = Vec::new();
    for (node, options) in [
        (&sends, SubscribeOptions::partial(false, true)),
        (&requests, SubscribeOptions::partial(true, true)),
        (&plain, SubscribeOptions::default()),
    ] {
        let subscribed = node.gossip.subscribe_with(TOPIC, bounds, options);
        inboxes.push(subscribed.await.unwrap());
    }
    let mut at_sender = sends.gossip.partials(TOPIC, bounds).await.unwrap();
    let mut at_requester = requests.gossip.partials(TOPIC, bounds).await.unwrap();
    for node in [&requests, &plain] {
        node.endpoint.connect(sends.addr.clone()).await.unwrap();
    }
    sends.gossip.wait_for_mesh(TOPIC, 2, SOON).await.unwrap();
    // Whole messages go to those who do not ask for parts.
    sends.gossip.publish(TOPIC, "whole").await.unwrap();
    let whole = soon("the whole message", inboxes[2].next()).await.unwrap();
    assert!(whole.data() == b"whole"[..]);

    let (sender, requester) = (sends.endpoint.peer_id(), requests.endpoint.peer_id());
    let group = Bytes::from_static(b"group");
    let peers = sends.gossip.publish_partial(TOPIC, group.clone()).await;
    assert_eq!(peers.unwrap(), [requester]);
    let part = Some(Bytes::from(vec![9; 100_000]));
    let send = |to, message, metadata| {
        let group = group.clone();
        sends
            .gossip
            .send_partial(to, TOPIC, group, message, metadata)
    };
    send(requester, part.clone(), Some(Bytes::from_static(b"half")))
        .await
        .unwrap();
    let Some(PartialEvent::Received {
        peer,
        group: of,
        message,
        metadata,
    }) = soon("the part", at_requester.next()).await
    else {
        panic!("no part came");
    };
    assert_eq!((peer, of), (sender, group.clone()));
    assert_eq!(message.map(|message| message.to_bytes()), part);
    assert_eq!(metadata.as_deref(), Some(&b"half"[..]));
    // It says what it has; who does not request parts gets no more than that.
    let has = Some(Bytes::from_static(b"has"));
    requests
        .gossip
        .send_partial(sender, TOPIC, group.clone(), part.clone(), has)
        .await
        .unwrap();
    let answer = soon("the answer", at_sender.next()).await;
    assert!(
        matches!(&answer, Some(PartialEvent::Received { message: None, metadata: Some(m), .. }) if m == "has"),
        "{answer:?}"
    );
    let refused = send(plain.endpoint.peer_id(), part, None).await;
    assert_eq!(
        refused,
        Err(PartialError::Refused(core::PartialError::Unsupported))
    );
    assert!(inboxes[1].try_next().is_none(), "parts replace the whole");
    assert_eq!((at_sender.dropped(), at_requester.dropped()), (0, 0));
    // Followers are told of the end.
    sends.endpoint.shutdown(SOON).await;
    assert!(soon("the end", at_sender.next()).await.is_none());
}
