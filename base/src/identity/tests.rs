#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rand::SeedableRng;

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

/// A `SubjectPublicKeyInfo` of an RSA key, with every part chosen.
fn rsa(algorithm: &[u8], modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let numbers = der(0x30, &[&der(2, modulus)[..], &der(2, exponent)].concat());
    let bits = der(3, &[&[0][..], &numbers].concat());
    der(0x30, &[algorithm, &bits].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..0x80 => out.push(len as u8),
        0x80..0x100 => out.extend([0x81, len as u8]),
        _ => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// An odd positive modulus of exactly `bits` bits.
fn modulus(bits: usize) -> Vec<u8> {
    let mut number = vec![0x5b; bits.div_ceil(8)];
    let top = (bits - 1) % 8;
    number[0] = 1 << top | (number[0] & ((1 << top) - 1));
    if top == 7 {
        number.insert(0, 0);
    }
    number
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

type Expected = Result<KeyType, PublicKeyError>;

fn key_table() -> Vec<(String, Vec<u8>, Expected)> {
    use KeyType::{Ecdsa, Ed25519, Rsa, Secp256k1};
    let rsa_id = hex("300d06092a864886f70d0101010500");
    let e = [1, 0, 1];
    let mut rows: Vec<(String, Vec<u8>, Expected)> = Vec::new();
    let mut row = |name: &str, bytes: Vec<u8>, expected: Expected| {
        rows.push((name.to_owned(), bytes, expected));
    };

    // One key, many encodings: each is accepted and all have one id (checked by the caller).
    let ed = data("ed25519");
    let extra = |tail: &[u8]| [&message(1, &ed)[..], tail].concat();
    let data_field = |out: &mut Vec<u8>| put_bytes_field(2, &ed, out);
    row("canonical", message(1, &ed), Ok(Ed25519));
    row("unknown varint field", extra(&[0x18, 5]), Ok(Ed25519));
    row("unknown bytes field", extra(&[0x22, 2, 1, 2]), Ok(Ed25519));
    row(
        "unknown fixed fields",
        extra(&[0x1d, 0, 0, 0, 0, 0x19, 0, 0, 0, 0, 0, 0, 0, 0]),
        Ok(Ed25519),
    );
    let mut reordered = Vec::new();
    data_field(&mut reordered);
    put_varint_field(1, 1, &mut reordered);
    row("fields in the other order", reordered, Ok(Ed25519));
    let mut long_type = vec![0x08, 0x81, 0x80, 0x80, 0x00];
    data_field(&mut long_type);
    row("non-minimal type", long_type, Ok(Ed25519));
    let mut long_len = vec![0x08, 1, 0x12, 0xa0, 0x80, 0x00];
    long_len.extend_from_slice(&ed);
    row("non-minimal length", long_len, Ok(Ed25519));
    let mut long_tag = vec![0x88, 0x00, 1];
    data_field(&mut long_tag);
    row("non-minimal tag", long_tag, Ok(Ed25519));
    row(
        "type twice",
        [&[8, 0][..], &message(1, &ed)].concat(),
        Ok(Ed25519),
    );
    row(
        "data twice",
        [&[0x12, 1, 9][..], &message(1, &ed)].concat(),
        Ok(Ed25519),
    );

    // Messages that are none.
    row("empty", vec![], Err(PublicKeyError::MissingType));
    row(
        "no type",
        message(1, &ed)[2..].to_vec(),
        Err(PublicKeyError::MissingType),
    );
    row("no data", vec![8, 1], Err(PublicKeyError::MissingData));
    row(
        "unknown type",
        message(4, &ed),
        Err(PublicKeyError::UnknownType(4)),
    );
    row(
        "type 2⁶⁴ − 1",
        message(u64::MAX, &ed),
        Err(PublicKeyError::UnknownType(u64::MAX)),
    );
    row(
        "type as bytes",
        vec![0x0a, 1, 1],
        Err(ScanError::WireType.into()),
    );
    row(
        "data as varint",
        vec![8, 1, 0x10, 1],
        Err(ScanError::WireType.into()),
    );
    row(
        "truncated",
        message(1, &ed)[..20].to_vec(),
        Err(ScanError::Truncated.into()),
    );
    row(
        "length past the end",
        vec![8, 1, 0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
        Err(ScanError::Truncated.into()),
    );
    row(
        "endless varint",
        vec![0x08; 1].into_iter().chain([0xff; 20]).collect(),
        Err(ScanError::Varint.into()),
    );
    row("group", extra(&[0x1b, 0x1c]), Err(ScanError::Group.into()));
    row(
        "wire type 7",
        extra(&[0x1f]),
        Err(ScanError::WireType.into()),
    );
    row(
        "field 0",
        extra(&[0x00, 0x00]),
        Err(ScanError::FieldNumber.into()),
    );
    row(
        "1 MiB",
        vec![0; 1 << 20],
        Err(PublicKeyError::TooLong(1 << 20)),
    );
    row(
        "2,000 unknown fields",
        [0x18, 0].repeat(2000),
        Err(PublicKeyError::MissingType),
    );

    // Ed25519.
    let ed_len = |len| {
        Err(PublicKeyError::Length {
            key_type: Ed25519,
            len,
        })
    };
    row("Ed25519 of 0 bytes", message(1, &[]), ed_len(0));
    row("Ed25519 of 31 bytes", message(1, &ed[1..]), ed_len(31));
    row(
        "Ed25519 of 33 bytes",
        message(1, &[&ed[..], b"\0"].concat()),
        ed_len(33),
    );
    row(
        "Ed25519 off the curve",
        message(1, &[&[2][..], &[0; 31]].concat()),
        Err(PublicKeyError::NotOnCurve(Ed25519)),
    );
    for (index, point) in small_order_points().iter().enumerate() {
        row(
            &format!("Ed25519 of small order {index}"),
            message(1, point),
            Err(PublicKeyError::WeakKey),
        );
    }
    // y = p + 3, a second name for y = 3, a point of large order.
    let mut second_name = [0xff; 32];
    (second_name[0], second_name[31]) = (0xf0, 0x7f);
    row(
        "Ed25519 not reduced",
        message(1, &second_name),
        Err(PublicKeyError::WeakKey),
    );

    // secp256k1.
    let k1 = data("secp256k1");
    let k1_len = |len| {
        Err(PublicKeyError::Length {
            key_type: Secp256k1,
            len,
        })
    };
    let k1_point = Err(PublicKeyError::NotOnCurve(Secp256k1));
    row("secp256k1 of 0 bytes", message(2, &[]), k1_len(0));
    row("secp256k1 of 32 bytes", message(2, &k1[..32]), k1_len(32));
    row(
        "secp256k1 of 34 bytes",
        message(2, &[&k1[..], b"\0"].concat()),
        k1_len(34),
    );
    row("secp256k1 at infinity", message(2, &[0]), k1_point.clone());
    row(
        "secp256k1 x above p",
        message(2, &[&[2][..], &[0xff; 32]].concat()),
        k1_point.clone(),
    );
    row(
        "secp256k1 x off the curve",
        message(2, &[&[2][..], &[0; 31], &[5]].concat()),
        k1_point.clone(),
    );
    row(
        "secp256k1 as raw x",
        message(2, &[&[5][..], &k1[1..]].concat()),
        k1_point.clone(),
    );
    row(
        "secp256k1 y off the curve",
        message(2, &[&[4][..], &k1[1..], &[7; 32]].concat()),
        k1_point.clone(),
    );
    row(
        "secp256k1 wrong hybrid",
        message(2, &[&[6][..], &k1[1..], &[7; 32]].concat()),
        k1_point.clone(),
    );

    // RSA.
    let bad_rsa = Err(PublicKeyError::Der(Rsa));
    for bits in [2048, 2049, 4096, 8191, 8192] {
        row(
            &format!("RSA of {bits} bits"),
            message(0, &rsa(&rsa_id, &modulus(bits), &e)),
            Ok(Rsa),
        );
    }
    for bits in [512, 1024, 2047, 8193, 16384] {
        row(
            &format!("RSA of {bits} bits"),
            message(0, &rsa(&rsa_id, &modulus(bits), &e)),
            Err(PublicKeyError::RsaSize(bits)),
        );
    }
    row(
        "RSA of 32 Ki bits",
        message(0, &rsa(&rsa_id, &modulus(32768), &e)),
        Err(PublicKeyError::TooLong(4139)),
    );
    let good = rsa(&rsa_id, &modulus(2048), &e);
    row(
        "RSA with a trailing byte",
        message(0, &[&good[..], b"\0"].concat()),
        bad_rsa.clone(),
    );
    row("RSA cut short", message(0, &good[..100]), bad_rsa.clone());
    let mut past_the_end = good.clone();
    past_the_end[2] = 0xff;
    row(
        "RSA with a length past the end",
        message(0, &past_the_end),
        bad_rsa.clone(),
    );
    row(
        "RSA of indefinite length",
        message(0, &[&[0x30, 0x80][..], &good[4..], &[0, 0]].concat()),
        bad_rsa.clone(),
    );
    row(
        "RSA with a length of 2³²",
        message(0, &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]),
        bad_rsa.clone(),
    );
    row(
        "RSA with a padded length",
        message(0, &[&[0x30, 0x83, 0x00][..], &good[2..]].concat()),
        bad_rsa.clone(),
    );
    row(
        "RSA with negative modulus",
        message(0, &rsa(&rsa_id, &modulus(2048)[1..], &e)),
        bad_rsa.clone(),
    );
    row(
        "RSA with padded modulus",
        message(0, &rsa(&rsa_id, &[&[0][..], &modulus(2048)].concat(), &e)),
        bad_rsa.clone(),
    );
    row(
        "RSA with modulus 0",
        message(0, &rsa(&rsa_id, &[0], &e)),
        Err(PublicKeyError::RsaSize(0)),
    );
    row(
        "RSA without NULL",
        message(
            0,
            &rsa(&hex("300b06092a864886f70d010101"), &modulus(2048), &e),
        ),
        bad_rsa.clone(),
    );
    row(
        "RSA-PSS",
        message(
            0,
            &rsa(&hex("300d06092a864886f70d01010a0500"), &modulus(2048), &e),
        ),
        bad_rsa.clone(),
    );
    row(
        "RSA as PKCS#1",
        message(
            0,
            &der(0x30, &[der(2, &modulus(2048)), der(2, &e)].concat()),
        ),
        bad_rsa.clone(),
    );
    row(
        "RSA as deeply nested DER",
        message(0, &[0x30, 0x80].repeat(1000)),
        bad_rsa,
    );
    let mut even = modulus(2048);
    *even.last_mut().unwrap() ^= 1;
    row(
        "RSA with even modulus",
        message(0, &rsa(&rsa_id, &even, &e)),
        Err(PublicKeyError::RsaNumbers),
    );
    for exponent in [
        &[1][..],
        &[2],
        &[0],
        &[0, 0x80, 0, 0, 1],
        &[1, 0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        let expected = Err(PublicKeyError::RsaNumbers);
        row(
            &format!("RSA with exponent {exponent:?}"),
            message(0, &rsa(&rsa_id, &modulus(2048), exponent)),
            expected,
        );
    }
    let huge = rsa(&rsa_id, &modulus(2048), &modulus(2048));
    row(
        "RSA with exponent as long as the modulus",
        message(0, &huge),
        Err(PublicKeyError::RsaNumbers),
    );

    // ECDSA.
    let bad_ecdsa = Err(PublicKeyError::Der(Ecdsa));
    let p256 = data("ecdsa-P-256");
    row(
        "ECDSA as RSA",
        message(0, &p256),
        Err(PublicKeyError::Der(Rsa)),
    );
    row("RSA as ECDSA", message(3, &good), bad_ecdsa.clone());
    row(
        "ECDSA on P-224",
        vector("ecdsa-P-224").encoded,
        Err(PublicKeyError::Curve),
    );
    row(
        "ECDSA on secp256k1",
        message(
            3,
            &ec(&hex("06052b8104000a"), &[&[4][..], &[7; 64]].concat()),
        ),
        Err(PublicKeyError::Curve),
    );
    row(
        "ECDSA with explicit curve",
        message(3, &ec(&der(0x30, &[2, 1, 1]), &p256[26..])),
        bad_ecdsa.clone(),
    );
    let p256_curve = hex("06082a8648ce3d030107");
    let compressed = [&[2 | (p256[90] & 1)][..], &p256[27..59]].concat();
    row(
        "ECDSA compressed",
        message(3, &ec(&p256_curve, &compressed)),
        Err(PublicKeyError::Length {
            key_type: Ecdsa,
            len: 33,
        }),
    );
    row(
        "ECDSA at infinity",
        message(3, &ec(&p256_curve, &[0])),
        Err(PublicKeyError::Length {
            key_type: Ecdsa,
            len: 1,
        }),
    );
    row(
        "ECDSA hybrid",
        message(3, &ec(&p256_curve, &[&[6][..], &p256[27..]].concat())),
        bad_ecdsa.clone(),
    );
    row(
        "ECDSA off the curve",
        message(3, &ec(&p256_curve, &[&[4][..], &[7; 64]].concat())),
        Err(PublicKeyError::NotOnCurve(Ecdsa)),
    );
    row(
        "ECDSA x above p",
        message(3, &ec(&p256_curve, &[&[4][..], &[0xff; 64]].concat())),
        Err(PublicKeyError::NotOnCurve(Ecdsa)),
    );
    row(
        "ECDSA with a trailing byte",
        message(3, &[&p256[..], b"\0"].concat()),
        bad_ecdsa.clone(),
    );
    row("ECDSA of 0 bytes", message(3, &[]), bad_ecdsa);
    rows
}

/// An ECDSA `SubjectPublicKeyInfo`.
fn ec(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let algorithm = der(0x30, &[&hex("06072a8648ce3d0201")[..], curve].concat());
    der(
        0x30,
        &[algorithm, der(3, &[&[0][..], point].concat())].concat(),
    )
}

/// The points of order 1, 2, 4 and 8, and their encodings that are not reduced.
pub(super) fn small_order_points() -> Vec<[u8; 32]> {
    [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ]
    .map(|text| hex(text).try_into().unwrap())
    .to_vec()
}

/// Every way found to send a bad key, or a good one in disguise. None may panic, each has its own
/// error, and none may cost more than the price of an honest one.
#[test]
fn hostile_keys_are_refused_with_a_reason_and_cheaply() {
    let table = key_table();
    let ed_id = vector("ed25519").peer_id;
    let mut worst = (Duration::ZERO, "");
    let mut refused = 0;
    for (name, bytes, expected) in &table {
        let outcome = PublicKey::from_protobuf(bytes);
        assert_eq!(
            outcome.as_ref().map(PublicKey::key_type),
            expected.as_ref().copied(),
            "{name}"
        );
        if let Ok(key) = outcome {
            if key.key_type() == KeyType::Ed25519 {
                assert_eq!(key.peer_id().to_string(), ed_id, "{name}");
            }
            // A signature that is garbage costs no more than a good one.
            let time = cost(|| key.verify(MESSAGE, &[0x55; 256]));
            worst = worst.max((time, name));
        } else {
            refused += 1;
        }
        worst = worst.max((cost(|| PublicKey::from_protobuf(bytes)), name));
    }
    println!(
        "attack row 8: {} keys, {refused} refused; the dearest took {:?} ({})",
        table.len(),
        worst.0,
        worst.1
    );
    assert!(table.len() >= 60);
    // The target is 1 ms; a debug build on a loaded machine gets some slack.
    assert!(worst.0 <= Duration::from_millis(if cfg!(debug_assertions) { 10 } else { 1 }));
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
