//! Errors of the endpoint, one enum per operation.

use barewire_base::{Fault, Multiaddr, PeerId};
use barewire_transport::{ConnectError, TransportError, UpgradeError};

/// Why an endpoint could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The identity could not be put into a Noise handshake.
    #[error("cannot prepare the secure handshake: {0}")]
    Security(String),
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
    /// The address is this node's own.
    #[error("{0} is this node itself")]
    OwnAddress(Multiaddr),
    /// The table of connections is full.
    #[error("this node holds {0} connections, its limit; close some first")]
    TooManyConnections(usize),
    /// The endpoint shuts down.
    #[error("the endpoint is shutting down")]
    ShuttingDown,
}

impl DialError {
    pub(crate) fn new(addr: &Multiaddr, error: ConnectError) -> Self {
        let addr = addr.clone();
        match error {
            ConnectError::Transport(error) => Self::Transport(error),
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
            | Self::ShuttingDown => Fault::Local,
            Self::Transport(_) => Fault::Network,
            Self::Upgrade { error, .. } => error.fault(),
            Self::WrongPeer { .. } => Fault::Peer,
            Self::TooManyConnections(_) => Fault::Limit,
        }
    }
}
