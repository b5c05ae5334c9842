//! The two halves of a WebSocket as a byte stream.
//!
//! ```text
//! socket ─ read ─▶ caller's slab ─ unmask in place ─▶ payload at its front
//! socket ◀ writev ─ header + the caller's batch                      (server: no copy)
//! socket ◀ writev ─ header + masked copy of the batch                (client)
//! ```
//!
//! What the caller hands over in one write becomes one frame. A write counts as accepted only when
//! the socket below has taken it, so that nobody takes queued bytes for sent ones.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use barewire_mux::Role;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take},
    time::{Instant, Sleep},
};

use super::frame::{Control, Decoder, FrameError, Header, Limits, NO_CODE, Opcode, push_masked};

/// Payload of a frame from which on its header is read by a call of its own. Measured: below,
/// moving the payload is cheaper than another call.
const LONG_FRAME: u64 = 32 * 1024;
/// How long the remote may take to read a close frame and to end its side.
const CLOSING: Duration = Duration::from_secs(1);
/// Reads in a row of input that nobody wants, before other tasks run.
const DISCARDS: usize = 16;
/// An idle connection keeps no more than this for masking.
const KEPT: usize = 1024;
/// Code of an orderly end.
const NORMAL: u16 = 1000;
/// Code of a server or page that goes away, an orderly end as well.
const GOING_AWAY: u16 = 1001;

/// Makes the halves of a WebSocket whose handshake is done. `surplus` came behind the handshake.
pub(super) fn halves<R, W>(
    reader: R,
    writer: W,
    role: Role,
    surplus: BytesMut,
    limits: Limits,
    ping_interval: Option<Duration>,
    copied: Arc<Copied>,
) -> (Reader<R, W>, Writer<W>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let output = Arc::new(Mutex::new(Output {
        writer,
        role,
        control: BytesMut::new(),
        header: Header::new(Opcode::Binary, 0, None),
        header_sent: None,
        masked: Vec::new(),
        left: 0,
        pong: None,
        close: None,
        closed: false,
        copied: Arc::clone(&copied),
    }));
    let reader = Reader {
        reader: reader.take(0),
        decoder: Decoder::new(role, limits),
        surplus,
        output: Arc::clone(&output),
        ending: None,
        ping: ping_interval.map(|interval| Ping {
            interval,
            sleep: Box::pin(tokio::time::sleep(interval)),
        }),
        copied,
    };
    (reader, Writer { output })
}

/// Bytes a wrapper below the record layer has copied.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) inbound: AtomicU64,
    pub(crate) outbound: AtomicU64,
}

/// What both halves send.
struct Output<W> {
    writer: W,
    role: Role,
    /// Whole control frames that wait for the end of the present data frame, then for the socket.
    control: BytesMut,
    /// Header of the present data frame, of which this much is sent; `None` between frames.
    header: Header,
    header_sent: Option<usize>,
    /// A client's masked payload; its last `left` bytes are not sent.
    masked: Vec<u8>,
    /// Payload bytes of the present frame that are not sent.
    left: usize,
    pong: Option<Control>,
    /// Close code to send.
    close: Option<u16>,
    /// A close frame is sent or queued; nothing may follow it.
    closed: bool,
    copied: Arc<Copied>,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    fn mask(&self) -> Option<[u8; 4]> {
        (self.role == Role::Client).then(rand::random)
    }

    fn push_control(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = self.mask();
        let header = Header::new(opcode, payload.len(), mask);
        self.control.extend_from_slice(header.as_slice());
        let mut masked = Vec::new();
        push_masked(payload, mask.unwrap_or_default(), &mut masked);
        self.control.extend_from_slice(&masked);
    }

    /// Sends the control frames that wait. Between data frames only.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // One pong is outstanding at most: the next is framed when the last is out.
            if self.control.is_empty() {
                if self.closed {
                    return Poll::Ready(Ok(()));
                }
                if let Some(code) = self.close.take() {
                    self.closed = true;
                    match code {
                        NO_CODE => self.push_control(Opcode::Close, &[]),
                        code => self.push_control(Opcode::Close, Control::close(code).as_slice()),
                    }
                } else if let Some(pong) = self.pong.take() {
                    self.push_control(Opcode::Pong, pong.as_slice());
                } else {
                    self.control = BytesMut::new();
                    return Poll::Ready(Ok(()));
                }
            }
            let sent = ready!(Pin::new(&mut self.writer).poll_write(cx, &self.control))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.control.advance(sent);
        }
    }

    /// Sends control frames if no data frame is half out. An error shows at the next read or write.
    fn try_control(&mut self, cx: &mut Context<'_>) -> bool {
        self.header_sent.is_none() && self.poll_control(cx).is_ready()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.header_sent.is_none() {
            ready!(self.poll_control(cx))?;
            if self.closed {
                // The read half is about to say why, and wakes the same task.
                return Poll::Pending;
            }
            let mask = self.mask();
            self.header = Header::new(Opcode::Binary, buf.len(), mask);
            self.header_sent = Some(0);
            self.left = buf.len();
            if let Some(mask) = mask {
                self.masked.clear();
                push_masked(buf, mask, &mut self.masked);
                let copied = buf.len() as u64;
                self.copied.outbound.fetch_add(copied, Ordering::Relaxed);
            }
        }
        loop {
            let header = self.header.as_slice();
            let head_sent = self.header_sent.unwrap_or(header.len());
            let head = header.get(head_sent..).unwrap_or_default();
            let body = match self.role {
                Role::Client => &self.masked[self.masked.len() - self.left..],
                // The caller comes back with the bytes that were not accepted.
                Role::Server => &buf[..self.left.min(buf.len())],
            };
            let writer = Pin::new(&mut self.writer);
            let sent = if head.is_empty() {
                ready!(writer.poll_write(cx, body))?
            } else {
                let both = [IoSlice::new(head), IoSlice::new(body)];
                ready!(writer.poll_write_vectored(cx, &both))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = sent.min(head.len());
            self.header_sent = Some(head_sent + of_head);
            let accepted = sent - of_head;
            self.left -= accepted;
            if self.left == 0 {
                self.header_sent = None;
            }
            if accepted > 0 {
                return Poll::Ready(Ok(accepted));
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.header_sent.is_none() {
            if self.masked.capacity() > KEPT {
                self.masked = Vec::new();
            }
            ready!(self.poll_control(cx))?;
        }
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    /// Says goodbye with `code`, then ends the byte stream below.
    fn poll_close(&mut self, cx: &mut Context<'_>, code: u16) -> Poll<io::Result<()>> {
        if self.header_sent.is_none() {
            if !self.closed {
                self.close = Some(code);
            }
            ready!(self.poll_control(cx))?;
        }
        self.closed = true;
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

/// The write half. Shutting it down sends a close frame with code 1000.
pub(super) struct Writer<W> {
    output: Arc<Mutex<Output<W>>>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Writer<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.output.lock().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.lock().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.lock().poll_close(cx, NORMAL)
    }
}

/// Pings that keep proxies on the way from closing an idle connection.
struct Ping {
    interval: Duration,
    sleep: Pin<Box<Sleep>>,
}

/// The end of a connection whose remote is told why.
struct Ending {
    error: FrameError,
    told: bool,
    sleep: Pin<Box<Sleep>>,
}

/// The read half. Answers pings and close frames by itself.
///
/// When the remote breaks the framing, a close frame with the right code is sent, and the error is
/// returned when the remote has ended its side, or after a second: a socket closed with unread
/// input would reset the connection under the close frame.
pub(super) struct Reader<R, W> {
    reader: Take<R>,
    decoder: Decoder,
    surplus: BytesMut,
    output: Arc<Mutex<Output<W>>>,
    ending: Option<Ending>,
    ping: Option<Ping>,
    copied: Arc<Copied>,
}

impl<R, W> Reader<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// Reads once; `false` at the end of the byte stream.
    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if !self.surplus.is_empty() {
            let n = self.surplus.len().min(buf.remaining());
            buf.put_slice(&self.surplus[..n]);
            self.surplus.advance(n);
            if self.surplus.is_empty() {
                self.surplus = BytesMut::new();
            }
            return Poll::Ready(Ok(true));
        }
        self.reader.set_limit(self.decoder.read_limit(LONG_FRAME));
        let before = buf.filled().len();
        match Pin::new(&mut self.reader).poll_read(cx, buf) {
            Poll::Pending => {
                self.poll_ping(cx);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len() > before)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) {
        let Some(ping) = &mut self.ping else { return };
        while ping.sleep.as_mut().poll(cx).is_ready() {
            ping.sleep.as_mut().reset(Instant::now() + ping.interval);
            let mut output = self.output.lock();
            // A ping that the socket has not taken yet says the same.
            if output.control.is_empty() && !output.closed {
                output.push_control(Opcode::Ping, &[]);
                output.try_control(cx);
            }
        }
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(ending) = &mut self.ending else {
            return Poll::Pending;
        };
        if !ending.told {
            let code = ending.error.close_code();
            let told = self.output.lock().poll_close(cx, code);
            ending.told = told.is_ready();
        }
        let start = buf.filled().len();
        self.reader.set_limit(u64::MAX);
        let mut over = false;
        for round in 0.. {
            if round == DISCARDS {
                cx.waker().wake_by_ref();
                break;
            }
            let read = Pin::new(&mut self.reader).poll_read(cx, buf);
            let got = buf.filled().len() > start;
            buf.set_filled(start);
            match read {
                Poll::Ready(Ok(())) if got => {}
                Poll::Ready(_) => {
                    over = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        if over || ending.sleep.as_mut().poll(cx).is_ready() {
            let error = io::Error::new(io::ErrorKind::InvalidData, ending.error);
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }
}

impl<R, W> AsyncRead for Reader<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            if this.ending.is_some() {
                return this.poll_ending(cx, buf);
            }
            if let Some(code) = this.decoder.closed() {
                let mut output = this.output.lock();
                if !output.closed {
                    output.close = Some(code);
                }
                output.try_control(cx);
                return match code {
                    NORMAL | GOING_AWAY | NO_CODE => Poll::Ready(Ok(())),
                    code => Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        FrameError::ClosedWith(code),
                    ))),
                };
            }
            if buf.remaining() == 0 || !ready!(this.poll_raw(cx, buf))? {
                return Poll::Ready(Ok(()));
            }
            let moved = this.decoder.moved();
            let decoded = this
                .decoder
                .decode(Instant::now().into_std(), &mut buf.filled_mut()[before..]);
            match decoded {
                Ok(kept) => buf.set_filled(before + kept),
                Err(error) => {
                    buf.set_filled(before);
                    this.ending = Some(Ending {
                        error,
                        told: false,
                        sleep: Box::pin(tokio::time::sleep(CLOSING)),
                    });
                    continue;
                }
            }
            let moved = this.decoder.moved() - moved;
            if moved > 0 {
                this.copied.inbound.fetch_add(moved, Ordering::Relaxed);
            }
            if let Some(pong) = this.decoder.take_pong() {
                let mut output = this.output.lock();
                output.pong = Some(pong);
                output.try_control(cx);
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
