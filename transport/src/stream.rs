//! Streams: reading and writing by chunks of `Bytes`, or through tokio's traits.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use barewire_base::multistream;
use barewire_mux::{ReadOutcome, StreamId};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    connection::{Connection, State, now, store_waker},
    error::StreamError,
    lease::{self, HoldKind},
};

/// Largest chunk that `AsyncWrite::poll_write` copies at once.
const WRITE_CHUNK: usize = 64 * 1024;

/// Answers data on a stream from inside the connection task, so that an answer costs no task switch.
///
/// It must be quick and must not block. While its answers do not drain it is not called, so the
/// remote's window bounds what it can ask for.
pub trait InlineHandler: Send {
    /// Data arrived in this fragment. Returns what to answer, or the code to reset the stream with.
    fn on_data(&mut self, chunk: Bytes) -> Result<Option<Bytes>, u32>;

    /// The remote has ended its direction. Ends ours, or resets the stream with the code.
    fn on_finish(&mut self) -> Result<(), u32>;
}

/// A bidirectional stream of a [`Connection`].
///
/// Dropping a stream that was not finished resets it; dropping a finished one stops reading.
#[derive(Debug)]
pub struct Stream {
    read: ReadHalf,
    write: WriteHalf,
    protocol: Arc<str>,
}

/// The reading half of a [`Stream`]. Dropping it before the end tells the muxer to discard the rest.
#[derive(Debug)]
pub struct ReadHalf {
    connection: Connection,
    id: StreamId,
    /// Answer still to be read before the first byte of the protocol.
    dialer: Option<Box<Negotiating>>,
    /// Rest of a chunk that was taken from the muxer and not consumed yet.
    rest: Bytes,
    ended: bool,
    lease: lease::Key,
}

/// An outbound negotiation whose answer has not been read.
#[derive(Debug)]
struct Negotiating {
    dialer: multistream::Dialer,
    /// Named in the error when the remote refuses.
    proposal: Arc<str>,
}

/// The writing half of a [`Stream`]. Dropping it without [`finish`](Self::finish) resets the stream.
#[derive(Debug)]
pub struct WriteHalf {
    connection: Connection,
    id: StreamId,
    lease: lease::Key,
}

/// The answer to a negotiation that waits for the first write or read of its [`Stream`].
#[derive(Debug)]
pub struct HeldAnswer {
    connection: Connection,
    id: StreamId,
}

impl HeldAnswer {
    /// Sends the answer, if no write or read has taken it along. Never waits.
    pub fn send(self) {
        let mut state = self.connection.shared().state.lock();
        state.send_prefix(self.id);
        state.wake_driver();
    }
}

impl Stream {
    pub(crate) fn outbound(
        connection: Connection,
        id: StreamId,
        protocol: Arc<str>,
        prefix: Bytes,
        dialer: multistream::Dialer,
    ) -> Self {
        let negotiating = Box::new(Negotiating {
            dialer,
            proposal: protocol.clone(),
        });
        let rest = Bytes::new();
        let mut stream = Self::assemble(connection, id, protocol, prefix, Some(negotiating), rest);
        stream.hold();
        stream
    }

    pub(crate) fn inbound(
        connection: Connection,
        id: StreamId,
        protocol: Arc<str>,
        answer: Bytes,
        rest: Bytes,
    ) -> Self {
        Self::assemble(connection, id, protocol, answer, None, rest)
    }

    fn assemble(
        connection: Connection,
        id: StreamId,
        protocol: Arc<str>,
        prefix: Bytes,
        dialer: Option<Box<Negotiating>>,
        rest: Bytes,
    ) -> Self {
        if let Some(stream) = connection.shared().state.lock().streams.get_mut(&id) {
            stream.prefix = Some(prefix);
            stream.halves = 2;
        }
        Self {
            read: ReadHalf {
                connection: connection.clone(),
                id,
                dialer,
                rest,
                ended: false,
                lease: lease::NONE,
            },
            write: WriteHalf {
                connection,
                id,
                lease: lease::NONE,
            },
            protocol,
        }
    }

    /// Negotiation bytes that ride with the next write, or go out when the next read has to wait.
    pub(crate) fn hold_back(&mut self, answer: Bytes) {
        let mut state = self.connection().shared().state.lock();
        state.send_prefix(self.write.id);
        if let Some(stream) = state.streams.get_mut(&self.write.id) {
            stream.prefix = Some(answer);
        }
    }

    /// The remote's proposal was accepted; `rest` came behind it.
    pub(crate) fn agree(&mut self, id: StreamId, protocol: Arc<str>, answer: Bytes, rest: Bytes) {
        self.hold_back(answer);
        self.connection().shared().state.lock().mux.accepted(id);
        self.read.rest = rest;
        self.protocol = protocol;
        self.hold();
    }

    /// Keeps the connection open until both halves are dropped.
    fn hold(&mut self) {
        let leases = &self.connection().shared().leases;
        let key = leases.acquire(HoldKind::Stream, self.protocol.clone(), 2);
        (self.read.lease, self.write.lease) = (key, key);
    }

    /// This stream does not keep its connection open, as if it had never been opened: for protocols
    /// that look after the connection itself, as ping and identify do. By default a stream does.
    pub fn hold_nothing(&mut self) {
        self.connection().shared().leases.forget(self.read.lease);
        (self.read.lease, self.write.lease) = (lease::NONE, lease::NONE);
    }

    /// The protocol this stream speaks.
    #[must_use]
    pub fn protocol(&self) -> &Arc<str> {
        &self.protocol
    }

    /// The connection this stream belongs to.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.write.connection
    }

    /// Waits for the remote's answer to the proposed protocol. Reads do this by themselves; a
    /// caller that has nothing to read yet may want to know early.
    pub async fn negotiate(&mut self) -> Result<(), StreamError> {
        let agreed = std::future::poll_fn(|cx| self.read.poll_negotiate(cx)).await?;
        if let Some(agreed) = agreed {
            self.protocol = agreed;
        }
        Ok(())
    }

    /// Next bytes, at most `max` of them, without a copy; `None` at the remote's end. Cancel safe.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        self.read.read_chunk(max).await
    }

    /// Queues `data` without a copy, waiting while the send buffer is full. Cancel safe: a cancelled
    /// call has queued nothing.
    pub async fn write_chunk(&mut self, data: Bytes) -> Result<(), StreamError> {
        let written = self.write.write_chunk(data).await;
        written.map_err(|error| error.of_proposal(&self.protocol))
    }

    /// Queues `data` and the end of this direction together, which saves a frame. Cancel safe.
    pub async fn write_last(&mut self, data: Bytes) -> Result<(), StreamError> {
        let written = self.write.write_last(data).await;
        written.map_err(|error| error.of_proposal(&self.protocol))
    }

    /// What this stream still owes of its negotiation. A handler may take long before it reads or
    /// writes, and the remote should not wait for that.
    #[must_use]
    pub fn held_answer(&self) -> HeldAnswer {
        HeldAnswer {
            connection: self.write.connection.clone(),
            id: self.write.id,
        }
    }

    /// Ends this direction after what is queued; the remote reads an end. Never waits.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.write.finish()
    }

    /// Abandons both directions; the remote sees a reset with `code`.
    pub fn reset(self, code: u32) {
        self.write.reset(code);
    }

    /// Reads no more: what still arrives is discarded, and the remote is reset if it goes on.
    pub fn stop(&mut self, code: u32) {
        self.read.stop(code);
    }

    /// Two halves for two tasks.
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    /// Hands the stream to the connection task, which answers it through `handler` from now on.
    pub fn serve_inline(self, mut handler: Box<dyn InlineHandler>) {
        let now = now();
        let (id, connection) = (self.write.id, self.write.connection.clone());
        let rest = self.read.rest.clone();
        {
            let mut state = connection.shared().state.lock();
            state.send_prefix(id);
            let answered = if rest.is_empty() {
                Ok(None)
            } else {
                handler.on_data(rest)
            };
            match answered {
                Ok(answer) => {
                    if let Some(answer) = answer {
                        // The stream may be gone; the handler's first read finds out.
                        drop(state.mux.write(id, answer));
                    }
                    if let Some(stream) = state.streams.get_mut(&id) {
                        stream.inline = Some(handler);
                        stream.halves = u8::MAX;
                    }
                    state.run_inline(id, now);
                }
                Err(code) => state.mux.reset(id, code),
            }
            state.wake_driver();
        }
        drop(self);
    }
}

impl ReadHalf {
    /// Next bytes, at most `max` of them, without a copy; `None` at the remote's end. Cancel safe.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        std::future::poll_fn(|cx| self.poll_read_chunk(cx, max)).await
    }

    /// Poll form of [`read_chunk`](Self::read_chunk).
    pub fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        if self.dialer.is_some() {
            std::task::ready!(self.poll_negotiate(cx))?;
        }
        if !self.rest.is_empty() {
            let n = self.rest.len().min(max);
            return Poll::Ready(Ok(Some(self.rest.split_to(n))));
        }
        self.poll_raw(cx, max)
    }

    /// Reads the answer to the proposals; `Some` when this call ended the negotiation.
    fn poll_negotiate(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Arc<str>>, StreamError>> {
        let Some(mut negotiating) = self.dialer.take() else {
            return Poll::Ready(Ok(None));
        };
        loop {
            if self.rest.is_empty() {
                match self.poll_raw(cx, usize::MAX) {
                    Poll::Pending => {
                        self.dialer = Some(negotiating);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Some(chunk))) => self.rest = chunk,
                    // A remote that refuses may just end the stream.
                    Poll::Ready(Ok(None)) => {
                        return Poll::Ready(Err(StreamError::ProtocolNotSupported(
                            negotiating.proposal.to_string(),
                        )));
                    }
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(error.of_proposal(&negotiating.proposal)));
                    }
                }
            }
            let consumed = match negotiating.dialer.handle_input(&self.rest) {
                Ok(consumed) => consumed,
                Err(multistream::NegotiationError::NoneAccepted) => {
                    return Poll::Ready(Err(StreamError::ProtocolNotSupported(
                        negotiating.proposal.to_string(),
                    )));
                }
                Err(error) => return Poll::Ready(Err(StreamError::Negotiation(error))),
            };
            self.rest.advance(consumed);
            let mut next = BytesMut::new();
            negotiating.dialer.poll_transmit(&mut next);
            if !next.is_empty() {
                let mut state = self.connection.shared().state.lock();
                // A failure shows in the next read.
                drop(state.mux.write(self.id, next.freeze()));
                state.wake_driver();
            }
            if let Some(agreed) = negotiating.dialer.outcome() {
                return Poll::Ready(Ok(Some(agreed.clone())));
            }
        }
    }

    /// Next bytes from the muxer, negotiation included.
    pub(crate) fn poll_raw(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let shared = self.connection.shared();
        let now = now();
        let mut state = shared.state.lock();
        let outcome = state.mux.read(now, self.id, max);
        let result = match outcome {
            ReadOutcome::Chunk(chunk) => Poll::Ready(Ok(Some(chunk))),
            ReadOutcome::Finished => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            ReadOutcome::Pending => match state.closed_error() {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    state.send_prefix(self.id);
                    state.wake_driver();
                    match state.streams.get_mut(&self.id) {
                        Some(stream) => store_waker(&mut stream.read_waker, cx),
                        None => return Poll::Ready(Err(StreamError::LocallyClosed)),
                    }
                    Poll::Pending
                }
            },
            ReadOutcome::Reset(code) => Poll::Ready(Err(StreamError::Reset(code))),
            _ => Poll::Ready(Err(state
                .closed_error()
                .unwrap_or(StreamError::LocallyClosed))),
        };
        // Credit that was just granted.
        state.wake_driver();
        result
    }

    /// Reads no more: what still arrives is discarded, and the remote is reset if it goes on.
    pub fn stop(&mut self, code: u32) {
        if !self.ended {
            self.ended = true;
            let mut state = self.connection.shared().state.lock();
            state.mux.stop(self.id, code);
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        if !self.is_inline() {
            self.stop(0);
        }
        self.connection.shared().leases.release(self.lease);
        drop_half(&self.connection, self.id);
    }
}

impl ReadHalf {
    fn is_inline(&self) -> bool {
        let state = self.connection.shared().state.lock();
        state
            .streams
            .get(&self.id)
            .is_some_and(|stream| stream.halves == u8::MAX)
    }
}

impl WriteHalf {
    /// Queues `data` without a copy, waiting while the send buffer is full. Cancel safe.
    pub async fn write_chunk(&mut self, data: Bytes) -> Result<(), StreamError> {
        let mut data = Some(data);
        std::future::poll_fn(|cx| self.poll_write_chunk(cx, &mut data, false)).await
    }

    /// Queues `data` and the end of this direction together, which saves a frame. Cancel safe.
    pub async fn write_last(&mut self, data: Bytes) -> Result<(), StreamError> {
        let mut data = Some(data);
        std::future::poll_fn(|cx| self.poll_write_chunk(cx, &mut data, true)).await
    }

    fn poll_write_chunk(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Option<Bytes>,
        last: bool,
    ) -> Poll<Result<(), StreamError>> {
        let shared = self.connection.shared();
        let mut state = shared.state.lock();
        std::task::ready!(self.poll_capacity(&mut state, cx))?;
        let data = data.take().unwrap_or_default();
        state.send_prefix(self.id);
        let queued = state.mux.write(self.id, data).map_err(write_error);
        if queued.is_ok() && last {
            // Writing just succeeded, so the direction is open.
            drop(state.mux.finish(self.id));
            if let Some(stream) = state.streams.get_mut(&self.id) {
                stream.write_closed = true;
            }
        }
        state.wake_driver();
        Poll::Ready(queued)
    }

    fn poll_capacity(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if let Some(error) = state.closed_error() {
            return Poll::Ready(Err(error));
        }
        match state.mux.send_capacity(self.id) {
            Ok(0) => {
                if let Some(stream) = state.streams.get_mut(&self.id) {
                    store_waker(&mut stream.write_waker, cx);
                }
                Poll::Pending
            }
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(write_error(error))),
        }
    }

    /// Ends this direction after what is queued; the remote reads an end. Never waits.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        let shared = self.connection.shared();
        let mut state = shared.state.lock();
        if let Some(error) = state.closed_error() {
            return Err(error);
        }
        state.send_prefix(self.id);
        state.mux.finish(self.id).map_err(write_error)?;
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.write_closed = true;
        }
        state.wake_driver();
        Ok(())
    }

    /// Abandons both directions; the remote sees a reset with `code`.
    pub fn reset(self, code: u32) {
        reset(&self.connection, self.id, code);
    }
}

fn reset(connection: &Connection, id: StreamId, code: u32) {
    let shared = connection.shared();
    let mut state = shared.state.lock();
    if let Some(stream) = state.streams.get_mut(&id) {
        if std::mem::replace(&mut stream.write_closed, true) {
            return;
        }
        stream.prefix = None;
    }
    state.mux.reset(id, code);
    state.wake_driver();
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        let inline_or_closed = {
            let state = self.connection.shared().state.lock();
            state
                .streams
                .get(&self.id)
                .is_none_or(|stream| stream.halves == u8::MAX || stream.write_closed)
        };
        if !inline_or_closed {
            reset(&self.connection, self.id, 0);
        }
        self.connection.shared().leases.release(self.lease);
        drop_half(&self.connection, self.id);
    }
}

fn drop_half(connection: &Connection, id: StreamId) {
    let mut state = connection.shared().state.lock();
    let Some(stream) = state.streams.get_mut(&id) else {
        return;
    };
    if stream.halves == u8::MAX {
        return;
    }
    stream.halves = stream.halves.saturating_sub(1);
    if stream.halves == 0 {
        state.streams.remove(&id);
        state.mux.release(id);
    }
}

fn write_error(error: barewire_mux::WriteError) -> StreamError {
    match error {
        barewire_mux::WriteError::Reset(code) => StreamError::Reset(code),
        _ => StreamError::LocallyClosed,
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let max = buf.remaining();
        if max == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(chunk) = std::task::ready!(self.poll_read_chunk(cx, max))? {
            buf.put_slice(&chunk);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = buf.len().min(WRITE_CHUNK);
        {
            let mut state = self.connection.shared().state.lock();
            std::task::ready!(self.poll_capacity(&mut state, cx))?;
        }
        let mut data = Some(Bytes::copy_from_slice(&buf[..n]));
        std::task::ready!(self.poll_write_chunk(cx, &mut data, false))?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A write is on its way as soon as it is accepted; the proposal may still wait for company.
        let mut state = self.connection.shared().state.lock();
        state.send_prefix(self.id);
        state.wake_driver();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.finish() {
            Ok(()) | Err(StreamError::LocallyClosed) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
