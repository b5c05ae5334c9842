//! What the router's calls take and return.

use std::net::IpAddr;

use barewire_base::{Fault, PeerId};

use crate::{PeerKey, PeerLimits, Version};

/// A peer that connected.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NewPeer {
    /// Who it is.
    pub peer_id: PeerId,
    /// Version of the protocol, as negotiated for our stream to it.
    pub version: Version,
    /// Whether we dialled it. Peers that dialled us may be an attacker's choice.
    pub outbound: bool,
    /// Its IP address, for colocation penalties; `None` if it has none, for example behind a relay.
    pub address: Option<IpAddr>,
    /// What it accepts in an RPC.
    pub limits: PeerLimits,
}

impl NewPeer {
    /// A peer that dialled us, of unknown address and limits.
    #[must_use]
    pub const fn new(peer_id: PeerId, version: Version) -> Self {
        Self {
            peer_id,
            version,
            outbound: false,
            address: None,
            limits: PeerLimits::UNKNOWN,
        }
    }

    /// Sets whether we dialled it.
    #[must_use]
    pub const fn outbound(mut self, outbound: bool) -> Self {
        self.outbound = outbound;
        self
    }

    /// Sets its address.
    #[must_use]
    pub const fn address(mut self, address: Option<IpAddr>) -> Self {
        self.address = address;
        self
    }

    /// Sets its limits.
    #[must_use]
    pub const fn limits(mut self, limits: PeerLimits) -> Self {
        self.limits = limits;
        self
    }
}

/// Why a peer is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It is connected already.
    #[error("the peer is connected already")]
    Connected(PeerKey),
    /// There are too many peers.
    #[error("there are {0} peers already")]
    Full(usize),
    /// It has our own id.
    #[error("the peer has our own id")]
    Ourselves,
}

impl ConnectError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Connected(_) => Fault::Local,
            Self::Full(_) => Fault::Limit,
            Self::Ourselves => Fault::Peer,
        }
    }
}

/// How to subscribe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Ask peers for partial messages instead of whole ones. Needs [`Config::partial_messages`](crate::Config::partial_messages).
    pub requests_partial: bool,
    /// Tell peers that we can send partial messages; implied by the former.
    pub supports_partial: bool,
}

impl SubscribeOptions {
    /// Whether to ask for partial messages, and whether to send them.
    #[must_use]
    pub const fn partial(requests: bool, supports: bool) -> Self {
        Self {
            requests_partial: requests,
            supports_partial: supports || requests,
        }
    }
}

/// Why a topic cannot be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name is longer than allowed.
    #[error("the topic's name has {len} bytes, at most {max} are allowed")]
    NameTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// There are too many topics.
    #[error("there are {0} topics already")]
    TooManyTopics(usize),
    /// We are subscribed already.
    #[error("the topic is subscribed already")]
    AlreadySubscribed,
}

impl SubscribeError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NameTooLong { .. } | Self::AlreadySubscribed => Fault::Local,
            Self::TooManyTopics(_) => Fault::Limit,
        }
    }
}

/// How much a router holds, for metrics and leak tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sizes {
    /// Connected peers.
    pub peers: usize,
    /// Topics known.
    pub topics: usize,
    /// Message ids remembered.
    pub seen: usize,
    /// Records of messages.
    pub records: usize,
    /// Bytes of messages that can be asked for.
    pub history_bytes: usize,
    /// Messages that wait for verification or validation.
    pub pending: usize,
    /// Their bytes.
    pub pending_bytes: usize,
    /// Deliveries awaited.
    pub promises: usize,
    /// Peers that left whose scores are kept.
    pub retained: usize,
    /// Backoffs of all topics.
    pub backoffs: usize,
    /// Ids that peers do not want, of all peers.
    pub unwanted: usize,
    /// Groups of partial messages.
    pub groups: usize,
    /// Bytes queued for all peers.
    pub queued_bytes: usize,
    /// Outputs that wait to be polled.
    pub outputs: usize,
}
