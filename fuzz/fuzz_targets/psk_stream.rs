//! Key files of private networks, and the stream in whatever pieces.
#![no_main]

use arbitrary::Arbitrary;
use barewire_transport::pnet::{Psk, round_trip_for_testing_only};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    file: Vec<u8>,
    key: [u8; 32],
    nonce: [u8; 24],
    plain: Vec<u8>,
    pieces: Vec<u16>,
}

fuzz_target!(|input: Input| {
    let _ = Psk::parse(&input.file);
    // Whatever the key, it survives being written to a file.
    let hex: String = input.key.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = format!("/key/swarm/psk/1.0.0/\n/base16/\n{hex}\n");
    let psk = Psk::parse(file.as_bytes()).expect("a key file");
    let direct = Psk::from_bytes(input.key);
    let pieces: Vec<usize> = input.pieces.iter().map(|piece| usize::from(*piece)).collect();
    if pieces.is_empty() {
        return;
    }
    let back = round_trip_for_testing_only(&psk, input.nonce, &input.plain, &pieces);
    assert_eq!(back, input.plain);
    let back = round_trip_for_testing_only(&direct, input.nonce, &input.plain, &[1]);
    assert_eq!(back, input.plain);
});
