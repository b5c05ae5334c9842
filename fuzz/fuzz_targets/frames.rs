//! Length-prefixed framing and the protobuf scan on arbitrary bytes in arbitrary pieces.
#![no_main]

use barewire_base::{
    framing::{FramingError, LengthPrefixedDecoder, encode_prefixed},
    proto::{self, ScanLimits},
    varint,
};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>, u16, bool)| {
    let (bytes, cuts, max_len, eager) = input;
    check_frames(&bytes, &cuts, usize::from(max_len), eager);
    let limits = ScanLimits {
        max_fields: 64,
        max_depth: 4,
    };
    let _ = proto::scan(&bytes, &limits);
});

/// The decoder fed in pieces must return what a reader of the whole input returns.
fn check_frames(bytes: &[u8], cuts: &[u8], max_len: usize, eager: bool) {
    let mut expected = Vec::new();
    let mut failure: Option<FramingError> = None;
    let mut rest = bytes;
    loop {
        match varint::decode(rest) {
            Ok(None) => break,
            Err(error) => {
                failure = Some(error.into());
                break;
            }
            Ok(Some((len, used))) => {
                if len > max_len as u64 {
                    failure = Some(FramingError::TooLong { len, max: max_len });
                    break;
                }
                let Some(body) = rest[used..].get(..len as usize) else {
                    break;
                };
                expected.push(body.to_vec());
                rest = &rest[used + len as usize..];
            }
        }
    }

    let mut decoder = LengthPrefixedDecoder::new(max_len);
    let mut got = Vec::new();
    let mut outcome = Ok(());
    let mut rest = bytes;
    let mut cuts = cuts.iter();
    while !rest.is_empty() && outcome.is_ok() {
        let cut = cuts
            .next()
            .map_or(rest.len(), |cut| usize::from(*cut))
            .min(rest.len());
        let (head, tail) = rest.split_at(cut);
        rest = tail;
        decoder.push(Bytes::copy_from_slice(head));
        if eager || rest.is_empty() {
            outcome = drain(&mut decoder, &mut got);
        }
    }
    assert_eq!(got, expected);
    assert_eq!(outcome.err(), failure);
    if let Some(failure) = failure {
        assert_eq!(decoder.next(), Err(failure));
        return;
    }
    let mut encoded = BytesMut::new();
    for body in &got {
        encode_prefixed(body, &mut encoded);
    }
    assert!(bytes.starts_with(&encoded));
    assert_eq!(
        decoder.buffered(),
        bytes.len() - encoded.len() - unread_prefix(bytes, &encoded)
    );
}

/// A prefix that was read whole is no longer buffered.
fn unread_prefix(bytes: &[u8], consumed: &[u8]) -> usize {
    match varint::decode(&bytes[consumed.len()..]) {
        Ok(Some((_, used))) => used,
        _ => 0,
    }
}

fn drain(decoder: &mut LengthPrefixedDecoder, got: &mut Vec<Vec<u8>>) -> Result<(), FramingError> {
    while let Some(body) = decoder.next()? {
        got.push(body.to_vec());
    }
    Ok(())
}
