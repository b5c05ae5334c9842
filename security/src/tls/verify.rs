//! The rules a peer's certificate has to pass.

use std::sync::LazyLock;

use barewire_base::{PeerId, PublicKey};
use rustls::{
    DigitallySignedStruct,
    pki_types::{CertificateDer, UnixTime},
};
use x509_parser::{
    asn1_rs::Any,
    certificate::{X509Certificate, X509CertificateParser},
    extensions::{KeyUsage, X509Extension},
    nom::Parser,
    oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, Oid},
    prelude::FromDer,
};

use super::{
    CertificateError, MAX_CERTIFICATE,
    algorithm::CertificateKey,
    extension::{self, SignedKey},
};
use crate::verified::{Digest, VerifiedSignatures};

static EXTENSION_OID: LazyLock<Option<Oid<'static>>> =
    LazyLock::new(|| Oid::from(extension::OID).ok());

/// Applies every rule but the handshake's signature, cheap ones first, and returns the identity the
/// certificate proves. `verified` spares the signatures of a certificate that was verified before.
pub(super) fn verify(
    chain: &[CertificateDer<'_>],
    expected: Option<PeerId>,
    now: UnixTime,
    verified: &VerifiedSignatures,
) -> Result<PublicKey, CertificateError> {
    let der = only(chain)?;
    let certificate = parse(der)?;
    check_time(&certificate, now)?;
    let signed_key = signed_key(&certificate)?;
    let digest = Digest::of(&[der]);
    let known = verified.get(&digest);
    let public_key = match &known {
        Some(key) => key.clone(),
        None => identity(&signed_key)?,
    };
    let found = public_key.peer_id();
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(CertificateError::PeerIdMismatch { expected, found });
    }
    if known.is_none() {
        check_self_signature(&certificate)?;
        let spki = certificate.tbs_certificate.subject_pki.raw;
        public_key
            .verify(&extension::signed_bytes(spki), signed_key.signature)
            .map_err(|_| CertificateError::ExtensionSignature)?;
        verified.insert(&digest, public_key.clone());
    }
    Ok(public_key)
}

/// The identity a chain names. Nothing in it is verified: see [`peer_of`](super::peer_of).
pub(super) fn named_identity(chain: &[CertificateDer<'_>]) -> Result<PublicKey, CertificateError> {
    let certificate = parse(only(chain)?)?;
    identity(&signed_key(&certificate)?)
}

/// Checks that the certificate's key has signed the handshake.
pub(super) fn verify_handshake(
    der: &CertificateDer<'_>,
    message: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<(), CertificateError> {
    let certificate = parse(der)?;
    CertificateKey::new(&certificate.tbs_certificate.subject_pki)?.verify_handshake(
        signed.scheme,
        message,
        signed.signature(),
    )
}

fn only<'a>(chain: &'a [CertificateDer<'_>]) -> Result<&'a [u8], CertificateError> {
    match chain {
        [der] if der.len() > MAX_CERTIFICATE => Err(CertificateError::TooLong(der.len())),
        [der] => Ok(der),
        _ => Err(CertificateError::ChainLength(chain.len())),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    // What extensions mean is asked of two kinds of them only; see `check_critical`.
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    match parser.parse(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

fn check_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    // A clock past the year 292,277,026,596 finds everything expired.
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotYetValid);
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Finds libp2p's extension, which may be critical (rust- and js-libp2p) or not (go-libp2p), and
/// refuses what else is critical.
fn signed_key<'a>(certificate: &'a X509Certificate<'_>) -> Result<SignedKey<'a>, CertificateError> {
    let mut found = None;
    for extension in certificate.extensions() {
        if Some(&extension.oid) == EXTENSION_OID.as_ref() {
            if found.replace(extension.value).is_some() {
                return Err(CertificateError::DuplicateExtension);
            }
        } else if extension.critical {
            check_critical(extension)?;
        }
    }
    SignedKey::from_der(found.ok_or(CertificateError::MissingExtension)?)
}

/// py-libp2p marks as critical that its certificate is no authority's and that its key is for
/// signatures. Both are true of every libp2p certificate, so they are understood; anything else
/// would have to be.
fn check_critical(extension: &X509Extension<'_>) -> Result<(), CertificateError> {
    let understood = if extension.oid == OID_X509_EXT_BASIC_CONSTRAINTS {
        // For an authority or not: the chain is one long.
        true
    } else if extension.oid == OID_X509_EXT_KEY_USAGE {
        matches!(KeyUsage::from_der(extension.value), Ok(([], usage)) if usage.digital_signature())
    } else {
        false
    };
    if understood {
        return Ok(());
    }
    Err(CertificateError::UnknownCriticalExtension(
        extension.oid.to_id_string(),
    ))
}

fn identity(signed_key: &SignedKey<'_>) -> Result<PublicKey, CertificateError> {
    PublicKey::from_protobuf(signed_key.public_key).map_err(CertificateError::IdentityKey)
}

fn check_self_signature(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let algorithm = &certificate.signature_algorithm;
    if *algorithm != certificate.tbs_certificate.signature {
        return Err(CertificateError::AlgorithmMismatch);
    }
    check_frame(certificate).ok_or(CertificateError::Malformed)?;
    CertificateKey::new(&certificate.tbs_certificate.subject_pki)?.verify_certificate(
        algorithm,
        certificate.tbs_certificate.as_ref(),
        &certificate.signature_value.data,
    )
}

/// What no signature covers has one form: the parser would read several. So no byte of a certificate
/// can change and leave it valid.
fn check_frame(certificate: &X509Certificate<'_>) -> Option<()> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let raw = certificate.as_raw();
    let signed = certificate.tbs_certificate.as_ref();
    let (_, content) = Any::from_der(raw).ok()?;
    let behind = content.data.strip_prefix(signed)?;
    let (signature, _) = Any::from_der(behind).ok()?;
    let algorithm = behind.strip_suffix(signature)?;
    let repeated = signed
        .windows(algorithm.len())
        .any(|window| window == algorithm);
    let framed = raw.first() == Some(&SEQUENCE) && signature.first() == Some(&BIT_STRING);
    (repeated && framed && certificate.signature_value.unused_bits == 0).then_some(())
}
