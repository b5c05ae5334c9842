//! Answers about messages: of those who check signatures, and of validators.

use std::time::Instant;

use super::Router;
use crate::{
    Acceptance, Delivery, Event, MessageHandle, Output, RejectReason, SeqnoPolicy, cache::State,
    gater::Outcome,
};

impl Router {
    /// Whether a signature was its author's. Unknown handles are ignored: the message was given up.
    pub fn verified(&mut self, now: Instant, handle: MessageHandle, valid: bool) {
        let Some(index) = self.records.check(handle) else {
            return;
        };
        if self
            .records
            .get(index)
            .is_none_or(|record| record.state != State::Verifying)
        {
            return;
        }
        if !valid {
            self.reject_unverified(index);
            return;
        }
        let Some(record) = self.records.get(index) else {
            return;
        };
        let key = record.key;
        let primary = self.seen.find(key).filter(|primary| *primary != index);
        if let Some(primary) = primary
            && self
                .records
                .of(primary, key)
                .is_none_or(|p| p.state != State::Verifying)
        {
            // Another message with this id was right before: this one is a duplicate, and its sender not to blame.
            self.settle(index);
            let sender = self.records.get(index).and_then(|r| r.first);
            self.drop_record(index);
            if let Some(sender) = sender.and_then(|sender| self.peers.check(sender)) {
                self.duplicate(now, sender, primary, key);
            }
            return;
        }
        if let Some(primary) = primary
            && let Some(record) = self.records.get_mut(primary)
        {
            let mut rivals = std::mem::take(&mut record.rivals);
            rivals.retain(|rival| *rival != index);
            rivals.push(primary);
            if let Some(record) = self.records.get_mut(index) {
                record.rivals = rivals;
            }
        }
        self.seen.insert(key, index);
        self.checked(now, index);
    }

    /// A message whose signature is right, or that needs none.
    pub(super) fn checked(&mut self, now: Instant, index: u32) {
        let Some(record) = self.records.get_mut(index) else {
            return;
        };
        record.state = State::Validating;
        self.promises.keep(record.key);
        if self.config.seqno_policy == SeqnoPolicy::Increasing
            && let Some(author) = record.author
        {
            let bytes = record
                .message
                .as_ref()
                .and_then(|m| <[u8; 8]>::try_from(m.seqno.as_deref()?).ok());
            let seqno = bytes.map_or(0, u64::from_be_bytes);
            if !self.seqnos.advance(author, seqno) {
                self.finish(now, index, Acceptance::Ignore);
                return;
            }
        }
        if self
            .topics
            .get(record.topic)
            .is_some_and(|topic| topic.config.validate)
        {
            if let Some(delivery) = self.delivery(index) {
                self.outputs.push_back(Output::Validate(delivery));
            }
        } else {
            self.finish(now, index, Acceptance::Accept);
        }
    }

    /// A validator's answer. Unknown handles are ignored: the message was given up.
    pub fn validated(&mut self, now: Instant, handle: MessageHandle, acceptance: Acceptance) {
        if let Some(index) = self.records.check(handle)
            && self
                .records
                .get(index)
                .is_some_and(|record| record.state == State::Validating)
        {
            self.finish(now, index, acceptance);
        }
    }

    fn delivery(&self, index: u32) -> Option<Delivery> {
        let record = self.records.get(index)?;
        Some(Delivery {
            handle: self.records.handle(index),
            id: record.id.clone(),
            topic: self.topics.get(record.topic)?.name.clone(),
            received_from: record.first_id?,
            message: record.message.clone()?,
        })
    }

    fn finish(&mut self, now: Instant, index: u32, acceptance: Acceptance) {
        self.settle(index);
        let Some(record) = self.records.get_mut(index) else {
            return;
        };
        let (topic, first) = (record.topic, record.first);
        let senders: Vec<_> = record.others.clone();
        let outcome = match acceptance {
            Acceptance::Accept => Some(Outcome::Delivered),
            Acceptance::Ignore => Some(Outcome::Ignored),
            // Counted with those who sent it too.
            Acceptance::Reject => None,
        };
        if let (Some(outcome), Some(index)) = (outcome, first.and_then(|k| self.peers.check(k))) {
            self.account(index, outcome);
        }
        let Some(record) = self.records.get_mut(index) else {
            return;
        };
        match acceptance {
            Acceptance::Accept => {
                record.state = State::Valid(now);
                let quotas = self.counts_for_quotas(index);
                if let Some(peer) = first
                    .and_then(|k| self.peers.check(k))
                    .and_then(|i| self.peers.get_mut(i))
                {
                    self.scorer
                        .first_delivery(peer, &mut self.topics, topic, quotas);
                }
                for key in senders {
                    if quotas
                        && let Some(peer) =
                            self.peers.check(key).and_then(|i| self.peers.get_mut(i))
                    {
                        self.scorer
                            .near_first_delivery(peer, &mut self.topics, topic, None);
                    }
                }
                self.metrics.delivered += 1;
                if let Some(delivery) = self.delivery(index) {
                    self.outputs.push_back(Output::Deliver(delivery));
                }
                self.forward(now, index);
                self.records.remember(index, self.config.history_bytes);
            }
            Acceptance::Reject => {
                record.state = State::Invalid;
                self.records.forget(index);
                for key in first.into_iter().chain(senders) {
                    self.invalid(key, topic, RejectReason::Validator);
                }
            }
            Acceptance::Ignore => {
                record.state = State::Ignored;
                self.records.forget(index);
                self.metrics.ignored += 1;
            }
        }
    }

    /// Whether deliveries of the message count for P3: under relative quotas, only those that peers are not told not to send.
    pub(super) fn counts_for_quotas(&self, index: u32) -> bool {
        let Some(record) = self.records.get(index) else {
            return false;
        };
        let relative = self
            .topics
            .get(record.topic)
            .and_then(|t| t.score.as_ref())
            .is_some_and(|p| p.mesh_deliveries_relative.is_some());
        let len = record
            .message
            .as_ref()
            .and_then(|m| m.data.as_ref())
            .map_or(0, |d| d.len());
        !relative || (record.message.is_some() && len < self.config.idontwant_threshold)
    }

    /// The message does not wait any more.
    fn settle(&mut self, index: u32) {
        let Some(record) = self.records.get(index).filter(|r| r.state.is_pending()) else {
            return;
        };
        self.pending -= 1;
        let bytes = record.message.as_ref().map_or(0, |m| m.encoded.len());
        self.pending_bytes -= bytes;
        if let Some(peer) = record
            .first
            .and_then(|key| self.peers.check(key))
            .and_then(|i| self.peers.get_mut(i))
        {
            peer.pending = peer.pending.saturating_sub(1);
            peer.pending_bytes = peer.pending_bytes.saturating_sub(bytes);
        }
    }

    /// Removes a record for good.
    pub(super) fn drop_record(&mut self, index: u32) {
        if let Some(record) = self.records.remove(index) {
            self.topics.release(record.topic);
        }
    }

    /// Gives up a message whose signature is wrong, or whose check brought no answer. Another message with its id takes its
    /// place; the id is not marked as seen, since anybody can put it on a message.
    fn reject_unverified(&mut self, index: u32) {
        self.settle(index);
        let Some(record) = self.records.get_mut(index) else {
            return;
        };
        let (topic, key, first) = (record.topic, record.key, record.first);
        let senders: Vec<_> = first
            .into_iter()
            .chain(record.others.iter().copied())
            .collect();
        let rivals = std::mem::take(&mut record.rivals);
        self.replace_pending(index, key, rivals);
        for sender in senders {
            self.invalid(sender, topic, RejectReason::InvalidSignature);
        }
        self.drop_record(index);
    }

    fn replace_pending(&mut self, index: u32, key: u128, mut rivals: Vec<u32>) {
        if self.seen.find(key) != Some(index) {
            // It was a rival itself.
            if let Some(primary) = self.seen.find(key)
                && let Some(record) = self.records.of(primary, key)
            {
                record.rivals.retain(|rival| *rival != index);
            }
            return;
        }
        rivals.retain(|rival| self.records.of(*rival, key).is_some());
        match rivals.pop() {
            Some(next) => {
                self.seen.insert_pending(key, next);
                if let Some(record) = self.records.get_mut(next) {
                    record.rivals = rivals;
                }
            }
            None => self.seen.remove(key),
        }
    }

    /// Gives up what waited too long, without blaming anybody.
    pub(super) fn give_up(&mut self, now: Instant, index: u32) {
        let Some(record) = self.records.get_mut(index) else {
            return;
        };
        if record.state == State::Validating {
            self.finish(now, index, Acceptance::Ignore);
            return;
        }
        self.metrics.ignored += 1;
        let key = record.key;
        let rivals = std::mem::take(&mut record.rivals);
        self.settle(index);
        self.promises.keep(key);
        self.replace_pending(index, key, rivals);
        self.drop_record(index);
    }

    /// P4 of a sender, and an event.
    pub(super) fn invalid(
        &mut self,
        sender: crate::PeerKey,
        topic: crate::topics::TopicIndex,
        reason: RejectReason,
    ) {
        self.metrics.rejected += 1;
        if let Some(index) = self.peers.check(sender) {
            self.account(index, Outcome::Rejected);
        }
        let Some(name) = self.topics.get(topic).map(|t| t.name.clone()) else {
            return;
        };
        if let Some(peer) = self.peers.check(sender).and_then(|i| self.peers.get_mut(i)) {
            self.scorer.invalid(peer, &mut self.topics, topic);
            self.event(Event::Rejected {
                peer: sender,
                topic: name,
                reason,
            });
        }
    }
}
