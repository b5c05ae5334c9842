//! A network of routers under one virtual clock, and a peer that says whatever a test wants.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

pub mod loads;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use barewire_base::{Budget, Keypair, PeerId, varint};
use barewire_gossip::{
    Acceptance, Author, Config, Delivery, Event, FrameReader, MessageHandle, NewPeer, Output,
    Payload, PeerKey, PublishOptions, Receipt, Router, SubscribeOptions, Verifier, Version,
};
use bytes::{Bytes, BytesMut};

pub fn keypair(n: usize) -> Keypair {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
    Keypair::from_seed(&seed)
}

pub fn with(mut config: Config, change: impl FnOnce(&mut Config)) -> Config {
    change(&mut config);
    config
}

pub struct Node {
    pub router: Router,
    pub author: Author,
    pub id: PeerId,
    pub verifier: Verifier,
    pub delivered: Vec<Delivery>,
    pub events: Vec<Event>,
    pub connects: Vec<PeerId>,
    pub partials: Vec<barewire_gossip::PartialReceived>,
    pub partial_gossip: Vec<(Bytes, Vec<PeerKey>)>,
    /// What the validator says; `None` to leave the question open.
    pub acceptance: Option<Acceptance>,
    pub open: Vec<MessageHandle>,
    pub verified: usize,
    readers: HashMap<usize, FrameReader>,
    links: BTreeMap<usize, PeerKey>,
    pub ready: Vec<PeerKey>,
    pub bytes_out: usize,
}

pub struct Net {
    pub now: Instant,
    pub start: Instant,
    pub nodes: Vec<Node>,
}

impl Net {
    pub fn new(count: usize, config: &Config) -> Self {
        let start = Instant::now();
        let mut net = Self {
            now: start,
            start,
            nodes: Vec::new(),
        };
        for _ in 0..count {
            net.add(config);
        }
        net
    }

    pub fn add(&mut self, config: &Config) -> usize {
        let n = self.nodes.len();
        let pair = keypair(n);
        let signs = config.signature_policy == barewire_gossip::SignaturePolicy::StrictSign;
        self.nodes.push(Node {
            router: Router::new(
                config.clone(),
                pair.peer_id(),
                n as u64 * 7919 + 1,
                self.now,
            )
            .unwrap(),
            author: if signs {
                Author::signed(&pair, 1)
            } else {
                Author::anonymous()
            },
            id: pair.peer_id(),
            verifier: Verifier::new(),
            delivered: Vec::new(),
            events: Vec::new(),
            connects: Vec::new(),
            partials: Vec::new(),
            partial_gossip: Vec::new(),
            acceptance: Some(Acceptance::Accept),
            open: Vec::new(),
            verified: 0,
            readers: HashMap::new(),
            links: BTreeMap::new(),
            ready: Vec::new(),
            bytes_out: 0,
        });
        n
    }

    /// `a` dials `b`.
    pub fn connect(&mut self, a: usize, b: usize) {
        self.connect_as(a, b, Version::V1_3);
    }

    pub fn connect_as(&mut self, a: usize, b: usize, version: Version) {
        for (from, to, outbound) in [(a, b, true), (b, a, false)] {
            let new = NewPeer::new(self.nodes[to].id, version).outbound(outbound);
            let key = self.nodes[from].router.connect(self.now, new).unwrap();
            let max = self.nodes[from].router.max_rpc_len();
            self.nodes[from]
                .readers
                .insert(to, FrameReader::new(max, Budget::unlimited()));
            self.nodes[from].links.insert(to, key);
        }
    }

    pub fn connect_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                self.connect(a, b);
            }
        }
    }

    pub fn disconnect(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(key) = self.nodes[from].links.remove(&to) {
                self.nodes[from].router.disconnect(self.now, key);
                self.nodes[from].readers.remove(&to);
            }
        }
    }

    pub fn key(&self, of: usize, peer: usize) -> PeerKey {
        self.nodes[of].links[&peer]
    }

    pub fn subscribe_all(&mut self, topic: &str) {
        for n in 0..self.nodes.len() {
            self.subscribe(n, topic);
        }
    }

    pub fn subscribe(&mut self, n: usize, topic: &str) {
        self.nodes[n]
            .router
            .subscribe(self.now, topic, SubscribeOptions::default())
            .unwrap();
    }

    pub fn publish(&mut self, n: usize, topic: &str, data: impl Into<Payload>) -> Receipt {
        let node = &mut self.nodes[n];
        let message = node.author.message(topic, data.into());
        node.router
            .publish(self.now, &message, PublishOptions::default())
            .unwrap()
    }

    /// Carries everything that waits, until nothing does.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for from in 0..self.nodes.len() {
                moved |= self.drain(from);
            }
            if !moved {
                return;
            }
        }
    }

    fn drain(&mut self, from: usize) -> bool {
        let now = self.now;
        let mut moved = false;
        let mut sent: Vec<(usize, Bytes)> = Vec::new();
        let node = &mut self.nodes[from];
        while let Some(output) = node.router.poll_output() {
            moved = true;
            match output {
                Output::Ready(peer) => {
                    let to = node
                        .links
                        .iter()
                        .find(|(_, key)| **key == peer)
                        .map(|(to, _)| *to);
                    let Some(to) = to else {
                        node.ready.push(peer);
                        continue;
                    };
                    while let Some(frame) = node.router.next_frame(now, peer) {
                        node.bytes_out += frame.len;
                        sent.extend(frame.chunks.into_iter().map(|chunk| (to, chunk)));
                    }
                }
                Output::Verify(request) => {
                    node.verified += 1;
                    let valid = node.verifier.verify(&request.message);
                    node.router.verified(now, request.handle, valid);
                }
                Output::Validate(message) => match node.acceptance {
                    Some(acceptance) => node.router.validated(now, message.handle, acceptance),
                    None => node.open.push(message.handle),
                },
                Output::Deliver(message) => node.delivered.push(message),
                Output::Connect(request) => node.connects.push(request.peer_id),
                Output::Event(event) => node.events.push(event),
                Output::Partial(part) => node.partials.push(part),
                Output::PartialGossip { group, peers, .. } => {
                    node.partial_gossip.push((group, peers))
                }
                other => panic!("{other:?}"),
            }
        }
        for (to, chunk) in sent {
            let node = &mut self.nodes[to];
            let (Some(reader), Some(key)) = (node.readers.get_mut(&from), node.links.get(&from))
            else {
                continue;
            };
            let router = &mut node.router;
            reader
                .push(chunk, |frame| {
                    router.receive(now, *key, &frame.body).unwrap()
                })
                .unwrap();
        }
        moved
    }

    /// Lets time pass in steps, with everything carried in between.
    pub fn run(&mut self, time: Duration, step: Duration) {
        let end = self.now + time;
        self.settle();
        while self.now < end {
            self.now += step;
            for node in &mut self.nodes {
                while node.router.poll_timeout().is_some_and(|at| at <= self.now) {
                    node.router.handle_timeout(self.now);
                }
            }
            self.settle();
        }
    }

    pub fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds), Duration::from_millis(100));
    }

    pub fn payloads(&self, n: usize) -> Vec<Vec<u8>> {
        self.nodes[n]
            .delivered
            .iter()
            .map(|d| d.data().to_bytes().to_vec())
            .collect()
    }
}

/// One router under test, and peers made of raw bytes.
pub struct Victim {
    pub net: Net,
    pub raw: Vec<PeerKey>,
    next: usize,
}

impl Victim {
    pub fn new(config: &Config) -> Self {
        Self {
            net: Net::new(1, config),
            raw: Vec::new(),
            next: 1000,
        }
    }

    pub fn router(&mut self) -> &mut Router {
        &mut self.net.nodes[0].router
    }

    pub fn attacker(&mut self, version: Version) -> PeerKey {
        self.peer(version, false)
    }

    pub fn peer(&mut self, version: Version, outbound: bool) -> PeerKey {
        self.next += 1;
        let new = NewPeer::new(keypair(self.next).peer_id(), version)
            .outbound(outbound)
            .limits(barewire_gossip::PeerLimits::GO);
        let now = self.net.now;
        let key = self.router().connect(now, new).unwrap();
        self.raw.push(key);
        key
    }

    pub fn send(&mut self, from: PeerKey, rpc: &proto::Rpc) {
        use prost::Message;
        self.send_raw(from, rpc.encode_to_vec());
    }

    pub fn send_raw(&mut self, from: PeerKey, body: Vec<u8>) {
        let now = self.net.now;
        let _ = self.router().receive(now, from, &body.into());
        self.net.settle();
    }

    /// What the victim has for a peer: decoded by prost, as another implementation would, and its bytes.
    pub fn take(&mut self, peer: PeerKey) -> (Vec<proto::Rpc>, usize) {
        use prost::Message;
        self.net.settle();
        let now = self.net.now;
        let (mut out, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = self.router().next_frame(now, peer) {
            let mut all = BytesMut::new();
            frame
                .chunks
                .iter()
                .for_each(|chunk| all.extend_from_slice(chunk));
            let (_, used) = varint::decode(&all).unwrap().unwrap();
            bytes += all.len();
            out.push(proto::Rpc::decode(&all[used..]).unwrap());
        }
        (out, bytes)
    }

    pub fn score(&mut self, peer: PeerKey) -> f64 {
        self.router().score(peer).unwrap().total
    }

    /// One heartbeat later.
    pub fn heartbeat(&mut self) {
        self.net.run(Duration::from_secs(1), Duration::from_secs(1));
    }
}

pub fn subscribe(topic: &str) -> proto::Rpc {
    proto::Rpc {
        subscriptions: vec![proto::SubOpts {
            subscribe: Some(true),
            topicid: Some(topic.into()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn control(control: proto::ControlMessage) -> proto::Rpc {
    proto::Rpc {
        control: Some(control),
        ..Default::default()
    }
}

pub fn graft(topic: &str) -> proto::Rpc {
    control(proto::ControlMessage {
        graft: vec![proto::ControlGraft {
            topic_id: Some(topic.into()),
        }],
        ..Default::default()
    })
}

pub fn ihave(topic: &str, ids: Vec<Vec<u8>>) -> proto::Rpc {
    control(proto::ControlMessage {
        ihave: vec![proto::ControlIHave {
            topic_id: Some(topic.into()),
            message_ids: ids,
        }],
        ..Default::default()
    })
}

pub fn iwant(ids: Vec<Vec<u8>>) -> proto::Rpc {
    control(proto::ControlMessage {
        iwant: vec![proto::Ids { message_ids: ids }],
        ..Default::default()
    })
}

pub fn idontwant(ids: Vec<Vec<u8>>) -> proto::Rpc {
    control(proto::ControlMessage {
        idontwant: vec![proto::Ids { message_ids: ids }],
        ..Default::default()
    })
}

/// A message of an author, as prost encodes it.
pub fn message(author: &Author, topic: &str, data: Vec<u8>) -> proto::Message {
    use prost::Message;
    let made = author.message(topic, data.into());
    proto::Message::decode(made.message().encoded.to_bytes()).unwrap()
}

pub fn publish(message: proto::Message) -> proto::Rpc {
    proto::Rpc {
        publish: vec![message],
        ..Default::default()
    }
}

/// The protocol's messages as declared for prost.
pub mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Rpc {
        #[prost(message, repeated, tag = "1")]
        pub subscriptions: Vec<SubOpts>,
        #[prost(message, repeated, tag = "2")]
        pub publish: Vec<Message>,
        #[prost(message, optional, tag = "3")]
        pub control: Option<ControlMessage>,
        #[prost(message, optional, tag = "10")]
        pub partial: Option<Partial>,
        #[prost(message, optional, tag = "6492434")]
        pub test_extension: Option<Empty>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Empty {}
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SubOpts {
        #[prost(bool, optional, tag = "1")]
        pub subscribe: Option<bool>,
        #[prost(string, optional, tag = "2")]
        pub topicid: Option<String>,
        #[prost(bool, optional, tag = "3")]
        pub requests_partial: Option<bool>,
        #[prost(bool, optional, tag = "4")]
        pub supports_sending_partial: Option<bool>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Message {
        #[prost(bytes = "vec", optional, tag = "1")]
        pub from: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "2")]
        pub data: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "3")]
        pub seqno: Option<Vec<u8>>,
        #[prost(string, optional, tag = "4")]
        pub topic: Option<String>,
        #[prost(bytes = "vec", optional, tag = "5")]
        pub signature: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "6")]
        pub key: Option<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ControlMessage {
        #[prost(message, repeated, tag = "1")]
        pub ihave: Vec<ControlIHave>,
        #[prost(message, repeated, tag = "2")]
        pub iwant: Vec<Ids>,
        #[prost(message, repeated, tag = "3")]
        pub graft: Vec<ControlGraft>,
        #[prost(message, repeated, tag = "4")]
        pub prune: Vec<ControlPrune>,
        #[prost(message, repeated, tag = "5")]
        pub idontwant: Vec<Ids>,
        #[prost(message, optional, tag = "6")]
        pub extensions: Option<ControlExtensions>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ControlIHave {
        #[prost(string, optional, tag = "1")]
        pub topic_id: Option<String>,
        #[prost(bytes = "vec", repeated, tag = "2")]
        pub message_ids: Vec<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Ids {
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub message_ids: Vec<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ControlGraft {
        #[prost(string, optional, tag = "1")]
        pub topic_id: Option<String>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ControlPrune {
        #[prost(string, optional, tag = "1")]
        pub topic_id: Option<String>,
        #[prost(message, repeated, tag = "2")]
        pub peers: Vec<PeerInfo>,
        #[prost(uint64, optional, tag = "3")]
        pub backoff: Option<u64>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PeerInfo {
        #[prost(bytes = "vec", optional, tag = "1")]
        pub peer_id: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "2")]
        pub signed_peer_record: Option<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ControlExtensions {
        #[prost(bool, optional, tag = "10")]
        pub partial_messages: Option<bool>,
        #[prost(bool, optional, tag = "6492434")]
        pub test_extension: Option<bool>,
        #[prost(uint64, optional, tag = "6447479")]
        pub max_message_size: Option<u64>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Partial {
        #[prost(string, optional, tag = "1")]
        pub topic_id: Option<String>,
        #[prost(bytes = "vec", optional, tag = "2")]
        pub group_id: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "3")]
        pub partial_message: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "4")]
        pub parts_metadata: Option<Vec<u8>>,
    }
}
