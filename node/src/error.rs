//! Errors of the endpoint, one enum per operation.

use barewire_base::{Fault, Multiaddr, PeerId};
use barewire_transport::{
    ConnectError, LocalReason, OpenStreamError, TransportError, UpgradeError,
};

use crate::{
    dial::{ResolveError, Skip},
    manager::Refusal,
};

use crate::{peer_book::PeerBookError, protocols::relay::RelayError};

/// Why an endpoint could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The identity could not be put into a Noise handshake.
    #[error("cannot prepare the secure handshake: {0}")]
    Security(String),
    /// The peer book could not be opened.
    #[error(transparent)]
    PeerBook(#[from] PeerBookError),
}

impl BindError {
    /// Always this side.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// Why an address could not be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The socket could not be opened.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The address ends in another peer id than this endpoint's.
    #[error("cannot listen as {0}: this node has another identity")]
    OtherPeer(PeerId),
    /// The endpoint shuts down.
    #[error("the endpoint is shutting down")]
    ShuttingDown,
}

impl ListenError {
    /// Always this side.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// Why an address could not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The socket could not be opened or connected.
    #[error(transparent)]
    Transport(TransportError),
    /// The remote answered but did not become a connection.
    #[error("{addr}: {error}")]
    Upgrade {
        /// The address.
        addr: Multiaddr,
        /// The cause.
        error: UpgradeError,
    },
    /// Somebody else answered. Nothing was sent to it but our handshake.
    #[error(
        "{addr}: {actual} answered instead of {expected}; correct the address if that is who you want"
    )]
    WrongPeer {
        /// The address.
        addr: Multiaddr,
        /// Who was dialled.
        expected: PeerId,
        /// Who answered.
        actual: PeerId,
    },
    /// Only the peer's id was given, and the peer book has no address for it.
    #[error("no address of {0} is known; give one, or a peer book that has one")]
    UnknownPeer(PeerId),
    /// The address is this node's own.
    #[error("{0} is this node itself")]
    OwnAddress(Multiaddr),
    /// The gater of this node does not want the address, or who answered there.
    #[error("{addr}: the gater refused it: {why}")]
    Gated {
        /// The address.
        addr: Multiaddr,
        /// What the gater said.
        why: &'static str,
    },
    /// A limit of this node is reached.
    #[error("{addr}: a limit of this node is reached: {limit}; close some connections first")]
    Limit {
        /// The address.
        addr: Multiaddr,
        /// Which limit.
        limit: Refusal,
    },
    /// The endpoint shuts down.
    #[error("the endpoint is shutting down")]
    ShuttingDown,
    /// The task that dialled panicked, which is a defect: of this node or of the dial's observer.
    #[error("the dial panicked; the log says where")]
    Panicked,
    /// A name in the address could not be resolved.
    #[error("{addr}: {error}")]
    Name {
        /// The address.
        addr: Multiaddr,
        /// The cause.
        error: ResolveError,
    },
    /// A public name leads into a private network, where it may have been pointed to make this node
    /// knock at doors there.
    #[error(
        "{name} leads to {addr}, inside a private network; allow private names if that is meant"
    )]
    PrivateName {
        /// The address with the name.
        name: Multiaddr,
        /// What it was resolved to.
        addr: Multiaddr,
    },
    /// The address was not tried.
    #[error("{addr}: {why}")]
    Skipped {
        /// The address.
        addr: Multiaddr,
        /// Why.
        why: Skip,
    },
    /// The addresses of one dial end in different ids.
    #[error("the addresses are of different peers, {one} and {other}; dial them one by one")]
    SeveralPeers {
        /// One of them.
        one: PeerId,
        /// Another.
        other: PeerId,
    },
    /// The relay in the address did not lead to the peer.
    #[error("{addr}: {error}")]
    Relay {
        /// The address.
        addr: Multiaddr,
        /// The cause.
        error: RelayError,
    },
    /// There is nothing to dial.
    #[error("no address to dial{}", .0.map(|peer| format!(" {peer} at is known; name one")).unwrap_or_default())]
    NoAddress(Option<PeerId>),
    /// None of several addresses became a connection: what happened at each.
    #[error("{}", all(.0))]
    All(Vec<Self>),
}

/// A line for each address; those over the limit share one.
fn all(errors: &[DialError]) -> String {
    use std::fmt::Write;
    let too_many = |error: &&DialError| {
        let why = Skip::TooMany;
        matches!(error, DialError::Skipped { why: other, .. } if *other == why)
    };
    let over = errors.iter().filter(too_many).count();
    let mut text = format!("none of {} addresses became a connection", errors.len());
    for error in errors.iter().filter(|error| !too_many(error)) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {error}");
    }
    if over > 0 {
        let _ = write!(
            text,
            "\n  {over} more were not tried: the peer has too many addresses"
        );
    }
    text
}

impl DialError {
    pub(crate) fn new(addr: &Multiaddr, error: ConnectError) -> Self {
        match error {
            ConnectError::Transport(error) => Self::Transport(error),
            ConnectError::Upgrade(error) => Self::upgrade(addr, error),
        }
    }

    /// The byte stream did not become a connection.
    pub(crate) fn upgrade(addr: &Multiaddr, error: UpgradeError) -> Self {
        let addr = addr.clone();
        match error {
            UpgradeError::Refused(LocalReason::Gated(why)) => Self::Gated { addr, why },
            error => match error.peer_id_mismatch() {
                Some((expected, actual)) => Self::WrongPeer {
                    addr,
                    expected,
                    actual,
                },
                None => Self::Upgrade { addr, error },
            },
        }
    }

    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::All(errors) => match errors.split_first() {
                Some((first, rest)) if rest.iter().all(|e| e.fault() == first.fault()) => {
                    first.fault()
                }
                _ => Fault::Network,
            },
            Self::Name { .. } | Self::NoAddress(_) => Fault::Network,
            Self::PrivateName { .. } => Fault::Peer,
            Self::Skipped { .. } => Fault::Limit,
            Self::Transport(TransportError::Unsupported(_))
            | Self::SeveralPeers { .. }
            | Self::OwnAddress(_)
            | Self::UnknownPeer(_)
            | Self::Gated { .. }
            | Self::Panicked
            | Self::ShuttingDown => Fault::Local,
            Self::Transport(_) => Fault::Network,
            Self::Upgrade { error, .. } => error.fault(),
            Self::Relay { error, .. } => error.fault(),
            Self::WrongPeer { .. } => Fault::Peer,
            Self::Limit { .. } => Fault::Limit,
        }
    }
}

/// Why no stream to a peer could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no connection and none could be made.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection takes no stream.
    #[error(transparent)]
    Stream(#[from] OpenStreamError),
}

impl OpenError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Dial(error) => error.fault(),
            Self::Stream(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Stream(OpenStreamError::InvalidProtocol(_)) => Fault::Local,
            Self::Stream(_) => Fault::Peer,
        }
    }
}
