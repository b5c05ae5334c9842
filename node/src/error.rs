//! Errors of the endpoint, one enum per operation.

use barewire_base::{Fault, Multiaddr, PeerId};
use barewire_transport::{
    ConnectError, LocalReason, OpenStreamError, TransportError, UpgradeError,
};

use crate::manager::Refusal;

use crate::peer_book::PeerBookError;

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
}

impl DialError {
    pub(crate) fn new(addr: &Multiaddr, error: ConnectError) -> Self {
        let addr = addr.clone();
        match error {
            ConnectError::Transport(error) => Self::Transport(error),
            ConnectError::Upgrade(UpgradeError::Refused(LocalReason::Gated(why))) => {
                Self::Gated { addr, why }
            }
            ConnectError::Upgrade(error) => match error.peer_id_mismatch() {
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
            Self::Transport(TransportError::Unsupported(_))
            | Self::OwnAddress(_)
            | Self::UnknownPeer(_)
            | Self::Gated { .. }
            | Self::ShuttingDown => Fault::Local,
            Self::Transport(_) => Fault::Network,
            Self::Upgrade { error, .. } => error.fault(),
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
