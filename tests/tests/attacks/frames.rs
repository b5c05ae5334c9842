//! Frames and records that break the protocol.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::{
    attacker::{ACK, Attacker, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW, data, header, propose},
    full,
    rig::{Rig, Target},
    within,
};

/// Whether `frames` ends in a go-away with `code`.
fn says_go_away(frames: &[u8], code: u32) -> bool {
    frames.ends_with(&header(0, GO_AWAY, 0, 0, code))
}

/// What ends a connection, by name.
fn violations() -> [(&'static str, Vec<u8>); 12] {
    let big = vec![0; 262_145];
    [
        (
            "window raised past 2^32",
            [
                header(0, WINDOW, SYN, 1, 0),
                header(0, WINDOW, 0, 1, 0xffff_0000),
            ]
            .concat(),
        ),
        ("data with SYN beyond the credit", data(SYN, 1, &big)),
        (
            "an even id from the client",
            header(0, WINDOW, SYN, 2, 0).to_vec(),
        ),
        ("id 0", header(0, WINDOW, SYN, 0, 0).to_vec()),
        (
            "a used id",
            [
                header(0, WINDOW, SYN, 1, 0),
                header(0, WINDOW, RST, 1, 0),
                header(0, WINDOW, SYN, 1, 0),
            ]
            .concat(),
        ),
        ("version 1", header(1, WINDOW, SYN, 1, 0).to_vec()),
        ("type 4", header(0, 4, 0, 1, 0).to_vec()),
        (
            "a frame beyond 1 MiB",
            header(0, DATA, SYN, 1, 0xffff_ffff).to_vec(),
        ),
        (
            "data beyond the window",
            [header(0, WINDOW, SYN, 1, 0), header(0, DATA, 0, 1, 262_145)].concat(),
        ),
        (
            "a ping with a stream id",
            header(0, PING, SYN, 1, 7).to_vec(),
        ),
        (
            "a go-away with a stream id",
            header(0, GO_AWAY, 0, 1, 0).to_vec(),
        ),
        (
            "undefined flags",
            header(0, WINDOW, 0x8000 | SYN, 1, 0).to_vec(),
        ),
    ]
}

/// Sends `frames`; what came back, and how long until the end.
fn violate(target: Target, frames: &[u8]) -> (Vec<u8>, Duration) {
    let mut attacker = Attacker::secure(target);
    // The victim may close before it has taken everything.
    attacker.send(frames).ok();
    attacker.drain()
}

/// Row 28: the violations, and those that all implementations tolerate.
#[test]
fn violations_end_the_connection_with_go_away() {
    let rig = Rig::start("row 28", "violations");
    let cases = violations();
    for (name, frames) in &cases {
        let (answer, took) = rig.strike(|target| violate(target, frames));
        let polite = says_go_away(&answer, 1);
        println!("row 28: {name}: go-away 1 {polite}, closed after {took:.1?}");
        assert!(polite, "{name}: no go-away");
        within(name, took, Duration::from_secs(2));
    }
    println!("row 28: {0}/{0} closed", cases.len());
    rig.standard(|target| {
        for (_, frames) in &cases {
            violate(target, frames);
        }
    });
    rig.finish(Some("muxer"));
}

/// Row 28: a violation in one record with the proposal of the muxer, and silence: nothing more comes that could wake
/// whoever reads it.
#[test]
fn a_violation_beside_the_proposal_ends_the_connection() {
    let rig = Rig::start("row 28", "beside");
    let strike = |target| {
        let mut attacker = Attacker::secure_with(target, Vec::new());
        let bad = header(0, 4, SYN, 1, 0);
        let record = [propose("/yamux/1.0.0"), bad.to_vec()].concat();
        attacker.send(&record).unwrap();
        attacker.drain()
    };
    let (answer, took) = rig.strike(strike);
    let polite = says_go_away(&answer, 1);
    println!(
        "row 28: a violation beside the proposal: go-away 1 {polite}, closed after {took:.1?}"
    );
    assert!(polite, "no go-away");
    within("closed", took, Duration::from_secs(2));
    rig.standard(strike);
    rig.finish(Some("muxer"));
}

/// Row 28, lenient side: what go, rust and js ignore is ignored.
#[test]
fn frames_of_unknown_streams_are_ignored() {
    let rig = Rig::start("row 28", "lenient");
    let mut frames = Vec::new();
    frames.extend_from_slice(&data(0, 77, b"late data"));
    frames.extend_from_slice(&header(0, WINDOW, 0, 79, 1024));
    frames.extend_from_slice(&header(0, WINDOW, RST, 81, 5));
    frames.extend_from_slice(&header(0, WINDOW, FIN, 83, 0));
    // An unsolicited pong, then a ping that must still be answered, once.
    frames.extend_from_slice(&header(0, PING, ACK, 0, 9));
    frames.extend_from_slice(&header(0, PING, SYN, 0, 0xabcd));
    let record = rig.strike(|target| {
        let mut attacker = Attacker::secure(target);
        attacker.send(&frames).unwrap();
        attacker.receive().expect("the connection lives")
    });
    assert_eq!(record, header(0, PING, ACK, 0, 0xabcd));
    rig.finish(None);
}

/// Sends empty records at line rate; how many went, and how long until the end.
fn empty_records(target: Target, count: usize) -> (usize, Duration) {
    let mut attacker = Attacker::secure(target);
    let begun = Instant::now();
    let mut sent = 0;
    while sent < count {
        let mut batch = BytesMut::new();
        for _ in 0..1_000 {
            attacker.seal_empty(&mut batch);
        }
        if attacker.socket.write_all(&batch).is_err() {
            break;
        }
        sent += 1_000;
    }
    attacker.drain();
    (sent, begun.elapsed())
}

/// Row 11: records without plaintext at line rate, and damaged ones.
#[test]
fn empty_and_damaged_records_end_the_connection() {
    let count = if full() { 1_000_000 } else { 200_000 };
    let rig = Rig::start("row 11", "records");
    let cpu = rig.victim.cpu();
    let (sent, took) = rig.strike(|target| empty_records(target, count));
    let cpu = rig.victim.cpu() - cpu;
    println!(
        "row 11: closed after {sent} of {count} empty records and {took:.1?}, {cpu:.1?} of processor time"
    );
    within("closed", took, Duration::from_secs(2));
    for damage in [0usize, 2, 20] {
        rig.strike(|target| {
            let mut attacker = Attacker::secure(target);
            let mut record = attacker.seal(&header(0, PING, SYN, 0, 1));
            let last = record.len() - 1;
            record[if damage == 0 { last } else { damage }] ^= 1;
            attacker.socket.write_all(&record).unwrap();
            let (answer, took) = attacker.drain();
            within("closed", took, Duration::from_secs(2));
            assert!(
                !answer.ends_with(&header(0, PING, ACK, 0, 1)),
                "it was answered"
            );
        });
    }
    println!("row 11: 3 of 3 damaged records closed");
    rig.standard(|target| empty_records(target, count));
    rig.finish(Some("record"));
}

/// Sends frames of one byte on a stream that is read; what came back until the pong behind them.
fn tiny_frames(target: Target, payload: u32) -> Vec<u8> {
    let mut attacker = Attacker::secure(target);
    let proposal = propose("/perf/1.0.0");
    // perf reads and drops, so that credit is granted.
    let mut frames = data(SYN, 1, &[proposal, vec![0; 8]].concat());
    for _ in 0..payload {
        frames.extend_from_slice(&data(0, 1, &[1]));
    }
    frames.extend_from_slice(&header(0, WINDOW, FIN, 1, 0));
    frames.extend_from_slice(&header(0, PING, SYN, 0, 0x77));
    let sealed = attacker.seal(&frames);
    let mut writer = attacker.socket.try_clone().unwrap();
    // Credit is 256 KiB at first, so the tail waits for nothing but the socket.
    let sending = std::thread::spawn(move || writer.write_all(&sealed));
    let mut answer = Vec::new();
    let pong = header(0, PING, ACK, 0, 0x77);
    while !answer.windows(12).any(|frame| frame == pong) {
        let Some(record) = attacker.receive() else {
            break;
        };
        answer.extend_from_slice(&record);
    }
    sending.join().unwrap().ok();
    answer
}

/// Row 35: one byte a frame does not make the victim talk.
#[test]
fn tiny_frames_are_not_amplified() {
    let payload = 600_000u32;
    let rig = Rig::start("row 35", "tiny");
    let answer = rig.strike(|target| tiny_frames(target, payload));
    let updates = answer
        .windows(12)
        .filter(|frame| frame[..4] == [0, WINDOW, 0, 0] && frame[4..8] == [0, 0, 0, 1])
        .count();
    println!(
        "row 35: {payload} frames of one byte: {updates} window updates, one for {} bytes",
        payload as usize / updates.max(1)
    );
    assert!(updates as u32 <= payload / (32 * 1024) + 1, "{updates}");
    rig.standard(|target| tiny_frames(target, payload / 10));
    // Nothing of this is against the protocol.
    rig.finish(None);
}
