//! What every [`StreamMuxer`] has to do, as functions that panic if it does not, and the harness they run in.
//!
//! [`conformance_tests`](crate::conformance_tests) makes tests of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test suite"
)]

mod pair;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use barewire_base::TransmitBuf;
use bytes::Bytes;

pub use pair::{Pair, RECORD, Wire, transmit};

use crate::{Event, OpenError, ReadOutcome, StreamId, StreamMuxer, WriteError};

/// Long enough for everything here, in the harness's time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two sessions to be tested with each other.
pub trait Backend {
    /// The side that dials.
    type Client: StreamMuxer;
    /// The side that is dialled.
    type Server: StreamMuxer;
    /// Whether reset codes reach the peer.
    const CODES: bool;
    /// A session with [`Role::Client`](crate::Role::Client).
    fn client(now: Instant) -> Self::Client;
    /// A session with [`Role::Server`](crate::Role::Server).
    fn server(now: Instant) -> Self::Server;
}

/// Makes a test of each function of the suite, for a [`Backend`].
#[macro_export]
macro_rules! conformance_tests {
    ($backend:ty: $($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                $crate::conformance::$name::<$backend>();
            }
        )+
    };
    ($backend:ty) => {
        $crate::conformance_tests!($backend:
            echo, echo_a_byte_at_a_time, half_close, one_frame_stream, empty_stream, reset_by_opener,
            reset_by_acceptor, release_without_finish, backpressure, parallel_streams, large_data,
            large_data_over_a_slow_path, go_away, open_limit, misuse,
        );
    };
}

type Sessions<B> = Pair<<B as Backend>::Client, <B as Backend>::Server>;

fn pair<B: Backend>() -> Sessions<B> {
    let now = Instant::now();
    Pair::new(B::client(now), B::server(now), now).with_path(Duration::from_millis(2), None)
}

/// A frame's header, of any content.
pub fn header(kind: u8, flags: u16, id: u32, len: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[1] = kind;
    bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    bytes[4..8].copy_from_slice(&id.to_be_bytes());
    bytes[8..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Type of a frame with payload.
pub const DATA: u8 = 0;
/// Type of a frame with credit.
pub const WINDOW_UPDATE: u8 = 1;
/// Type of a frame that asks for an echo of its value, or is one.
pub const PING: u8 = 2;
/// Type of the frame that ends a session.
pub const GO_AWAY: u8 = 3;
/// Flag that opens a stream.
pub const SYN: u16 = 1;
/// Flag that acknowledges a stream.
pub const ACK: u16 = 2;
/// Flag that ends the sender's side.
pub const FIN: u16 = 4;
/// Flag that ends both sides.
pub const RST: u16 = 8;

/// A data frame.
pub fn data(flags: u16, id: u32, payload: &[u8]) -> Vec<u8> {
    [&header(DATA, flags, id, payload.len() as u32)[..], payload].concat()
}

/// A frame as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type.
    pub kind: u8,
    /// Flags.
    pub flags: u16,
    /// Stream id.
    pub id: u32,
    /// The length field.
    pub len: u32,
    /// Payload of a data frame.
    pub payload: Vec<u8>,
}

/// Splits what a session has sent into frames; the bytes must end with one.
pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (kind, len) = (bytes[1], word(8));
        let payload = if kind == DATA { len as usize } else { 0 };
        frames.push(Frame {
            kind,
            flags: u16::from_be_bytes([bytes[2], bytes[3]]),
            id: word(4),
            len,
            payload: bytes[12..12 + payload].to_vec(),
        });
        bytes = &bytes[12 + payload..];
    }
    frames
}

/// All frames a session has to send now.
pub fn sent(muxer: &mut impl StreamMuxer, now: Instant) -> Vec<Frame> {
    let mut out = TransmitBuf::new(RECORD);
    let records = std::iter::from_fn(|| transmit(muxer, now, &mut out));
    records.flat_map(|record| frames(&record)).collect()
}

/// The bytes of stream `seed` from `offset` on.
pub fn pattern(seed: u32, offset: usize, len: usize) -> Bytes {
    (offset..offset + len)
        .map(|at| {
            (at as u32)
                .wrapping_mul(31)
                .wrapping_add(seed.wrapping_mul(97)) as u8
        })
        .collect()
}

/// Reads all there is. The second is what came last: `Pending`, `Finished` or `Reset`.
pub fn read_all(
    muxer: &mut impl StreamMuxer,
    now: Instant,
    id: StreamId,
) -> (Vec<u8>, ReadOutcome) {
    let mut got = Vec::new();
    loop {
        match muxer.read(now, id, usize::MAX) {
            ReadOutcome::Chunk(chunk) => {
                assert!(!chunk.is_empty());
                got.extend_from_slice(&chunk);
            }
            end => return (got, end),
        }
    }
}

/// The first stream the server is told of.
fn incoming(events: &[Event]) -> StreamId {
    events
        .iter()
        .find_map(|event| match event {
            Event::Incoming(id) => Some(*id),
            _ => None,
        })
        .expect("an incoming stream")
}

fn no_streams<A: StreamMuxer, B: StreamMuxer>(pair: &mut Pair<A, B>) {
    pair.settle(PATIENCE);
    for counts in [pair.client.stream_counts(), pair.server.stream_counts()] {
        assert_eq!((counts.inbound, counts.outbound), (0, 0));
    }
    assert_eq!((pair.client.buffered(), pair.server.buffered()), (0, 0));
    assert_eq!((&pair.client_error, &pair.server_error), (&None, &None));
}

fn echo_over<B: Backend>(mut pair: Sessions<B>) {
    for round in 0..3 {
        let id = pair.client.open_stream(pair.now).unwrap();
        let sent = pattern(round, 0, 3_000);
        pair.client.write(id, sent.slice(..1_000)).unwrap();
        assert_eq!(pair.client.write_copy(id, &sent[1_000..]).unwrap(), 2_000);
        pair.settle(PATIENCE);
        let there = incoming(&pair.server_events());
        assert_eq!(there, id);
        pair.server.accepted(there);
        let (got, end) = read_all(&mut pair.server, pair.now, there);
        assert_eq!((&got[..], end), (&sent[..], ReadOutcome::Pending));
        pair.server.write(there, got.into()).unwrap();
        pair.server.finish(there).unwrap();
        pair.settle(PATIENCE);
        assert!(pair.client_events().contains(&Event::Readable(id)));
        let (got, end) = read_all(&mut pair.client, pair.now, id);
        assert_eq!((&got[..], end), (&sent[..], ReadOutcome::Finished));
        pair.client.finish(id).unwrap();
        pair.client.release(id);
        pair.settle(PATIENCE);
        assert!(pair.server_events().contains(&Event::Readable(there)));
        assert_eq!(pair.server.read(pair.now, there, 1), ReadOutcome::Finished);
        pair.server.release(there);
        no_streams(&mut pair);
    }
}

/// Open, write, read, answer, end, forget.
pub fn echo<B: Backend>() {
    echo_over::<B>(pair::<B>());
}

/// The same with every byte delivered alone.
pub fn echo_a_byte_at_a_time<B: Backend>() {
    echo_over::<B>(pair::<B>().with_fragments(1));
}

/// A side that has finished still gets everything the other sends.
pub fn half_close<B: Backend>() {
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client.write(id, Bytes::from_static(b"ask")).unwrap();
    pair.client.finish(id).unwrap();
    assert_eq!(
        pair.client.write(id, Bytes::from_static(b"more")),
        Err(WriteError::Finished)
    );
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    pair.server.accepted(there);
    let (got, end) = read_all(&mut pair.server, pair.now, there);
    assert_eq!((&got[..], end), (&b"ask"[..], ReadOutcome::Finished));
    let answer = pattern(7, 0, 700_000);
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < answer.len() {
        while sent < answer.len() && pair.server.send_capacity(there).unwrap() > 0 {
            let upto = (sent + 100_000).min(answer.len());
            pair.server.write(there, answer.slice(sent..upto)).unwrap();
            sent = upto;
        }
        assert!(pair.step(pair.now + PATIENCE), "stuck at {}", got.len());
        got.extend(read_all(&mut pair.client, pair.now, id).0);
    }
    assert_eq!(got, answer);
    pair.server.finish(there).unwrap();
    pair.server.release(there);
    pair.settle(PATIENCE);
    assert_eq!(pair.client.read(pair.now, id, 1), ReadOutcome::Finished);
    pair.client.release(id);
    no_streams(&mut pair);
}

/// A stream whose beginning, data and end come together.
pub fn one_frame_stream<B: Backend>() {
    let mut pair = pair::<B>();
    let ids: Vec<_> = (0..20u32)
        .map(|n| {
            let id = pair.client.open_stream(pair.now).unwrap();
            pair.client.write(id, pattern(n, 0, 100)).unwrap();
            pair.client.finish(id).unwrap();
            pair.client.release(id);
            id
        })
        .collect();
    pair.settle(PATIENCE);
    let told: Vec<_> = pair
        .server_events()
        .into_iter()
        .filter_map(|e| {
            if let Event::Incoming(id) = e {
                Some(id)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(told, ids);
    for (n, id) in ids.into_iter().enumerate() {
        pair.server.accepted(id);
        let (got, end) = read_all(&mut pair.server, pair.now, id);
        assert_eq!(
            (&got[..], end),
            (&pattern(n as u32, 0, 100)[..], ReadOutcome::Finished)
        );
        pair.server.finish(id).unwrap();
        pair.server.release(id);
    }
    no_streams(&mut pair);
}

/// A stream without any data, ended by both, and one that is announced by `flush_open`.
pub fn empty_stream<B: Backend>() {
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.settle(PATIENCE);
    assert!(
        pair.server_events().is_empty(),
        "a stream is announced with its first data"
    );
    pair.client.finish(id).unwrap();
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    assert_eq!(pair.server.read(pair.now, there, 1), ReadOutcome::Finished);
    pair.server.finish(there).unwrap();
    pair.settle(PATIENCE);
    assert_eq!(pair.client.read(pair.now, id, 1), ReadOutcome::Finished);
    pair.client.release(id);
    pair.server.release(there);

    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client.flush_open(id);
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    assert_eq!(pair.server.read(pair.now, there, 1), ReadOutcome::Pending);
    pair.server
        .write(there, Bytes::from_static(b"first word"))
        .unwrap();
    pair.server.finish(there).unwrap();
    pair.settle(PATIENCE);
    let (got, end) = read_all(&mut pair.client, pair.now, id);
    assert_eq!((&got[..], end), (&b"first word"[..], ReadOutcome::Finished));
    pair.client.finish(id).unwrap();
    pair.client.release(id);
    pair.server.release(there);
    no_streams(&mut pair);
}

fn check_reset(outcome: ReadOutcome, code: u32, codes: bool) {
    match outcome {
        ReadOutcome::Reset(got) => assert!(!codes || got == code, "code {got}"),
        other => panic!("{other:?}"),
    }
}

/// The opener resets; the acceptor's reads and writes say so.
pub fn reset_by_opener<B: Backend>() {
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client.write(id, Bytes::from_static(b"x")).unwrap();
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    pair.server.accepted(there);
    assert_eq!(
        read_all(&mut pair.server, pair.now, there).1,
        ReadOutcome::Pending
    );
    pair.client.reset(id, 0x1004);
    pair.client.release(id);
    pair.settle(PATIENCE);
    assert!(pair.server_events().contains(&Event::Readable(there)));
    check_reset(pair.server.read(pair.now, there, 1), 0x1004, B::CODES);
    assert!(matches!(
        pair.server.write(there, Bytes::from_static(b"y")),
        Err(WriteError::Reset(_))
    ));
    pair.server.release(there);
    no_streams(&mut pair);
}

/// The acceptor resets; the opener's reads and writes say so, and what waited to be sent is dropped.
pub fn reset_by_acceptor<B: Backend>() {
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client.write(id, pattern(1, 0, 600_000)).unwrap();
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    assert_eq!(
        read_all(&mut pair.client, pair.now, id).1,
        ReadOutcome::Pending
    );
    pair.client_events();
    pair.server.reset(there, 0x1002);
    pair.server.release(there);
    pair.settle(PATIENCE);
    assert!(pair.client_events().contains(&Event::Readable(id)));
    check_reset(pair.client.read(pair.now, id, 1), 0x1002, B::CODES);
    assert!(matches!(
        pair.client.send_capacity(id),
        Err(WriteError::Reset(_))
    ));
    pair.client.release(id);
    no_streams(&mut pair);
}

/// A handle that goes away without an end is a reset for the peer, not an end.
pub fn release_without_finish<B: Backend>() {
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client
        .write(id, Bytes::from_static(b"half a mess"))
        .unwrap();
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    pair.client.release(id);
    pair.settle(PATIENCE);
    assert!(matches!(
        read_all(&mut pair.server, pair.now, there).1,
        ReadOutcome::Reset(_)
    ));
    pair.server.release(there);
    no_streams(&mut pair);
}

/// A reader that does not read stops the writer at a bound, and nothing is lost when it goes on.
pub fn backpressure<B: Backend>() {
    const ITEM: usize = 50_000;
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    let mut sent = 0;
    for _ in 0..100 {
        while pair.client.send_capacity(id).unwrap() > 0 {
            pair.client.write(id, pattern(3, sent, ITEM)).unwrap();
            sent += ITEM;
            assert!(sent < 10 << 20, "no bound");
        }
        assert_eq!(
            pair.client.write(id, Bytes::from_static(b"x")),
            Err(WriteError::Full)
        );
        pair.settle(PATIENCE);
    }
    assert!(sent <= (1 << 20) + (256 << 10) + ITEM, "{sent}");
    assert!(pair.server.buffered() <= 256 << 10);
    let there = incoming(&pair.server_events());
    pair.client_events();
    pair.server.accepted(there);
    let (mut got, mut told) = (Vec::new(), false);
    while got.len() < sent {
        let (more, end) = read_all(&mut pair.server, pair.now, there);
        assert_eq!(end, ReadOutcome::Pending);
        got.extend(more);
        told |= pair.client_events().contains(&Event::Writable(id));
        assert!(
            got.len() == sent || pair.step(pair.now + PATIENCE),
            "stuck at {}",
            got.len()
        );
    }
    assert!(told, "the writer is told that there is room");
    assert_eq!(got, pattern(3, 0, sent));
}

/// 64 streams each way at once, each with its own bytes.
pub fn parallel_streams<B: Backend>() {
    const EACH: usize = 300_000;
    let mut pair = pair::<B>();
    // By (opened by the client?, id): what was sent and what the other side got.
    let mut sent: BTreeMap<(bool, StreamId), usize> = BTreeMap::new();
    let mut got: BTreeMap<(bool, StreamId), (usize, bool)> = BTreeMap::new();
    for _ in 0..64 {
        sent.insert((true, pair.client.open_stream(pair.now).unwrap()), 0);
        sent.insert((false, pair.server.open_stream(pair.now).unwrap()), 0);
    }
    let until = pair.now + Duration::from_secs(60);
    while got.values().filter(|(_, finished)| *finished).count() < 128 {
        for ((by_client, id), done) in &mut sent {
            let from: &mut dyn StreamMuxer = if *by_client {
                &mut pair.client
            } else {
                &mut pair.server
            };
            while *done < EACH && from.send_capacity(*id).unwrap() > 0 {
                from.write(*id, pattern(id.get(), *done, 10_000)).unwrap();
                *done += 10_000;
                if *done == EACH {
                    from.finish(*id).unwrap();
                }
            }
        }
        assert!(pair.step(until), "stuck");
        let now = pair.now;
        for by_client in [true, false] {
            let to: &mut dyn StreamMuxer = if by_client {
                &mut pair.server
            } else {
                &mut pair.client
            };
            while let Some(event) = to.poll_event() {
                match event {
                    Event::Incoming(id) => {
                        to.accepted(id);
                        got.insert((by_client, id), (0, false));
                    }
                    Event::Readable(id) if got.contains_key(&(by_client, id)) => {
                        let (at, finished) = got.get_mut(&(by_client, id)).unwrap();
                        loop {
                            match to.read(now, id, usize::MAX) {
                                ReadOutcome::Chunk(chunk) => {
                                    assert_eq!(chunk, pattern(id.get(), *at, chunk.len()));
                                    *at += chunk.len();
                                }
                                ReadOutcome::Pending => break,
                                ReadOutcome::Finished => {
                                    *finished = true;
                                    break;
                                }
                                other => panic!("{other:?}"),
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(got.values().all(|(bytes, _)| *bytes == EACH));
}

fn transfer<B: Backend>(mut pair: Sessions<B>, total: usize) {
    let id = pair.client.open_stream(pair.now).unwrap();
    let item = pattern(5, 0, 1 << 18);
    let (mut sent, mut got) = (0, 0);
    let until = pair.now + Duration::from_secs(3_600);
    loop {
        while sent < total && pair.client.send_capacity(id).unwrap() > 0 {
            let len = item.len().min(total - sent);
            pair.client.write(id, item.slice(..len)).unwrap();
            sent += len;
            if sent == total {
                pair.client.finish(id).unwrap();
            }
        }
        let stepped = pair.step(until);
        let end = loop {
            match pair.server.read(pair.now, id, usize::MAX) {
                ReadOutcome::Chunk(chunk) => check_chunk(&item, &mut got, &chunk),
                end => break end,
            }
        };
        if end == ReadOutcome::Finished {
            break;
        }
        assert!(stepped, "stuck at {got}");
    }
    assert_eq!(got, total);
}

/// Compares with the repeated `item`.
fn check_chunk(item: &[u8], got: &mut usize, mut chunk: &[u8]) {
    while !chunk.is_empty() {
        let from = &item[*got % item.len()..];
        let len = from.len().min(chunk.len());
        assert!(from[..len] == chunk[..len], "bytes differ near {got}");
        *got += len;
        chunk = &chunk[len..];
    }
}

/// 32 MiB over one stream.
pub fn large_data<B: Backend>() {
    transfer::<B>(pair::<B>(), 32 << 20);
}

/// 4 MiB over 20 ms and 10 MB/s, in pieces of 1,000 bytes.
pub fn large_data_over_a_slow_path<B: Backend>() {
    let pair = pair::<B>()
        .with_path(Duration::from_millis(20), Some(10_000_000))
        .with_fragments(1_000);
    transfer::<B>(pair, 4 << 20);
}

/// A session that is closed takes its streams with it, on both sides.
pub fn go_away<B: Backend>() {
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client.write(id, Bytes::from_static(b"x")).unwrap();
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    assert_eq!(
        read_all(&mut pair.server, pair.now, there).1,
        ReadOutcome::Pending
    );
    pair.client.close(0);
    assert!(pair.client.is_closed());
    assert_eq!(pair.client.open_stream(pair.now), Err(OpenError::Closed));
    assert!(matches!(
        pair.client.read(pair.now, id, 1),
        ReadOutcome::Reset(_)
    ));
    pair.settle(PATIENCE);
    let events = pair.server_events();
    assert!(events.contains(&Event::GoAway(0)), "{events:?}");
    assert!(events.contains(&Event::Readable(there)), "{events:?}");
    assert!(pair.server.is_closed());
    assert!(matches!(
        pair.server.read(pair.now, there, 1),
        ReadOutcome::Reset(_)
    ));
    assert!(matches!(
        pair.server.write(there, Bytes::from_static(b"y")),
        Err(WriteError::Closed | WriteError::Reset(_))
    ));
    assert_eq!(pair.server.open_stream(pair.now), Err(OpenError::Closed));
    pair.client.release(id);
    pair.server.release(there);
    no_streams(&mut pair);
}

/// Streams that are open stop at a bound; the owner is told when one more may be opened.
pub fn open_limit<B: Backend>() {
    let mut pair = pair::<B>();
    let mut ids = Vec::new();
    let refused = loop {
        match pair.client.open_stream(pair.now) {
            Ok(id) => {
                pair.client.write(id, Bytes::from_static(b"x")).unwrap();
                pair.client.finish(id).unwrap();
                ids.push(id);
            }
            Err(error) => break error,
        }
        assert!(ids.len() <= 256);
    };
    assert_eq!(refused, OpenError::TooMany);
    assert!(!pair.client_events().contains(&Event::CanOpen));
    let mut told = false;
    for _ in 0..20 {
        pair.settle(PATIENCE);
        for event in pair.server_events() {
            if let Event::Incoming(id) = event {
                pair.server.accepted(id);
                assert_eq!(
                    read_all(&mut pair.server, pair.now, id).1,
                    ReadOutcome::Finished
                );
                pair.server.finish(id).unwrap();
                pair.server.release(id);
            }
        }
        for event in pair.client_events() {
            match event {
                Event::CanOpen => told = true,
                Event::Readable(id) => pair.client.release(id),
                _ => {}
            }
        }
    }
    assert!(told);
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client.write(id, Bytes::from_static(b"x")).unwrap();
    pair.settle(PATIENCE);
    assert_eq!(incoming(&pair.server_events()), id);
}

/// Calls about streams that are not there, and calls twice, answer and do no harm.
pub fn misuse<B: Backend>() {
    let mut pair = pair::<B>();
    let id = pair.client.open_stream(pair.now).unwrap();
    pair.client.finish(id).unwrap();
    assert_eq!(pair.client.finish(id), Err(WriteError::Finished));
    assert_eq!(pair.client.send_capacity(id), Err(WriteError::Finished));
    pair.settle(PATIENCE);
    let there = incoming(&pair.server_events());
    pair.server.accepted(there);
    pair.server.accepted(there);
    pair.server.write(there, Bytes::new()).unwrap();
    pair.server.finish(there).unwrap();
    pair.server.release(there);
    pair.settle(PATIENCE);
    pair.client.release(id);
    for _ in 0..2 {
        pair.client.release(id);
        pair.client.reset(id, 1);
        pair.client.stop(id, 1);
        pair.client.flush_open(id);
        pair.client.accepted(id);
    }
    assert_eq!(
        pair.client.write(id, Bytes::from_static(b"x")),
        Err(WriteError::Unknown)
    );
    assert_eq!(pair.client.finish(id), Err(WriteError::Unknown));
    assert!(matches!(
        pair.client.read(pair.now, id, 1),
        ReadOutcome::Reset(_)
    ));
    no_streams(&mut pair);
}
