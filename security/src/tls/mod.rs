//! TLS 1.3 as libp2p binds it (`/tls/1.0.0`).
//!
//! Each side shows one certificate, signed by itself, in which its identity vouches for the
//! certificate's key ([`CertificateError`] lists the rules). On a byte stream the application
//! protocol names the muxer, which saves the round trip of negotiating one afterwards. The protocol
//! itself is rustls'; a rustls client or server of any transport gets its settings from [`Config`].

mod algorithm;
mod certificate;
mod config;
mod error;
mod extension;
mod handshake;
mod verifier;
mod verify;

use barewire_base::{PeerId, PublicKey};
use rustls::pki_types::{CertificateDer, UnixTime};

pub use config::Config;
pub use error::{CertificateError, ConfigError, Error};
pub use handshake::Handshake;
pub use verifier::Verdict;

use crate::verified::VerifiedSignatures;

/// The id under which multistream-select offers this channel.
pub const PROTOCOL: &str = "/tls/1.0.0";

/// The application protocol that names no muxer: the only one over QUIC, the last resort elsewhere.
pub const LIBP2P: &[u8] = b"libp2p";

/// Most bytes of a peer's certificate. The largest of an honest peer, with RSA keys of 8,192 bits
/// for itself and its identity, has about 5,500.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// Applies every rule for certificates to the chain a peer sent and returns the identity it proves.
/// With `expected`, any other identity is refused.
///
/// That the peer owns the certificate shows only in the handshake's signature. A handshake with the
/// settings of [`Config`] checks both.
///
/// # Errors
/// [`CertificateError`], one kind for each rule.
pub fn verify(
    certificates: &[CertificateDer<'_>],
    expected: Option<PeerId>,
    now: UnixTime,
) -> Result<PublicKey, CertificateError> {
    verify::verify(certificates, expected, now, &VerifiedSignatures::default())
}

/// The identity in the certificate that a finished handshake reports of the peer.
///
/// It does not verify again what the settings of [`Config`] had verified before the handshake could
/// finish: of any other certificate it proves nothing.
///
/// # Errors
/// [`CertificateError`] for a chain that could not have passed.
pub fn peer_of(certificates: &[CertificateDer<'_>]) -> Result<PublicKey, CertificateError> {
    verify::named_identity(certificates)
}
