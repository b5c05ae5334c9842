//! Row 6: what an identify message makes its reader allocate. One test in a binary of its own, because it counts every
//! allocation of the process.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;

use barewire_base::{framing::encode_prefixed, peer_record::PeerRecord};
use barewire_node::{
    Keypair, Multiaddr,
    protocols::identify::{MAX_TOTAL, Reader},
};
use bytes::{Bytes, BytesMut};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What little bytes may decode to: 128 protocols and as many addresses at their shortest.
const LITTLE: usize = 40 * 1024;

/// A message of one field, repeated as often as it fits, at most `count` times.
fn fields(field: &[u8], count: usize) -> Bytes {
    let mut out = BytesMut::new();
    let count = count.min((MAX_TOTAL - 2) / field.len().max(1));
    encode_prefixed(&field.repeat(count), &mut out);
    out.freeze()
}

#[test]
fn a_message_decodes_to_little_more_than_it_is() {
    let keypair = Keypair::from_seed(&[7; 32]);
    let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
    let record = PeerRecord {
        peer_id: keypair.peer_id(),
        seq: 1,
        addrs: vec![address; 200],
    };
    let record = record.sign(&keypair).unwrap();
    let mut signed = BytesMut::from(&[0x42][..]);
    barewire_base::varint::encode(record.len() as u64, &mut signed);
    signed.extend_from_slice(&record);
    for (name, message) in [
        ("nothing", fields(b"", 0)),
        ("empty addresses", fields(b"\x12\x00", usize::MAX)),
        (
            "addresses of two bytes",
            fields(b"\x12\x02\xdd\x03", usize::MAX),
        ),
        ("128 protocols of a byte", fields(b"\x1a\x01/", 128)),
        ("unknown fields", fields(b"\x50\x01", usize::MAX)),
        ("agents", fields(b"\x32\x04test", usize::MAX)),
        ("a signed record", fields(&signed, 1)),
        ("signed records", fields(&signed, usize::MAX)),
    ] {
        let region = Region::new(ALLOCATOR);
        let mut reader = Reader::default();
        reader.push(message.clone()).unwrap();
        let info = reader.finish(keypair.public()).unwrap();
        let bytes = region.change().bytes_allocated;
        drop(info);
        let wire = message.len();
        println!("attack row 6: {name}, {wire} bytes: {bytes} allocated");
        assert!(bytes <= 4 * wire + LITTLE, "{name}: {bytes}");
    }
}
