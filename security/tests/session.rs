//! The record layer: honest records in any shape, changed ones, and the end of the nonces.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::time::Instant;

use barewire_base::Fault;
use barewire_security::{MAX_PLAINTEXT, MAX_RECORD, OpenError, Opened, Opener, SealError, Sealer};
use bytes::BytesMut;
use common::sessions;
use proptest::prelude::*;

/// One direction of a connection.
fn direction(seed: u64) -> (Sealer, Opener) {
    let (a, b) = sessions(seed);
    (a.split().0, b.split().1)
}

fn seal(sealer: &mut Sealer, plaintext: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    sealer.seal([plaintext].into_iter(), &mut out).unwrap();
    out
}

#[test]
fn sizes() {
    let (mut sealer, mut opener) = direction(1);
    for length in [0, 1, 15, 16, 17, 63, 64, 65, 1024, 65_507, MAX_PLAINTEXT] {
        let plaintext: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let mut record = seal(&mut sealer, &plaintext);
        assert_eq!(record.len(), length + 18);
        assert!(record.len() <= MAX_RECORD);
        let opened = opener.open_in_place(&mut record).unwrap();
        assert_eq!(
            opened,
            Opened::Record {
                plaintext: 2..2 + length,
                consumed: length + 18
            }
        );
        assert_eq!(record[2..2 + length], plaintext);
    }
}

#[test]
fn a_record_too_long_leaves_all_as_it_was() {
    let (mut sealer, mut opener) = direction(2);
    let mut out = BytesMut::from(&b"before"[..]);
    let big = vec![0; MAX_PLAINTEXT];
    let error = sealer
        .seal([&big[..], b"x"].into_iter(), &mut out)
        .unwrap_err();
    assert_eq!(
        (error.clone(), error.fault()),
        (SealError::TooLong, Fault::Local)
    );
    assert_eq!(&out[..], b"before");
    sealer.seal([&b"fits"[..]].into_iter(), &mut out).unwrap();
    assert!(matches!(
        opener.open_in_place(&mut out[6..]),
        Ok(Opened::Record { .. })
    ));
}

#[test]
fn needs_more() {
    let (mut sealer, mut opener) = direction(3);
    let record = seal(&mut sealer, &[1; 100]);
    for have in 0..record.len() {
        let mut part = record[..have].to_vec();
        let total = (have >= 2).then_some(record.len());
        assert_eq!(
            opener.open_in_place(&mut part),
            Ok(Opened::NeedMore { total })
        );
        assert_eq!(part, record[..have], "an incomplete record is not touched");
    }
    assert!(matches!(
        opener.open_in_place(&mut record.clone()),
        Ok(Opened::Record { .. })
    ));
}

#[test]
fn every_bit_of_a_record_counts() {
    let (mut tried, mut opened) = (0, 0);
    let (a, _) = sessions(4);
    let record = seal(&mut a.split().0, b"a record of some length");
    for byte in 0..record.len() {
        let (_, b) = sessions(4);
        let mut opener = b.split().1;
        let mut changed = record.to_vec();
        changed[byte] ^= 0x10;
        tried += 1;
        match opener.open_in_place(&mut changed) {
            Ok(Opened::Record { .. }) => opened += 1,
            Ok(Opened::NeedMore { .. }) => assert!(byte < 2, "only a length can ask for more"),
            Ok(other) => panic!("Noise has no {other:?}"),
            Err(error) => {
                assert_eq!(error.fault(), Fault::Peer);
                // For good: the record as it was does not mend it.
                assert_eq!(opener.open_in_place(&mut record.to_vec()), Err(error));
            }
        }
    }
    println!("tampered records: {opened} of {tried} opened");
    assert_eq!(opened, 0);
}

#[test]
fn replayed_reordered_or_reflected() {
    let (a, b) = sessions(5);
    let ((mut seal_a, mut open_a), (_, mut open_b)) = (a.split(), b.split());
    let (first, second) = (seal(&mut seal_a, b"one"), seal(&mut seal_a, b"two"));
    open_b.open_in_place(&mut first.clone()).unwrap();
    assert_eq!(
        open_b.open_in_place(&mut first.clone()),
        Err(OpenError::Tampered)
    );

    let (_, mut opener) = direction(5);
    assert_eq!(
        opener.open_in_place(&mut second.clone()),
        Err(OpenError::Tampered)
    );
    assert_eq!(
        open_a.open_in_place(&mut first.clone()),
        Err(OpenError::Tampered),
        "its own record sent back"
    );
}

/// A length without room for a tag is refused as soon as it is there.
#[test]
fn shorter_than_a_tag() {
    for length in 0..16u16 {
        let (_, mut opener) = direction(6);
        assert_eq!(
            opener.open_in_place(&mut length.to_be_bytes()),
            Err(OpenError::TooShort)
        );
    }
}

#[test]
fn empty_records_are_legal_and_cheap() {
    const COUNT: usize = 1_000_000;
    let (mut sealer, mut opener) = direction(7);
    let started = Instant::now();
    let mut wire = BytesMut::new();
    let mut opened = 0;
    while opened < COUNT {
        wire.clear();
        for _ in 0..1000 {
            sealer.seal(std::iter::empty(), &mut wire).unwrap();
        }
        let mut at = 0;
        while let Opened::Record {
            plaintext,
            consumed,
        } = opener.open_in_place(&mut wire[at..]).unwrap()
        {
            assert!(plaintext.is_empty());
            at += consumed;
            opened += 1;
        }
        assert_eq!(at, wire.len());
    }
    let each = started.elapsed().as_nanos() / COUNT as u128;
    println!("{COUNT} empty records of 18 bytes sealed and opened, {each} ns each, nothing kept");
    let mut after = seal(&mut sealer, b"still here");
    assert!(matches!(
        opener.open_in_place(&mut after),
        Ok(Opened::Record { .. })
    ));
}

#[test]
fn the_nonce_ends() {
    let (mut sealer, mut opener) = direction(8);
    let end = u64::MAX;
    sealer.advance_nonce_for_testing_only(end - 2);
    opener.advance_nonce_for_testing_only(end - 2);
    // It only goes forward.
    sealer.advance_nonce_for_testing_only(0);
    opener.advance_nonce_for_testing_only(0);

    let mut records = Vec::new();
    for _ in 0..2 {
        let mut record = seal(&mut sealer, b"the same");
        records.push(record.clone());
        assert!(matches!(
            opener.open_in_place(&mut record),
            Ok(Opened::Record { .. })
        ));
    }
    assert_ne!(records[0], records[1], "no nonce is used twice");

    let mut out = BytesMut::from(&b"before"[..]);
    for _ in 0..3 {
        let error = sealer
            .seal([&b"more"[..]].into_iter(), &mut out)
            .unwrap_err();
        assert_eq!(
            (error.clone(), error.fault()),
            (SealError::NonceExhausted, Fault::Limit)
        );
        assert_eq!(&out[..], b"before");
        let error = opener.open_in_place(&mut records[1].clone()).unwrap_err();
        assert_eq!(
            (error.clone(), error.fault()),
            (OpenError::NonceExhausted, Fault::Limit)
        );
    }
    println!("nonce end: 2 records before it, 0 after it on either side");
}

/// A writer that keeps its buffer takes no memory per record.
#[test]
fn a_kept_buffer_stays_where_it_is() {
    let (mut sealer, _) = direction(9);
    let mut out = BytesMut::with_capacity(4 * MAX_RECORD);
    let (place, capacity) = (out.as_ptr(), out.capacity());
    let payload = vec![7; 65_507];
    for _ in 0..20 {
        for _ in 0..4 {
            sealer
                .seal([&[0; 12][..], &payload].into_iter(), &mut out)
                .unwrap();
        }
        assert_eq!((out.as_ptr(), out.capacity()), (place, capacity));
        out.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any gather lists, read back in pieces of any size, give the concatenation of all parts.
    #[test]
    fn any_parts_any_pieces(
        records in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6), 1..8),
        piece in 1usize..700,
    ) {
        let (mut sealer, mut opener) = direction(10);
        let mut wire = BytesMut::new();
        for parts in &records {
            sealer.seal(parts.iter().map(Vec::as_slice), &mut wire).unwrap();
        }
        let (mut read, mut got) = (Vec::new(), Vec::new());
        for piece in wire.chunks(piece) {
            read.extend_from_slice(piece);
            while let Opened::Record { plaintext, consumed } = opener.open_in_place(&mut read).unwrap() {
                got.extend_from_slice(&read[plaintext]);
                read.drain(..consumed);
            }
        }
        prop_assert!(read.is_empty());
        prop_assert_eq!(got, records.concat().concat());
    }
}
