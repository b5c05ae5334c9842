//! The record layer of TLS as a list of operations: seal, change keys, deliver in pieces, change a
//! byte, come near the limit of a key, end. What is opened is always a beginning of what was sealed.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use barewire_base::Keypair;
use barewire_security::tls::{Config, Handshake};
use barewire_security::{MAX_PLAINTEXT, Opened, Opener, Sealer};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let identity = Keypair::from_seed(&[7; 32]);
    Config::new(&identity, Vec::new(), &mut StdRng::seed_from_u64(1)).expect("a config")
});

#[derive(Arbitrary, Debug)]
enum Op {
    /// One gather list of parts of these lengths.
    Seal(Vec<u16>),
    /// The keys change, and the other side is asked for new ones.
    Update,
    /// So many bytes more arrive.
    Deliver(u16),
    /// A byte on the wire changes.
    Tamper { at: u16, xor: u8 },
    /// The key has so few records left.
    NearLimit(u8),
    /// Nothing follows.
    End,
}

/// One direction of a connection.
fn direction() -> (Sealer, Opener) {
    let mut client = Handshake::client(&CONFIG, None).expect("a client");
    let mut server = Handshake::server(&CONFIG).expect("a server");
    let mut wire = BytesMut::new();
    for turn in 0..3 {
        let (from, to) = if turn % 2 == 0 {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        wire.clear();
        from.poll_transmit(&mut wire);
        let taken = to.handle_input(&mut wire).expect("an honest flight");
        assert_eq!(taken, wire.len());
    }
    let [client, server] =
        [client, server].map(|side| side.finish().expect("finished").session.split());
    (client.0, server.1)
}

fuzz_target!(|ops: Vec<Op>| {
    let (mut sealer, mut opener) = direction();
    let (mut wire, mut read) = (BytesMut::new(), Vec::new());
    // Everything sealed, how much of it was opened, and whether the wire was changed or ended.
    let (mut sealed, mut opened) = (Vec::new(), 0);
    let (mut tampered, mut ended, mut fill) = (false, false, 0_u8);
    for op in ops.into_iter().take(48) {
        match op {
            Op::Seal(lengths) if !ended => {
                let mut parts = Vec::new();
                for length in lengths.into_iter().take(6) {
                    fill = fill.wrapping_add(1);
                    parts.push(vec![fill; usize::from(length)]);
                }
                let plaintext = parts.concat();
                let (before, promised) = (wire.len(), sealer.sealed_len(plaintext.len()));
                let result = sealer.seal(parts.iter().map(Vec::as_slice), &mut wire);
                assert_eq!(result.is_ok(), plaintext.len() <= MAX_PLAINTEXT);
                if result.is_ok() {
                    assert!(wire.len() - before <= promised);
                    sealed.extend(plaintext);
                } else {
                    assert_eq!(wire.len(), before, "a refused list leaves no trace");
                }
            }
            Op::Update if !ended => sealer
                .update_keys_for_testing_only(&mut wire)
                .expect("new keys"),
            Op::NearLimit(left) if wire.is_empty() && read.is_empty() && !ended => {
                let sequence = (1 << 24) - u64::from(left);
                sealer.advance_nonce_for_testing_only(sequence);
                opener.advance_nonce_for_testing_only(sequence);
            }
            Op::Tamper { at, xor } if !wire.is_empty() && xor != 0 && !tampered => {
                let at = usize::from(at) % wire.len();
                wire[at] ^= xor;
                tampered = true;
            }
            Op::End if !ended => {
                sealer.end(None, &mut wire);
                ended = true;
            }
            Op::Deliver(count) => {
                let count = usize::from(count).min(wire.len());
                read.extend_from_slice(&wire.split_to(count));
                loop {
                    match opener.open_in_place(&mut read) {
                        Ok(Opened::Record {
                            plaintext,
                            consumed,
                        }) => {
                            let end = opened + plaintext.len();
                            assert_eq!(sealed.get(opened..end), Some(&read[plaintext]));
                            opened = end;
                            read.drain(..consumed);
                        }
                        Ok(Opened::KeyUpdate { consumed }) => drop(read.drain(..consumed)),
                        Ok(Opened::NeedMore { total }) => {
                            assert!(total.is_none_or(|total| total > read.len()));
                            break;
                        }
                        Ok(Opened::Closed) => {
                            assert!(ended && opened == sealed.len());
                            return;
                        }
                        Err(error) => {
                            assert!(tampered, "an honest record failed: {error}");
                            assert_eq!(opener.open_in_place(&mut read), Err(error));
                            return;
                        }
                    }
                }
            }
            _ => {}
        }
    }
});
