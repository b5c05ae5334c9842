//! What peers send: subscriptions and messages.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::BytesMut;

use super::Router;
use crate::{
    Event, MAX_MESSAGE_SIZE, Misbehaviour, Output, Payload, PeerKey, PeerLimits, PruneReason,
    RPC_OVERHEAD, RejectReason, SignaturePolicy, VerifyRequest,
    cache::State,
    gater::Outcome,
    message,
    rpc::{self, Extensions, Rpc, RpcError, Subscription, WireMessage},
    topics::TopicIndex,
};

/// Messages below this are copied out of the buffer they came in, which is much longer and would be pinned by them.
const COPY_OUT_BELOW: usize = 1024;

/// Raises limits to the size that a peer announced.
pub(super) fn widen(limits: &mut PeerLimits, announced: u64) {
    let most = MAX_MESSAGE_SIZE + RPC_OVERHEAD;
    let announced = usize::try_from(announced).unwrap_or(most).min(most);
    limits.max_rpc = limits.max_rpc.max(announced);
}

impl Router {
    /// An RPC of a peer: the body of a frame.
    ///
    /// # Errors
    /// [`RpcError`] if it is malformed or beyond the limits; the peer is penalised. Reset its stream then.
    pub fn receive(&mut self, now: Instant, peer: PeerKey, body: &Payload) -> Result<(), RpcError> {
        let Some(index) = self.peers.check(peer) else {
            return Ok(());
        };
        self.metrics.rpcs_in += 1;
        let rpc = match Rpc::decode(body, &self.config.rpc_limits) {
            Ok(rpc) => rpc,
            Err(error) => {
                self.metrics.rpcs_malformed += 1;
                self.penalize(index, Misbehaviour::MalformedRpc, 1);
                return Err(error);
            }
        };
        if rpc.subscriptions.len() > self.config.max_subscription_changes {
            self.metrics.subscriptions_ignored += rpc.subscriptions.len() as u64;
            return Ok(());
        }
        self.subscription_changes(index, &rpc.subscriptions);
        let direct = self.peers.get(index).is_some_and(|p| p.direct);
        if !direct && self.score_of(index) < self.scorer.thresholds().graylist {
            self.metrics.rpcs_graylisted += 1;
            return Ok(());
        }
        if direct || rpc.publish.is_empty() || self.admits(now, index) {
            for message in rpc.publish {
                self.message(now, index, message);
            }
        } else {
            self.metrics.gated += rpc.publish.len() as u64;
            for message in &rpc.publish {
                self.leave_out(message);
            }
        }
        self.extensions(index, rpc.control.extensions);
        if rpc.test_extension {
            self.test_extension(index);
        }
        if let Some(partial) = rpc.partial {
            self.partial(index, partial);
        }
        if self.peers.get(index).is_some_and(|p| p.version.has_mesh()) {
            self.control(now, index, &rpc.control);
        }
        Ok(())
    }

    /// What the gater says about the messages of an RPC.
    fn admits(&mut self, now: Instant, index: u32) -> bool {
        let (Some(gater), Some(peer)) = (&self.gater, self.peers.get(index)) else {
            return true;
        };
        if !gater.is_on(now) {
            return true;
        }
        let draw = (self.rng.next() >> 11) as f64 / (1u64 << 53) as f64;
        gater.admits(peer, draw)
    }

    /// A message that is not looked at: who promised it has kept its word.
    fn leave_out(&mut self, message: &WireMessage) {
        let name = message.topic.as_deref().unwrap_or_default();
        let topic = self.topics.find_bytes(name);
        if let Some(entry) = topic.and_then(|topic| self.topics.get(topic)) {
            let id = entry.config.message_id.id(message);
            self.promises.keep(self.keys.id_key(id.as_bytes()));
        }
    }

    fn subscription_changes(&mut self, index: u32, changes: &[Subscription]) {
        if let [change] = changes {
            self.subscription(index, change);
            return;
        }
        // The last word on a topic counts, and contradicting ones cancel out.
        let mut last: BTreeMap<&[u8], Option<&Subscription>> = BTreeMap::new();
        for change in changes {
            let entry = last.entry(&change.topic).or_insert(Some(change));
            *entry = entry
                .filter(|old| old.subscribe == change.subscribe)
                .map(|_| change);
        }
        for change in last.into_values().flatten() {
            self.subscription(index, change);
        }
    }

    fn subscription(&mut self, index: u32, change: &Subscription) {
        let key = self.peers.key(index);
        if !change.subscribe {
            let Some(topic) = self.topics.find_bytes(&change.topic) else {
                return;
            };
            let name = self.topics.get(topic).map(|t| t.name.clone());
            self.leave_mesh(index, topic, PruneReason::Unsubscribed);
            if let Some(fanout) = self.topics.get_mut(topic).and_then(|t| t.fanout.as_mut()) {
                fanout.peers.retain(|p| *p != index);
            }
            if self.peers.unlink(&mut self.topics, index, topic)
                && let Some(topic) = name
            {
                self.event(Event::Unsubscribed { peer: key, topic });
            }
            return;
        }
        let Some(name) = std::str::from_utf8(&change.topic)
            .ok()
            .filter(|n| n.len() <= self.config.max_topic_len)
        else {
            self.metrics.subscriptions_ignored += 1;
            return;
        };
        let known = self.topics.find(name);
        let Some(peer) = self.peers.get(index) else {
            return;
        };
        let has_it = known.is_some_and(|topic| peer.link(topic).is_some());
        let refused = !has_it
            && (peer.links.len() >= self.config.max_topics_per_peer
                || !self.config.subscription_filter.allows(name));
        let topic = if refused { None } else { self.intern(name) };
        let Some(topic) = topic else {
            self.metrics.subscriptions_ignored += 1;
            return;
        };
        let partial = (change.requests_partial, change.supports_partial);
        if self.peers.link(&mut self.topics, index, topic, partial)
            && let Some(entry) = self.topics.get(topic)
        {
            let topic = entry.name.clone();
            self.event(Event::Subscribed { peer: key, topic });
        }
    }

    fn extensions(&mut self, index: u32, announced: Option<Extensions>) {
        let own = self.own_extensions();
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if !peer.version.has_extensions() {
            return;
        }
        if peer.extensions.is_some() {
            if announced.is_some() {
                self.penalize(index, Misbehaviour::Extensions, 10);
            }
            return;
        }
        let announced = announced.unwrap_or_default();
        peer.extensions = Some(announced);
        widen(&mut peer.limits, announced.max_message_size);
        if own.test_extension && announced.test_extension && !peer.test_sent {
            peer.test_sent = true;
            peer.queue.push_test();
            self.announce(index);
        }
    }

    fn test_extension(&mut self, index: u32) {
        let agreed = self
            .peers
            .get(index)
            .and_then(|p| p.extensions)
            .is_some_and(|e| e.test_extension);
        if agreed && self.config.test_extension {
            self.event(Event::TestExtension {
                peer: self.peers.key(index),
            });
        }
    }

    fn message(&mut self, now: Instant, index: u32, message: WireMessage) {
        self.metrics.messages_in += 1;
        let sender = self.peers.key(index);
        let name = message.topic.as_deref().unwrap_or_default();
        let Some(topic) = self
            .topics
            .find_bytes(name)
            .filter(|topic| self.joined.contains(topic))
        else {
            self.metrics.unsubscribed += 1;
            return;
        };
        let Some(entry) = self.topics.get(topic) else {
            return;
        };
        let len = message.data.as_ref().map_or(0, Payload::len);
        if len > entry.config.max_message_size {
            // Not punished: the peer may be configured otherwise.
            self.metrics.rejected += 1;
            let topic = entry.name.clone();
            self.event(Event::Rejected {
                peer: sender,
                topic,
                reason: RejectReason::TooLarge,
            });
            return;
        }
        if message
            .from
            .as_deref()
            .is_some_and(|from| from == self.local.as_bytes())
        {
            // Some stacks send a message to its author too when it came to them by another: no harm is meant.
            let id = entry.config.message_id.id(&message);
            let key = self.keys.id_key(id.as_bytes());
            if self.seen.find(key).is_some() {
                self.metrics.duplicates += 1;
            } else {
                self.invalid(sender, topic, RejectReason::SelfOrigin);
            }
            return;
        }
        let policy = self.config.signature_policy;
        let author = match message::check_presence(&message, policy, self.config.seqno_policy) {
            Ok(author) => author,
            Err(reason) => {
                self.invalid(sender, topic, reason);
                return;
            }
        };
        let id = entry.config.message_id.id(&message);
        let key = self.keys.id_key(id.as_bytes());
        if self.config.report_receipts {
            let topic = entry.name.clone();
            self.event(Event::Received {
                peer: sender,
                topic,
                id: id.clone(),
                duplicate: self.seen.find(key).is_some(),
            });
        }
        let mut rival_of = None;
        if let Some(record) = self.seen.find(key) {
            let verifying = self
                .records
                .of(record, key)
                .is_some_and(|known| known.state == State::Verifying);
            if !verifying || self.joins_pending(record, key, &message, sender) {
                self.duplicate(now, index, record, key);
                return;
            }
            rival_of = Some(record);
        }
        if !self.has_pending_room(index, message.encoded.len(), rival_of) {
            self.metrics.throttled += 1;
            self.promises.keep(key);
            if let Some(gater) = &mut self.gater {
                gater.throttled(now);
            }
            return;
        }
        if let Some(gater) = &mut self.gater {
            gater.validating();
        }
        let message = Arc::new(self.copy_out(message));
        if rival_of.is_none() && len >= self.config.idontwant_threshold {
            self.send_idontwant(index, topic, id.as_bytes());
        }
        let state = if policy == SignaturePolicy::StrictSign {
            State::Verifying
        } else {
            State::Validating
        };
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        peer.pending += 1;
        peer.pending_bytes += message.encoded.len();
        let first = Some((sender, peer.id));
        self.pending += 1;
        self.pending_bytes += message.encoded.len();
        self.topics.retain(topic);
        let record =
            self.records
                .insert(now, key, id, topic, state, message.clone(), author, first);
        if state == State::Validating {
            self.seen.insert(key, record);
            self.checked(now, record);
            return;
        }
        match rival_of.and_then(|primary| self.records.of(primary, key)) {
            Some(primary) => primary.rivals.push(record),
            None => self.seen.insert_pending(key, record),
        }
        self.metrics.verifications += 1;
        let handle = self.records.handle(record);
        self.outputs
            .push_back(Output::Verify(VerifyRequest { handle, message }));
    }

    /// While the signature of this id is checked: whether the very same message waits already. The sender is noted then.
    fn joins_pending(
        &mut self,
        primary: u32,
        key: u128,
        message: &WireMessage,
        sender: PeerKey,
    ) -> bool {
        let rivals = self
            .records
            .of(primary, key)
            .map(|r| r.rivals.clone())
            .unwrap_or_default();
        for index in std::iter::once(primary).chain(rivals) {
            let Some(record) = self.records.of(index, key) else {
                continue;
            };
            if record
                .message
                .as_ref()
                .is_some_and(|m| m.encoded == message.encoded)
            {
                if !record.was_sent_by(sender) {
                    record.others.push(sender);
                }
                return true;
            }
        }
        false
    }

    fn has_pending_room(&mut self, index: u32, bytes: usize, rival_of: Option<u32>) -> bool {
        let rivals = rival_of
            .and_then(|r| self.records.get(r))
            .map_or(0, |r| r.rivals.len());
        let own = self.peers.get(index).map_or(0, |p| p.pending);
        let bytes_fit =
            self.pending == 0 || self.pending_bytes + bytes <= self.config.max_pending_bytes;
        if rivals >= crate::cache::MAX_RIVALS
            || own >= self.config.max_pending_per_peer
            || self.pending >= self.config.max_pending
            || !bytes_fit
        {
            return false;
        }
        if !self.records.has_room()
            && let Some(oldest) = self.records.take_oldest()
        {
            self.drop_record(oldest);
        }
        self.records.has_room()
    }

    /// A short message must not pin the long buffer that it came in.
    fn copy_out(&mut self, message: WireMessage) -> WireMessage {
        let len = message.encoded.len();
        if len >= COPY_OUT_BELOW {
            return message;
        }
        match rpc::decode_message(message.encoded.copied().into()) {
            Ok(copy) => {
                self.metrics.bytes_copied += len as u64;
                copy
            }
            // It was decoded before from the same bytes.
            Err(_) => message,
        }
    }

    /// A message that is known came again.
    pub(super) fn duplicate(&mut self, now: Instant, index: u32, record: u32, key: u128) {
        self.metrics.duplicates += 1;
        self.account(index, Outcome::Duplicate);
        self.seen.touch(key);
        let sender = self.peers.key(index);
        let Some(known) = self
            .records
            .of(record, key)
            .filter(|known| !known.was_sent_by(sender))
        else {
            return;
        };
        known.others.push(sender);
        let (state, topic) = (known.state, known.topic);
        match state {
            State::Valid(at) => {
                let after = now.saturating_duration_since(at);
                if self.scorer.is_on()
                    && self.counts_for_quotas(record)
                    && let Some(peer) = self.peers.get_mut(index)
                {
                    self.scorer
                        .near_first_delivery(peer, &mut self.topics, topic, Some(after));
                }
            }
            State::Invalid => self.invalid(sender, topic, RejectReason::Validator),
            State::Verifying | State::Validating | State::Ignored => {}
        }
    }

    /// Tells the mesh that a message need not be sent, before it is even verified: that is when it helps most.
    fn send_idontwant(&mut self, from: u32, topic: TopicIndex, id: &[u8]) {
        let Some(entry) = self.topics.get(topic) else {
            return;
        };
        let requests_partial = entry.joined.as_ref().is_some_and(|j| j.requests_partial);
        let mut field = BytesMut::with_capacity(id.len() + 4);
        rpc::encode::put_bytes(1, id, &mut field);
        let field = field.freeze();
        let mesh: Vec<u32> = entry
            .mesh()
            .iter()
            .map(|m| m.peer)
            .filter(|peer| *peer != from)
            .collect();
        for index in mesh {
            let Some(peer) = self
                .peers
                .get_mut(index)
                .filter(|p| p.version.has_idontwant())
            else {
                continue;
            };
            if requests_partial && peer.link(topic).is_some_and(|link| link.supports_partial) {
                continue;
            }
            peer.queue.push_idontwant(field.clone());
            self.metrics.idontwant_sent += 1;
            self.announce(index);
        }
    }
}
