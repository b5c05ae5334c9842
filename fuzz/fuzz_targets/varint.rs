//! Both readers of varints against their definitions: multiformats' (at most nine bytes, minimal)
//! and protobuf's (at most ten, any form). Allocates nothing, so that 10^8 runs take minutes.
#![no_main]

use barewire_base::{
    proto::{Fields, ScanError, Value},
    varint::{self, VarintError},
};
use libfuzzer_sys::fuzz_target;

/// Most bytes of a protobuf varint.
const PROTO_MAX_LEN: usize = 10;

fuzz_target!(|bytes: &[u8]| {
    check_unsigned_varint(bytes);
    check_proto_varint(bytes);
});

/// The value of the seven bits in each byte up to the first without a high bit, and how many
/// bytes that are; `None` if `max` bytes or all there are have it.
fn by_definition(bytes: &[u8], max: usize) -> Option<(u128, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(max).enumerate() {
        value |= u128::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn check_unsigned_varint(bytes: &[u8]) {
    let expected = match by_definition(bytes, varint::MAX_LEN) {
        Some((_, used)) if used > 1 && bytes[used - 1] == 0 => Err(VarintError::NotMinimal),
        Some((value, used)) => Ok(Some((value as u64, used))),
        None if bytes.len() < varint::MAX_LEN => Ok(None),
        None => Err(VarintError::TooLong),
    };
    assert_eq!(varint::decode(bytes), expected);
    if let Ok(Some((value, used))) = expected {
        let mut out = [0; varint::MAX_LEN];
        let mut rest = &mut out[..];
        varint::encode(value, &mut rest);
        let left = rest.len();
        assert_eq!(out[..varint::MAX_LEN - left], bytes[..used]);
        assert_eq!(varint::encoded_len(value), used);
    }
}

/// As the value of field 1, and as the length of field 2.
fn check_proto_varint(bytes: &[u8]) {
    let mut message = [0; 1 + PROTO_MAX_LEN];
    let len = bytes.len().min(PROTO_MAX_LEN);
    message[1..=len].copy_from_slice(&bytes[..len]);

    let whole = by_definition(bytes, PROTO_MAX_LEN);
    let value = match whole {
        Some((value, _)) => u64::try_from(value).map_err(|_| ScanError::Varint),
        None if bytes.len() < PROTO_MAX_LEN => Err(ScanError::Truncated),
        None => Err(ScanError::Varint),
    };
    let read = |message: &[u8]| {
        Fields::new(message).next_field().map(|field| {
            let field = field.expect("the message is not empty");
            (field.number, held(field.value))
        })
    };
    message[0] = 1 << 3;
    assert_eq!(
        read(&message[..=len]),
        value.map(|value| (1, Read::Varint(value)))
    );

    message[0] = 2 << 3 | 2;
    let body = value.and_then(|value| {
        let used = whole.map_or(0, |(_, used)| used);
        // A length of up to 2^64 − 1 meets a position: the sum must not overflow.
        if value > (len - used) as u64 {
            return Err(ScanError::Truncated);
        }
        Ok((2, Read::Bytes(value as usize)))
    });
    assert_eq!(read(&message[..=len]), body);
}

/// What a field held, without borrowing it.
#[derive(Debug, PartialEq)]
enum Read {
    Varint(u64),
    Bytes(usize),
    Other,
}

fn held(value: Value<'_>) -> Read {
    match value {
        Value::Varint(value) => Read::Varint(value),
        Value::Bytes(bytes) => Read::Bytes(bytes.len()),
        _ => Read::Other,
    }
}
