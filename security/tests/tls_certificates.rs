//! Certificates: the specification's vectors, every shape that has to be accepted, and every way to be
//! refused, with what each costs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "tests"
)]

use std::time::{Duration, Instant, SystemTime};

use barewire_base::{Keypair, PeerId};
use barewire_security::tls::{CertificateError, Config, MAX_CERTIFICATE, peer_of, verify};
use rand::{SeedableRng, rngs::StdRng};
use rcgen::{
    CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, PKCS_RSA_SHA512,
    PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, UnixTime};

const OID: &[u64] = &[1, 3, 6, 1, 4, 1, 53594, 1, 1];
const PREFIX: &[u8] = b"libp2p-tls-handshake:";

fn now() -> UnixTime {
    UnixTime::now()
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..=0x7f => vec![tag, length[1]],
        0x80..=0xff => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [head, content.to_vec()].concat()
}

fn signed_key(identity: &[u8], signature: &[u8]) -> Vec<u8> {
    der(0x30, &[der(4, identity), der(4, signature)].concat())
}

/// What a certificate is made of, right in every part until a test changes one.
struct Parts {
    identity: Keypair,
    key: KeyPair,
    params: CertificateParams,
}

impl Parts {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let identity = Keypair::from_seed(&[7; 32]);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let signature = identity.sign(&[PREFIX, &key.subject_public_key_info()].concat());
        let value = signed_key(&identity.public().to_protobuf(), &signature);
        let mut params = CertificateParams::default();
        params.custom_extensions = vec![CustomExtension::from_oid_content(OID, value)];
        Self {
            identity,
            key,
            params,
        }
    }

    fn p256() -> Self {
        Self::new(&PKCS_ECDSA_P256_SHA256)
    }

    fn extension(mut self, value: Vec<u8>) -> Self {
        self.params.custom_extensions = vec![CustomExtension::from_oid_content(OID, value)];
        self
    }

    fn change(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }

    fn der(&self) -> CertificateDer<'static> {
        self.params.self_signed(&self.key).unwrap().der().clone()
    }
}

fn patched(
    certificate: &CertificateDer<'_>,
    from: &[u8],
    to: &[u8],
    last: bool,
) -> CertificateDer<'static> {
    let mut bytes = certificate.to_vec();
    let mut found = bytes.windows(from.len());
    let at = if last {
        found.rposition(|window| window == from)
    } else {
        found.position(|window| window == from)
    }
    .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    CertificateDer::from(bytes)
}

#[test]
fn the_specification_s_vectors() {
    let vectors = include_str!("vectors/tls_certificates.txt");
    let mut read = 0;
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let (peer, hex) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let chain = [CertificateDer::from(bytes)];
        let verified = verify(&chain, None, now());
        match peer.parse::<PeerId>() {
            Ok(peer) => {
                assert_eq!(verified.unwrap().peer_id(), peer);
                assert_eq!(peer_of(&chain).unwrap().peer_id(), peer);
                assert!(verify(&chain, Some(peer), now()).is_ok());
            }
            Err(_) => assert_eq!(verified, Err(CertificateError::ExtensionSignature)),
        }
        read += 1;
    }
    assert_eq!(read, 4);
}

#[test]
fn our_own() {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let identity = Keypair::from_seed(&[3; 32]);
    let mut rng = StdRng::seed_from_u64(1);
    let config = Config::new(&identity, Vec::new(), &mut rng).unwrap();
    let certificate = own_certificate(&config);
    let chain = [certificate.clone()];
    assert_eq!(
        verify(&chain, Some(identity.peer_id()), now()),
        Ok(identity.public().clone())
    );
    let (rest, parsed) = X509Certificate::from_der(&certificate).unwrap();
    assert!(rest.is_empty());
    // libp2p's extension is the only one, and nobody has to understand it.
    let [extension] = parsed.extensions() else {
        panic!("{:?}", parsed.extensions());
    };
    assert_eq!(extension.oid.to_id_string(), "1.3.6.1.4.1.53594.1.1");
    assert!(!extension.critical);
    assert!(parsed.raw_serial()[0] < 0x40 && parsed.raw_serial().len() <= 8);
    let names: Vec<_> = parsed.subject().iter_attributes().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].attr_type().to_id_string(), "2.5.4.5");
    assert!(names[0].as_str().unwrap().parse::<u64>().unwrap() < 1 << 62);
    assert_eq!(parsed.subject().as_raw(), parsed.issuer().as_raw());
    let clock = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let validity = parsed.validity();
    let age = clock - u64::try_from(validity.not_before.timestamp()).unwrap();
    assert!((3600..3660).contains(&age), "{age}");
    let left = u64::try_from(validity.not_after.timestamp()).unwrap() - clock;
    assert!(left / (365 * 24 * 3600) >= 99, "{left}");
    // A node started again shows another certificate.
    let again = Config::new(&identity, Vec::new(), &mut rng).unwrap();
    assert_ne!(own_certificate(&again), certificate);
}

fn own_certificate(config: &Config) -> CertificateDer<'static> {
    let client = config.client_config(None, Vec::new());
    client
        .client_auth_cert_resolver
        .resolve(&[], &[])
        .unwrap()
        .cert[0]
        .clone()
}

#[test]
fn what_has_to_be_accepted() {
    let mut accepted = vec![
        ("P-256", Parts::p256()),
        ("P-384", Parts::new(&PKCS_ECDSA_P384_SHA384)),
        ("Ed25519", Parts::new(&PKCS_ED25519)),
        ("RSA with SHA-256", Parts::new(&PKCS_RSA_SHA256)),
        ("RSA with SHA-512", Parts::new(&PKCS_RSA_SHA512)),
    ];
    let critical = |params: &mut CertificateParams| {
        params.custom_extensions[0].set_criticality(true);
    };
    accepted.push(("critical", Parts::p256().change(critical)));
    let unknown = |params: &mut CertificateParams| {
        let other = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        params.custom_extensions.insert(0, other);
    };
    accepted.push(("another extension first", Parts::p256().change(unknown)));
    let python = |params: &mut CertificateParams| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    };
    accepted.push(("as py-libp2p", Parts::p256().change(python)));
    for (name, parts) in accepted {
        let peer = parts.identity.peer_id();
        let verified = verify(&[parts.der()], Some(peer), now());
        assert_eq!(verified.as_ref(), Ok(parts.identity.public()), "{name}");
    }
}

/// Each with the kind it is refused by.
fn bad_certificates() -> Vec<(&'static str, Vec<CertificateDer<'static>>, CertificateError)> {
    use CertificateError as E;

    let good = Parts::p256();
    let certificate = good.der();
    let stranger = Keypair::from_seed(&[9; 32]);
    let ours = good.identity.public().to_protobuf();
    let spki = good.key.subject_public_key_info();
    let signed = [PREFIX, &spki].concat();
    let signature = good.identity.sign(&signed);
    let other_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    // Its key stays, so that one extension value can replace another.
    let with_value = |value: Vec<u8>| {
        let mut params = CertificateParams::default();
        params.custom_extensions = vec![CustomExtension::from_oid_content(OID, value)];
        params.self_signed(&good.key).unwrap().der().clone()
    };
    let change = |change: fn(&mut CertificateParams)| Parts::p256().change(change).der();
    let value = signed_key(&ours, &signature);
    let identity_key = |bytes: &[u8]| {
        let error = barewire_base::PublicKey::from_protobuf(bytes).unwrap_err();
        (
            with_value(signed_key(bytes, &signature)),
            E::IdentityKey(error),
        )
    };
    let (rsa_identity, rsa_error) = identity_key(&[8, 0, 18, 1, 0]);
    let (empty_identity, empty_error) = identity_key(&[]);
    let mut long = certificate.to_vec();
    long.resize(MAX_CERTIFICATE + 1, 0);
    let mut trailing = certificate.to_vec();
    trailing.push(0);
    let mut forged = certificate.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let ecdsa_sha256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let ecdsa_sha384 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    let p256_curve = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let p192_curve = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1];
    let rsa = Parts::new(&PKCS_RSA_SHA256).der();
    let sha256_rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b];
    let sha1_rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
    let sha1 = patched(
        &patched(&rsa, &sha256_rsa, &sha1_rsa, false),
        &sha256_rsa,
        &sha1_rsa,
        true,
    );
    let sha384 = patched(&certificate, &ecdsa_sha256, &ecdsa_sha384, false);
    let sha384 = patched(&sha384, &ecdsa_sha256, &ecdsa_sha384, true);
    let foreign = {
        let issuer = rcgen::Issuer::from_params(&good.params, &other_key);
        good.params
            .signed_by(&good.key, &issuer)
            .unwrap()
            .der()
            .clone()
    };

    let one = |name, certificate: CertificateDer<'static>, error| (name, vec![certificate], error);
    vec![
        ("no certificate", vec![], E::ChainLength(0)),
        (
            "two certificates",
            vec![certificate.clone(), certificate.clone()],
            E::ChainLength(2),
        ),
        one("too long", long.into(), E::TooLong(MAX_CERTIFICATE + 1)),
        one("empty", Vec::new().into(), E::Malformed),
        one("a byte behind", trailing.into(), E::Malformed),
        one(
            "cut short",
            certificate[..certificate.len() - 1].to_vec().into(),
            E::Malformed,
        ),
        one("not a certificate", vec![0x30; 300].into(), E::Malformed),
        one(
            "expired",
            change(|params| params.not_after = date_time_ymd(2020, 1, 1)),
            E::Expired,
        ),
        one(
            "not yet valid",
            change(|params| params.not_before = date_time_ymd(4000, 1, 1)),
            E::NotYetValid,
        ),
        one(
            "without libp2p's extension",
            change(|params| params.custom_extensions.clear()),
            E::MissingExtension,
        ),
        one(
            "libp2p's extension twice",
            change(|params| {
                params
                    .custom_extensions
                    .push(params.custom_extensions[0].clone())
            }),
            E::DuplicateExtension,
        ),
        one(
            "an unknown critical extension",
            change(|params| {
                let mut other = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                other.set_criticality(true);
                params.custom_extensions.push(other);
            }),
            E::UnknownCriticalExtension("1.2.3.4".into()),
        ),
        one(
            "a key that is not for signatures",
            change(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            E::UnknownCriticalExtension("2.5.29.15".into()),
        ),
        one(
            "an extension cut short",
            with_value(value[..value.len() - 1].to_vec()),
            E::MalformedExtension,
        ),
        one(
            "an extension with a byte behind",
            with_value([&value[..], &[0]].concat()),
            E::MalformedExtension,
        ),
        one(
            "an empty extension",
            with_value(Vec::new()),
            E::MalformedExtension,
        ),
        one(
            "an extension of three strings",
            with_value(der(
                0x30,
                &[der(4, &ours), der(4, &signature), der(4, b"more")].concat(),
            )),
            E::MalformedExtension,
        ),
        one("a broken RSA identity", rsa_identity, rsa_error),
        one("an empty identity", empty_identity, empty_error),
        one(
            "another's identity",
            with_value(signed_key(&stranger.public().to_protobuf(), &signature)),
            E::PeerIdMismatch {
                expected: good.identity.peer_id(),
                found: stranger.peer_id(),
            },
        ),
        one(
            "an identity's signature by another",
            with_value(signed_key(&ours, &stranger.sign(&signed))),
            E::ExtensionSignature,
        ),
        one(
            "an identity's signature without the prefix",
            with_value(signed_key(&ours, &good.identity.sign(&spki))),
            E::ExtensionSignature,
        ),
        one(
            "an identity's signature of another certificate",
            Parts::p256().extension(value.clone()).der(),
            E::ExtensionSignature,
        ),
        one(
            "an identity's signature left out",
            with_value(signed_key(&ours, &[])),
            E::ExtensionSignature,
        ),
        one("a forged self-signature", forged.into(), E::SelfSignature),
        one("signed by another key", foreign, E::SelfSignature),
        one(
            "P-521",
            Parts::new(&PKCS_ECDSA_P521_SHA512).der(),
            E::UnsupportedKey("1.3.132.0.35".into()),
        ),
        one(
            "P-192",
            patched(&certificate, &p256_curve, &p192_curve, false),
            E::UnsupportedKey("1.2.840.10045.3.1.1".into()),
        ),
        one(
            "P-256 with SHA-384",
            sha384,
            E::UnsupportedAlgorithm("1.2.840.10045.4.3.3".into()),
        ),
        one(
            "RSA with SHA-1",
            sha1,
            E::UnsupportedAlgorithm("1.2.840.113549.1.1.5".into()),
        ),
        one(
            "two signature algorithms",
            patched(&certificate, &ecdsa_sha256, &ecdsa_sha384, true),
            E::AlgorithmMismatch,
        ),
    ]
}

#[test]
fn what_has_to_be_refused() {
    let expected = Some(Keypair::from_seed(&[7; 32]).peer_id());
    let good = [Parts::p256().der()];
    let valid = cost(|| assert!(verify(&good, expected, now()).is_ok()));
    let bad = bad_certificates();
    let mut worst = ("", Duration::ZERO);
    for (name, chain, error) in &bad {
        let refused = verify(chain, expected, now());
        assert_eq!(refused.as_ref(), Err(error), "{name}");
        let cost = cost(|| drop(verify(chain, expected, now())));
        if cost > worst.1 {
            worst = (name, cost);
        }
    }
    println!(
        "row 14: {} bad certificates, 0 accepted; a valid one costs {valid:?}, the worst ({}) {:?}: {:.1} times",
        bad.len(),
        worst.0,
        worst.1,
        worst.1.as_secs_f64() / valid.as_secs_f64()
    );
    assert!(bad.len() >= 20);
    // Of the whole handshake this is a part.
    assert!(worst.1 <= valid * 3, "{worst:?}, a valid one {valid:?}");
}

/// The least time of several runs.
fn cost(run: impl Fn()) -> Duration {
    (0..20)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap()
}

#[test]
fn no_change_of_a_byte_is_accepted() {
    let parts = Parts::p256();
    let certificate = parts.der();
    let mut accepted = Vec::new();
    for at in 0..certificate.len() {
        for flip in [0x01, 0x80] {
            let mut bytes = certificate.to_vec();
            bytes[at] ^= flip;
            if verify(&[bytes.into()], None, now()).is_ok() {
                accepted.push((at, flip));
            }
        }
    }
    assert_eq!(accepted, [], "of {} bytes", certificate.len());
}
