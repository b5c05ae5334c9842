//! The record layer as a list of operations: seal, deliver in pieces, change a byte, replay, and
//! jump to the end of the nonces. A model says which records may still open.
#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use barewire_base::Keypair;
use barewire_security::noise::{Config, Handshake};
use barewire_security::{MAX_PLAINTEXT, Opened, Opener, SealError, Sealer};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    let identity = Keypair::from_seed(&[7; 32]);
    let config = Config::new(&identity, Vec::new(), &mut StdRng::seed_from_u64(1));
    Arc::new(config.expect("a config"))
});

#[derive(Arbitrary, Debug)]
enum Op {
    /// One record of parts of these lengths.
    Seal(Vec<u16>),
    /// So many bytes more arrive.
    Deliver(u16),
    /// A byte on the wire changes.
    Tamper { at: u16, xor: u8 },
    /// The record sealed last is sent again.
    Replay,
    /// Both sides come near the end of the nonces.
    NearEnd(u8),
}

/// One direction of a connection.
fn direction() -> (Sealer, Opener) {
    let mut rng = StdRng::seed_from_u64(2);
    let mut initiator = Handshake::initiator(&CONFIG, None, &mut rng).expect("an initiator");
    let mut responder = Handshake::responder(&CONFIG, &mut rng).expect("a responder");
    let mut wire = BytesMut::new();
    for turn in 0..3 {
        let (from, to) = if turn % 2 == 0 {
            (&mut initiator, &mut responder)
        } else {
            (&mut responder, &mut initiator)
        };
        wire.clear();
        from.poll_transmit(&mut wire);
        to.handle_input(&wire).expect("an honest message");
    }
    let [initiator, responder] =
        [initiator, responder].map(|side| side.finish().expect("finished").session.split());
    (initiator.0, responder.1)
}

fuzz_target!(|ops: Vec<Op>| {
    let (mut sealer, mut opener) = direction();
    // Sealed and not delivered; delivered and not opened; and how many bytes came before the
    // latter.
    let (mut wire, mut read, mut consumed) = (BytesMut::new(), Vec::new(), 0);
    let mut last = BytesMut::new();
    let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
    // Nothing that ends behind this byte of the whole stream may open.
    let mut good_until = usize::MAX;
    let mut left = None;
    let mut fill = 0u8;

    for op in ops.into_iter().take(64) {
        match op {
            Op::Seal(lengths) => {
                fill = fill.wrapping_add(1);
                let parts: Vec<Vec<u8>> = lengths
                    .iter()
                    .take(8)
                    .map(|length| vec![fill; usize::from(*length)])
                    .collect();
                let plaintext = parts.concat();
                let before = wire.clone();
                match sealer.seal(parts.iter().map(Vec::as_slice), &mut wire) {
                    Ok(()) => {
                        last = BytesMut::from(&wire[before.len()..]);
                        assert_eq!(last.len(), plaintext.len() + 18);
                        expected.push_back(plaintext);
                        left = left.map(|left: u64| left - 1);
                    }
                    Err(error) => {
                        assert_eq!(wire, before, "a refused record leaves no trace");
                        match error {
                            SealError::TooLong => assert!(plaintext.len() > MAX_PLAINTEXT),
                            error => assert_eq!(
                                (error, left),
                                (SealError::NonceExhausted, Some(0)),
                                "only the end stops a sealer"
                            ),
                        }
                    }
                }
            }
            Op::Deliver(count) => {
                let count = usize::from(count).min(wire.len());
                read.extend_from_slice(&wire.split_to(count));
                loop {
                    match opener.open_in_place(&mut read) {
                        Ok(Opened::Record {
                            plaintext,
                            consumed: length,
                        }) => {
                            assert!(consumed + length <= good_until, "a changed record opened");
                            assert_eq!(expected.pop_front().as_deref(), Some(&read[plaintext]));
                            read.drain(..length);
                            consumed += length;
                        }
                        Ok(Opened::NeedMore { total }) => {
                            assert_eq!(total.is_some(), read.len() >= 2);
                            assert!(total.is_none_or(|total| total > read.len()));
                            break;
                        }
                        Ok(other) => panic!("Noise has no {other:?}"),
                        Err(error) => {
                            assert!(good_until < usize::MAX, "an honest record failed: {error}");
                            assert_eq!(opener.open_in_place(&mut read), Err(error));
                            return;
                        }
                    }
                }
            }
            Op::Tamper { at, xor } => {
                let at = usize::from(at) % wire.len().max(1);
                let position = consumed + read.len() + at;
                // Only before what is bad already, as a second change might undo the first.
                if xor != 0 && position < good_until && !wire.is_empty() {
                    wire[at] ^= xor;
                    good_until = position;
                }
            }
            Op::Replay => {
                if !last.is_empty() {
                    good_until = good_until.min(consumed + read.len() + wire.len());
                    wire.extend_from_slice(&last);
                }
            }
            Op::NearEnd(distance) => {
                // Only between records, so that both sides count the same.
                if wire.is_empty() && read.is_empty() && left.is_none() {
                    let nonce = u64::MAX - u64::from(distance);
                    sealer.advance_nonce_for_testing_only(nonce);
                    opener.advance_nonce_for_testing_only(nonce);
                    left = Some(u64::from(distance));
                }
            }
        }
    }
});
