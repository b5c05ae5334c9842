//! What a router is loaded with when its costs are measured, here and by the benches.

use std::time::{Duration, Instant};

use barewire_gossip::{Author, Config, Payload, PeerKey, Version};
use prost::Message;

use super::{
    Victim, keypair, message,
    proto::{Rpc, SubOpts},
    publish,
};

/// Topics of a [`crowd`].
const TOPICS: usize = 20;

/// Subscriptions to the first `count` topics.
pub fn subscriptions(count: usize) -> Payload {
    let subscriptions = (0..count)
        .map(|n| SubOpts {
            subscribe: Some(true),
            topicid: Some(format!("topic/{n}")),
            ..Default::default()
        })
        .collect();
    Rpc {
        subscriptions,
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

/// A router with so many peers, all of them subscribed to its 20 topics.
pub fn crowd(peers: usize) -> Victim {
    let mut victim = Victim::new(&Config::wan());
    for n in 0..TOPICS {
        victim.net.subscribe(0, &format!("topic/{n}"));
    }
    let body = subscriptions(TOPICS);
    for n in 0..peers {
        let peer = victim.peer(Version::V1_2, n % 3 == 0);
        let now = victim.net.now;
        victim.router().receive(now, peer, &body).unwrap();
    }
    victim
}

/// How long the heartbeat takes after a second in which 100 messages were published and all peers have taken what was for them.
pub fn heartbeat(victim: &mut Victim) -> Duration {
    for n in 0..TOPICS {
        for part in 0..5u8 {
            let topic = format!("topic/{n}");
            victim.net.publish(0, &topic, vec![part]);
        }
    }
    for peer in victim.raw.clone() {
        victim.take(peer);
    }
    victim.net.now += Duration::from_secs(1);
    let now = victim.net.now;
    let begin = Instant::now();
    victim.router().handle_timeout(now);
    begin.elapsed()
}

/// A router that has seen so many messages of 200 B, another peer that has them too, and the RPCs. As in life: many messages,
/// so that tables are not all in the cache.
pub fn seen(count: u32) -> (Victim, PeerKey, Vec<Payload>) {
    let mut victim = Victim::new(&Config::wan());
    victim.net.subscribe(0, "t");
    let author = Author::signed(&keypair(50), 1);
    let (first, second) = (
        victim.attacker(Version::V1_2),
        victim.attacker(Version::V1_2),
    );
    let now = victim.net.now;
    let bodies: Vec<Payload> = (0..count)
        .map(|n| {
            publish(message(&author, "t", n.to_be_bytes().repeat(50)))
                .encode_to_vec()
                .into()
        })
        .collect();
    for body in &bodies {
        victim.router().receive(now, first, body).unwrap();
        victim.net.settle();
    }
    (victim, second, bodies)
}
