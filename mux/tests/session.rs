//! What the session puts on the wire, and in which order; what it hands out; when it lets go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use barewire_base::{Budget, TransmitBuf};
use barewire_mux::conformance::{
    ACK, DATA, FIN, Frame, PING, Pair, RECORD, RST, SYN, WINDOW_UPDATE, data, frames, header,
    pattern, read_all, sent, transmit,
};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::{Event, OpenError, ReadOutcome, Role, StreamId, StreamMuxer, WriteError};
use bytes::Bytes;
use proptest::prelude::*;

const WINDOW: u32 = 256 << 10;

fn session(role: Role, now: Instant) -> Session {
    Session::new(role, Config::default(), Budget::unlimited(), now)
}

fn input(session: &mut Session, now: Instant, bytes: &[u8]) {
    session
        .handle_input(now, Bytes::copy_from_slice(bytes))
        .unwrap();
}

fn incoming(session: &mut Session) -> StreamId {
    let events: Vec<_> = std::iter::from_fn(|| session.poll_event()).collect();
    let id = |event: &Event| {
        if let Event::Incoming(id) = event {
            Some(*id)
        } else {
            None
        }
    };
    events.iter().find_map(id).expect("an incoming stream")
}

/// What a session sends, the measurement of the round trip apart.
fn sent_but_ping(session: &mut Session, now: Instant) -> Vec<Frame> {
    sent(session, now)
        .into_iter()
        .filter(|frame| (frame.kind, frame.flags) != (PING, SYN))
        .collect()
}

fn short(frame: &Frame) -> (u8, u16, u32, u32) {
    (frame.kind, frame.flags, frame.id, frame.len)
}

fn shorts(frames: &[Frame]) -> Vec<(u8, u16, u32, u32)> {
    frames.iter().map(short).collect()
}

#[test]
fn opening_and_ending_ride_on_data() {
    let now = Instant::now();
    let mut client = session(Role::Client, now);
    let id = client.open_stream(now).unwrap();
    assert!(!client.wants_transmit());
    assert_eq!(sent(&mut client, now), []);
    client.write(id, Bytes::from_static(b"one")).unwrap();
    client.write_copy(id, b" and ").unwrap();
    client.write(id, Bytes::from_static(b"two")).unwrap();
    client.finish(id).unwrap();
    assert!(client.wants_transmit());
    let frames = sent(&mut client, now);
    assert_eq!(
        shorts(&frames),
        [(DATA, SYN, 1, 11), (WINDOW_UPDATE, FIN, 1, 0)]
    );
    assert_eq!(frames[0].payload, b"one and two");

    let mut server = session(Role::Server, now);
    input(&mut server, now, &data(SYN | FIN, 1, b"one and two"));
    let id = incoming(&mut server);
    assert_eq!(
        read_all(&mut server, now, id),
        (b"one and two".to_vec(), ReadOutcome::Finished)
    );
    server.write(id, Bytes::from_static(b"three")).unwrap();
    server.finish(id).unwrap();
    assert_eq!(
        shorts(&sent(&mut server, now)),
        [(DATA, ACK, 1, 5), (WINDOW_UPDATE, FIN, 1, 0)]
    );
    server.release(id);
    assert_eq!(server.stream_counts().inbound, 0);

    // Without data: as go opens and ends.
    let id = client.open_stream(now).unwrap();
    client.flush_open(id);
    assert_eq!(
        shorts(&sent(&mut client, now)),
        [(WINDOW_UPDATE, SYN, 3, 0)]
    );
    client.finish(id).unwrap();
    assert_eq!(
        shorts(&sent(&mut client, now)),
        [(WINDOW_UPDATE, FIN, 3, 0)]
    );
    let id = client.open_stream(now).unwrap();
    client.finish(id).unwrap();
    assert_eq!(
        shorts(&sent(&mut client, now)),
        [(WINDOW_UPDATE, SYN | FIN, 5, 0)]
    );
    // A stream that was never announced needs no end.
    let id = client.open_stream(now).unwrap();
    client.reset(id, 1);
    client.release(id);
    assert_eq!(sent(&mut client, now), []);
}

#[test]
fn acknowledges_at_the_end_of_the_batch() {
    let now = Instant::now();
    let mut server = session(Role::Server, now);
    input(&mut server, now, &data(SYN, 1, b"a"));
    input(&mut server, now, &header(WINDOW_UPDATE, SYN, 3, 0));
    input(&mut server, now, &header(WINDOW_UPDATE, SYN, 5, 100));
    let id = incoming(&mut server);
    server.write(id, Bytes::from_static(b"answer")).unwrap();
    assert_eq!(
        shorts(&sent(&mut server, now)),
        [
            (WINDOW_UPDATE, ACK, 3, 0),
            (WINDOW_UPDATE, ACK, 5, 0),
            (DATA, ACK, 1, 6)
        ]
    );
    assert_eq!(sent(&mut server, now), []);
}

/// Credit that comes with the SYN counts, as the specification allows.
#[test]
fn credit_with_the_syn() {
    let now = Instant::now();
    let mut server = session(Role::Server, now);
    input(&mut server, now, &header(WINDOW_UPDATE, SYN, 1, 44_000));
    let id = incoming(&mut server);
    server.write(id, vec![0; 400_000].into()).unwrap();
    let bytes: u32 = sent(&mut server, now).iter().map(|frame| frame.len).sum();
    assert_eq!(bytes, WINDOW + 44_000);
}

#[test]
fn frames_fill_a_record_and_no_more() {
    let now = Instant::now();
    let mut client = session(Role::Client, now);
    let id = client.open_stream(now).unwrap();
    client.write(id, vec![0; 200_000].into()).unwrap();
    let mut out = TransmitBuf::new(RECORD);
    assert!(client.poll_transmit(now, &mut out));
    assert_eq!((out.len(), out.part_count()), (65_519, 2));
    // Room for a little is not worth a frame of a bulk stream; what is short goes.
    out.clear();
    out.push(vec![0; RECORD - 500].into());
    assert!(!client.poll_transmit(now, &mut out));
    let other = client.open_stream(now).unwrap();
    client.write(other, Bytes::from_static(b"short")).unwrap();
    assert!(client.poll_transmit(now, &mut out));
    assert_eq!(out.len(), RECORD - 500 + 17);
    // A buffer that is small from the start gets what it has room for.
    let mut out = TransmitBuf::new(100);
    assert!(client.poll_transmit(now, &mut out));
    assert_eq!(out.len(), 100);
    let mut out = TransmitBuf::new(12);
    assert!(!client.poll_transmit(now, &mut out));
}

#[test]
fn control_goes_first() {
    let now = Instant::now();
    let mut server = session(Role::Server, now);
    input(&mut server, now, &data(SYN, 1, &vec![0; 200_000]));
    let id = incoming(&mut server);
    server.write(id, vec![1; 500_000].into()).unwrap();
    sent(&mut server, now);
    input(&mut server, now, &header(WINDOW_UPDATE, 0, 1, 300_000));
    read_all(&mut server, now, id);
    input(&mut server, now, &header(PING, SYN, 0, 77));
    let frames = sent(&mut server, now);
    assert_eq!(
        shorts(&frames[..3]),
        [
            (PING, ACK, 0, 77),
            (WINDOW_UPDATE, 0, 1, 200_000),
            (DATA, 0, 1, 65_519 - 3 * 12)
        ]
    );
}

/// A stream's bytes come out as they went in, as slices of the input, also while their frame is not complete.
#[test]
fn payload_is_slices_of_the_input() {
    let now = Instant::now();
    let mut server = session(Role::Server, now);
    let slab: Bytes = [data(SYN, 1, &[5; 60_000]), data(0, 1, &[6; 2_000])]
        .concat()
        .into();
    server.handle_input(now, slab.slice(..30_012)).unwrap();
    let id = incoming(&mut server);
    let ReadOutcome::Chunk(first) = server.read(now, id, usize::MAX) else {
        panic!("no bytes")
    };
    assert_eq!((first.as_ptr(), first.len()), (slab[12..].as_ptr(), 30_000));
    assert_eq!(server.read(now, id, usize::MAX), ReadOutcome::Pending);
    server.handle_input(now, slab.slice(30_012..)).unwrap();
    assert_eq!(server.poll_event(), Some(Event::Readable(id)));
    let ReadOutcome::Chunk(second) = server.read(now, id, 10_000) else {
        panic!("no bytes")
    };
    assert_eq!(
        (second.as_ptr(), second.len()),
        (slab[30_012..].as_ptr(), 10_000)
    );
    let ReadOutcome::Chunk(third) = server.read(now, id, usize::MAX) else {
        panic!("no bytes")
    };
    assert_eq!(
        (third.as_ptr(), third.len()),
        (slab[40_012..].as_ptr(), 20_000)
    );
    let ReadOutcome::Chunk(small) = server.read(now, id, usize::MAX) else {
        panic!("no bytes")
    };
    assert_eq!(
        (small.as_ptr(), small.len()),
        (slab[60_024..].as_ptr(), 2_000)
    );

    // And what is sent is the slice that was written.
    let mut client = session(Role::Client, now);
    let id = client.open_stream(now).unwrap();
    let payload = Bytes::from(vec![1; 100_000]);
    client.write(id, payload.clone()).unwrap();
    let mut out = TransmitBuf::new(RECORD);
    client.poll_transmit(now, &mut out);
    assert_eq!(
        out.parts().nth(1).map(|part| part.as_ptr()),
        Some(payload.as_ptr())
    );
}

/// Between two frames of one stream, no other sends more than 64 KiB, whatever their number and sizes; a short
/// message of a stream that was silent goes out in the next record.
#[test]
fn no_stream_delays_another_by_more_than_a_frame() {
    let now = Instant::now();
    let mut config = Config::default();
    // Full buffers of all streams, which the bound on their sum would shrink.
    config.send_memory = usize::MAX;
    let mut client = Session::new(Role::Client, config, Budget::unlimited(), now);
    let ids: Vec<_> = (0..20).map(|_| client.open_stream(now).unwrap()).collect();
    let (quiet, bulk) = ids.split_last().unwrap();
    for id in &ids {
        client.flush_open(*id);
    }
    sent(&mut client, now);
    for id in &ids {
        input(
            &mut client,
            now,
            &header(WINDOW_UPDATE, ACK, id.get(), 1 << 30),
        );
    }
    // Sizes of what each stream writes at a time.
    let item = |n: usize| [1 << 20, 70_000, 65_507, 20_000, 1_000, 10][n % 6];
    let mut since: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let (mut longest, mut waited, mut out) = (0, Vec::new(), TransmitBuf::new(RECORD));
    for round in 0..2_000u32 {
        for (n, id) in bulk.iter().enumerate() {
            // Some refill as soon as they are empty, which must not give them more turns.
            if client.send_capacity(*id).unwrap() >= ((1 << 20) - item(n)).max(1) {
                client.write(*id, vec![n as u8; item(n)].into()).unwrap();
            }
        }
        if round % 50 == 0 {
            client
                .write(*quiet, Bytes::copy_from_slice(&round.to_be_bytes()))
                .unwrap();
            waited.push(0);
        }
        let record = transmit(&mut client, now, &mut out).unwrap();
        for frame in frames(&record) {
            if frame.id == quiet.get() {
                assert_eq!(frame.payload, (round / 50 * 50).to_be_bytes());
                longest = longest.max(waited.pop().unwrap());
                continue;
            }
            for other in bulk.iter().filter(|other| other.get() != frame.id) {
                // Bytes of this stream since the other's last turn.
                let bytes = since.entry((other.get(), frame.id)).or_default();
                *bytes += frame.len + 12;
                assert!(
                    *bytes <= 64 << 10,
                    "{bytes} bytes of {} while {other} waits",
                    frame.id
                );
            }
            for other in bulk {
                since.insert((frame.id, other.get()), 0);
            }
        }
        // Idle streams do not wait.
        for id in bulk {
            if client.send_capacity(*id).unwrap() == 1 << 20 {
                for other in bulk {
                    since.insert((id.get(), other.get()), 0);
                }
            }
        }
        for rounds in &mut waited {
            *rounds += 1;
        }
    }
    println!(
        "20 streams: a silent stream's message waits {longest} records, none delays another by more than 64 KiB"
    );
    assert_eq!(longest, 0);
}

/// Equal calls, equal frames.
#[test]
fn is_deterministic() {
    fn run(start: Instant) -> (Vec<Vec<u8>>, Vec<Event>) {
        let mut pair = Pair::new(
            session(Role::Client, start),
            session(Role::Server, start),
            start,
        )
        .with_path(Duration::from_millis(7), Some(30_000_000))
        .with_fragments(1_448);
        let (mut records, mut events) = (Vec::new(), Vec::new());
        let mut out = TransmitBuf::new(RECORD);
        let mut seed = 42u32;
        let mut ids = Vec::new();
        for _ in 0..3_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = seed >> 8;
            match n % 8 {
                0 => ids.extend(pair.client.open_stream(pair.now)),
                1 if !ids.is_empty() => drop(pair.client.finish(ids[n as usize / 8 % ids.len()])),
                2 if n % 24 == 2 && !ids.is_empty() => {
                    pair.client.reset(ids[n as usize / 24 % ids.len()], n)
                }
                _ if !ids.is_empty() => {
                    let id = ids[n as usize / 8 % ids.len()];
                    let _ = pair.client.write(id, pattern(n, 0, n as usize % 50_000));
                }
                _ => {}
            }
            // What would go next is looked at through a twin of the transmit call: the wire's own order.
            if let Some(record) = transmit(&mut pair.client, pair.now, &mut out) {
                pair.server.handle_input(pair.now, record.clone()).unwrap();
                records.push(record.to_vec());
            }
            pair.step(pair.now + Duration::from_millis(1));
            for event in pair.server_events() {
                if let Event::Incoming(id) | Event::Readable(id) = event {
                    pair.server.accepted(id);
                    read_all(&mut pair.server, pair.now, id);
                }
                events.push(event);
            }
        }
        (records, events)
    }
    let first = run(Instant::now());
    let second = run(Instant::now() + Duration::from_secs(5));
    assert!(
        first.0.len() > 500 && first.1.len() > 100,
        "{} {}",
        first.0.len(),
        first.1.len()
    );
    assert!(first == second);
}

/// A stream that nobody reads any more and that we have finished does not keep the peer for ever.
#[test]
fn stopped_streams_come_to_an_end() {
    let now = Instant::now();
    let mut server = session(Role::Server, now);
    // Stopped first; the peer goes on to the end of its window after our own end.
    input(&mut server, now, &data(SYN, 1, &vec![0; 100_000]));
    let id = incoming(&mut server);
    server.stop(id, 0x1003);
    assert_eq!(server.buffered(), 0);
    assert_eq!(server.read(now, id, 1), ReadOutcome::Reset(0x1003));
    input(&mut server, now, &data(0, 1, &vec![0; 62_144]));
    assert_eq!(
        shorts(&sent_but_ping(&mut server, now)),
        [(WINDOW_UPDATE, ACK, 1, 0)],
        "no credit"
    );
    server.write(id, Bytes::from_static(b"enough")).unwrap();
    server.finish(id).unwrap();
    server.release(id);
    assert_eq!(
        shorts(&sent_but_ping(&mut server, now)),
        [(DATA, 0, 1, 6), (WINDOW_UPDATE, FIN, 1, 0)]
    );
    assert_eq!(server.stream_counts().inbound, 1);
    input(&mut server, now, &data(0, 1, &vec![0; 100_000]));
    assert_eq!(
        shorts(&sent_but_ping(&mut server, now)),
        [(WINDOW_UPDATE, RST, 1, 0x1003)]
    );
    assert_eq!(server.stream_counts().inbound, 0);

    // A peer that says nothing is waited for until the linger ends.
    input(&mut server, now, &data(SYN, 3, b"x"));
    let id = incoming(&mut server);
    server.finish(id).unwrap();
    server.release(id);
    assert_eq!(sent_but_ping(&mut server, now).len(), 1);
    server
        .handle_timeout(now + Duration::from_secs(29))
        .unwrap();
    assert_eq!(server.stream_counts().inbound, 1);
    let due = now + Duration::from_secs(30);
    assert_eq!(server.poll_timeout(), Some(due));
    input(&mut server, due, &header(WINDOW_UPDATE, 0, 3, 5));
    server.handle_timeout(due).unwrap();
    let frames = sent_but_ping(&mut server, due);
    assert!(
        shorts(&frames).contains(&(WINDOW_UPDATE, RST, 3, 0)),
        "{frames:?}"
    );
    assert_eq!(server.stream_counts().inbound, 0);

    // One that ends is forgotten at once, and needs no reset.
    input(&mut server, due, &data(SYN, 5, b"x"));
    let id = incoming(&mut server);
    server.finish(id).unwrap();
    server.release(id);
    input(&mut server, due, &data(FIN, 5, b"y"));
    assert!(
        !sent_but_ping(&mut server, due)
            .iter()
            .any(|frame| frame.flags & RST != 0)
    );
    assert_eq!(server.stream_counts().inbound, 0);
}

/// Credit is withheld from a connection that holds much while the budget is used up, and given when there is room.
#[test]
fn withheld_credit_comes_later() {
    let now = Instant::now();
    let budget = Budget::root(2 << 20);
    let mut server = Session::new(Role::Server, Config::default(), budget.clone(), now);
    for n in 0..4 {
        input(
            &mut server,
            now,
            &data(SYN, 2 * n + 1, &vec![0; WINDOW as usize]),
        );
        incoming(&mut server);
    }
    sent_but_ping(&mut server, now);
    // Four windows and four streams, less the free 128 KiB, in steps of 64 KiB.
    assert_eq!(budget.used(), 15 * (64 << 10));
    let others = budget.try_reserve(budget.available()).unwrap();
    // What goes beyond the last step does not fit: the fattest stream goes.
    input(&mut server, now, &data(SYN, 9, &vec![0; 64 << 10]));
    let frames = sent_but_ping(&mut server, now);
    assert!(
        shorts(&frames).contains(&(WINDOW_UPDATE, RST, 1, 0x1002)),
        "{frames:?}"
    );
    // What is read of another gets no credit now.
    let id = StreamId::try_from(3).unwrap();
    assert_eq!(
        server.read(now, id, 200_000),
        ReadOutcome::Chunk(vec![0; 200_000].into())
    );
    // What that has freed is taken by others at once.
    let more = budget.try_reserve(budget.available()).unwrap();
    assert_eq!(sent_but_ping(&mut server, now), []);
    let retry = now + Duration::from_millis(100);
    assert_eq!(server.poll_timeout(), Some(retry));
    server.handle_timeout(retry).unwrap();
    assert_eq!(sent_but_ping(&mut server, retry), []);
    drop((others, more));
    let retry = server.poll_timeout().unwrap();
    server.handle_timeout(retry).unwrap();
    assert_eq!(
        shorts(&sent_but_ping(&mut server, retry)),
        [(WINDOW_UPDATE, 0, 3, 200_000)]
    );
}

#[test]
fn bytes_that_came_before_a_go_away_can_be_read() {
    let now = Instant::now();
    let mut server = session(Role::Server, now);
    input(&mut server, now, &data(SYN, 1, b"last words"));
    input(&mut server, now, &data(SYN | FIN, 3, b"all"));
    let (one, three) = (incoming(&mut server), StreamId::try_from(3).unwrap());
    input(&mut server, now, &header(3, 0, 0, 0x1006));
    assert_eq!(server.poll_event(), Some(Event::GoAway(0x1006)));
    assert_eq!(
        read_all(&mut server, now, one),
        (b"last words".to_vec(), ReadOutcome::Reset(0))
    );
    assert_eq!(
        read_all(&mut server, now, three),
        (b"all".to_vec(), ReadOutcome::Finished)
    );
    assert_eq!(server.write(one, Bytes::new()), Err(WriteError::Closed));
    assert_eq!(server.open_stream(now), Err(OpenError::Closed));
    assert_eq!(sent(&mut server, now), []);
    server.release(one);
    server.release(three);
    assert_eq!(server.buffered(), 0);
}

#[test]
fn an_idle_session_is_small_and_silent() {
    let now = Instant::now();
    let session = session(Role::Server, now);
    let size = size_of::<Session>();
    println!("a session is {size} bytes");
    assert!(size <= 1_024, "{size}");
    assert!(!session.wants_transmit());
    assert_eq!(session.poll_timeout(), Some(now + Duration::from_secs(15)));
    // Nothing but the keepalive's ping, and its answer, every 15 s.
    let mut pair = Pair::new(session, self::session(Role::Server, now), now);
    pair.wait(Duration::from_secs(60));
    // Each side's ping and pong.
    assert_eq!((pair.up.bytes, pair.down.bytes), (4 * 24, 4 * 24));
}

/// A handle's readiness is told once per wait.
#[test]
fn readable_is_told_once_per_wait() {
    let now = Instant::now();
    let mut server = session(Role::Server, now);
    let events =
        |server: &mut Session| std::iter::from_fn(|| server.poll_event()).collect::<Vec<_>>();
    input(&mut server, now, &data(SYN, 1, b"a"));
    let id = StreamId::try_from(1).unwrap();
    assert_eq!(
        events(&mut server),
        [Event::Incoming(id), Event::Readable(id)]
    );
    input(&mut server, now, &data(0, 1, b"b"));
    assert_eq!(events(&mut server), []);
    assert_eq!(
        read_all(&mut server, now, id),
        (b"ab".to_vec(), ReadOutcome::Pending)
    );
    input(&mut server, now, &data(0, 1, b"c"));
    input(&mut server, now, &header(WINDOW_UPDATE, FIN, 1, 0));
    assert_eq!(events(&mut server), [Event::Readable(id)]);
    assert_eq!(
        read_all(&mut server, now, id),
        (b"c".to_vec(), ReadOutcome::Finished)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the input is cut, the same comes out.
    #[test]
    fn fragmentation_changes_nothing(
        sizes in proptest::collection::vec((0u32..6, 0usize..3_000), 1..40),
        cuts in proptest::collection::vec(1usize..500, 1..50),
    ) {
        let now = Instant::now();
        let mut bytes = Vec::new();
        let (mut opened, mut want): (Vec<u32>, BTreeMap<u32, Vec<u8>>) = (Vec::new(), BTreeMap::new());
        for (stream, size) in sizes {
            let id = 2 * stream + 1;
            let payload = pattern(id, want.entry(id).or_default().len(), size);
            let flags = if opened.contains(&id) { 0 } else { SYN };
            opened.push(id);
            bytes.extend(data(flags, id, &payload));
            want.entry(id).or_default().extend_from_slice(&payload);
        }
        let mut server = session(Role::Server, now);
        let (mut at, mut cuts) = (0, cuts.iter().cycle());
        while at < bytes.len() {
            let end = bytes.len().min(at + cuts.next().unwrap());
            input(&mut server, now, &bytes[at..end]);
            at = end;
        }
        let mut got = BTreeMap::new();
        while let Some(event) = server.poll_event() {
            if let Event::Incoming(id) = event {
                got.insert(id.get(), read_all(&mut server, now, id).0);
            }
        }
        prop_assert_eq!(got, want);
    }
}

/// A peer that grants credit to none of many streams makes us hold little for each; once it does, every writer that
/// waited is told, and all arrives.
#[test]
fn queued_bytes_are_bounded_over_all_streams() {
    const EACH: usize = 1 << 20;
    const ITEM: usize = 16 << 10;
    let now = Instant::now();
    let mut client = session(Role::Client, now);
    let ids: Vec<_> = (0..200).map(|_| client.open_stream(now).unwrap()).collect();
    let mut written: BTreeMap<StreamId, usize> = ids.iter().map(|id| (*id, 0)).collect();
    let fill = |client: &mut Session, written: &mut BTreeMap<StreamId, usize>, id: StreamId| {
        let done = written.get_mut(&id).unwrap();
        while *done < EACH && client.send_capacity(id).unwrap() > 0 {
            client.write(id, vec![7; ITEM].into()).unwrap();
            *done += ITEM;
        }
    };
    for id in &ids {
        fill(&mut client, &mut written, *id);
    }
    let bound = Config::default().send_memory + ids.len() * ((64 << 10) + ITEM);
    println!(
        "200 streams that cannot send hold {} KiB of at most {} KiB",
        client.queued() >> 10,
        bound >> 10
    );
    assert!(client.queued() <= bound + EACH);
    sent(&mut client, now);
    for id in &ids {
        let credit = header(WINDOW_UPDATE, ACK, id.get(), 1 << 30);
        input(&mut client, now, &credit);
    }
    let mut out = TransmitBuf::new(RECORD);
    let mut arrived = 0;
    while transmit(&mut client, now, &mut out).is_some() {
        while let Some(event) = client.poll_event() {
            if let Event::Writable(id) = event {
                fill(&mut client, &mut written, id);
            }
        }
        arrived += 1;
    }
    assert_eq!(client.queued(), 0, "after {arrived} records");
    assert!(written.values().all(|done| *done == EACH), "{written:?}");
}
