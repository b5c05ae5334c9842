//! Key files of private networks, and the stream in whatever pieces, beside an XSalsa20 written from its specification.
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

/// The words of "expand 32-byte k".
const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let word = |at: usize| {
        bytes[4 * at..]
            .first_chunk()
            .map(|word| u32::from_le_bytes(*word))
    };
    std::array::from_fn(|at| word(at).expect("long enough"))
}

/// The state of D. J. Bernstein's "Salsa20 specification", section 8, before and after its twenty rounds.
fn salsa20(key: [u32; 8], input: [u32; 4]) -> ([u32; 16], [u32; 16]) {
    let [k0, k1, k2, k3, k4, k5, k6, k7] = key;
    let [n0, n1, n2, n3] = input;
    let [s0, s1, s2, s3] = SIGMA;
    let before = [
        s0, k0, k1, k2, k3, s1, n0, n1, n2, n3, s2, k4, k5, k6, k7, s3,
    ];
    let mut x = before;
    for round in 0..20 {
        for line in 0..4 {
            // Columns from the diagonal down, then rows from it to the right (section 4 and 5).
            let step = if round % 2 == 0 { 4 } else { 1 };
            let at = |n: usize| match step {
                4 => (5 * line + 4 * n) % 16,
                _ => 4 * line + (line + n) % 4,
            };
            for (n, shift) in [(1, 7), (2, 9), (3, 13), (4, 18)] {
                let sum = x[at(n - 1)].wrapping_add(x[at((n + 2) % 4)]);
                x[at(n % 4)] ^= sum.rotate_left(shift);
            }
        }
    }
    (before, x)
}

/// "Extending the Salsa20 nonce": a key made of the key and the first sixteen bytes of the nonce, then Salsa20 with the
/// rest of it.
fn xsalsa20(key: &[u8; 32], nonce: &[u8; 24], plain: &[u8]) -> Vec<u8> {
    let (_, x) = salsa20(words(key), words(nonce));
    let subkey = [x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9]];
    let [n0, n1] = words(&nonce[16..]);
    let mut out = Vec::with_capacity(plain.len());
    for (count, block) in (0u64..).zip(plain.chunks(64)) {
        let (before, after) = salsa20(subkey, [n0, n1, count as u32, (count >> 32) as u32]);
        let stream = before
            .iter()
            .zip(after)
            .flat_map(|(a, b)| a.wrapping_add(b).to_le_bytes());
        out.extend(
            block
                .iter()
                .zip(stream)
                .map(|(plain, stream)| plain ^ stream),
        );
    }
    out
}

fuzz_target!(|input: Input| {
    let _ = Psk::parse(&input.file);
    // Whatever the key, it survives being written to a file.
    let hex: String = input.key.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = format!("/key/swarm/psk/1.0.0/\n/base16/\n{hex}\n");
    let psk = Psk::parse(file.as_bytes()).expect("a key file");
    let direct = Psk::from_bytes(input.key);
    let pieces: Vec<usize> = input
        .pieces
        .iter()
        .map(|piece| usize::from(*piece))
        .collect();
    if pieces.is_empty() {
        return;
    }
    let expected = [
        &input.nonce[..],
        &xsalsa20(&input.key, &input.nonce, &input.plain),
    ]
    .concat();
    for (psk, pieces) in [(psk, &pieces[..]), (direct, &[1])] {
        let (sealed, back) = round_trip_for_testing_only(&psk, input.nonce, &input.plain, pieces);
        assert_eq!(back, input.plain);
        // The nonce leaves with the first byte.
        assert!(input.plain.is_empty() || sealed == expected);
    }
});
