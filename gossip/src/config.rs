//! Parameters of the router. Defaults are go-libp2p-pubsub's where nothing else is said.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use barewire_base::Fault;

use crate::{
    GaterParams, MessageIdFn, RpcLimits, SeqnoPolicy, SignaturePolicy,
    score::{ScoreParams, ScoreParamsError},
};

/// Longest message that two peers may send each other in one RPC, in bytes.
pub const MAX_MESSAGE_SIZE: usize = 512 << 20;

/// What an RPC may be longer than the longest message: its other fields, and the control entries that ride along.
pub const RPC_OVERHEAD: usize = 16 << 10;

/// Everything about a router that can be chosen. Build one from [`Default`] or a preset and change fields; the router
/// validates it once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Peers wanted in a topic's mesh. 6.
    pub d: usize,
    /// Below this many the mesh is filled up to `d`. 5.
    pub d_low: usize,
    /// From this many on the mesh is cut down to `d`, and GRAFTs of peers that dialled us are refused. 12.
    pub d_high: usize,
    /// Peers that are kept for their score when a mesh is cut down. 4.
    pub d_score: usize,
    /// Peers in the mesh that we dialled, at least: an attacker cannot make us dial. 2; at most `d_low − 1` and half of `d`.
    pub d_out: usize,
    /// Peers that get gossip about a topic's messages, at least. 6.
    pub d_lazy: usize,
    /// Share of the peers outside the mesh that get gossip. 0.25.
    pub gossip_factor: f64,
    /// Time between heartbeats. 1 s; from 100 ms to 10 min.
    pub heartbeat_interval: Duration,
    /// Time until the first heartbeat. 100 ms.
    pub heartbeat_initial_delay: Duration,

    /// Heartbeats during which a message can be asked for. 5.
    pub history_length: usize,
    /// Heartbeats during which a message is offered by gossip. 3; at most `history_length`.
    pub history_gossip: usize,
    /// Payload bytes of messages that can be asked for; beyond them the oldest cannot any more. 16 MiB: it keeps a relay of
    /// 64 KiB messages at line rate within 48 MiB, and still covers 3 s at 5 MiB/s.
    pub history_bytes: usize,
    /// Messages that can be asked for, wait for their verification, or may still be credited to a peer. 65,536.
    pub max_records: usize,
    /// Time after which a peer that we publish to without being subscribed is forgotten. 60 s.
    pub fanout_ttl: Duration,
    /// Topics that we publish to without being subscribed. 1,024.
    pub max_fanout_topics: usize,

    /// Time for which a pruned peer must not be grafted again. 60 s; whole seconds on the wire.
    pub prune_backoff: Duration,
    /// The same after we left a topic. 10 s.
    pub unsubscribe_backoff: Duration,
    /// Longest backoff that a peer can impose. 1 h, as rust.
    pub max_backoff: Duration,
    /// Heartbeats that we wait beyond a backoff, because peers punish a GRAFT that is early by a millisecond. 2.
    pub backoff_slack: u32,
    /// Backoffs remembered in a topic; beyond them new ones replace those that end first. 16,384.
    pub max_backoffs: usize,
    /// A GRAFT that comes this soon after the PRUNE is punished twice. 10 s.
    pub graft_flood_threshold: Duration,
    /// PRUNEs sent to a peer in answer to its GRAFTs, in a second. 10.
    pub max_prune_replies: u32,

    /// Heartbeats between looks at the median score of a mesh. 60.
    pub opportunistic_graft_ticks: u64,
    /// Peers grafted when it is low. 2.
    pub opportunistic_graft_peers: usize,

    /// RPCs with IHAVE that are looked at, of a peer in a heartbeat. 10.
    pub max_ihave_messages: u32,
    /// Ids asked of a peer in a heartbeat, and ids offered to it in a topic. 5,000.
    pub max_ihave_length: usize,
    /// Times that a message is sent to a peer that asks for it. 3.
    pub gossip_retransmission: u8,
    /// Time for a peer to deliver what it offered and was asked for. 3 s.
    pub iwant_followup: Duration,
    /// Payload bytes sent to a peer because it asked, in a second; one message more when nothing was sent before. 2 MiB, our
    /// own: others only limit the times.
    pub iwant_bytes_per_second: usize,
    /// Deliveries awaited from peers. 65,536.
    pub max_promises: usize,

    /// Whether own messages go to every peer of the topic instead of the mesh only. Off in go, on in rust and js.
    pub flood_publish: bool,
    /// Whether PRUNEs offer other peers. Off: for bootstrap nodes.
    pub peer_exchange: bool,
    /// Peers offered by a PRUNE, and taken from one. 16.
    pub prune_peers: usize,

    /// Payload bytes from which on the mesh is told that a message need not be sent. 1,024.
    pub idontwant_threshold: usize,
    /// RPCs with IDONTWANT that are looked at, of a peer in a heartbeat. 1,000.
    pub max_idontwant_messages: u32,
    /// Ids looked at in each; the same number is sent at most. 10.
    pub max_idontwant_length: usize,
    /// Heartbeats for which an IDONTWANT holds. 3.
    pub idontwant_ttl: u32,
    /// Ids remembered of a peer. 10,000, as rust.
    pub max_idontwant_ids: usize,

    /// Heartbeats between attempts to reach direct peers. 300.
    pub direct_connect_ticks: u64,
    /// Time until the first attempt. 1 s.
    pub direct_connect_initial_delay: Duration,

    /// Time for which a message id is remembered. 120 s.
    pub seen_ttl: Duration,
    /// Ids remembered. 524,288, about 40 MiB when full; beyond them the oldest are forgotten.
    pub seen_max_entries: usize,
    /// From when on `seen_ttl` counts.
    pub seen_strategy: SeenStrategy,

    /// What messages say about their author.
    pub signature_policy: SignaturePolicy,
    /// What is demanded of sequence numbers.
    pub seqno_policy: SeqnoPolicy,
    /// Authors whose greatest number is remembered under [`SeqnoPolicy::Increasing`]. 65,536.
    pub max_seqno_authors: usize,
    /// Messages that wait for verification or validation. 8,192, go's bound of concurrent validations.
    pub max_pending: usize,
    /// Those of one peer. 1,024; see [`Router::has_room`](crate::Router::has_room).
    pub max_pending_per_peer: usize,
    /// Their payload bytes in all. 64 MiB; a single message may be longer.
    pub max_pending_bytes: usize,
    /// Time after which a message whose verification or validation brings no answer is ignored. 60 s.
    pub validation_timeout: Duration,

    /// Peers at most. 8,192.
    pub max_peers: usize,
    /// Topics that a peer may be subscribed to; more are ignored. 100, rust's.
    pub max_topics_per_peer: usize,
    /// Bytes of a topic's name; longer ones are ignored. 256.
    pub max_topic_len: usize,
    /// Topics known in all. 16,384.
    pub max_topics: usize,
    /// Which topics of peers are taken notice of.
    pub subscription_filter: SubscriptionFilter,
    /// Subscription changes in one RPC above which the whole RPC is ignored. 5,000; go has it with a filter only.
    pub max_subscription_changes: usize,
    /// Bounds of a received RPC.
    pub rpc_limits: RpcLimits,

    /// Bounds of the queue of one peer.
    pub queue: QueueLimits,
    /// How much a better round trip counts when peers are grafted; `None` for go's random choice.
    pub rtt_preference: Option<RttPreference>,
    /// Scoring; `None` as in go, where nothing is scored unless configured.
    pub score: Option<ScoreParams>,

    /// What is done when messages come faster than they can be validated, beyond throwing away what is too much; `None` for
    /// nothing, as in go unless configured.
    pub gater: Option<GaterParams>,

    /// What holds for topics without an entry in `topics`.
    pub topic_defaults: TopicConfig,
    /// What holds for a topic.
    pub topics: BTreeMap<String, TopicConfig>,

    /// Whether to speak the test extension.
    pub test_extension: bool,
    /// Bounds of partial messages; `None` not to speak the extension.
    pub partial_messages: Option<PartialLimits>,
    /// Whether to tell peers of version 1.3 the longest RPC that is accepted (an extension of ours). On.
    pub announce_max_message_size: bool,
    /// Events that wait to be polled; beyond them new ones are counted and dropped. 65,536.
    pub max_events: usize,
    /// Whether each receipt of a message is told by [`Event::Received`](crate::Event::Received), duplicates too. Off: it is for
    /// those who measure how messages spread.
    pub report_receipts: bool,
}

/// From when on an id is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeenStrategy {
    /// From its first receipt, as go and rust.
    #[default]
    FirstSeen,
    /// From its last receipt: a message that keeps circulating is never new again.
    LastSeen,
}

/// A predicate on topics.
pub type TopicPredicate = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Which subscriptions of peers are taken notice of.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum SubscriptionFilter {
    /// All, within the caps.
    #[default]
    Any,
    /// Those listed.
    Allow(Vec<String>),
    /// Those a function says yes to, a regular expression for example. It must be quick.
    Matching(TopicPredicate),
}

impl SubscriptionFilter {
    pub(crate) fn allows(&self, topic: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Allow(topics) => topics.iter().any(|t| t == topic),
            Self::Matching(predicate) => predicate(topic),
        }
    }
}

impl fmt::Debug for SubscriptionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("Any"),
            Self::Allow(topics) => f.debug_tuple("Allow").field(topics).finish(),
            Self::Matching(_) => f.write_str("Matching"),
        }
    }
}

/// What holds for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicConfig {
    /// Longest payload in bytes, received or published. 1 MiB; up to [`MAX_MESSAGE_SIZE`]. Beyond about 1 MiB only peers that
    /// announced it, or were configured by hand, can be sent a message.
    pub max_message_size: usize,
    /// How messages get their ids.
    pub message_id: MessageIdFn,
    /// Whether [`Output::Validate`](crate::Output::Validate) asks the application about each message.
    pub validate: bool,
}

impl PartialEq for MessageIdFn {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::FromAndSeqno, Self::FromAndSeqno) | (Self::Sha256, Self::Sha256) => true,
            (Self::DataPrefix(a), Self::DataPrefix(b)) => a == b,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for MessageIdFn {}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            max_message_size: 1 << 20,
            message_id: MessageIdFn::default(),
            validate: false,
        }
    }
}

/// Bounds of the queue of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLimits {
    /// Bytes; a single message may be longer if nothing else is queued. 8 MiB. go bounds the count only.
    pub max_bytes: usize,
    /// Messages and gossip entries. 16,384; rust has 5,000 and 20,000 by class, go 32 RPCs.
    pub max_items: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            max_bytes: 8 << 20,
            max_items: 16_384,
        }
    }
}

/// How much a better round trip counts. A peer with a worse score is never preferred, and links that may be chosen for their
/// round trip are limited, so that the network does not fall apart into clusters of neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RttPreference {
    /// Share of the mesh that may be chosen for its round trip; the rest is random. 0.5.
    pub share: f64,
    /// Random candidates among which the nearest is taken. 4.
    pub sample: usize,
    /// Heartbeats between attempts to replace the farthest of those links by one of half its round trip. 15; 0 for never.
    pub swap_ticks: u64,
}

impl Default for RttPreference {
    fn default() -> Self {
        Self {
            share: 0.5,
            sample: 4,
            swap_ticks: 15,
        }
    }
}

/// Bounds of partial messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartialLimits {
    /// Groups of a topic that peers began. 255.
    pub max_peer_groups: usize,
    /// Those of one peer. 8.
    pub max_groups_per_peer: usize,
    /// Groups of a topic that we began. 1,024.
    pub max_own_groups: usize,
    /// Heartbeats for which a group is remembered. 3, the least.
    pub group_ttl: u32,
    /// Bytes of a group's id. 256.
    pub max_group_id: usize,
    /// Bytes of the parts' metadata. 1,000, rust's.
    pub max_metadata: usize,
}

impl Default for PartialLimits {
    fn default() -> Self {
        Self {
            max_peer_groups: 255,
            max_groups_per_peer: 8,
            max_own_groups: 1_024,
            group_ttl: 3,
            max_group_id: 256,
            max_metadata: 1_000,
        }
    }
}

/// Why a configuration cannot work.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[derive(thiserror::Error)]
pub enum ConfigError {
    /// The mesh degrees are not in order.
    #[error("mesh degrees must satisfy 0 < d_low ≤ d ≤ d_high, but are {d_low}, {d}, {d_high}")]
    Degrees {
        /// As configured.
        d_low: usize,
        /// As configured.
        d: usize,
        /// As configured.
        d_high: usize,
    },
    /// More peers are kept by score than the mesh has.
    #[error("d_score is {d_score}, above d = {d}")]
    Score {
        /// As configured.
        d_score: usize,
        /// As configured.
        d: usize,
    },
    /// The outbound quota is too high: the mesh could not be formed by the rest.
    #[error("d_out is {d_out}; it must be below d_low = {d_low} and at most half of d = {d}")]
    Outbound {
        /// As configured.
        d_out: usize,
        /// As configured.
        d_low: usize,
        /// As configured.
        d: usize,
    },
    /// A share or factor is not between 0 and 1.
    #[error("{name} is {value}; it must lie between 0 and 1")]
    Share {
        /// Name of the field.
        name: &'static str,
        /// As configured.
        value: f64,
    },
    /// A weight is below that of a delivery.
    #[error("{name} is {value}; it must be finite and at least 1")]
    Weight {
        /// Name of the field.
        name: &'static str,
        /// As configured.
        value: f64,
    },
    /// A time is out of range.
    #[error("{name} is {value:?}; it must lie between {min:?} and {max:?}")]
    Time {
        /// Name of the field.
        name: &'static str,
        /// As configured.
        value: Duration,
        /// Least.
        min: Duration,
        /// Greatest.
        max: Duration,
    },
    /// More heartbeats are gossiped than remembered, or none.
    #[error(
        "history_gossip is {gossip} and history_length {length}; 0 < gossip ≤ length ≤ 1,024 must hold"
    )]
    History {
        /// As configured.
        gossip: usize,
        /// As configured.
        length: usize,
    },
    /// A bound that must be greater than zero is zero.
    #[error("{0} must not be 0")]
    Zero(&'static str),
    /// A topic's limit is above [`MAX_MESSAGE_SIZE`].
    #[error("max_message_size is {0}, above 512 MiB")]
    MessageSize(usize),
    /// A topic's default id is the author and number that the policy forbids.
    #[error(
        "without author and number the default message id is the same for every message; choose another"
    )]
    MessageIdNeedsAuthor,
    /// The scoring parameters cannot work.
    #[error("scoring: {0}")]
    Scoring(#[from] ScoreParamsError),
}

impl ConfigError {
    /// Always [`Fault::Local`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            d: 6,
            d_low: 5,
            d_high: 12,
            d_score: 4,
            d_out: 2,
            d_lazy: 6,
            gossip_factor: 0.25,
            heartbeat_interval: Duration::from_secs(1),
            heartbeat_initial_delay: Duration::from_millis(100),
            history_length: 5,
            history_gossip: 3,
            history_bytes: 16 << 20,
            max_records: 65_536,
            fanout_ttl: Duration::from_secs(60),
            max_fanout_topics: 1_024,
            prune_backoff: Duration::from_secs(60),
            unsubscribe_backoff: Duration::from_secs(10),
            max_backoff: Duration::from_secs(3600),
            backoff_slack: 2,
            max_backoffs: 16_384,
            graft_flood_threshold: Duration::from_secs(10),
            max_prune_replies: 10,
            opportunistic_graft_ticks: 60,
            opportunistic_graft_peers: 2,
            max_ihave_messages: 10,
            max_ihave_length: 5_000,
            gossip_retransmission: 3,
            iwant_followup: Duration::from_secs(3),
            iwant_bytes_per_second: 2 << 20,
            max_promises: 65_536,
            flood_publish: false,
            peer_exchange: false,
            prune_peers: 16,
            idontwant_threshold: 1_024,
            max_idontwant_messages: 1_000,
            max_idontwant_length: 10,
            idontwant_ttl: 3,
            max_idontwant_ids: 10_000,
            direct_connect_ticks: 300,
            direct_connect_initial_delay: Duration::from_secs(1),
            seen_ttl: Duration::from_secs(120),
            seen_max_entries: 1 << 19,
            seen_strategy: SeenStrategy::FirstSeen,
            signature_policy: SignaturePolicy::StrictSign,
            seqno_policy: SeqnoPolicy::Opaque,
            max_seqno_authors: 65_536,
            max_pending: 8_192,
            max_pending_per_peer: 1_024,
            max_pending_bytes: 64 << 20,
            validation_timeout: Duration::from_secs(60),
            max_peers: 8_192,
            max_topics_per_peer: 100,
            max_topic_len: 256,
            max_topics: 16_384,
            subscription_filter: SubscriptionFilter::Any,
            max_subscription_changes: 5_000,
            rpc_limits: RpcLimits::default(),
            queue: QueueLimits::default(),
            rtt_preference: None,
            score: None,
            gater: None,
            topic_defaults: TopicConfig::default(),
            topics: BTreeMap::new(),
            test_extension: false,
            partial_messages: None,
            announce_max_message_size: true,
            max_events: 65_536,
            report_receipts: false,
        }
    }
}

impl Config {
    /// A few trusted nodes near each other: short heartbeats, own messages to every peer at once, no scoring.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(250),
            // The same time as with go's heartbeat.
            history_length: 20,
            history_gossip: 12,
            opportunistic_graft_ticks: 240,
            direct_connect_ticks: 40,
            idontwant_ttl: 12,
            backoff_slack: 8,
            flood_publish: true,
            rtt_preference: Some(RttPreference {
                swap_ticks: 60,
                ..RttPreference::default()
            }),
            ..Self::default()
        }
    }

    /// Nodes across the internet that mean well: go's mesh, own messages to every peer, near peers preferred, and a scoring that
    /// honest peers do not notice.
    #[must_use]
    pub fn wan() -> Self {
        Self {
            flood_publish: true,
            rtt_preference: Some(RttPreference::default()),
            score: Some(ScoreParams::wan()),
            ..Self::default()
        }
    }

    /// Nodes that anybody may join and some want to harm: more links that we chose ourselves, strict scoring with delivery
    /// quotas, replays refused, frequent looks for better peers, and no regard for round trips, which an attacker near the
    /// victim could use.
    #[must_use]
    pub fn adversarial() -> Self {
        Self {
            d: 8,
            d_low: 6,
            d_score: 5,
            d_out: 4,
            flood_publish: true,
            opportunistic_graft_ticks: 15,
            opportunistic_graft_peers: 4,
            seqno_policy: SeqnoPolicy::Increasing,
            score: Some(ScoreParams::adversarial()),
            gater: Some(GaterParams::default()),
            ..Self::default()
        }
    }

    /// What holds for `topic`.
    #[must_use]
    pub fn topic(&self, topic: &str) -> &TopicConfig {
        self.topics.get(topic).unwrap_or(&self.topic_defaults)
    }

    /// Checks that the parameters can work together.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first that cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (d, d_low, d_high) = (self.d, self.d_low, self.d_high);
        if d_low == 0 || d_low > d || d > d_high {
            return Err(ConfigError::Degrees { d_low, d, d_high });
        }
        if self.d_score > d {
            let d_score = self.d_score;
            return Err(ConfigError::Score { d_score, d });
        }
        if self.d_out > 0 && (self.d_out >= d_low || self.d_out > d / 2) {
            let d_out = self.d_out;
            return Err(ConfigError::Outbound { d_out, d_low, d });
        }
        share("gossip_factor", self.gossip_factor)?;
        if let Some(rtt) = &self.rtt_preference {
            share("rtt_preference.share", rtt.share)?;
            not_zero("rtt_preference.sample", rtt.sample)?;
        }
        if let Some(gater) = &self.gater {
            gater.validate()?;
        }
        let (ms, s, hour) = (
            Duration::from_millis,
            Duration::from_secs,
            Duration::from_secs(3600),
        );
        let times = [
            (
                "heartbeat_interval",
                self.heartbeat_interval,
                ms(100),
                s(600),
            ),
            (
                "heartbeat_initial_delay",
                self.heartbeat_initial_delay,
                ms(0),
                s(600),
            ),
            ("fanout_ttl", self.fanout_ttl, s(1), 24 * hour),
            ("prune_backoff", self.prune_backoff, s(1), self.max_backoff),
            (
                "unsubscribe_backoff",
                self.unsubscribe_backoff,
                s(1),
                self.max_backoff,
            ),
            ("max_backoff", self.max_backoff, s(1), 24 * hour),
            (
                "graft_flood_threshold",
                self.graft_flood_threshold,
                ms(0),
                self.prune_backoff,
            ),
            ("iwant_followup", self.iwant_followup, ms(1), hour),
            ("seen_ttl", self.seen_ttl, s(1), 24 * hour),
            ("validation_timeout", self.validation_timeout, ms(1), hour),
            (
                "direct_connect_initial_delay",
                self.direct_connect_initial_delay,
                ms(0),
                hour,
            ),
        ];
        for (name, value, min, max) in times {
            if value < min || value > max {
                return Err(ConfigError::Time {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        let (gossip, length) = (self.history_gossip, self.history_length);
        if gossip == 0 || gossip > length || length > 1024 {
            return Err(ConfigError::History { gossip, length });
        }
        for (name, value) in [
            ("max_records", self.max_records),
            ("max_pending", self.max_pending),
            ("max_pending_per_peer", self.max_pending_per_peer),
            ("max_peers", self.max_peers),
            ("max_topics", self.max_topics),
            ("max_topics_per_peer", self.max_topics_per_peer),
            ("max_topic_len", self.max_topic_len),
            ("max_backoffs", self.max_backoffs),
            ("seen_max_entries", self.seen_max_entries),
            ("queue.max_bytes", self.queue.max_bytes),
            ("queue.max_items", self.queue.max_items),
            ("max_ihave_length", self.max_ihave_length),
            ("max_idontwant_length", self.max_idontwant_length),
            (
                "opportunistic_graft_ticks",
                self.opportunistic_graft_ticks as usize,
            ),
            ("direct_connect_ticks", self.direct_connect_ticks as usize),
            ("max_seqno_authors", self.max_seqno_authors),
        ] {
            not_zero(name, value)?;
        }
        for topic in self.topics.values().chain([&self.topic_defaults]) {
            topic.validate(self.signature_policy)?;
        }
        if let Some(partial) = &self.partial_messages
            && partial.group_ttl < 3
        {
            return Err(ConfigError::Zero(
                "partial_messages.group_ttl beyond its least, 3,",
            ));
        }
        if let Some(score) = &self.score {
            score.validate()?;
        }
        Ok(())
    }
}

impl TopicConfig {
    /// Checks the limits of one topic.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn validate(&self, policy: SignaturePolicy) -> Result<(), ConfigError> {
        not_zero("max_message_size", self.max_message_size)?;
        if self.max_message_size > MAX_MESSAGE_SIZE {
            return Err(ConfigError::MessageSize(self.max_message_size));
        }
        if policy != SignaturePolicy::StrictSign && self.message_id == MessageIdFn::FromAndSeqno {
            return Err(ConfigError::MessageIdNeedsAuthor);
        }
        Ok(())
    }
}

pub(crate) fn share(name: &'static str, value: f64) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::Share { name, value })
    }
}

const fn not_zero(name: &'static str, value: usize) -> Result<(), ConfigError> {
    if value == 0 {
        Err(ConfigError::Zero(name))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_valid() {
        for config in [
            Config::default(),
            Config::lan(),
            Config::wan(),
            Config::adversarial(),
        ] {
            config.validate().unwrap();
        }
    }

    #[test]
    fn nonsense_is_named() {
        let refuse = |change: fn(&mut Config)| {
            let mut config = Config::wan();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert!(matches!(
            refuse(|c| c.d_low = 7),
            ConfigError::Degrees { d_low: 7, .. }
        ));
        assert!(matches!(
            refuse(|c| c.d_score = 7),
            ConfigError::Score { .. }
        ));
        assert!(matches!(
            refuse(|c| c.d_out = 4),
            ConfigError::Outbound { .. }
        ));
        assert!(matches!(
            refuse(|c| c.gossip_factor = f64::NAN),
            ConfigError::Share { .. }
        ));
        assert!(matches!(
            refuse(|c| c.heartbeat_interval = Duration::from_millis(99)),
            ConfigError::Time {
                name: "heartbeat_interval",
                ..
            }
        ));
        assert!(matches!(
            refuse(|c| c.history_gossip = 6),
            ConfigError::History { .. }
        ));
        assert!(matches!(
            refuse(|c| {
                c.gater = Some(GaterParams {
                    reject_weight: 0.5,
                    ..GaterParams::default()
                });
            }),
            ConfigError::Weight { .. }
        ));
        assert_eq!(
            refuse(|c| c.max_records = 0),
            ConfigError::Zero("max_records")
        );
        assert!(matches!(
            refuse(|c| c.topic_defaults.max_message_size = MAX_MESSAGE_SIZE + 1),
            ConfigError::MessageSize(_)
        ));
        assert_eq!(
            refuse(|c| c.signature_policy = SignaturePolicy::StrictNoSign),
            ConfigError::MessageIdNeedsAuthor
        );
        assert!(matches!(
            refuse(|c| c.score.as_mut().unwrap().thresholds.gossip = 1.0),
            ConfigError::Scoring(_)
        ));
    }
}
