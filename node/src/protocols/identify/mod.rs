//! `/ipfs/id/1.0.0` and `/ipfs/id/push/1.0.0`: what peers tell each other about themselves.
//!
//! The answer is a message of at most 4 KiB with the essential fields and a second one with the
//! signed record; the end of the stream follows at once, because go-libp2p opens no other stream
//! before it has seen it.

mod local;
mod message;

use std::time::Duration;

use barewire_base::Fault;
use barewire_transport::{Connection, OpenStreamError, Stream, StreamError};
use bytes::Bytes;

pub(crate) use local::Local;
pub use message::{
    MAX_ADDRESSES, MAX_MESSAGES, MAX_PROTOCOLS, MAX_SENT, MAX_TOTAL, MessageError, Outgoing,
    PeerInfo, Reader, encode, protocols_len,
};

/// Protocol id of the query.
pub const PROTOCOL: &str = "/ipfs/id/1.0.0";
/// Protocol id of the push.
pub const PUSH_PROTOCOL: &str = "/ipfs/id/push/1.0.0";
/// Room for the protocol list in a message: what [`MAX_SENT`] leaves beside a key, an observed
/// address and the version texts.
pub(crate) const MAX_PROTOCOLS_LEN: usize = MAX_SENT - 1024;

/// Why a peer could not be identified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// No stream could be opened.
    #[error(transparent)]
    Open(#[from] OpenStreamError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// What the peer sent is not acceptable.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The peer did not finish in time.
    #[error("no identify answer within {0:?}")]
    Timeout(Duration),
}

impl IdentifyError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Open(_) | Self::Timeout(_) => Fault::Peer,
            Self::Stream(error) => error.fault(),
            Self::Message(error) => error.fault(),
        }
    }
}

/// Asks the peer who it is, on a stream of its own.
pub(crate) async fn query(
    connection: &Connection,
    timeout: Duration,
) -> Result<PeerInfo, IdentifyError> {
    let ask = async {
        let mut stream = connection.open_stream(PROTOCOL).await?;
        stream.hold_nothing();
        let reader = read_to_end(&mut stream).await?;
        // The stream ends on both sides only now: some peers miss an end that comes together with
        // the negotiation.
        let _ = stream.finish();
        Ok(reader.finish(connection.public_key())?)
    };
    match tokio::time::timeout(timeout, ask).await {
        Ok(result) => result,
        Err(_) => Err(IdentifyError::Timeout(timeout)),
    }
}

/// Reads the messages of a stream up to its end.
pub(crate) async fn read_to_end(stream: &mut Stream) -> Result<Reader, IdentifyError> {
    let mut reader = Reader::default();
    while let Some(chunk) = stream.read_chunk(MAX_TOTAL + 1).await? {
        reader.push(chunk)?;
    }
    Ok(reader)
}

/// Answers a query, or is the body of a push: all of it and the end at once.
pub(crate) async fn send(stream: &mut Stream, message: Bytes) -> Result<(), StreamError> {
    stream.write_last(message).await
}

/// Tells the peer what has changed.
pub(crate) async fn push(
    connection: &Connection,
    message: Bytes,
    timeout: Duration,
) -> Result<(), IdentifyError> {
    let push = async {
        let mut stream = connection.open_stream(PUSH_PROTOCOL).await?;
        stream.hold_nothing();
        // The proposal may be refused by a peer that changed its mind; nothing is lost with it.
        stream.negotiate().await?;
        send(&mut stream, message).await?;
        Ok(())
    };
    match tokio::time::timeout(timeout, push).await {
        Ok(result) => result,
        Err(_) => Err(IdentifyError::Timeout(timeout)),
    }
}
