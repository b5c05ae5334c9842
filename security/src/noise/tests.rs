#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use bytes::BytesMut;
use serde_json::Value;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::resolver::{Resolver, StaticKey, X25519Pair};
use crate::{Opened, Session};

/// The published vectors for our pattern and primitives: one of cacophony, one of snow.
const VECTORS: &str = include_str!("../../tests/vectors/noise_xx_25519_chachapoly_sha256.json");

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn state(vector: &Value, side: &str) -> HandshakeState {
    let bytes: [u8; 32] = hex(&vector[format!("{side}_static")]).try_into().unwrap();
    let ephemeral: [u8; 32] = hex(&vector[format!("{side}_ephemeral")])
        .try_into()
        .unwrap();
    let pair = X25519Pair::from_private(&bytes).unwrap();
    let static_key = Arc::new(StaticKey {
        bytes: Zeroizing::new(bytes),
        pair,
    });
    let resolver = Resolver {
        static_key,
        ephemeral: Zeroizing::new(ephemeral),
    };
    let prologue = hex(&vector[format!("{side}_prologue")]);
    let builder = Builder::with_resolver(
        vector["protocol_name"].as_str().unwrap().parse().unwrap(),
        Box::new(resolver),
    )
    .local_private_key(&bytes)
    .unwrap()
    .prologue(&prologue)
    .unwrap();
    if side == "init" {
        builder.build_initiator().unwrap()
    } else {
        builder.build_responder().unwrap()
    }
}

/// The resolver, the split and the record layer give the published bytes, read and written.
#[test]
fn published_vectors() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    let mut messages = 0;
    for vector in vectors {
        let mut sides = [state(vector, "init"), state(vector, "resp")];
        let (handshake, records) = vector["messages"].as_array().unwrap().split_at(3);
        for (index, message) in handshake.iter().enumerate() {
            let (payload, ciphertext) = (hex(&message["payload"]), hex(&message["ciphertext"]));
            let mut buffer = [0; 1024];
            let written = sides[index % 2]
                .write_message(&payload, &mut buffer)
                .unwrap();
            assert_eq!(buffer[..written], ciphertext);
            let read = sides[1 - index % 2]
                .read_message(&ciphertext, &mut buffer)
                .unwrap();
            assert_eq!(buffer[..read], payload);
            messages += 1;
        }
        if let Some(hash) = vector.get("handshake_hash") {
            assert_eq!(sides[0].get_handshake_hash(), hex(hash));
            assert_eq!(sides[1].get_handshake_hash(), hex(hash));
        }
        let [(mut seal_i, mut open_i), (mut seal_r, mut open_r)] = [0, 1].map(|side| {
            let (forth, back) = sides[side].dangerously_get_raw_split();
            let (ours, theirs) = if side == 0 {
                (forth, back)
            } else {
                (back, forth)
            };
            Session::noise(&Zeroizing::new(ours), &Zeroizing::new(theirs))
                .unwrap()
                .split()
        });
        // The handshake ended with the initiator's message, so that the responder goes on.
        for (index, message) in records.iter().enumerate() {
            let (payload, ciphertext) = (hex(&message["payload"]), hex(&message["ciphertext"]));
            let (sealer, opener) = if index % 2 == 0 {
                (&mut seal_r, &mut open_i)
            } else {
                (&mut seal_i, &mut open_r)
            };
            let mut record = BytesMut::new();
            sealer
                .seal([payload.as_slice()].into_iter(), &mut record)
                .unwrap();
            assert_eq!(record[2..], ciphertext);
            let Opened::Record { plaintext, .. } = opener.open_in_place(&mut record).unwrap()
            else {
                unreachable!()
            };
            assert_eq!(record[plaintext], payload);
            messages += 1;
        }
    }
    println!(
        "{messages} messages of {} vectors, byte for byte",
        vectors.len()
    );
}
