//! Multiformats unsigned varints: LEB128, minimal, at most nine bytes.
//!
//! Varints *inside protobuf* obey other rules (ten bytes, not necessarily minimal) and are read by
//! [`proto`](crate::proto).

use bytes::BufMut;

/// Most bytes a multiformats varint may take.
pub const MAX_LEN: usize = 9;

/// Largest value a multiformats varint may carry, 2⁶³ − 1.
pub const MAX_VALUE: u64 = u64::MAX >> 1;

/// Why bytes are not a multiformats varint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VarintError {
    /// The ninth byte still announces another one.
    #[error("the varint is longer than nine bytes")]
    TooLong,
    /// The last byte is zero, so a shorter encoding of the same value exists.
    #[error("the varint is not minimal")]
    NotMinimal,
}

/// Appends `value`. Values above [`MAX_VALUE`] take ten bytes, as protobuf wants them; [`decode`]
/// refuses those.
#[inline]
pub fn encode(mut value: u64, out: &mut impl BufMut) {
    if value < 0x80 {
        out.put_u8(value as u8);
        return;
    }
    let mut bytes = [0u8; 10];
    let mut len = 0;
    for slot in &mut bytes {
        *slot = (value & 0x7f) as u8;
        value >>= 7;
        len += 1;
        if value == 0 {
            break;
        }
        *slot |= 0x80;
    }
    out.put_slice(&bytes[..len]);
}

/// Bytes [`encode`] appends for `value`: 1 to 10.
#[inline]
#[must_use]
pub const fn encoded_len(value: u64) -> usize {
    // 64 − leading zeros = significant bits, seven of them a byte, one byte for zero.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads a varint from the front of `input`: the value and the bytes it took, or `None` when
/// `input` ends inside it.
///
/// # Errors
/// [`VarintError`] as soon as the bytes seen cannot become a valid varint.
#[inline]
pub fn decode(input: &[u8]) -> Result<Option<(u64, usize)>, VarintError> {
    let mut value = 0u64;
    for (index, &byte) in input.iter().take(MAX_LEN).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(VarintError::NotMinimal);
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() >= MAX_LEN {
        return Err(VarintError::TooLong);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    /// Decodes by the definition: collects groups until a byte without the high bit.
    fn reference(input: &[u8]) -> Result<Option<(u64, usize)>, VarintError> {
        let Some(end) = input.iter().position(|byte| byte & 0x80 == 0) else {
            return if input.len() >= 9 {
                Err(VarintError::TooLong)
            } else {
                Ok(None)
            };
        };
        if end >= 9 {
            return Err(VarintError::TooLong);
        }
        if end > 0 && input[end] == 0 {
            return Err(VarintError::NotMinimal);
        }
        let value = input[..=end]
            .iter()
            .rev()
            .fold(0u128, |value, byte| (value << 7) | u128::from(byte & 0x7f));
        Ok(Some((u64::try_from(value).unwrap(), end + 1)))
    }

    #[test]
    fn known_values() {
        for (value, bytes) in [
            (0u64, &[0u8][..]),
            (1, &[1]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (255, &[0xff, 1]),
            (300, &[0xac, 2]),
            (16384, &[0x80, 0x80, 1]),
            (
                MAX_VALUE,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            ),
        ] {
            let mut out = Vec::new();
            encode(value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(encoded_len(value), bytes.len());
            assert_eq!(decode(bytes), Ok(Some((value, bytes.len()))));
        }
        let mut out = Vec::new();
        encode(u64::MAX, &mut out);
        assert_eq!(out.len(), 10);
        assert_eq!(encoded_len(u64::MAX), 10);
        assert_eq!(decode(&out), Err(VarintError::TooLong));
    }

    #[test]
    fn every_string_of_one_and_two_bytes() {
        for first in 0..=255u8 {
            assert_eq!(decode(&[first]), reference(&[first]));
            for second in 0..=255u8 {
                assert_eq!(decode(&[first, second]), reference(&[first, second]));
            }
        }
    }

    /// Strings whose bytes mostly continue, so that every length of 1 to 11 bytes is reached.
    fn long_varint() -> impl Strategy<Value = Vec<u8>> {
        (
            proptest::collection::vec(0x80u8..=0xff, 0..=10),
            any::<u8>(),
        )
            .prop_map(|(mut bytes, last)| {
                bytes.push(last);
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_definition(input in prop_oneof![
            long_varint(),
            proptest::collection::vec(any::<u8>(), 1..=11),
        ]) {
            prop_assert_eq!(decode(&input), reference(&input));
        }

        #[test]
        fn round_trip(value in 0..=MAX_VALUE, shift in 0u32..63) {
            let value = value >> shift;
            let mut out = Vec::new();
            encode(value, &mut out);
            prop_assert_eq!(out.len(), encoded_len(value));
            prop_assert_eq!(decode(&out), Ok(Some((value, out.len()))));
            for end in 0..out.len() {
                prop_assert_eq!(decode(&out[..end]), Ok(None));
            }
        }
    }
}
