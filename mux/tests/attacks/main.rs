//! Peers that are hostile or broken, and the figures each is held to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod floods;
mod stalls;

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
            "a frame larger than any window",
            header(DATA, 0, 99, (128 << 20) + 1).into(),
            Violation::FrameTooLong((128 << 20) + 1),
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
