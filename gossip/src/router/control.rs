//! Control entries that peers send: IHAVE, IWANT, GRAFT, PRUNE, IDONTWANT.

use std::time::{Duration, Instant};

use barewire_base::{PeerId, peer_record::PeerRecord};
use bytes::{Bytes, BytesMut};

use super::Router;
use crate::{
    ConnectRequest, DropReason, Misbehaviour, Output, PruneReason,
    queue::{Gossip, QueuedMessage},
    rpc::{Control, IHave, PeerInfo, Prune, encode},
    topics::MeshPeer,
};

/// Longer ids are nobody's.
const MAX_ID: usize = 1024;

impl Router {
    pub(super) fn control(&mut self, now: Instant, index: u32, control: &Control) {
        if !control.ihave.is_empty() {
            self.ihave(now, index, &control.ihave);
        }
        if !control.iwant.is_empty() {
            self.iwant(index, &control.iwant);
        }
        for topic in &control.graft {
            self.grafted(now, index, topic);
        }
        for prune in &control.prune {
            self.pruned(now, index, prune);
        }
        if !control.idontwant.is_empty() {
            self.idontwant(index, &control.idontwant);
        }
    }

    fn ihave(&mut self, now: Instant, index: u32, offers: &[IHave]) {
        let offered: usize = offers.iter().map(|offer| offer.ids.len()).sum();
        self.metrics.ihave_ids_in += offered as u64;
        if self.score_of(index) < self.scorer.thresholds().gossip {
            self.metrics.ihave_ignored += offered as u64;
            return;
        }
        let max = self.config.max_ihave_length;
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        peer.this_heartbeat.ihave_messages += 1;
        if peer.this_heartbeat.ihave_messages > self.config.max_ihave_messages
            || peer.this_heartbeat.asked >= max
        {
            self.metrics.ihave_ignored += offered as u64;
            return;
        }
        let asked = peer.this_heartbeat.asked;
        let mut wanted: Vec<(u128, &Bytes)> = Vec::new();
        for offer in offers {
            let joined = self
                .topics
                .find_bytes(&offer.topic)
                .is_some_and(|topic| self.joined.contains(&topic));
            if !joined {
                continue;
            }
            for id in offer.ids.iter().take(max).filter(|id| id.len() <= MAX_ID) {
                let key = self.keys.id_key(id);
                if self.seen.find(key).is_none() {
                    wanted.push((key, id));
                }
            }
        }
        wanted.sort_unstable_by_key(|(key, _)| *key);
        wanted.dedup_by_key(|(key, _)| *key);
        let count = wanted.len().min(max - asked);
        if count == 0 {
            return;
        }
        self.rng.partial_shuffle(&mut wanted, count);
        wanted.truncate(count);
        let mut ids = BytesMut::new();
        for (_, id) in &wanted {
            encode::put_bytes(1, id, &mut ids);
        }
        let promised = wanted.get(self.rng.pick(0..count)).map(|(key, _)| *key);
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        peer.this_heartbeat.asked += count;
        let sent = peer
            .queue
            .push_gossip(Gossip::IWant { ids: ids.freeze() }, &self.config.queue);
        match (sent, promised) {
            (Ok(()), Some(key)) => {
                self.metrics.iwant_asked += count as u64;
                let until = now + self.config.iwant_followup;
                self.promises
                    .add(key, self.peers.key(index), until, self.config.max_promises);
                self.announce(index);
            }
            _ => self.report_drop(index, None, DropReason::QueueFull),
        }
    }

    fn iwant(&mut self, index: u32, ids: &[Bytes]) {
        if self.score_of(index) < self.scorer.thresholds().gossip {
            return;
        }
        let sender = self.peers.key(index);
        for id in ids {
            let key = self.keys.id_key(id);
            let Some(record) = self
                .seen
                .find(key)
                .and_then(|record| self.records.of(record, key))
            else {
                continue;
            };
            let Some(message) = record
                .message
                .clone()
                .filter(|_| !record.state.is_pending())
            else {
                continue;
            };
            let Some(peer) = self.peers.get_mut(index) else {
                return;
            };
            if peer.is_unwanted(key) {
                self.metrics.idontwant_saved += 1;
                continue;
            }
            if !record.may_serve(sender, self.config.gossip_retransmission)
                || peer.iwant_allowance == 0
            {
                self.metrics.iwant_refused += 1;
                continue;
            }
            let len = message.encoded.len();
            if encode::field_len(2, len) > peer.limits.max_rpc {
                self.report_drop(index, Some(key), DropReason::TooLarge);
                continue;
            }
            peer.iwant_allowance = peer.iwant_allowance.saturating_sub(len);
            let message = QueuedMessage { message, key };
            if peer
                .queue
                .push_gossip(Gossip::Served(message), &self.config.queue)
                .is_err()
            {
                self.report_drop(index, Some(key), DropReason::QueueFull);
                continue;
            }
            self.metrics.iwant_served += 1;
            self.metrics.iwant_bytes += len as u64;
        }
        self.announce(index);
    }

    fn grafted(&mut self, now: Instant, index: u32, topic: &[u8]) {
        self.metrics.grafts_in += 1;
        // A topic that we are not subscribed to gets no answer, so that nobody learns peers or fills tables by asking.
        let Some(topic) = self
            .topics
            .find_bytes(topic)
            .filter(|topic| self.joined.contains(topic))
        else {
            self.metrics.grafts_unknown += 1;
            return;
        };
        let (Some(peer), Some(entry)) = (self.peers.get(index), self.topics.get(topic)) else {
            return;
        };
        if entry.in_mesh(index) {
            return;
        }
        let (direct, outbound) = (peer.direct, peer.outbound);
        let full = entry.mesh().len() >= self.config.d_high;
        let backoff = entry
            .backoff
            .get(&peer.id)
            .copied()
            .filter(|until| now < *until);
        let backoff_time = self.config.prune_backoff;
        if direct {
            self.reply_prune(now, index, topic, false);
        } else if let Some(until) = backoff {
            self.penalize(index, Misbehaviour::GraftInBackoff, 1);
            let flood = (until + self.config.graft_flood_threshold).checked_sub(backoff_time);
            if flood.is_some_and(|cutoff| now < cutoff) {
                self.penalize(index, Misbehaviour::GraftFlood, 1);
            }
            self.back_off(now, index, topic, backoff_time);
            self.reply_prune(now, index, topic, false);
        } else if self.score_of(index) < 0.0 {
            self.back_off(now, index, topic, backoff_time);
            self.reply_prune(now, index, topic, false);
        } else if full && !outbound {
            self.back_off(now, index, topic, backoff_time);
            self.reply_prune(now, index, topic, self.config.peer_exchange);
        } else {
            self.enter_mesh(
                now,
                MeshPeer {
                    peer: index,
                    near: false,
                },
                topic,
                true,
            );
        }
    }

    /// PRUNE in answer to a GRAFT, of which there is a limit in a second.
    fn reply_prune(&mut self, now: Instant, index: u32, topic: u32, exchange: bool) {
        let per_heartbeat =
            f64::from(self.config.max_prune_replies) * self.config.heartbeat_interval.as_secs_f64();
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if peer.this_heartbeat.prune_replies >= (per_heartbeat as u32).max(1) {
            return;
        }
        peer.this_heartbeat.prune_replies += 1;
        self.send_prune(now, index, topic, self.config.prune_backoff, exchange);
    }

    fn pruned(&mut self, now: Instant, index: u32, prune: &Prune) {
        self.metrics.prunes_in += 1;
        let Some(topic) = self
            .topics
            .find_bytes(&prune.topic)
            .filter(|topic| self.joined.contains(topic))
        else {
            return;
        };
        self.leave_mesh(index, topic, PruneReason::ByPeer);
        let backoff = match prune.backoff {
            0 => self.config.prune_backoff,
            seconds => Duration::from_secs(seconds.min(self.config.max_backoff.as_secs())),
        };
        self.back_off(now, index, topic, backoff);
        if !prune.peers.is_empty() && self.score_of(index) >= self.scorer.thresholds().accept_px {
            self.take_offered(index, &prune.peers);
        }
    }

    /// Asks the owner to connect to some of the peers that a peer offered. A record must be signed by the peer that it is about;
    /// of a peer without one the owner has to know addresses already.
    fn take_offered(&mut self, index: u32, offered: &[PeerInfo]) {
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        let left = self
            .config
            .prune_peers
            .saturating_sub(peer.this_heartbeat.px);
        let mut order: Vec<usize> = (0..offered.len()).collect();
        let count = left.min(order.len());
        self.rng.partial_shuffle(&mut order, count);
        peer.this_heartbeat.px += count;
        for info in order[..count].iter().filter_map(|at| offered.get(*at)) {
            let Ok(peer_id) = PeerId::from_bytes(&info.peer_id) else {
                continue;
            };
            if peer_id == self.local || self.peers.find(&peer_id).is_some() {
                continue;
            }
            let record = if info.record.is_empty() {
                None
            } else {
                match PeerRecord::from_envelope(&info.record) {
                    Ok(record) if record.peer_id == peer_id => Some(record),
                    _ => continue,
                }
            };
            self.metrics.px_connects += 1;
            self.outputs.push_back(Output::Connect(ConnectRequest {
                peer_id,
                record,
                direct: false,
            }));
        }
    }

    fn idontwant(&mut self, index: u32, ids: &[Bytes]) {
        self.metrics.idontwant_ids_in += ids.len() as u64;
        let (max_messages, max_length) = (
            self.config.max_idontwant_messages,
            self.config.max_idontwant_length,
        );
        let until = self.tick + u64::from(self.config.idontwant_ttl);
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if peer.this_heartbeat.idontwant_messages >= max_messages {
            self.metrics.idontwant_ignored += ids.len() as u64;
            return;
        }
        peer.this_heartbeat.idontwant_messages += 1;
        let unwanted = peer.unwanted.get_or_insert_default();
        let mut taken = 0;
        for id in ids.iter().take(max_length) {
            if unwanted.insert(self.keys.id_key(id), until, self.config.max_idontwant_ids) {
                taken += 1;
            }
        }
        self.metrics.idontwant_ignored += (ids.len() - taken) as u64;
    }
}
