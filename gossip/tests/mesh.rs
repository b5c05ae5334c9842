//! Routers that mean well, under a virtual clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use barewire_gossip::{
    Acceptance, Config, DropReason, Event, MessageIdFn, PartialLimits, PeerLimits, PublishError,
    PublishOptions, QueueLimits, RttPreference, ScoreParams, SeqnoPolicy, SignaturePolicy,
    SubscribeOptions, Version,
};
use bytes::Bytes;
use common::{Net, Victim, graft, publish, subscribe, with};

fn honest(net: &Net) {
    for (n, node) in net.nodes.iter().enumerate() {
        let penalty = node
            .events
            .iter()
            .find(|e| matches!(e, Event::Penalty { .. } | Event::Rejected { .. }));
        assert_eq!(penalty, None, "node {n} blames an honest peer");
    }
}

#[test]
fn everybody_gets_every_message_once() {
    for version in [
        Version::Floodsub,
        Version::V1_0,
        Version::V1_1,
        Version::V1_2,
        Version::V1_3,
    ] {
        let mut net = Net::new(20, &Config::default());
        for a in 0..20 {
            for step in [1, 3, 7] {
                net.connect_as(a, (a + step) % 20, version);
            }
        }
        net.subscribe_all("t");
        net.seconds(3);
        for n in 0..20 {
            net.publish(n, "t", vec![n as u8; 100 + 100 * n]);
            net.seconds(1);
        }
        net.seconds(3);
        for n in 0..20 {
            assert_eq!(net.nodes[n].delivered.len(), 19, "{version:?}, node {n}");
            if version != Version::Floodsub {
                let mesh = net.nodes[n].router.mesh_peers("t").len();
                assert!((5..12).contains(&mesh), "{version:?}: mesh of {mesh}");
            }
        }
        honest(&net);
    }
}

#[test]
fn the_same_seed_and_calls_give_the_same_outputs() {
    let run = || {
        let mut net = Net::new(
            15,
            &with(Config::wan(), |c| {
                c.rtt_preference = Some(RttPreference::default())
            }),
        );
        net.connect_all();
        net.subscribe_all("a");
        net.subscribe_all("b");
        for round in 0..10u64 {
            for n in 0..15 {
                net.publish(
                    n,
                    if round % 2 == 0 { "a" } else { "b" },
                    vec![round as u8; 50 * n],
                );
                if round == 3 {
                    for peer in 0..15 {
                        if peer != n {
                            let key = net.key(n, peer);
                            net.nodes[n]
                                .router
                                .set_rtt(key, Duration::from_millis((n * peer) as u64));
                        }
                    }
                }
            }
            net.seconds(4);
        }
        let trace: Vec<_> = net
            .nodes
            .iter()
            .map(|n| (format!("{:?}", n.events), n.bytes_out, *n.router.metrics()))
            .collect();
        let delivered: Vec<Vec<Vec<u8>>> = (0..15).map(|n| net.payloads(n)).collect();
        (trace, delivered)
    };
    let (first, second) = (run(), run());
    assert_eq!(first.1, second.1);
    assert!(first.0 == second.0);
    println!(
        "determinism: {} bytes of events twice the same",
        first.0.iter().map(|t| t.0.len()).sum::<usize>()
    );
}

#[test]
fn fanout_reaches_a_topic_that_is_not_subscribed() {
    let mut net = Net::new(8, &Config::default());
    net.connect_all();
    for n in 1..8 {
        net.subscribe(n, "t");
    }
    net.seconds(2);
    let receipt = net.publish(0, "t", vec![1; 10]);
    assert_eq!(receipt.accepted(), 6);
    net.seconds(2);
    assert!((1..8).all(|n| net.nodes[n].delivered.len() == 1));
    net.seconds(62);
    assert_eq!(net.nodes[0].router.sizes().topics, 1);
    // Joining later begins with the known.
    net.publish(0, "t", vec![2; 10]);
    net.subscribe(0, "t");
    assert_eq!(net.nodes[0].router.mesh_peers("t").len(), 6);
}

#[test]
fn leaving_prunes_and_the_backoff_is_respected() {
    let mut net = Net::new(2, &Config::default());
    net.connect(0, 1);
    net.subscribe_all("t");
    net.seconds(2);
    assert_eq!(net.nodes[1].router.mesh_peers("t").len(), 1);
    assert!(net.nodes[0].router.unsubscribe(net.now, "t"));
    net.seconds(1);
    assert_eq!(net.nodes[1].router.mesh_peers("t").len(), 0);
    assert!(net.nodes[1].router.topic_peers("t").is_empty());
    net.subscribe(0, "t");
    net.seconds(9);
    assert!(
        net.nodes[0].router.mesh_peers("t").is_empty(),
        "10 s of backoff are not over"
    );
    net.seconds(6);
    assert_eq!(net.nodes[0].router.mesh_peers("t").len(), 1);
    honest(&net);
}

#[test]
fn gossip_repairs_what_the_mesh_lost() {
    let config = Config::default();
    let mut victim = Victim::new(&config);
    victim.net.subscribe(0, "t");
    // A peer that is subscribed but in no mesh gets an IHAVE, asks, and gets the message.
    let peers: Vec<_> = (0..12).map(|_| victim.peer(Version::V1_2, true)).collect();
    for peer in &peers {
        victim.send(*peer, &subscribe("t"));
    }
    victim.heartbeat();
    let id = victim.net.publish(0, "t", vec![7; 20]).id.unwrap();
    let outside: Vec<_> = {
        let mesh = victim.router().mesh_peers("t");
        peers.into_iter().filter(|p| !mesh.contains(p)).collect()
    };
    victim.heartbeat();
    let offered: Vec<_> = outside
        .iter()
        .filter(|p| {
            let (rpcs, _) = victim.take(**p);
            rpcs.iter()
                .flat_map(|r| &r.control)
                .flat_map(|c| &c.ihave)
                .any(|i| i.message_ids == [id.as_bytes()])
        })
        .collect();
    assert_eq!(offered.len(), 6, "Dlazy of them");
    victim.send(*offered[0], &common::iwant(vec![id.as_bytes().to_vec()]));
    let (rpcs, _) = victim.take(*offered[0]);
    assert_eq!(rpcs[0].publish[0].data.as_deref(), Some(&[7; 20][..]));
}

#[test]
fn messages_are_bound_to_their_policy_and_identity() {
    for policy in [SignaturePolicy::StrictNoSign, SignaturePolicy::Anonymous] {
        let mut config = with(Config::default(), |c| c.signature_policy = policy);
        assert!(
            config.validate().is_err(),
            "unsigned messages need another id"
        );
        config.topic_defaults.message_id = MessageIdFn::Sha256;
        let mut net = Net::new(3, &config);
        net.connect(0, 1);
        net.connect(1, 2);
        net.subscribe_all("t");
        net.seconds(2);
        net.publish(0, "t", vec![1]);
        net.seconds(1);
        assert_eq!(net.payloads(2), [[1]]);
        assert_eq!(net.nodes[2].verified, 0);
        let again = net.nodes[0].author.message("t", vec![1].into());
        let now = net.now;
        let refused = net.nodes[0]
            .router
            .publish(now, &again, PublishOptions::default());
        assert!(matches!(refused, Err(PublishError::Duplicate(_))));
    }
}

#[test]
fn old_numbers_are_ignored_if_asked_for() {
    let mut victim = Victim::new(&with(Config::wan(), |c| {
        c.seqno_policy = SeqnoPolicy::Increasing
    }));
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    let author = barewire_gossip::Author::signed(&common::keypair(77), 10);
    let (old, new) = (
        common::message(&author, "t", vec![1]),
        common::message(&author, "t", vec![2]),
    );
    victim.send(peer, &publish(new));
    victim.send(peer, &publish(old));
    assert_eq!(victim.net.payloads(0), [[2]]);
    assert_eq!(victim.router().metrics().ignored, 1);
    assert!(victim.score(peer) >= 0.0, "nobody is to blame");
}

#[test]
fn a_forged_message_does_not_keep_the_real_one_out() {
    let mut victim = Victim::new(&Config::wan());
    victim.net.subscribe(0, "t");
    let (forger, honest) = (
        victim.attacker(Version::V1_2),
        victim.attacker(Version::V1_2),
    );
    let author = barewire_gossip::Author::signed(&common::keypair(77), 10);
    let real = common::message(&author, "t", vec![1]);
    let mut forged = real.clone();
    forged.data = Some(vec![6]);
    // Both wait for their verification at the same time.
    use prost::Message;
    let now = victim.net.now;
    let router = victim.router();
    for (peer, message) in [(forger, forged), (honest, real.clone()), (forger, real)] {
        router
            .receive(now, peer, &publish(message).encode_to_vec().into())
            .unwrap();
    }
    victim.net.settle();
    assert_eq!(victim.net.payloads(0), [[1]]);
    assert_eq!(
        victim.net.nodes[0].verified, 2,
        "the third was the same as the second"
    );
    assert!(victim.score(forger) < 0.0 && victim.score(honest) >= 0.0);
    assert_eq!(
        (
            victim.router().sizes().pending,
            victim.router().sizes().pending_bytes
        ),
        (0, 0)
    );
}

#[test]
fn validators_decide() {
    let mut config = Config::wan();
    config.topic_defaults.validate = true;
    for (acceptance, delivered, blamed) in [
        (Acceptance::Accept, 1, false),
        (Acceptance::Ignore, 0, false),
        (Acceptance::Reject, 0, true),
    ] {
        let mut net = Net::new(3, &config);
        net.connect(0, 1);
        net.connect(1, 2);
        net.subscribe_all("t");
        net.nodes[1].acceptance = Some(acceptance);
        net.seconds(2);
        net.publish(0, "t", vec![1]);
        net.seconds(1);
        assert_eq!(
            (net.nodes[1].delivered.len(), net.nodes[2].delivered.len()),
            (delivered, delivered)
        );
        let key = net.key(1, 0);
        assert_eq!(net.nodes[1].router.score(key).unwrap().total < 0.0, blamed);
    }
    // An answer that never comes gives way after the timeout.
    let mut net = Net::new(2, &config);
    net.connect(0, 1);
    net.subscribe_all("t");
    net.nodes[1].acceptance = None;
    net.seconds(2);
    net.publish(0, "t", vec![1]);
    net.seconds(10);
    assert_eq!(net.nodes[1].router.sizes().pending, 1);
    net.seconds(70);
    assert_eq!(net.nodes[1].router.sizes().pending, 0);
    assert_eq!(net.nodes[1].router.sizes().records, 0);
    let (now, handle) = (net.now, net.nodes[1].open[0]);
    net.nodes[1]
        .router
        .validated(now, handle, Acceptance::Accept);
    net.settle();
    assert!(net.nodes[1].delivered.is_empty());
}

#[test]
fn long_messages_are_announced_unwanted_and_pass_between_peers_that_take_them() {
    let mut config = Config::default();
    config.topic_defaults.max_message_size = 8 << 20;
    let mut net = Net::new(3, &config);
    net.connect_all();
    net.subscribe_all("t");
    net.seconds(2);
    net.publish(0, "t", vec![3; 7 << 20]);
    net.seconds(1);
    assert!((1..3).all(|n| net.payloads(n) == [vec![3; 7 << 20]]));
    let sent: u64 = net
        .nodes
        .iter()
        .map(|n| n.router.metrics().idontwant_sent)
        .sum();
    assert!(sent > 0);
    honest(&net);
    // A peer that announced nothing is not sent what it would reset the stream for.
    let mut victim = Victim::new(&config);
    victim.net.subscribe(0, "t");
    let peer = victim.peer(Version::V1_2, true);
    victim.send(peer, &subscribe("t"));
    victim.heartbeat();
    let receipt = victim.net.publish(0, "t", vec![3; 2 << 20]);
    assert_eq!(receipt.dropped, [(peer, DropReason::TooLarge)]);
    let key = peer;
    victim
        .router()
        .set_limits(key, PeerLimits::uniform(4 << 20));
    assert_eq!(victim.net.publish(0, "t", vec![4; 2 << 20]).accepted(), 1);
}

#[test]
fn a_full_queue_is_in_the_receipt() {
    let mut queue = QueueLimits::default();
    queue.max_bytes = 10_000;
    let mut victim = Victim::new(&with(Config::wan(), |c| c.queue = queue));
    victim.net.subscribe(0, "t");
    let peer = victim.peer(Version::V1_2, true);
    victim.send(peer, &subscribe("t"));
    victim.heartbeat();
    victim.take(peer);
    let receipts: Vec<_> = (0..12u8)
        .map(|n| victim.net.publish(0, "t", vec![n; 1000]))
        .collect();
    assert_eq!(receipts[0].sent, [peer]);
    assert_eq!(receipts[1].queued, [peer]);
    assert_eq!(receipts[11].dropped, [(peer, DropReason::QueueFull)]);
    assert!(!victim.router().has_queue_space("t", 1000));
    victim.take(peer);
    assert!(victim.router().has_queue_space("t", 1000));
    victim.net.settle();
    assert!(
        victim.net.nodes[0]
            .events
            .contains(&Event::Drained { peer })
    );
}

#[test]
fn the_test_extension_speaks_once_and_only_if_both_want() {
    let mut with = Config::default();
    with.test_extension = true;
    let mut net = Net::new(2, &with);
    net.add(&Config::default());
    net.connect(0, 1);
    net.connect(0, 2);
    net.seconds(1);
    let heard = |n: usize, net: &Net| {
        net.nodes[n]
            .events
            .iter()
            .filter(|e| matches!(e, Event::TestExtension { .. }))
            .count()
    };
    assert_eq!([heard(0, &net), heard(1, &net), heard(2, &net)], [1, 1, 0]);
}

#[test]
fn partial_messages_replace_whole_ones() {
    let mut config = Config::default();
    config.partial_messages = Some(PartialLimits::default());
    let mut net = Net::new(3, &config);
    net.connect_all();
    let now = net.now;
    for (n, requests) in [(0, false), (1, true), (2, false)] {
        let options = SubscribeOptions::partial(requests, n != 2);
        net.nodes[n].router.subscribe(now, "t", options).unwrap();
    }
    net.seconds(2);
    net.publish(0, "t", vec![1]);
    net.seconds(1);
    // Node 2 knows nothing of parts and forwards the whole message.
    assert_eq!(net.nodes[2].delivered.len(), 1);
    let group = Bytes::from_static(b"group");
    let peers = net.nodes[0].router.publish_partial("t", &group).unwrap();
    assert_eq!(peers, [net.key(0, 1)]);
    // Two at once: an RPC has room for one.
    for (message, metadata) in [(b"one", b"1"), (b"two", b"2")] {
        net.nodes[0]
            .router
            .send_partial(peers[0], "t", &group, Some(message), Some(metadata))
            .unwrap();
    }
    net.settle();
    let parts = net.nodes[1].partials.iter().map(|part| {
        assert_eq!(part.group, group);
        let message = part.message.as_ref().unwrap().to_bytes();
        (message, part.metadata.clone().unwrap())
    });
    let expected = [("one", "1"), ("two", "2")];
    assert_eq!(
        parts.collect::<Vec<_>>(),
        expected.map(|(message, metadata)| (message.into(), metadata.into()))
    );
    let to_2 = net.key(0, 2);
    assert!(
        net.nodes[0]
            .router
            .send_partial(to_2, "t", &group, Some(b"part"), None)
            .is_err()
    );
    net.seconds(5);
    assert!(
        net.nodes.iter().all(|n| n.router.sizes().groups == 0),
        "groups live for three heartbeats"
    );
}

#[test]
fn who_joins_the_mesh_later_is_told_of_a_group_whoever_began_it() {
    let mut config = Config::default();
    config.partial_messages = Some(PartialLimits::default());
    let mut net = Net::new(3, &config);
    net.connect(0, 1);
    let now = net.now;
    for node in &mut net.nodes {
        let options = SubscribeOptions::partial(true, true);
        node.router.subscribe(now, "t", options).unwrap();
    }
    net.seconds(2);
    let group = Bytes::from_static(b"group");
    // Node 1 is earlier, and leaves.
    let to_0 = net.key(1, 0);
    net.nodes[1]
        .router
        .send_partial(to_0, "t", &group, None, Some(b"meta"))
        .unwrap();
    net.settle();
    net.nodes[0].router.publish_partial("t", &group).unwrap();
    net.disconnect(0, 1);
    net.connect(0, 2);
    net.seconds(2);
    let late = net.key(0, 2);
    assert_eq!(net.nodes[0].router.mesh_peers("t"), [late]);
    assert_eq!(net.nodes[0].partial_gossip, [(group, vec![late])]);
}

#[test]
fn near_peers_are_preferred_and_random_links_stay() {
    let count = |preference: Option<RttPreference>| {
        let mut victim = Victim::new(&with(Config::default(), |c| {
            (c.rtt_preference, c.d_out) = (preference, 0)
        }));
        let peers: Vec<_> = (0..60).map(|_| victim.peer(Version::V1_2, true)).collect();
        for (n, peer) in peers.iter().enumerate() {
            victim.send(*peer, &subscribe("t"));
            victim
                .router()
                .set_rtt(*peer, Duration::from_millis(1 + n as u64));
        }
        victim.net.subscribe(0, "t");
        victim.net.seconds(200);
        let mesh = victim.router().mesh_peers("t");
        (
            peers.iter().take(15).filter(|p| mesh.contains(p)).count(),
            mesh.len(),
        )
    };
    let (random, near) = (count(None), count(Some(RttPreference::default())));
    println!("of the nearest quarter: {random:?} at random, {near:?} with the preference");
    assert!(near.0 > random.0 && near.0 < near.1);
}

#[test]
fn direct_peers_always_get_messages_and_never_a_graft() {
    let mut net = Net::new(2, &Config::default());
    for (of, other) in [(0, 1), (1, 0)] {
        let (id, now) = (net.nodes[other].id, net.now);
        net.nodes[of].router.set_direct(now, id, true);
    }
    net.seconds(2);
    assert_eq!(
        net.nodes[0].connects,
        [net.nodes[1].id],
        "asked for after a second"
    );
    net.connect(0, 1);
    net.subscribe_all("t");
    net.seconds(3);
    assert!(net.nodes[0].router.mesh_peers("t").is_empty());
    net.publish(0, "t", vec![1]);
    net.settle();
    assert_eq!(net.nodes[1].delivered.len(), 1);
    honest(&net);
}

#[test]
fn the_mesh_is_cut_down_and_keeps_those_we_dialled() {
    let mut victim = Victim::new(&Config::default());
    victim.net.subscribe(0, "t");
    let dialled: Vec<_> = (0..3).map(|_| victim.peer(Version::V1_2, true)).collect();
    let others: Vec<_> = (0..30).map(|_| victim.peer(Version::V1_2, false)).collect();
    for peer in others.iter().chain(&dialled) {
        victim.send(*peer, &subscribe("t"));
        victim.send(*peer, &graft("t"));
    }
    assert_eq!(
        victim.router().mesh_peers("t").len(),
        15,
        "12, then only those we dialled"
    );
    victim.heartbeat();
    let mesh = victim.router().mesh_peers("t");
    assert_eq!(mesh.len(), 6);
    assert!(mesh.iter().filter(|p| dialled.contains(p)).count() >= 2);
}

#[test]
fn nothing_is_left_after_churn() {
    let mut config = Config::wan();
    config.score.as_mut().unwrap().retain_score = Duration::ZERO;
    let mut net = Net::new(12, &config);
    net.subscribe_all("t");
    for round in 0..5usize {
        net.connect_all();
        net.seconds(3);
        for n in 0..12 {
            net.publish(n, "t", vec![round as u8; 2000]);
        }
        net.publish(0, "elsewhere", vec![0; 10]);
        for a in 0..12 {
            for b in a + 1..12 {
                net.disconnect(a, b);
            }
        }
        net.seconds(1);
    }
    net.seconds(200);
    for node in &net.nodes {
        let sizes = node.router.sizes();
        let mut expected = barewire_gossip::Sizes::default();
        expected.topics = 1;
        assert_eq!(sizes, expected);
        assert_eq!(
            node.router.poll_timeout(),
            None,
            "an idle router wakes nobody"
        );
    }
}

#[test]
fn receipts_are_reported_only_when_asked_for() {
    for asked in [false, true] {
        let mut net = Net::new(3, &with(Config::default(), |c| c.report_receipts = asked));
        net.connect_all();
        net.subscribe_all("t");
        net.seconds(2);
        let receipt = net.publish(0, "t", vec![1; 50]);
        net.seconds(1);
        for n in 1..3 {
            let reported: Vec<bool> = net.nodes[n]
                .events
                .iter()
                .filter_map(|event| match event {
                    Event::Received {
                        topic,
                        id,
                        duplicate,
                        ..
                    } => {
                        assert_eq!((&**topic, Some(id)), ("t", receipt.id.as_ref()));
                        Some(*duplicate)
                    }
                    _ => None,
                })
                .collect();
            // From its author, and from the other who got it.
            let expected: &[bool] = if asked { &[false, true] } else { &[] };
            assert_eq!(reported, expected, "node {n}");
        }
    }
}

#[test]
fn an_own_message_that_comes_back_blames_nobody() {
    let config = with(Config::default(), |c| {
        c.score = Some(ScoreParams::adversarial())
    });
    let mut victim = Victim::new(&config);
    victim.net.subscribe(0, "t");
    let peer = victim.peer(Version::V1_1, false);
    victim.send(peer, &subscribe("t"));
    victim.heartbeat();
    victim.net.publish(0, "t", vec![1; 50]);
    let (sent, _) = victim.take(peer);
    let own = sent.iter().find_map(|rpc| rpc.publish.first()).unwrap();
    victim.send(peer, &publish(own.clone()));
    assert!(victim.score(peer) >= 0.0);
    honest(&victim.net);
    assert_eq!(victim.router().metrics().duplicates, 1);
    // What we never said is another matter.
    let mut forged = own.clone();
    forged.seqno = Some(vec![9; 8]);
    victim.send(peer, &publish(forged));
    assert!(victim.score(peer) < 0.0);
    assert!(victim.net.nodes[0].delivered.is_empty());
}
