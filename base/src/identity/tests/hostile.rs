//! Bad keys, and good ones in disguise.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use super::{
    super::{KeyType, PublicKey, PublicKeyError},
    MESSAGE, cost, data, hex, message, vector,
};
use crate::proto::{ScanError, put_bytes_field, put_varint_field};

/// A `SubjectPublicKeyInfo` of an RSA key, with every part chosen.
fn rsa(algorithm: &[u8], modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let numbers = der(0x30, &[&der(2, modulus)[..], &der(2, exponent)].concat());
    let bits = der(3, &[&[0][..], &numbers].concat());
    der(0x30, &[algorithm, &bits].concat())
}

pub(super) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
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
    row("secp256k1 at infinity", message(2, &[0]), k1_point);
    row(
        "secp256k1 x above p",
        message(2, &[&[2][..], &[0xff; 32]].concat()),
        k1_point,
    );
    row(
        "secp256k1 x off the curve",
        message(2, &[&[2][..], &[0; 31], &[5]].concat()),
        k1_point,
    );
    row(
        "secp256k1 as raw x",
        message(2, &[&[5][..], &k1[1..]].concat()),
        k1_point,
    );
    row(
        "secp256k1 y off the curve",
        message(2, &[&[4][..], &k1[1..], &[7; 32]].concat()),
        k1_point,
    );
    row(
        "secp256k1 wrong hybrid",
        message(2, &[&[6][..], &k1[1..], &[7; 32]].concat()),
        k1_point,
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
        bad_rsa,
    );
    row("RSA cut short", message(0, &good[..100]), bad_rsa);
    let mut past_the_end = good.clone();
    past_the_end[2] = 0xff;
    row(
        "RSA with a length past the end",
        message(0, &past_the_end),
        bad_rsa,
    );
    row(
        "RSA of indefinite length",
        message(0, &[&[0x30, 0x80][..], &good[4..], &[0, 0]].concat()),
        bad_rsa,
    );
    row(
        "RSA with a length of 2³²",
        message(0, &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]),
        bad_rsa,
    );
    row(
        "RSA with a padded length",
        message(0, &[&[0x30, 0x83, 0x00][..], &good[2..]].concat()),
        bad_rsa,
    );
    row(
        "RSA with negative modulus",
        message(0, &rsa(&rsa_id, &modulus(2048)[1..], &e)),
        bad_rsa,
    );
    row(
        "RSA with padded modulus",
        message(0, &rsa(&rsa_id, &[&[0][..], &modulus(2048)].concat(), &e)),
        bad_rsa,
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
        bad_rsa,
    );
    row(
        "RSA-PSS",
        message(
            0,
            &rsa(&hex("300d06092a864886f70d01010a0500"), &modulus(2048), &e),
        ),
        bad_rsa,
    );
    row(
        "RSA as PKCS#1",
        message(
            0,
            &der(0x30, &[der(2, &modulus(2048)), der(2, &e)].concat()),
        ),
        bad_rsa,
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
    row("RSA as ECDSA", message(3, &good), bad_ecdsa);
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
        bad_ecdsa,
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
        bad_ecdsa,
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
        bad_ecdsa,
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
fn small_order_points() -> Vec<[u8; 32]> {
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
    assert!(worst.0 <= Duration::from_millis(if cfg!(debug_assertions) { 50 } else { 1 }));
}
