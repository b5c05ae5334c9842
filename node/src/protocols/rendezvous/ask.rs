//! One request on a stream of its own.

use std::time::{Duration, SystemTime};

use barewire_base::{
    Fault, Multiaddr, PeerId,
    framing::{FramingError, LengthPrefixedDecoder, encode_prefixed},
    peer_record::PeerRecord,
};
use barewire_rendezvous::{
    Answer, CANVAS_PROTOCOL, MAX_MESSAGE, MessageError, PROTOCOL, Request, Status, decode_answer,
};
use barewire_transport::{Connection, OpenStreamError, Stream, StreamError};
use bytes::{Bytes, BytesMut};

use crate::endpoint::Endpoint;

/// How long a point may take, as rust-libp2p gives it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of a request without an answer is waited for.
const END: Duration = Duration::from_secs(2);

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No stream could be opened.
    #[error(transparent)]
    Open(#[from] OpenStreamError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The answer is too long.
    #[error("the answer of the rendezvous point cannot be read: {0}")]
    Framing(#[from] FramingError),
    /// The answer is none.
    #[error("the answer of the rendezvous point cannot be read: {0}")]
    Message(#[from] MessageError),
    /// The point ended the stream without an answer.
    #[error("the rendezvous point ended the stream instead of answering")]
    Ended,
    /// The point refused.
    #[error("the rendezvous point refused: {}", refusal(*.status, .text))]
    Refused {
        /// Why.
        status: Status,
        /// Why, in words of the point.
        text: String,
    },
    /// There is no address to register.
    #[error("there is no address to register")]
    NoAddress,
    /// No answer in time.
    #[error("the rendezvous point did not answer within {0:?}")]
    Timeout(Duration),
}

impl AskError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Stream(error) => error.fault(),
            Self::Timeout(_) => Fault::Network,
            Self::NoAddress => Fault::Local,
            Self::Refused {
                status: Status::Unavailable,
                ..
            } => Fault::Limit,
            _ => Fault::Peer,
        }
    }
}

fn refusal(status: Status, text: &str) -> String {
    match text {
        "" => status.name().to_owned(),
        text => format!("{}, {text}", status.name()),
    }
}

/// Sends a request to the peer of a connection; `None` comes back for UNREGISTER, which has no answer.
///
/// Each request has a stream of its own: rust-libp2p serves one. Cancelling it resets the stream.
///
/// # Errors
/// [`AskError`].
pub async fn ask(connection: &Connection, request: &Request) -> Result<Option<Answer>, AskError> {
    let exchange = exchange(connection, request);
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(answered) => answered,
        Err(_) => Err(AskError::Timeout(TIMEOUT)),
    }
}

/// A peer that a point has told of, at addresses that the peer has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registered {
    /// The namespace.
    pub ns: String,
    /// The peer.
    pub peer: PeerId,
    /// Its addresses.
    pub addrs: Vec<Multiaddr>,
    /// How long it is registered.
    pub ttl: Duration,
}

/// Registers an endpoint once, at these addresses, with the peer of a connection. Returns for how long. Cancel-safe,
/// but the point may have registered it.
///
/// # Errors
/// [`AskError`].
pub async fn register(
    endpoint: &Endpoint,
    connection: &Connection,
    ns: &str,
    ttl: Duration,
    addrs: Vec<Multiaddr>,
) -> Result<Duration, AskError> {
    let [standard, legacy] = sign(endpoint, addrs).ok_or(AskError::NoAddress)?;
    let both = endpoint.identify(connection).await;
    let both = both.is_ok_and(|info| info.is_barewire());
    let mut outcome = Err(AskError::Ended);
    // rust-libp2p ends the stream over the form that all others read. Points of barewire keep both.
    for record in [standard, legacy] {
        let request = Request::Register {
            ns: Bytes::copy_from_slice(ns.as_bytes()),
            record,
            ttl: ttl.as_secs(),
        };
        outcome = match ask(connection, &request).await {
            Ok(Some(Answer::Register {
                status: Status::Ok,
                ttl,
                ..
            })) => Ok(Duration::from_secs(ttl)),
            Ok(Some(Answer::Register { status, text, .. })) => {
                Err(AskError::Refused { status, text })
            }
            Ok(_) => Err(AskError::Message(MessageError::Unexpected)),
            Err(error) => Err(error),
        };
        let go_on = match &outcome {
            Ok(_) => both,
            Err(AskError::Refused { status, .. }) => *status == Status::InvalidSignedPeerRecord,
            Err(error) => matches!(error, AskError::Ended | AskError::Stream(_)),
        };
        if !go_on {
            break;
        }
    }
    outcome
}

/// Asks the peer of a connection once who is registered in a namespace, or in any if that is empty. `cookie` is that of an earlier
/// answer, or empty; a new one comes back. Registrations that nobody has signed are left out. Cancel-safe.
///
/// # Errors
/// [`AskError`].
pub async fn discover(
    connection: &Connection,
    ns: &str,
    limit: u64,
    cookie: Bytes,
) -> Result<(Vec<Registered>, Bytes), AskError> {
    let ns = Bytes::copy_from_slice(ns.as_bytes());
    let request = Request::Discover {
        ns: ns.clone(),
        limit,
        cookie,
    };
    let Some(Answer::Discover {
        status,
        text,
        registrations,
        cookie,
    }) = ask(connection, &request).await?
    else {
        return Err(AskError::Message(MessageError::Unexpected));
    };
    if status != Status::Ok {
        return Err(AskError::Refused { status, text });
    }
    let verified = registrations.into_iter().filter_map(|one| {
        let record = PeerRecord::from_envelope(&one.record).ok()?;
        let named = if one.ns.is_empty() { &ns } else { &one.ns };
        Some(Registered {
            ns: String::from_utf8_lossy(named).into_owned(),
            peer: record.peer_id,
            addrs: record.addrs,
            ttl: Duration::from_secs(one.ttl),
        })
    });
    Ok((verified.collect(), cookie))
}

/// A record of these addresses, as go- and js-libp2p read it and as rust-libp2p does. Its number is in
/// nanoseconds since 1970, as go-libp2p counts. `None` without addresses.
pub(super) fn sign(endpoint: &Endpoint, addrs: Vec<Multiaddr>) -> Option<[Bytes; 2]> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |since| since.as_nanos());
    let record = PeerRecord {
        peer_id: endpoint.peer_id(),
        seq: u64::try_from(nanos).unwrap_or(u64::MAX),
        addrs,
    };
    let keypair = endpoint.keypair();
    let signed = record
        .sign(keypair)
        .ok()
        .zip(record.sign_legacy(keypair).ok());
    let (standard, legacy) = signed.filter(|_| !record.addrs.is_empty())?;
    Some([standard.into(), legacy.into()])
}

async fn exchange(connection: &Connection, request: &Request) -> Result<Option<Answer>, AskError> {
    let protocols = [PROTOCOL, CANVAS_PROTOCOL];
    let mut stream = connection.open_stream_negotiated(&protocols).await?;
    let mut framed = BytesMut::new();
    encode_prefixed(&request.encode(), &mut framed);
    if matches!(request, Request::Unregister { .. }) {
        stream.write_last(framed.freeze()).await?;
        // Who has read it all ends the stream, sooner or later; without that nothing is known to be wrong.
        let _ = tokio::time::timeout(END, stream.read_chunk(1)).await;
        return Ok(None);
    }
    stream.write_chunk(framed.freeze()).await?;
    let answer = read_answer(&mut stream).await;
    // js-libp2p misses an end that comes with the request. When this fails the stream is over already.
    let _ = stream.finish();
    answer.map(Some)
}

async fn read_answer(stream: &mut Stream) -> Result<Answer, AskError> {
    let mut decoder = LengthPrefixedDecoder::new(MAX_MESSAGE);
    while let Some(chunk) = stream.read_chunk(MAX_MESSAGE).await? {
        decoder.push(chunk);
        if let Some(message) = decoder.next()? {
            return Ok(decode_answer(&message)?);
        }
    }
    Err(AskError::Ended)
}
