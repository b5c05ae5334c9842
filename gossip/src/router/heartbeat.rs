//! What is done regularly: meshes are kept in shape, gossip is sent, caches age.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::Router;
use crate::{
    ConnectRequest, DropReason, Event, Misbehaviour, Output, PruneReason,
    peers::Counters,
    queue::Gossip,
    rpc::encode,
    topics::{MeshPeer, TopicIndex},
};

/// Heartbeats that are caught up on after a long sleep; more would say nothing new.
const MAX_LATE: u64 = 3;

impl Router {
    /// Does what is due. Call it when [`poll_timeout`](Self::poll_timeout) has come; earlier calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.look_at_crowded(now);
        let peers = &mut self.peers;
        self.scorer.decay(
            now,
            peers.iter_mut().map(|(_, peer)| peer),
            &mut self.topics,
        );
        if self.next_direct.is_some_and(|at| at <= now) {
            self.next_direct = None;
            self.connect_direct();
        }
        if now < self.next_heartbeat {
            return;
        }
        let interval = self.config.heartbeat_interval;
        let late = now
            .saturating_duration_since(self.next_heartbeat)
            .as_nanos()
            / interval.as_nanos().max(1);
        // Skipped heartbeats count for what lives for a number of them.
        self.tick += u64::try_from(late).unwrap_or(u64::MAX).min(MAX_LATE);
        let skipped = u32::try_from(late).unwrap_or(u32::MAX);
        // The rhythm is kept although timers are a little late.
        let next = self.next_heartbeat + interval.saturating_mul(skipped.saturating_add(1));
        self.next_heartbeat = next.max(now);
        self.heartbeat(now);
    }

    fn heartbeat(&mut self, now: Instant) {
        self.tick += 1;
        self.metrics.heartbeats += 1;
        if let Some(gater) = &mut self.gater {
            gater.decay(now);
        }
        self.refresh_peers();
        self.punish_broken_promises(now);
        self.clear_backoffs(now);
        if self.tick.is_multiple_of(self.config.direct_connect_ticks) {
            self.connect_direct();
        }
        let gossip = self.gossip_by_topic();
        let joined: Vec<TopicIndex> = self.joined.iter().copied().collect();
        for topic in joined {
            self.maintain_mesh(now, topic);
            self.emit_gossip(topic, &gossip);
        }
        self.maintain_fanout(now);
        let fanout: Vec<TopicIndex> = self.fanout.iter().copied().collect();
        for topic in fanout {
            self.emit_gossip(topic, &gossip);
        }
        self.partial_heartbeat();
        self.age_records(now);
        self.seen.advance(now);
    }

    /// Counters of the heartbeat begin anew; who fell below the graylist threshold is named.
    fn refresh_peers(&mut self) {
        let (tick, rate) = (self.tick, self.config.iwant_bytes_per_second);
        let earned = (rate as f64 * self.config.heartbeat_interval.as_secs_f64()) as usize;
        let graylist = self.scorer.thresholds().graylist;
        let mut fallen = Vec::new();
        for (index, peer) in self.peers.iter_mut() {
            peer.this_heartbeat = Counters::default();
            peer.iwant_allowance = (peer.iwant_allowance + earned).min(rate.max(earned));
            peer.expire_unwanted(tick);
            let score = self.scorer.score(peer, &self.topics);
            let graylisted = score < graylist;
            if graylisted && !peer.score.graylisted {
                fallen.push((index, score));
            }
            peer.score.graylisted = graylisted;
        }
        for (index, score) in fallen {
            self.event(Event::Graylisted {
                peer: self.peers.key(index),
                score,
            });
        }
    }

    fn punish_broken_promises(&mut self, now: Instant) {
        let mut broken = Vec::new();
        self.promises.expire(now, |peer| broken.push(peer));
        for peer in broken {
            self.metrics.broken_promises += 1;
            if let Some(index) = self.peers.check(peer) {
                self.penalize(index, Misbehaviour::BrokenPromise, 1);
            }
        }
    }

    /// Forgets backoffs that are over, now and then.
    fn clear_backoffs(&mut self, now: Instant) {
        if !self.tick.is_multiple_of(15) {
            return;
        }
        let slack = self
            .config
            .heartbeat_interval
            .saturating_mul(self.config.backoff_slack);
        let mut emptied = Vec::new();
        for (index, topic) in self.topics.iter_mut() {
            if topic.backoff.is_empty() {
                continue;
            }
            topic.backoff.retain(|_, until| *until + slack > now);
            if topic.backoff.is_empty() {
                topic.backoff.shrink_to_fit();
                emptied.push(index);
            }
        }
        for topic in emptied {
            self.topics.collect(topic);
        }
    }

    fn connect_direct(&mut self) {
        for peer_id in &self.direct {
            if self.peers.find(peer_id).is_none() {
                let request = ConnectRequest {
                    peer_id: *peer_id,
                    record: None,
                    direct: true,
                };
                self.outputs.push_back(Output::Connect(request));
            }
        }
    }

    fn mesh_of(&self, topic: TopicIndex) -> Vec<MeshPeer> {
        self.topics
            .get(topic)
            .map(|t| t.mesh().to_vec())
            .unwrap_or_default()
    }

    fn is_outbound(&self, index: u32) -> bool {
        self.peers.get(index).is_some_and(|peer| peer.outbound)
    }

    fn maintain_mesh(&mut self, now: Instant, topic: TopicIndex) {
        for peer in self.mesh_of(topic) {
            if self.score_of(peer.peer) < 0.0 {
                self.prune(now, peer.peer, topic, PruneReason::Score);
            }
        }
        let size = self.mesh_of(topic).len();
        if size < self.config.d_low {
            let candidates = self.candidates(now, topic, |_, score| score >= 0.0);
            let chosen = self.choose(topic, candidates, self.config.d - size);
            self.graft(now, topic, &chosen);
        }
        if self.mesh_of(topic).len() >= self.config.d_high {
            self.shrink_mesh(now, topic);
        }
        self.keep_outbound_quota(now, topic);
        if self
            .tick
            .is_multiple_of(self.config.opportunistic_graft_ticks)
        {
            self.graft_opportunistically(now, topic);
        }
        if let Some(preference) = self.config.rtt_preference
            && preference.swap_ticks > 0
            && self.tick.is_multiple_of(preference.swap_ticks)
        {
            self.swap_farthest(now, topic);
        }
    }

    /// Cuts a mesh down to `d`: the best by score stay, the others at random, with the outbound quota kept.
    fn shrink_mesh(&mut self, now: Instant, topic: TopicIndex) {
        let mut mesh: Vec<(f64, Duration, MeshPeer)> = self
            .mesh_of(topic)
            .into_iter()
            .map(|m| {
                let near = self.config.rtt_preference.is_some();
                let rtt = self
                    .peers
                    .get(m.peer)
                    .and_then(|p| p.rtt)
                    .filter(|_| near)
                    .unwrap_or(Duration::MAX);
                (self.score_of(m.peer), rtt, m)
            })
            .collect();
        self.rng.shuffle(&mut mesh);
        // Of equal scores the nearer counts as the better, if near peers are preferred at all.
        mesh.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let (d, d_score, d_out) = (self.config.d, self.config.d_score, self.config.d_out);
        self.rng.shuffle(&mut mesh[d_score..]);
        let mut list: Vec<u32> = mesh.into_iter().map(|(_, _, m)| m.peer).collect();
        let kept = list[..d].iter().filter(|p| self.is_outbound(**p)).count();
        if kept < d_out {
            // Peers that we dialled take the places of the last that we did not.
            let mut spare: Vec<usize> = (d..list.len())
                .filter(|at| self.is_outbound(list[*at]))
                .collect();
            let mut places: Vec<usize> = (0..d).filter(|at| !self.is_outbound(list[*at])).collect();
            for _ in kept..d_out {
                let (Some(from), Some(to)) = (spare.pop(), places.pop()) else {
                    break;
                };
                list.swap(from, to);
            }
        }
        for peer in list.split_off(d) {
            self.prune(now, peer, topic, PruneReason::Excess);
        }
    }

    fn keep_outbound_quota(&mut self, now: Instant, topic: TopicIndex) {
        let mesh = self.mesh_of(topic);
        let outbound = mesh.iter().filter(|m| self.is_outbound(m.peer)).count();
        if mesh.len() < self.config.d_low || outbound >= self.config.d_out {
            return;
        }
        let candidates = self.candidates(now, topic, |index, score| {
            score >= 0.0 && self.is_outbound(index)
        });
        let chosen = self.choose(topic, candidates, self.config.d_out - outbound);
        self.graft(now, topic, &chosen);
    }

    /// If half of the mesh is poor, a few better peers are added, who may have been gossiping to us.
    fn graft_opportunistically(&mut self, now: Instant, topic: TopicIndex) {
        let mut scores: Vec<f64> = self
            .mesh_of(topic)
            .iter()
            .map(|m| self.score_of(m.peer))
            .collect();
        if scores.len() < 2 {
            return;
        }
        scores.sort_by(f64::total_cmp);
        let Some(&median) = scores.get(scores.len() / 2) else {
            return;
        };
        if median >= self.scorer.thresholds().opportunistic_graft {
            return;
        }
        let candidates = self.candidates(now, topic, |_, score| score > median && score >= 0.0);
        let chosen = self.choose(topic, candidates, self.config.opportunistic_graft_peers);
        self.graft(now, topic, &chosen);
    }

    /// Replaces the farthest link of a full mesh by a peer of at most half its round trip and no worse a score. Random links are
    /// left alone beyond the share that near peers may have, and so is the outbound quota.
    fn swap_farthest(&mut self, now: Instant, topic: TopicIndex) {
        let mesh = self.mesh_of(topic);
        let preference = self.config.rtt_preference.unwrap_or_default();
        let most = (preference.share * self.config.d as f64) as usize;
        let near = mesh.iter().filter(|m| m.near).count();
        if mesh.len() < self.config.d_low || most == 0 {
            return;
        }
        let rtt = |index: u32| self.peers.get(index).and_then(|p| p.rtt);
        let outbound = mesh.iter().filter(|m| self.is_outbound(m.peer)).count();
        let replaceable = |m: &&MeshPeer| {
            (m.near || near < most)
                && (outbound > self.config.d_out || !self.is_outbound(m.peer))
                && rtt(m.peer).is_some()
        };
        let Some(farthest) = mesh
            .iter()
            .filter(replaceable)
            .max_by_key(|m| (rtt(m.peer), m.peer))
            .copied()
        else {
            return;
        };
        let (Some(far), worst) = (rtt(farthest.peer), self.score_of(farthest.peer)) else {
            return;
        };
        let candidates = self.candidates(now, topic, |index, score| {
            score >= worst.max(0.0) && rtt(index).is_some_and(|near| near <= far / 2)
        });
        let Some(nearest) = candidates
            .into_iter()
            .min_by_key(|index| (rtt(*index), *index))
        else {
            return;
        };
        self.prune(now, farthest.peer, topic, PruneReason::RoundTrip);
        self.graft(
            now,
            topic,
            &[MeshPeer {
                peer: nearest,
                near: true,
            }],
        );
    }

    fn maintain_fanout(&mut self, now: Instant) {
        let threshold = self.scorer.thresholds().publish;
        for topic in self.fanout.clone() {
            let Some(fanout) = self.topics.get(topic).and_then(|t| t.fanout.as_ref()) else {
                continue;
            };
            if fanout.last_publish + self.config.fanout_ttl < now {
                self.drop_fanout(topic);
                continue;
            }
            let kept: Vec<u32> = fanout
                .peers
                .iter()
                .copied()
                .filter(|index| {
                    self.peers
                        .get(*index)
                        .is_some_and(|p| p.link(topic).is_some())
                })
                .filter(|index| self.score_of(*index) >= threshold)
                .collect();
            let missing = self.config.d.saturating_sub(kept.len());
            let candidates = if missing == 0 {
                Vec::new()
            } else {
                self.candidates(now, topic, |index, score| {
                    score >= threshold && !kept.contains(&index)
                })
            };
            let more = self.choose(topic, candidates, missing);
            if let Some(fanout) = self.topics.get_mut(topic).and_then(|t| t.fanout.as_mut()) {
                fanout.peers = kept;
                fanout.peers.extend(more.into_iter().map(|m| m.peer));
            }
        }
    }

    /// Encoded ids of recent messages, by topic.
    fn gossip_by_topic(&mut self) -> Vec<(TopicIndex, Vec<Bytes>)> {
        let mut recent = Vec::new();
        self.records.gossip(self.config.history_gossip, &mut recent);
        let mut by_topic: Vec<(TopicIndex, Vec<Bytes>)> = Vec::new();
        for (topic, index) in recent {
            let Some(record) = self.records.get(index) else {
                continue;
            };
            let mut field = BytesMut::with_capacity(record.id.as_bytes().len() + 4);
            encode::put_bytes(2, record.id.as_bytes(), &mut field);
            match by_topic.last_mut().filter(|(last, _)| *last == topic) {
                Some((_, ids)) => ids.push(field.freeze()),
                None => by_topic.push((topic, vec![field.freeze()])),
            }
        }
        by_topic
    }

    /// Offers recent messages to some peers of the topic that are not sent them anyway.
    fn emit_gossip(&mut self, topic: TopicIndex, gossip: &[(TopicIndex, Vec<Bytes>)]) {
        let at = gossip
            .binary_search_by_key(&topic, |(topic, _)| *topic)
            .ok();
        let ids = at
            .and_then(|at| gossip.get(at))
            .map_or(&[][..], |(_, ids)| ids);
        let own_groups = self.partials.has_own_groups(topic);
        if ids.is_empty() && !own_groups {
            return;
        }
        let Some(entry) = self.topics.get(topic) else {
            return;
        };
        let name = entry.name.clone();
        let threshold = self.scorer.thresholds().gossip;
        let mut listeners: Vec<u32> = entry
            .members
            .iter()
            .copied()
            .filter(|index| {
                self.peers.get(*index).is_some_and(|p| {
                    p.version.has_mesh()
                        && !p.direct
                        && !entry.in_mesh(*index)
                        && !entry.in_fanout(*index)
                        && self.scorer.score(p, &self.topics) >= threshold
                })
            })
            .collect();
        let share = (self.config.gossip_factor * listeners.len() as f64) as usize;
        let count = share.max(self.config.d_lazy).min(listeners.len());
        self.rng.partial_shuffle(&mut listeners, count);
        listeners.truncate(count);
        let (mut parts, whole): (Vec<u32>, Vec<u32>) = listeners
            .into_iter()
            .partition(|i| self.wants_parts(*i, topic));
        if own_groups {
            // Those who joined the mesh after the group was published.
            let mesh = entry.mesh().iter().map(|m| m.peer);
            parts.extend(mesh.filter(|i| self.wants_parts(*i, topic)));
        }
        self.emit_partial_gossip(topic, &parts);
        self.offer(&name, ids, &whole);
    }

    fn offer(&mut self, name: &Arc<str>, ids: &[Bytes], listeners: &[u32]) {
        if ids.is_empty() {
            return;
        }
        let max = self.config.max_ihave_length;
        let mut ids: Vec<&Bytes> = ids.iter().collect();
        let all = ids.len() <= max;
        self.rng.shuffle(&mut ids);
        let mut encoded = if all { join(&ids) } else { Bytes::new() };
        for &index in listeners {
            if !all {
                // Everybody gets another choice, so that together they learn of more.
                self.rng.partial_shuffle(&mut ids, max);
                encoded = join(&ids[..max]);
            }
            let Some(peer) = self.peers.get_mut(index) else {
                continue;
            };
            let offer = Gossip::IHave {
                topic: name.clone(),
                ids: encoded.clone(),
            };
            match peer.queue.push_gossip(offer, &self.config.queue) {
                Ok(()) => self.announce(index),
                Err(_) => self.report_drop(index, None, DropReason::QueueFull),
            }
        }
    }

    /// Records grow a heartbeat older: messages leave the history, what is over is removed.
    fn age_records(&mut self, now: Instant) {
        let interval = self.config.heartbeat_interval;
        let window = self.config.score.as_ref().map_or(Duration::ZERO, |params| {
            let all = params.topics.values().chain(&params.topic_defaults);
            all.map(|p| p.mesh_deliveries_window)
                .max()
                .unwrap_or_default()
        });
        let keep = window.as_nanos().div_ceil(interval.as_nanos().max(1));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(1024) + 1;
        for index in self.records.shift(self.config.history_length, keep) {
            let Some(record) = self.records.get(index) else {
                continue;
            };
            if !record.state.is_pending() {
                self.drop_record(index);
            } else if record.since + self.config.validation_timeout <= now {
                self.give_up(now, index);
                // Removed already if it waited for its signature.
                if self
                    .records
                    .get(index)
                    .is_some_and(|r| !r.state.is_pending())
                {
                    self.drop_record(index);
                }
            } else {
                self.records.keep(index);
            }
        }
    }
}

fn join(ids: &[&Bytes]) -> Bytes {
    let mut out = BytesMut::with_capacity(ids.iter().map(|id| id.len()).sum());
    for id in ids {
        out.extend_from_slice(id);
    }
    out.freeze()
}
