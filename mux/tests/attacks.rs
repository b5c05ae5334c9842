//! Peers that are hostile or broken, and the figures each is held to.

use std::time::{Duration, Instant};

use barewire_base::Budget;
use barewire_mux::conformance::{
    ACK, DATA, FIN, Frame, GO_AWAY, PING, Pair, RST, SYN, WINDOW_UPDATE, data, header, read_all,
    sent,
};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::{
    Event, MuxError, OpenError, ReadOutcome, Role, StreamId, StreamMuxer, Violation, WriteError,
};
use bytes::Bytes;

const WINDOW: u32 = 256 << 10;

fn server(now: Instant) -> Session {
    Session::new(Role::Server, Config::default(), Budget::unlimited(), now)
}

fn go_away(code: u32) -> Frame {
    Frame {
        kind: GO_AWAY,
        flags: 0,
        id: 0,
        len: code,
        payload: Vec::new(),
    }
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

fn incoming(session: &mut Session) -> Vec<StreamId> {
    let is = |event| {
        if let Event::Incoming(id) = event {
            Some(id)
        } else {
            None
        }
    };
    events(session).into_iter().filter_map(is).collect()
}

/// Row 28: every violation of the table ends the session with GoAway 1, however it is cut, and without a panic.
#[test]
fn row_28_violations_end_the_session() {
    let open = header(DATA, SYN, 1, 0);
    let with = |at: usize, value: u8| {
        let mut bytes = header(DATA, SYN, 1, 0);
        bytes[at] = value;
        bytes.to_vec()
    };
    let after_open = |frame: &[u8]| [&open[..], frame].concat();
    let cases: Vec<(&str, Vec<u8>, Violation)> = vec![
        // CVE-2026-31814
        (
            "credit past 2^32",
            after_open(&header(WINDOW_UPDATE, 0, 1, 0xffff_0000)),
            Violation::WindowOverflow(1),
        ),
        (
            "credit past 2^32 with the SYN",
            header(WINDOW_UPDATE, SYN, 1, u32::MAX).into(),
            Violation::WindowOverflow(1),
        ),
        // CVE-2026-32314
        (
            "first data above the credit",
            data(SYN, 1, &vec![0; 262_145]),
            Violation::WindowExceeded(1),
        ),
        (
            "data above what is left",
            [data(SYN, 1, &vec![0; 262_144]), data(0, 1, b"x")].concat(),
            Violation::WindowExceeded(1),
        ),
        (
            "data above the credit",
            after_open(&header(DATA, 0, 1, WINDOW + 1)),
            Violation::WindowExceeded(1),
        ),
        (
            "a frame of more than 1 MiB",
            header(DATA, 0, 99, (1 << 20) + 1).into(),
            Violation::FrameTooLong((1 << 20) + 1),
        ),
        (
            "id 0",
            header(DATA, SYN, 0, 0).into(),
            Violation::StreamId(0),
        ),
        (
            "id 0 without SYN",
            header(WINDOW_UPDATE, 0, 0, 5).into(),
            Violation::StreamId(0),
        ),
        (
            "an id of our parity",
            header(WINDOW_UPDATE, SYN, 2, 0).into(),
            Violation::StreamId(2),
        ),
        (
            "an id that is open",
            after_open(&open),
            Violation::StreamId(1),
        ),
        (
            "an id that was used",
            [&open[..], &header(DATA, RST, 1, 0), &open].concat(),
            Violation::StreamId(1),
        ),
        ("version 1", with(0, 1), Violation::Version(1)),
        ("type 4", with(1, 4), Violation::FrameType(4)),
        ("an undefined flag", with(3, 0x11), Violation::Flags(0x11)),
        (
            "a ping with an id",
            header(PING, SYN, 1, 7).into(),
            Violation::StreamId(1),
        ),
        (
            "a ping that is neither",
            header(PING, 0, 0, 7).into(),
            Violation::Flags(0),
        ),
        (
            "a GoAway with an id",
            header(GO_AWAY, 0, 1, 0).into(),
            Violation::StreamId(1),
        ),
    ];
    let mut closed = 0;
    for fragment in [usize::MAX, 5, 1] {
        for (name, bytes, violation) in &cases {
            let now = Instant::now();
            let mut session = server(now);
            let result = bytes
                .chunks(fragment.min(bytes.len()))
                .try_for_each(|piece| session.handle_input(now, Bytes::copy_from_slice(piece)));
            assert_eq!(result, Err(MuxError::Protocol(*violation)), "{name}");
            assert!(session.is_closed());
            assert_eq!(sent(&mut session, now), [go_away(1)], "{name}");
            assert_eq!(session.poll_timeout(), None);
            assert_eq!(
                session.handle_input(now, Bytes::from_static(b"more")),
                result,
                "{name}"
            );
            assert_eq!(session.open_stream(now), Err(OpenError::Closed));
            closed += 1;
        }
    }
    println!(
        "row 28: {closed}/{} ended with GoAway 1, 0 panics",
        3 * cases.len()
    );
}

/// What is no violation: frames for streams we do not know, whatever they carry.
#[test]
fn unknown_streams_are_ignored() {
    let now = Instant::now();
    let mut session = server(now);
    for (flags, id) in [
        (0, 1),
        (FIN, 77),
        (RST, 2),
        (ACK, 4),
        (ACK | FIN, 100_001),
        (SYN | RST, 9),
    ] {
        session
            .handle_input(now, data(flags, id, &[3; 300]).into())
            .unwrap();
        session
            .handle_input(
                now,
                Bytes::copy_from_slice(&header(WINDOW_UPDATE, flags, id, u32::MAX)),
            )
            .unwrap();
    }
    assert_eq!(events(&mut session), []);
    assert_eq!(sent(&mut session, now), []);
    assert_eq!(session.stream_counts().inbound, 0);
}

/// Row 29: 200,000 streams opened and reset at once.
#[test]
fn row_29_rapid_reset() {
    let now = Instant::now();
    let mut session = server(now);
    let (mut handlers, mut pairs) = (0, 0u32);
    let started = Instant::now();
    let mut ended = None;
    'attack: for record in 0.. {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            bytes.extend_from_slice(&header(DATA, SYN, 2 * pairs + 1, 0));
            bytes.extend_from_slice(&header(DATA, RST, 2 * pairs + 1, 0));
            pairs += 1;
        }
        // 200,000 pairs in 1.5 s, as they were measured against the crate.
        let at = now + Duration::from_micros(750) * record;
        let bytes = Bytes::from(bytes);
        for piece in [bytes.slice(..12), bytes.slice(12..)] {
            // The first stream of each record reaches a handler before its reset comes.
            let result = session.handle_input(at, piece);
            for id in incoming(&mut session) {
                handlers += 1;
                session.accepted(id);
                session.release(id);
            }
            sent(&mut session, at);
            if let Err(error) = result {
                ended = Some((error, at - now));
                break 'attack;
            }
        }
        assert!(pairs < 200_000, "never stopped");
    }
    let (error, after) = ended.unwrap();
    // The CPU time is no more than the time.
    let used = started.elapsed();
    assert_eq!(error, MuxError::AbortFlood);
    println!(
        "row 29: {handlers} streams reached a handler, ended after {pairs} pairs, {after:?} and {used:?} of CPU"
    );
    assert!(handlers <= 1_500 && after < Duration::from_secs(2));
    assert!(used < Duration::from_millis(200), "{used:?}");
}

/// Row 29: resets of streams whose handler is at work are what is counted: 200 a second are borne, for ever.
#[test]
fn row_29_honest_aborts_and_finished_streams() {
    let start = Instant::now();
    let mut session = server(start);
    let mut id = 1;
    for tenth in 0..600 {
        let now = start + Duration::from_millis(100) * tenth;
        for _ in 0..20 {
            session
                .handle_input(now, data(SYN, id, b"x").into())
                .unwrap();
            let stream = incoming(&mut session)[0];
            session.accepted(stream);
            session
                .handle_input(
                    now,
                    Bytes::copy_from_slice(&header(WINDOW_UPDATE, RST, id, 0)),
                )
                .unwrap();
            session.release(StreamId::try_from(id).unwrap());
            id += 2;
        }
    }
    // 50,000 streams that finish, within one instant.
    let now = start + Duration::from_secs(60);
    for _ in 0..50_000 {
        session
            .handle_input(now, data(SYN | FIN, id, b"ask").into())
            .unwrap();
        let stream = incoming(&mut session)[0];
        session.accepted(stream);
        session
            .write(stream, Bytes::from_static(b"answer"))
            .unwrap();
        session.finish(stream).unwrap();
        session.release(stream);
        let mut frames = sent(&mut session, now);
        frames.retain(|frame| frame.kind != PING);
        assert_eq!(frames.len(), 1);
        assert_eq!(
            (frames[0].flags, &frames[0].payload[..]),
            (ACK | FIN, &b"answer"[..])
        );
        id += 2;
    }
    assert_eq!(session.stream_counts().inbound, 0);
    println!("row 29: 12,000 aborts in 60 s and 50,000 finished streams at once are borne");
}

/// Row 30: 100,000 opens that are held, while other streams of the same connection go on.
#[test]
fn row_30_opens_held() {
    let now = Instant::now();
    let mut session = server(now);
    session
        .handle_input(now, data(SYN, 1, b"bystander").into())
        .unwrap();
    let bystander = incoming(&mut session)[0];
    session.accepted(bystander);
    let (mut refused, mut handlers, mut lost, mut echoed) = (0, 0, 0, 0);
    for record in 0..100u32 {
        let mut bytes = Vec::new();
        for n in 0..1_000 {
            bytes.extend_from_slice(&header(WINDOW_UPDATE, SYN, 3 + 2 * (record * 1_000 + n), 0));
        }
        bytes.extend_from_slice(&data(0, 1, &record.to_be_bytes()));
        session.handle_input(now, bytes.into()).unwrap();
        let got = read_all(&mut session, now, bystander).0;
        lost += u32::from(!got.ends_with(&record.to_be_bytes()));
        session.write(bystander, got.into()).unwrap();
        handlers += incoming(&mut session).len();
        for frame in sent(&mut session, now) {
            if frame.flags == RST {
                assert_eq!((frame.kind, frame.len), (WINDOW_UPDATE, 0x1002));
                refused += 1;
            }
            echoed += usize::from(frame.id == 1 && frame.kind == DATA);
        }
    }
    let counts = session.stream_counts();
    println!(
        "row 30: {handlers} pending, {refused} refused, {} held, bystander lost {lost} of 100",
        counts.inbound
    );
    // The bystander was accepted, and its room in the backlog is free again.
    assert_eq!(
        (handlers, refused, counts.inbound),
        (128, 100_000 - 128, 129)
    );
    assert_eq!((lost, echoed), (0, 100));
}

/// Row 30: streams that are accepted make room, up to the hard bound.
#[test]
fn row_30_hard_bound() {
    let now = Instant::now();
    let mut session = server(now);
    let mut held = Vec::new();
    for n in 0..400 {
        session
            .handle_input(now, data(SYN, 2 * n + 1, b"x").into())
            .unwrap();
        for id in incoming(&mut session) {
            session.accepted(id);
            held.push(id);
        }
    }
    assert_eq!(held.len(), 256);
    assert_eq!(
        sent(&mut session, now)
            .iter()
            .filter(|frame| frame.flags == RST)
            .count(),
        400 - 256
    );
    session.reset(held[0], 0);
    session
        .handle_input(now, data(SYN, 2 * 400 + 1, b"x").into())
        .unwrap();
    assert_eq!(incoming(&mut session).len(), 1);
}

/// Row 30: we never hold so many streams that a peer with a cap of 512 in both directions ends the connection.
#[test]
fn row_30_our_own_streams() {
    let now = Instant::now();
    let mut session = server(now);
    let ids: Vec<_> = std::iter::from_fn(|| session.open_stream(now).ok()).collect();
    assert_eq!(ids.len(), 256);
    assert_eq!(session.open_stream(now), Err(OpenError::TooMany));
    for id in &ids {
        session.flush_open(*id);
    }
    assert_eq!(sent(&mut session, now).len(), 256);
    // Acknowledged or not, they are open.
    for id in &ids {
        let ack = header(WINDOW_UPDATE, ACK, id.get(), 0);
        session
            .handle_input(now, Bytes::copy_from_slice(&ack))
            .unwrap();
    }
    assert_eq!(session.open_stream(now), Err(OpenError::TooMany));
    assert_eq!(events(&mut session), []);
    session.reset(ids[7], 0);
    assert!(events(&mut session).contains(&Event::CanOpen));
    session.open_stream(now).unwrap();
    assert_eq!(session.open_stream(now), Err(OpenError::TooMany));
}

/// Row 31: a million pings while nothing is read.
#[test]
fn row_31_ping_flood() {
    let now = Instant::now();
    let mut session = server(now);
    let record: Bytes = (0..1_000)
        .flat_map(|n| header(PING, SYN, 0, n))
        .collect::<Vec<u8>>()
        .into();
    for _ in 0..1_000 {
        session.handle_input(now, record.clone()).unwrap();
    }
    let pongs = sent(&mut session, now);
    println!(
        "row 31: 1,000,000 pings unread leave {} pongs, {} bytes",
        pongs.len(),
        12 * pongs.len()
    );
    assert!(pongs.len() <= 32);
    for (n, pong) in pongs.iter().enumerate() {
        assert_eq!(
            (pong.kind, pong.flags, pong.id, pong.len),
            (PING, ACK, 0, n as u32)
        );
    }
    // A peer that reads gets each answer exactly once.
    session.handle_input(now, record.slice(..12 * 20)).unwrap();
    assert_eq!(sent(&mut session, now).len(), 20);
    assert_eq!(sent(&mut session, now), []);
}

/// A pong nobody asked for, or with another value, does nothing.
#[test]
fn unsolicited_pongs_are_ignored() {
    let now = Instant::now();
    let mut session = server(now);
    let pong = |value| Bytes::copy_from_slice(&header(PING, ACK, 0, value));
    session.handle_input(now, pong(0)).unwrap();
    session.ping(now);
    let ping = sent(&mut session, now).remove(0);
    assert_eq!((ping.kind, ping.flags), (PING, SYN));
    let later = now + Duration::from_millis(30);
    session
        .handle_input(later, pong(ping.len.wrapping_add(1)))
        .unwrap();
    assert_eq!(events(&mut session), []);
    session.handle_input(later, pong(ping.len)).unwrap();
    session.handle_input(later, pong(ping.len)).unwrap();
    assert_eq!(
        events(&mut session),
        [Event::Pong(Duration::from_millis(30))]
    );
    assert_eq!(session.rtt(), Some(Duration::from_millis(30)));
}

/// Row 32: 50 connections, all their streams filled and never read, on a node's budget of 128 MiB.
#[test]
fn row_32_full_windows_unread() {
    let now = Instant::now();
    let node = Budget::root(128 << 20);
    let session = |now| Session::new(Role::Server, Config::default(), node.clone(), now);
    // A bystander whose owner reads at once.
    let mut bystander = session(now);
    bystander
        .handle_input(now, data(SYN, 1, b"x").into())
        .unwrap();
    let stream = incoming(&mut bystander)[0];
    let slab = Bytes::from(data(0, 1, &[1; 60_000]));
    let mut attacked: Vec<Session> = (0..50).map(|_| session(now)).collect();
    let (mut most, mut single, mut resets, mut received) = (0, 0, 0, 0u64);
    let mut credit: i64 = i64::from(WINDOW) - 1;
    for n in 0..200u32 {
        for session in &mut attacked {
            let id = 2 * n + 1;
            session
                .handle_input(
                    now,
                    Bytes::copy_from_slice(&header(WINDOW_UPDATE, SYN, id, 0)),
                )
                .unwrap();
            for id in incoming(session) {
                session.accepted(id);
            }
            for _ in 0..4 {
                session
                    .handle_input(now, data(0, id, &[9; 65_536]).into())
                    .unwrap();
            }
            single = single.max(session.buffered());
            resets += sent(session, now)
                .iter()
                .filter(|frame| frame.flags == RST)
                .count();
            for event in events(session) {
                if let Event::Readable(id) = event
                    && matches!(session.read(now, id, 0), ReadOutcome::Reset(_))
                {
                    session.release(id);
                }
            }
        }
        while credit >= 60_000 {
            bystander.handle_input(now, slab.clone()).unwrap();
            credit -= 60_000;
            let (got, end) = read_all(&mut bystander, now, stream);
            assert_eq!(end, ReadOutcome::Pending);
            received += got.len() as u64;
        }
        for frame in sent(&mut bystander, now) {
            if frame.kind == WINDOW_UPDATE {
                credit += i64::from(frame.len);
            }
        }
        most = most.max(attacked.iter().map(StreamMuxer::buffered).sum::<usize>());
    }
    println!(
        "row 32: 50 connections x 200 streams x 256 KiB unread: {} MiB held at most (budget 128), \
         {} MiB by one, {resets} streams reset, bystander received {} MiB",
        most >> 20,
        single >> 20,
        received >> 20
    );
    assert!(most <= (128 << 20) + 50 * (256 << 10));
    assert!(received >= 20 << 20, "the bystander goes on");
    assert_eq!(bystander.stream_counts().inbound, 1);
    drop(attacked);
    drop(bystander);
    assert_eq!(node.used(), 0);
}

/// Row 32: without a budget above it, a connection holds its streams' first windows and no more: 64 MiB.
#[test]
fn row_32_one_connection() {
    let now = Instant::now();
    let mut session = server(now);
    for n in 0..256 {
        let id = 2 * n + 1;
        for part in 0..4 {
            let flags = if part == 0 { SYN } else { 0 };
            session
                .handle_input(now, data(flags, id, &[9; 65_536]).into())
                .unwrap();
        }
        let stream = incoming(&mut session)[0];
        session.accepted(stream);
    }
    println!(
        "row 32: one connection holds {} MiB",
        session.buffered() >> 20
    );
    assert_eq!(session.buffered(), 64 << 20);
    let (id, bytes) = session.fattest_stream().unwrap();
    assert_eq!((id.get(), bytes), (1, 256 << 10));
    assert_eq!(session.reset_fattest(0x1002).unwrap().0, id);
    assert_eq!(session.buffered(), (64 << 20) - (256 << 10));
}

/// Row 33: one reader grants nothing; others are as fast as alone, and after 60 s that stream alone is reset.
#[test]
fn row_33_zero_window() {
    let received = |stuck: bool| {
        let now = Instant::now();
        let session = |role| Session::new(role, Config::default(), Budget::unlimited(), now);
        let mut pair = Pair::new(session(Role::Client), session(Role::Server), now)
            .with_path(Duration::from_millis(5), Some(50_000_000));
        let item = Bytes::from(vec![1; 100_000]);
        let parked = pair.client.open_stream(now).unwrap();
        let flowing = pair.client.open_stream(now).unwrap();
        let (mut got, mut queued) = (0, 0);
        let until = now + Duration::from_secs(10);
        loop {
            for (id, wanted) in [(parked, stuck), (flowing, true)] {
                while wanted && pair.client.send_capacity(id).unwrap() > 0 {
                    pair.client.write(id, item.clone()).unwrap();
                    queued += if id == parked { item.len() } else { 0 };
                }
            }
            if !pair.step(until) {
                break;
            }
            pair.server_events();
            got += read_all(&mut pair.server, pair.now, flowing).0.len();
        }
        assert!(queued <= (256 << 10) + (1 << 20) + item.len());
        // The deadline passes.
        if stuck {
            pair.client_events();
            pair.wait(Duration::from_secs(49));
            assert!(pair.client.send_capacity(parked).is_ok());
            pair.wait(Duration::from_secs(2));
            assert_eq!(
                pair.client.send_capacity(parked),
                Err(WriteError::Reset(0x1006))
            );
            assert!(pair.client_events().contains(&Event::Writable(parked)));
            assert!(matches!(
                read_all(&mut pair.server, pair.now, parked).1,
                ReadOutcome::Reset(0x1006)
            ));
            assert!(pair.client.send_capacity(flowing).is_ok());
            assert_eq!((&pair.client_error, &pair.server_error), (&None, &None));
        }
        got
    };
    let (alone, beside) = (received(false), received(true));
    println!(
        "row 33: {} MB beside a stuck stream, {} MB alone",
        beside / 1_000_000,
        alone / 1_000_000
    );
    assert!(beside as f64 >= 0.9 * alone as f64);
}

/// Row 34: both directions die without a word.
#[test]
fn row_34_half_open() {
    for at in [0, 3, 14] {
        let now = Instant::now();
        let session = |role| Session::new(role, Config::default(), Budget::unlimited(), now);
        let mut pair = Pair::new(session(Role::Client), session(Role::Server), now)
            .with_path(Duration::from_millis(20), None);
        // Keepalive keeps it: three minutes of silence otherwise.
        pair.wait(Duration::from_secs(180 + at));
        assert_eq!((&pair.client_error, &pair.server_error), (&None, &None));
        assert!(
            pair.up.bytes <= 24 * 13,
            "{} bytes in 3 minutes",
            pair.up.bytes
        );
        pair.up.cut = true;
        pair.down.cut = true;
        pair.wait(Duration::from_secs(14));
        assert_eq!((&pair.client_error, &pair.server_error), (&None, &None));
        let cut = pair.now;
        while pair.client_error.is_none() || pair.server_error.is_none() {
            assert!(pair.step(cut + Duration::from_secs(60)), "never dead");
        }
        let dead = pair.now - cut + Duration::from_secs(14);
        println!("row 34: dead {dead:?} after the cut");
        assert!(dead <= Duration::from_secs(31));
        assert_eq!(pair.client_error, Some(MuxError::KeepaliveTimeout));
    }
}

/// A process that was not run for long gives its peer the time to answer.
#[test]
fn a_late_timer_does_not_kill() {
    let start = Instant::now();
    let mut session = server(start);
    let late = start + Duration::from_secs(300);
    session.handle_timeout(late).unwrap();
    assert_eq!(sent(&mut session, late).len(), 1);
    session
        .handle_timeout(late + Duration::from_secs(14))
        .unwrap();
    assert_eq!(
        session.handle_timeout(late + Duration::from_secs(15)),
        Err(MuxError::KeepaliveTimeout)
    );
}

/// Row 35: a byte a frame causes no more answers than whole frames do.
#[test]
fn row_35_a_byte_a_frame() {
    let now = Instant::now();
    let mut session = server(now);
    session
        .handle_input(now, Bytes::copy_from_slice(&header(DATA, SYN, 1, 0)))
        .unwrap();
    let id = incoming(&mut session)[0];
    let record: Bytes = data(0, 1, b"x").repeat(4_000).into();
    let (mut payload, mut frames) = (0usize, 0usize);
    for n in 0..500 {
        let now = now + Duration::from_millis(n);
        session.handle_input(now, record.clone()).unwrap();
        payload += read_all(&mut session, now, id).0.len();
        frames += sent(&mut session, now)
            .iter()
            .filter(|frame| frame.kind == WINDOW_UPDATE)
            .count();
    }
    println!(
        "row 35: {payload} bytes, one a frame, caused {frames} frames: one for {} bytes",
        payload / frames
    );
    assert!(payload / frames >= 32 << 10);
    // Unread, it costs what it holds: no list of single bytes, no slab.
    let mut session = server(now);
    session
        .handle_input(now, Bytes::copy_from_slice(&header(DATA, SYN, 1, 0)))
        .unwrap();
    let id = incoming(&mut session)[0];
    for n in 0..65 {
        let slab: Bytes = data(0, 1, &[n]).repeat(4_000).into();
        session.handle_input(now, slab.clone()).unwrap();
        session.handle_input(now, Bytes::new()).unwrap();
        assert!(slab.is_unique(), "the slab is pinned");
    }
    let mut chunks = 0;
    while let ReadOutcome::Chunk(_) = session.read(now, id, usize::MAX) {
        chunks += 1;
    }
    println!("row 35: 260,000 bytes, one a frame, unread, are {chunks} chunks");
    assert!(chunks <= 17);
}

/// Row 35: data after the end, credit after the end, a reset that crosses ours.
#[test]
fn row_35_frames_after_the_end() {
    let now = Instant::now();
    let mut session = server(now);
    let input = |session: &mut Session, bytes: &[u8]| {
        session.handle_input(now, Bytes::copy_from_slice(bytes))
    };
    input(&mut session, &data(SYN | FIN, 1, b"all")).unwrap();
    let id = incoming(&mut session)[0];
    input(&mut session, &data(0, 1, b"more")).unwrap();
    input(&mut session, &header(WINDOW_UPDATE, 0, 1, 100)).unwrap();
    input(&mut session, &header(DATA, FIN, 1, 0)).unwrap();
    assert_eq!(
        read_all(&mut session, now, id),
        (b"all".to_vec(), ReadOutcome::Finished)
    );
    assert_eq!(session.buffered(), 0);
    // Our own end, then credit, then both at once.
    session.write(id, Bytes::from_static(b"answer")).unwrap();
    session.finish(id).unwrap();
    assert_eq!(sent(&mut session, now).len(), 1);
    input(
        &mut session,
        &header(WINDOW_UPDATE, 0, 1, u32::MAX - WINDOW - 100),
    )
    .unwrap();
    input(&mut session, &header(WINDOW_UPDATE, RST, 1, 5)).unwrap();
    assert_eq!(session.read(now, id, 1), ReadOutcome::Finished);
    session.release(id);
    input(&mut session, &header(WINDOW_UPDATE, RST, 1, 5)).unwrap();
    // A reset of ours and frames that were on their way.
    input(&mut session, &data(SYN, 3, b"x")).unwrap();
    let id = incoming(&mut session)[0];
    let half = data(0, 3, b"on its way");
    input(&mut session, &half[..15]).unwrap();
    session.reset(id, 9);
    session.release(id);
    assert_eq!(sent(&mut session, now).len(), 1);
    input(&mut session, &half[15..]).unwrap();
    input(&mut session, &data(FIN, 3, b"and the end")).unwrap();
    input(&mut session, &header(DATA, RST, 3, 0)).unwrap();
    assert_eq!(sent(&mut session, now), []);
    assert_eq!(
        (session.stream_counts().inbound, session.buffered()),
        (0, 0)
    );
}
