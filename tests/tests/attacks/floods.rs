//! Floods of streams, resets and pings.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use crate::{
    attacker::{Attacker, DATA, PING, RST, SYN, WINDOW, data, header, propose},
    full,
    rig::{Rig, Target},
    within,
};

/// Opens and resets streams; how many pairs went, and how long until the end.
fn rapid_reset(target: Target, pairs: u32) -> (u32, Duration) {
    let mut attacker = Attacker::secure(target);
    let begun = Instant::now();
    let mut sent = 0;
    for batch in 0..pairs / 2_000 {
        let mut frames = Vec::with_capacity(48_000);
        for pair in 0..2_000 {
            let id = 1 + 2 * (batch * 2_000 + pair);
            frames.extend_from_slice(&header(0, WINDOW, SYN, id, 0));
            frames.extend_from_slice(&header(0, WINDOW, RST, id, 0));
        }
        if attacker.send(&frames).is_err() {
            break;
        }
        sent += 2_000;
    }
    attacker.drain();
    (sent, begun.elapsed())
}

/// Row 29: streams opened and reset at once.
#[test]
fn rapid_reset_is_stopped() {
    let pairs = 200_000;
    let rig = Rig::start("row 29", "reset");
    let cpu = rig.victim.cpu();
    let (sent, took) = rig.strike(|target| rapid_reset(target, pairs));
    let cpu = rig.victim.cpu() - cpu;
    println!(
        "row 29: closed after {sent} of {pairs} pairs and {took:.2?}, {cpu:.2?} of processor time"
    );
    within("closed", took, Duration::from_secs(2));
    within("processor time", cpu, Duration::from_millis(200));
    rig.standard(|target| rapid_reset(target, pairs));
    rig.finish(Some("muxer"));
}

/// Opens streams and holds them, beside an echo; how many were refused. Panics if the echo loses something.
fn held_opens(target: Target, opens: u32) -> usize {
    let mut attacker = Attacker::secure(target);
    let mut writer = attacker.socket.try_clone().unwrap();
    // An honest echo stream on the same connection.
    let echo = [propose("/barewire/echo/1.0.0"), b"before".to_vec()].concat();
    attacker.send(&data(SYN, 1, &echo)).unwrap();
    let mut frames = Vec::new();
    for open in 1..=opens {
        frames.extend_from_slice(&header(0, WINDOW, SYN, 1 + 2 * open, 0));
    }
    frames.extend_from_slice(&data(0, 1, b"after"));
    frames.extend_from_slice(&header(0, PING, SYN, 0, 0x77));
    let sealed = attacker.seal(&frames);
    let sending = std::thread::spawn(move || writer.write_all(&sealed));
    let mut answer = Answer::default();
    // Pongs go first, so the last echo and the last resets may come behind it.
    while !(answer.pong && answer.echoed.ends_with(b"beforeafter")) {
        let Some(record) = attacker.receive() else {
            assert!(target.sink, "the connection lives");
            break;
        };
        answer.take(&record);
    }
    sending.join().unwrap().unwrap();
    answer.refused
}

/// What came back beside a flood of opens. Read frame by frame: who searches all of it again and again falls behind,
/// and is cut off for that.
#[derive(Default)]
struct Answer {
    unread: Vec<u8>,
    /// Streams reset.
    refused: usize,
    /// A ping was answered.
    pong: bool,
    /// Data of all streams: there is one that gets any.
    echoed: Vec<u8>,
}

impl Answer {
    fn take(&mut self, record: &[u8]) {
        self.unread.extend_from_slice(record);
        let mut rest = &self.unread[..];
        while let Some((header, behind)) = rest.split_first_chunk::<12>() {
            let flags = u16::from_be_bytes([header[2], header[3]]);
            let len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
            let body = if header[1] == DATA { len } else { 0 };
            let Some((body, behind)) = behind.split_at_checked(body) else {
                break;
            };
            self.echoed.extend_from_slice(body);
            self.refused += usize::from(header[1] == WINDOW && flags == RST);
            self.pong |= header[1] == PING;
            rest = behind;
        }
        self.unread = rest.to_vec();
    }
}

/// Row 30: opens that are held. Streams that carry on beside them on the same connection lose nothing.
#[test]
fn held_opens_are_refused_one_by_one() {
    let opens = if full() { 100_000 } else { 20_000 };
    let rig = Rig::start("row 30", "opens");
    let refused = rig.strike(|target| held_opens(target, opens));
    let grown = rig.victim.rss_kib() - rig.before().rss_kib;
    println!(
        "row 30: {opens} held opens: {refused} refused so far, {grown} KiB more, the echo beside them intact"
    );
    assert!(grown < 16 * 1024, "{grown} KiB");
    rig.standard(|target| held_opens(target, opens));
    rig.finish(Some("stream_refused"));
}

/// Sends pings without reading; how many went, and how long until the end.
fn ping_flood(target: Target, pings: u32) -> (u32, Duration) {
    let mut attacker = Attacker::secure(target);
    let begun = Instant::now();
    let mut sent = 0u32;
    while sent < pings {
        let mut frames = Vec::with_capacity(60_000);
        for _ in 0..5_000 {
            frames.extend_from_slice(&header(0, PING, SYN, 0, sent));
            sent += 1;
        }
        if attacker.send(&frames).is_err() {
            break;
        }
    }
    attacker.drain();
    (sent, begun.elapsed())
}

/// Row 31: a flood of pings, answered as long as they are few.
#[test]
fn a_ping_flood_is_cut_off() {
    let pings = 1_000_000u32;
    let rig = Rig::start("row 31", "pings");
    let (sent, took) = rig.strike(|target| ping_flood(target, pings));
    let grown = rig.victim.rss_kib() - rig.before().rss_kib;
    println!("row 31: closed after {sent} of {pings} pings and {took:.2?}: {grown} KiB more");
    assert!(grown < 1024, "{grown} KiB");
    within("closed", took, Duration::from_secs(2));
    rig.standard(|target| ping_flood(target, pings));
    rig.finish(Some("muxer"));
}
