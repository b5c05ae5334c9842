//! Connected peers, in a slab: an index of 32 bits stands for each.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use barewire_base::PeerId;
use bytes::Bytes;

use crate::{
    PeerKey, PeerLimits, Version,
    queue::SendQueue,
    random::{Hashed, KeyedState},
    rpc::Extensions,
    score::PeerScore,
    slab::Slab,
    topics::{TopicIndex, Topics},
};

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) version: Version,
    pub(crate) outbound: bool,
    pub(crate) direct: bool,
    pub(crate) limits: PeerLimits,
    pub(crate) address: Option<IpAddr>,
    pub(crate) rtt: Option<Duration>,
    /// Its signed peer record, to be offered to others.
    pub(crate) record: Option<Bytes>,
    /// Topics it is subscribed to, sorted.
    pub(crate) links: Vec<Link>,
    pub(crate) score: PeerScore,
    pub(crate) queue: SendQueue,
    /// What its first RPC announced; `None` before the first RPC.
    pub(crate) extensions: Option<Extensions>,
    /// Whether the test extension's message was sent on this stream.
    pub(crate) test_sent: bool,
    /// Messages of it that wait for verification or validation.
    pub(crate) pending: usize,
    pub(crate) pending_bytes: usize,
    pub(crate) this_heartbeat: Counters,
    /// Bytes it may still ask for.
    pub(crate) iwant_allowance: usize,
    pub(crate) unwanted: Option<Box<Unwanted>>,
}

/// What a peer did since the last heartbeat.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) ihave_messages: u32,
    pub(crate) asked: usize,
    pub(crate) idontwant_messages: u32,
    pub(crate) prune_replies: u32,
    /// Peers taken from its offers.
    pub(crate) px: usize,
}

/// A subscription of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) topic: TopicIndex,
    /// Where the topic's member list names the peer.
    place: u32,
    pub(crate) requests_partial: bool,
    pub(crate) supports_partial: bool,
}

/// Ids a peer does not want, each until a heartbeat.
#[derive(Debug, Default)]
pub(crate) struct Unwanted {
    until: HashMap<u64, u64, Hashed>,
    order: VecDeque<(u64, u64)>,
}

impl Unwanted {
    /// Remembers the id until heartbeat `tick`; `false` if there are too many.
    pub(crate) fn insert(&mut self, key: u128, tick: u64, max: usize) -> bool {
        let key = key as u64;
        if !self.until.contains_key(&key)
            && (self.until.len() >= max || self.order.len() >= 2 * max)
        {
            return false;
        }
        if self.until.insert(key, tick) != Some(tick) {
            self.order.push_back((tick, key));
        }
        true
    }

    pub(crate) fn contains(&self, key: u128) -> bool {
        self.until.contains_key(&(key as u64))
    }

    pub(crate) fn len(&self) -> usize {
        self.until.len()
    }

    /// Forgets what ends with heartbeat `tick`. Returns whether nothing is left.
    fn expire(&mut self, tick: u64) -> bool {
        while let Some(&(until, key)) = self.order.front() {
            if until > tick {
                break;
            }
            self.order.pop_front();
            if self.until.get(&key) == Some(&until) {
                self.until.remove(&key);
            }
        }
        self.until.is_empty()
    }
}

impl Peer {
    pub(crate) fn link(&self, topic: TopicIndex) -> Option<&Link> {
        let at = self
            .links
            .binary_search_by_key(&topic, |link| link.topic)
            .ok()?;
        self.links.get(at)
    }

    pub(crate) fn is_unwanted(&self, key: u128) -> bool {
        self.unwanted
            .as_ref()
            .is_some_and(|unwanted| unwanted.contains(key))
    }

    pub(crate) fn expire_unwanted(&mut self, tick: u64) {
        if self
            .unwanted
            .as_mut()
            .is_some_and(|unwanted| unwanted.expire(tick))
        {
            self.unwanted = None;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Peers {
    slab: Slab<Peer>,
    by_id: HashMap<PeerId, u32, KeyedState>,
}

impl Peers {
    pub(crate) fn new(keys: KeyedState) -> Self {
        Self {
            slab: Slab::new(),
            by_id: HashMap::with_hasher(keys),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn find(&self, id: &PeerId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn insert(&mut self, peer: Peer) -> PeerKey {
        let id = peer.id;
        let (index, generation) = self.slab.insert(peer);
        self.by_id.insert(id, index);
        PeerKey { index, generation }
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Peer> {
        let peer = self.slab.remove(index)?;
        self.by_id.remove(&peer.id);
        Some(peer)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Peer> {
        self.slab.get(index)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Peer> {
        self.slab.get_mut(index)
    }

    /// The index of a peer that is still connected.
    #[inline]
    pub(crate) fn check(&self, key: PeerKey) -> Option<u32> {
        self.slab.get_of(key.index, key.generation)?;
        Some(key.index)
    }

    pub(crate) fn key(&self, index: u32) -> PeerKey {
        let generation = self.slab.generation(index);
        PeerKey { index, generation }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Peer)> {
        self.slab.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Peer)> {
        self.slab.iter_mut()
    }

    /// Notes a subscription. Returns whether it is new.
    pub(crate) fn link(
        &mut self,
        topics: &mut Topics,
        index: u32,
        topic: TopicIndex,
        partial: (bool, bool),
    ) -> bool {
        let (Some(peer), Some(entry)) = (self.get_mut(index), topics.get_mut(topic)) else {
            return false;
        };
        let (requests_partial, supports_partial) = (partial.0, partial.0 || partial.1);
        match peer.links.binary_search_by_key(&topic, |link| link.topic) {
            Ok(at) => {
                let link = &mut peer.links[at];
                link.requests_partial = requests_partial;
                link.supports_partial = supports_partial;
                false
            }
            Err(at) => {
                if peer.links.is_empty() {
                    // Most peers have few topics; doubling from four would waste on the fifth.
                    peer.links.reserve_exact(5);
                }
                let place = entry.members.len() as u32;
                entry.members.push(index);
                peer.links.insert(
                    at,
                    Link {
                        topic,
                        place,
                        requests_partial,
                        supports_partial,
                    },
                );
                true
            }
        }
    }

    /// Forgets a subscription. Returns whether there was one.
    pub(crate) fn unlink(&mut self, topics: &mut Topics, index: u32, topic: TopicIndex) -> bool {
        let (Some(peer), Some(entry)) = (self.get_mut(index), topics.get_mut(topic)) else {
            return false;
        };
        let Ok(at) = peer.links.binary_search_by_key(&topic, |link| link.topic) else {
            return false;
        };
        let place = peer.links.remove(at).place;
        if peer.links.is_empty() {
            peer.links = Vec::new();
        }
        entry.members.swap_remove(place as usize);
        let moved = entry.members.get(place as usize).copied();
        if entry.members.is_empty() {
            entry.members = Vec::new();
        }
        if let Some(moved) = moved
            && let Some(other) = self.get_mut(moved)
            && let Ok(at) = other.links.binary_search_by_key(&topic, |link| link.topic)
        {
            other.links[at].place = place;
        }
        topics.collect(topic);
        true
    }
}
