//! The trait a connection task drives, and the values that cross it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use barewire_base::transmit::TransmitBuf;
use bytes::Bytes;

use crate::error::{MuxError, OpenError, WriteError};

/// Which side of the connection we are. The dialler (by security role) is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The side that dialled; opens odd stream ids.
    Client,
    /// The side that was dialled; opens even stream ids.
    Server,
}

/// Chunks that [`StreamMuxer::compact`] copies.
#[derive(Clone, Copy, Debug)]
pub enum Compact {
    /// Those that were there at the last call already.
    Lingering {
        /// Longest chunk that is copied, in bytes; a longer one is worth the buffer it keeps.
        max: usize,
    },
    /// All that were not copied before.
    All,
}

/// Number of a stream within its session. Never 0; not used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number on the wire.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for StreamId {
    type Error = ZeroStreamId;

    fn try_from(id: u32) -> Result<Self, ZeroStreamId> {
        if id == 0 {
            Err(ZeroStreamId)
        } else {
            Ok(Self(id))
        }
    }
}

/// Something kept by stream, in a map that hashes a [`StreamId`] by one multiplication instead of a keyed hash. The peer
/// chooses ids, but a map holds no more of them than streams are allowed (some hundred), so the worst chain is as short
/// as that.
pub type StreamIdMap<T> = HashMap<StreamId, T, BuildHasherDefault<StreamIdHasher>>;

/// The hasher of a [`StreamIdMap`].
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamIdHasher(u64);

impl Hasher for StreamIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, id: u32) {
        let product = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table takes its bucket from the low bits, where a product is weakest.
        self.0 = product ^ (product >> 32);
    }
}

/// 0 is no stream's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("0 is no stream's number")]
pub struct ZeroStreamId;

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the owner of a session has to know. Events about streams that have ended meanwhile are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer opened a stream. Answer with [`StreamMuxer::accepted`] once its protocol is settled.
    Incoming(StreamId),
    /// [`StreamMuxer::read`] has something to say: bytes, the end, or a reset. Told once, and again only after a
    /// `read` has answered [`ReadOutcome::Pending`].
    Readable(StreamId),
    /// A full send buffer has fallen to half, or the stream can no longer be written (the next write says why).
    /// Told only after the buffer was full, or when the stream is reset.
    Writable(StreamId),
    /// The answer to [`StreamMuxer::ping`] came after this time.
    Pong(Duration),
    /// The peer ended the session with this code. Buffered bytes may still be read; nothing else goes on.
    GoAway(u32),
    /// [`StreamMuxer::open_stream`] refused with [`OpenError::TooMany`] and may succeed now.
    CanOpen,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadOutcome {
    /// Some bytes, never empty.
    Chunk(Bytes),
    /// Nothing yet; [`Event::Readable`] follows.
    Pending,
    /// The peer finished its side and all its bytes have been read.
    Finished,
    /// The stream was reset with this code, or the session ended (code 0), or the stream is not known.
    Reset(u32),
}

/// How many streams a session holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Opened by the peer.
    pub inbound: usize,
    /// Opened by us.
    pub outbound: usize,
}

/// How often a session's limits have cost the peer a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsHit {
    /// Streams that were reset when the peer opened them, because it had as many as it may.
    pub refused: u64,
    /// Streams that were reset because the memory budget had no room for what they held.
    pub shed: u64,
}

/// A multiplexed session as a state machine.
///
/// Not promised: that bytes of different streams arrive in the order they were written; that `finish` or `reset` are
/// known to the peer before `poll_transmit` has handed them out; that a stream whose peer reset it still delivers
/// bytes that were buffered.
pub trait StreamMuxer: Send {
    /// Takes bytes as they came, in any fragmentation; keeps slices of `input` and copies nothing that is read soon.
    ///
    /// # Errors
    /// The session is over. `poll_transmit` still yields a GoAway, then the owner closes the transport (at once, or
    /// 2 s later at most). All streams read as reset.
    fn handle_input(&mut self, now: Instant, input: Bytes) -> Result<(), MuxError>;

    /// Whether to read on. While it is false and the transport takes no more of what is to be sent, leave it unread: the
    /// peer causes answers faster than it reads them, and one that opens streams beyond its limit is fine once it has
    /// read that they are refused.
    fn wants_input(&self) -> bool {
        true
    }

    /// Opens a stream. The peer learns of it with the first data, with `finish`, or by [`flush_open`](Self::flush_open).
    ///
    /// # Errors
    /// [`OpenError::TooMany`] is followed by [`Event::CanOpen`].
    fn open_stream(&mut self, now: Instant) -> Result<StreamId, OpenError>;

    /// Lets the next `poll_transmit` announce the stream although nothing was written to it.
    fn flush_open(&mut self, id: StreamId);

    /// Says that the protocol of an inbound stream is settled, which takes it out of the backlog. Streams past the
    /// backlog's bound are refused. Reading and writing is allowed before.
    fn accepted(&mut self, id: StreamId);

    /// The next event, `None` when all are told.
    fn poll_event(&mut self) -> Option<Event>;

    /// Takes at most `max` bytes from the stream, and gives the peer credit for them.
    fn read(&mut self, now: Instant, id: StreamId, max: usize) -> ReadOutcome;

    /// Queues bytes without copying them. Takes all of `data` whenever [`send_capacity`](Self::send_capacity) is above
    /// 0, so the buffer may overshoot by one item.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing was taken then.
    fn write(&mut self, id: StreamId, data: Bytes) -> Result<(), WriteError>;

    /// Copies a prefix of `data` into the send buffer and returns its length (above 0 unless `data` is empty). Small
    /// writes are gathered, so this is cheaper than [`write`](Self::write) for anything below some hundred bytes.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing was taken then.
    fn write_copy(&mut self, id: StreamId, data: &[u8]) -> Result<usize, WriteError> {
        let n = data.len().min(self.send_capacity(id)?);
        if n == 0 && !data.is_empty() {
            return Err(WriteError::Full);
        }
        self.write(id, Bytes::copy_from_slice(&data[..n]))?;
        Ok(n)
    }

    /// How many bytes the send buffer has room for; 0 when full, and then [`Event::Writable`] follows.
    ///
    /// # Errors
    /// The same as a write would get, [`WriteError::Full`] apart.
    fn send_capacity(&mut self, id: StreamId) -> Result<usize, WriteError>;

    /// Ends our side after what was written.
    ///
    /// # Errors
    /// When the side is finished already, or the stream is over.
    fn finish(&mut self, id: StreamId) -> Result<(), WriteError>;

    /// Ends both directions at once; what is queued or buffered is dropped. The code reaches peers that carry one.
    fn reset(&mut self, id: StreamId, code: u32);

    /// We will read no more: what comes is dropped and gets no credit. The stream is reset with `code` if the peer
    /// goes on after our own side has ended.
    fn stop(&mut self, id: StreamId, code: u32);

    /// The owner's handle is gone. Includes `stop`; a side that was not finished is reset with code 0. The id is
    /// forgotten when both directions are done.
    fn release(&mut self, id: StreamId);

    /// Appends frames to `out`, at most `out.remaining()` bytes: control frames first, then one frame per stream in
    /// turn. Returns whether anything was appended. To be called again (with an emptied `out`) until it returns false.
    fn poll_transmit(&mut self, now: Instant, out: &mut TransmitBuf) -> bool;

    /// Whether [`poll_transmit`](Self::poll_transmit) may have something to say. False spares the owner the call.
    fn wants_transmit(&self) -> bool {
        true
    }

    /// Copies unread and unsent chunks out of the buffers they are slices of, so that a few unread bytes do not keep a
    /// large buffer alive.
    fn compact(&mut self, which: Compact) {
        let _ = which;
    }

    /// Bytes that wait to be read or sent.
    fn held(&self) -> usize {
        0
    }

    /// Received bytes that were copied, because they were not read soon, or in the backend.
    fn bytes_copied(&self) -> u64;

    /// Measures the round trip; [`Event::Pong`] tells it.
    fn ping(&mut self, now: Instant);

    /// Ends the session: what is queued is dropped, the next `poll_transmit` yields a GoAway with `code`.
    fn close(&mut self, code: u32);

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called; changes with every other call.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Does what is due. A call before its time is harmless.
    ///
    /// # Errors
    /// As in [`handle_input`](Self::handle_input).
    fn handle_timeout(&mut self, now: Instant) -> Result<(), MuxError>;

    /// The last measured round trip.
    fn rtt(&self) -> Option<Duration>;

    /// Streams that are not forgotten yet.
    fn stream_counts(&self) -> StreamCounts;

    /// What the limits have cost the peer so far.
    fn limits_hit(&self) -> LimitsHit {
        LimitsHit::default()
    }

    /// Bytes received and not yet read.
    fn buffered(&self) -> usize;

    /// Bytes written and not yet handed out by [`poll_transmit`](Self::poll_transmit), and ends of streams not yet told,
    /// counted as one byte each. 0 means that a close loses nothing.
    fn queued(&self) -> usize;

    /// Whether the session has ended, by either side.
    fn is_closed(&self) -> bool;

    /// The stream with the most unread and unsent bytes, for an owner that must get memory back.
    fn fattest_stream(&self) -> Option<(StreamId, usize)>;
}
