//! Who gets into a mesh and who has to leave it.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Router;
use crate::{
    Event, PruneReason,
    queue::MeshChange,
    rpc::encode,
    topics::{MeshPeer, TopicIndex},
};

impl Router {
    /// Time that a GRAFT waits beyond a backoff.
    fn slack(&self) -> Duration {
        self.config
            .heartbeat_interval
            .saturating_mul(self.config.backoff_slack)
    }

    pub(super) fn back_off(&mut self, now: Instant, index: u32, topic: TopicIndex, time: Duration) {
        if let (Some(peer), Some(entry)) = (self.peers.get(index), self.topics.get_mut(topic)) {
            entry.back_off(peer.id, now + time, self.config.max_backoffs);
        }
    }

    /// Peers of a topic that may be grafted and satisfy `filter`, which gets index and score.
    pub(super) fn candidates(
        &self,
        now: Instant,
        topic: TopicIndex,
        filter: impl Fn(u32, f64) -> bool,
    ) -> Vec<u32> {
        let Some(entry) = self.topics.get(topic) else {
            return Vec::new();
        };
        let slack = self.slack();
        let mut found = Vec::with_capacity(entry.members.len().min(1024));
        for &index in &entry.members {
            let Some(peer) = self.peers.get(index) else {
                continue;
            };
            if !peer.version.has_mesh() || peer.direct || entry.in_mesh(index) {
                continue;
            }
            let score = self.scorer.score(peer, &self.topics);
            if !filter(index, score) {
                continue;
            }
            let backed_off = !entry.backoff.is_empty()
                && entry
                    .backoff
                    .get(&peer.id)
                    .is_some_and(|until| *until + slack > now);
            if !backed_off {
                found.push(index);
            }
        }
        found
    }

    /// Takes `count` of the candidates at random; some of them, as far as the preference for near peers allows, are the
    /// nearest of a sample with a score no worse.
    pub(super) fn choose(
        &mut self,
        topic: TopicIndex,
        mut candidates: Vec<u32>,
        count: usize,
    ) -> Vec<MeshPeer> {
        let mut near_left = self.near_quota(topic);
        let mut chosen = Vec::with_capacity(count.min(candidates.len()));
        while chosen.len() < count && !candidates.is_empty() {
            let sample = self
                .config
                .rtt_preference
                .map_or(1, |r| r.sample)
                .min(candidates.len());
            self.rng.partial_shuffle(&mut candidates, sample);
            let mut at = 0;
            let near = near_left > 0 && sample > 1;
            if near {
                let first = self.score_of(candidates[0]);
                let rtt = |index: u32| {
                    self.peers
                        .get(index)
                        .and_then(|p| p.rtt)
                        .unwrap_or(Duration::MAX)
                };
                for other in 1..sample {
                    if rtt(candidates[other]) < rtt(candidates[at])
                        && self.score_of(candidates[other]) >= first
                    {
                        at = other;
                    }
                }
                near_left -= 1;
            }
            chosen.push(MeshPeer {
                peer: candidates.swap_remove(at),
                near,
            });
        }
        chosen
    }

    /// Links of the mesh that may still be chosen for their round trip.
    fn near_quota(&self, topic: TopicIndex) -> usize {
        let Some(preference) = &self.config.rtt_preference else {
            return 0;
        };
        let most = (preference.share * self.config.d as f64) as usize;
        let near = self
            .topics
            .get(topic)
            .map_or(0, |t| t.mesh().iter().filter(|m| m.near).count());
        most.saturating_sub(near)
    }

    /// Adds peers to the mesh and asks them to do the same.
    pub(super) fn graft(&mut self, now: Instant, topic: TopicIndex, peers: &[MeshPeer]) {
        for &chosen in peers {
            self.enter_mesh(now, chosen, topic, false);
            if let Some(name) = self.topics.get(topic).map(|t| t.name.clone()) {
                self.queue_mesh(chosen.peer, &name, MeshChange::Graft);
            }
        }
    }

    pub(super) fn enter_mesh(
        &mut self,
        now: Instant,
        chosen: MeshPeer,
        topic: TopicIndex,
        by_peer: bool,
    ) {
        let Some(entry) = self.topics.get_mut(topic) else {
            return;
        };
        let name = entry.name.clone();
        let Some(joined) = &mut entry.joined else {
            return;
        };
        joined.mesh.push(chosen);
        if let Some(peer) = self.peers.get_mut(chosen.peer) {
            self.scorer.graft(now, peer, &mut self.topics, topic);
        }
        self.event(Event::Grafted {
            peer: self.peers.key(chosen.peer),
            topic: name,
            by_peer,
        });
    }

    /// Takes a peer out of the mesh, without telling it. Returns whether it was in it.
    pub(super) fn leave_mesh(
        &mut self,
        index: u32,
        topic: TopicIndex,
        reason: PruneReason,
    ) -> bool {
        let Some(entry) = self.topics.get_mut(topic) else {
            return false;
        };
        let name = entry.name.clone();
        let Some(joined) = &mut entry.joined else {
            return false;
        };
        let before = joined.mesh.len();
        joined.mesh.retain(|m| m.peer != index);
        if joined.mesh.len() == before {
            return false;
        }
        if let Some(peer) = self.peers.get_mut(index) {
            self.scorer.prune(peer, &mut self.topics, topic);
        }
        self.event(Event::Pruned {
            peer: self.peers.key(index),
            topic: name,
            reason,
        });
        true
    }

    /// Takes a peer out of the mesh, tells it, and begins its backoff.
    pub(super) fn prune(
        &mut self,
        now: Instant,
        index: u32,
        topic: TopicIndex,
        reason: PruneReason,
    ) {
        self.leave_mesh(index, topic, reason);
        self.back_off(now, index, topic, self.config.prune_backoff);
        let exchange = self.config.peer_exchange && reason != PruneReason::Score;
        self.send_prune(now, index, topic, self.config.prune_backoff, exchange);
    }

    pub(super) fn send_prune(
        &mut self,
        _now: Instant,
        index: u32,
        topic: TopicIndex,
        backoff: Duration,
        exchange: bool,
    ) {
        let (Some(peer), Some(entry)) = (self.peers.get(index), self.topics.get(topic)) else {
            return;
        };
        let name = entry.name.clone();
        let change = if peer.version.has_backoff() {
            let peers = if exchange {
                self.offer_peers(index, topic)
            } else {
                Bytes::new()
            };
            MeshChange::Prune {
                backoff: Some(backoff.as_secs()),
                peers,
            }
        } else {
            // Version 1.0 has neither, and would not understand them.
            MeshChange::Prune {
                backoff: None,
                peers: Bytes::new(),
            }
        };
        self.queue_mesh(index, &name, change);
    }

    /// Encoded peers of the topic to be offered to a peer that is pruned: those with a score of at least 0.
    fn offer_peers(&mut self, to: u32, topic: TopicIndex) -> Bytes {
        let members = self.topics.get(topic).map_or(&[][..], |t| &t.members);
        let mut offered: Vec<u32> = members
            .iter()
            .copied()
            .filter(|other| *other != to && self.score_of(*other) >= 0.0)
            .filter(|other| self.peers.get(*other).is_some_and(|p| p.version.has_mesh()))
            .collect();
        let count = self.config.prune_peers.min(offered.len());
        self.rng.partial_shuffle(&mut offered, count);
        let mut out = BytesMut::new();
        for other in &offered[..count] {
            if let Some(peer) = self.peers.get(*other) {
                encode::put_peer_info(peer.id.as_bytes(), peer.record.as_deref(), &mut out);
            }
        }
        out.freeze()
    }

    pub(super) fn queue_mesh(
        &mut self,
        index: u32,
        topic: &std::sync::Arc<str>,
        change: MeshChange,
    ) {
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        match change {
            MeshChange::Graft => self.metrics.grafts_out += 1,
            MeshChange::Prune { .. } => self.metrics.prunes_out += 1,
        }
        peer.queue.push_mesh(topic, change);
        self.announce(index);
    }

    /// Builds the mesh of a topic that we subscribe to: first of the peers we published to, then of others.
    pub(super) fn join(&mut self, now: Instant, topic: TopicIndex) {
        let known = self.topics.get_mut(topic).and_then(|t| t.fanout.take());
        self.fanout.remove(&topic);
        let allowed = self.candidates(now, topic, |_, score| score >= 0.0);
        let mut mesh: Vec<MeshPeer> = known
            .map(|fanout| fanout.peers)
            .unwrap_or_default()
            .into_iter()
            .filter(|peer| allowed.contains(peer))
            .map(|peer| MeshPeer { peer, near: false })
            .collect();
        mesh.truncate(self.config.d);
        let rest = allowed
            .into_iter()
            .filter(|peer| mesh.iter().all(|m| m.peer != *peer))
            .collect();
        let more = self.choose(topic, rest, self.config.d - mesh.len());
        mesh.extend(more);
        self.graft(now, topic, &mesh);
    }
}
