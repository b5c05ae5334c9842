#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use proptest::prelude::*;

use super::*;

const LIMITS: ScanLimits = ScanLimits {
    max_fields: 8,
    max_depth: 2,
};

#[test]
fn sound_messages_pass() {
    for message in [
        &b""[..],
        b"\x08\x01",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        // Not minimal, as protobuf allows: the value, the tag, the length.
        b"\x08\x81\x80\x80\x00",
        b"\x88\x80\x00\x01",
        b"\x12\x82\x00ab",
        b"\x12\x00",
        b"\x0d1234\x0912345678",
        // Duplicates and another order than the numbers'.
        b"\x12\x01a\x08\x01\x12\x01b\x08\x02",
        b"\x0b\x13\x08\x01\x14\x0c",
        b"\xf8\xff\xff\xff\x0f\x00",
    ] {
        assert_eq!(scan(message, &LIMITS), Ok(()), "{message:02x?}");
    }
}

#[test]
fn unsound_messages_have_a_reason() {
    for (message, error) in [
        (&b"\x08"[..], ScanError::Truncated),
        (b"\x08\x80", ScanError::Truncated),
        (b"\x80", ScanError::Truncated),
        (b"\x12\x05abcd", ScanError::Truncated),
        (
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            ScanError::Truncated,
        ),
        (b"\x0d123", ScanError::Truncated),
        (b"\x091234567", ScanError::Truncated),
        (
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            ScanError::Varint,
        ),
        (
            b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
            ScanError::Varint,
        ),
        (b"\x00\x00", ScanError::FieldNumber),
        (b"\x80\x80\x80\x80\x10\x00", ScanError::FieldNumber),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            ScanError::FieldNumber,
        ),
        (b"\x0e", ScanError::WireType),
        (b"\x0f", ScanError::WireType),
        (b"\x0b", ScanError::Group),
        (b"\x0c", ScanError::Group),
        (b"\x0b\x14", ScanError::Group),
        (b"\x0b\x0b\x0b", ScanError::TooDeep(2)),
        (&[0x12, 0].repeat(9), ScanError::TooManyFields(8)),
    ] {
        assert_eq!(scan(message, &LIMITS), Err(error), "{message:02x?}");
        assert_eq!(error.fault(), Fault::Peer);
    }
}

/// One mebibyte of each thing that makes a decoder allocate, nest or loop.
#[test]
fn hostile_messages_are_scanned_fast() {
    const SIZE: usize = 1 << 20;
    let limits = ScanLimits {
        max_fields: 1000,
        max_depth: 32,
    };
    for (name, message, expected) in [
        (
            "empty repeated fields",
            [0x12, 0].repeat(SIZE / 2),
            Err(ScanError::TooManyFields(1000)),
        ),
        (
            "nested groups",
            vec![0x1b; SIZE],
            Err(ScanError::TooDeep(32)),
        ),
        (
            "groups one after another",
            [0x1b, 0x1c].repeat(SIZE / 2),
            Err(ScanError::TooManyFields(1000)),
        ),
        (
            "one long field",
            [&[0x12, 0x80, 0x80, 0x40][..], &vec![0; SIZE]].concat(),
            Ok(()),
        ),
        ("endless varint", vec![0xff; SIZE], Err(ScanError::Varint)),
    ] {
        let start = Instant::now();
        assert_eq!(scan(&message, &limits), expected, "{name}");
        println!("attack row 6: 1 MiB of {name}: {:?}", start.elapsed());
    }
    // The whole mebibyte, when a caller allows that many fields.
    let all = ScanLimits {
        max_fields: SIZE,
        max_depth: 32,
    };
    let start = Instant::now();
    assert_eq!(scan(&[0x12, 0].repeat(SIZE / 2), &all), Ok(()));
    println!(
        "attack row 6: half a million fields scanned to the end: {:?}",
        start.elapsed()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        fields in proptest::collection::vec(
            (1u32..1 << 29, prop_oneof![
                any::<u64>().prop_map(Ok),
                proptest::collection::vec(any::<u8>(), 0..20).prop_map(Err),
            ]),
            0..8,
        ),
    ) {
        let mut message = Vec::new();
        for (number, value) in &fields {
            match value {
                Ok(value) => put_varint_field(*number, *value, &mut message),
                Err(value) => put_bytes_field(*number, value, &mut message),
            }
        }
        prop_assert_eq!(scan(&message, &LIMITS), Ok(()));
        let mut reader = Fields::new(&message);
        for (number, value) in &fields {
            let value = match value {
                Ok(value) => Value::Varint(*value),
                Err(value) => Value::Bytes(value),
            };
            prop_assert_eq!(reader.next_field().unwrap(), Some(Field { number: *number, value }));
        }
        prop_assert_eq!(reader.next_field().unwrap(), None);
    }

    /// What the scan lets pass, it has bounded; prost then decodes or refuses, but never more
    /// fields than were counted.
    #[test]
    fn a_scan_never_panics(message in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = scan(&message, &LIMITS);
    }
}
