//! The RPC message of pubsub on the wire: bounded scanning, decoding to slices, encoding, frames.

mod decode;
pub(crate) mod encode;
mod frames;
mod reader;
mod scan;

use barewire_base::{Fault, proto::ScanError};
use bytes::Bytes;

pub(crate) use decode::message as decode_message;
pub use frames::{Frame, FrameError, FrameReader};

use crate::Payload;

/// Field number of `testExtension` in `RPC` and in `ControlExtensions`.
pub(crate) const TEST_EXTENSION: u32 = 6_492_434;
/// Field number of our `maxMessageSize` in `ControlExtensions`; see PROTOCOLS.md. Numbers above 0x200000 are for experiments.
pub(crate) const MAX_MESSAGE_SIZE_EXTENSION: u32 = 6_447_479;

/// Bounds of one received RPC, enforced by a scan that allocates nothing before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RpcLimits {
    /// Fields in all, of the RPC and of every message nested in it, unknown ones included. 65,536: an IHAVE list that
    /// fills go's 1 MiB has about 22,000.
    pub max_fields: usize,
    /// Subscription changes. 5,000, as js allows.
    pub max_subscriptions: usize,
    /// Published messages. 5,000, as rust and js allow.
    pub max_publish: usize,
    /// IHAVE, IWANT, GRAFT, PRUNE and IDONTWANT entries together. 5,000, as js allows.
    pub max_control: usize,
    /// Message ids in all entries together. 32,768: more than fit an RPC of go's 1 MiB with go's ids.
    pub max_ids: usize,
    /// Peers offered by the PRUNEs together. 1,024; go offers 16 with each.
    pub max_peers: usize,
    /// Bytes of everything but the published messages: topics, ids, records, partial messages. 4 MiB, js' whole frame.
    pub max_other_bytes: usize,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self {
            max_fields: 65_536,
            max_subscriptions: 5_000,
            max_publish: 5_000,
            max_control: 5_000,
            max_ids: 32_768,
            max_peers: 1_024,
            max_other_bytes: 4 << 20,
        }
    }
}

/// Why bytes are not an RPC within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// Not protobuf, or not within its general limits.
    #[error("the RPC is not a valid protobuf message: {0}")]
    Protobuf(#[from] ScanError),
    /// A known field has another wire type than the protocol gives it.
    #[error("field {0} of the RPC has the wrong wire type")]
    FieldType(u32),
    /// More subscription changes than allowed.
    #[error("the RPC has more than {0} subscription changes")]
    TooManySubscriptions(usize),
    /// More messages than allowed.
    #[error("the RPC has more than {0} messages")]
    TooManyMessages(usize),
    /// More control entries than allowed.
    #[error("the RPC has more than {0} control entries")]
    TooMuchControl(usize),
    /// More message ids than allowed.
    #[error("the RPC has more than {0} message ids")]
    TooManyIds(usize),
    /// More peers than allowed.
    #[error("the RPC offers more than {0} peers")]
    TooManyPeers(usize),
    /// More bytes beside the messages than allowed.
    #[error("the RPC has more than {0} bytes beside its messages")]
    TooManyBytes(usize),
}

impl RpcError {
    /// Always the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// A decoded RPC. Every `bytes` field is a slice of what was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rpc {
    /// Changes of the sender's subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Published messages.
    pub publish: Vec<WireMessage>,
    /// Control entries.
    pub control: Control,
    /// A part of a message (extension of version 1.3).
    pub partial: Option<Partial>,
    /// The empty message of the test extension.
    pub test_extension: bool,
}

impl Rpc {
    /// Reads one RPC, the frame's body without its length prefix. The limits are checked by a scan of its own before the
    /// decoder allocates.
    ///
    /// A singular field that occurs twice has its last value, or is merged if it is a message, as protobuf demands.
    ///
    /// # Errors
    /// [`RpcError`]; groups are refused, since no encoder emits them.
    pub fn decode(body: &Payload, limits: &RpcLimits) -> Result<Self, RpcError> {
        let counts = scan::scan(body, limits)?;
        decode::decode(body, &counts)
    }
}

/// A change of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Subscribed, or not any more.
    pub subscribe: bool,
    /// Name of the topic; empty if it was missing.
    pub topic: Bytes,
    /// The peer wants partial messages of the topic.
    pub requests_partial: bool,
    /// The peer can send partial messages of the topic.
    pub supports_partial: bool,
}

/// A published message as it lies on the wire. Whether a field is absent or empty is kept, because the signature covers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireMessage {
    /// The whole encoded message, for forwarding it verbatim.
    pub encoded: Payload,
    /// Peer id of the author.
    pub from: Option<Bytes>,
    /// The payload.
    pub data: Option<Payload>,
    /// Number the author gave it.
    pub seqno: Option<Bytes>,
    /// The topic's name.
    pub topic: Option<Bytes>,
    /// Signature of the author.
    pub signature: Option<Bytes>,
    /// Public key of the author, if the id does not embed it.
    pub key: Option<Bytes>,
    /// Fields that are not known, encoded, one after the other. go signs them too.
    pub unknown: Option<Bytes>,
}

/// Control entries of an RPC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Messages the sender has.
    pub ihave: Vec<IHave>,
    /// Ids of messages the sender wants, of all entries.
    pub iwant: Vec<Bytes>,
    /// Topics whose mesh the sender adds us to.
    pub graft: Vec<Bytes>,
    /// Topics whose mesh the sender removes us from.
    pub prune: Vec<Prune>,
    /// Ids of messages the sender does not want, of all entries.
    pub idontwant: Vec<Bytes>,
    /// Extensions the sender speaks, if it said.
    pub extensions: Option<Extensions>,
}

/// An IHAVE entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IHave {
    /// The topic's name.
    pub topic: Bytes,
    /// Ids of messages.
    pub ids: Vec<Bytes>,
}

/// A PRUNE entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// The topic's name.
    pub topic: Bytes,
    /// Other peers of the topic.
    pub peers: Vec<PeerInfo>,
    /// Seconds during which the receiver must not graft; 0 if not said.
    pub backoff: u64,
}

/// A peer offered by a PRUNE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its id, in binary.
    pub peer_id: Bytes,
    /// Its signed peer record, an envelope; may be empty.
    pub record: Bytes,
}

/// Extensions a peer announces in its first RPC on a stream of version 1.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extensions {
    /// Partial messages.
    pub partial_messages: bool,
    /// The test extension.
    pub test_extension: bool,
    /// Ours: the longest RPC in bytes that it accepts; 0 if not said.
    pub max_message_size: u64,
}

/// A part of a message, or which parts a peer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// The topic's name.
    pub topic: Bytes,
    /// What the parts belong to.
    pub group: Bytes,
    /// Parts, encoded by the application.
    pub message: Option<Payload>,
    /// Which parts there are, encoded by the application.
    pub metadata: Option<Bytes>,
}
