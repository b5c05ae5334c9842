#![allow(clippy::unwrap_used, reason = "tests")]

mod hostile;

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rand::SeedableRng;

use self::hostile::der;
use super::*;
use crate::{
    Fault, multibase,
    proto::{ScanError, put_bytes_field, put_varint_field},
};

const MESSAGE: &[u8] = b"barewire test message";

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A key that go-libp2p made.
struct Vector {
    name: &'static str,
    encoded: Vec<u8>,
    peer_id: &'static str,
    cid: &'static str,
    signature: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    include_str!("../../testdata/keys.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [name, encoded, peer_id, cid, signature] = fields[..] else {
                panic!("{line}")
            };
            Vector {
                name,
                encoded: hex(encoded),
                peer_id,
                cid,
                signature: hex(signature),
            }
        })
        .collect()
}

fn vector(name: &str) -> Vector {
    vectors()
        .into_iter()
        .find(|vector| vector.name == name)
        .unwrap()
}

/// The data field of a vector's key.
fn data(name: &str) -> Vec<u8> {
    let encoded = vector(name).encoded;
    let prefix = if encoded[3] & 0x80 == 0 { 4 } else { 5 };
    encoded[prefix..].to_vec()
}

/// A `PublicKey` message.
fn message(code: u64, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint_field(1, code, &mut out);
    put_bytes_field(2, data, &mut out);
    out
}

/// The best of three timings, so that a pause of the machine is not blamed on the key.
fn cost<T>(run: impl Fn() -> T) -> Duration {
    (0..3)
        .map(|_| {
            let start = Instant::now();
            let _ = run();
            start.elapsed()
        })
        .min()
        .unwrap()
}

#[test]
fn go_libp2p_keys_ids_and_signatures() {
    let mut tried = 0;
    for vector in vectors() {
        let Vector {
            name,
            encoded,
            peer_id,
            cid,
            signature,
        } = vector;
        if name == "ecdsa-P-224" {
            assert_eq!(
                PublicKey::from_protobuf(&encoded),
                Err(PublicKeyError::Curve)
            );
            continue;
        }
        let key = PublicKey::from_protobuf(&encoded).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(key.to_protobuf(), encoded, "{name}");
        assert_eq!(key.peer_id().to_string(), peer_id, "{name}");
        assert_eq!(key.peer_id(), peer_id.parse().unwrap());
        assert_eq!(key.peer_id(), cid.parse().unwrap());
        assert_eq!(key.peer_id().to_cid_string(), cid);
        assert_eq!(key.verify(MESSAGE, &signature), Ok(()), "{name}");
        assert_eq!(
            key.verify(b"another message", &signature),
            Err(SignatureError),
            "{name}"
        );
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert_eq!(key.verify(MESSAGE, &changed), Err(SignatureError), "{name}");
        }
        let with_trailer = [&signature[..], b"\0"].concat();
        assert_eq!(
            key.verify(MESSAGE, &with_trailer),
            Err(SignatureError),
            "{name}"
        );
        assert_eq!(
            key.verify(MESSAGE, &signature[1..]),
            Err(SignatureError),
            "{name}"
        );
        assert_eq!(key.verify(MESSAGE, b""), Err(SignatureError), "{name}");
        assert_eq!(
            key.verify(MESSAGE, &[0; 2000]),
            Err(SignatureError),
            "{name}"
        );
        let embedded = matches!(key.key_type(), KeyType::Ed25519 | KeyType::Secp256k1);
        assert_eq!(key.peer_id().public_key(), embedded.then_some(key));
        tried += 1;
    }
    assert_eq!(tried, 9);
}

/// Vectors of the peer-ids specification.
#[test]
fn specification_vectors() {
    let pair = Keypair::from_protobuf(&hex(
        "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d\
         1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
    ))
    .unwrap();
    let public = hex("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e");
    assert_eq!(pair.public().to_protobuf(), public);
    let secp256k1 =
        hex("08021221037777e994e452c21604f91de093ce415f5432f701dd8cd1a7a6fea0e630bfca99");
    assert_eq!(
        PublicKey::from_protobuf(&secp256k1).unwrap().to_protobuf(),
        secp256k1
    );
    let ecdsa = hex(
        "0803125b3059301306072a8648ce3d020106082a8648ce3d03010703420004de3d300fa36ae0e8f5d530899d\
         83abab44abf3161f162a4bc901d8e6ecda020e8b6d5f8da30525e71d6851510c098e5c47c646a597fb4dcec0\
         34e9f77c409e62",
    );
    assert_eq!(
        PublicKey::from_protobuf(&ecdsa).unwrap().to_protobuf(),
        ecdsa
    );
    let id: PeerId = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
        .parse()
        .unwrap();
    let cid = "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe";
    assert_eq!(id.to_cid_string(), cid);
    assert_eq!(cid.parse(), Ok(id));
}

#[test]
fn every_text_form_reads_back() {
    for vector in vectors() {
        let id: PeerId = vector.peer_id.parse().unwrap();
        let cid = multibase::decode(vector.cid).unwrap();
        assert_eq!(cid[..2], [1, 0x72]);
        let base16 = cid
            .iter()
            .fold("f".to_owned(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(base16.parse(), Ok(id));
        assert_eq!(multibase::encode_base64url(&cid).parse(), Ok(id));
        assert_eq!(
            format!("z{}", bs58::encode(&cid).into_string()).parse(),
            Ok(id)
        );
        assert_eq!(PeerId::from_bytes(id.as_bytes()), Ok(id));
        assert_eq!(format!("{id:?}"), format!("PeerId({id})"));
        assert_eq!(format!("{id:>70}").len(), 70);
    }
}

#[test]
fn ids_that_are_none() {
    let sha256 = |len: u8| [&[0x12, len][..], &vec![7; usize::from(len)]].concat();
    let identity = |len: u8| [&[0, len][..], &vec![7; usize::from(len)]].concat();
    for (bytes, error) in [
        (vec![], PeerIdError::Malformed),
        (vec![0x12], PeerIdError::Malformed),
        (sha256(32)[..33].to_vec(), PeerIdError::Malformed),
        ([&sha256(32)[..], b"\0"].concat(), PeerIdError::Malformed),
        (sha256(31), PeerIdError::DigestLength(31)),
        (sha256(33), PeerIdError::DigestLength(33)),
        (identity(43), PeerIdError::DigestLength(43)),
        (identity(127), PeerIdError::DigestLength(127)),
        (
            [&[0x13, 64][..], &[7; 64]].concat(),
            PeerIdError::HashCode(0x13),
        ),
        // Not minimal, and a length of 2⁶³ − 1.
        (
            [&[0x92, 0x00, 0x20][..], &[7; 32]].concat(),
            PeerIdError::Malformed,
        ),
        (
            [&[0x12][..], &[0xff; 8], &[0x7f]].concat(),
            PeerIdError::Malformed,
        ),
    ] {
        assert_eq!(PeerId::from_bytes(&bytes), Err(error), "{bytes:?}");
        assert_eq!(error.fault(), Fault::Peer);
    }
    let id = "12D3KooWBVEAmRUWhTq3prwgwMFRThjTS6k1dQ2o7zvBvHtiWa2R";
    for (text, error) in [
        (String::new(), PeerIdError::Text),
        ("Qm".into(), PeerIdError::Malformed),
        ("1".into(), PeerIdError::Malformed),
        (format!("{id}0"), PeerIdError::Text),
        (format!("{id}1"), PeerIdError::Malformed),
        (format!(" {id}"), PeerIdError::Text),
        ("1".repeat(10_000), PeerIdError::Text),
        (format!("Qm{}", "z".repeat(300)), PeerIdError::Malformed),
        // A CID of another codec, of another version, and one cut short.
        (
            "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi".into(),
            PeerIdError::Cid,
        ),
        (
            "baj5benz7uizon2zy2lrg6rk3c7yrccosorpjnqogjyrsvynrq7p6btl36y".into(),
            PeerIdError::Cid,
        ),
        ("baf".into(), PeerIdError::Text),
        ("é".into(), PeerIdError::Text),
    ] {
        assert_eq!(text.parse::<PeerId>(), Err(error), "{text}");
    }
}

#[test]
fn embedded_keys_must_be_the_ids_own() {
    // An identity digest that is no key, and one whose key has another, canonical id.
    let no_key = PeerId::from_bytes(&[0, 3, 1, 2, 3]).unwrap();
    assert_eq!(no_key.public_key(), None);
    let reordered = {
        let mut out = Vec::new();
        put_bytes_field(2, &data("ed25519"), &mut out);
        put_varint_field(1, 1, &mut out);
        out
    };
    let key = PublicKey::from_protobuf(&reordered).unwrap();
    assert_eq!(key.peer_id().to_string(), vector("ed25519").peer_id);
    let alias = PeerId::from_bytes(&[&[0, 36][..], &reordered].concat()).unwrap();
    assert_ne!(alias, key.peer_id());
    assert_eq!(alias.public_key(), None);
}

#[test]
fn order_and_hash_follow_the_binary_form() {
    let mut bytes: Vec<Vec<u8>> = vec![vec![0, 0], vec![0, 1, 0], vec![0, 1, 9], vec![0, 2, 0, 0]];
    for vector in vectors() {
        bytes.push(
            vector
                .peer_id
                .parse::<PeerId>()
                .unwrap()
                .as_bytes()
                .to_vec(),
        );
    }
    let ids: BTreeSet<PeerId> = bytes
        .iter()
        .map(|bytes| PeerId::from_bytes(bytes).unwrap())
        .collect();
    bytes.sort();
    assert!(
        ids.iter()
            .map(PeerId::as_bytes)
            .eq(bytes.iter().map(Vec::as_slice))
    );
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), bytes.len());
    assert!(size_of::<PeerId>() <= 64);
}

#[test]
fn keypairs_round_trip_and_hide_their_secret() {
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let pair = Keypair::generate(&mut rng);
    let encoded = pair.to_protobuf();
    assert_eq!(encoded[..4], [8, 1, 0x12, 64]);
    assert_eq!(encoded.len(), 68);
    let again = Keypair::from_protobuf(&encoded).unwrap();
    assert_eq!(again.peer_id(), pair.peer_id());
    assert_eq!(again.sign(MESSAGE), pair.sign(MESSAGE));
    assert_eq!(pair.public().verify(MESSAGE, &pair.sign(MESSAGE)), Ok(()));
    let printed = format!("{pair:?} {:?}", pair.public());
    let seed = &encoded[4..36];
    assert!(!printed.contains(&format!("{:?}", &seed[..4])), "{printed}");
    // The old form repeats the public key.
    let legacy = message(1, &[&encoded[4..], &encoded[36..]].concat());
    assert_eq!(
        Keypair::from_protobuf(&legacy).unwrap().peer_id(),
        pair.peer_id()
    );
    // The same seed gives the same identity.
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    assert_eq!(Keypair::generate(&mut rng).peer_id(), pair.peer_id());
}

#[test]
fn key_files_that_are_none() {
    let pair = Keypair::from_seed(&[7; 32]);
    let data = pair.to_protobuf()[4..].to_vec();
    let mut foreign = data.clone();
    foreign[32..].copy_from_slice(&Keypair::from_seed(&[8; 32]).to_protobuf()[36..]);
    let mut foreign_copy = [&data[..], &data[32..]].concat();
    foreign_copy[95] ^= 1;
    for (bytes, error) in [
        (vec![], KeyError::Incomplete),
        (message(1, &data)[..2].to_vec(), KeyError::Incomplete),
        (message(0, &data), KeyError::Unsupported(0)),
        (message(9, &data), KeyError::Unsupported(9)),
        (message(1, &data[..32]), KeyError::Length(32)),
        (message(1, &[]), KeyError::Length(0)),
        (message(1, &foreign), KeyError::Mismatch),
        (message(1, &foreign_copy), KeyError::Mismatch),
        (vec![0xff; 11], KeyError::Protobuf(ScanError::Varint)),
    ] {
        assert_eq!(Keypair::from_protobuf(&bytes).map(|_| ()), Err(error));
    }
    assert_eq!(KeyError::Mismatch.fault(), Fault::Local);
}

/// What one honest peer's key costs, by type.
#[test]
fn honest_keys_are_cheap() {
    for vector in vectors() {
        let Ok(key) = PublicKey::from_protobuf(&vector.encoded) else {
            continue;
        };
        let parse = cost(|| PublicKey::from_protobuf(&vector.encoded));
        let verify = cost(|| key.verify(MESSAGE, &vector.signature));
        println!("{}: read {parse:?}, verify {verify:?}", vector.name);
    }
}

#[test]
fn one_secp256k1_key_has_one_id_in_every_form() {
    let compressed = data("secp256k1");
    let key = PublicKey::from_protobuf(&message(2, &compressed)).unwrap();
    // y of the vector's key, found through the uncompressed form another library prints.
    let uncompressed = hex(include_str!("../../testdata/secp256k1_uncompressed.txt").trim());
    assert_eq!(uncompressed[1..33], compressed[1..]);
    let hybrid = [&[6 | (uncompressed[64] & 1)][..], &uncompressed[1..]].concat();
    for form in [&uncompressed, &hybrid] {
        let same = PublicKey::from_protobuf(&message(2, form)).unwrap();
        assert_eq!(same, key);
        assert_eq!(same.peer_id().to_string(), vector("secp256k1").peer_id);
        assert_eq!(same.verify(MESSAGE, &vector("secp256k1").signature), Ok(()));
    }
    let wrong_parity = [&[6 | (uncompressed[64] & 1 ^ 1)][..], &uncompressed[1..]].concat();
    assert_eq!(
        PublicKey::from_protobuf(&message(2, &wrong_parity)),
        Err(PublicKeyError::NotOnCurve(KeyType::Secp256k1))
    );
}

/// go-libp2p accepts the second, high-s form of an ECDSA signature, so it is accepted here.
#[test]
fn high_s_is_tolerated_and_der_is_strict() {
    let order = hex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
    let vector = vector("secp256k1");
    let key = PublicKey::from_protobuf(&vector.encoded).unwrap();
    let signature = vector.signature;
    let r_len = usize::from(signature[3]);
    let s = &signature[6 + r_len..];
    let mut high = vec![0; 33];
    let mut borrow = 0i16;
    for at in 0..32 {
        let own = s.len().checked_sub(at + 1).map_or(0, |index| s[index]);
        let digit = i16::from(order[31 - at]) - i16::from(own) - borrow;
        borrow = i16::from(digit < 0);
        high[32 - at] = digit.rem_euclid(256) as u8;
    }
    let r = &signature[2..4 + r_len];
    let flipped = der(0x30, &[r, &der(2, &high)].concat());
    assert_eq!(key.verify(MESSAGE, &flipped), Ok(()));
    // The same numbers with a padded one, a long length, and a trailing byte inside.
    let padded = der(
        0x30,
        &[
            &der(2, &[&[0][..], &signature[4..4 + r_len]].concat())[..],
            &der(2, &high),
        ]
        .concat(),
    );
    let long_len = [&[0x30, 0x81, flipped[1]][..], &flipped[2..]].concat();
    let inner_trailer = der(0x30, &[&flipped[2..], &[0]].concat());
    for lax in [padded, long_len, inner_trailer] {
        assert_eq!(key.verify(MESSAGE, &lax), Err(SignatureError), "{lax:02x?}");
    }
}

/// Ed25519 signatures have one form: `s` is reduced, `R` is compared as it was sent.
#[test]
fn ed25519_signatures_have_one_form() {
    let order = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let pair = Keypair::from_seed(&[7; 32]);
    let signature = pair.sign(MESSAGE);
    let mut high_s = signature;
    let mut carry = 0u16;
    for (byte, add) in high_s[32..].iter_mut().zip(&order) {
        carry += u16::from(*byte) + u16::from(*add);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert_eq!(carry, 0);
    let mut other_sign = signature;
    other_sign[31] ^= 0x80;
    let mut zero = [0; 64];
    zero[0] = 1;
    for bad in [high_s, other_sign, zero, [0; 64], [0xff; 64]] {
        assert_eq!(pair.public().verify(MESSAGE, &bad), Err(SignatureError));
    }
}

/// Identity substitution at the level of keys: nobody's signature passes for another's.
#[test]
fn no_key_answers_for_another() {
    let vectors: Vec<_> = vectors()
        .into_iter()
        .filter(|v| v.name != "ecdsa-P-224")
        .collect();
    let keys: Vec<_> = vectors
        .iter()
        .map(|v| PublicKey::from_protobuf(&v.encoded).unwrap())
        .collect();
    for (index, key) in keys.iter().enumerate() {
        for (other, vector) in vectors.iter().enumerate() {
            assert_eq!(
                key.verify(MESSAGE, &vector.signature).is_ok(),
                index == other
            );
            assert_eq!(*key == keys[other], index == other);
            assert_eq!(key.peer_id().to_string() == vector.peer_id, index == other);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_surprise(bytes in proptest::collection::vec(any::<u8>(), 0..80), code in 0u64..5) {
        let _ = PublicKey::from_protobuf(&bytes);
        let _ = Keypair::from_protobuf(&bytes);
        if let Ok(key) = PublicKey::from_protobuf(&message(code, &bytes)) {
            prop_assert!(key.verify(&bytes, &bytes).is_err());
        }
        if let Ok(id) = PeerId::from_bytes(&bytes) {
            prop_assert_eq!(id.to_string().parse::<PeerId>(), Ok(id));
        }
    }

    #[test]
    fn changed_encodings_never_share_an_id_with_another_key(at in 0usize..400, xor in 1u8..) {
        for name in ["ed25519", "secp256k1", "rsa-2048", "ecdsa-P-256"] {
            let mut encoded = vector(name).encoded;
            let id = PublicKey::from_protobuf(&encoded).unwrap().peer_id();
            let at = at % encoded.len();
            encoded[at] ^= xor;
            if let Ok(changed) = PublicKey::from_protobuf(&encoded) {
                prop_assert_ne!(changed.peer_id(), id);
            }
        }
    }
}
