//! The handshake as a state machine over byte slices.

use std::{fmt, net::Ipv4Addr, sync::Arc};

use barewire_base::PeerId;
use bytes::BytesMut;
use rustls::{
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};

use super::{Config, Error, peer_of};
use crate::{Secured, Session, session::Kernel};

/// Type, version and length in front of each record.
const HEADER: usize = 5;
/// Content types of a handshake's records: change of cipher, alert, handshake, application data.
const TYPES: std::ops::RangeInclusive<u8> = 20..=23;
/// The first byte of every version since SSL 3.
const MAJOR_VERSION: u8 = 3;
/// Most bytes of a record behind its header.
const MAX_CIPHERTEXT: usize = (1 << 14) + 256;
/// First guess at the length of our next flight: a hello, or a certificate with its proof.
const FLIGHT: usize = 1536;

/// One side of a TLS handshake.
///
/// The owner feeds received bytes to [`handle_input`](Self::handle_input) and sends what
/// [`poll_transmit`](Self::poll_transmit) appends, until [`is_finished`](Self::is_finished). After an
/// error it sends what there still is, an alert that tells the peer why, and closes the connection;
/// the error stays and comes again from every later call.
///
/// The client looks at the server's identity before it shows its own: a wrong peer never learns who
/// dialled it. It finishes before the server has verified its certificate, whose refusal is then an
/// alert in the place of the server's first record.
pub struct Handshake {
    muxers: Vec<Arc<str>>,
    stage: Stage,
    /// Bytes at the front of the input that rustls has looked at and still needs.
    seen: usize,
    /// Our records, until they are taken.
    outgoing: Vec<u8>,
}

enum Stage {
    Running(Box<Connection>),
    Done(Box<Secured>),
    Failed(Error),
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What one look of rustls at the input came to.
enum Step {
    /// It has more to do or to say.
    Again,
    /// It needs more input.
    Blocked,
    /// The handshake is over on this side.
    Done,
}

impl Handshake {
    /// Begins as the side that dialled. `expected` is whom it wants to meet; with `None` anyone
    /// will do.
    ///
    /// # Errors
    /// [`Error::Library`] when rustls refuses to begin.
    pub fn client(config: &Config, expected: Option<PeerId>) -> Result<Self, Error> {
        let settings = Arc::new(config.client_config(expected, config.stream_alpn()));
        // Never sent: an address is no name.
        let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        let connection = UnbufferedClientConnection::new(settings, name)?;
        let mut connection = Connection::Client(connection);
        let mut hello = Vec::new();
        connection.run(&mut [], &mut hello).1?;
        let mut handshake = Self::new(config, connection);
        handshake.outgoing = hello;
        Ok(handshake)
    }

    /// Begins as the side that was dialled.
    ///
    /// # Errors
    /// [`Error::Library`] when rustls refuses to begin.
    pub fn server(config: &Config) -> Result<Self, Error> {
        let settings = Arc::new(config.server_config(config.stream_alpn()));
        let connection = UnbufferedServerConnection::new(settings)?;
        Ok(Self::new(config, Connection::Server(connection)))
    }

    fn new(config: &Config, connection: Connection) -> Self {
        Self {
            muxers: config.muxers.clone(),
            stage: Stage::Running(Box::new(connection)),
            seen: 0,
            outgoing: Vec::new(),
        }
    }

    /// Reads the whole records at the front of `input` and returns how many bytes that took.
    ///
    /// Bytes that were not taken come first in the next call's input, as this call left them: it may
    /// have decrypted a part of a message whose end is yet to come. Never takes bytes beyond the
    /// last handshake record: they are the first records of the peer.
    ///
    /// # Errors
    /// Any error is final. See [`Error`].
    pub fn handle_input(&mut self, input: &mut [u8]) -> Result<usize, Error> {
        let mut taken = 0;
        loop {
            let connection = match &mut self.stage {
                Stage::Running(connection) => connection,
                Stage::Done(_) => return Ok(taken),
                Stage::Failed(error) => return Err(error.clone()),
            };
            let front = &mut input[taken..];
            let Some(end) = next_record(front, self.seen) else {
                return Ok(taken);
            };
            let (discarded, step) = connection.run(&mut front[..end], &mut self.outgoing);
            // rustls discards no more than it was shown.
            taken += discarded;
            self.seen = end - discarded;
            match step {
                Ok(Step::Done) => self.finish_stage(),
                Ok(_) => {}
                Err(error) => {
                    // What is left to say is why; that it then repeats the error is known. It has
                    // to be shown again what it still needs.
                    let rest = &mut front[discarded..end];
                    drop(connection.run(rest, &mut self.outgoing));
                    self.stage = Stage::Failed(error);
                }
            }
        }
    }

    /// Appends the records that are to be sent now to `out`; false when there are none.
    pub fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        out.extend_from_slice(&self.outgoing);
        !std::mem::take(&mut self.outgoing).is_empty()
    }

    /// Whether the last record was read and ours were all taken, so that [`finish`](Self::finish)
    /// may be called.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Done(_)) && self.outgoing.is_empty()
    }

    /// Gives the session and who is at its other end.
    ///
    /// # Errors
    /// [`Error::NotFinished`] when [`is_finished`](Self::is_finished) is false, or the error that
    /// ended the handshake.
    pub fn finish(self) -> Result<Secured, Error> {
        match self.stage {
            Stage::Done(secured) if self.outgoing.is_empty() => Ok(*secured),
            Stage::Failed(error) => Err(error),
            Stage::Done(_) | Stage::Running(_) => Err(Error::NotFinished),
        }
    }

    fn finish_stage(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed(Error::NotFinished));
        self.stage = match stage {
            Stage::Running(connection) => match connection.secured(&self.muxers) {
                Ok(secured) => Stage::Done(Box::new(secured)),
                Err(error) => Stage::Failed(error),
            },
            other => other,
        };
    }
}

impl Connection {
    /// Has rustls work on `input` until it needs more. Returns the bytes at its front that it needs
    /// no longer.
    fn run(&mut self, input: &mut [u8], outgoing: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        let mut discarded = 0;
        loop {
            let rest = &mut input[discarded..];
            let (bytes, step) = match self {
                Self::Client(connection) => handle(connection.process_tls_records(rest), outgoing),
                Self::Server(connection) => handle(connection.process_tls_records(rest), outgoing),
            };
            discarded += bytes;
            match step {
                Ok(Step::Again) => {}
                end => return (discarded, end),
            }
        }
    }

    fn secured(self, muxers: &[Arc<str>]) -> Result<Secured, Error> {
        let (certificates, alpn) = match &self {
            Self::Client(connection) => {
                (connection.peer_certificates(), connection.alpn_protocol())
            }
            Self::Server(connection) => {
                (connection.peer_certificates(), connection.alpn_protocol())
            }
        };
        let public_key = peer_of(certificates.ok_or(Error::NoCertificate)?)?;
        let muxer = muxers
            .iter()
            .find(|muxer| alpn == Some(muxer.as_bytes()))
            .cloned();
        let (secrets, kernel) = match self {
            Self::Client(connection) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Client(kernel))),
            Self::Server(connection) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Server(kernel))),
        }?;
        let session = Session::tls(secrets, kernel)
            .ok_or_else(|| Error::Library("the cipher refused a key".into()))?;
        Ok(Secured {
            session,
            peer_id: public_key.peer_id(),
            public_key,
            muxer,
        })
    }
}

/// Does what rustls asks for.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = outgoing.len();
            outgoing.resize(start + FLIGHT, 0);
            let mut written = data.encode(&mut outgoing[start..]);
            if let Err(EncodeError::InsufficientSize(needed)) = &written {
                outgoing.resize(start + needed.required_size, 0);
                written = data.encode(&mut outgoing[start..]);
            }
            match written {
                Ok(written) => {
                    outgoing.truncate(start + written);
                    Ok(Step::Again)
                }
                Err(error) => Err(Error::Library(error.to_string())),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(Error::Closed),
        Ok(other) => Err(Error::Library(format!("unexpected state {other:?}"))),
    };
    (status.discard, step)
}

/// Where the first record behind `seen` bytes ends, once it is whole. One record at a time: rustls
/// would go on and decrypt what the peer sends behind its handshake.
///
/// What cannot be a record is shown to rustls as it is, whose error it is to make.
fn next_record(input: &[u8], seen: usize) -> Option<usize> {
    let (header, rest) = input.get(seen..)?.split_first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if !TYPES.contains(&header[0]) || header[1] != MAJOR_VERSION || length > MAX_CIPHERTEXT {
        return Some(input.len());
    }
    (rest.len() >= length).then_some(seen + HEADER + length)
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stage, error) = match &self.stage {
            Stage::Running(connection) => match &**connection {
                Connection::Client(_) => ("runs as the client", None),
                Connection::Server(_) => ("runs as the server", None),
            },
            Stage::Done(_) => ("done", None),
            Stage::Failed(error) => ("failed", Some(error)),
        };
        f.debug_struct("Handshake")
            .field("stage", &stage)
            .field("error", &error)
            .finish_non_exhaustive()
    }
}
