//! The rules for certificates as rustls asks for them.

use std::sync::{Arc, OnceLock};

use barewire_base::PeerId;
use rustls::{
    DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{CertificateError, algorithm::SCHEMES, verify};
use crate::verified::VerifiedSignatures;

/// Tells why a peer's certificate was refused when whoever runs the handshake keeps only the text
/// of its error, as quinn does. One per connection; cheap to clone, and its clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<OnceLock<CertificateError>>);

impl Verdict {
    /// Why the certificate was refused; `None` when it was not, or has not been looked at.
    #[must_use]
    pub fn refusal(&self) -> Option<CertificateError> {
        self.0.get().cloned()
    }
}

/// Verifies the certificates of servers and clients alike.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) expected: Option<PeerId>,
    pub(super) verified: Arc<VerifiedSignatures>,
    pub(super) verdict: Verdict,
}

impl Verifier {
    fn certificate(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let verified = match intermediates {
            [] => {
                let chain = std::slice::from_ref(end_entity);
                verify::verify(chain, self.expected, now, &self.verified).map(drop)
            }
            more => Err(CertificateError::ChainLength(1 + more.len())),
        };
        self.judge(verified)
    }

    fn handshake(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge(verify::verify_handshake(certificate, message, signed))?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn judge(&self, verified: Result<(), CertificateError>) -> Result<(), rustls::Error> {
        verified.map_err(|error| {
            // The first refusal is the one that ended the handshake.
            let error = self.verdict.0.get_or_init(|| error);
            rustls::Error::from(error.clone())
        })
    }
}

/// TLS 1.2 is never negotiated.
fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.certificate(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.handshake(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Verifier {
    /// No authority is named: certificates are signed by themselves.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.certificate(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.handshake(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
