//! The `yamux` crate of rust-libp2p behind [`StreamMuxer`], as a yardstick and as a second opinion.
//!
//! The crate owns a socket and is polled; here the socket is a pair of queues and every call polls it until it has
//! nothing more to do. What it does not offer is missing here too: reset codes are neither sent nor seen (0), a GoAway
//! always has code 0, round trips are measured inside but not told ([`StreamMuxer::ping`] does nothing), there is no
//! keepalive and there are no write deadlines, and a peer that aborts streams is not slowed down. A stream that is reset
//! after our side has finished reads as finished.
//!
//! Nothing is charged to a memory budget, because the crate does not tell what it holds, and charging all that it may
//! hold would leave room for a handful of connections. One connection buffers at most what one of
//! [`yamux::Session`](crate::yamux::Session) may (256 MiB of payload), but any number of connections may do so at once,
//! no stream is shed for it, and frames of one byte cost the crate an allocation each.

mod pipe;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use barewire_base::TransmitBuf;
use bytes::{Buf, Bytes};
use futures::Stream as _;
use futures::io::AsyncWrite as _;

use crate::error::{MuxError, OpenError, WriteError};
use crate::muxer::{Event, ReadOutcome, Role, StreamCounts, StreamId, StreamMuxer};
use pipe::Pipe;

/// The crate ends the connection when it holds this many streams of both sides.
const MAX_STREAMS: usize = 512;

/// Streams of ours; the other half is left to the peer.
const MAX_OUTBOUND: usize = 256;

/// Inbound streams that were not accepted; more are reset.
const MAX_PENDING: usize = 128;

/// Bytes of a stream that wait to be sent.
const SEND_BUFFER: usize = 1 << 20;

/// Bytes of all streams that wait to be sent, above which a stream may queue no more than [`SEND_FLOOR`].
const SEND_MEMORY: usize = 4 << 20;
const SEND_FLOOR: usize = 64 << 10;

/// What the crate may grant over all streams: 256 KiB for each by protocol, and 64 MiB for windows that grow.
const RECEIVE_WINDOW: usize = 192 << 20;

/// As much as one session of ours may hold by default.
const HARD_BOUND: usize = 256 << 20;

const _: () = assert!(
    RECEIVE_WINDOW + SEND_MEMORY + MAX_STREAMS * SEND_FLOOR + pipe::MAX_WAITING <= HARD_BOUND
);

/// A session of the `yamux` crate.
pub struct CrateSession {
    connection: yamux::Connection<Pipe>,
    pipe: Pipe,
    ready: Arc<Ready>,
    streams: BTreeMap<u32, Held>,
    events: VecDeque<Event>,
    pending: usize,
    /// Sum over the streams of what they have queued.
    queued: usize,
    want_open: bool,
    closing: bool,
    ended: Option<Option<MuxError>>,
    /// Bytes read.
    copied: u64,
}

struct Held {
    /// Gone once the stream is reset: dropping it is how the crate is told.
    stream: Option<yamux::Stream>,
    inbound: bool,
    accepted: bool,
    /// Bytes read from the crate that the owner has not taken.
    rest: Bytes,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The crate has sent the SYN.
    announced: bool,
    flush_open: bool,
    fin_queued: bool,
    fin_done: bool,
    /// The peer's side has ended and the owner has seen it.
    ended: bool,
    reset: bool,
    stopped: bool,
    released: bool,
    was_full: bool,
    read_armed: bool,
    wakers: [Waker; 2],
}

/// The streams that the crate has woken: id, and whether it is the writer.
#[derive(Default)]
struct Ready(Mutex<Vec<(u32, bool)>>);

struct Wakeup {
    id: u32,
    writer: bool,
    ready: Arc<Ready>,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.ready
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((self.id, self.writer));
    }
}

impl Held {
    fn new(stream: yamux::Stream, inbound: bool, ready: &Arc<Ready>) -> Self {
        let id = stream.id().val();
        let wakers = [false, true].map(|writer| {
            Waker::from(Arc::new(Wakeup {
                id,
                writer,
                ready: ready.clone(),
            }))
        });
        Self {
            stream: Some(stream),
            inbound,
            accepted: false,
            rest: Bytes::new(),
            queue: VecDeque::new(),
            queued: 0,
            announced: inbound,
            flush_open: false,
            fin_queued: false,
            fin_done: false,
            ended: false,
            reset: false,
            stopped: false,
            released: false,
            was_full: false,
            read_armed: true,
            wakers,
        }
    }

    fn live(&self) -> bool {
        !self.reset && (!self.fin_done || !self.ended)
    }

    fn poll_write(&mut self, bytes: &[u8]) -> Poll<Result<usize, ()>> {
        let [_, waker] = &self.wakers;
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(()));
        };
        Pin::new(stream)
            .poll_write(&mut Context::from_waker(waker), bytes)
            .map_err(drop)
    }

    /// Hands the crate what it takes. An error is a reset.
    fn pump(&mut self) -> Result<(), ()> {
        if self.reset || self.fin_done {
            return Ok(());
        }
        while let Some(mut front) = self.queue.pop_front() {
            match self.poll_write(&front) {
                Poll::Ready(result) => {
                    let count = result?;
                    self.announced = true;
                    self.queued -= count;
                    front.advance(count);
                    if !front.is_empty() {
                        self.queue.push_front(front);
                    }
                }
                Poll::Pending => {
                    self.queue.push_front(front);
                    return Ok(());
                }
            }
        }
        // The crate closes a stream without announcing it first.
        if !self.announced && (self.flush_open || self.fin_queued) {
            match self.poll_write(&[]) {
                Poll::Ready(result) => self.announced = result.is_ok(),
                Poll::Pending => return Ok(()),
            }
        }
        if self.fin_queued
            && let Some(stream) = &mut self.stream
        {
            let [_, waker] = &self.wakers;
            match Pin::new(stream).poll_close(&mut Context::from_waker(waker)) {
                Poll::Ready(result) => {
                    result.map_err(drop)?;
                    self.fin_done = true;
                }
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// The next bytes; `None` inside is the end.
    fn poll_chunk(&mut self) -> Poll<Option<Bytes>> {
        let [waker, _] = &self.wakers;
        let mut context = Context::from_waker(waker);
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        loop {
            match Pin::new(&mut *stream).poll_next(&mut context) {
                Poll::Ready(Some(Ok(packet))) if packet.as_ref().is_empty() => {}
                Poll::Ready(Some(Ok(packet))) => {
                    return Poll::Ready(Some(Bytes::from_owner(packet)));
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl CrateSession {
    /// A session of the crate.
    pub fn new(role: Role) -> Self {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(RECEIVE_WINDOW));
        let mode = match role {
            Role::Client => yamux::Mode::Client,
            Role::Server => yamux::Mode::Server,
        };
        let pipe = Pipe::default();
        Self {
            copied: 0,
            connection: yamux::Connection::new(pipe.clone(), config, mode),
            pipe,
            ready: Arc::default(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            pending: 0,
            queued: 0,
            want_open: false,
            closing: false,
            ended: None,
        }
    }

    /// Lets the crate do all it can.
    fn drive(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if self.closing {
                // The result tells nothing: either way nothing more will come.
                let _ = self.connection.poll_close(&mut context);
                return;
            }
            if self.ended.is_some() {
                return;
            }
            match self.connection.poll_next_inbound(&mut context) {
                Poll::Ready(Some(Ok(stream))) => self.incoming(stream),
                Poll::Ready(Some(Err(_))) => self.end(Some(MuxError::Backend)),
                Poll::Ready(None) => {
                    self.events.push_back(Event::GoAway(0));
                    self.end(None);
                }
                Poll::Pending => {
                    if self.pipe.sent_go_away() {
                        self.end(Some(MuxError::Backend));
                    } else if !self.serve_ready() {
                        return;
                    }
                }
            }
        }
    }

    fn incoming(&mut self, stream: yamux::Stream) {
        if self.pending >= MAX_PENDING {
            // Dropped without an end, which the crate turns into a reset.
            return;
        }
        let id = stream.id().val();
        self.pending += 1;
        let mut held = Held::new(stream, true, &self.ready);
        held.read_armed = false;
        self.streams.insert(id, held);
        self.events.push_back(Event::Incoming(StreamId(id)));
        self.events.push_back(Event::Readable(StreamId(id)));
    }

    /// Goes on with the streams that the crate has woken. False if there were none.
    fn serve_ready(&mut self) -> bool {
        let woken =
            std::mem::take(&mut *self.ready.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, writer) in &woken {
            if *writer {
                self.pump(*id);
            } else if let Some(held) = self.streams.get_mut(id)
                && held.read_armed
            {
                held.read_armed = false;
                self.events.push_back(Event::Readable(StreamId(*id)));
            }
        }
        if self.want_open && self.outbound() < MAX_OUTBOUND {
            self.want_open = false;
            self.events.push_back(Event::CanOpen);
        }
        !woken.is_empty()
    }

    fn outbound(&self) -> usize {
        self.streams
            .values()
            .filter(|held| !held.inbound && held.live())
            .count()
    }

    fn pump(&mut self, id: u32) {
        let Some(held) = self.streams.get_mut(&id) else {
            return;
        };
        let before = held.queued;
        let pumped = held.pump();
        self.queued -= before - held.queued;
        if pumped.is_err() {
            self.mark_reset(id);
            return;
        }
        if held.was_full && held.queued <= send_limit(self.queued) / 2 {
            held.was_full = false;
            self.events.push_back(Event::Writable(StreamId(id)));
        }
        if held.fin_done && held.released {
            self.forget(id);
        }
    }

    fn mark_reset(&mut self, id: u32) {
        let Some(held) = self.streams.get_mut(&id) else {
            return;
        };
        if held.reset {
            return;
        }
        held.reset = true;
        held.stream = None;
        held.queue.clear();
        self.queued -= std::mem::take(&mut held.queued);
        held.rest = Bytes::new();
        if held.released {
            self.forget(id);
        } else {
            self.events.push_back(Event::Readable(StreamId(id)));
            self.events.push_back(Event::Writable(StreamId(id)));
        }
    }

    /// Drops the crate's handle, which is a reset unless the stream was closed.
    fn forget(&mut self, id: u32) {
        if let Some(held) = self.streams.remove(&id) {
            self.queued -= held.queued;
            self.pending -= usize::from(held.inbound && !held.accepted);
        }
    }

    fn end(&mut self, error: Option<MuxError>) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error);
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.mark_reset(id);
        }
    }

    fn writable(&mut self, id: StreamId) -> Result<&mut Held, WriteError> {
        let over = self.ended.is_some();
        let held = self.streams.get_mut(&id.0).ok_or(WriteError::Unknown)?;
        if held.reset {
            return Err(if over {
                WriteError::Closed
            } else {
                WriteError::Reset(0)
            });
        }
        if held.fin_queued {
            return Err(WriteError::Finished);
        }
        Ok(held)
    }

    fn outcome(&self) -> Result<(), MuxError> {
        match &self.ended {
            Some(Some(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// What one stream may queue while all of them have `queued`.
fn send_limit(queued: usize) -> usize {
    if queued < SEND_MEMORY {
        SEND_BUFFER
    } else {
        SEND_FLOOR
    }
}

impl StreamMuxer for CrateSession {
    fn handle_input(&mut self, _now: Instant, input: Bytes) -> Result<(), MuxError> {
        if self.ended.is_none() {
            self.pipe.receive(input);
            self.drive();
        }
        self.outcome()
    }

    fn open_stream(&mut self, _now: Instant) -> Result<StreamId, OpenError> {
        if self.ended.is_some() {
            return Err(OpenError::Closed);
        }
        if self.outbound() >= MAX_OUTBOUND {
            self.want_open = true;
            return Err(OpenError::TooMany);
        }
        match self
            .connection
            .poll_new_outbound(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(Ok(stream)) => {
                let id = stream.id().val();
                let mut held = Held::new(stream, false, &self.ready);
                // Nothing can have come; this is where the crate learns whom to wake.
                if let Poll::Ready(Some(chunk)) = held.poll_chunk() {
                    held.rest = chunk;
                }
                self.streams.insert(id, held);
                Ok(StreamId(id))
            }
            Poll::Ready(Err(yamux::ConnectionError::NoMoreStreamIds)) => {
                Err(OpenError::IdsExhausted)
            }
            Poll::Ready(Err(_)) => Err(OpenError::Closed),
            Poll::Pending => {
                self.want_open = true;
                Err(OpenError::TooMany)
            }
        }
    }

    fn flush_open(&mut self, id: StreamId) {
        if let Some(held) = self.streams.get_mut(&id.0) {
            held.flush_open = true;
            self.pump(id.0);
        }
    }

    fn accepted(&mut self, id: StreamId) {
        if let Some(held) = self.streams.get_mut(&id.0)
            && held.inbound
            && !held.accepted
        {
            held.accepted = true;
            self.pending -= 1;
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop_front()?;
            match event {
                Event::Incoming(id) | Event::Readable(id) | Event::Writable(id) => {
                    // The owner may have let go of it meanwhile.
                    if self.streams.contains_key(&id.0) {
                        return Some(event);
                    }
                }
                _ => return Some(event),
            }
        }
    }

    fn read(&mut self, _now: Instant, id: StreamId, max: usize) -> ReadOutcome {
        let Some(held) = self.streams.get_mut(&id.0) else {
            return ReadOutcome::Reset(0);
        };
        if held.reset || held.stopped {
            return ReadOutcome::Reset(0);
        }
        if max == 0 {
            return ReadOutcome::Pending;
        }
        if held.rest.is_empty() {
            match held.poll_chunk() {
                Poll::Ready(Some(chunk)) => held.rest = chunk,
                Poll::Ready(None) => {
                    let closed = held.stream.as_ref().is_some_and(yamux::Stream::is_closed);
                    if closed && !held.fin_done {
                        self.mark_reset(id.0);
                        return ReadOutcome::Reset(0);
                    }
                    held.ended = true;
                    return ReadOutcome::Finished;
                }
                Poll::Pending => {
                    held.read_armed = true;
                    return ReadOutcome::Pending;
                }
            }
        }
        let count = held.rest.len().min(max);
        let chunk = held.rest.split_to(count);
        self.copied += count as u64;
        ReadOutcome::Chunk(chunk)
    }

    fn write(&mut self, id: StreamId, data: Bytes) -> Result<(), WriteError> {
        let limit = send_limit(self.queued);
        let held = self.writable(id)?;
        if held.queued >= limit {
            held.was_full = true;
            return Err(WriteError::Full);
        }
        let len = data.len();
        if len > 0 {
            held.queued += len;
            held.queue.push_back(data);
        }
        held.was_full |= held.queued >= limit;
        self.queued += len;
        self.pump(id.0);
        Ok(())
    }

    fn send_capacity(&mut self, id: StreamId) -> Result<usize, WriteError> {
        let limit = send_limit(self.queued);
        let held = self.streams.get_mut(&id.0).ok_or(WriteError::Unknown)?;
        if held.reset {
            return Err(if self.ended.is_some() {
                WriteError::Closed
            } else {
                WriteError::Reset(0)
            });
        }
        if held.fin_queued {
            return Err(WriteError::Finished);
        }
        let room = limit.saturating_sub(held.queued);
        held.was_full |= room == 0;
        Ok(room)
    }

    fn finish(&mut self, id: StreamId) -> Result<(), WriteError> {
        self.writable(id)?.fin_queued = true;
        self.pump(id.0);
        Ok(())
    }

    fn reset(&mut self, id: StreamId, _code: u32) {
        let Some(held) = self.streams.get_mut(&id.0) else {
            return;
        };
        if held.reset || !held.live() {
            return;
        }
        self.mark_reset(id.0);
    }

    fn stop(&mut self, id: StreamId, _code: u32) {
        if let Some(held) = self.streams.get_mut(&id.0) {
            held.stopped = true;
            held.rest = Bytes::new();
        }
    }

    fn release(&mut self, id: StreamId) {
        let Some(held) = self.streams.get_mut(&id.0) else {
            return;
        };
        held.released = true;
        let finishing = held.fin_queued && !held.fin_done && !held.reset;
        if !finishing || self.ended.is_some() {
            self.forget(id.0);
        }
    }

    fn poll_transmit(&mut self, _now: Instant, out: &mut TransmitBuf) -> bool {
        let before = out.len();
        self.drive();
        while out.remaining() > 0
            && let Some(bytes) = self.pipe.take(out.remaining())
        {
            out.push(bytes);
            self.drive();
        }
        out.len() > before
    }

    fn ping(&mut self, _now: Instant) {}

    fn close(&mut self, _code: u32) {
        self.end(None);
        self.closing = true;
        self.drive();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _now: Instant) -> Result<(), MuxError> {
        self.drive();
        self.outcome()
    }

    fn rtt(&self) -> Option<Duration> {
        None
    }

    fn stream_counts(&self) -> StreamCounts {
        let inbound = self
            .streams
            .values()
            .filter(|held| held.inbound && held.live())
            .count();
        StreamCounts {
            inbound,
            outbound: self.outbound(),
        }
    }

    /// Only what has left the crate's own buffers.
    fn buffered(&self) -> usize {
        self.streams.values().map(|held| held.rest.len()).sum()
    }

    /// Each byte that is read was copied out of the crate's buffer.
    fn bytes_copied(&self) -> u64 {
        self.copied
    }

    fn queued(&self) -> usize {
        let ending = |held: &&Held| !held.reset && held.fin_queued && !held.fin_done;
        let ends = self.streams.values().filter(ending).count();
        self.queued + ends + self.pipe.waiting()
    }

    fn is_closed(&self) -> bool {
        self.ended.is_some()
    }

    /// The crate does not tell.
    fn fattest_stream(&self) -> Option<(StreamId, usize)> {
        None
    }
}

impl fmt::Debug for CrateSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrateSession")
            .field("streams", &self.streams.len())
            .field("ended", &self.ended)
            .finish()
    }
}
