//! What can go wrong, by cause and by who caused it.

use std::{error::Error as _, sync::Arc};

use barewire_base::{Fault, PeerId, identity::PublicKeyError};
use rustls::SignatureScheme;

use crate::Alert;

/// Why a [`Config`](super::Config) could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Certificate(String),
    /// The TLS library refused the settings.
    #[error("the TLS library refused the settings: {0}")]
    Library(String),
    /// The clock of this machine is set before 1970.
    #[error("the clock of this machine is set before 1970")]
    Clock,
}

impl ConfigError {
    /// Always ours.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// Why a peer's certificate proves nothing. One kind for each rule of the libp2p TLS specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The chain holds another number of certificates than one.
    #[error("the peer sent {0} certificates instead of one")]
    ChainLength(usize),
    /// The certificate has more bytes than [`MAX_CERTIFICATE`](super::MAX_CERTIFICATE).
    #[error("the certificate has {0} bytes, more than {max}", max = super::MAX_CERTIFICATE)]
    TooLong(usize),
    /// Not an X.509 certificate in DER, or bytes behind it.
    #[error("the certificate is malformed")]
    Malformed,
    /// Its time has not begun.
    #[error("the certificate is not valid yet; is a clock wrong?")]
    NotYetValid,
    /// Its time is over.
    #[error("the certificate has expired; is a clock wrong?")]
    Expired,
    /// A critical extension that means nothing here; holds its object identifier.
    #[error("the certificate has the unknown critical extension {0}")]
    UnknownCriticalExtension(String),
    /// Without libp2p's extension.
    #[error("the certificate names no libp2p identity")]
    MissingExtension,
    /// With more than one of libp2p's extension.
    #[error("the certificate names more than one libp2p identity")]
    DuplicateExtension,
    /// libp2p's extension is not the DER sequence of two octet strings it has to be.
    #[error("the libp2p extension of the certificate is malformed")]
    MalformedExtension,
    /// The identity key in the extension is malformed or of an unknown type.
    #[error("the identity key in the certificate is invalid: {0}")]
    IdentityKey(PublicKeyError),
    /// The peer is not who was dialled.
    #[error("expected the peer {expected} but {found} answered")]
    PeerIdMismatch {
        /// Whom we dialled.
        expected: PeerId,
        /// Who answered, by the key in its certificate. No signature has been looked at.
        found: PeerId,
    },
    /// The certificate's key is of a type, a curve or a form that is not accepted; holds the object
    /// identifier of the type or curve.
    #[error("the certificate's key is of the unsupported kind {0}")]
    UnsupportedKey(String),
    /// The certificate is signed with an algorithm that is not accepted, or that its key is not
    /// for; holds the object identifier.
    #[error("the certificate is signed by the unsupported algorithm {0}")]
    UnsupportedAlgorithm(String),
    /// The certificate names two different signature algorithms.
    #[error("the certificate contradicts itself on its signature algorithm")]
    AlgorithmMismatch,
    /// The certificate's own key has not signed it.
    #[error("the certificate is not signed by its own key")]
    SelfSignature,
    /// The identity key has not signed the certificate's key: the peer does not own the identity it
    /// shows.
    #[error("the peer's identity key has not signed its certificate key")]
    ExtensionSignature,
    /// The handshake is signed by a scheme the certificate's key is not for.
    #[error("the handshake is signed by {0:?}, which the certificate's key is not for")]
    SchemeMismatch(SignatureScheme),
    /// The handshake is not signed by the certificate's key: the peer does not own the certificate.
    #[error("the handshake is not signed by the certificate's key")]
    HandshakeSignature,
}

impl CertificateError {
    /// Always the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

impl From<CertificateError> for rustls::Error {
    /// Keeps the cause whole, see [`Error::from`], beside the alert the peer is to get.
    fn from(error: CertificateError) -> Self {
        use rustls::CertificateError as Alerts;
        match error {
            // These have alerts of their own; any other becomes `certificate_unknown`.
            CertificateError::Malformed => Self::InvalidCertificate(Alerts::BadEncoding),
            CertificateError::Expired => Self::InvalidCertificate(Alerts::Expired),
            CertificateError::NotYetValid => Self::InvalidCertificate(Alerts::NotValidYet),
            CertificateError::HandshakeSignature => Self::InvalidCertificate(Alerts::BadSignature),
            other => Self::InvalidCertificate(Alerts::Other(rustls::OtherError(Arc::new(other)))),
        }
    }
}

/// Why a TLS handshake failed. The alert that says so to the peer, if any, is still to be sent; then
/// the connection has to be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer's certificate proves nothing.
    #[error("the peer's certificate is refused: {0}")]
    Certificate(#[from] CertificateError),
    /// The peer sent no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The peer speaks no TLS 1.3, or no cipher, group or signature scheme of ours.
    #[error("no TLS in common with the peer: {0}")]
    Incompatible(String),
    /// The peer offers protocols, none of which is ours.
    #[error("the peer offers only application protocols that are not libp2p's")]
    NoApplicationProtocol,
    /// The peer refused the handshake with this alert.
    #[error("{0}")]
    Alert(Alert),
    /// The peer said goodbye in the middle of the handshake.
    #[error("the remote closed the secure channel in the middle of the handshake")]
    Closed,
    /// A handshake record failed authentication.
    #[error("a handshake record failed authentication")]
    Authentication,
    /// A message of the peer is malformed or too long.
    #[error("the peer sent a malformed handshake message: {0}")]
    Malformed(String),
    /// The peer broke the rules of TLS.
    #[error("the peer broke the rules of TLS: {0}")]
    Misbehaved(String),
    /// The result was asked for before the handshake ended.
    #[error("the handshake is not finished")]
    NotFinished,
    /// The TLS library failed on this side.
    #[error("the TLS library failed: {0}")]
    Library(String),
}

impl Error {
    /// Who is at fault. [`Fault::Peer`] does not tell the peer from someone who changes bytes on
    /// the way.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NotFinished | Self::Library(_) => Fault::Local,
            _ => Fault::Peer,
        }
    }
}

/// Reads the typed cause out of what rustls reports, also after it has passed through quinn's or
/// anybody else's hands as a [`rustls::Error`].
impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(error) => certificate_error(error),
            E::NoCertificatesPresented => Self::NoCertificate,
            E::PeerIncompatible(_) => Self::Incompatible(error.to_string()),
            E::NoApplicationProtocol => Self::NoApplicationProtocol,
            E::AlertReceived(alert) => Self::Alert(Alert(alert)),
            E::DecryptError => Self::Authentication,
            E::InvalidMessage(_) | E::PeerSentOversizedRecord => Self::Malformed(error.to_string()),
            E::PeerMisbehaved(_)
            | E::InappropriateMessage { .. }
            | E::InappropriateHandshakeMessage { .. } => Self::Misbehaved(error.to_string()),
            _ => Self::Library(error.to_string()),
        }
    }
}

fn certificate_error(error: rustls::CertificateError) -> Error {
    use rustls::CertificateError as E;
    Error::Certificate(match error {
        E::BadEncoding => CertificateError::Malformed,
        E::Expired => CertificateError::Expired,
        E::NotValidYet => CertificateError::NotYetValid,
        E::BadSignature => CertificateError::HandshakeSignature,
        E::Other(cause) => match cause.source().and_then(|cause| cause.downcast_ref()) {
            Some(cause) => CertificateError::clone(cause),
            None => return Error::Library(cause.to_string()),
        },
        other => return Error::Library(other.to_string()),
    })
}
