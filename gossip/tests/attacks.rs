//! Peers that mean harm. Rows are those of the project's table of attacks; each prints what it measured.
//! The first eight follow the scenarios that go-libp2p-pubsub tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::time::{Duration, Instant};

use barewire_base::{Multiaddr, peer_record::PeerRecord};
use barewire_gossip::{Acceptance, Author, Config, Event, RpcError, ScoreParams, Version};
use common::{
    Victim, control, graft, idontwant, ihave, iwant, keypair, message,
    proto::{ControlGraft, ControlMessage, ControlPrune, PeerInfo, Rpc, SubOpts},
    publish, subscribe, with,
};

fn strict() -> Config {
    Config::adversarial()
}

fn graylist() -> f64 {
    ScoreParams::adversarial().thresholds.graylist
}

fn ids(count: usize, from: usize) -> Vec<Vec<u8>> {
    (from..from + count)
        .map(|n| format!("{n:046}").into_bytes())
        .collect()
}

#[test]
fn iwant_spam_is_served_three_times() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    let author = Author::signed(&keypair(50), 1);
    let payload = vec![1; 1000];
    let honest = victim.attacker(Version::V1_2);
    victim.send(honest, &publish(message(&author, "t", payload)));
    let id = victim.net.nodes[0].delivered[0].id.as_bytes().to_vec();
    let mut served = 0;
    for _ in 0..1000 {
        victim.send(peer, &iwant(vec![id.clone()]));
        served += victim
            .take(peer)
            .0
            .iter()
            .map(|r| r.publish.len())
            .sum::<usize>();
    }
    assert_eq!(served, 3);
    println!("row 42: 1,000 requests of one id, served {served}");
}

#[test]
fn row_42_iwant_flood_of_many_ids() {
    let mut config = strict();
    config.history_bytes = 64 << 20;
    let mut victim = Victim::new(&config);
    victim.net.subscribe(0, "t");
    let (honest, peer) = (
        victim.attacker(Version::V1_2),
        victim.attacker(Version::V1_2),
    );
    let author = Author::signed(&keypair(50), 1);
    let mut known = Vec::new();
    let mut bytes_in = 0;
    for _ in 0..200 {
        victim.send(honest, &publish(message(&author, "t", vec![1; 32 << 10])));
        bytes_in += 32 << 10;
        known.push(
            victim.net.nodes[0]
                .delivered
                .last()
                .unwrap()
                .id
                .as_bytes()
                .to_vec(),
        );
    }
    let mut out = 0;
    for _ in 0..10 {
        victim.send(peer, &iwant(known.clone()));
        out += victim.take(peer).1;
    }
    assert!(out <= (2 << 20) + (64 << 10), "{out} bytes in a second");
    let mut total = out;
    for _ in 0..30 {
        victim.heartbeat();
        victim.send(peer, &iwant(known.clone()));
        total += victim.take(peer).1;
    }
    let ratio = total as f64 / f64::from(bytes_in);
    assert!(ratio <= 3.0, "{ratio}");
    println!("row 42: {out} bytes in the first second, {ratio:.2} bytes out per byte in over 30 s");
}

#[test]
fn row_41_ihave_spam() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    let (mut asked_most, mut sent, mut fell) = (0, 0, None);
    for beat in 0..20 {
        let mut asked = 0;
        for _ in 0..100 {
            victim.send(peer, &ihave("t", ids(1000, sent)));
            sent += 1000;
            let (rpcs, _) = victim.take(peer);
            asked += rpcs
                .iter()
                .flat_map(|r| &r.control)
                .flat_map(|c| &c.iwant)
                .map(|w| w.message_ids.len())
                .sum::<usize>();
        }
        asked_most = asked_most.max(asked);
        victim.heartbeat();
        if victim.score(peer) < graylist() && fell.is_none() {
            fell = Some(beat + 1);
        }
    }
    assert!(asked_most <= 5000, "{asked_most}");
    let fell = fell.expect("below the graylist");
    assert!(fell <= 10, "{fell}");
    println!(
        "row 41: {sent} ids offered, at most {asked_most} asked a heartbeat, graylisted after {fell} heartbeats"
    );
}

#[test]
fn row_43_idontwant_flood() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    victim.take(peer);
    let mut most = 0;
    for round in 0..1000 {
        victim.send(peer, &idontwant(ids(1000, round * 1000)));
        most = most.max(victim.router().sizes().unwanted);
        if round % 100 == 0 {
            victim.heartbeat();
        }
    }
    assert!(most <= 10_000);
    assert!(victim.take(peer).0.is_empty());
    for _ in 0..4 {
        victim.heartbeat();
    }
    assert_eq!(victim.router().sizes().unwanted, 0);
    println!("row 43: 1,000,000 ids, {most} remembered at most, 0 after four heartbeats");
}

#[test]
fn idontwant_counts_ten_ids_an_rpc_and_a_thousand_rpcs() {
    let mut config = strict();
    config.max_idontwant_ids = 100_000;
    let mut victim = Victim::new(&config);
    let peer = victim.attacker(Version::V1_2);
    victim.send(peer, &idontwant(ids(100, 0)));
    assert_eq!(victim.router().sizes().unwanted, 10);
    for round in 1..2000 {
        victim.send(peer, &idontwant(ids(1, round * 1000)));
    }
    assert_eq!(victim.router().sizes().unwanted, 10 + 999);
}

#[test]
fn idontwant_is_honoured_until_it_expires() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let author = Author::signed(&keypair(50), 1);
    let (sender, peer) = (
        victim.attacker(Version::V1_2),
        victim.peer(Version::V1_2, true),
    );
    victim.send(peer, &subscribe("t"));
    victim.send(peer, &graft("t"));
    let first = message(&author, "t", vec![1; 10]);
    let id = [first.from.clone().unwrap(), first.seqno.clone().unwrap()].concat();
    victim.send(peer, &idontwant(vec![id.clone()]));
    victim.send(sender, &publish(first));
    assert!(victim.take(peer).0.iter().all(|r| r.publish.is_empty()));
    victim.send(peer, &iwant(vec![id.clone()]));
    assert!(
        victim.take(peer).0.iter().all(|r| r.publish.is_empty()),
        "not even if it asks"
    );
    for _ in 0..3 {
        victim.heartbeat();
    }
    victim.take(peer);
    victim.send(peer, &iwant(vec![id]));
    assert_eq!(victim.take(peer).0[0].publish.len(), 1);
}

#[test]
fn row_44_graft_of_unknown_topics() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    victim.take(peer);
    for round in 0..250 {
        let grafts = (0..4000)
            .map(|n| ControlGraft {
                topic_id: Some(format!("{round}-{n}")),
            })
            .collect();
        victim.send(
            peer,
            &control(ControlMessage {
                graft: grafts,
                ..Default::default()
            }),
        );
    }
    let (rpcs, _) = victim.take(peer);
    assert!(rpcs.is_empty(), "no PRUNE for unknown topics");
    assert_eq!(victim.router().sizes().topics, 1);
    assert_eq!(victim.router().metrics().grafts_unknown, 1_000_000);
    println!("row 44: 1,000,000 unknown topics, 0 stored, 0 PRUNEs");
}

#[test]
fn row_44_graft_in_backoff() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    victim.send(peer, &subscribe("t"));
    victim.send(peer, &graft("t"));
    victim.send(
        peer,
        &control(ControlMessage {
            prune: vec![ControlPrune {
                topic_id: Some("t".into()),
                ..Default::default()
            }],
            ..Default::default()
        }),
    );
    victim.take(peer);
    let mut prunes = 0;
    for _ in 0..1000 {
        victim.send(peer, &graft("t"));
        let (rpcs, _) = victim.take(peer);
        prunes += rpcs
            .iter()
            .flat_map(|r| &r.control)
            .map(|c| c.prune.len())
            .sum::<usize>();
    }
    assert!(prunes <= 10, "{prunes}");
    assert!(victim.router().mesh_peers("t").is_empty());
    assert!(victim.score(peer) < graylist());
    let events = &victim.net.nodes[0].events;
    let flood = events.iter().any(|e| {
        matches!(
            e,
            Event::Penalty {
                kind: barewire_gossip::Misbehaviour::GraftFlood,
                ..
            }
        )
    });
    assert!(flood);
    println!(
        "row 44: 1,000 GRAFTs in backoff, {prunes} PRUNEs, score {:.0}",
        victim.score(peer)
    );
}

#[test]
fn row_45_prune_with_any_backoff_and_ten_thousand_peers() {
    let mut config = strict();
    config.score = None;
    let mut victim = Victim::new(&config);
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    victim.send(peer, &subscribe("t"));
    for n in 0..10_000u64 {
        let backoff = match n % 4 {
            0 => u64::MAX,
            1 => 0,
            2 => u64::MAX / 1_000_000_000 + n,
            _ => n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        victim.send(
            peer,
            &control(ControlMessage {
                prune: vec![ControlPrune {
                    topic_id: Some("t".into()),
                    backoff: Some(backoff),
                    ..Default::default()
                }],
                ..Default::default()
            }),
        );
    }
    // An hour at most: then the peer may be grafted again.
    victim
        .net
        .run(Duration::from_secs(3700), Duration::from_secs(10));
    assert_eq!(victim.router().mesh_peers("t").len(), 1);
    let record = |n: usize, signer: usize| {
        let record = PeerRecord {
            peer_id: keypair(signer).peer_id(),
            seq: 1,
            addrs: vec!["/ip4/1.2.3.4/tcp/1".parse::<Multiaddr>().unwrap()],
        };
        PeerInfo {
            peer_id: Some(keypair(n).peer_id().as_bytes().to_vec()),
            signed_peer_record: Some(record.sign(&keypair(signer)).unwrap()),
        }
    };
    let offer = |peers: Vec<PeerInfo>| {
        control(ControlMessage {
            prune: vec![ControlPrune {
                topic_id: Some("t".into()),
                peers,
                backoff: Some(60),
            }],
            ..Default::default()
        })
    };
    victim.send(
        peer,
        &offer((0..16).map(|n| record(20_000 + n, 30_000)).collect()),
    );
    assert!(
        victim.net.nodes[0].connects.is_empty(),
        "records of others are not believed"
    );
    victim.heartbeat();
    victim.send(
        peer,
        &offer((0..1000).map(|n| record(20_000 + n, 20_000 + n)).collect()),
    );
    victim.send(
        peer,
        &offer((0..1000).map(|n| record(40_000 + n, 40_000 + n)).collect()),
    );
    assert_eq!(victim.net.nodes[0].connects.len(), 16);
    let now = victim.net.now;
    let flood = offer(vec![PeerInfo::default(); 10_000]);
    use prost::Message;
    let error = victim
        .router()
        .receive(now, peer, &flood.encode_to_vec().into())
        .unwrap_err();
    assert_eq!(error, RpcError::TooManyPeers(1024));
    println!(
        "row 45: 10,000 backoffs up to u64::MAX without a panic; 2,000 peers offered, 16 connected to; 10,000 in one RPC refused"
    );
}

#[test]
fn row_46_subscribe_spam() {
    let mut victim = Victim::new(&strict());
    let peer = victim.attacker(Version::V1_2);
    for round in 0..250 {
        let subs = (0..4000)
            .map(|n| SubOpts {
                subscribe: Some(true),
                topicid: Some(format!("{round:0>100}-{n}")),
                ..Default::default()
            })
            .collect();
        victim.send(
            peer,
            &Rpc {
                subscriptions: subs,
                ..Default::default()
            },
        );
    }
    let long = subscribe(&"x".repeat(65_536));
    victim.send(peer, &long);
    assert_eq!(victim.router().sizes().topics, 100);
    for n in 0..100_000 {
        let mut change = subscribe("churn");
        change.subscriptions[0].subscribe = Some(n % 2 == 0);
        victim.send(peer, &change);
    }
    let now = victim.net.now;
    victim.router().disconnect(now, peer);
    victim.net.settle();
    assert_eq!(victim.router().sizes().topics, 0);
    println!("row 46: 1,000,000 topics, 100 taken, 0 after the peer left");
}

#[test]
fn row_47_invalid_messages() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let author = Author::signed(&keypair(50), 1);
    let bystander = victim.peer(Version::V1_2, true);
    victim.send(bystander, &subscribe("t"));
    victim.send(bystander, &graft("t"));
    victim.take(bystander);
    let good = message(&author, "t", vec![1; 100]);
    let ours = {
        let mine = &victim.net.nodes[0].author;
        message(mine, "t", vec![1])
    };
    type Change = fn(&mut common::proto::Message);
    let kinds: [(&str, Change); 5] = [
        ("no signature", |m| m.signature = None),
        ("bad signature", |m| m.signature = Some(vec![1; 64])),
        ("other payload", |m| m.data = Some(vec![2])),
        ("key of another", |m| {
            m.key = Some(keypair(51).public().to_protobuf())
        }),
        ("no author", |m| m.from = None),
    ];
    for (name, change) in kinds {
        let peer = victim.attacker(Version::V1_2);
        let mut needed = 0;
        while victim.score(peer) >= graylist() && needed < 100 {
            let mut bad = good.clone();
            bad.seqno = Some(u64::to_be_bytes(1_000_000 + needed).to_vec());
            change(&mut bad);
            victim.send(peer, &publish(bad));
            needed += 1;
        }
        assert!(needed <= 20, "{name}: {needed}");
        println!("row 47: {name}: graylisted after {needed} messages");
    }
    let peer = victim.attacker(Version::V1_2);
    for _ in 0..20 {
        victim.send(peer, &publish(ours.clone()));
    }
    assert!(victim.score(peer) < graylist());
    let before = victim.net.nodes[0].verified;
    let peer = victim.attacker(Version::V1_2);
    for n in 0..100_000u64 {
        let mut bad = good.clone();
        bad.seqno = Some(n.to_be_bytes().to_vec());
        bad.signature = Some(vec![1; 64]);
        victim.send(peer, &publish(bad));
    }
    let verified = victim.net.nodes[0].verified - before;
    assert!(verified <= 20);
    assert!(victim.net.nodes[0].delivered.is_empty());
    assert!(
        victim
            .take(bystander)
            .0
            .iter()
            .all(|r| r.publish.is_empty())
    );
    println!("row 47: 100,000 bad messages: {verified} verified, 0 delivered, 0 forwarded");
}

#[test]
fn row_48_too_large() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let max = victim.router().max_rpc_len();
    assert_eq!(max, (1 << 20) + barewire_gossip::RPC_OVERHEAD);
    let mut reader = barewire_gossip::FrameReader::new(max, barewire_base::Budget::unlimited());
    let mut prefix = bytes::BytesMut::new();
    barewire_base::varint::encode(512 << 20, &mut prefix);
    assert!(
        reader.push(prefix.freeze(), |_| {}).is_err(),
        "refused at the prefix"
    );
    let author = Author::signed(&keypair(50), 1);
    let peer = victim.attacker(Version::V1_2);
    victim.send(
        peer,
        &publish(message(&author, "t", vec![0; (1 << 20) + 1])),
    );
    assert!(victim.net.nodes[0].delivered.is_empty());
    assert_eq!(victim.net.nodes[0].verified, 0);
    victim.send(peer, &publish(message(&author, "t", vec![0; 1 << 20])));
    assert_eq!(victim.net.nodes[0].delivered.len(), 1);
    println!("row 48: 512 MiB refused at the prefix, 1 MiB + 1 before its signature");
}

#[test]
fn row_49_duplicate_storm() {
    let mut victim = Victim::new(&strict());
    victim.net.subscribe(0, "t");
    let author = Author::signed(&keypair(50), 1);
    let peers: Vec<_> = (0..50).map(|_| victim.attacker(Version::V1_2)).collect();
    use prost::Message;
    let body = barewire_gossip::Payload::from(
        publish(message(&author, "t", vec![1; 200])).encode_to_vec(),
    );
    let now = victim.net.now;
    victim.router().receive(now, peers[0], &body).unwrap();
    victim.net.settle();
    let rounds = 2000;
    let begin = Instant::now();
    for _ in 0..rounds {
        for peer in &peers {
            victim.router().receive(now, *peer, &body).unwrap();
        }
    }
    let each = begin.elapsed().as_nanos() / (rounds * 50);
    victim.net.settle();
    assert_eq!(victim.net.nodes[0].delivered.len(), 1);
    assert!(
        peers.clone().iter().all(|p| victim.score(*p) >= 0.0),
        "nobody is to blame for duplicates"
    );
    println!(
        "row 49: {each} ns a duplicate ({})",
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        }
    );
    if !cfg!(debug_assertions) {
        assert!(each <= 1000, "{each} ns");
    }
}

#[test]
fn row_49_ids_are_bounded() {
    let mut config = with(Config::default(), |c| {
        c.signature_policy = barewire_gossip::SignaturePolicy::StrictNoSign
    });
    config.topic_defaults.message_id = barewire_gossip::MessageIdFn::DataPrefix(8);
    config.seen_max_entries = 50_000;
    config.history_bytes = 1 << 20;
    let mut victim = Victim::new(&config);
    victim.net.subscribe(0, "t");
    let peer = victim.attacker(Version::V1_2);
    use prost::Message;
    let count = if cfg!(debug_assertions) {
        300_000u64
    } else {
        10_000_000
    };
    let mut most = barewire_gossip::Sizes::default();
    for n in 0..count {
        let body = Rpc {
            publish: vec![common::proto::Message {
                data: Some(n.to_be_bytes().to_vec()),
                topic: Some("t".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let now = victim.net.now;
        victim
            .router()
            .receive(now, peer, &body.encode_to_vec().into())
            .unwrap();
        while victim.router().poll_output().is_some() {}
        if n % 10_000 == 0 {
            victim.heartbeat();
            let sizes = victim.router().sizes();
            most.seen = most.seen.max(sizes.seen);
            most.records = most.records.max(sizes.records);
            most.history_bytes = most.history_bytes.max(sizes.history_bytes);
        }
    }
    assert!(
        most.seen <= 50_000 && most.records <= 65_536 && most.history_bytes <= 1 << 20,
        "{most:?}"
    );
    println!(
        "row 49: {count} ids, at most {} remembered, {} records, {} bytes of history",
        most.seen, most.records, most.history_bytes
    );
}

#[test]
fn row_6_repeated_fields() {
    let mut victim = Victim::new(&strict());
    let peer = victim.attacker(Version::V1_2);
    let now = victim.net.now;
    let bodies: [(&str, Vec<u8>); 5] = [
        ("messages", [0x12, 0].repeat(500_000)),
        ("subscriptions", [0x0a, 0].repeat(500_000)),
        ("unknown fields", [0x78, 0].repeat(500_000)),
        ("groups", [0x7b].repeat(1_000_000)),
        ("control", {
            let inner = [0x1a, 0].repeat(500_000);
            let mut out = vec![0x1a];
            let mut len = bytes::BytesMut::new();
            barewire_base::varint::encode(inner.len() as u64, &mut len);
            out.extend_from_slice(&len);
            out.extend(inner);
            out
        }),
    ];
    for (name, body) in bodies {
        let begin = Instant::now();
        let error = victim
            .router()
            .receive(now, peer, &body.into())
            .unwrap_err();
        let took = begin.elapsed();
        assert!(
            took < Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 10 }),
            "{name}: {took:?}"
        );
        println!("row 6: 1 MiB of {name} refused in {took:?}: {error}");
    }
}

#[test]
fn row_50_one_address() {
    let mut config = strict();
    config.score.as_mut().unwrap().retain_score = Duration::ZERO;
    let mut victim = Victim::new(&config);
    let address = Some("203.0.113.7".parse().unwrap());
    let peers: Vec<_> = (0..10).map(|_| victim.attacker(Version::V1_2)).collect();
    for peer in &peers {
        victim.router().set_address(*peer, address);
    }
    let crowded = victim.score(peers[0]);
    assert!(crowded < graylist(), "{crowded}");
    let now = victim.net.now;
    for peer in &peers[3..] {
        victim.router().disconnect(now, *peer);
    }
    assert_eq!(victim.score(peers[0]), 0.0);
    victim
        .router()
        .set_address(peers[0], Some("127.0.0.1".parse().unwrap()));
    println!("row 50: ten peers at one address score {crowded:.0} each");
}

/// Messages come faster than they are validated. Whose messages are of no use is read less, and all others are read.
#[test]
fn the_gater_leaves_out_who_wastes_validation() {
    for gated in [true, false] {
        let mut victim = Victim::new(&with(Config::default(), |c| {
            c.gater = gated.then(barewire_gossip::GaterParams::default);
            c.max_pending = 4;
            c.topic_defaults.validate = true;
        }));
        victim.net.subscribe(0, "t");
        let (hostile, honest) = (
            victim.attacker(Version::V1_2),
            victim.attacker(Version::V1_2),
        );
        for (peer, last) in [(hostile, 1), (honest, 2)] {
            let address = Some([10, 0, 0, last].into());
            victim.router().set_address(peer, address);
            victim.send(peer, &subscribe("t"));
        }
        let authors = [1, 2].map(|n| Author::signed(&keypair(5_000 + n), 1));
        let said = |victim: &mut Victim, peer, author: &Author, n: u8| {
            victim.send(peer, &publish(message(author, "t", vec![n; 20])));
        };
        // One has sent what was accepted, the other what was rejected.
        victim.net.nodes[0].acceptance = Some(Acceptance::Accept);
        (0..10).for_each(|n| said(&mut victim, honest, &authors[1], n));
        victim.net.nodes[0].acceptance = Some(Acceptance::Reject);
        (0..10).for_each(|n| said(&mut victim, hostile, &authors[0], n));
        // Nobody answers any more: what is beyond four is thrown away.
        victim.net.nodes[0].acceptance = None;
        (10..60).for_each(|n| said(&mut victim, honest, &authors[1], n));
        let throttled = victim.router().metrics().throttled;
        assert_eq!(throttled, 46);
        let left_out = |victim: &mut Victim, peer, author: &Author, from: u8| {
            let before = victim.router().metrics().gated;
            (from..from + 100).for_each(|n| said(victim, peer, author, n));
            victim.router().metrics().gated - before
        };
        assert_eq!(left_out(&mut victim, honest, &authors[1], 100), 0);
        let of_hostile = left_out(&mut victim, hostile, &authors[0], 100);
        println!("gated {gated}: {of_hostile} of 100 of the hostile peer's messages are left out");
        assert!(if gated {
            of_hostile > 90
        } else {
            of_hostile == 0
        });
        // A minute without throttling ends it.
        let open = std::mem::take(&mut victim.net.nodes[0].open);
        victim.net.nodes[0].acceptance = Some(Acceptance::Accept);
        let now = victim.net.now;
        for handle in open {
            victim.router().validated(now, handle, Acceptance::Accept);
        }
        victim.net.seconds(61);
        assert_eq!(left_out(&mut victim, hostile, &authors[0], 0), 0);
    }
}
