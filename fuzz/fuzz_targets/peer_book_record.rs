//! Stored peers: arbitrary bytes as a file might hold them, and the message behind the checksum.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use barewire_base::{Keypair, PeerId};
use barewire_node::peer_book::{
    MAX_STORED, PeerEntry,
    record::{MAX_LEN, decode, decode_message, encode},
};
use libfuzzer_sys::fuzz_target;

static PEER: LazyLock<PeerId> = LazyLock::new(|| Keypair::from_seed(&[7; 32]).peer_id());

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A record as the file holds it.
    Stored(&'a [u8]),
    /// What is behind the checksum.
    Message(&'a [u8]),
    /// A good record with one damaged bit.
    Flipped { message: &'a [u8], bit: u16 },
}

fn check(entry: &PeerEntry) {
    assert!(entry.addrs.len() <= MAX_STORED);
    assert!(!entry.connected);
    let stored = encode(entry);
    if stored.len() <= MAX_LEN {
        assert_eq!(decode(&PEER, &stored).as_ref(), Ok(entry));
    }
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Stored(bytes) => {
        if let Ok(entry) = decode(&PEER, bytes) {
            check(&entry);
        }
    }
    Input::Message(message) => {
        if message.len() <= MAX_LEN
            && let Ok(entry) = decode_message(&PEER, message)
        {
            check(&entry);
        }
    }
    Input::Flipped { message, bit } => {
        if message.len() > MAX_LEN {
            return;
        }
        let Ok(entry) = decode_message(&PEER, message) else {
            return;
        };
        let mut stored = encode(&entry);
        let bit = usize::from(bit) % (8 * stored.len());
        stored[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&PEER, &stored).is_err());
    }
});
