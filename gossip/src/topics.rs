//! Topics, interned: a small number stands for each name.

use std::{collections::HashMap, sync::Arc, time::Instant};

use barewire_base::PeerId;

use crate::{TopicConfig, random::KeyedState, score::TopicScoreParams};

pub(crate) type TopicIndex = u32;

/// A topic that somebody is subscribed to, or that we still remember something about.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) config: TopicConfig,
    pub(crate) score: Option<TopicScoreParams>,
    /// Peers subscribed, by index, in no particular but a reproducible order.
    pub(crate) members: Vec<u32>,
    /// Ours, if we are subscribed.
    pub(crate) joined: Option<Joined>,
    pub(crate) fanout: Option<Fanout>,
    /// Until when peers must not be grafted.
    pub(crate) backoff: HashMap<PeerId, Instant, KeyedState>,
    /// Deliveries that are no deficit now (P3); see `TopicScoreParams::mesh_deliveries_relative`.
    pub(crate) delivery_threshold: f64,
    /// Records of messages and counters of peers that point here.
    pub(crate) refs: u32,
}

/// Our subscription.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub(crate) mesh: Vec<MeshPeer>,
    pub(crate) requests_partial: bool,
    pub(crate) supports_partial: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MeshPeer {
    pub(crate) peer: u32,
    /// Whether it was chosen for its round trip.
    pub(crate) near: bool,
}

/// Whom we publish to without being subscribed.
#[derive(Debug)]
pub(crate) struct Fanout {
    pub(crate) peers: Vec<u32>,
    pub(crate) last_publish: Instant,
}

impl Topic {
    pub(crate) fn in_mesh(&self, peer: u32) -> bool {
        self.joined
            .as_ref()
            .is_some_and(|joined| joined.mesh.iter().any(|m| m.peer == peer))
    }

    pub(crate) fn mesh(&self) -> &[MeshPeer] {
        self.joined.as_ref().map_or(&[], |joined| &joined.mesh)
    }

    pub(crate) fn in_fanout(&self, peer: u32) -> bool {
        self.fanout
            .as_ref()
            .is_some_and(|f| f.peers.contains(&peer))
    }

    fn is_unused(&self) -> bool {
        self.refs == 0
            && self.members.is_empty()
            && self.joined.is_none()
            && self.fanout.is_none()
            && self.backoff.is_empty()
    }

    /// Starts or extends a backoff. Of too many the one that ends first gives way.
    pub(crate) fn back_off(&mut self, peer: PeerId, until: Instant, max: usize) {
        if let Some(known) = self.backoff.get_mut(&peer) {
            *known = (*known).max(until);
            return;
        }
        if self.backoff.len() >= max {
            let first = self.backoff.iter().min_by_key(|(id, at)| (**at, **id));
            if let Some(first) = first.map(|(id, _)| *id) {
                self.backoff.remove(&first);
            }
        }
        self.backoff.insert(peer, until);
    }
}

#[derive(Debug)]
pub(crate) struct Topics {
    by_name: HashMap<Arc<str>, TopicIndex, KeyedState>,
    slots: Vec<Option<Topic>>,
    free: Vec<TopicIndex>,
    keys: KeyedState,
    max: usize,
}

impl Topics {
    pub(crate) fn new(keys: KeyedState, max: usize) -> Self {
        Self {
            by_name: HashMap::with_hasher(keys.clone()),
            slots: Vec::new(),
            free: Vec::new(),
            keys,
            max,
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<TopicIndex> {
        self.by_name.get(name).copied()
    }

    /// The topic of this name on the wire.
    pub(crate) fn find_bytes(&self, name: &[u8]) -> Option<TopicIndex> {
        self.find(std::str::from_utf8(name).ok()?)
    }

    /// The topic of this name, made if need be; `None` if there are too many.
    pub(crate) fn intern(
        &mut self,
        name: &str,
        describe: impl FnOnce() -> (TopicConfig, Option<TopicScoreParams>),
    ) -> Option<TopicIndex> {
        if let Some(found) = self.find(name) {
            return Some(found);
        }
        if self.by_name.len() >= self.max {
            return None;
        }
        let name: Arc<str> = name.into();
        let (config, score) = describe();
        let topic = Topic {
            name: name.clone(),
            config,
            delivery_threshold: score.map_or(0.0, |s| s.mesh_deliveries_threshold),
            score,
            members: Vec::new(),
            joined: None,
            fanout: None,
            backoff: HashMap::with_hasher(self.keys.clone()),
            refs: 0,
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as TopicIndex
            }
        };
        self.slots[index as usize] = Some(topic);
        self.by_name.insert(name, index);
        Some(index)
    }

    pub(crate) fn get(&self, index: TopicIndex) -> Option<&Topic> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: TopicIndex) -> Option<&mut Topic> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn retain(&mut self, index: TopicIndex) {
        if let Some(topic) = self.get_mut(index) {
            topic.refs += 1;
        }
    }

    pub(crate) fn release(&mut self, index: TopicIndex) {
        if let Some(topic) = self.get_mut(index) {
            topic.refs = topic.refs.saturating_sub(1);
        }
        self.collect(index);
    }

    /// Forgets a topic that nothing refers to.
    pub(crate) fn collect(&mut self, index: TopicIndex) {
        if self.get(index).is_some_and(Topic::is_unused)
            && let Some(slot) = self.slots.get_mut(index as usize)
            && let Some(topic) = slot.take()
        {
            self.by_name.remove(&topic.name);
            self.free.push(index);
            if self.by_name.is_empty() {
                // What a flood of topics made is given back.
                self.slots = Vec::new();
                self.free = Vec::new();
                self.by_name.shrink_to_fit();
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Topics in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TopicIndex, &Topic)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((index as TopicIndex, slot.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (TopicIndex, &mut Topic)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(index, slot)| Some((index as TopicIndex, slot.as_mut()?)))
    }
}
