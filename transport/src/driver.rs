//! The connection task: reads, opens records, feeds the muxer, keeps its timers, and ends it all.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use barewire_mux::Compact;
use barewire_security::{OpenError, Opened, Opener};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::{
    close::{CloseReason, LocalReason},
    connection::{Shared, now},
    error::frame_error,
    slab::ReadSlab,
    transmit::{BoxWriter, TransmitError, Transmitter},
};

pub(crate) type BoxReader = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes read before the task lets others run: they consume while the bytes are in the cache.
const READ_PER_TURN: usize = 64 * 1024;
/// How long a goodbye may take to be written, and its remote to end the connection.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a remote may be silent, and take in all, that is still reading what was written before this side closed: on
/// a slow link the kernel holds some of it, and credit for it that finds the socket gone resets the connection.
const LAST_WORDS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// Changes of keys a remote may make. An honest one makes one in 2^24 records.
pub(crate) const KEY_UPDATES_PER_SECOND: u32 = 32;
/// Unread chunks up to this length are copied out of a slab that has been left.
const COMPACT_BELOW: usize = crate::slab::LARGE / 8;

/// Limits the task enforces itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) write_stall: Duration,
    pub(crate) empty_records_per_second: u32,
}

/// The task of one connection.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    reader: BoxReader,
    opener: Opener,
    slab: ReadSlab,
    received: u64,
    /// Bytes the muxer held when it last got some.
    held: usize,
    /// The muxer wants nothing more to be read until something is written.
    crowded: bool,
    /// Nothing was read for that reason.
    unread: bool,
    transmitter: Transmitter,
    /// Length of the unfinished record at the front of the slab, once known.
    record: Option<usize>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// What `sleep` is set to; it may be later than due, never earlier than needed.
    sleep_until: Option<Instant>,
    limits: Limits,
    /// Records without plaintext: a few bytes for the sender, a decryption for us.
    empty: PerSecond,
    key_updates: PerSecond,
    /// Nothing can be written any more, and what came before is still to be read.
    write_failed: Option<CloseReason>,
    /// The connection has ended; what is sealed is written until then.
    goodbye: Option<Goodbye>,
}

/// How a connection ends that this side has closed.
struct Goodbye {
    writer: BoxWriter,
    /// How long the remote may be silent.
    patience: Duration,
    until: Instant,
    /// The latest that `until` may become.
    end: Instant,
}

/// Counts what costs the sender less than us.
#[derive(Default)]
struct PerSecond {
    second: Option<Instant>,
    count: u32,
}

impl PerSecond {
    fn exceeds(&mut self, now: Instant, limit: u32) -> bool {
        match self.second {
            Some(start) if now.duration_since(start) < Duration::from_secs(1) => self.count += 1,
            _ => {
                self.second = Some(now);
                self.count = 1;
            }
        }
        self.count > limit
    }
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        reader: BoxReader,
        opener: Opener,
        slab: ReadSlab,
        transmitter: Transmitter,
        limits: Limits,
    ) -> Self {
        Self {
            shared,
            reader,
            opener,
            slab,
            received: 0,
            held: 0,
            crowded: false,
            unread: false,
            transmitter,
            record: None,
            sleep: None,
            sleep_until: None,
            limits,
            empty: PerSecond::default(),
            key_updates: PerSecond::default(),
            write_failed: None,
            goodbye: None,
        }
    }

    /// Reads until the socket is drained or others should run. True when there may be more.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, CloseReason> {
        let mut total = 0;
        self.unread = false;
        // What the handshake read too much is opened before the first read.
        let mut got = self.slab.pending().len();
        loop {
            if got > 0 {
                self.open_records(now)?;
            }
            if total >= READ_PER_TURN {
                return Ok(true);
            }
            if self.must_write_first() {
                self.unread = true;
                self.slab.rest(total);
                return Ok(false);
            }
            let (limit, switched) = self.slab.prepare(self.record, self.held);
            if switched {
                let mut state = self.shared.state.lock();
                if self.slab.is_short() {
                    state.mux.compact(Compact::All);
                } else {
                    state.mux.compact(Compact::Lingering { max: COMPACT_BELOW });
                }
                state.stats.copied_in = self.slab.moved();
            }
            got = match poll_read(&mut self.reader, cx, self.slab.pending(), limit) {
                Poll::Pending => {
                    self.slab.rest(total);
                    return Ok(false);
                }
                Poll::Ready(Ok(0)) => return Err(CloseReason::RemoteEnded),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Err(io_reason(&error)),
            };
            self.slab.note_read(got, limit);
            total += got;
            self.received += got as u64;
        }
    }

    fn must_write_first(&self) -> bool {
        self.crowded && self.transmitter.is_blocked()
    }

    /// Opens every whole record in the slab and hands the plaintext to the muxer.
    fn open_records(&mut self, now: Instant) -> Result<(), CloseReason> {
        self.record = None;
        loop {
            let pending = self.slab.pending();
            let opened = self.opener.open_in_place(pending).map_err(record_reason)?;
            let plaintext = match opened {
                Opened::NeedMore { total } => {
                    self.record = total;
                    return Ok(());
                }
                Opened::Record {
                    plaintext,
                    consumed,
                } => pending.split_to(consumed).freeze().slice(plaintext),
                Opened::KeyUpdate { consumed } => {
                    drop(pending.split_to(consumed));
                    if self.key_updates.exceeds(now, KEY_UPDATES_PER_SECOND) {
                        return Err(CloseReason::KeyUpdateFlood);
                    }
                    continue;
                }
                Opened::Closed => return Err(CloseReason::RemoteEnded),
            };
            if plaintext.is_empty() {
                if self
                    .empty
                    .exceeds(now, self.limits.empty_records_per_second)
                {
                    return Err(CloseReason::EmptyRecordFlood);
                }
                continue;
            }
            (self.held, self.crowded) = feed(&self.shared, now, plaintext)?;
        }
    }

    /// Sets the timer to the next deadline. True if one has passed already.
    fn arm(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let stall = self.transmitter.stall_deadline(self.limits.write_stall);
        let muxer = self.shared.state.lock().mux.poll_timeout();
        let Some(due) = [stall, muxer].into_iter().flatten().min() else {
            return false;
        };
        if due <= now {
            return true;
        }
        if self.sleep_until.is_none_or(|until| until > due) {
            let deadline = tokio::time::Instant::from_std(due);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
            self.sleep_until = Some(due);
        }
        let fired = self
            .sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if fired {
            self.sleep_until = None;
        }
        fired
    }

    fn timeouts(&mut self, now: Instant) -> Result<(), CloseReason> {
        let stall = self.transmitter.stall_deadline(self.limits.write_stall);
        if stall.is_some_and(|due| due <= now) {
            return Err(CloseReason::WriteStalled);
        }
        let mut state = self.shared.state.lock();
        let result = state.mux.handle_timeout(now);
        state.drain_events(now);
        result.map_err(mux_reason)
    }

    /// One turn. `Ok(true)` asks to be polled again at once.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let now = now();
        {
            let mut state = self.shared.state.lock();
            if !state.driver.will_wake(cx.waker()) {
                state.driver.clone_from(cx.waker());
            }
        }
        let read = self.read(cx, now);
        if let Some(reason) = &self.write_failed {
            // The kernel holds all that will ever come. A turn begins with the runtime's whole budget, which is enough
            // for what a turn reads: a read that would block has found the end.
            return match read {
                Ok(true) => Ok(true),
                _ => Err(reason.clone()),
            };
        }
        let again = read?;
        self.pump(cx, now)?;
        while self.write_failed.is_none() && self.arm(cx, now) {
            self.timeouts(now)?;
            self.pump(cx, now)?;
            if self.sleep_until.is_some() {
                break;
            }
        }
        match &self.shared.state.lock().closed {
            Some(reason) => Err(reason.clone()),
            None => {
                let again = again || (self.unread && !self.must_write_first());
                Ok(again || self.write_failed.is_some())
            }
        }
    }

    /// Seals and sends what the muxer has.
    fn pump(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), CloseReason> {
        if self.write_failed.is_some() {
            return Ok(());
        }
        let shared = &self.shared;
        let pumped = self.transmitter.pump(cx, now, |gather| {
            let mut state = shared.state.lock();
            let more = state.mux.poll_transmit(now, gather);
            state.drain_events(now);
            more
        });
        let mut state = shared.state.lock();
        state.stats.received = self.received;
        state.stats.written = self.transmitter.written;
        state.stats.copied_out = self.transmitter.copied;
        state.unsent = self.transmitter.unsent();
        self.crowded = !state.mux.wants_input();
        if !state.drain_wakers.is_empty() && state.queued() == 0 {
            for waker in state.drain_wakers.drain(..) {
                waker.wake();
            }
        }
        drop(state);
        match pumped {
            Ok(()) => Ok(()),
            Err(TransmitError::Io(error)) => {
                self.write_failed = Some(io_reason(&error));
                drop(self.transmitter.take_writer());
                Ok(())
            }
            Err(TransmitError::Seal(error)) => Err(CloseReason::Seal(error)),
        }
    }

    /// Ends the connection: sends a last goodbye as far as it fits, tells everyone.
    fn end(&mut self, cx: &mut Context<'_>, reason: CloseReason) {
        let now = now();
        if !matches!(
            reason,
            CloseReason::RemoteEnded
                | CloseReason::RemoteReset
                | CloseReason::Alert(_)
                | CloseReason::Io(_)
        ) {
            if matches!(
                reason,
                CloseReason::Record(_)
                    | CloseReason::EmptyRecordFlood
                    | CloseReason::KeyUpdateFlood
            ) {
                self.shared.state.lock().mux.close(GO_AWAY_PROTOCOL_ERROR);
            }
            // A failure to say goodbye changes nothing.
            drop(self.pump(cx, now));
            if !self.transmitter.is_blocked() {
                let error = match &reason {
                    CloseReason::Record(error) => Some(error),
                    _ => None,
                };
                self.transmitter.say_end(cx, error);
                let (patience, most) = match reason {
                    CloseReason::Local(_) => LAST_WORDS,
                    _ => (GOODBYE, GOODBYE),
                };
                let writer = self.transmitter.take_writer();
                self.goodbye = writer.map(|writer| Goodbye {
                    writer,
                    patience,
                    until: now + patience,
                    end: now + most,
                });
            }
        }
        drop(self.transmitter.take_writer());
        let mut state = self.shared.state.lock();
        state.closed.get_or_insert(reason);
        state.wake_all();
        drop(state);
        self.shared.ended.notify_waiters();
    }
}

/// go-away code for a remote that broke the protocol.
const GO_AWAY_PROTOCOL_ERROR: u32 = 1;

/// Gives plaintext to the muxer. Returns how many bytes it holds then, and whether it wants no more for now.
pub(crate) fn feed(
    shared: &Shared,
    now: Instant,
    plaintext: Bytes,
) -> Result<(usize, bool), CloseReason> {
    let mut state = shared.state.lock();
    let result = state.mux.handle_input(now, plaintext);
    state.drain_events(now);
    result.map_err(mux_reason)?;
    Ok((state.mux.held(), !state.mux.wants_input()))
}

fn record_reason(error: OpenError) -> CloseReason {
    match error {
        OpenError::Alert(alert) => CloseReason::Alert(alert),
        other => CloseReason::Record(other),
    }
}

fn mux_reason(error: barewire_mux::MuxError) -> CloseReason {
    match error {
        barewire_mux::MuxError::KeepaliveTimeout => CloseReason::KeepaliveTimeout,
        other => CloseReason::Muxer(other),
    }
}

/// go-libp2p closes its sockets with a reset, so that is an ordinary end.
fn io_reason(error: &io::Error) -> CloseReason {
    if let Some(error) = frame_error(error) {
        return CloseReason::Frame(error);
    }
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted => CloseReason::RemoteReset,
        io::ErrorKind::UnexpectedEof => CloseReason::RemoteEnded,
        kind => CloseReason::Io(kind),
    }
}

/// Reads at most `limit` bytes behind what `buf` holds.
fn poll_read(
    reader: &mut BoxReader,
    cx: &mut Context<'_>,
    buf: &mut BytesMut,
    limit: usize,
) -> Poll<io::Result<usize>> {
    tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut buf.limit(limit))
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Also when the runtime shuts down under the connection.
        let mut state = self.shared.state.lock();
        state.terminated = true;
        if state.closed.is_none() {
            state.closed = Some(CloseReason::Local(LocalReason::Dropped));
            state.wake_all();
        }
        drop(state);
        self.shared.ended.notify_waiters();
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.goodbye.is_none() {
            match self.turn(cx) {
                Ok(again) => {
                    if again {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                Err(reason) => self.end(cx, reason),
            }
        }
        self.poll_goodbye(cx)
    }
}

impl Driver {
    /// Shuts the write side down and gives the remote the time to read what is on its way before the socket
    /// is dropped: closing with unread input would reset the connection under it.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(goodbye) = &mut self.goodbye else {
            return Poll::Ready(());
        };
        if Pin::new(&mut goodbye.writer).poll_shutdown(cx).is_ready() {
            let mut scratch = [0; 4096];
            let mut reads = 0;
            loop {
                let mut buf = ReadBuf::new(&mut scratch);
                match Pin::new(&mut self.reader).poll_read(cx, &mut buf) {
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() => reads += 1,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
                if reads == 64 {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
            if reads > 0 {
                goodbye.until = goodbye.end.min(now() + goodbye.patience);
            }
        }
        let deadline = tokio::time::Instant::from_std(goodbye.until);
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if self.sleep_until != Some(goodbye.until) {
            sleep.as_mut().reset(deadline);
            self.sleep_until = Some(goodbye.until);
        }
        sleep.as_mut().poll(cx)
    }
}
