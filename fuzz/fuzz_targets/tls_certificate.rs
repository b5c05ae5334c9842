//! Certificates and libp2p's extension in them. After the first byte, the input is a certificate as it
//! came, or (odd) the value of the extension in a certificate that is right in all else.
//!
//! Whoever is let in is who the certificate names, and was let in for a reason: the same bytes say
//! the same again, and no other identity is accepted in their place.
#![no_main]

use std::sync::LazyLock;

use barewire_base::Keypair;
use barewire_security::tls::{peer_of, verify};
use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};

/// 2026.
const NOW: u64 = 1_780_000_000;
const OID: &[u64] = &[1, 3, 6, 1, 4, 1, 53594, 1, 1];

/// Fixed, so that the signature of a corpus entry over it stays right.
static KEY: LazyLock<KeyPair> = LazyLock::new(|| {
    let pkcs8 = include_bytes!("tls_certificate.pk8");
    let key = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
    KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).expect("a key")
});

fn around(extension: &[u8]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.custom_extensions = vec![CustomExtension::from_oid_content(OID, extension.to_vec())];
    let certificate = params.self_signed(&*KEY).expect("a certificate");
    certificate.der().clone()
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let certificate = match first % 2 {
        0 => CertificateDer::from(bytes.to_vec()),
        _ => around(bytes),
    };
    let chain = [certificate];
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
    let verified = verify(&chain, None, now);
    assert_eq!(verified, verify(&chain, None, now));
    if let Ok(identity) = verified {
        assert_eq!(peer_of(&chain).as_ref(), Ok(&identity));
        assert!(verify(&chain, Some(identity.peer_id()), now).is_ok());
        let stranger = Keypair::from_seed(&[0xee; 32]).peer_id();
        assert!(verify(&chain, Some(stranger), now).is_err());
        assert!(verify(&[chain[0].clone(), chain[0].clone()], None, now).is_err());
    }
});
