#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::proto::put_bytes_field;

const DOMAIN: &str = "barewire-test";
const KIND: &[u8] = b"/kind";

fn keypair() -> Keypair {
    Keypair::from_seed(&[7; 32])
}

fn sealed() -> SignedEnvelope {
    SignedEnvelope::seal(&keypair(), DOMAIN, KIND, b"payload".to_vec()).unwrap()
}

#[test]
fn seal_encode_decode_open() {
    let envelope = SignedEnvelope::decode(&sealed().encode()).unwrap();
    assert_eq!(envelope, sealed());
    assert_eq!(envelope.public_key(), keypair().public());
    assert_eq!(envelope.payload_type(), KIND);
    assert_eq!(envelope.open(DOMAIN, KIND), Ok(&b"payload"[..]));
}

#[test]
fn signed_bytes_carry_lengths() {
    assert_eq!(
        signed_bytes("ab", b"\x03\x01", b"xyz").unwrap(),
        b"\x02ab\x02\x03\x01\x03xyz"
    );
    // Moving a byte from one part to the next changes what is signed.
    assert_ne!(
        signed_bytes("ab", b"c", b"").unwrap(),
        signed_bytes("a", b"bc", b"").unwrap()
    );
}

#[test]
fn signature_comes_before_payload_type() {
    let envelope = sealed();
    assert_eq!(
        envelope.open(DOMAIN, b"/other"),
        Err(EnvelopeError::PayloadType)
    );
    let wrong = Err(EnvelopeError::Signature(SignatureError));
    assert_eq!(envelope.open("other", KIND), wrong);
    assert_eq!(envelope.open("other", b"/other"), wrong);
    assert_eq!(envelope.open("", KIND), Err(EnvelopeError::EmptyDomain));
    let seal = SignedEnvelope::seal(&keypair(), "", KIND, vec![]);
    assert_eq!(seal, Err(EnvelopeError::EmptyDomain));
    assert_eq!(EnvelopeError::EmptyDomain.fault(), Fault::Local);
}

#[test]
fn another_key_does_not_open_it() {
    let mut envelope = sealed();
    envelope.public_key = Keypair::from_seed(&[8; 32]).public().clone();
    let envelope = SignedEnvelope::decode(&envelope.encode()).unwrap();
    assert_eq!(
        envelope.open(DOMAIN, KIND),
        Err(EnvelopeError::Signature(SignatureError))
    );
}

/// Every single-byte change is refused, or (in the key's unread parts) changes nothing.
#[test]
fn no_byte_may_change() {
    let bytes = sealed().encode();
    for at in 0..bytes.len() {
        for xor in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= xor;
            let opened = SignedEnvelope::decode(&changed)
                .and_then(|envelope| envelope.open(DOMAIN, KIND).map(<[u8]>::to_vec));
            assert!(opened.is_err(), "byte {at}");
        }
    }
}

#[test]
fn malformed_envelopes() {
    let bytes = sealed().encode();
    for end in 0..bytes.len() {
        let cut = SignedEnvelope::decode(&bytes[..end]);
        let whole_fields = cut.and_then(|envelope| envelope.open(DOMAIN, KIND).map(drop));
        assert!(whole_fields.is_err());
    }
    let key = PublicKeyError::MissingType;
    assert_eq!(SignedEnvelope::decode(b""), Err(EnvelopeError::Key(key)));
    let mut without_key = Vec::new();
    put_bytes_field(2, KIND, &mut without_key);
    assert_eq!(
        SignedEnvelope::decode(&without_key),
        Err(EnvelopeError::Key(key))
    );
    // A field of another type than an envelope's.
    assert_eq!(
        SignedEnvelope::decode(b"\x10\x01"),
        Err(EnvelopeError::Malformed)
    );
    let too_many = [0x12, 0].repeat(17);
    let error = ScanError::TooManyFields(16);
    assert_eq!(
        SignedEnvelope::decode(&too_many),
        Err(EnvelopeError::Protobuf(error))
    );
    let long = vec![0; MAX_ENVELOPE_LEN + 1];
    assert_eq!(
        SignedEnvelope::decode(&long),
        Err(EnvelopeError::TooLong(long.len()))
    );
}

/// Unknown fields and the last of repeated ones, as other protobuf readers take them.
#[test]
fn unknown_fields_are_tolerated() {
    let mut bytes = Vec::new();
    put_bytes_field(2, b"/overridden", &mut bytes);
    put_bytes_field(4, b"unused", &mut bytes);
    bytes.extend(sealed().encode());
    let envelope = SignedEnvelope::decode(&bytes).unwrap();
    assert_eq!(envelope.open(DOMAIN, KIND), Ok(&b"payload"[..]));
}
