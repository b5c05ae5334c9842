//! The router: who is connected, who is in which mesh, what goes to whom.

mod control;
mod heartbeat;
mod inbound;
mod partial;
mod pressure;
mod publish;
mod select;
mod types;
mod validation;

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::PeerId;
use bytes::Bytes;

use crate::{
    Config, ConfigError, DropReason, Event, Metrics, Misbehaviour, OutFrame, Output, PeerKey,
    PeerLimits, PeerStatus, PruneReason, RPC_OVERHEAD, TopicConfig, Version,
    cache::{Promises, Records, Seen, Seqnos},
    gater::{Gater, Outcome},
    peers::{Counters, Peer, Peers},
    queue::{MeshChange, SendQueue},
    random::{HashKeys, Rng},
    rpc::Extensions,
    score::{Breakdown, Scorer, TopicScoreParams},
    topics::{Joined, TopicIndex, Topics},
};

pub use partial::PartialError;
pub use publish::{PublishError, PublishOptions};
pub use types::{ConnectError, NewPeer, Sizes, SubscribeError, SubscribeOptions};

/// Most bytes of a signed peer record that is kept and offered to others.
const MAX_RECORD: usize = 8 << 10;

/// The gossipsub router of one node. See the crate's documentation for how it is driven.
#[derive(Debug)]
pub struct Router {
    config: Config,
    local: PeerId,
    rng: Rng,
    keys: HashKeys,
    peers: Peers,
    topics: Topics,
    /// Topics that we are subscribed to.
    joined: BTreeSet<TopicIndex>,
    /// Topics that we publish to without being subscribed.
    fanout: BTreeSet<TopicIndex>,
    scorer: Scorer,
    gater: Option<Gater>,
    seen: Seen,
    records: Records,
    promises: Promises,
    seqnos: Seqnos,
    direct: BTreeSet<PeerId>,
    partials: partial::Partials,
    outputs: VecDeque<Output>,
    events_waiting: usize,
    pending: usize,
    pending_bytes: usize,
    crowded: Vec<pressure::Crowded>,
    tick: u64,
    next_heartbeat: Instant,
    next_direct: Option<Instant>,
    metrics: Metrics,
}

impl Router {
    /// A router of the node `local`. The same `seed` and calls give the same outputs; draw it from a good source in a node,
    /// because peers must not guess it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(
        config: Config,
        local: PeerId,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Rng::new(seed);
        let keys = HashKeys::new(&mut rng);
        Ok(Self {
            peers: Peers::new(keys.map()),
            topics: Topics::new(keys.map(), config.max_topics),
            joined: BTreeSet::new(),
            fanout: BTreeSet::new(),
            scorer: Scorer::new(config.score.clone(), keys.map(), now),
            gater: config
                .gater
                .map(|params| Gater::new(params, keys.map(), now)),
            seen: Seen::new(
                now,
                config.seen_ttl,
                config.seen_max_entries,
                config.seen_strategy,
            ),
            records: Records::new(config.max_records),
            promises: Promises::default(),
            seqnos: Seqnos::new(keys.map(), config.max_seqno_authors),
            direct: BTreeSet::new(),
            partials: partial::Partials::default(),
            outputs: VecDeque::new(),
            events_waiting: 0,
            pending: 0,
            pending_bytes: 0,
            crowded: Vec::new(),
            tick: 0,
            next_heartbeat: now + config.heartbeat_initial_delay,
            next_direct: None,
            metrics: Metrics::default(),
            config,
            local,
            rng,
            keys,
        })
    }

    /// What it was made with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Takes notice of a peer whose stream is open. Its first frame tells it our subscriptions.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(&mut self, now: Instant, new: NewPeer) -> Result<PeerKey, ConnectError> {
        if new.peer_id == self.local {
            return Err(ConnectError::Ourselves);
        }
        if let Some(index) = self.peers.find(&new.peer_id) {
            return Err(ConnectError::Connected(self.peers.key(index)));
        }
        if self.peers.len() >= self.config.max_peers {
            return Err(ConnectError::Full(self.peers.len()));
        }
        self.wake(now);
        let score = self.scorer.connect(&new.peer_id, new.address);
        if let Some(gater) = &mut self.gater {
            gater.connect(new.peer_id, new.address);
        }
        let key = self.peers.insert(Peer {
            id: new.peer_id,
            version: new.version,
            outbound: new.outbound,
            direct: self.direct.contains(&new.peer_id),
            limits: new.limits,
            address: new.address,
            rtt: None,
            record: None,
            links: Vec::new(),
            score,
            queue: SendQueue::default(),
            extensions: None,
            test_sent: false,
            pending: 0,
            pending_bytes: 0,
            this_heartbeat: Counters::default(),
            iwant_allowance: self.config.iwant_bytes_per_second,
            unwanted: None,
        });
        self.hello(key.index);
        Ok(key)
    }

    /// Our stream to the peer was opened again: everything queued is void, and it is greeted anew. Not more often than the peer
    /// bears, which for rust is four times a connection.
    pub fn restart_outbound(&mut self, peer: PeerKey, version: Version) {
        let Some(index) = self.peers.check(peer) else {
            return;
        };
        let Some(entry) = self.peers.get_mut(index) else {
            return;
        };
        entry.version = version;
        entry.test_sent = false;
        let lost = entry.queue.clear();
        self.queue_cleared(index);
        for message in lost {
            self.report_drop(index, Some(message.key), DropReason::Disconnected);
        }
        self.hello(index);
        let topics: Vec<TopicIndex> = self.joined.iter().copied().collect();
        for topic in topics {
            let Some(entry) = self.topics.get(topic).filter(|t| t.in_mesh(index)) else {
                continue;
            };
            let name = entry.name.clone();
            if version.has_mesh() {
                self.queue_mesh(index, &name, MeshChange::Graft);
            } else {
                self.leave_mesh(index, topic, PruneReason::Disconnected);
            }
        }
    }

    /// The peer ended its stream to us: its subscriptions are void until it says them again.
    pub fn inbound_closed(&mut self, peer: PeerKey) {
        if let Some(index) = self.peers.check(peer) {
            self.forget_subscriptions(index, PruneReason::Unsubscribed);
            if let Some(entry) = self.peers.get_mut(index) {
                entry.extensions = None;
            }
        }
    }

    /// The peer is gone. What waited for it is lost.
    pub fn disconnect(&mut self, now: Instant, peer: PeerKey) {
        let Some(index) = self.peers.check(peer) else {
            return;
        };
        self.forget_subscriptions(index, PruneReason::Disconnected);
        self.partials.disconnect(peer);
        let lost = self
            .peers
            .get_mut(index)
            .map(|p| p.queue.clear())
            .unwrap_or_default();
        self.queue_cleared(index);
        for message in lost {
            self.report_drop(index, Some(message.key), DropReason::Disconnected);
        }
        if let Some(entry) = self.peers.remove(index) {
            if let Some(gater) = &mut self.gater {
                gater.disconnect(entry.id, entry.address);
            }
            self.scorer.disconnect(now, entry, &mut self.topics);
        }
    }

    fn forget_subscriptions(&mut self, index: u32, reason: PruneReason) {
        let topics: Vec<TopicIndex> = self.joined.iter().copied().collect();
        for topic in topics {
            self.leave_mesh(index, topic, reason);
        }
        let topics: Vec<TopicIndex> = self.fanout.iter().copied().collect();
        for topic in topics {
            if let Some(fanout) = self.topics.get_mut(topic).and_then(|t| t.fanout.as_mut()) {
                fanout.peers.retain(|p| *p != index);
            }
        }
        let key = self.peers.key(index);
        let links: Vec<TopicIndex> = self
            .peers
            .get(index)
            .map(|p| p.links.iter().map(|l| l.topic).collect())
            .unwrap_or_default();
        for topic in links {
            let name = self.topics.get(topic).map(|t| t.name.clone());
            self.peers.unlink(&mut self.topics, index, topic);
            if let Some(topic) = name {
                self.event(Event::Unsubscribed { peer: key, topic });
            }
        }
    }

    /// Subscriptions and extensions, as the first frame of a stream.
    fn hello(&mut self, index: u32) {
        let extensions = self.own_extensions();
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if peer.version.has_extensions() {
            peer.queue.push_hello(extensions);
        }
        for topic in &self.joined {
            if let Some(entry) = self.topics.get(*topic)
                && let Some(joined) = &entry.joined
            {
                peer.queue.push_subscription(
                    &entry.name,
                    true,
                    (joined.requests_partial, joined.supports_partial),
                );
            }
        }
        self.announce(index);
    }

    fn own_extensions(&self) -> Extensions {
        Extensions {
            partial_messages: self.config.partial_messages.is_some(),
            test_extension: self.config.test_extension,
            max_message_size: if self.config.announce_max_message_size {
                self.max_rpc_len() as u64
            } else {
                0
            },
        }
    }

    /// Subscribes to a topic: tells all peers, and grafts some of them.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn subscribe(
        &mut self,
        now: Instant,
        topic: &str,
        options: SubscribeOptions,
    ) -> Result<(), SubscribeError> {
        self.wake(now);
        let index = self.intern_own(topic)?;
        let Some(entry) = self.topics.get_mut(index).filter(|t| t.joined.is_none()) else {
            return Err(SubscribeError::AlreadySubscribed);
        };
        self.joined.insert(index);
        let partial = if self.config.partial_messages.is_some() {
            (
                options.requests_partial,
                options.supports_partial || options.requests_partial,
            )
        } else {
            (false, false)
        };
        entry.joined = Some(Joined {
            mesh: Vec::new(),
            requests_partial: partial.0,
            supports_partial: partial.1,
        });
        let name = entry.name.clone();
        self.announce_subscription(&name, true, partial);
        self.join(now, index);
        Ok(())
    }

    /// Leaves a topic: prunes its mesh and tells all peers. Returns whether we were subscribed.
    pub fn unsubscribe(&mut self, now: Instant, topic: &str) -> bool {
        let Some(index) = self
            .topics
            .find(topic)
            .filter(|index| self.joined.contains(index))
        else {
            return false;
        };
        let mesh: Vec<u32> = self
            .topics
            .get(index)
            .map(|t| t.mesh().iter().map(|m| m.peer).collect())
            .unwrap_or_default();
        for peer in mesh {
            self.leave_mesh(peer, index, PruneReason::Left);
            self.back_off(now, peer, index, self.config.unsubscribe_backoff);
            self.send_prune(
                now,
                peer,
                index,
                self.config.unsubscribe_backoff,
                self.config.peer_exchange,
            );
        }
        self.joined.remove(&index);
        self.partials.leave(index);
        if let Some(entry) = self.topics.get_mut(index) {
            entry.joined = None;
            let name = entry.name.clone();
            self.announce_subscription(&name, false, (false, false));
        }
        self.topics.collect(index);
        true
    }

    fn announce_subscription(&mut self, name: &Arc<str>, subscribe: bool, partial: (bool, bool)) {
        let all: Vec<u32> = self.peers.iter().map(|(index, _)| index).collect();
        for index in all {
            if let Some(peer) = self.peers.get_mut(index) {
                peer.queue.push_subscription(name, subscribe, partial);
                self.announce(index);
            }
        }
    }

    /// The index of a topic that we use ourselves.
    fn intern_own(&mut self, topic: &str) -> Result<TopicIndex, SubscribeError> {
        let max = self.config.max_topic_len;
        if topic.len() > max {
            return Err(SubscribeError::NameTooLong {
                len: topic.len(),
                max,
            });
        }
        self.intern(topic)
            .ok_or_else(|| SubscribeError::TooManyTopics(self.topics.len()))
    }

    fn intern(&mut self, topic: &str) -> Option<TopicIndex> {
        let config = &self.config;
        self.topics.intern(topic, || {
            let score = config.score.as_ref().and_then(|s| s.topic(topic)).copied();
            (config.topic(topic).clone(), score)
        })
    }

    /// Sets what holds for a topic from now on, also if it is in use.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn configure_topic(&mut self, topic: &str, config: TopicConfig) -> Result<(), ConfigError> {
        config.validate(self.config.signature_policy)?;
        if let Some(entry) = self
            .topics
            .find(topic)
            .and_then(|index| self.topics.get_mut(index))
        {
            entry.config = config.clone();
        }
        self.config.topics.insert(topic.to_owned(), config);
        Ok(())
    }

    /// Sets how peers are scored in a topic from now on. Without scoring it does nothing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn configure_topic_score(
        &mut self,
        topic: &str,
        params: TopicScoreParams,
    ) -> Result<(), ConfigError> {
        params.validate().map_err(ConfigError::Scoring)?;
        if let Some(score) = &mut self.config.score {
            score.topics.insert(topic.to_owned(), params);
            if let Some(entry) = self
                .topics
                .find(topic)
                .and_then(|index| self.topics.get_mut(index))
            {
                entry.score = Some(params);
                entry.delivery_threshold = params.mesh_deliveries_threshold;
            }
        }
        Ok(())
    }

    /// Makes a peer a direct one, or no longer: messages always go to it, it is in no mesh, and it is connected to again when it
    /// is gone. Both sides have to do so.
    pub fn set_direct(&mut self, now: Instant, peer: PeerId, direct: bool) {
        if direct {
            self.direct.insert(peer);
            let at = now + self.config.direct_connect_initial_delay;
            self.next_direct.get_or_insert(at);
        } else {
            self.direct.remove(&peer);
        }
        let Some(index) = self.peers.find(&peer) else {
            return;
        };
        if let Some(entry) = self.peers.get_mut(index) {
            entry.direct = direct;
        }
        if direct {
            for topic in self.joined.clone() {
                if self.topics.get(topic).is_some_and(|t| t.in_mesh(index)) {
                    self.leave_mesh(index, topic, PruneReason::Excess);
                    self.back_off(now, index, topic, self.config.prune_backoff);
                    self.send_prune(now, index, topic, self.config.prune_backoff, false);
                }
            }
        }
    }

    /// The measured round trip of a peer; see [`Config::rtt_preference`].
    pub fn set_rtt(&mut self, peer: PeerKey, rtt: Duration) {
        if let Some(peer) = self
            .peers
            .check(peer)
            .and_then(|index| self.peers.get_mut(index))
        {
            peer.rtt = Some(rtt);
        }
    }

    /// P5 of a peer. What is no finite number counts as 0.
    pub fn set_app_score(&mut self, peer: PeerKey, score: f64) {
        if let Some(peer) = self
            .peers
            .check(peer)
            .and_then(|index| self.peers.get_mut(index))
        {
            self.scorer.set_app(peer, score);
        }
    }

    /// The peer's address changed.
    pub fn set_address(&mut self, peer: PeerKey, address: Option<IpAddr>) {
        if let Some(peer) = self
            .peers
            .check(peer)
            .and_then(|index| self.peers.get_mut(index))
        {
            if let Some(gater) = &mut self.gater {
                gater.disconnect(peer.id, peer.address);
                gater.connect(peer.id, address);
            }
            self.scorer.set_address(peer, address);
        }
    }

    /// What the peer accepts, once it is known better. A size that it announced is kept if it is greater.
    pub fn set_limits(&mut self, peer: PeerKey, limits: PeerLimits) {
        if let Some(peer) = self
            .peers
            .check(peer)
            .and_then(|index| self.peers.get_mut(index))
        {
            peer.limits = limits;
            let announced = peer.extensions.unwrap_or_default().max_message_size;
            inbound::widen(&mut peer.limits, announced);
        }
    }

    /// The peer's signed record, an envelope that was checked, to be offered to others by peer exchange. It is kept only if
    /// [`Config::peer_exchange`] is on and it has at most 8 KiB.
    pub fn set_peer_record(&mut self, peer: PeerKey, envelope: Bytes) {
        if self.config.peer_exchange
            && envelope.len() <= MAX_RECORD
            && let Some(peer) = self
                .peers
                .check(peer)
                .and_then(|index| self.peers.get_mut(index))
        {
            peer.record = Some(envelope);
        }
    }

    /// The next thing to do or to know. Poll until `None` after each call.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        if matches!(output, Output::Event(_)) {
            self.events_waiting -= 1;
        }
        if self.outputs.is_empty() && self.outputs.capacity() > 1024 {
            self.outputs = VecDeque::new();
        }
        Some(output)
    }

    /// The next frame for a peer's stream; `None` when nothing waits, after which [`Output::Ready`] tells of more. Take a frame
    /// only when the stream can write it: what is here can still give way to something more important.
    pub fn next_frame(&mut self, now: Instant, peer: PeerKey) -> Option<OutFrame> {
        self.wake(now);
        let index = self.peers.check(peer)?;
        let entry = self.peers.get_mut(index)?;
        let (limits, queue, unwanted) = (entry.limits, &mut entry.queue, &entry.unwanted);
        let is_unwanted = |key| unwanted.as_ref().is_some_and(|u| u.contains(key));
        let max = self.config.max_idontwant_length;
        let frame = queue.next_frame(&limits, max, is_unwanted, &mut self.metrics.idontwant_saved);
        queue.announced = frame.is_some();
        if queue.lossy && queue.bytes() <= self.config.queue.max_bytes / 2 {
            queue.lossy = false;
            self.event(Event::Drained { peer });
        }
        if let Some(frame) = &frame {
            self.metrics.frames_out += 1;
            self.metrics.bytes_out += frame.len as u64;
            self.queue_shrank(now, index, frame);
        }
        frame
    }

    /// Tells the owner that something waits for the peer, once.
    fn announce(&mut self, index: u32) {
        if let Some(peer) = self.peers.get_mut(index)
            && !peer.queue.announced
            && !peer.queue.is_empty()
        {
            peer.queue.announced = true;
            self.outputs.push_back(Output::Ready(self.peers.key(index)));
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). `None` while there is nothing to look after: no peer, no direct
    /// peer to reach, nothing remembered.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = self.peers.len() == 0
            && self.direct.is_empty()
            && self.seen.len() == 0
            && self.records.len() == 0
            && self.scorer.retained() == 0
            && self.topics.len() == self.joined.len();
        if idle {
            return None;
        }
        let decay = self.scorer.next_decay().unwrap_or(self.next_heartbeat);
        let direct = self.next_direct.unwrap_or(self.next_heartbeat);
        let look = self.next_look().unwrap_or(self.next_heartbeat);
        Some(self.next_heartbeat.min(decay).min(direct).min(look))
    }

    /// Takes the heartbeat up again after nothing had to be looked after.
    fn wake(&mut self, now: Instant) {
        if self.next_heartbeat + self.config.heartbeat_interval < now
            && self.poll_timeout().is_none()
        {
            self.next_heartbeat = now + self.config.heartbeat_initial_delay;
        }
    }

    /// Longest RPC that is accepted, in bytes: the largest limit of the subscribed topics and room for control entries. Give it
    /// to every [`FrameReader`](crate::FrameReader).
    #[must_use]
    pub fn max_rpc_len(&self) -> usize {
        let largest = self
            .joined
            .iter()
            .filter_map(|t| Some(self.topics.get(*t)?.config.max_message_size))
            .max();
        let largest = largest
            .unwrap_or(0)
            .max(self.config.topic_defaults.max_message_size);
        let configured = self
            .config
            .topics
            .values()
            .map(|t| t.max_message_size)
            .max()
            .unwrap_or(0);
        largest.max(configured) + RPC_OVERHEAD
    }

    /// Counters since the router was made.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How much is held now. Takes time linear in peers and topics.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            peers: self.peers.len(),
            topics: self.topics.len(),
            seen: self.seen.len(),
            records: self.records.len(),
            history_bytes: self.records.history_bytes(),
            pending: self.pending,
            pending_bytes: self.pending_bytes,
            promises: self.promises.len(),
            retained: self.scorer.retained(),
            backoffs: self
                .topics
                .iter()
                .map(|(_, topic)| topic.backoff.len())
                .sum(),
            unwanted: self
                .peers
                .iter()
                .filter_map(|(_, p)| Some(p.unwanted.as_ref()?.len()))
                .sum(),
            groups: self.partials.len(),
            queued_bytes: self.peers.iter().map(|(_, p)| p.queue.bytes()).sum(),
            outputs: self.outputs.len(),
        }
    }

    /// The peer of this id, if it is connected.
    #[must_use]
    pub fn peer(&self, id: &PeerId) -> Option<PeerKey> {
        self.peers.find(id).map(|index| self.peers.key(index))
    }

    /// All connected peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerKey> {
        self.peers.iter().map(|(index, _)| self.peers.key(index))
    }

    /// How the router sees a peer.
    #[must_use]
    pub fn status(&self, peer: PeerKey) -> Option<PeerStatus> {
        let index = self.peers.check(peer)?;
        let entry = self.peers.get(index)?;
        let topics = entry
            .links
            .iter()
            .filter_map(|link| self.topics.get(link.topic))
            .map(|topic| (topic.name.clone(), topic.in_mesh(index)))
            .collect();
        Some(PeerStatus {
            peer_id: entry.id,
            version: entry.version,
            outbound: entry.outbound,
            direct: entry.direct,
            score: self.scorer.score(entry, &self.topics),
            rtt: entry.rtt,
            topics,
            queued_bytes: entry.queue.bytes(),
            queued_items: entry.queue.items(),
            dropped: entry.queue.dropped,
        })
    }

    /// The peer's score taken apart; all zero without scoring.
    #[must_use]
    pub fn score(&self, peer: PeerKey) -> Option<Breakdown> {
        let entry = self.peers.get(self.peers.check(peer)?)?;
        Some(self.scorer.breakdown(entry, &self.topics))
    }

    /// Topics that we are subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Arc<str>> {
        self.joined
            .iter()
            .filter_map(|topic| Some(&self.topics.get(*topic)?.name))
    }

    /// Peers subscribed to a topic.
    #[must_use]
    pub fn topic_peers(&self, topic: &str) -> Vec<PeerKey> {
        let members = self
            .topics
            .find(topic)
            .and_then(|t| self.topics.get(t))
            .map_or(&[][..], |t| &t.members);
        members.iter().map(|index| self.peers.key(*index)).collect()
    }

    /// Peers in our mesh of a topic.
    #[must_use]
    pub fn mesh_peers(&self, topic: &str) -> Vec<PeerKey> {
        let mesh = self
            .topics
            .find(topic)
            .and_then(|t| self.topics.get(t))
            .map_or(&[][..], |t| t.mesh());
        mesh.iter().map(|m| self.peers.key(m.peer)).collect()
    }

    fn event(&mut self, event: Event) {
        if self.events_waiting >= self.config.max_events {
            self.metrics.events_dropped += 1;
            return;
        }
        self.events_waiting += 1;
        self.outputs.push_back(Output::Event(event));
    }

    /// Tells the gater what became of a message of a peer.
    fn account(&mut self, index: u32, outcome: Outcome) {
        if let (Some(gater), Some(peer)) = (&mut self.gater, self.peers.get(index)) {
            gater.count(peer, outcome);
        }
    }

    /// P7.
    fn penalize(&mut self, index: u32, kind: Misbehaviour, count: u32) {
        self.metrics.penalties += u64::from(count);
        if let Some(peer) = self.peers.get_mut(index) {
            self.scorer.penalize(peer, f64::from(count));
        }
        self.event(Event::Penalty {
            peer: self.peers.key(index),
            kind,
        });
    }

    /// The peer's score; 0 for one that is gone.
    #[inline]
    fn score_of(&self, index: u32) -> f64 {
        self.peers
            .get(index)
            .map_or(0.0, |peer| self.scorer.score(peer, &self.topics))
    }

    /// Says that something for the peer was dropped, and lets a slow reader pay.
    fn report_drop(&mut self, index: u32, message: Option<u128>, reason: DropReason) {
        if message.is_some() {
            self.metrics.messages_dropped += 1;
        } else {
            self.metrics.gossip_dropped += 1;
        }
        if matches!(reason, DropReason::QueueFull | DropReason::Displaced)
            && let Some(peer) = self.peers.get_mut(index)
        {
            self.scorer.dropped(peer);
        }
        let id = message.and_then(|key| {
            let record = self.seen.find(key)?;
            self.records.of(record, key).map(|record| record.id.clone())
        });
        self.event(Event::Dropped {
            peer: self.peers.key(index),
            id,
            reason,
        });
    }
}
