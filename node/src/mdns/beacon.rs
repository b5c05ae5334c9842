//! When to ask, when to answer, and what has been told, without I/O.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId};

use super::{
    MdnsConfig,
    packet::{self, Packet, Told},
};

/// First pause between two questions; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// Pause between two answers, as RFC 6762 demands.
const ANSWER_EVERY: Duration = Duration::from_secs(1);
/// Peers remembered so that they are told once (own choice: as many as the peer book holds).
const MAX_PEERS: usize = 1_000;
/// Addresses remembered of one peer.
const MAX_ADDRESSES: usize = 16;

/// What is wanted or told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To all groups.
    Send(Vec<u8>),
    /// Not told before, or forgotten since.
    Found {
        /// The peer.
        peer: PeerId,
        /// Its address, without the id.
        addr: Multiaddr,
    },
}

/// The state machine of one node.
#[derive(Debug)]
pub struct Beacon {
    config: MdnsConfig,
    own: PeerId,
    name: String,
    addrs: Vec<Multiaddr>,
    query_at: Instant,
    pause: Duration,
    answer_at: Option<Instant>,
    meta_at: Option<Instant>,
    not_before: Instant,
    /// Until when what was told of a peer holds.
    known: BTreeMap<PeerId, Vec<(Multiaddr, Instant)>>,
    outputs: std::collections::VecDeque<Output>,
}

impl Beacon {
    /// `name` is random, of 32 to 63 letters and digits: not the peer id, so that listeners do not learn it from the
    /// name alone.
    #[must_use]
    pub fn new(config: MdnsConfig, own: PeerId, name: String, now: Instant) -> Self {
        Self {
            config,
            own,
            name,
            addrs: Vec::new(),
            query_at: now,
            pause: FIRST,
            answer_at: None,
            meta_at: None,
            not_before: now,
            known: BTreeMap::new(),
            outputs: std::collections::VecDeque::new(),
        }
    }

    /// The addresses of this node, without its id. New ones are announced.
    pub fn set_addresses(&mut self, now: Instant, addrs: &[Multiaddr]) {
        let named = addrs
            .iter()
            .filter_map(|addr| addr.clone().with_peer(self.own).ok());
        let addrs: Vec<_> = named.collect();
        if addrs != self.addrs {
            self.addrs = addrs;
            self.answer_at = Some(now);
        }
    }

    /// A network has come: ask there, and tell.
    pub fn network_changed(&mut self, now: Instant) {
        self.query_at = now;
        self.pause = FIRST;
        self.answer_at = Some(now);
    }

    /// A packet has come, from this node itself too.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        match packet::parse(packet) {
            Ok(Packet::Query { service, meta }) => {
                if service {
                    self.answer_at.get_or_insert(now);
                }
                if meta {
                    self.meta_at.get_or_insert(now);
                }
            }
            Ok(Packet::Response(told)) => {
                for one in told {
                    self.told(now, one);
                }
            }
            Err(_) => {}
        }
    }

    /// What is to be sent or told now. `random` is from 0 to 1.
    pub fn poll_output(&mut self, now: Instant, random: f64) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.query_at <= now {
            self.query_at = now + self.pause.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0));
            self.pause = (self.pause * 2).min(self.config.query_interval);
            return Some(Output::Send(packet::query()));
        }
        if self.not_before > now {
            return None;
        }
        let ttl = u32::try_from(self.config.ttl.as_secs()).unwrap_or(u32::MAX);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let answer = if due(self.answer_at) {
            self.answer_at = None;
            (!self.addrs.is_empty()).then(|| packet::response(&self.name, ttl, &self.addrs))?
        } else if due(self.meta_at) {
            self.meta_at = None;
            packet::meta_response(ttl)
        } else {
            return None;
        };
        self.not_before = now + ANSWER_EVERY;
        Some(Output::Send(answer))
    }

    /// When something is to be sent, if no packet comes before.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let answers = [self.answer_at, self.meta_at].into_iter().flatten();
        let answers = answers.map(|at| at.max(self.not_before));
        answers.fold(self.query_at, Instant::min)
    }

    /// The word that this node leaves, to be sent at its end.
    #[must_use]
    pub fn goodbye(&self) -> Vec<u8> {
        packet::response(&self.name, 0, &self.addrs)
    }

    /// Peers it remembers.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.len()
    }

    fn told(&mut self, now: Instant, Told { addr, ttl }: Told) {
        let Some(peer) = addr.peer_id().filter(|peer| *peer != self.own) else {
            return;
        };
        let addr = addr.without_peer();
        if addr.is_empty() {
            return;
        }
        let until = now + Duration::from_secs(ttl.into());
        if !self.known.contains_key(&peer) && self.known.len() >= MAX_PEERS {
            self.known
                .retain(|_, addrs| addrs.iter().any(|(_, until)| *until > now));
            if self.known.len() >= MAX_PEERS {
                return;
            }
        }
        let addrs = self.known.entry(peer).or_default();
        addrs.retain(|(known, until)| *until > now && (ttl > 0 || *known != addr));
        if let Some(known) = addrs.iter_mut().find(|(known, _)| *known == addr) {
            known.1 = known.1.max(until);
        } else if ttl > 0 && addrs.len() < MAX_ADDRESSES {
            addrs.push((addr.clone(), until));
            self.outputs.push_back(Output::Found { peer, addr });
        }
        if addrs.is_empty() {
            self.known.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    fn node(seed: u8) -> (Beacon, PeerId, Instant) {
        let now = Instant::now();
        let peer = Keypair::from_seed(&[seed; 32]).peer_id();
        let mut beacon = Beacon::new(MdnsConfig::default(), peer, "n".repeat(32), now);
        beacon.set_addresses(now, &["/ip4/192.0.2.1/tcp/1".parse().unwrap()]);
        (beacon, peer, now)
    }

    fn sent(beacon: &mut Beacon, now: Instant) -> Vec<Vec<u8>> {
        let outputs = std::iter::from_fn(|| beacon.poll_output(now, 0.5));
        outputs
            .filter_map(|output| match output {
                Output::Send(packet) => Some(packet),
                Output::Found { .. } => None,
            })
            .collect()
    }

    #[test]
    fn two_nodes_find_each_other_once() {
        let ((mut a, peer, now), (mut b, ..)) = (node(1), node(2));
        let mut found = Vec::new();
        for packet in [sent(&mut a, now), sent(&mut a, now + FIRST)].concat() {
            for _ in 0..3 {
                b.handle_packet(now, &packet);
                a.handle_packet(now, &packet);
            }
            while let Some(output) = b.outputs.pop_front() {
                found.push(output);
            }
        }
        let addr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        assert_eq!(found, [Output::Found { peer, addr }]);
        assert_eq!((a.known(), b.known()), (0, 1));
        b.handle_packet(now, &a.goodbye());
        assert_eq!(b.known(), 0);
    }

    #[test]
    fn questions_thin_out_and_a_flood_of_them_is_answered_once_a_second() {
        let (mut beacon, _, begun) = node(1);
        sent(&mut beacon, begun);
        let (mut now, mut packets) = (begun, 0);
        while now < begun + Duration::from_secs(10) {
            now += Duration::from_millis(10);
            beacon.handle_packet(now, &packet::query());
            packets += sent(&mut beacon, now).len();
        }
        assert!((10..=14).contains(&packets), "{packets} packets in 10 s");
        for _ in 0..20 {
            now = beacon.poll_timeout();
            sent(&mut beacon, now);
        }
        let pause = beacon.poll_timeout() - now;
        assert!(
            pause >= MdnsConfig::default().query_interval.mul_f64(0.79),
            "{pause:?}"
        );
    }

    #[test]
    fn many_peers_are_not_all_remembered() {
        let (mut beacon, _, now) = node(1);
        for seed in 0..1_500u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&seed.to_be_bytes());
            let peer = Keypair::from_seed(&bytes).peer_id();
            let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
            let addr = addr.with_peer(peer).unwrap();
            beacon.handle_packet(now, &packet::response("x", 60, &[addr]));
            while beacon.outputs.pop_front().is_some() {}
        }
        assert_eq!(beacon.known(), MAX_PEERS);
    }
}
