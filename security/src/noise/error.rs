//! What can go wrong in a handshake, by cause and by who caused it.

use barewire_base::{Fault, PeerId, proto::ScanError};

/// Why a [`Config`](super::Config) could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The muxer list is longer than [`MAX_MUXERS`](super::MAX_MUXERS); peers would ignore it.
    #[error("{0} muxers are too many to name in a handshake, the most is {max}", max = super::MAX_MUXERS)]
    TooManyMuxers(usize),
    /// The names of the muxers do not fit into a handshake message; holds the payload's bytes.
    #[error("the handshake payload would take {0} bytes, too many for one message")]
    PayloadTooLong(usize),
    /// The cryptographic library failed.
    #[error("the cryptographic library could not make a key")]
    Crypto,
}

impl ConfigError {
    /// Always ours.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// Why a handshake failed. Nothing more is sent after any of these: the connection has to be
/// closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A message is too short for the keys and tags it has to hold.
    #[error("handshake message {message} has {length} bytes, too few for its keys")]
    TooShort {
        /// Which of the three messages.
        message: u8,
        /// The length its frame announced, in bytes.
        length: usize,
    },
    /// A message does not decrypt: it was changed, replayed or made for another handshake.
    #[error("handshake message {message} failed authentication")]
    Authentication {
        /// Which of the three messages.
        message: u8,
    },
    /// A key of the peer is a point of low order: anyone could compute the secret it leads to.
    #[error(
        "the peer sent a Diffie-Hellman key of low order in handshake message {message} or before"
    )]
    WeakKey {
        /// The message at which it showed.
        message: u8,
    },
    /// The payload of a message is malformed.
    #[error("the payload of the peer's handshake message is malformed: {0}")]
    Payload(#[from] PayloadError),
    /// The peer is not who was dialled.
    #[error("expected the peer {expected} but {found} answered")]
    PeerIdMismatch {
        /// Whom we dialled.
        expected: PeerId,
        /// Who answered, by the key in its payload. Its signature has not been looked at.
        found: PeerId,
    },
    /// The identity key has not signed the static key: the peer does not own the identity it shows.
    #[error("the peer's identity key has not signed its handshake key")]
    Signature,
    /// The result was asked for before the last message was read or sent.
    #[error("the handshake is not finished")]
    NotFinished,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed in the handshake")]
    Crypto,
}

impl HandshakeError {
    /// Who is at fault. [`Fault::Peer`] does not tell the peer from someone who changes bytes on
    /// the way.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::TooShort { .. }
            | Self::Authentication { .. }
            | Self::WeakKey { .. }
            | Self::Payload(_)
            | Self::PeerIdMismatch { .. }
            | Self::Signature => Fault::Peer,
            Self::NotFinished | Self::Crypto => Fault::Local,
        }
    }
}

/// Why a handshake payload was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Not a protobuf message, or one with more fields than any honest peer sends.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A field has another type than the payload defines, or a muxer's name is not UTF-8.
    #[error("a field has the wrong type")]
    Field,
    /// The identity key is absent, malformed or of an unknown type.
    #[error("the identity key is missing or invalid")]
    IdentityKey,
}
