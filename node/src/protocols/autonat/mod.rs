//! AutoNAT: whether others can open connections to this node, and telling them whether it can to theirs.
//!
//! An [`AutonatServer`] dials those that ask, from an identity and ports of its own, so that what a router lets through does not come
//! from the connection that is there. An [`AutonatClient`] asks the peers that offer it, believes what several networks agree on, and
//! makes the node announce what can be reached. What it knows is in [`State`](crate::State) and comes as
//! [`Event::Reachability`](crate::Event::Reachability).

mod client;
mod server;

use std::net::IpAddr;

use barewire_base::{Fault, Multiaddr};
use barewire_transport::{Connection, OpenStreamError, Stream, StreamError};

pub use self::{
    client::{AutonatClient, AutonatClientConfig, AutonatState},
    server::{AutonatServer, AutonatServerConfig, AutonatStats},
};
pub use barewire_nat::autonat::{
    AnswerError, ClientConfig, DIAL_BACK_PROTOCOL, DIAL_REQUEST_PROTOCOL, MAX_DATA, MIN_DATA,
    MessageError, PaymentError, Rates, Reachability, ServerConfig, TestedAddr, V1_PROTOCOL,
    V1Status,
};

use super::{
    frame::{self, ReadError},
    relay::is_circuit,
};
use crate::{addresses::Scope, endpoint::Shared, manager::ip_of};

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AutonatError {
    /// There is no direct connection to the server any more.
    #[error("not connected to the server any more")]
    Gone,
    /// The server takes no stream.
    #[error("the server takes no request: {0}")]
    Open(OpenStreamError),
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Stream(StreamError),
    /// The peer ended the stream in the middle.
    #[error("the peer ended the exchange")]
    Ended,
    /// It took too long.
    #[error("the exchange was not done in time")]
    Timeout,
    /// What the peer said cannot be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It said something else than was due.
    #[error("the peer said something unexpected")]
    Unexpected,
    /// What it said does not count.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// It did not pay as it should.
    #[error(transparent)]
    Payment(#[from] PaymentError),
}

impl AutonatError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Gone | Self::Timeout => Fault::Network,
            Self::Open(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Stream(error) => error.fault(),
            Self::Answer(error) => error.fault(),
            _ => Fault::Peer,
        }
    }
}

impl From<ReadError> for AutonatError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stream(error) => Self::Stream(error),
            ReadError::Ended => Self::Ended,
            ReadError::TooLong(len) => Self::Message(MessageError::TooLong {
                len,
                max: barewire_nat::autonat::MAX_MESSAGE,
            }),
        }
    }
}

async fn send(stream: &mut Stream, message: &[u8]) -> Result<(), AutonatError> {
    let sent = stream.write_chunk(frame::framed(message)).await;
    sent.map_err(AutonatError::Stream)
}

/// Where a peer is, unless a relay is there instead.
fn seen_at(connection: &Connection) -> Option<IpAddr> {
    let info = connection.info();
    let direct = !info.is_relayed();
    ip_of(&info.remote_addr).filter(|_| direct)
}

/// Whether an address is one that is tested, or dialled for others: in the open, or nearer where `private` says so, and of a transport
/// that this node has.
fn may_test(shared: &Shared, addr: &Multiaddr, private: bool) -> bool {
    let scope = addr.ip().map(Scope::of);
    let reaches = match scope {
        Some(Scope::Public) => true,
        Some(Scope::Private | Scope::Loopback) => private,
        _ => false,
    };
    reaches && !is_circuit(addr) && shared.transports.can_dial(addr)
}
