//! Streams: reading and writing by chunks of `Bytes`, or through tokio's traits.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use barewire_base::multistream;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    connection::{Connection, Link},
    error::StreamError,
    lease::{self, HoldKind, Leases},
    muxed::MuxedStream,
    quic::QuicStream,
    traffic::{Counted, Counters},
};

/// Largest chunk that `AsyncWrite::poll_write` copies at once.
const WRITE_CHUNK: usize = 64 * 1024;

/// Answers data on a stream from inside the connection task, so that an answer costs no task switch.
/// Over QUIC, where quinn owns that task, it runs in a small task of its own.
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
    raw: Raw,
    /// Answer still to be read before the first byte of the protocol.
    dialer: Option<Box<Negotiating>>,
    /// Rest of a chunk that was taken from the muxer and not consumed yet.
    rest: Bytes,
    ended: bool,
    lease: lease::Key,
    counters: Option<Arc<Counters>>,
}

/// An outbound negotiation whose answer has not been read.
#[derive(Debug)]
pub(crate) struct Negotiating {
    pub(crate) dialer: multistream::Dialer,
    /// Named in the error when the remote refuses.
    proposal: Arc<str>,
}

/// The writing half of a [`Stream`]. Dropping it without [`finish`](Self::finish) resets the stream.
#[derive(Debug)]
pub struct WriteHalf {
    raw: Raw,
    lease: lease::Key,
    counters: Option<Arc<Counters>>,
}

/// What carries a half.
#[derive(Debug, Clone)]
pub(crate) enum Raw {
    Muxed(MuxedStream),
    Quic(QuicStream),
}

impl Raw {
    fn leases(&self) -> &Leases {
        match self {
            Self::Muxed(stream) => &stream.handle.0.leases,
            Self::Quic(stream) => &stream.handle.0.leases,
        }
    }
}

/// Calls the same method of whatever carries the stream.
macro_rules! each {
    ($raw:expr, $stream:ident => $call:expr) => {
        match $raw {
            Raw::Muxed($stream) => $call,
            Raw::Quic($stream) => $call,
        }
    };
}

/// The answer to a negotiation that waits for the first write or read of its [`Stream`].
#[derive(Debug)]
pub struct HeldAnswer {
    raw: Raw,
}

impl HeldAnswer {
    /// Sends the answer, if no write or read has taken it along. Never waits.
    pub fn send(self) {
        each!(&self.raw, stream => stream.flush());
    }
}

impl Stream {
    pub(crate) fn outbound(
        raw: Raw,
        protocol: Arc<str>,
        prefix: Bytes,
        dialer: multistream::Dialer,
    ) -> Self {
        let negotiating = Box::new(Negotiating {
            dialer,
            proposal: protocol.clone(),
        });
        let mut stream = Self::assemble(raw, protocol, prefix, Some(negotiating));
        stream.hold();
        stream
    }

    pub(crate) fn inbound(raw: Raw) -> Self {
        Self::assemble(raw, "".into(), Bytes::new(), None)
    }

    fn assemble(
        raw: Raw,
        protocol: Arc<str>,
        prefix: Bytes,
        dialer: Option<Box<Negotiating>>,
    ) -> Self {
        each!(&raw, stream => stream.begin(prefix));
        Self {
            read: ReadHalf {
                raw: raw.clone(),
                dialer,
                rest: Bytes::new(),
                ended: false,
                lease: lease::NONE,
                counters: None,
            },
            write: WriteHalf {
                raw,
                lease: lease::NONE,
                counters: None,
            },
            protocol,
        }
    }

    /// Negotiation bytes that ride with the next write, or go out when the next read has to wait.
    pub(crate) fn hold_back(&mut self, answer: Bytes) {
        each!(&self.write.raw, stream => stream.hold_back(answer));
    }

    /// The remote's proposal was accepted; `rest` came behind it.
    pub(crate) fn agree(&mut self, protocol: Arc<str>, answer: Bytes, rest: Bytes) {
        self.hold_back(answer);
        if let Raw::Muxed(stream) = &self.write.raw {
            stream.accepted();
        }
        self.read.rest = rest;
        self.protocol = protocol;
        self.hold();
        self.count(true);
    }

    /// Counts this stream and its bytes from now on, as its protocol's.
    pub(crate) fn count(&mut self, inbound: bool) {
        let traffic = match &self.write.raw {
            Raw::Muxed(stream) => &stream.handle.0.info.traffic,
            Raw::Quic(stream) => &stream.handle.0.info.traffic,
        };
        let counters = traffic.of(&self.protocol);
        counters.opened(inbound);
        self.read.counters = Some(Arc::clone(&counters));
        self.write.counters = Some(counters);
    }

    /// Keeps the connection open until both halves are dropped.
    fn hold(&mut self) {
        let leases = self.write.raw.leases();
        let key = leases.acquire(HoldKind::Stream, self.protocol.clone(), 2);
        (self.read.lease, self.write.lease) = (key, key);
    }

    /// This stream does not keep its connection open, as if it had never been opened: for protocols
    /// that look after the connection itself, as ping and identify do. By default a stream does.
    pub fn hold_nothing(&mut self) {
        self.read.raw.leases().forget(self.read.lease);
        (self.read.lease, self.write.lease) = (lease::NONE, lease::NONE);
    }

    /// The protocol this stream speaks.
    #[must_use]
    pub fn protocol(&self) -> &Arc<str> {
        &self.protocol
    }

    /// The connection this stream belongs to.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection(match &self.write.raw {
            Raw::Muxed(stream) => Link::Muxed(Arc::clone(&stream.handle)),
            Raw::Quic(stream) => Link::Quic(Arc::clone(&stream.handle)),
        })
    }

    /// Waits for the remote's answer to the proposed protocol. Reads do this by themselves; a
    /// caller that has nothing to read yet may want to know early.
    pub async fn negotiate(&mut self) -> Result<(), StreamError> {
        let agreed = std::future::poll_fn(|cx| self.read.poll_negotiate(cx)).await?;
        if let Some(agreed) = agreed {
            self.protocol = agreed;
            if self.read.counters.is_none() {
                self.count(false);
            }
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

    /// Waits until a write would take bytes at once. What a protocol reads only then is never held
    /// between the two queues of the stream, where no memory budget counts it. Cancel safe.
    pub async fn writable(&mut self) -> Result<(), StreamError> {
        let writable = self.write.writable().await;
        writable.map_err(|error| error.of_proposal(&self.protocol))
    }

    /// What this stream still owes of its negotiation. A handler may take long before it reads or
    /// writes, and the remote should not wait for that.
    #[must_use]
    pub fn held_answer(&self) -> HeldAnswer {
        HeldAnswer {
            raw: self.write.raw.clone(),
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
    pub fn serve_inline(self, handler: Box<dyn InlineHandler>) {
        let rest = self.read.rest.clone();
        let handler = match self.read.counters.clone() {
            Some(counters) => Box::new(Counted { handler, counters }),
            None => handler,
        };
        each!(&self.write.raw, stream => stream.serve_inline(handler, rest));
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
        // A window of frames of one byte is a quarter of a million chunks: without this, a reader that
        // takes them all would keep every other task of its thread waiting.
        let turn = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        if self.dialer.is_some() {
            ready!(self.poll_negotiate(cx))?;
        }
        let chunk = if self.rest.is_empty() {
            self.poll_raw(cx, max)
        } else {
            let n = self.rest.len().min(max);
            Poll::Ready(Ok(Some(self.rest.split_to(n))))
        };
        if chunk.is_ready() {
            turn.made_progress();
        }
        if let (Some(counters), Poll::Ready(Ok(Some(chunk)))) = (&self.counters, &chunk) {
            counters.received(chunk.len());
        }
        chunk
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
                each!(&self.raw, stream => stream.send_now(next.freeze()));
            }
            if let Some(agreed) = negotiating.dialer.outcome() {
                return Poll::Ready(Ok(Some(agreed.clone())));
            }
        }
    }

    /// Next bytes from the muxer, negotiation included.
    fn poll_raw(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let polled = each!(&self.raw, stream => stream.poll_read(cx, max));
        self.ended = matches!(polled, Poll::Ready(Ok(None)));
        polled
    }

    /// Reads no more: what still arrives is discarded, and the remote is reset if it goes on.
    pub fn stop(&mut self, code: u32) {
        if !self.ended {
            self.ended = true;
            match &self.raw {
                Raw::Muxed(stream) => stream.stop(code),
                Raw::Quic(stream) => stream.stop_politely(code, self.dialer.take()),
            }
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        match &self.raw {
            Raw::Muxed(stream) => stream.drop_read(self.ended),
            Raw::Quic(stream) => stream.drop_read(self.ended, self.dialer.take()),
        }
        self.raw.leases().release(self.lease);
    }
}

impl WriteHalf {
    /// Queues `data` without a copy, waiting while the send buffer is full. Cancel safe.
    pub async fn write_chunk(&mut self, data: Bytes) -> Result<(), StreamError> {
        let mut data = Some(data);
        std::future::poll_fn(|cx| self.poll_write_chunk(cx, &mut data, false)).await
    }

    /// Waits until a write would take bytes at once. Cancel safe.
    pub async fn writable(&mut self) -> Result<(), StreamError> {
        std::future::poll_fn(|cx| each!(&self.raw, stream => stream.poll_room(cx))).await
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
        let len = data.as_ref().map_or(0, Bytes::len);
        ready!(each!(&self.raw, stream => stream.poll_write(cx, data, last)))?;
        if let Some(counters) = &self.counters {
            counters.sent(len);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this direction after what is queued; the remote reads an end. Never waits.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        each!(&self.raw, stream => stream.finish())
    }

    /// Abandons both directions; the remote sees a reset with `code`.
    pub fn reset(self, code: u32) {
        each!(&self.raw, stream => stream.reset(code));
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        each!(&self.raw, stream => stream.drop_write());
        self.raw.leases().release(self.lease);
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
        if let Some(chunk) = ready!(self.poll_read_chunk(cx, max))? {
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
        ready!(each!(&self.raw, stream => stream.poll_room(cx)))?;
        let mut data = Some(Bytes::copy_from_slice(&buf[..n]));
        ready!(self.poll_write_chunk(cx, &mut data, false))?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A write is on its way as soon as it is accepted; the proposal may still wait for company.
        each!(&self.raw, stream => stream.flush());
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
