//! Makes the certificate a node shows, as go-libp2p makes it: ECDSA on P-256, valid from an hour ago
//! for a century, a subject of nothing but a serial number, and libp2p's extension as the only one
//! (js-libp2p reads only the first, and Go would check the meaning of any other).

use std::time::Duration;

use barewire_base::Keypair;
use rand::CryptoRng;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, date_time_ymd, string::PrintableString,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};

use super::{
    ConfigError,
    extension::{self, SignedKey},
};

/// 2.5.4.5, the serial number as a part of a name.
const NAME_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];
/// Forgives peers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
/// 100 years, leap days left out, as in go-libp2p.
const VALIDITY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A certificate and the key it is for.
pub(super) struct OwnCertificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: PrivatePkcs8KeyDer<'static>,
}

/// Makes a certificate in which `identity` vouches for a fresh key. The key is drawn by the cipher
/// library, the serial numbers by `rng`.
pub(super) fn generate(
    identity: &Keypair,
    now: UnixTime,
    rng: &mut impl CryptoRng,
) -> Result<OwnCertificate, ConfigError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let signature = identity.sign(&extension::signed_bytes(&key.subject_public_key_info()));
    let public_key = identity.public().to_protobuf();
    let signed_key = SignedKey {
        public_key: &public_key,
        signature: &signature,
    };
    let mut params = CertificateParams::default();
    // 62 bits: positive in every reading.
    params.serial_number = Some(SerialNumber::from(rng.next_u64() >> 2));
    let name = PrintableString::try_from((rng.next_u64() >> 2).to_string()).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::CustomDnType(NAME_SERIAL_NUMBER.to_vec()),
        DnValue::PrintableString(name),
    );
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    params.not_before = now - BACKDATED;
    params.not_after = now + VALIDITY;
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        extension::OID,
        signed_key.to_der(),
    )];
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(OwnCertificate {
        der: certificate.der().clone(),
        key: PrivatePkcs8KeyDer::from(key.serialize_der()),
    })
}

fn failed(error: rcgen::Error) -> ConfigError {
    ConfigError::Certificate(error.to_string())
}
