//! Partial messages, an extension of version 1.3: peers tell each other which parts of a message they have, and send parts. What a
//! part is, only the application knows; the router bounds, routes and tells whom to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use barewire_base::Fault;
use bytes::{Bytes, BytesMut};

use super::Router;
use crate::{
    DropReason, Output, PartialReceived, PeerKey,
    queue::Gossip,
    rpc::{Partial, encode},
    topics::TopicIndex,
};

/// Why a part is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartialError {
    /// [`Config::partial_messages`](crate::Config::partial_messages) is off.
    #[error("partial messages are not enabled")]
    Disabled,
    /// The peer is gone, or speaks no partial messages of this topic.
    #[error("the peer does not take partial messages of this topic")]
    Unsupported,
    /// We are not subscribed to the topic.
    #[error("the topic is not subscribed")]
    NotSubscribed,
    /// The group's id or the metadata are longer than allowed, or there are too many groups.
    #[error("a limit of partial messages is exceeded")]
    Limit,
    /// It is longer than the peer accepts.
    #[error("the part is longer than the peer accepts")]
    TooLarge,
    /// The peer's queue is full.
    #[error("the peer's queue is full")]
    QueueFull,
}

impl PartialError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Disabled | Self::NotSubscribed => Fault::Local,
            Self::Unsupported => Fault::Peer,
            Self::Limit | Self::TooLarge | Self::QueueFull => Fault::Limit,
        }
    }
}

/// Groups that are known, by topic and id.
#[derive(Debug, Default)]
pub(super) struct Partials {
    groups: BTreeMap<TopicIndex, BTreeMap<Bytes, Group>>,
}

#[derive(Debug, Default)]
struct Group {
    /// Heartbeats left.
    ttl: u32,
    /// The peer that began it; `None` if we did.
    began: Option<PeerKey>,
    /// Peers that know of it, as far as we know.
    told: BTreeSet<PeerKey>,
}

impl Partials {
    pub(super) fn len(&self) -> usize {
        self.groups.values().map(BTreeMap::len).sum()
    }

    pub(super) fn has_own_groups(&self, topic: TopicIndex) -> bool {
        self.groups
            .get(&topic)
            .is_some_and(|groups| groups.values().any(|g| g.began.is_none()))
    }

    pub(super) fn leave(&mut self, topic: TopicIndex) {
        self.groups.remove(&topic);
    }

    pub(super) fn disconnect(&mut self, peer: PeerKey) {
        for groups in self.groups.values_mut() {
            groups.retain(|_, group| group.began != Some(peer));
            for group in groups.values_mut() {
                group.told.remove(&peer);
            }
        }
        self.groups.retain(|_, groups| !groups.is_empty());
    }
}

impl Router {
    /// A part came.
    pub(super) fn partial(&mut self, index: u32, partial: Partial) {
        let Some(limits) = self.config.partial_messages else {
            return;
        };
        let peer = self.peers.key(index);
        let speaks = self
            .peers
            .get(index)
            .and_then(|p| p.extensions)
            .is_some_and(|e| e.partial_messages);
        let topic = self
            .topics
            .find_bytes(&partial.topic)
            .filter(|topic| self.joined.contains(topic));
        let name = topic
            .and_then(|t| self.topics.get(t))
            .map(|t| t.name.clone());
        let (Some(topic), Some(name), true) = (topic, name, speaks) else {
            self.metrics.partials_refused += 1;
            return;
        };
        let metadata = partial.metadata.as_ref().map_or(0, Bytes::len);
        let mut fits =
            partial.group.len() <= limits.max_group_id && metadata <= limits.max_metadata;
        let groups = self.partials.groups.entry(topic).or_default();
        if fits && !groups.contains_key(&partial.group) {
            let of_peers = groups.values().filter(|g| g.began.is_some()).count();
            let of_peer = groups.values().filter(|g| g.began == Some(peer)).count();
            fits = of_peers < limits.max_peer_groups && of_peer < limits.max_groups_per_peer;
            if fits {
                let group = Group {
                    ttl: limits.group_ttl,
                    began: Some(peer),
                    told: BTreeSet::new(),
                };
                // Its own copy: it is kept for long, the buffer must not be.
                groups.insert(Bytes::copy_from_slice(&partial.group), group);
            }
        }
        if !fits {
            if groups.is_empty() {
                self.partials.groups.remove(&topic);
            }
            self.metrics.partials_refused += 1;
            return;
        }
        if let Some(group) = groups.get_mut(&partial.group) {
            group.told.insert(peer);
        }
        self.metrics.partials_in += 1;
        self.outputs.push_back(Output::Partial(PartialReceived {
            peer,
            topic: name,
            group: partial.group,
            message: partial.message,
            metadata: partial.metadata,
        }));
    }

    /// Begins a group of our own in a topic, or extends its life, so that peers are told of it. Returns the peers to send parts
    /// or metadata to now: those of the mesh that take partial messages.
    ///
    /// # Errors
    /// [`PartialError`].
    pub fn publish_partial(
        &mut self,
        topic: &str,
        group: &Bytes,
    ) -> Result<Vec<PeerKey>, PartialError> {
        let limits = self.config.partial_messages.ok_or(PartialError::Disabled)?;
        let index = self
            .topics
            .find(topic)
            .filter(|t| self.joined.contains(t))
            .ok_or(PartialError::NotSubscribed)?;
        if group.len() > limits.max_group_id {
            return Err(PartialError::Limit);
        }
        let peers: Vec<PeerKey> = self
            .mesh_peers(topic)
            .into_iter()
            .filter(|peer| self.takes_parts(*peer, index))
            .collect();
        let groups = self.partials.groups.entry(index).or_default();
        let own = groups.values().filter(|g| g.began.is_none()).count();
        let known = groups.get(group);
        if known.is_none_or(|known| known.began.is_some()) && own >= limits.max_own_groups {
            return Err(PartialError::Limit);
        }
        let entry = groups.entry(group.clone()).or_default();
        // Ours from now on, also if a peer was earlier: others are told of it, and it stays when that peer leaves.
        entry.began = None;
        entry.ttl = limits.group_ttl;
        entry.told.extend(peers.iter().copied());
        Ok(peers)
    }

    /// Whether peer and we can exchange parts in the topic, in either direction.
    fn takes_parts(&self, peer: PeerKey, topic: TopicIndex) -> bool {
        let joined = self.topics.get(topic).and_then(|t| t.joined.as_ref());
        let (requests, supports) =
            joined.map_or((false, false), |j| (j.requests_partial, j.supports_partial));
        self.peers
            .check(peer)
            .and_then(|index| self.peers.get(index))
            .is_some_and(|p| {
                p.extensions.is_some_and(|e| e.partial_messages)
                    && p.link(topic).is_some_and(|l| {
                        (requests && l.supports_partial) || (supports && l.requests_partial)
                    })
            })
    }

    /// Sends parts of a message, or which parts we have, or both, to a peer. Parts go only to a peer that requests them; without
    /// metadata, nothing would be left to send to another.
    ///
    /// # Errors
    /// [`PartialError`]; nothing was sent then.
    pub fn send_partial(
        &mut self,
        peer: PeerKey,
        topic: &str,
        group: &[u8],
        message: Option<&[u8]>,
        metadata: Option<&[u8]>,
    ) -> Result<(), PartialError> {
        let limits = self.config.partial_messages.ok_or(PartialError::Disabled)?;
        let index = self
            .topics
            .find(topic)
            .filter(|t| self.joined.contains(t))
            .ok_or(PartialError::NotSubscribed)?;
        if !self.takes_parts(peer, index) {
            return Err(PartialError::Unsupported);
        }
        let requests = self
            .peers
            .get(peer.index)
            .and_then(|p| p.link(index))
            .is_some_and(|l| l.requests_partial);
        let message = message.filter(|_| requests);
        if message.is_none() && metadata.is_none() {
            return Err(PartialError::Unsupported);
        }
        if group.len() > limits.max_group_id
            || metadata.is_some_and(|m| m.len() > limits.max_metadata)
        {
            return Err(PartialError::Limit);
        }
        let mut body = BytesMut::new();
        encode::put_bytes(1, topic.as_bytes(), &mut body);
        encode::put_bytes(2, group, &mut body);
        for (number, value) in [(3, message), (4, metadata)] {
            if let Some(value) = value {
                encode::put_bytes(number, value, &mut body);
            }
        }
        let mut field = BytesMut::with_capacity(body.len() + 8);
        encode::put_bytes(10, &body, &mut field);
        let Some(entry) = self.peers.get_mut(peer.index) else {
            return Err(PartialError::Unsupported);
        };
        if field.len() > entry.limits.max_rpc {
            return Err(PartialError::TooLarge);
        }
        if entry
            .queue
            .push_gossip(Gossip::Partial(field.freeze()), &self.config.queue)
            .is_err()
        {
            self.report_drop(peer.index, None, DropReason::QueueFull);
            return Err(PartialError::QueueFull);
        }
        self.announce(peer.index);
        Ok(())
    }

    pub(super) fn partial_heartbeat(&mut self) {
        for groups in self.partials.groups.values_mut() {
            groups.retain(|_, group| {
                group.ttl = group.ttl.saturating_sub(1);
                group.ttl > 0
            });
        }
        self.partials.groups.retain(|_, groups| !groups.is_empty());
    }

    /// Asks the application to tell peers of our groups that do not know of them.
    pub(super) fn emit_partial_gossip(&mut self, topic: TopicIndex, peers: &[u32]) {
        if peers.is_empty() {
            return;
        }
        let Some(name) = self.topics.get(topic).map(|t| Arc::clone(&t.name)) else {
            return;
        };
        let keys: Vec<PeerKey> = peers.iter().map(|index| self.peers.key(*index)).collect();
        for (group, state) in self.partials.groups.entry(topic).or_default() {
            if state.began.is_some() {
                continue;
            }
            let peers: Vec<PeerKey> = keys
                .iter()
                .copied()
                .filter(|key| state.told.insert(*key))
                .collect();
            if !peers.is_empty() {
                let topic = name.clone();
                self.outputs.push_back(Output::PartialGossip {
                    topic,
                    group: group.clone(),
                    peers,
                });
            }
        }
    }
}
