//! Two yamux sessions as a list of operations, with a model: bytes arrive in order and none is
//! lost, windows are respected, and every frame is one that the protocol allows just then.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::{Budget, TransmitBuf};
use barewire_mux::conformance::{
    ACK, DATA, FIN, Frame, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE, frames, transmit,
};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::{Compact, Event, ReadOutcome, Role, StreamId, StreamMuxer, WriteError};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const PERIOD: usize = 4_093;
const MUCH: usize = 300_000;

/// What all streams carry, each from a place of its own on.
static BYTES: LazyLock<Bytes> = LazyLock::new(|| {
    (0..PERIOD + MUCH)
        .map(|at| (at % PERIOD * 31) as u8)
        .collect()
});

/// `len` bytes of the stream `id` in the direction from `from`, from `offset` on.
fn pattern(id: StreamId, from: usize, offset: usize, len: usize) -> Bytes {
    let start = (id.get() as usize * 194 + from * 97 + offset) % PERIOD;
    BYTES.slice(start..start + len)
}

/// Streams each side opens at most: fewer than are refused.
const MAX_OPEN: usize = 60;

/// Before any deadline of a stream or of the session.
const MAX_TIME: Duration = Duration::from_secs(14);

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Op {
    Open,
    FlushOpen(u8),
    Accept(u8),
    Write {
        stream: u8,
        len: u16,
    },
    WriteCopy {
        stream: u8,
        len: u16,
    },
    WriteMuch {
        stream: u8,
    },
    Read {
        stream: u8,
        max: u16,
    },
    ReadAll {
        stream: u8,
    },
    Finish(u8),
    Reset {
        stream: u8,
        code: u16,
    },
    Stop(u8),
    Release(u8),
    Events,
    /// One record of at most so many bytes goes onto the wire.
    Transmit(u16),
    /// So many bytes come off the wire, to this side.
    Deliver(u16),
    DeliverAll,
    Ping,
    Compact(u16),
    Timeout,
    Advance(u8),
    Close,
}

#[derive(Arbitrary, Debug)]
struct Input {
    ops: Vec<(bool, Op)>,
}

/// One direction of one stream.
#[derive(Debug, Default)]
struct Direction {
    written: usize,
    finished: bool,
    read: usize,
    ended: bool,
    /// Somebody gave the stream up: bytes may be lost.
    given_up: bool,
    // What the wire has seen of it.
    opened: bool,
    fin: bool,
    rst: bool,
    acked: bool,
    credit: u64,
}

struct Side {
    session: Session,
    /// Bytes for the other side, and the frames in them by where they end.
    wire: BytesMut,
    put: u64,
    taken: u64,
    on_wire: VecDeque<(u64, Frame)>,
    /// Streams the owner holds a handle of.
    handles: Vec<StreamId>,
    opened: usize,
    stopped: BTreeSet<StreamId>,
    pings_in: usize,
    pongs_out: usize,
    closed: bool,
}

impl Side {
    fn new(role: Role) -> Self {
        Self {
            session: Session::new(role, Config::default(), Budget::root(32 << 20), *START),
            wire: BytesMut::new(),
            put: 0,
            taken: 0,
            on_wire: VecDeque::new(),
            handles: Vec::new(),
            opened: 0,
            stopped: BTreeSet::new(),
            pings_in: 0,
            pongs_out: 0,
            closed: false,
        }
    }

    fn pick(&self, stream: u8) -> Option<StreamId> {
        let count = self.handles.len();
        (count > 0).then(|| self.handles[usize::from(stream) % count])
    }
}

struct World {
    sides: [Side; 2],
    /// By stream and by who sends (0 is the client).
    directions: BTreeMap<(StreamId, usize), Direction>,
    now: Instant,
    out: TransmitBuf,
}

fuzz_target!(|input: Input| {
    let mut world = World {
        sides: [Side::new(Role::Client), Side::new(Role::Server)],
        directions: BTreeMap::new(),
        now: *START,
        out: TransmitBuf::new(65_519),
    };
    for (server, op) in input.ops.into_iter().take(400) {
        world.apply(usize::from(server), op);
    }
    world.drain();
});

impl World {
    fn direction(&mut self, id: StreamId, from: usize) -> &mut Direction {
        let fresh = || Direction {
            credit: 256 << 10,
            ..Direction::default()
        };
        self.directions.entry((id, from)).or_insert_with(fresh)
    }

    fn give_up(&mut self, id: StreamId) {
        self.direction(id, 0).given_up = true;
        self.direction(id, 1).given_up = true;
    }

    fn apply(&mut self, at: usize, op: Op) {
        let side = &mut self.sides[at];
        match op {
            Op::Open => {
                if side.opened < MAX_OPEN
                    && let Ok(id) = side.session.open_stream(self.now)
                {
                    side.opened += 1;
                    side.handles.push(id);
                }
            }
            Op::FlushOpen(stream) => {
                if let Some(id) = side.pick(stream) {
                    side.session.flush_open(id);
                }
            }
            Op::Accept(stream) => {
                if let Some(id) = side.pick(stream) {
                    side.session.accepted(id);
                }
            }
            Op::Write { stream, len } => self.write(at, stream, usize::from(len), false),
            Op::WriteCopy { stream, len } => self.write(at, stream, usize::from(len), true),
            Op::WriteMuch { stream } => self.write(at, stream, MUCH, false),
            Op::Read { stream, max } => {
                if let Some(id) = side.pick(stream) {
                    self.read(at, id, usize::from(max));
                }
            }
            Op::ReadAll { stream } => {
                if let Some(id) = side.pick(stream) {
                    while self.read(at, id, usize::MAX) {}
                }
            }
            Op::Finish(stream) => {
                if let Some(id) = side.pick(stream)
                    && side.session.finish(id).is_ok()
                {
                    self.direction(id, at).finished = true;
                }
            }
            Op::Reset { stream, code } => {
                if let Some(id) = side.pick(stream) {
                    side.session.reset(id, code.into());
                    self.give_up(id);
                }
            }
            Op::Stop(stream) => {
                if let Some(id) = side.pick(stream) {
                    side.session.stop(id, 7);
                    side.stopped.insert(id);
                    self.give_up(id);
                }
            }
            Op::Release(stream) => {
                if let Some(id) = side.pick(stream) {
                    side.session.release(id);
                    side.handles.retain(|held| *held != id);
                    self.give_up(id);
                }
            }
            Op::Events => self.events(at),
            Op::Transmit(limit) => self.transmit(at, usize::from(limit)),
            Op::Deliver(count) => self.deliver(at, usize::from(count)),
            Op::DeliverAll => self.deliver(at, usize::MAX),
            Op::Ping => side.session.ping(self.now),
            Op::Compact(max) => side.session.compact(match max {
                u16::MAX => Compact::All,
                max => Compact::Lingering { max: max.into() },
            }),
            Op::Timeout => {
                side.session
                    .handle_timeout(self.now)
                    .expect("no deadline has passed");
            }
            Op::Advance(millis) => {
                let next = self.now + Duration::from_millis(millis.into());
                if next - *START < MAX_TIME {
                    self.now = next;
                }
            }
            Op::Close => {
                side.session.close(5);
                side.closed = true;
            }
        }
    }

    fn write(&mut self, at: usize, stream: u8, len: usize, copy: bool) {
        let Some(id) = self.sides[at].pick(stream) else {
            return;
        };
        let offset = self.direction(id, at).written;
        let data = pattern(id, at, offset, len);
        let session = &mut self.sides[at].session;
        let room = session.send_capacity(id);
        let result = if copy {
            session.write_copy(id, &data)
        } else {
            session.write(id, data).map(|()| len)
        };
        let over = self.sides.iter().any(|side| side.session.is_closed());
        let direction = self.direction(id, at);
        match result {
            Ok(count) => {
                let room = room.expect("a write that would be refused");
                assert!(room > 0 && (copy == (count <= room) || count <= room));
                assert!(!copy || count == len.min(room));
                direction.written += count;
            }
            Err(WriteError::Full) => assert_eq!(room, Ok(0)),
            Err(WriteError::Finished) => assert!(direction.finished),
            Err(_) => assert!(direction.given_up || over),
        }
    }

    /// Whether there may be more.
    fn read(&mut self, at: usize, id: StreamId, max: usize) -> bool {
        let outcome = self.sides[at].session.read(self.now, id, max);
        let over = self.sides.iter().any(|side| side.session.is_closed());
        let direction = self.direction(id, 1 - at);
        match outcome {
            ReadOutcome::Chunk(chunk) => {
                assert!(!chunk.is_empty() && chunk.len() <= max);
                assert!(!direction.ended);
                for part in chunk.chunks(MUCH) {
                    assert_eq!(part, pattern(id, 1 - at, direction.read, part.len()));
                    direction.read += part.len();
                }
                assert!(direction.read <= direction.written);
                true
            }
            ReadOutcome::Pending => false,
            ReadOutcome::Finished => {
                assert!(direction.finished);
                assert_eq!(direction.read, direction.written);
                direction.ended = true;
                false
            }
            _ => {
                assert!(direction.given_up || over, "a reset from nowhere");
                false
            }
        }
    }

    fn events(&mut self, at: usize) {
        while let Some(event) = self.sides[at].session.poll_event() {
            if let Event::Incoming(id) = event {
                assert!(!self.sides[at].handles.contains(&id));
                self.sides[at].handles.push(id);
            }
        }
    }

    fn transmit(&mut self, at: usize, limit: usize) {
        self.out.set_limit(limit.clamp(24, 65_519));
        let side = &mut self.sides[at];
        let wanted = side.session.wants_transmit();
        let Some(record) = transmit(&mut side.session, self.now, &mut self.out) else {
            return;
        };
        assert!(wanted, "frames that nobody was told of");
        side.wire.extend_from_slice(&record);
        for frame in frames(&record) {
            let side = &mut self.sides[at];
            side.put += 12 + frame.payload.len() as u64;
            side.on_wire.push_back((side.put, frame.clone()));
            self.check(at, &frame);
        }
    }

    /// Whether side `at` may send this frame now.
    fn check(&mut self, at: usize, frame: &Frame) {
        let flag = |flag| frame.flags & flag != 0;
        match frame.kind {
            PING => {
                assert!(frame.id == 0 && (frame.flags == SYN || frame.flags == ACK));
                let side = &mut self.sides[at];
                side.pongs_out += usize::from(frame.flags == ACK);
                assert!(side.pongs_out <= side.pings_in);
                return;
            }
            GO_AWAY => {
                assert!(self.sides[at].closed);
                return;
            }
            kind => assert!(kind == DATA || kind == WINDOW_UPDATE),
        }
        let id = StreamId::try_from(frame.id).expect("a stream");
        let ours = (id.get() % 2 == 1) == (at == 0);
        let theirs_opened = self.direction(id, 1 - at).opened;
        let direction = self.direction(id, at);
        assert!(!direction.rst, "a frame after a reset");
        assert_eq!(
            flag(SYN),
            ours && !direction.opened,
            "SYN is first, and once"
        );
        assert!(ours || theirs_opened);
        direction.opened = true;
        if flag(ACK) {
            assert!(!ours && !direction.acked);
            direction.acked = true;
        }
        if frame.kind == DATA {
            assert!(frame.payload.len() <= 65_507 && !frame.payload.is_empty());
            assert!(!direction.fin, "data after the end");
            let len = u64::from(frame.len);
            assert!(
                len <= direction.credit,
                "{len} bytes for {} of credit",
                direction.credit
            );
            direction.credit -= len;
        }
        if flag(FIN) {
            assert!(!direction.fin && direction.finished);
            direction.fin = true;
        }
        if flag(RST) {
            assert!(direction.given_up);
            direction.rst = true;
        }
    }

    /// Bytes that side `1 - at` has sent come to side `at`.
    fn deliver(&mut self, at: usize, count: usize) {
        let from = &mut self.sides[1 - at];
        let count = count.min(from.wire.len());
        let bytes = from.wire.split_to(count).freeze();
        from.taken += count as u64;
        while self.sides[1 - at]
            .on_wire
            .front()
            .is_some_and(|(end, _)| *end <= self.sides[1 - at].taken)
        {
            let Some((_, frame)) = self.sides[1 - at].on_wire.pop_front() else {
                break;
            };
            if frame.kind == PING && frame.flags == SYN {
                self.sides[at].pings_in += 1;
            }
            if frame.kind == WINDOW_UPDATE && frame.flags & RST == 0 {
                let id = StreamId::try_from(frame.id).expect("a stream");
                self.direction(id, at).credit += u64::from(frame.len);
            }
        }
        self.sides[at]
            .session
            .handle_input(self.now, bytes)
            .expect("frames of our own");
    }

    /// Lets everything arrive and be read, and looks whether all that was written came.
    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 4_000, "never quiet");
            let mut quiet = true;
            for at in [0, 1] {
                let put = self.sides[at].put;
                self.transmit(at, usize::MAX);
                quiet &= put == self.sides[at].put && self.sides[at].wire.is_empty();
                self.deliver(1 - at, usize::MAX);
                self.events(1 - at);
                for id in self.sides[1 - at].handles.clone() {
                    while self.read(1 - at, id, usize::MAX) {}
                }
            }
            if quiet {
                break;
            }
        }
        if self.sides.iter().any(|side| side.session.is_closed()) {
            return;
        }
        assert!(!self.sides.iter().any(|side| side.session.wants_transmit()));
        for ((id, from), direction) in &self.directions {
            if !direction.given_up {
                assert_eq!(
                    direction.read, direction.written,
                    "bytes of {id} from {from} are lost"
                );
                assert_eq!(
                    direction.ended, direction.finished,
                    "the end of {id} from {from}"
                );
            }
        }
        for side in &mut self.sides {
            assert_eq!(side.session.buffered(), 0);
            // Nothing is held once nobody holds it: our own ends go, the peer's may be missing.
            for id in std::mem::take(&mut side.handles) {
                side.session.reset(id, 0);
                side.session.release(id);
            }
            let counts = side.session.stream_counts();
            assert!(counts.inbound + counts.outbound <= side.stopped.len() + 2 * MAX_OPEN);
        }
    }
}
