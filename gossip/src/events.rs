//! What the router tells its owner: things to do, things to know, things counted.

use std::{sync::Arc, time::Duration};

use barewire_base::PeerId;
use bytes::Bytes;

use crate::{MessageId, Payload, RejectReason, rpc::WireMessage};

/// A connected peer, as long as it is connected. Dense: [`index`](Self::index) serves as an index of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl PeerKey {
    /// A small number that no other connected peer has at the same time; used again after the peer has left.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// A message whose verification or validation the router waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageHandle {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A version of the protocol, negotiated for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Version {
    /// `/floodsub/1.0.0`: no control messages; every message is sent to such a peer.
    Floodsub,
    /// `/meshsub/1.0.0`.
    V1_0,
    /// `/meshsub/1.1.0`: backoff and peer exchange in PRUNE.
    V1_1,
    /// `/meshsub/1.2.0`: IDONTWANT.
    V1_2,
    /// `/meshsub/1.3.0`: extensions.
    V1_3,
}

impl Version {
    /// All versions, the best first: the order to propose and to listen in.
    pub const ALL: [Self; 5] = [
        Self::V1_3,
        Self::V1_2,
        Self::V1_1,
        Self::V1_0,
        Self::Floodsub,
    ];

    /// The protocol id that is negotiated.
    #[must_use]
    pub const fn protocol_id(self) -> &'static str {
        match self {
            Self::Floodsub => "/floodsub/1.0.0",
            Self::V1_0 => "/meshsub/1.0.0",
            Self::V1_1 => "/meshsub/1.1.0",
            Self::V1_2 => "/meshsub/1.2.0",
            Self::V1_3 => "/meshsub/1.3.0",
        }
    }

    /// The version of a protocol id.
    #[must_use]
    pub fn from_protocol_id(id: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.protocol_id() == id)
    }

    pub(crate) fn has_mesh(self) -> bool {
        self >= Self::V1_0
    }

    pub(crate) fn has_backoff(self) -> bool {
        self >= Self::V1_1
    }

    pub(crate) fn has_idontwant(self) -> bool {
        self >= Self::V1_2
    }

    pub(crate) fn has_extensions(self) -> bool {
        self >= Self::V1_3
    }
}

/// Something for the owner to do, or to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Frames wait for a peer: take them by [`Router::next_frame`](crate::Router::next_frame) whenever its stream has room. Comes
    /// again only after a call has returned `None`.
    Ready(PeerKey),
    /// Check the signature, then answer by [`Router::verified`](crate::Router::verified). Collect several and check them in
    /// parallel.
    Verify(VerifyRequest),
    /// Ask the topic's validator, then answer by [`Router::validated`](crate::Router::validated).
    Validate(Delivery),
    /// Hand the message to the topic's subscribers.
    Deliver(Delivery),
    /// Connect to a peer, if it is not connected.
    Connect(ConnectRequest),
    /// A part of a message came.
    Partial(PartialReceived),
    /// Tell these peers, by [`Router::send_partial`](crate::Router::send_partial), which parts of the group there are: they do
    /// not know of it yet.
    PartialGossip {
        /// The topic.
        topic: Arc<str>,
        /// The group.
        group: Bytes,
        /// Who to tell.
        peers: Vec<PeerKey>,
    },
    /// Something happened.
    Event(Event),
}

/// A signature to check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyRequest {
    /// To answer with.
    pub handle: MessageHandle,
    /// The message.
    pub message: Arc<WireMessage>,
}

/// A message that came from a peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// To answer a question with.
    pub handle: MessageHandle,
    /// Its id.
    pub id: MessageId,
    /// The topic.
    pub topic: Arc<str>,
    /// Who sent it to us first.
    pub received_from: PeerId,
    /// The message. Its slices share the buffers it was received in.
    pub message: Arc<WireMessage>,
}

impl Delivery {
    /// The payload.
    #[must_use]
    pub fn data(&self) -> Payload {
        self.message.data.clone().unwrap_or_default()
    }

    /// Who made the message, if it says.
    #[must_use]
    pub fn author(&self) -> Option<PeerId> {
        PeerId::from_bytes(self.message.from.as_ref()?).ok()
    }

    /// The author's number of the message, if it has eight bytes.
    #[must_use]
    pub fn seqno(&self) -> Option<u64> {
        let bytes = <[u8; 8]>::try_from(&self.message.seqno.as_ref()?[..]).ok()?;
        Some(u64::from_be_bytes(bytes))
    }
}

/// A validator's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Acceptance {
    /// Deliver and forward it.
    Accept,
    /// Drop it, and punish those who sent it.
    Reject,
    /// Drop it; nobody is to blame.
    Ignore,
}

/// A peer to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectRequest {
    /// The peer.
    pub peer_id: PeerId,
    /// Its signed peer record, checked; without it dial only if addresses are known.
    pub record: Option<barewire_base::peer_record::PeerRecord>,
    /// Whether it is a direct peer; else it was offered by another peer.
    pub direct: bool,
}

/// A part of a message, or which parts a peer has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartialReceived {
    /// Who sent it.
    pub peer: PeerKey,
    /// The topic.
    pub topic: Arc<str>,
    /// What the parts belong to.
    pub group: Bytes,
    /// Parts.
    pub message: Option<Payload>,
    /// Which parts the peer has.
    pub metadata: Option<Bytes>,
}

/// Something that happened. Nothing depends on events being read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A peer subscribed to a topic.
    Subscribed {
        /// The peer.
        peer: PeerKey,
        /// The topic.
        topic: Arc<str>,
    },
    /// A peer is not subscribed any more; also when it left.
    Unsubscribed {
        /// The peer.
        peer: PeerKey,
        /// The topic.
        topic: Arc<str>,
    },
    /// A peer is in a mesh now.
    Grafted {
        /// The peer.
        peer: PeerKey,
        /// The topic.
        topic: Arc<str>,
        /// Whether it asked; else we did.
        by_peer: bool,
    },
    /// A peer is in a mesh no more.
    Pruned {
        /// The peer.
        peer: PeerKey,
        /// The topic.
        topic: Arc<str>,
        /// Why.
        reason: PruneReason,
    },
    /// A message came, once more or for the first time. Told only if [`Config::report_receipts`](crate::Config::report_receipts)
    /// says so, and before anything is verified.
    Received {
        /// Who sent it.
        peer: PeerKey,
        /// The topic.
        topic: Arc<str>,
        /// Its id.
        id: MessageId,
        /// Whether the id was known already.
        duplicate: bool,
    },
    /// A message was not accepted.
    Rejected {
        /// Who sent it.
        peer: PeerKey,
        /// The topic.
        topic: Arc<str>,
        /// Why.
        reason: RejectReason,
    },
    /// Something for a peer was dropped instead of sent.
    Dropped {
        /// The peer.
        peer: PeerKey,
        /// The message, or `None` for gossip.
        id: Option<MessageId>,
        /// Why.
        reason: DropReason,
    },
    /// A peer misbehaved; its P7 counter grew.
    Penalty {
        /// The peer.
        peer: PeerKey,
        /// How.
        kind: Misbehaviour,
    },
    /// A peer's score fell below the graylist threshold: it is ignored.
    Graylisted {
        /// The peer.
        peer: PeerKey,
        /// Its score.
        score: f64,
    },
    /// A queue that had dropped something is at most half full.
    Drained {
        /// The peer.
        peer: PeerKey,
    },
    /// The other side's test extension spoke.
    TestExtension {
        /// The peer.
        peer: PeerKey,
    },
}

/// Why a peer left a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PruneReason {
    /// It pruned us.
    ByPeer,
    /// Its score was negative.
    Score,
    /// There were too many.
    Excess,
    /// It is far and a nearer peer takes its place.
    RoundTrip,
    /// We left the topic.
    Left,
    /// It unsubscribed.
    Unsubscribed,
    /// It disconnected.
    Disconnected,
}

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// The peer's queue is full of what is at least as important.
    QueueFull,
    /// It was queued and had to give way to something more important or newer.
    Displaced,
    /// It is longer than the peer accepts.
    TooLarge,
    /// The peer left.
    Disconnected,
    /// The peer said it does not want it.
    Unwanted,
}

/// How a peer misbehaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// It grafted during its backoff.
    GraftInBackoff,
    /// It did so right after the PRUNE.
    GraftFlood,
    /// It did not deliver what it offered.
    BrokenPromise,
    /// It announced extensions twice.
    Extensions,
    /// It sent an RPC that is malformed or beyond the limits.
    MalformedRpc,
}

/// What became of a publication at each peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Id of the message.
    pub id: Option<MessageId>,
    /// Peers for which it goes out with the next write.
    pub sent: Vec<PeerKey>,
    /// Peers for which it waits behind other frames.
    pub queued: Vec<PeerKey>,
    /// Peers that will not get it, and why. A peer of the first two lists may still follow, by [`Event::Dropped`].
    pub dropped: Vec<(PeerKey, DropReason)>,
}

impl Receipt {
    /// Peers that will get it.
    #[must_use]
    pub const fn accepted(&self) -> usize {
        self.sent.len() + self.queued.len()
    }
}

/// Counters of a router since it was made. All count upwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// RPCs received.
    pub rpcs_in: u64,
    /// RPCs that were malformed or beyond the limits.
    pub rpcs_malformed: u64,
    /// RPCs of graylisted peers, ignored but for subscriptions.
    pub rpcs_graylisted: u64,
    /// Frames taken to be sent.
    pub frames_out: u64,
    /// Bytes of them.
    pub bytes_out: u64,
    /// Messages received, duplicates included.
    pub messages_in: u64,
    /// Messages received that were known.
    pub duplicates: u64,
    /// Messages accepted and handed to subscribers.
    pub delivered: u64,
    /// Messages not accepted, for whatever [`RejectReason`].
    pub rejected: u64,
    /// Messages a validator ignored, or that waited too long for an answer.
    pub ignored: u64,
    /// Messages not looked at because too many wait for verification or validation.
    pub throttled: u64,
    /// Messages left out by the gater.
    pub gated: u64,
    /// Messages of topics that we are not subscribed to.
    pub unsubscribed: u64,
    /// Signatures handed out to be checked.
    pub verifications: u64,
    /// Own messages published.
    pub published: u64,
    /// Messages queued for a peer, own and forwarded.
    pub messages_queued: u64,
    /// Messages dropped from or before a queue.
    pub messages_dropped: u64,
    /// Gossip entries dropped from or before a queue.
    pub gossip_dropped: u64,
    /// Messages sent because a peer asked.
    pub iwant_served: u64,
    /// Their payload bytes.
    pub iwant_bytes: u64,
    /// Messages not sent though asked for: too often, or too many bytes.
    pub iwant_refused: u64,
    /// Ids we asked for.
    pub iwant_asked: u64,
    /// Ids offered to us.
    pub ihave_ids_in: u64,
    /// IHAVE RPCs or ids ignored because there were too many.
    pub ihave_ignored: u64,
    /// Ids that peers do not want.
    pub idontwant_ids_in: u64,
    /// Those ignored because there were too many.
    pub idontwant_ignored: u64,
    /// Ids that we told peers not to send.
    pub idontwant_sent: u64,
    /// Copies not sent because of IDONTWANT.
    pub idontwant_saved: u64,
    /// GRAFTs received.
    pub grafts_in: u64,
    /// Those for topics that we are not subscribed to.
    pub grafts_unknown: u64,
    /// PRUNEs received.
    pub prunes_in: u64,
    /// GRAFTs queued.
    pub grafts_out: u64,
    /// PRUNEs queued.
    pub prunes_out: u64,
    /// Promises that peers broke.
    pub broken_promises: u64,
    /// Misbehaviour counted.
    pub penalties: u64,
    /// Subscriptions of peers ignored because of a cap or filter.
    pub subscriptions_ignored: u64,
    /// Peers offered to us that we asked to connect to.
    pub px_connects: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Events dropped because nobody polled.
    pub events_dropped: u64,
    /// Payload bytes copied out of larger buffers to be kept.
    pub bytes_copied: u64,
    /// Partial messages received.
    pub partials_in: u64,
    /// Partial messages refused because of a limit.
    pub partials_refused: u64,
}

/// A peer as the router sees it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub peer_id: PeerId,
    /// Version of the protocol it speaks.
    pub version: Version,
    /// Whether we dialled it.
    pub outbound: bool,
    /// Whether it is a direct peer.
    pub direct: bool,
    /// Its score.
    pub score: f64,
    /// Its round trip, if it was told.
    pub rtt: Option<Duration>,
    /// Topics it is subscribed to, and whether it is in our mesh of them.
    pub topics: Vec<(Arc<str>, bool)>,
    /// Bytes queued for it.
    pub queued_bytes: usize,
    /// Messages and gossip entries queued for it.
    pub queued_items: usize,
    /// Messages dropped because its queue was full.
    pub dropped: u64,
}
