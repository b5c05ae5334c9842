//! The keys and signature algorithms a certificate may use.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::SignatureScheme;
use x509_parser::{
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_HASH_SHA256,
        OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS,
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
    },
    signature_algorithm::RsaSsaPssParams,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

use super::CertificateError;

type Algorithm = &'static dyn VerificationAlgorithm;

/// What we let a peer sign a handshake with, best first. The PKCS#1 schemes only concern
/// certificates: TLS 1.3 does not let them sign a handshake.
pub(super) const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// A kind of certificate key. Curves only by their names; P-521, Ed448, SHA-1 and MD5 are refused, as
/// rust-libp2p does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    P256,
    P384,
    Ed25519,
    /// 2,048 to 8,192 bits, which the cipher library enforces.
    Rsa,
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// The key of a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) struct CertificateKey<'a> {
    kind: KeyKind,
    bytes: &'a [u8],
}

impl<'a> CertificateKey<'a> {
    pub(super) fn new(spki: &'a SubjectPublicKeyInfo<'_>) -> Result<Self, CertificateError> {
        let unsupported = |oid: &Oid<'_>| CertificateError::UnsupportedKey(oid.to_id_string());
        let algorithm = &spki.algorithm.algorithm;
        let kind = if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok())
                .ok_or_else(|| unsupported(algorithm))?;
            if curve == OID_EC_P256 {
                KeyKind::P256
            } else if curve == OID_NIST_EC_P384 {
                KeyKind::P384
            } else {
                return Err(unsupported(&curve));
            }
        } else if *algorithm == OID_SIG_ED25519 {
            KeyKind::Ed25519
        } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
            KeyKind::Rsa
        } else {
            return Err(unsupported(algorithm));
        };
        Ok(Self {
            kind,
            bytes: &spki.subject_public_key.data,
        })
    }

    /// Checks a signature by which the certificate vouches for itself.
    pub(super) fn verify_certificate(
        &self,
        algorithm: &AlgorithmIdentifier<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateError> {
        let verifier = self.certificate_algorithm(algorithm).ok_or_else(|| {
            CertificateError::UnsupportedAlgorithm(algorithm.algorithm.to_id_string())
        })?;
        self.verify(verifier, message, signature)
            .ok_or(CertificateError::SelfSignature)
    }

    /// Checks the signature of a handshake.
    pub(super) fn verify_handshake(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateError> {
        let verifier: Algorithm = match (self.kind, scheme) {
            (KeyKind::P256, SignatureScheme::ECDSA_NISTP256_SHA256) => &ECDSA_P256_SHA256_ASN1,
            (KeyKind::P384, SignatureScheme::ECDSA_NISTP384_SHA384) => &ECDSA_P384_SHA384_ASN1,
            (KeyKind::Ed25519, SignatureScheme::ED25519) => &ED25519,
            (KeyKind::Rsa, SignatureScheme::RSA_PSS_SHA256) => pss(Hash::Sha256),
            (KeyKind::Rsa, SignatureScheme::RSA_PSS_SHA384) => pss(Hash::Sha384),
            (KeyKind::Rsa, SignatureScheme::RSA_PSS_SHA512) => pss(Hash::Sha512),
            _ => return Err(CertificateError::SchemeMismatch(scheme)),
        };
        self.verify(verifier, message, signature)
            .ok_or(CertificateError::HandshakeSignature)
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<()> {
        UnparsedPublicKey::new(algorithm, self.bytes)
            .verify(message, signature)
            .ok()
    }

    fn certificate_algorithm(&self, algorithm: &AlgorithmIdentifier<'_>) -> Option<Algorithm> {
        let oid = &algorithm.algorithm;
        match self.kind {
            KeyKind::P256 => {
                (*oid == OID_SIG_ECDSA_WITH_SHA256).then_some(&ECDSA_P256_SHA256_ASN1 as Algorithm)
            }
            KeyKind::P384 => {
                (*oid == OID_SIG_ECDSA_WITH_SHA384).then_some(&ECDSA_P384_SHA384_ASN1 as Algorithm)
            }
            KeyKind::Ed25519 => (*oid == OID_SIG_ED25519).then_some(&ED25519 as Algorithm),
            KeyKind::Rsa if *oid == OID_PKCS1_RSASSAPSS => pss_hash(algorithm).map(pss),
            KeyKind::Rsa if *oid == OID_PKCS1_SHA256WITHRSA => Some(&RSA_PKCS1_2048_8192_SHA256),
            KeyKind::Rsa if *oid == OID_PKCS1_SHA384WITHRSA => Some(&RSA_PKCS1_2048_8192_SHA384),
            KeyKind::Rsa if *oid == OID_PKCS1_SHA512WITHRSA => Some(&RSA_PKCS1_2048_8192_SHA512),
            KeyKind::Rsa => None,
        }
    }
}

fn pss(hash: Hash) -> Algorithm {
    match hash {
        Hash::Sha256 => &RSA_PSS_2048_8192_SHA256,
        Hash::Sha384 => &RSA_PSS_2048_8192_SHA384,
        Hash::Sha512 => &RSA_PSS_2048_8192_SHA512,
    }
}

/// The hash of an RSASSA-PSS signature. Its mask has to use the same one and its salt to be as long,
/// as TLS wants it too; the verification itself depends on that.
fn pss_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    let parameters = algorithm.parameters.as_ref()?;
    let parameters = RsaSsaPssParams::try_from(parameters).ok()?;
    let oid = parameters.hash_algorithm_oid().clone();
    let mask = parameters.mask_gen_algorithm().ok()?;
    let (hash, length) = if oid == OID_NIST_HASH_SHA256 {
        (Hash::Sha256, 32)
    } else if oid == OID_NIST_HASH_SHA384 {
        (Hash::Sha384, 48)
    } else if oid == OID_NIST_HASH_SHA512 {
        (Hash::Sha512, 64)
    } else {
        return None;
    };
    (mask.hash == oid && parameters.salt_length() == length).then_some(hash)
}
