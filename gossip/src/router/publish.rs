//! Sending messages: our own and those of others.

use std::time::{Duration, Instant};

use barewire_base::{Fault, PeerId};

use super::{Router, SubscribeError};
use crate::{
    Delivery, DropReason, MessageId, OutgoingMessage, Output, Payload, Receipt, RejectReason,
    cache::State,
    message::check_presence,
    queue::{Class, QueuedMessage},
    rpc::encode,
    topics::{Fanout, TopicIndex},
};

/// How to publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishOptions {
    /// Hand the message to our own subscribers too, as go does.
    pub deliver_locally: bool,
    /// Send it to every peer of the topic, or only to the mesh; `None` for [`Config::flood_publish`](crate::Config::flood_publish).
    pub flood: Option<bool>,
    /// Wait up to this long until the queues of all peers that it goes to have room; then it is published to those that have.
    /// That is up to the driver: the router never waits, see [`Router::has_queue_space`].
    pub wait_for_space: Option<Duration>,
}

impl PublishOptions {
    /// Sets how long to wait for room in the queues.
    #[must_use]
    pub const fn wait_for_space(mut self, time: Duration) -> Self {
        self.wait_for_space = Some(time);
        self
    }

    /// Sets whether our own subscribers get the message.
    #[must_use]
    pub const fn deliver_locally(mut self, deliver: bool) -> Self {
        self.deliver_locally = deliver;
        self
    }

    /// Sets whether every peer of the topic is sent the message.
    #[must_use]
    pub const fn flood(mut self, flood: bool) -> Self {
        self.flood = Some(flood);
        self
    }
}

/// Why a message is not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Its payload is longer than the topic allows.
    #[error("the message has {len} bytes, the topic allows {max}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A message with its id was published or received before.
    #[error("a message with this id was seen before")]
    Duplicate(MessageId),
    /// It was not made under the router's signature policy; peers would refuse it.
    #[error("the message does not follow the signature policy: {0:?}")]
    Policy(RejectReason),
    /// Its topic cannot be used.
    #[error(transparent)]
    Topic(#[from] SubscribeError),
    /// There is no room for its record: every record belongs to a message that waits for a validator.
    #[error("too many messages wait for validation")]
    Full,
}

impl PublishError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::TooLarge { .. } | Self::Duplicate(_) | Self::Policy(_) => Fault::Local,
            Self::Topic(error) => error.fault(),
            Self::Full => Fault::Limit,
        }
    }
}

impl Router {
    /// Publishes a message; to a topic that we are not subscribed to, too. The receipt says what became of it at each peer; without
    /// peers it is empty. See [`reachable`](Self::reachable) to wait for some.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was sent then.
    pub fn publish(
        &mut self,
        now: Instant,
        message: &OutgoingMessage,
        options: PublishOptions,
    ) -> Result<Receipt, PublishError> {
        self.wake(now);
        let message = message.message.clone();
        let name = message
            .topic
            .as_deref()
            .and_then(|t| std::str::from_utf8(t).ok())
            .unwrap_or_default();
        let topic = self.intern_own(name)?;
        let checked = self.check_publish(topic, &message);
        let id = match checked {
            Ok(id) => id,
            Err(error) => {
                self.topics.collect(topic);
                return Err(error);
            }
        };
        let key = self.keys.id_key(id.as_bytes());
        self.topics.retain(topic);
        let state = State::Valid(now);
        let record = self.records.insert(
            now,
            key,
            id.clone(),
            topic,
            state,
            message.clone(),
            Some(self.local),
            None,
        );
        self.seen.insert(key, record);
        self.metrics.published += 1;
        let flood = options.flood.unwrap_or(self.config.flood_publish);
        let mut receipt = Receipt {
            id: Some(id.clone()),
            ..Receipt::default()
        };
        for index in self.recipients(now, topic, flood) {
            let peer = self.peers.key(index);
            let waits = self.peers.get(index).is_some_and(|p| !p.queue.is_empty());
            match self.queue_message(
                index,
                Class::Own,
                &QueuedMessage {
                    message: message.clone(),
                    key,
                },
            ) {
                Ok(()) if waits => receipt.queued.push(peer),
                Ok(()) => receipt.sent.push(peer),
                Err(reason) => receipt.dropped.push((peer, reason)),
            }
        }
        if options.deliver_locally && self.joined.contains(&topic) {
            let topic = self
                .topics
                .get(topic)
                .map_or_else(|| name.into(), |t| t.name.clone());
            let handle = self.records.handle(record);
            let received_from = self.local;
            self.outputs.push_back(Output::Deliver(Delivery {
                handle,
                id,
                topic,
                received_from,
                message,
            }));
        }
        self.records.remember(record, self.config.history_bytes);
        Ok(receipt)
    }

    fn check_publish(
        &mut self,
        topic: TopicIndex,
        message: &crate::rpc::WireMessage,
    ) -> Result<MessageId, PublishError> {
        let Some(entry) = self.topics.get(topic) else {
            return Err(SubscribeError::TooManyTopics(self.topics.len()).into());
        };
        check_presence(
            message,
            self.config.signature_policy,
            self.config.seqno_policy,
        )
        .map_err(PublishError::Policy)?;
        let (len, max) = (
            message.data.as_ref().map_or(0, Payload::len),
            entry.config.max_message_size,
        );
        if len > max {
            return Err(PublishError::TooLarge { len, max });
        }
        let id = entry.config.message_id.id(message);
        if self.seen.find(self.keys.id_key(id.as_bytes())).is_some() {
            return Err(PublishError::Duplicate(id));
        }
        if !self.records.has_room()
            && let Some(oldest) = self.records.take_oldest()
        {
            self.drop_record(oldest);
        }
        if self.records.has_room() {
            Ok(id)
        } else {
            Err(PublishError::Full)
        }
    }

    /// Peers that a message published now would be sent to. Wait for it to grow, by [`Event::Subscribed`](crate::Event::Subscribed)
    /// and [`Event::Grafted`](crate::Event::Grafted), before a first message.
    #[must_use]
    pub fn reachable(&self, topic: &str) -> usize {
        let Some(entry) = self
            .topics
            .find(topic)
            .and_then(|index| self.topics.get(index))
        else {
            return 0;
        };
        let threshold = self.scorer.thresholds().publish;
        let willing = entry
            .members
            .iter()
            .filter(|i| self.score_of(**i) >= threshold)
            .count();
        if self.config.flood_publish {
            return willing;
        }
        let flood = |index: u32| {
            self.peers
                .get(index)
                .is_some_and(|p| p.direct || !p.version.has_mesh())
        };
        let always = entry.members.iter().filter(|i| flood(**i)).count();
        let mesh = entry.mesh().len();
        always
            + if mesh >= self.config.d_low {
                mesh
            } else {
                willing.saturating_sub(always).min(self.config.d).max(mesh)
            }
    }

    /// Whether the queues of all peers that would be sent a message have room for one of `len` payload bytes. Where not, wait for
    /// [`Event::Drained`](crate::Event::Drained), or publish and learn from the receipt who was left out.
    #[must_use]
    pub fn has_queue_space(&self, topic: &str, len: usize) -> bool {
        let Some(entry) = self
            .topics
            .find(topic)
            .and_then(|index| self.topics.get(index))
        else {
            return true;
        };
        let limits = &self.config.queue;
        let fits = |index: u32| {
            self.peers.get(index).is_none_or(|p| {
                p.queue.items() == 0
                    || (p.queue.items() < limits.max_items
                        && p.queue.bytes() + len + 512 <= limits.max_bytes)
            })
        };
        let flooded = self.config.flood_publish || entry.joined.is_none();
        if flooded {
            entry.members.iter().all(|i| fits(*i))
        } else {
            entry.mesh().iter().all(|m| fits(m.peer))
        }
    }

    /// Peers that one of our own messages goes to.
    fn recipients(&mut self, now: Instant, topic: TopicIndex, flood: bool) -> Vec<u32> {
        let threshold = self.scorer.thresholds().publish;
        if !flood && !self.joined.contains(&topic) {
            self.refresh_fanout(now, topic);
        }
        let Some(entry) = self.topics.get(topic) else {
            return Vec::new();
        };
        let mut chosen: Vec<u32> = Vec::new();
        let mut others: Vec<u32> = Vec::new();
        for &index in &entry.members {
            let Some(peer) = self.peers.get(index) else {
                continue;
            };
            let willing = peer.direct || self.scorer.score(peer, &self.topics) >= threshold;
            let always = peer.direct || !peer.version.has_mesh() || flood;
            if always && willing {
                chosen.push(index);
            } else if willing && !entry.in_mesh(index) {
                others.push(index);
            }
        }
        if !flood {
            let mesh = entry.mesh().iter().map(|m| m.peer);
            let fanout = entry
                .fanout
                .as_ref()
                .map_or(&[][..], |f| &f.peers)
                .iter()
                .copied();
            let regular: Vec<u32> = mesh
                .chain(fanout)
                .filter(|index| !chosen.contains(index))
                .collect();
            let missing = self.config.d.saturating_sub(regular.len());
            let young = entry.joined.is_some() && regular.len() < self.config.d_low;
            chosen.extend(regular);
            if young {
                // A mesh that is not formed yet would lose messages.
                self.rng.partial_shuffle(&mut others, missing);
                chosen.extend(others.into_iter().take(missing));
            }
        }
        chosen.retain(|index| !self.wants_parts(*index, topic));
        chosen
    }

    /// Whether the peer is sent parts instead of whole messages.
    pub(super) fn wants_parts(&self, index: u32, topic: TopicIndex) -> bool {
        self.config.partial_messages.is_some()
            && self
                .topics
                .get(topic)
                .and_then(|t| t.joined.as_ref())
                .is_some_and(|j| j.supports_partial)
            && self.peers.get(index).is_some_and(|p| {
                p.extensions.is_some_and(|e| e.partial_messages)
                    && p.link(topic).is_some_and(|l| l.requests_partial)
            })
    }

    /// Chooses peers for a topic that we publish to without being subscribed.
    fn refresh_fanout(&mut self, now: Instant, topic: TopicIndex) {
        let threshold = self.scorer.thresholds().publish;
        let empty = self
            .topics
            .get(topic)
            .is_some_and(|t| t.fanout.as_ref().is_none_or(|f| f.peers.is_empty()));
        if empty {
            if !self.fanout.contains(&topic) && self.fanout.len() >= self.config.max_fanout_topics {
                self.drop_oldest_fanout();
            }
            let candidates = self.candidates(now, topic, |_, score| score >= threshold);
            let peers = self
                .choose(topic, candidates, self.config.d)
                .into_iter()
                .map(|m| m.peer)
                .collect();
            if let Some(entry) = self.topics.get_mut(topic) {
                entry.fanout = Some(Fanout {
                    peers,
                    last_publish: now,
                });
                self.fanout.insert(topic);
            }
        }
        if let Some(fanout) = self.topics.get_mut(topic).and_then(|t| t.fanout.as_mut()) {
            fanout.last_publish = now;
        }
    }

    fn drop_oldest_fanout(&mut self) {
        let age = |topic: &TopicIndex| {
            self.topics
                .get(*topic)
                .and_then(|t| t.fanout.as_ref())
                .map(|f| f.last_publish)
        };
        if let Some(oldest) = self.fanout.iter().copied().min_by_key(age) {
            self.drop_fanout(oldest);
        }
    }

    pub(super) fn drop_fanout(&mut self, topic: TopicIndex) {
        self.fanout.remove(&topic);
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.fanout = None;
        }
        self.topics.collect(topic);
    }

    /// Sends an accepted message on: to direct and floodsub peers and the mesh, not to those who are known to have it.
    pub(super) fn forward(&mut self, now: Instant, index: u32) {
        let Some(record) = self.records.get(index) else {
            return;
        };
        let (topic, key, first, author) = (record.topic, record.key, record.first, record.author);
        let (Some(message), Some(entry)) = (record.message.clone(), self.topics.get(topic)) else {
            return;
        };
        // Of long messages every copy that is saved counts; short ones go to those who sent them too, because their owners may
        // count our deliveries.
        let long = message.data.as_ref().map_or(0, Payload::len) >= self.config.idontwant_threshold;
        let author: Option<PeerId> = author;
        let threshold = self.scorer.thresholds().publish;
        let mut chosen: Vec<u32> = entry.mesh().iter().map(|m| m.peer).collect();
        for &member in &entry.members {
            if let Some(peer) = self.peers.get(member)
                && (peer.direct || !peer.version.has_mesh())
                && (peer.direct || self.scorer.score(peer, &self.topics) >= threshold)
            {
                chosen.push(member);
            }
        }
        chosen.retain(|peer| {
            let key = self.peers.key(*peer);
            let has_it = Some(key) == first || (long && record.others.contains(&key));
            !has_it && self.peers.get(*peer).is_some_and(|p| Some(p.id) != author)
        });
        for peer in chosen {
            if !self.wants_parts(peer, topic) {
                let message = QueuedMessage {
                    message: message.clone(),
                    key,
                };
                // What is dropped was counted and reported.
                let _ = self.queue_message(peer, Class::Forward, &message);
                self.queue_grew(now, peer);
            }
        }
    }

    /// Queues a message for a peer, and reports what had to give way.
    fn queue_message(
        &mut self,
        index: u32,
        class: Class,
        message: &QueuedMessage,
    ) -> Result<(), DropReason> {
        let Some(peer) = self.peers.get_mut(index) else {
            return Err(DropReason::Disconnected);
        };
        if peer.is_unwanted(message.key) {
            self.metrics.idontwant_saved += 1;
            return Err(DropReason::Unwanted);
        }
        if encode::field_len(2, message.message.encoded.len()) > peer.limits.max_rpc {
            self.report_drop(index, Some(message.key), DropReason::TooLarge);
            return Err(DropReason::TooLarge);
        }
        let mut displaced = Vec::new();
        let queued = peer
            .queue
            .push_message(class, message.clone(), &self.config.queue, |key| {
                displaced.push(key)
            });
        for key in displaced {
            self.report_drop(index, key, DropReason::Displaced);
        }
        match queued {
            Ok(()) => {
                self.metrics.messages_queued += 1;
                self.announce(index);
            }
            Err(reason) => self.report_drop(index, Some(message.key), reason),
        }
        queued
    }
}
