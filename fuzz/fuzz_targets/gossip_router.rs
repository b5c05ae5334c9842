//! Operations on a router, with what must hold after each: meshes within bounds, nobody grafted during its backoff, caches and
//! queues bounded, nothing left when all are gone.
#![no_main]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use barewire_base::Keypair;
use barewire_gossip::{
    Acceptance, Author, Config, MessageHandle, MessageIdFn, NewPeer, Output, PartialLimits,
    Payload, PeerKey, PeerLimits, PublishOptions, Router, SignaturePolicy, SubscribeOptions,
    Version, rpc::Rpc,
};
use bytes::{BufMut, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Op {
    Connect {
        peer: u8,
        version: u8,
        outbound: bool,
        rust: bool,
    },
    Disconnect {
        peer: u8,
    },
    InboundClosed {
        peer: u8,
    },
    Restart {
        peer: u8,
        version: u8,
    },
    Subscribe {
        topic: u8,
        partial: bool,
    },
    Unsubscribe {
        topic: u8,
    },
    Publish {
        topic: u8,
        len: u16,
    },
    Raw {
        peer: u8,
        bytes: Vec<u8>,
    },
    Rpc {
        peer: u8,
        parts: Vec<Part>,
    },
    Verified {
        which: u8,
        valid: bool,
    },
    Validated {
        which: u8,
        how: u8,
    },
    Take {
        peer: u8,
    },
    Sleep {
        centiseconds: u16,
    },
    Rtt {
        peer: u8,
        ms: u16,
    },
    App {
        peer: u8,
        score: f64,
    },
    Direct {
        peer: u8,
        on: bool,
    },
    Partial {
        peer: u8,
        topic: u8,
        group: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Part {
    Sub { topic: u8, on: bool, partial: bool },
    Message { topic: u8, number: u8, len: u16 },
    IHave { topic: u8, first: u8, count: u8 },
    IWant { first: u8, count: u8 },
    IDontWant { first: u8, count: u8 },
    Graft { topic: u8 },
    Prune { topic: u8, backoff: u64 },
    Extensions { bits: u8, size: u64 },
    Partial { topic: u8, group: u8 },
}

const TOPICS: u8 = 4;
const PEERS: u8 = 24;

fn field(number: u32, value: &[u8], out: &mut BytesMut) {
    barewire_base::varint::encode(u64::from(number) << 3 | 2, out);
    barewire_base::varint::encode(value.len() as u64, out);
    out.put_slice(value);
}

fn number(field: u32, value: u64, out: &mut BytesMut) {
    barewire_base::varint::encode(u64::from(field) << 3, out);
    barewire_base::varint::encode(value, out);
}

fn topic(n: u8) -> String {
    format!("t{}", n % TOPICS)
}

fn id(n: u8) -> [u8; 8] {
    [n; 8]
}

impl Part {
    fn encode(&self, out: &mut BytesMut) {
        let mut inner = BytesMut::new();
        let control = |number: u32, inner: &BytesMut, out: &mut BytesMut| {
            let mut control = BytesMut::new();
            field(number, inner, &mut control);
            field(3, &control, out);
        };
        let ids = |tag: u32, first: u8, count: u8, inner: &mut BytesMut| {
            (0..count).for_each(|n| field(tag, &id(first.wrapping_add(n)), inner));
        };
        match *self {
            Self::Sub {
                topic: t,
                on,
                partial,
            } => {
                number(1, u64::from(on), &mut inner);
                field(2, topic(t).as_bytes(), &mut inner);
                number(3, u64::from(partial), &mut inner);
                field(1, &inner, out);
            }
            Self::Message {
                topic: t,
                number,
                len,
            } => {
                let mut data = id(number).to_vec();
                data.resize(8 + usize::from(len % 4096), number);
                field(2, &data, &mut inner);
                field(4, topic(t).as_bytes(), &mut inner);
                field(2, &inner, out);
            }
            Self::IHave {
                topic: t,
                first,
                count,
            } => {
                field(1, topic(t).as_bytes(), &mut inner);
                ids(2, first, count, &mut inner);
                control(1, &inner, out);
            }
            Self::IWant { first, count } => {
                ids(1, first, count, &mut inner);
                control(2, &inner, out);
            }
            Self::IDontWant { first, count } => {
                ids(1, first, count, &mut inner);
                control(5, &inner, out);
            }
            Self::Graft { topic: t } => {
                field(1, topic(t).as_bytes(), &mut inner);
                control(3, &inner, out);
            }
            Self::Prune { topic: t, backoff } => {
                field(1, topic(t).as_bytes(), &mut inner);
                number(3, backoff, &mut inner);
                control(4, &inner, out);
            }
            Self::Extensions { bits, size } => {
                number(10, u64::from(bits & 1), &mut inner);
                number(6_492_434, u64::from(bits >> 1 & 1), &mut inner);
                number(6_447_479, size, &mut inner);
                control(6, &inner, out);
            }
            Self::Partial { topic: t, group } => {
                field(1, topic(t).as_bytes(), &mut inner);
                field(2, &[group], &mut inner);
                field(4, b"meta", &mut inner);
                field(10, &inner, out);
            }
        }
    }
}

struct Rig {
    router: Router,
    now: Instant,
    peers: HashMap<u8, PeerKey>,
    limits: HashMap<PeerKey, PeerLimits>,
    /// Until when we told or were told not to graft.
    backoff: HashMap<(u8, u8), Instant>,
    verify: Vec<MessageHandle>,
    validate: Vec<MessageHandle>,
}

fn config(signed: bool) -> Config {
    let mut config = Config::adversarial();
    config.topic_defaults.validate = true;
    if !signed {
        config.signature_policy = SignaturePolicy::StrictNoSign;
        config.topic_defaults.message_id = MessageIdFn::DataPrefix(8);
    }
    config.test_extension = true;
    config.partial_messages = Some(PartialLimits::default());
    config.seen_max_entries = 100;
    config.max_records = 80;
    config.max_pending = 40;
    config.history_bytes = 64 << 10;
    config.queue.max_bytes = 32 << 10;
    config.max_backoffs = 1000;
    config.rtt_preference = Some(Default::default());
    config
}

impl Rig {
    fn key(&self, peer: u8) -> Option<PeerKey> {
        self.peers.get(&(peer % PEERS)).copied()
    }

    fn take(&mut self, peer: u8) {
        let Some(key) = self.key(peer) else { return };
        while let Some(frame) = self.router.next_frame(self.now, key) {
            let mut all = BytesMut::new();
            frame
                .chunks
                .iter()
                .for_each(|chunk| all.extend_from_slice(chunk));
            assert_eq!(all.len(), frame.len);
            let (len, used) = barewire_base::varint::decode(&all).unwrap().unwrap();
            assert_eq!(len as usize, all.len() - used);
            let announced = self.limits[&key].max_rpc.max(512 << 20);
            assert!(len as usize <= announced);
            let rpc = Rpc::decode(
                &Payload::from(all.freeze().slice(used..)),
                &Default::default(),
            )
            .unwrap();
            for graft in &rpc.control.graft {
                let t = graft[1] - b'0';
                if let Some(until) = self.backoff.get(&(peer % PEERS, t)) {
                    assert!(*until <= self.now, "a GRAFT during the backoff");
                }
            }
            assert!(rpc.control.idontwant.len() <= 10);
        }
    }

    /// After each operation.
    fn check(&mut self) {
        while let Some(output) = self.router.poll_output() {
            match output {
                Output::Verify(request) => self.verify.push(request.handle),
                Output::Validate(message) => self.validate.push(message.handle),
                _ => {}
            }
        }
        let sizes = self.router.sizes();
        assert!(sizes.seen <= 100 + 40, "{sizes:?}");
        assert!(sizes.records <= 80 && sizes.pending <= 40, "{sizes:?}");
        assert!(sizes.history_bytes <= 64 << 10, "{sizes:?}");
        assert!(
            sizes.topics <= usize::from(TOPICS) + 100 * self.peers.len(),
            "{sizes:?}"
        );
        assert_eq!(sizes.outputs, 0);
        for t in 0..TOPICS {
            let mesh = self.router.mesh_peers(&topic(t));
            let outbound = mesh
                .iter()
                .filter(|p| self.router.status(**p).is_some_and(|s| s.outbound))
                .count();
            assert!(
                mesh.len() - outbound <= 12 + 4,
                "{} of {outbound}",
                mesh.len()
            );
            let mut unique = mesh.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), mesh.len());
            for peer in mesh {
                assert!(!self.router.status(peer).unwrap().direct);
            }
        }
        for key in self.peers.values() {
            assert!(self.router.score(*key).unwrap().total.is_finite());
        }
    }

    fn apply(&mut self, op: &Op, author: &Author) {
        let now = self.now;
        match op {
            Op::Connect {
                peer,
                version,
                outbound,
                rust,
            } => {
                let version = Version::ALL[usize::from(*version) % 5];
                let limits = if *rust {
                    PeerLimits::RUST
                } else {
                    PeerLimits::GO
                };
                let id = Keypair::from_seed(&[peer % PEERS + 1; 32]).peer_id();
                let new = NewPeer::new(id, version).outbound(*outbound).limits(limits);
                let new = new.address(Some([10, 0, 0, peer % 3].into()));
                if let Ok(key) = self.router.connect(now, new) {
                    self.peers.insert(peer % PEERS, key);
                    self.limits.insert(key, limits);
                }
            }
            Op::Disconnect { peer } => {
                if let Some(key) = self.peers.remove(&(peer % PEERS)) {
                    self.router.disconnect(now, key);
                }
            }
            Op::InboundClosed { peer } => {
                if let Some(key) = self.key(*peer) {
                    self.router.inbound_closed(key);
                }
            }
            Op::Restart { peer, version } => {
                if let Some(key) = self.key(*peer) {
                    self.router
                        .restart_outbound(key, Version::ALL[usize::from(*version) % 5]);
                }
            }
            Op::Subscribe { topic: t, partial } => {
                let options = SubscribeOptions::partial(*partial, *partial);
                let _ = self.router.subscribe(now, &topic(*t), options);
            }
            Op::Unsubscribe { topic: t } => {
                self.router.unsubscribe(now, &topic(*t));
            }
            Op::Publish { topic: t, len } => {
                let message =
                    author.message(&topic(*t), vec![*len as u8; usize::from(*len)].into());
                let _ = self
                    .router
                    .publish(now, &message, PublishOptions::default());
            }
            Op::Raw { peer, bytes } => {
                if let Some(key) = self.key(*peer) {
                    let _ = self.router.receive(now, key, &Payload::from(bytes.clone()));
                }
            }
            Op::Rpc { peer, parts } => {
                if let Some(key) = self.key(*peer) {
                    let mut body = BytesMut::new();
                    parts
                        .iter()
                        .take(32)
                        .for_each(|part| part.encode(&mut body));
                    // What is queued goes first: a PRUNE that arrives crosses with it.
                    self.take(*peer);
                    let _ = self
                        .router
                        .receive(now, key, &Payload::from(Bytes::from(body)));
                    let acted = self
                        .router
                        .status(key)
                        .is_some_and(|s| s.version >= Version::V1_0);
                    for part in parts.iter().take(32) {
                        if let Part::Prune { topic: t, backoff } = part
                            && acted
                            && self.router.subscriptions().any(|s| **s == *topic(*t))
                            && self.router.score(key).unwrap().total >= -80.0
                        {
                            let seconds = if *backoff == 0 {
                                60
                            } else {
                                (*backoff).min(3600)
                            };
                            let until = now + Duration::from_secs(seconds);
                            let known = self
                                .backoff
                                .entry((peer % PEERS, t % TOPICS))
                                .or_insert(until);
                            *known = (*known).max(until);
                        }
                    }
                }
            }
            Op::Verified { which, valid } => {
                if !self.verify.is_empty() {
                    let handle = self
                        .verify
                        .swap_remove(usize::from(*which) % self.verify.len());
                    self.router.verified(now, handle, *valid);
                }
            }
            Op::Validated { which, how } => {
                if !self.validate.is_empty() {
                    let handle = self
                        .validate
                        .swap_remove(usize::from(*which) % self.validate.len());
                    let acceptance = [Acceptance::Accept, Acceptance::Reject, Acceptance::Ignore]
                        [usize::from(*how) % 3];
                    self.router.validated(now, handle, acceptance);
                }
            }
            Op::Take { peer } => self.take(*peer),
            Op::Sleep { centiseconds } => {
                self.now += Duration::from_millis(10 * u64::from(*centiseconds));
                for _ in 0..5 {
                    if self.router.poll_timeout().is_some_and(|at| at <= self.now) {
                        self.router.handle_timeout(self.now);
                    }
                }
            }
            Op::Rtt { peer, ms } => {
                if let Some(key) = self.key(*peer) {
                    self.router
                        .set_rtt(key, Duration::from_millis(u64::from(*ms)));
                }
            }
            Op::App { peer, score } => {
                if let Some(key) = self.key(*peer) {
                    self.router.set_app_score(key, *score);
                }
            }
            Op::Direct { peer, on } => {
                let id = Keypair::from_seed(&[peer % PEERS + 1; 32]).peer_id();
                self.router.set_direct(now, id, *on);
            }
            Op::Partial {
                peer,
                topic: t,
                group,
            } => {
                let _ = self
                    .router
                    .publish_partial(&topic(*t), &Bytes::from(vec![*group]));
                if let Some(key) = self.key(*peer) {
                    let _ = self.router.send_partial(
                        key,
                        &topic(*t),
                        &[*group],
                        Some(b"part"),
                        Some(b"meta"),
                    );
                }
            }
        }
    }
}

fuzz_target!(|input: (bool, u64, Vec<Op>)| {
    let (signed, seed, ops) = input;
    let me = Keypair::from_seed(&[200; 32]);
    let now = Instant::now();
    let author = if signed {
        Author::signed(&me, 1)
    } else {
        Author::anonymous()
    };
    let mut rig = Rig {
        router: Router::new(config(signed), me.peer_id(), seed, now).unwrap(),
        now,
        peers: HashMap::new(),
        limits: HashMap::new(),
        backoff: HashMap::new(),
        verify: Vec::new(),
        validate: Vec::new(),
    };
    for op in ops.iter().take(200) {
        rig.apply(op, &author);
        rig.check();
    }
    for key in std::mem::take(&mut rig.peers).into_values() {
        rig.router.disconnect(rig.now, key);
    }
    for t in 0..TOPICS {
        rig.router.unsubscribe(rig.now, &topic(t));
    }
    for _ in 0..20 {
        rig.now += Duration::from_secs(600);
        for _ in 0..20 {
            rig.router.handle_timeout(rig.now);
            rig.now += Duration::from_secs(1);
        }
        rig.check();
    }
    let sizes = rig.router.sizes();
    let left = [
        sizes.peers,
        sizes.topics,
        sizes.seen,
        sizes.records,
        sizes.history_bytes,
        sizes.pending,
        sizes.pending_bytes,
    ];
    assert_eq!(left, [0; 7], "{sizes:?}");
    assert_eq!(
        [
            sizes.promises,
            sizes.retained,
            sizes.backoffs,
            sizes.unwanted,
            sizes.groups
        ],
        [0; 5],
        "{sizes:?}"
    );
});
