//! The socket the `yamux` crate believes to have: two queues in memory.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};

/// The crate is not asked for more than this before the owner has taken what is there.
pub(super) const MAX_WAITING: usize = 256 << 10;

const HEADER_LEN: usize = 12;
const TYPE_DATA: u8 = 0;
const TYPE_GO_AWAY: u8 = 3;

#[derive(Debug, Default)]
struct Inner {
    received: VecDeque<Bytes>,
    sent: BytesMut,
    watch: GoAwayWatch,
    closed: bool,
}

/// Finds the GoAway among the frames that are sent: the crate sends one and goes on as if nothing had happened.
#[derive(Debug, Default)]
struct GoAwayWatch {
    head: [u8; HEADER_LEN],
    have: usize,
    body: usize,
    seen: bool,
}

impl GoAwayWatch {
    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.body > 0 {
                let count = self.body.min(bytes.len());
                self.body -= count;
                bytes.advance(count);
                continue;
            }
            let count = (HEADER_LEN - self.have).min(bytes.len());
            if let (Some(to), Some(from)) = (
                self.head.get_mut(self.have..self.have + count),
                bytes.get(..count),
            ) {
                to.copy_from_slice(from);
            }
            bytes.advance(count);
            self.have += count;
            if self.have == HEADER_LEN {
                self.have = 0;
                let [_, kind, _, _, _, _, _, _, a, b, c, d] = self.head;
                self.seen |= kind == TYPE_GO_AWAY;
                if kind == TYPE_DATA {
                    self.body = u32::from_be_bytes([a, b, c, d]) as usize;
                }
            }
        }
    }
}

/// Shared by the crate's connection and the session that drives it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipe(Arc<Mutex<Inner>>);

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes from the peer.
    pub(crate) fn receive(&self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.lock().received.push_back(bytes);
        }
    }

    /// Up to `max` bytes for the peer.
    pub(crate) fn take(&self, max: usize) -> Option<Bytes> {
        let mut inner = self.lock();
        let count = inner.sent.len().min(max);
        (count > 0).then(|| inner.sent.split_to(count).freeze())
    }

    /// Bytes for the peer that were not taken.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().sent.len()
    }

    /// Whether the crate has said goodbye.
    pub(crate) fn sent_go_away(&self) -> bool {
        self.lock().watch.seen
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let Some(front) = inner.received.front_mut() else {
            return Poll::Pending;
        };
        let count = front.len().min(buf.len());
        front.copy_to_slice(buf.get_mut(..count).unwrap_or_default());
        if front.is_empty() {
            inner.received.pop_front();
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        if inner.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if inner.sent.len() >= MAX_WAITING {
            return Poll::Pending;
        }
        inner.sent.extend_from_slice(buf);
        inner.watch.look(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().closed = true;
        Poll::Ready(Ok(()))
    }
}
