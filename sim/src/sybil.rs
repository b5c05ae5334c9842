//! An attacker's node: what it remembers, and what it says to what it hears.

use std::collections::{HashSet, VecDeque};

use barewire_gossip::{Payload, RpcLimits, rpc::Rpc};
use bytes::Bytes;

use crate::{
    Attack,
    message::{self, Header},
    rng::Rng,
    scenario::Sybils,
    wire,
};

/// Ids that are remembered to be asked for.
const RECENT: usize = 100;
/// Microseconds until a node that pruned us is grafted again, and how much it may be more.
const REGRAFT: (u64, usize) = (60_000_000, 15_000_000);

/// How often a message is repeated.
const COPIES: usize = 20;

/// Bytes for one of its links.
pub(crate) type Out = Vec<(u32, Bytes)>;

#[derive(Debug)]
pub(crate) struct Sybil {
    attack: Attack,
    attack_at: u64,
    topic: &'static str,
    /// By link: whether the peer is in its mesh.
    mesh: Vec<bool>,
    seen: HashSet<u64>,
    /// The ids as peers know them.
    recent: VecDeque<Bytes>,
    made: u64,
}

impl Sybil {
    pub(crate) fn new(sybils: &Sybils, topic: &'static str, number: u64) -> Self {
        Self {
            attack: sybils.attack,
            attack_at: sybils.attack_at.as_micros() as u64,
            topic,
            mesh: Vec::new(),
            seen: HashSet::new(),
            recent: VecDeque::new(),
            made: message::INVALID | number << 32,
        }
    }

    /// Whether [`act`](Self::act) has anything to do.
    pub(crate) const fn acts(&self) -> bool {
        matches!(
            self.attack,
            Attack::IHave | Attack::IWant | Attack::IDontWant | Attack::Graft | Attack::Invalid
        )
    }

    pub(crate) fn link_closed(&mut self, link: u32) {
        if let Some(grafted) = self.mesh.get_mut(link as usize) {
            *grafted = false;
        }
    }

    fn graft(&mut self, link: u32) {
        let at = link as usize;
        if self.mesh.len() <= at {
            self.mesh.resize(at + 1, false);
        }
        self.mesh[at] = true;
    }

    /// A frame of a peer. Returns when to GRAFT the peer again, if it pruned us.
    pub(crate) fn hear(
        &mut self,
        now: u64,
        link: u32,
        body: &Payload,
        rng: &mut Rng,
        out: &mut Out,
    ) -> Option<u64> {
        // Routers send nothing else.
        let Ok(rpc) = Rpc::decode(body, &RpcLimits::default()) else {
            return None;
        };
        if rpc.subscriptions.iter().any(|s| s.subscribe) {
            out.push((link, wire::hello(self.topic)));
            self.graft(link);
        }
        if !rpc.control.graft.is_empty() {
            self.graft(link);
        }
        for message in &rpc.publish {
            let data = message.data.clone().unwrap_or_default();
            let Some(header) = Header::read(&data) else {
                continue;
            };
            if !self.seen.insert(header.number) {
                continue;
            }
            self.remember(message::id(&data));
            let times = self.copies(now, header, rng);
            if times == 0 {
                continue;
            }
            let encoded = message.encoded.to_bytes();
            let copies = wire::publish(std::iter::repeat_n(&encoded, times));
            for to in
                (0..self.mesh.len() as u32).filter(|to| *to != link && self.mesh[*to as usize])
            {
                out.push((to, copies.clone()));
            }
        }
        if rpc.control.prune.is_empty() {
            return None;
        }
        self.link_closed(link);
        Some(now + REGRAFT.0 + rng.below(REGRAFT.1) as u64)
    }

    fn remember(&mut self, id: Bytes) {
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// How often it forwards a message.
    fn copies(&self, now: u64, header: Header, rng: &mut Rng) -> usize {
        if now < self.attack_at {
            return 1;
        }
        let dropped = match self.attack {
            Attack::Silent => true,
            Attack::Degrade(share) => rng.chance(share),
            Attack::Censor => header.publisher == 0,
            Attack::Repeat => return COPIES,
            _ => false,
        };
        usize::from(!dropped)
    }

    /// GRAFTs a peer again.
    pub(crate) fn regraft(&mut self, link: u32) -> Bytes {
        self.graft(link);
        wire::graft(self.topic)
    }

    /// What it does ten times a second, to each of `links`.
    pub(crate) fn act(&mut self, now: u64, links: &[u32], out: &mut Out) {
        if now < self.attack_at {
            return;
        }
        let mut fake = |count: usize| -> Vec<Bytes> {
            let ids = self.made..self.made + count as u64;
            self.made = ids.end;
            ids.map(|id| Bytes::copy_from_slice(&[id.to_be_bytes(); 5].concat()))
                .collect()
        };
        let frame = match self.attack {
            Attack::IHave => wire::ihave(self.topic, &fake(100)),
            Attack::IWant => wire::iwant(self.recent.make_contiguous()),
            Attack::IDontWant => wire::idontwant(&fake(100)),
            Attack::Graft => wire::graft(self.topic),
            Attack::Invalid => {
                self.made += 1;
                let header = Header {
                    number: self.made,
                    publisher: u32::MAX,
                };
                wire::publish([&wire::message(self.topic, &header.payload(100))])
            }
            Attack::Silent | Attack::Degrade(_) | Attack::Censor | Attack::Repeat => return,
        };
        for &link in links {
            if self.attack == Attack::Graft {
                self.graft(link);
            }
            out.push((link, frame.clone()));
        }
    }
}
