//! A peer that takes messages more slowly than they come: waited for if it is fast enough, passed over if it is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use barewire_gossip::{Author, Config, NewPeer, PeerKey, PeerLimits, Version};
use common::{Victim, graft, keypair, message, publish, subscribe, with};

/// A relay, who publishes through it, and who gets it.
struct Chain {
    relay: Victim,
    source: PeerKey,
    sink: PeerKey,
    author: Author,
    sent: usize,
}

impl Chain {
    fn new() -> Self {
        let long = 8 << 20;
        let config = with(Config::default(), |config| {
            config.topic_defaults.max_message_size = long;
        });
        let mut relay = Victim::new(&config);
        relay.net.subscribe(0, "t");
        let [source, sink] = [1, 2].map(|n| {
            let new = NewPeer::new(keypair(n).peer_id(), Version::V1_2);
            let new = new.limits(PeerLimits::uniform(2 * long));
            let now = relay.net.now;
            let peer = relay.router().connect(now, new).unwrap();
            relay.raw.push(peer);
            relay.send(peer, &subscribe("t"));
            relay.send(peer, &graft("t"));
            relay.take(peer);
            peer
        });
        let author = Author::signed(&keypair(50), 1);
        let sent = 0;
        Self {
            relay,
            source,
            sink,
            author,
            sent,
        }
    }

    /// Whether the source is read.
    fn is_read(&mut self) -> bool {
        let source = self.source;
        self.relay.router().has_room(source)
    }

    /// Sends messages of 64 KiB for as long as they are read, at most `most`.
    fn send(&mut self, most: usize) -> usize {
        let before = self.sent;
        while self.sent - before < most && self.is_read() {
            self.sent += 1;
            let data = vec![1; 64 << 10];
            let rpc = publish(message(&self.author, "t", data));
            let source = self.source;
            self.relay.send(source, &rpc);
        }
        self.sent - before
    }

    /// What the sink takes at once.
    fn take(&mut self) -> usize {
        let sink = self.sink;
        let (frames, _) = self.relay.take(sink);
        frames.iter().map(|rpc| rpc.publish.len()).sum()
    }

    fn pass(&mut self, time: Duration) {
        self.relay.net.run(time, Duration::from_millis(50));
    }

    fn dropped(&mut self) -> u64 {
        let sink = self.sink;
        self.relay.router().status(sink).unwrap().dropped
    }
}

#[test]
fn a_fast_peer_is_waited_for_and_misses_nothing() {
    let mut chain = Chain::new();
    let mut taken = 0;
    for _ in 0..50 {
        chain.send(1_000);
        assert!(!chain.is_read(), "the source waits");
        // A tenth of a second for what is queued: 20 MiB a second.
        chain.pass(Duration::from_millis(100));
        assert!(!chain.is_read(), "and goes on waiting");
        taken += chain.take();
        assert!(chain.is_read());
    }
    assert_eq!((taken, chain.dropped()), (chain.sent, 0));
    println!("{taken} messages of 64 KiB through a relay, none dropped");
}

#[test]
fn a_slow_peer_holds_nobody_up_for_longer_than_a_quarter_second() {
    let mut chain = Chain::new();
    chain.send(1_000);
    assert!(!chain.is_read());
    chain.pass(Duration::from_millis(200));
    assert!(!chain.is_read());
    chain.pass(Duration::from_millis(100));
    assert!(chain.is_read(), "it took nothing");
    // It misses what its queue has no room for; a frame now and then changes nothing.
    for _ in 0..20 {
        assert_eq!(chain.send(20), 20);
        let (now, sink) = (chain.relay.net.now, chain.sink);
        chain.relay.router().next_frame(now, sink).unwrap();
        chain.pass(Duration::from_millis(100));
    }
    assert!(chain.dropped() > 0);
    // Once it has caught up it is waited for again.
    chain.take();
    chain.send(1_000);
    assert!(!chain.is_read());
    println!(
        "{} of {} messages dropped for who does not read",
        chain.dropped(),
        chain.sent
    );
}

#[test]
fn a_long_message_may_take_its_time() {
    let mut chain = Chain::new();
    // It is a frame by itself, and being written.
    let rpc = publish(message(&chain.author, "t", vec![1; 4 << 20]));
    let (source, sink, now) = (chain.source, chain.sink, chain.relay.net.now);
    chain.relay.send(source, &rpc);
    let frame = chain.relay.router().next_frame(now, sink).unwrap();
    assert!(frame.len > 4 << 20);
    chain.send(1_000);
    chain.pass(Duration::from_millis(400));
    assert!(
        !chain.is_read(),
        "4 MiB take half a second at 8 MiB a second"
    );
    chain.pass(Duration::from_millis(200));
    assert!(chain.is_read());
}

#[test]
fn a_peer_is_not_held_up_for_its_own_sake() {
    let mut chain = Chain::new();
    chain.send(1_000);
    let sink = chain.sink;
    assert!(!chain.is_read());
    assert!(chain.relay.router().has_room(sink));
    // Who is gone is not waited for.
    let now = chain.relay.net.now;
    chain.relay.router().disconnect(now, sink);
    assert!(chain.is_read());
}
