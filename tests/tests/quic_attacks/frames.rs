//! Frames that no client may send.

use barewire_tests::{
    attack::rig::{Rig, Target},
    full,
};

use crate::client::{Client, PATIENCE};

/// Codes of RFC 9000, 20.1.
const FLOW_CONTROL_ERROR: u64 = 3;
const STREAM_LIMIT_ERROR: u64 = 4;
const STREAM_STATE_ERROR: u64 = 5;
const FINAL_SIZE_ERROR: u64 = 6;
const FRAME_ENCODING_ERROR: u64 = 7;
const PROTOCOL_VIOLATION: u64 = 0xa;
const CRYPTO_BUFFER_EXCEEDED: u64 = 0xd;

/// Frame types, RFC 9000, 19.
const ACK: u64 = 2;
const RESET_STREAM: u64 = 4;
const STOP_SENDING: u64 = 5;
const CRYPTO: u64 = 6;
const NEW_TOKEN: u64 = 7;
/// With an offset and a length, and with the end too.
pub(crate) const STREAM: u64 = 0x0e;
const STREAM_END: u64 = 0x0f;
const MAX_STREAM_DATA: u64 = 0x11;
const MAX_STREAMS: u64 = 0x12;
const STREAMS_BLOCKED: u64 = 0x16;
const NEW_CONNECTION_ID: u64 = 0x18;
const RETIRE_CONNECTION_ID: u64 = 0x19;
const HANDSHAKE_DONE: u64 = 0x1e;
const DATAGRAM: u64 = 0x31;

const MOST: u64 = (1 << 62) - 1;
/// A stream in both directions of the victim, which opens few.
const NEVER_OPENED: u64 = 4_001;

/// Numbers in the encoding of RFC 9000, 16.
pub(crate) fn numbers(all: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for number in all {
        match number {
            0..0x40 => out.push(*number as u8),
            0x40..0x4000 => out.extend((*number as u16 | 0x4000).to_be_bytes()),
            0x4000..0x4000_0000 => out.extend((*number as u32 | 0x8000_0000).to_be_bytes()),
            _ => out.extend((number | 0xc000_0000_0000_0000).to_be_bytes()),
        }
    }
    out
}

/// A new connection id of eight bytes, and its token.
pub(crate) fn new_connection_id(sequence: u64, retire_prior_to: u64) -> Vec<u8> {
    let mut frame = numbers(&[NEW_CONNECTION_ID, sequence, retire_prior_to, 8]);
    frame.extend(sequence.to_be_bytes());
    frame.extend([0x5a; 8]);
    frame.extend(sequence.to_be_bytes());
    frame
}

/// Frames by name, and the code that the connection is ended with.
fn cases() -> Vec<(&'static str, Vec<u8>, u64)> {
    let id_of = |length: u8| {
        let mut frame = numbers(&[NEW_CONNECTION_ID, 1, 0]);
        frame.push(length);
        frame.extend(vec![1; usize::from(length) + 16]);
        frame
    };
    vec![
        ("an unknown frame", numbers(&[0x3fff]), FRAME_ENCODING_ERROR),
        (
            "HANDSHAKE_DONE of a client",
            numbers(&[HANDSHAKE_DONE]),
            PROTOCOL_VIOLATION,
        ),
        (
            "NEW_TOKEN of a client",
            numbers(&[NEW_TOKEN, 1, 1]),
            PROTOCOL_VIOLATION,
        ),
        (
            "an acknowledgement of what was never sent",
            numbers(&[ACK, 1 << 29, 0, 0, 0]),
            PROTOCOL_VIOLATION,
        ),
        (
            "an acknowledgement of less than nothing",
            numbers(&[ACK, 1, 0, 0, 5]),
            FRAME_ENCODING_ERROR,
        ),
        (
            "RETIRE_CONNECTION_ID of one never issued",
            numbers(&[RETIRE_CONNECTION_ID, 1_000]),
            PROTOCOL_VIOLATION,
        ),
        (
            "NEW_CONNECTION_ID that retires itself",
            new_connection_id(1, 2),
            FRAME_ENCODING_ERROR,
        ),
        (
            "a connection id of no bytes",
            id_of(0),
            FRAME_ENCODING_ERROR,
        ),
        (
            "a connection id of 21 bytes",
            id_of(21),
            FRAME_ENCODING_ERROR,
        ),
        (
            "data on a stream of the victim's that it only sends on",
            numbers(&[STREAM, 3, 0, 1, 1]),
            STREAM_STATE_ERROR,
        ),
        (
            "data on a stream that the victim never opened",
            numbers(&[STREAM, NEVER_OPENED, 0, 1, 1]),
            STREAM_STATE_ERROR,
        ),
        (
            "a stream in one direction, of which none is allowed",
            numbers(&[STREAM, 2, 0, 1, 1]),
            STREAM_LIMIT_ERROR,
        ),
        (
            "MAX_STREAM_DATA for the stream 2^40",
            numbers(&[MAX_STREAM_DATA, 4 << 40, 1_000]),
            STREAM_LIMIT_ERROR,
        ),
        (
            "MAX_STREAM_DATA for a stream that the victim never opened",
            numbers(&[MAX_STREAM_DATA, NEVER_OPENED, 1_000]),
            STREAM_STATE_ERROR,
        ),
        (
            "STOP_SENDING for a stream that the victim never opened",
            numbers(&[STOP_SENDING, NEVER_OPENED, 0]),
            STREAM_STATE_ERROR,
        ),
        (
            "data beyond the window",
            numbers(&[STREAM, 0, 1 << 29, 1, 1]),
            FLOW_CONTROL_ERROR,
        ),
        (
            "data beyond 2^62 - 1",
            numbers(&[STREAM, 0, MOST, 1, 1]),
            FLOW_CONTROL_ERROR,
        ),
        (
            "data behind the end",
            [
                numbers(&[STREAM_END, 0, 0, 1, 1]),
                numbers(&[STREAM, 0, 5, 1, 1]),
            ]
            .concat(),
            FINAL_SIZE_ERROR,
        ),
        (
            "a reset below what was sent",
            [
                numbers(&[STREAM, 0, 0, 3, 1, 1, 1]),
                numbers(&[RESET_STREAM, 0, 0, 1]),
            ]
            .concat(),
            FINAL_SIZE_ERROR,
        ),
        (
            "MAX_STREAMS above 2^60",
            numbers(&[MAX_STREAMS, (1 << 60) + 1]),
            FRAME_ENCODING_ERROR,
        ),
        (
            "STREAMS_BLOCKED above 2^60",
            numbers(&[STREAMS_BLOCKED, (1 << 60) + 1]),
            FRAME_ENCODING_ERROR,
        ),
        (
            "data that is longer than its packet",
            numbers(&[STREAM, 0, 0, 0x3000]),
            FRAME_ENCODING_ERROR,
        ),
        (
            "a datagram, which nobody asked for",
            numbers(&[DATAGRAM, 1, 1]),
            PROTOCOL_VIOLATION,
        ),
        (
            "handshake data far ahead",
            numbers(&[CRYPTO, 1 << 20, 1, 1]),
            CRYPTO_BUFFER_EXCEEDED,
        ),
    ]
}

fn say(target: Target, frames: &[u8]) -> Option<u64> {
    let mut client = Client::connect(target);
    client.say_frames(frames.to_vec());
    if target.sink {
        return None;
    }
    client.until(PATIENCE, |client| client.lost.is_some());
    client.refusal()
}

/// Row 21: frames that break the rules of RFC 9000 inside a proper connection.
#[test]
fn bad_frames_end_the_connection() {
    let rounds = if full() { 20 } else { 1 };
    let rig = Rig::quic("row 21", "frames");
    let cases = cases();
    let mut wrong = Vec::new();
    for (name, frames, code) in &cases {
        for _ in 0..rounds {
            let ended = rig.strike(|target| say(target, frames));
            if ended != Some(*code) {
                wrong.push(format!("{name}: {ended:x?}, not {code:x}"));
            }
        }
        println!("row 21: {name}: ended with {code:#x}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    rig.standard(|target| {
        for (_, frames, _) in &cases {
            say(target, frames);
        }
    });
    rig.finish(Some("quic"));
}
