//! One error enum per operation, each of which says who is at fault.

use std::io;

use barewire_base::{Fault, PeerId, multistream::NegotiationError};
use barewire_security::{
    OpenError, SealError,
    noise::HandshakeError,
    tls::{self, CertificateError},
};

use crate::{
    close::{CloseReason, LocalReason},
    ws::{self, FrameError},
};

/// Why a byte stream did not become a [`Connection`](crate::Connection).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The socket failed or was closed by the remote in the named stage.
    #[error("the remote closed the connection during {stage} ({kind})")]
    Io {
        /// Upgrade stage that was running.
        stage: &'static str,
        /// Kind of the I/O error; `UnexpectedEof` for an orderly close.
        kind: io::ErrorKind,
    },
    /// The stage did not finish before its deadline. Progress does not extend a deadline.
    #[error("no answer in time during {stage}; is a libp2p node listening on that address?")]
    Timeout {
        /// Upgrade stage that was running.
        stage: &'static str,
    },
    /// multistream-select failed, or no security protocol or muxer is shared.
    #[error("negotiation of the {stage} failed: {error}")]
    Negotiation {
        /// `security` or `muxer`.
        stage: &'static str,
        /// What went wrong.
        error: NegotiationError,
    },
    /// The Noise handshake failed; covers a peer id other than the dialled one.
    #[error("secure handshake failed: {0}")]
    Handshake(HandshakeError),
    /// The TLS handshake failed; covers a peer id other than the dialled one.
    #[error("secure handshake failed: {0}")]
    Tls(tls::Error),
    /// A record could not be sealed.
    #[error("the secure channel can send nothing: {0}")]
    Seal(SealError),
    /// The QUIC handshake ended with this transport error (RFC 9000, 20.1).
    #[error("the QUIC handshake failed with error {0:#x}")]
    Quic(u64),
    /// A record of the freshly secured channel did not open.
    #[error("a record after the handshake is damaged: {0}")]
    Record(OpenError),
    /// This side does not want the remote, now that it is known who it is.
    #[error("refused {0}")]
    Refused(LocalReason),
    /// The WebSocket below could not be opened.
    #[error("{0}")]
    WebSocket(ws::HandshakeError),
    /// The remote broke the WebSocket framing, or closed it with an error.
    #[error("{0}")]
    Frame(FrameError),
    /// With a pre-shared key set, nothing sensible came.
    #[error("the remote belongs to another private network or to none: the pre-shared keys differ")]
    OtherNetwork,
}

impl UpgradeError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Network,
            Self::Seal(_) => Fault::Local,
            Self::Timeout { .. } | Self::Record(_) | Self::OtherNetwork | Self::Quic(_) => {
                Fault::Peer
            }
            Self::WebSocket(error) => error.fault(),
            Self::Frame(error) => error.fault(),
            Self::Negotiation { error, .. } => error.fault(),
            Self::Handshake(error) => error.fault(),
            Self::Tls(error) => error.fault(),
            Self::Refused(LocalReason::Limit(_)) => Fault::Limit,
            Self::Refused(_) => Fault::Local,
        }
    }

    /// The two peer ids when the remote proved another identity than the dialled one.
    #[must_use]
    pub fn peer_id_mismatch(&self) -> Option<(PeerId, PeerId)> {
        match self {
            Self::Handshake(HandshakeError::PeerIdMismatch { expected, found })
            | Self::Tls(tls::Error::Certificate(CertificateError::PeerIdMismatch {
                expected,
                found,
            })) => Some((*expected, *found)),
            _ => None,
        }
    }
}

/// Why no stream could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// The connection is closed.
    #[error("cannot open a stream: {0}")]
    Closed(#[from] CloseReason),
    /// The protocol id is longer than a multistream line allows or does not start with `/`.
    #[error("`{0}` is not a protocol id: it must start with / and fit one multistream line")]
    InvalidProtocol(String),
    /// The remote speaks none of the proposed protocols.
    #[error("the remote does not speak {0}")]
    ProtocolNotSupported(String),
    /// The stream broke while the protocol was negotiated.
    #[error("negotiation of the stream failed: {0}")]
    Stream(StreamError),
}

/// Reset code of a stream whose protocol negotiation failed (go-libp2p
/// `StreamProtocolNegotiationFailed`).
pub(crate) const NEGOTIATION_FAILED: u32 = 0x1001;

/// Why a read or write on a stream failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The remote reset the stream with this code.
    #[error("the remote reset the stream with code {0:#x}")]
    Reset(u32),
    /// The remote reads this stream no more, without saying why. What it sends may still come.
    #[error("the remote reads the stream no more")]
    Stopped,
    /// The stream was reset or finished on this side.
    #[error("the stream is closed on this side")]
    LocallyClosed,
    /// The remote refused the protocol proposed when the stream was opened: it said so, ended the
    /// stream without an answer, or reset it with the code for that (0x1001).
    #[error("the remote does not speak {0}")]
    ProtocolNotSupported(String),
    /// The remote broke multistream-select.
    #[error("protocol negotiation failed: {0}")]
    Negotiation(NegotiationError),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Closed(CloseReason),
}

impl StreamError {
    /// Gives a refusal that came as a reset its name.
    pub(crate) fn of_proposal(self, proposal: &str) -> Self {
        match self {
            Self::Reset(NEGOTIATION_FAILED) => Self::ProtocolNotSupported(proposal.to_owned()),
            other => other,
        }
    }

    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Reset(_) | Self::Stopped | Self::ProtocolNotSupported(_) => Fault::Peer,
            Self::LocallyClosed => Fault::Local,
            Self::Negotiation(error) => error.fault(),
            Self::Closed(reason) => reason.fault(),
        }
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match &error {
            StreamError::Reset(_) | StreamError::Closed(_) => io::ErrorKind::ConnectionReset,
            StreamError::LocallyClosed | StreamError::Stopped => io::ErrorKind::BrokenPipe,
            StreamError::ProtocolNotSupported(_) => io::ErrorKind::Unsupported,
            StreamError::Negotiation(_) => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Why an inbound stream did not get a protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiateError {
    /// The remote broke multistream-select, or proposed too often.
    #[error("{0}")]
    Negotiation(NegotiationError),
    /// The stream or its connection ended.
    #[error("{0}")]
    Stream(StreamError),
    /// The remote ended its side before a proposal was accepted.
    #[error("the remote ended the stream before a protocol was agreed")]
    Ended,
}

/// The framing error a WebSocket's read half hands through as an I/O error.
pub(crate) fn frame_error(error: &io::Error) -> Option<FrameError> {
    error.get_ref()?.downcast_ref().copied()
}
