//! Arbitrary frames, and arbitrary bytes, to one yamux session whose owner reads, writes and
//! lets go as it likes. Whatever comes: no panic, no more memory than the windows allow, no more
//! answers than questions, and after an error one GoAway and silence.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::{Budget, TransmitBuf};
use barewire_mux::conformance::{ACK, GO_AWAY, PING, frames, header, transmit};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::{Event, Role, StreamId, StreamMuxer};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Arbitrary, Debug)]
enum Op {
    /// A frame that is mostly right.
    Frame {
        kind: u8,
        flags: u8,
        id: u8,
        payload: u16,
        whole: bool,
    },
    /// A frame of any content.
    Header {
        version: u8,
        kind: u8,
        flags: u16,
        id: u32,
        len: u32,
    },
    Bytes(Vec<u8>),
    Write {
        stream: u8,
        len: u16,
    },
    Read {
        stream: u8,
        max: u16,
    },
    Finish(u8),
    Reset(u8),
    Stop(u8),
    Release(u8),
    Accept(u8),
    Open,
    Ping,
    Transmit(u16),
    Advance(u16),
}

#[derive(Arbitrary, Debug)]
struct Input {
    client: bool,
    budget: u32,
    ops: Vec<Op>,
}

fuzz_target!(|input: Input| {
    let role = if input.client {
        Role::Client
    } else {
        Role::Server
    };
    let budget = Budget::root(input.budget as usize % (64 << 20));
    let mut session = Session::new(role, Config::default(), budget.clone(), *START);
    let mut now = *START;
    let mut out = TransmitBuf::new(65_519);
    let mut handles: Vec<StreamId> = Vec::new();
    let (mut pings, mut pongs, mut failed, mut received) = (0, 0, None, 0);
    for op in input.ops.into_iter().take(500) {
        let pick = |stream: u8| {
            let count = handles.len();
            (count > 0).then(|| handles[usize::from(stream) % count])
        };
        let bytes = match op {
            Op::Frame {
                kind,
                flags,
                id,
                payload,
                whole,
            } => {
                let kind = kind % 4;
                pings += usize::from(kind == PING);
                // Few ids, so that frames meet streams.
                let id = if kind >= PING { 0 } else { u32::from(id % 32) };
                let mut bytes = header(kind, (flags % 16).into(), id, payload.into()).to_vec();
                if kind == 0 && whole {
                    bytes.resize(12 + usize::from(payload), id as u8);
                }
                bytes
            }
            Op::Header {
                version,
                kind,
                flags,
                id,
                len,
            } => {
                pings += usize::from(kind == PING);
                let mut bytes = header(kind, flags, id, len);
                bytes[0] = version;
                bytes.to_vec()
            }
            Op::Bytes(bytes) => {
                // Any of them may turn out as a ping.
                pings += 1 + bytes.len() / 12;
                bytes
            }
            Op::Write { stream, len } => {
                if let Some(id) = pick(stream) {
                    let _ = session.write(id, vec![1; len.into()].into());
                }
                continue;
            }
            Op::Read { stream, max } => {
                if let Some(id) = pick(stream) {
                    session.read(now, id, max.into());
                }
                continue;
            }
            Op::Finish(stream) => {
                let _ = pick(stream).map(|id| session.finish(id));
                continue;
            }
            Op::Reset(stream) => {
                let _ = pick(stream).map(|id| session.reset(id, 3));
                continue;
            }
            Op::Stop(stream) => {
                let _ = pick(stream).map(|id| session.stop(id, 3));
                continue;
            }
            Op::Release(stream) => {
                if let Some(id) = pick(stream) {
                    session.release(id);
                    handles.retain(|held| *held != id);
                }
                continue;
            }
            Op::Accept(stream) => {
                let _ = pick(stream).map(|id| session.accepted(id));
                continue;
            }
            Op::Open => {
                handles.extend(session.open_stream(now));
                continue;
            }
            Op::Ping => {
                session.ping(now);
                continue;
            }
            Op::Transmit(limit) => {
                out.set_limit(usize::from(limit).max(24));
                let Some(record) = transmit(&mut session, now, &mut out) else {
                    continue;
                };
                for frame in frames(&record) {
                    pongs += usize::from(frame.kind == PING && frame.flags == ACK);
                    assert_eq!(frame.kind == GO_AWAY, failed.is_some());
                }
                assert!(pongs <= pings, "answers to nothing");
                continue;
            }
            Op::Advance(millis) => {
                now += Duration::from_millis(millis.into());
                if session.poll_timeout().is_some_and(|at| at <= now)
                    && let Err(error) = session.handle_timeout(now)
                {
                    failed.get_or_insert(error);
                }
                continue;
            }
        };
        received += bytes.len();
        match (session.handle_input(now, Bytes::from(bytes)), &failed) {
            (Err(error), None) => failed = Some(error),
            (result, Some(error)) => assert_eq!(result.as_ref(), Err(error)),
            (Ok(()), None) => {}
        }
        while let Some(event) = session.poll_event() {
            if let Event::Incoming(id) = event {
                handles.push(id);
            }
        }
        let counts = session.stream_counts();
        assert!(counts.inbound <= 256 && counts.outbound <= 256);
        assert!(session.buffered() <= received);
        assert!(budget.used() <= budget.limit());
        assert!(session.buffered() <= budget.used().max(256 << 10) + (256 << 10));
    }
    if failed.is_some() {
        let last: Vec<_> = std::iter::from_fn(|| transmit(&mut session, now, &mut out)).collect();
        assert!(last.len() <= 1 && last.iter().all(|record| record.len() == 12));
    }
    for id in handles {
        session.reset(id, 0);
        session.release(id);
    }
    assert_eq!(session.buffered(), 0);
    drop(session);
    assert_eq!(budget.used(), 0);
});
