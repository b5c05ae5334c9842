//! Certificates that claim an identity, rightly or not.

use std::sync::Arc;

use barewire_base::Keypair;
use barewire_security::tls;
use rcgen::{
    CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    date_time_ymd,
};
use rustls::{
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::ResolvesServerCert,
    sign::{CertifiedKey, SingleCertAndKey},
};

/// libp2p's extension.
const OID: &[u64] = &[1, 3, 6, 1, 4, 1, 53594, 1, 1];
const PREFIX: &[u8] = b"libp2p-tls-handshake:";

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is over.
    Expired,
    /// A byte of the extension was changed after the certificate was signed.
    Altered,
    /// The identity key is another peer's, the signature stayed.
    IdentitySwapped,
    /// The signature is another peer's, the identity key stayed.
    SignatureSwapped,
    /// It names no identity.
    NoExtension,
}

impl Flaw {
    pub(crate) const ALL: [Self; 5] = [
        Self::Expired,
        Self::Altered,
        Self::IdentitySwapped,
        Self::SignatureSwapped,
        Self::NoExtension,
    ];

    /// What the side that refuses it says.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Expired => "the certificate has expired",
            Self::Altered => "the certificate is not signed by its own key",
            Self::IdentitySwapped | Self::SignatureSwapped => {
                "the peer's identity key has not signed its certificate key"
            }
            Self::NoExtension => "the certificate names no libp2p identity",
        }
    }
}

fn octets(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    let head = match length {
        0..=0x7f => vec![tag, length],
        _ => vec![tag, 0x81, length],
    };
    [head, content.to_vec()].concat()
}

/// A certificate with this flaw, and its key.
fn flawed(flaw: Flaw) -> (CertificateDer<'static>, KeyPair) {
    let (identity, other) = (
        Keypair::generate(&mut rand::rng()),
        Keypair::generate(&mut rand::rng()),
    );
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let signed = [PREFIX, &key.subject_public_key_info()].concat();
    let named = match flaw {
        Flaw::IdentitySwapped => &other,
        _ => &identity,
    };
    let signature = match flaw {
        Flaw::SignatureSwapped => other.sign(&signed),
        _ => identity.sign(&signed),
    };
    let strings = [
        octets(4, &named.public().to_protobuf()),
        octets(4, &signature),
    ];
    let mut params = CertificateParams::default();
    if flaw != Flaw::NoExtension {
        let value = octets(0x30, &strings.concat());
        params.custom_extensions = vec![CustomExtension::from_oid_content(OID, value)];
    }
    if flaw == Flaw::Expired {
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let mut der = params.self_signed(&key).unwrap().der().to_vec();
    if flaw == Flaw::Altered {
        let at = der
            .windows(signature.len())
            .position(|window| window == &signature[..])
            .unwrap();
        der[at] ^= 1;
    }
    (der.into(), key)
}

fn certified(flaw: Flaw, provider: &rustls::crypto::CryptoProvider) -> Arc<SingleCertAndKey> {
    let (certificate, key) = flawed(flaw);
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = provider.key_provider.load_private_key(key.into()).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        vec![certificate],
        key,
    )))
}

fn honest() -> tls::Config {
    let mut rng = rand::rng();
    let identity = Keypair::generate(&mut rng);
    tls::Config::new(&identity, Vec::new(), &mut rng).unwrap()
}

/// Shows nothing.
#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

/// What a client shows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shows {
    Honest,
    Nothing,
    Flawed(Flaw),
}

/// A client that offers `alpn`.
pub(crate) fn client(shows: Shows, alpn: &[u8]) -> rustls::ClientConfig {
    let mut config = honest().client_config(None, vec![alpn.to_vec()]);
    let provider = Arc::clone(config.crypto_provider());
    match shows {
        Shows::Honest => {}
        Shows::Nothing => config.client_auth_cert_resolver = Arc::new(Nothing),
        Shows::Flawed(flaw) => config.client_auth_cert_resolver = certified(flaw, &provider),
    }
    config
}

/// A server with a flawed certificate, or an honest one that speaks another protocol.
pub(crate) fn server(flaw: Option<Flaw>, alpn: &[u8]) -> rustls::ServerConfig {
    let mut config = honest().server_config(vec![alpn.to_vec()]);
    if let Some(flaw) = flaw {
        let provider = Arc::clone(config.crypto_provider());
        config.cert_resolver = certified(flaw, &provider) as Arc<dyn ResolvesServerCert>;
    }
    config
}
