//! Row 6: what a handshake payload makes our side allocate. One test in a binary of its own, because it counts every
//! allocation of the process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::alloc::System;

use barewire_base::Keypair;
use common::{Foreign, Node, YAMUX, extensions, field, payload, rng, sent, signed};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A handshake without extensions: keys, cipher states and the session.
const LITTLE: usize = 16 * 1024;

#[test]
fn a_payload_decodes_to_little_more_than_it_is() {
    let identity = Keypair::generate(&mut rng(1));
    let key = identity.public().to_protobuf();
    let mut node = Node::new(2);
    for (name, extensions) in [
        ("no extensions", Vec::new()),
        ("100 muxers", field(2, b"/aa").repeat(100)),
        ("13,000 muxers", field(2, b"/aa").repeat(13_000)),
        ("one long muxer", field(2, &[b'a'; 65_000])),
        ("32,000 certificate hashes", field(1, &[]).repeat(32_000)),
        ("32,000 unknown fields", [0x50, 1].repeat(32_000)),
        ("ours", extensions(&[YAMUX])),
    ] {
        let mut foreign = Foreign::new(true, 3);
        let signature = identity.sign(&signed(&foreign.static_public));
        let mut ours = node.answer();
        let first = foreign.write(&[]);
        ours.handle_input(&first).unwrap();
        foreign.read(&sent(&mut ours)).unwrap();
        let third = foreign.write(&payload(&key, &signature, &extensions));
        let region = Region::new(ALLOCATOR);
        ours.handle_input(&third).unwrap();
        let bytes = region.change().bytes_allocated;
        println!(
            "attack row 6: {name}, {} bytes: {bytes} allocated",
            third.len()
        );
        assert!(ours.is_finished());
        assert!(bytes <= 4 * third.len() + LITTLE, "{name}: {bytes}");
    }
}
