//! Circuit relay v2: connections through a third node for those that cannot be dialled.
//!
//! A [`RelayServer`] carries circuits for others. A [`RelayClient`] keeps reservations at relays, announces where it can be reached
//! through them, and takes what comes that way. Dialling needs neither: an address with `/p2p-circuit` in it is dialled like any other.
//! A circuit becomes a connection like others, in the same table;
//! [`ConnectionInfo::limit`](crate::ConnectionInfo::limit) says what the relay lets through. New streams go over a direct connection
//! as soon as there is one.

mod client;
mod dial;
mod pipe;
mod server;
mod wire;

use barewire_base::Fault;
use barewire_transport::{OpenStreamError, StreamError, UpgradeError};

pub(crate) use self::dial::is_circuit;
pub use self::{
    client::{RelayAddressError, RelayClient, RelayClientConfig, RelayState, Reserved},
    server::{RelayServer, RelayServerConfig, RelayStats},
};
pub use barewire_nat::relay::{
    HOP_PROTOCOL, KeeperConfig, LedgerConfig, Limit, MessageError, STOP_PROTOCOL, Status,
    VoucherError,
};

use crate::error::DialError;

/// Why a relay did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The address is none that leads through a relay to a peer.
    #[error(
        "a relayed address is /…/p2p/RELAY/p2p-circuit/p2p/PEER, with one relay that is neither this node nor the peer"
    )]
    Address,
    /// The relay itself cannot be reached.
    #[error("no connection to the relay: {0}")]
    Dial(Box<DialError>),
    /// There is a connection to the relay, but through another relay.
    #[error("the relay itself is reached through a relay only")]
    Nested,
    /// It takes no stream, or is no relay.
    #[error("it is no relay for us: {0}")]
    Open(OpenStreamError),
    /// The stream to it failed.
    #[error("the stream to the relay failed: {0}")]
    Stream(StreamError),
    /// It ended the stream instead of an answer.
    #[error("the relay ended the stream without an answer")]
    Ended,
    /// It did not answer in time.
    #[error("the relay does not answer")]
    Timeout,
    /// What it said cannot be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It said something else than an answer.
    #[error("the relay said something unexpected")]
    Unexpected,
    /// It refused.
    #[error("the relay refused: {0}")]
    Refused(Status),
    /// It gave a reservation that is over.
    #[error("the relay gave a reservation that is over; is the clock right?")]
    Expired,
    /// Its voucher is worth nothing.
    #[error("the relay's voucher is invalid: {0}")]
    Voucher(VoucherError),
    /// The circuit did not become a connection.
    #[error(transparent)]
    Upgrade(UpgradeError),
}

impl RelayError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Address | Self::Nested => Fault::Local,
            Self::Dial(error) => error.fault(),
            Self::Open(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Stream(error) => error.fault(),
            Self::Timeout => Fault::Network,
            Self::Refused(Status::ResourceLimitExceeded | Status::ReservationRefused) => {
                Fault::Limit
            }
            Self::Refused(Status::ConnectionFailed | Status::NoReservation) => Fault::Network,
            Self::Upgrade(error) => error.fault(),
            _ => Fault::Peer,
        }
    }
}
