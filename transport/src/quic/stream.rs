//! A stream of a QUIC connection, with the same promises as a stream over a muxer.
//!
//! quinn takes only as much of a write as flow control and its send window allow. What it leaves is
//! queued here, so that a write is all or nothing for the caller, and [`finish`](QuicStream::finish)
//! never waits; a task of its own hands the rest to quinn and ends with it.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError, Written};

use super::connection::{Handle, Shared};
use crate::{
    connection::store_waker,
    error::StreamError,
    stream::{InlineHandler, Negotiating},
};

/// Bytes that may wait here, behind quinn's own buffer, before a write waits. One item may overshoot.
const SEND_AHEAD: usize = 256 * 1024;
/// Bytes that may wait here on all streams of a connection before each gets only [`LITTLE_AHEAD`]. A peer that opens all
/// its streams and reads none makes a node hold that much, and what it may send.
const CONNECTION_AHEAD: usize = 2 * 1024 * 1024;
/// What a stream may have waiting however much others have, so that none is blocked by them.
const LITTLE_AHEAD: usize = 8 * 1024;
/// The same bound in items, for those who write a few bytes at a time.
const MAX_ITEMS: usize = 1024;
/// Chunks taken from quinn at once by a stream that is read in bulk: one lock for all of them.
const BATCH: usize = 32;
/// Reads that found something at once, in a row, before a stream is read in bulk.
const BULK_AFTER: u8 = 4;
/// How long a stream that nobody reads any more waits for the answer to its proposal, as go-libp2p.
const LINGER: Duration = Duration::from_secs(10);

/// Either half of a stream. Keeps the connection open.
#[derive(Clone)]
pub(crate) struct QuicStream {
    pub(crate) handle: Arc<Handle>,
    both: Arc<Both>,
}

impl std::fmt::Debug for QuicStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicStream").finish_non_exhaustive()
    }
}

/// What the halves share, and the tasks that end a stream when its halves are gone. It does not keep
/// the connection open.
pub(super) struct Both {
    shared: Arc<Shared>,
    outbound: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Taken only by the destructor.
    send: Option<SendStream>,
    recv: RecvStream,
    /// Negotiation bytes that ride with the first write, or go out when a read has to wait.
    prefix: Bytes,
    /// Written by the caller, not yet taken by quinn.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// A task moves `queue` to quinn.
    flushing: bool,
    /// The end follows the queue.
    finish: bool,
    /// This side has finished or reset its direction.
    write_closed: bool,
    /// Why nothing more can be written.
    failed: Option<StreamError>,
    /// This side reads no more.
    stopped: bool,
    /// A task answers; the halves are gone.
    inline: bool,
    /// Chunks taken from quinn and not read yet.
    ready: VecDeque<Bytes>,
    /// Reads in a row that did not have to wait.
    eager: u8,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
}

/// A finished stream whose end may still be on its way.
pub(super) enum Watched {
    /// Its halves, or a task of it, are still there.
    Held(Weak<Both>),
    /// All that is left of it.
    Left(SendStream),
}

impl Watched {
    /// Whether the remote may still lack something of it.
    pub(super) fn is_unacknowledged(&self) -> bool {
        match self {
            Self::Held(both) => both.upgrade().is_some_and(|both| {
                // Whoever has the lock may be the caller; then it is looked at another time.
                let inner = both.inner.try_lock();
                inner.is_none_or(|inner| inner.send.as_ref().is_some_and(is_unacknowledged))
            }),
            Self::Left(send) => is_unacknowledged(send),
        }
    }

    /// Waits until the remote has all of it or wants no more. `None` while the stream is in use.
    pub(super) fn arrival(
        &self,
    ) -> Option<impl Future<Output = Result<Option<VarInt>, StoppedError>> + Send + use<>> {
        match self {
            Self::Held(both) => {
                let both = both.upgrade()?;
                let inner = both.inner.try_lock()?;
                inner.send.as_ref().map(SendStream::stopped)
            }
            Self::Left(send) => Some(send.stopped()),
        }
    }
}

/// quinn forgets a stream when all of it has been acknowledged, and then knows no priority either.
fn is_known(stream: &SendStream) -> bool {
    stream.priority().is_ok()
}

/// Also false when the remote has stopped reading it: then it has had enough of it.
fn is_unacknowledged(stream: &SendStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    is_known(stream) && pin!(stream.stopped()).poll(&mut cx).is_pending()
}

impl QuicStream {
    pub(super) fn new(
        handle: Arc<Handle>,
        (send, recv): (SendStream, RecvStream),
        outbound: bool,
    ) -> Self {
        let shared = Arc::clone(&handle.0);
        shared.count(outbound).fetch_add(1, Ordering::Relaxed);
        let inner = Inner {
            send: Some(send),
            recv,
            prefix: Bytes::new(),
            queue: VecDeque::new(),
            queued: 0,
            flushing: false,
            finish: false,
            write_closed: false,
            failed: None,
            stopped: false,
            inline: false,
            ready: VecDeque::new(),
            eager: 0,
            read_waker: None,
            write_waker: None,
        };
        Self {
            handle,
            both: Arc::new(Both {
                shared,
                outbound,
                inner: Mutex::new(inner),
            }),
        }
    }

    pub(crate) fn begin(&self, prefix: Bytes) {
        self.both.inner.lock().prefix = prefix;
    }

    pub(crate) fn hold_back(&self, answer: Bytes) {
        let inner = &mut *self.both.inner.lock();
        self.both.send_prefix(inner);
        inner.prefix = answer;
    }

    /// Sends negotiation bytes at once, whatever waits already.
    pub(crate) fn send_now(&self, data: Bytes) {
        let inner = &mut *self.both.inner.lock();
        let prefix = std::mem::take(&mut inner.prefix);
        // A failure shows in the next read.
        drop(self.both.push(inner, [prefix, data]));
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.both.poll_read(cx, max)
    }

    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        data: &mut Option<Bytes>,
        last: bool,
    ) -> Poll<Result<(), StreamError>> {
        let inner = &mut *self.both.inner.lock();
        ready!(self.both.poll_room(inner, cx))?;
        Poll::Ready(
            self.both
                .write(inner, data.take().unwrap_or_default(), last),
        )
    }

    /// Waits for room in the queue.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.both.poll_room(&mut self.both.inner.lock(), cx)
    }

    /// Sends the negotiation bytes that still wait for company.
    pub(crate) fn flush(&self) {
        self.both.send_prefix(&mut self.both.inner.lock());
    }

    pub(crate) fn finish(&self) -> Result<(), StreamError> {
        self.both.finish()
    }

    pub(crate) fn reset(&self, code: u32) {
        self.both.reset(code);
    }

    /// Reads no more. A stream whose proposal is not answered yet waits for the answer first: a
    /// STOP_SENDING that overtakes it makes rust-libp2p fail the whole stream.
    pub(crate) fn stop_politely(&self, code: u32, negotiating: Option<Box<Negotiating>>) {
        let Some(negotiating) = negotiating else {
            self.both.stop(code);
            return;
        };
        let both = Arc::clone(&self.both);
        self.both.shared.spawn(async move {
            let answered = tokio::time::timeout(LINGER, both.read_answer(negotiating));
            // Answered or not, nobody waits for more.
            drop(answered.await);
            both.stop(code);
        });
    }

    /// The reading half is gone; `ended` when it had read all or been stopped.
    pub(crate) fn drop_read(&self, ended: bool, negotiating: Option<Box<Negotiating>>) {
        let inline = self.both.inner.lock().inline;
        if !ended && !inline {
            self.stop_politely(0, negotiating);
        }
    }

    /// The writing half is gone.
    pub(crate) fn drop_write(&self) {
        let abandoned = {
            let inner = self.both.inner.lock();
            !inner.write_closed && !inner.inline
        };
        if abandoned {
            self.both.reset(0);
        }
    }

    /// Answers the stream from a task of its own, which does not keep the connection open.
    pub(crate) fn serve_inline(&self, handler: Box<dyn InlineHandler>, rest: Bytes) {
        let both = Arc::clone(&self.both);
        both.inner.lock().inline = true;
        self.both.shared.spawn(async move {
            if let Err(code) = both.answer(handler, rest).await {
                both.reset(code);
            }
        });
    }
}

impl Both {
    fn poll_read(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let inner = &mut *self.inner.lock();
        if inner.stopped {
            return Poll::Ready(Err(StreamError::LocallyClosed));
        }
        let polled = inner.poll_chunk(cx, max);
        if polled.is_pending() {
            inner.eager = 0;
            self.send_prefix(inner);
            store_waker(&mut inner.read_waker, cx);
        }
        polled.map_err(|error| match error {
            ReadError::Reset(code) => StreamError::Reset(narrow(code)),
            ReadError::ConnectionLost(error) => StreamError::Closed(self.shared.reason(&error)),
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => StreamError::LocallyClosed,
        })
    }

    /// Waits until more may be queued. Whenever some of the queue has left, that is looked at again.
    fn poll_room(&self, inner: &mut Inner, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        inner.writable()?;
        let all = self.shared.queued.load(Ordering::Relaxed);
        let most = if all < CONNECTION_AHEAD {
            SEND_AHEAD
        } else {
            LITTLE_AHEAD
        };
        if inner.queued >= most || inner.queue.len() >= MAX_ITEMS {
            store_waker(&mut inner.write_waker, cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues `data`, for which there is room.
    fn write(
        self: &Arc<Self>,
        inner: &mut Inner,
        data: Bytes,
        last: bool,
    ) -> Result<(), StreamError> {
        let prefix = std::mem::take(&mut inner.prefix);
        if last {
            inner.write_closed = true;
            inner.finish = true;
        }
        self.push(inner, [prefix, data])
    }

    fn send_prefix(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.prefix.is_empty() {
            let prefix = std::mem::take(&mut inner.prefix);
            // A failure shows in the read or write that follows.
            drop(self.push(inner, [prefix, Bytes::new()]));
        }
    }

    /// Hands as much to quinn as it takes now and leaves the rest to a task.
    fn push(self: &Arc<Self>, inner: &mut Inner, mut data: [Bytes; 2]) -> Result<(), StreamError> {
        if inner.flushing {
            let queued = inner.enqueue(data);
            self.shared.queued.fetch_add(queued, Ordering::Relaxed);
            return Ok(());
        }
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let start = data.iter().take_while(|part| part.is_empty()).count();
            let rest = data.get_mut(start..).unwrap_or_default();
            if rest.is_empty() {
                self.end(inner);
                return Ok(());
            }
            match inner.poll_send(&mut cx, rest) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(self.fail(inner, error)),
                Poll::Pending => break,
            }
        }
        let queued = inner.enqueue(data);
        inner.flushing = true;
        self.shared.flush_begins(queued);
        let both = Arc::clone(self);
        self.shared
            .spawn(async move { std::future::poll_fn(|cx| both.poll_flush(cx)).await });
        Ok(())
    }

    /// Moves the queue to quinn.
    fn poll_flush(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.inner.lock();
        let before = inner.queued;
        let polled = loop {
            if inner.queue.is_empty() {
                self.end(inner);
                break Poll::Ready(());
            }
            let mut queue = std::mem::take(&mut inner.queue);
            let sent = inner.poll_send(cx, queue.make_contiguous());
            inner.queue = queue;
            match sent {
                Poll::Ready(Ok(written)) => {
                    inner.queue.drain(..written.chunks);
                    inner.queued -= written.bytes;
                }
                Poll::Ready(Err(error)) => {
                    self.fail(inner, error);
                    break Poll::Ready(());
                }
                Poll::Pending => break Poll::Pending,
            }
        };
        self.shared
            .queued
            .fetch_sub(before - inner.queued, Ordering::Relaxed);
        let roomy = inner.queued < SEND_AHEAD / 2 && inner.queue.len() < MAX_ITEMS / 2;
        if roomy || polled.is_ready() {
            wake(&mut inner.write_waker);
        }
        if polled.is_ready() {
            inner.flushing = false;
            self.shared.flush_ends();
        }
        polled
    }

    /// Ends the direction if that is due.
    fn end(self: &Arc<Self>, inner: &mut Inner) {
        if std::mem::take(&mut inner.finish)
            && let Some(send) = &mut inner.send
            // It fails when the direction is over already.
            && send.finish().is_ok()
        {
            self.shared
                .watch_finished(Watched::Held(Arc::downgrade(self)));
        }
    }

    /// Notes why nothing more can be written.
    fn fail(&self, inner: &mut Inner, error: WriteError) -> StreamError {
        let error = match error {
            WriteError::Stopped(code) if code.into_inner() == 0 => StreamError::Stopped,
            WriteError::Stopped(code) => StreamError::Reset(narrow(code)),
            WriteError::ConnectionLost(error) => StreamError::Closed(self.shared.reason(&error)),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::LocallyClosed,
        };
        inner.drop_queue();
        inner.failed.get_or_insert(error).clone()
    }

    fn finish(self: &Arc<Self>) -> Result<(), StreamError> {
        let inner = &mut *self.inner.lock();
        inner.writable()?;
        self.write(inner, Bytes::new(), true)
    }

    fn reset(&self, code: u32) {
        let inner = &mut *self.inner.lock();
        let queued = inner.queued;
        inner.drop_queue();
        self.shared.queued.fetch_sub(queued, Ordering::Relaxed);
        inner.prefix = Bytes::new();
        inner.finish = false;
        inner.write_closed = true;
        inner.failed = Some(StreamError::LocallyClosed);
        if let Some(send) = &mut inner.send {
            // It may be over already, which is as good.
            drop(send.reset(code.into()));
        }
        inner.stop(code);
        wake(&mut inner.write_waker);
        wake(&mut inner.read_waker);
    }

    fn stop(self: &Arc<Self>, code: u32) {
        let inner = &mut *self.inner.lock();
        // The remote must not learn that we have left before it learns that we agreed.
        self.send_prefix(inner);
        inner.stop(code);
    }

    /// Reads until the proposal is answered, or can no longer be.
    async fn read_answer(self: &Arc<Self>, mut negotiating: Box<Negotiating>) {
        while negotiating.dialer.outcome().is_none() {
            let read = std::future::poll_fn(|cx| self.poll_read(cx, usize::MAX)).await;
            let Ok(Some(chunk)) = read else { return };
            if negotiating.dialer.handle_input(&chunk).is_err() {
                return;
            }
        }
    }

    /// Lets `handler` answer until the remote's end. `Err` is the code to reset the stream with.
    async fn answer(
        self: &Arc<Self>,
        mut handler: Box<dyn InlineHandler>,
        rest: Bytes,
    ) -> Result<(), u32> {
        let mut chunk = Some(rest).filter(|rest| !rest.is_empty());
        loop {
            if let Some(answer) = chunk
                .take()
                .map_or(Ok(None), |data| handler.on_data(data))?
            {
                let mut answer = Some(answer);
                let written = std::future::poll_fn(|cx| {
                    let inner = &mut *self.inner.lock();
                    // Not reading while the answers do not drain grants the remote no more credit.
                    ready!(self.poll_room(inner, cx))?;
                    Poll::Ready(self.write(inner, answer.take().unwrap_or_default(), false))
                });
                written.await.map_err(|_| 0_u32)?;
            }
            match std::future::poll_fn(|cx| self.poll_read(cx, usize::MAX)).await {
                Ok(Some(data)) => chunk = Some(data),
                Ok(None) => {
                    handler.on_finish()?;
                    // The remote may have stopped reading; then there is nothing to end.
                    drop(self.finish());
                    return Ok(());
                }
                Err(_) => return Err(0),
            }
        }
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        self.shared
            .count(self.outbound)
            .fetch_sub(1, Ordering::Relaxed);
        let inner = self.inner.get_mut();
        let Some(mut send) = inner.send.take() else {
            return;
        };
        if !inner.write_closed {
            // quinn would end the direction as if all had been said.
            drop(send.reset(0_u32.into()));
        } else if inner.failed.is_none() && is_unacknowledged(&send) {
            self.shared.watch_finished(Watched::Left(send));
        }
        // One that the remote stopped before it was finished is reset by quinn, and the remote may open another.
    }
}

impl Inner {
    /// Next chunk of at most `max` bytes.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        if self.ready.is_empty() {
            if self.eager < BULK_AFTER {
                let mut one = [Bytes::new()];
                let read = ready!(pin!(self.recv.read_chunks(&mut one)).poll(cx))?;
                let [chunk] = one;
                if read.is_none() {
                    return Poll::Ready(Ok(None));
                }
                self.eager += 1;
                if chunk.len() <= max {
                    return Poll::Ready(Ok(Some(chunk)));
                }
                self.ready.push_back(chunk);
            } else {
                let mut many = [const { Bytes::new() }; BATCH];
                let Some(n) = ready!(pin!(self.recv.read_chunks(&mut many)).poll(cx))? else {
                    return Poll::Ready(Ok(None));
                };
                self.ready.extend(many.into_iter().take(n));
            }
        }
        let chunk = match self.ready.front_mut() {
            Some(front) if front.len() > max => Some(front.split_to(max)),
            _ => self.ready.pop_front(),
        };
        Poll::Ready(Ok(chunk))
    }

    /// Hands parts to quinn; true when it has taken all of them.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut [Bytes],
    ) -> Poll<Result<Written, WriteError>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(WriteError::ClosedStream));
        };
        pin!(send.write_chunks(parts)).poll(cx)
    }

    /// Queues what is left of `parts`; returns its length.
    fn enqueue(&mut self, parts: [Bytes; 2]) -> usize {
        let mut bytes = 0;
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            bytes += part.len();
            self.queue.push_back(part);
        }
        self.queued += bytes;
        bytes
    }

    fn drop_queue(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }

    fn writable(&self) -> Result<(), StreamError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.write_closed => Err(StreamError::LocallyClosed),
            None => Ok(()),
        }
    }

    fn stop(&mut self, code: u32) {
        if !std::mem::replace(&mut self.stopped, true) {
            self.ready.clear();
            // It fails when all was read already.
            drop(self.recv.stop(code.into()));
        }
    }
}

/// Codes of libp2p have 32 bits; a larger one says nothing to us.
fn narrow(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}
