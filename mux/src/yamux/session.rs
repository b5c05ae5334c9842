//! The session: its state, the owner's calls, and how streams begin and end.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use barewire_base::Budget;

use super::Config;
use super::frame::HEADER_LEN;
use super::ids::{IdMap, Key, UsedIds};
use super::input::Body;
use super::memory::Memory;
use super::schedule::Schedule;
use super::stream::{INITIAL_WINDOW, Stream};
use super::timers::Timers;
use crate::error::{MuxError, WriteError};
use crate::muxer::{LimitsHit, Role, StreamCounts, StreamId, StreamMuxer};

/// Streams of ours that the peer has not acknowledged: go and rust stop opening at this many.
const MAX_UNACKED: usize = 256;

/// What a stream may queue when all together hold more than [`Config::send_memory`], or the budget is used up.
const SEND_BUFFER_UNDER_PRESSURE: usize = 64 << 10;

/// A yamux session: frames in, frames out, streams in between.
///
/// - Received payload is handed out as slices of the input, also while its frame is not complete. What is not read when
///   the next input comes and is shorter than 8 KiB is copied out, so that it pins no slab.
/// - Credit is given for bytes that were read, in steps of at least half a window. Windows start at 256 KiB and follow
///   three times the measured bandwidth-delay product, at most doubling per round trip.
/// - Frames of control go first; then each ready stream sends one frame of up to 65,507 bytes in turn.
/// - Equal calls with equal times give equal frames and events.
pub struct Session {
    pub(super) role: Role,
    pub(super) config: Config,

    pub(super) head: [u8; HEADER_LEN],
    pub(super) head_len: u8,
    pub(super) body: Body,
    /// Streams that hold small slices of recent inputs.
    pub(super) unsettled: Vec<Key>,
    pub(super) limits_hit: LimitsHit,
    /// Received bytes that were copied because they were not read soon.
    pub(super) copied: u64,

    pub(super) slots: Vec<Option<Box<Stream>>>,
    free: Vec<u32>,
    ids: IdMap,
    /// The stream that was looked up last.
    pub(super) recent: Key,
    pub(super) used: UsedIds,
    /// Our next id; wider than an id, to pass the last one.
    pub(super) next_id: u64,
    pub(super) counts: StreamCounts,
    /// Inbound streams that were not accepted.
    pub(super) pending: usize,
    /// Outbound streams that were not acknowledged.
    pub(super) unacked: usize,
    pub(super) want_open: bool,

    pub(super) pongs: VecDeque<u32>,
    /// Pings that were dropped because too many wait for their pong, since a pong went out.
    pub(super) unanswered_pings: u32,
    pub(super) resets: VecDeque<(u32, u32)>,
    pub(super) control: VecDeque<Key>,
    pub(super) schedule: Schedule,
    pub(super) go_away: Option<u32>,
    pub(super) ended: Option<Ended>,

    pub(super) events: VecDeque<Key>,
    pub(super) pong_event: Option<Duration>,
    pub(super) can_open_event: bool,
    pub(super) go_away_event: Option<u32>,

    pub(super) timers: Timers,
    pub(super) memory: Memory,
}

/// Who ended the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Us,
    Peer,
    Error(MuxError),
}

/// The stream a key names, if it still does.
#[inline]
pub(super) fn get(slots: &mut [Option<Box<Stream>>], key: Key) -> Option<&mut Stream> {
    slots
        .get_mut(key.slot as usize)?
        .as_deref_mut()
        .filter(|stream| stream.id == key.id)
}

impl Session {
    /// A session that begins at `now`. What it buffers and the windows it grants are charged to `budget`, at most
    /// `config.memory` of it.
    pub fn new(role: Role, config: Config, budget: Budget, now: Instant) -> Self {
        let mut config = config;
        config.max_stream_window = config.max_stream_window.max(INITIAL_WINDOW);
        let (ours, theirs) = match role {
            Role::Client => (1, 2),
            Role::Server => (2, 1),
        };
        Self {
            role,
            config,
            head: [0; HEADER_LEN],
            head_len: 0,
            body: Body::NONE,
            unsettled: Vec::new(),
            limits_hit: LimitsHit::default(),
            copied: 0,
            slots: Vec::new(),
            free: Vec::new(),
            ids: IdMap::default(),
            recent: Key { slot: 0, id: 0 },
            used: UsedIds::new(theirs),
            next_id: ours,
            counts: StreamCounts::default(),
            pending: 0,
            unacked: 0,
            want_open: false,
            pongs: VecDeque::new(),
            unanswered_pings: 0,
            resets: VecDeque::new(),
            control: VecDeque::new(),
            schedule: Schedule::default(),
            go_away: None,
            ended: None,
            events: VecDeque::new(),
            pong_event: None,
            can_open_event: false,
            go_away_event: None,
            timers: Timers::new(now),
            memory: Memory::new(budget.child(config.memory)),
        }
    }

    /// Resets the stream with the most unread bytes, to get memory back. Returns which it was and how much it held.
    pub fn reset_fattest(&mut self, code: u32) -> Option<(StreamId, usize)> {
        let (id, bytes) = self.fattest_stream()?;
        self.reset(id, code);
        Some((id, bytes))
    }

    /// How many bytes of the stream may be unread at present: its receive window, in bytes.
    pub fn receive_window(&self, id: StreamId) -> Option<u32> {
        let key = self.find(id.0)?;
        Some(self.slots.get(key.slot as usize)?.as_deref()?.max_window)
    }

    // ---- looking up

    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<Key> {
        if self.recent.id == id && id != 0 {
            return Some(self.recent);
        }
        self.ids.get(&id).map(|slot| Key { slot: *slot, id })
    }

    /// Finds a stream and remembers it for the next look-up.
    #[inline]
    pub(super) fn seek(&mut self, id: u32) -> Option<Key> {
        let key = self.find(id)?;
        self.recent = key;
        Some(key)
    }

    // ---- beginnings and ends of streams

    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(place) = self.slots.get_mut(slot as usize) {
                    *place = Some(Box::new(stream));
                }
                slot
            }
            None => {
                self.slots.push(Some(Box::new(stream)));
                (self.slots.len() - 1) as u32
            }
        };
        self.ids.insert(id, slot);
        self.recent = Key { slot, id };
        self.recent
    }

    /// Forgets a stream. Entries in the queues that name it are skipped when their turn comes.
    pub(super) fn remove(&mut self, key: Key) {
        let Some(place) = self.slots.get_mut(key.slot as usize) else {
            return;
        };
        let Some(mut stream) = place.take_if(|stream| stream.id == key.id) else {
            return;
        };
        let unread = stream.recv.clear();
        self.memory.release(unread);
        self.memory.sent(stream.send.len());
        self.memory.ungrow(stream.grown());
        self.memory.forget();
        self.ids.remove(&key.id);
        self.free.push(key.slot);
        if self.recent.id == key.id {
            self.recent = Key { slot: 0, id: 0 };
        }
        if self.ids.is_empty() {
            self.shrink();
        }
    }

    /// With the last stream goes the memory that many streams have taken.
    fn shrink(&mut self) {
        const KEEP: usize = 16;
        if self.slots.capacity() > KEEP {
            self.slots = Vec::new();
            self.free = Vec::new();
            self.ids = IdMap::default();
        }
        self.unsettled.shrink_to(KEEP);
        if self.control.capacity() > KEEP {
            self.control = VecDeque::new();
        }
        if self.events.capacity() > KEEP {
            self.events = VecDeque::new();
        }
        self.schedule.shrink();
    }

    /// Takes a stream out of the limits' counts once it is over on the wire, and forgets it if the owner has.
    pub(super) fn settle_end(&mut self, key: Key) {
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        let over = stream.reset.is_some() || (stream.fin_sent && stream.fin_received);
        if !over {
            return;
        }
        if stream.live {
            stream.live = false;
            if stream.inbound {
                self.counts.inbound -= 1;
                self.pending -= usize::from(!stream.accepted);
            } else {
                self.counts.outbound -= 1;
                self.unacked -= usize::from(!stream.acked);
            }
        }
        let forget = stream.released || (stream.reset.is_some() && !stream.handed_out);
        if forget {
            self.remove(key);
        }
        self.offer_open();
    }

    /// Tells that streams can be opened again, if somebody was refused.
    pub(super) fn offer_open(&mut self) {
        if self.want_open && self.can_open() {
            self.want_open = false;
            self.can_open_event = true;
        }
    }

    pub(super) fn can_open(&self) -> bool {
        self.counts.outbound < self.config.max_outbound && self.unacked < MAX_UNACKED
    }

    /// Tells the owner that there is something to read, if it waits for that.
    #[inline]
    pub(super) fn tell_readable(events: &mut VecDeque<Key>, slot: u32, stream: &mut Stream) {
        if stream.read_armed {
            stream.read_armed = false;
            stream.tell_readable = true;
            Self::queue_event(events, slot, stream);
        }
    }

    pub(super) fn tell_writable(events: &mut VecDeque<Key>, slot: u32, stream: &mut Stream) {
        stream.was_full = false;
        stream.tell_writable = true;
        Self::queue_event(events, slot, stream);
    }

    #[inline]
    pub(super) fn queue_event(events: &mut VecDeque<Key>, slot: u32, stream: &mut Stream) {
        if !stream.in_events {
            stream.in_events = true;
            events.push_back(Key {
                slot,
                id: stream.id,
            });
        }
    }

    #[inline]
    pub(super) fn queue_control(control: &mut VecDeque<Key>, slot: u32, stream: &mut Stream) {
        if !stream.in_control {
            stream.in_control = true;
            control.push_back(Key {
                slot,
                id: stream.id,
            });
        }
    }

    /// Marks a stream as reset and drops its bytes. Does not tell the peer.
    pub(super) fn mark_reset(&mut self, key: Key, code: u32) {
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        if stream.reset.is_some() {
            return;
        }
        stream.reset = Some(code);
        let unsent = stream.send.len();
        stream.send.clear();
        let unread = stream.recv.clear();
        let grown = stream.grown();
        stream.max_window = INITIAL_WINDOW;
        stream.blocked_since = None;
        stream.linger_since = None;
        if stream.handed_out && !stream.released {
            stream.read_armed = true;
            Self::tell_readable(&mut self.events, key.slot, stream);
            Self::tell_writable(&mut self.events, key.slot, stream);
        }
        self.memory.release(unread);
        self.memory.sent(unsent);
        self.memory.ungrow(grown);
        self.settle_end(key);
    }

    /// Resets a stream and tells the peer, if the peer knows of it and does not think it over.
    pub(super) fn reset_and_tell(&mut self, key: Key, code: u32) {
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        if stream.reset.is_none() && stream.live && !stream.syn_pending {
            self.resets.push_back((key.id, code));
        }
        self.mark_reset(key, code);
    }

    /// Gives up the stream's growth: no credit will be given any more.
    pub(super) fn give_up_window(&mut self, key: Key) {
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        let grown = stream.grown();
        stream.max_window = INITIAL_WINDOW;
        self.memory.ungrow(grown);
    }

    pub(super) fn stop_reading(&mut self, key: Key, code: u32) {
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        if stream.stopped.is_some() || stream.reset.is_some() {
            return;
        }
        stream.stopped = Some(code);
        let unread = stream.recv.clear();
        if !stream.fin_received {
            // poll_transmit starts the linger there, where the time is known.
            Self::queue_control(&mut self.control, key.slot, stream);
        }
        self.memory.release(unread);
        self.give_up_window(key);
    }

    // ---- the session's end

    /// Ends everything. Bytes of a session that the peer ended may still be read.
    pub(super) fn end(&mut self, how: Ended, go_away: Option<u32>) {
        if self.ended.is_some() {
            return;
        }
        let by_peer = how == Ended::Peer;
        self.ended = Some(how);
        self.go_away = go_away;
        self.pongs.clear();
        self.resets.clear();
        self.control.clear();
        self.schedule = Schedule::default();
        self.body = Body::NONE;
        for slot in 0..self.slots.len() {
            let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_deref_mut) else {
                continue;
            };
            let key = Key {
                slot: slot as u32,
                id: stream.id,
            };
            if by_peer && stream.handed_out && !stream.released {
                self.memory.sent(stream.send.len());
                stream.send.clear();
                stream.blocked_since = None;
                stream.linger_since = None;
                Self::tell_readable(&mut self.events, key.slot, stream);
                Self::tell_writable(&mut self.events, key.slot, stream);
            } else if stream.released || !stream.handed_out {
                self.remove(key);
            } else {
                self.mark_reset(key, 0);
            }
        }
        self.counts = StreamCounts::default();
        self.pending = 0;
        self.unacked = 0;
        for stream in self.slots.iter_mut().flatten() {
            stream.live = false;
        }
    }

    pub(super) fn writable(&self, id: StreamId) -> Result<(Key, &Stream), WriteError> {
        let key = self.find(id.0).ok_or(WriteError::Unknown)?;
        let stream = self
            .slots
            .get(key.slot as usize)
            .and_then(Option::as_deref)
            .ok_or(WriteError::Unknown)?;
        if let Some(code) = stream.reset {
            return Err(WriteError::Reset(code));
        }
        if self.ended.is_some() {
            return Err(WriteError::Closed);
        }
        if stream.fin_queued {
            return Err(WriteError::Finished);
        }
        Ok((key, stream))
    }

    /// What a stream may have queued now.
    #[inline]
    pub(super) fn send_limit(&mut self) -> usize {
        if self.memory.queued < self.config.send_memory && !self.memory.is_exhausted() {
            self.config.send_buffer
        } else {
            self.config.send_buffer.min(SEND_BUFFER_UNDER_PRESSURE)
        }
    }

    /// Queues bytes by `push` if there is room, which gets how many.
    #[inline]
    pub(super) fn enqueue<R>(
        &mut self,
        id: StreamId,
        push: impl FnOnce(&mut Stream, usize) -> R,
    ) -> Result<R, WriteError> {
        let (key, _) = self.writable(id)?;
        self.recent = key;
        let limit = self.send_limit();
        let Some(stream) = get(&mut self.slots, key) else {
            return Err(WriteError::Unknown);
        };
        let before = stream.send.len();
        let room = limit.saturating_sub(before);
        if room == 0 {
            stream.was_full = true;
            return Err(WriteError::Full);
        }
        let pushed = push(stream, room);
        self.memory.queued += stream.send.len() - before;
        if stream.send.len() >= limit {
            stream.was_full = true;
        }
        self.schedule.wake(key.slot, stream);
        // What the budget has no room for is taken all the same, but from now on streams may queue little.
        self.memory.settle();
        Ok(pushed)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("role", &self.role)
            .field("counts", &self.counts)
            .field("buffered", &self.memory.buffered)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
