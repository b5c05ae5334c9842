//! What ten connections can make a node hold. How long others wait meanwhile is not held here: ten windows of 16 MiB that
//! arrive at once keep a processor busy.

use std::time::{Duration, Instant};

use barewire_tests::{
    attack::rig::{Rig, Target},
    full,
};
use quinn_proto::StreamId;

use crate::{
    client::{Client, ROOM},
    frames::{STREAM, new_connection_id, numbers},
};

const PATH_CHALLENGE: u8 = 0x1a;
/// Connections of an attack.
const CONNECTIONS: u32 = 10;
/// What one of them may cost, in KiB: 16 MiB that a stranger may have, and half of it for what it takes to keep that.
const EACH_KIB: i64 = 24 << 10;
/// Streams of a connection, all that a node allows.
const STREAMS: u64 = 256;
/// How long an attack goes on.
fn duration() -> Duration {
    Duration::from_secs(if full() { 60 } else { 4 })
}

/// Goes on with something for one connection; false when there is nothing more to do.
type Work = fn(&mut Client, &mut State);

/// What an attack remembers between its turns.
#[derive(Default)]
struct State {
    streams: Vec<StreamId>,
    round: u64,
    /// Bytes of streams, or of other frames, that were sent.
    said: u64,
}

/// Runs `work` on every connection in turns, each with a thread of its own; how many were ended by the victim, and what
/// was said in all.
fn attack(target: Target, work: Work) -> (u32, u64) {
    let end = Instant::now() + target.hold.unwrap_or_else(duration);
    let one = || {
        let mut client = Client::connect(target);
        let mut state = State::default();
        while Instant::now() < end && client.lost.is_none() {
            work(&mut client, &mut state);
            if !client.step() {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        (u32::from(client.lost.is_some()), state.said, client)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(one)).collect();
        // All are open until the last is done.
        let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
        all.iter().fold((0, 0), |(lost, said), (was, bytes, _)| {
            (lost + was, said + bytes)
        })
    })
}

/// Opens streams as they are allowed; true once all are open.
fn open_all(client: &mut Client, state: &mut State) -> bool {
    while (state.streams.len() as u64) < STREAMS
        && let Some(stream) = client.open("/barewire/echo/1.0.0")
    {
        state.streams.push(stream);
    }
    state.streams.len() as u64 == STREAMS
}

/// Writes to echoes and grants their answers no credit.
fn unread(client: &mut Client, state: &mut State) {
    // First, because a full connection has no room for proposals.
    if !open_all(client, state) {
        return;
    }
    let filler = [0x55; 16 << 10];
    for at in 0..state.streams.len() {
        let stream = state.streams[at];
        state.said += client.write(stream, &filler) as u64;
    }
}

/// The same on one stream.
fn unread_one(client: &mut Client, state: &mut State) {
    if state.streams.is_empty() {
        state.streams.extend(client.open("/barewire/echo/1.0.0"));
    }
    let stream = state.streams[0];
    state.said += client.write(stream, &[0x55; 16 << 10]) as u64;
}

/// Bytes that a proposal takes at the front of a stream, and some.
const BEHIND: u64 = 1_000;

/// Frames of one byte with gaps between them, on all streams at once, so that each packet is held by many.
fn gapped(client: &mut Client, state: &mut State) {
    // A thousand of a stream is what quinn takes.
    if !open_all(client, state) || client.unsaid() > 0 || state.round >= 1_000 * STREAMS {
        return;
    }
    let mut frames = Vec::new();
    loop {
        let (stream, nth) = (state.round % STREAMS, state.round / STREAMS);
        let frame = numbers(&[STREAM, 4 * stream, BEHIND + 2 * nth, 1, 1]);
        if frames.len() + frame.len() > ROOM {
            break;
        }
        frames.extend(frame);
        state.round += 1;
        state.said += 1;
    }
    client.say_frames(frames);
}

/// New connection ids, each of which retires all before it.
fn connection_ids(client: &mut Client, state: &mut State) {
    if client.unsaid() > 0 {
        return;
    }
    let mut frames = Vec::new();
    for _ in 0..ROOM / 40 {
        state.round += 1;
        frames.extend(new_connection_id(state.round, state.round));
    }
    state.said += frames.len() as u64;
    client.say_frames(frames);
}

/// Challenges to prove the path, more than answers are sent for.
fn path_challenges(client: &mut Client, state: &mut State) {
    if client.unsaid() > 0 {
        return;
    }
    let mut frames = Vec::new();
    while frames.len() + 9 <= ROOM {
        state.round += 1;
        frames.push(PATH_CHALLENGE);
        frames.extend(state.round.to_be_bytes());
    }
    state.said += frames.len() as u64;
    client.say_frames(frames);
}

fn held(row: &'static str, name: &str, work: Work) {
    let mut rig = Rig::quic(row, "memory");
    rig.growth_kib = i64::from(CONNECTIONS) * EACH_KIB;
    rig.victim.reset_peak();
    let begun = Instant::now();
    let (ended, said) = rig.strike(|target| attack(target, work));
    let grown = rig.victim.peak_kib() - rig.before().rss_kib;
    println!(
        "{row}: {name}: {CONNECTIONS} connections for {:.1?}, {} KiB said, {ended} ended by the victim: at \
         most {:.1} MiB more a connection, {} are allowed",
        begun.elapsed(),
        said >> 10,
        grown as f64 / 1024.0 / f64::from(CONNECTIONS),
        EACH_KIB >> 10
    );
    // How soon the allocator gives pages back depends on what else runs.
    let slack = if full() { 0 } else { rig.growth_kib / 4 };
    assert!(grown <= rig.growth_kib + slack, "{grown} KiB");
    rig.finish(None);
}

#[test]
fn echoes_that_nobody_reads() {
    held("row 22", "256 unread echoes", unread);
}

#[test]
fn one_echo_that_nobody_reads() {
    held("row 22", "one unread echo", unread_one);
}

#[test]
fn frames_of_one_byte_with_gaps() {
    held("row 22", "gapped frames of one byte", gapped);
}

#[test]
fn connection_ids_without_end() {
    held("row 22", "connection ids", connection_ids);
}

#[test]
fn path_challenges_without_end() {
    held("row 24", "path challenges", path_challenges);
}
