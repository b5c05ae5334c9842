//! The transmit side of a connection: gathers frames into records, seals them, writes batches.

use std::{
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use barewire_base::TransmitBuf;
use barewire_security::{MAX_PLAINTEXT, MAX_SEALED, OpenError, SealError, Sealer};
use bytes::BytesMut;
use tokio::io::AsyncWrite;

use crate::slab::Borrower;

pub(crate) type BoxWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// Parts of a record that the list keeps room for: the answers on 64 streams.
const GATHER_KEPT: usize = 128;

/// Why nothing can be written any more.
#[derive(Debug)]
pub(crate) enum TransmitError {
    Io(io::Error),
    Seal(SealError),
}

/// Owner of the write half and of the sealing key. Only the connection task has it, so streams can
/// queue and read while a record is sealed.
pub(crate) struct Transmitter {
    writer: Option<BoxWriter>,
    sealer: Sealer,
    pool: Borrower,
    /// Sealed bytes; the first `sent` of them are written.
    out: BytesMut,
    sent: usize,
    gather: TransmitBuf,
    /// Since when the socket has accepted nothing while bytes wait.
    stalled_since: Option<Instant>,
    pub(crate) written: u64,
    /// Bytes copied at the two copy sites: sealing, and growing the write buffer.
    pub(crate) copied: u64,
}

impl Transmitter {
    /// `unsent` is what the handshake left to send.
    pub(crate) fn new(writer: BoxWriter, sealer: Sealer, pool: Borrower, unsent: BytesMut) -> Self {
        Self {
            writer: Some(writer),
            sealer,
            pool,
            out: unsent,
            sent: 0,
            gather: TransmitBuf::new(MAX_PLAINTEXT),
            stalled_since: None,
            written: 0,
            copied: 0,
        }
    }

    /// Whether sealed bytes wait for the socket.
    pub(crate) fn is_blocked(&self) -> bool {
        self.unsent() > 0
    }

    /// Sealed bytes the socket has not taken.
    pub(crate) fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// When the socket counts as stalled if it accepts nothing until then.
    pub(crate) fn stall_deadline(&self, limit: Duration) -> Option<Instant> {
        self.stalled_since.map(|since| since + limit)
    }

    /// Seals and writes until `next` has no more frames or the socket takes no more.
    ///
    /// `next` fills the gather list with at most one record of frames.
    pub(crate) fn pump(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        mut next: impl FnMut(&mut TransmitBuf) -> bool,
    ) -> Result<(), TransmitError> {
        let mut exhausted = false;
        loop {
            // Frames are cut late: a new batch is sealed only when the last is nearly out.
            if !exhausted && self.unsent() < MAX_SEALED {
                exhausted = self.fill(&mut next)?;
            }
            if !self.is_blocked() {
                break;
            }
            let Some(writer) = self.writer.as_mut() else {
                return Ok(());
            };
            let writer = std::pin::Pin::new(writer);
            match writer.poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(0)) => {
                    return Err(TransmitError::Io(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(n)) => {
                    self.sent += n;
                    self.written += n as u64;
                    self.stalled_since = None;
                }
                Poll::Ready(Err(error)) => return Err(TransmitError::Io(error)),
                Poll::Pending => {
                    self.stalled_since.get_or_insert(now);
                    return Ok(());
                }
            }
        }
        self.release_buffer();
        self.release_gather();
        if let Some(writer) = self.writer.as_mut()
            && let Poll::Ready(Err(error)) = std::pin::Pin::new(writer).poll_flush(cx)
        {
            return Err(TransmitError::Io(error));
        }
        Ok(())
    }

    /// Seals records into the write buffer until it is full. True when there are no more frames.
    fn fill(
        &mut self,
        next: &mut impl FnMut(&mut TransmitBuf) -> bool,
    ) -> Result<bool, TransmitError> {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        while self.out.is_empty() || self.out.len() + MAX_SEALED <= self.pool.size() {
            self.gather.clear();
            if !next(&mut self.gather) || self.gather.is_empty() {
                self.gather.clear();
                return Ok(true);
            }
            let needed = self.sealer.sealed_len(self.gather.len());
            if self.out.capacity() - self.out.len() < needed {
                self.grow(needed);
            }
            self.sealer
                .seal(self.gather.parts(), &mut self.out)
                .map_err(TransmitError::Seal)?;
            self.copied += self.gather.len() as u64;
            // Payload references must not outlive the record.
            self.gather.clear();
        }
        Ok(false)
    }

    /// A small record gets a small buffer of its own; whatever is larger borrows from the pool.
    fn grow(&mut self, needed: usize) {
        let waiting = self.unsent();
        let mut larger = if waiting + needed <= 1024 {
            BytesMut::with_capacity(1024)
        } else {
            self.pool.take(waiting + needed, 0)
        };
        larger.extend_from_slice(&self.out[self.sent..]);
        self.copied += waiting as u64;
        self.out = larger;
        self.sent = 0;
    }

    fn release_buffer(&mut self) {
        self.sent = 0;
        let out = std::mem::take(&mut self.out);
        if out.capacity() >= MAX_SEALED {
            self.pool.give(out);
        }
    }

    /// A record of tiny frames has thousands of parts; a connection that has gone idle does not keep the room.
    fn release_gather(&mut self) {
        if self.gather.capacity() > GATHER_KEPT {
            self.gather.release();
        }
    }

    /// Writes what the secure channel has to say before its end, as far as the socket takes it now:
    /// that all was sent, or which error of the remote ends it.
    pub(crate) fn say_end(&mut self, cx: &mut Context<'_>, error: Option<&OpenError>) {
        self.sealer.end(error, &mut self.out);
        while let Some(writer) = self.writer.as_mut()
            && self.sent < self.out.len()
        {
            let writer = std::pin::Pin::new(writer);
            match writer.poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(n)) if n > 0 => self.sent += n,
                _ => return,
            }
        }
    }

    /// Ends the write direction; the socket closes when the reader is dropped too.
    pub(crate) fn take_writer(&mut self) -> Option<BoxWriter> {
        self.release_buffer();
        self.writer.take()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use barewire_base::{Budget, Keypair};
    use barewire_security::noise;
    use bytes::Bytes;
    use std::sync::Arc;

    fn sealer() -> Sealer {
        let mut rng = rand::rng();
        let config = noise::Config::new(&Keypair::from_seed(&[1; 32]), Vec::new(), &mut rng);
        let config = Arc::new(config.unwrap());
        let mut ends = [
            noise::Handshake::initiator(&config, None, &mut rng).unwrap(),
            noise::Handshake::responder(&config, &mut rng).unwrap(),
        ];
        let mut message = BytesMut::new();
        for turn in 0..3 {
            ends[turn % 2].poll_transmit(&mut message);
            ends[(turn + 1) % 2].handle_input(&message).unwrap();
            message.clear();
        }
        let [dialler, _] = ends;
        dialler.finish().unwrap().session.split().0
    }

    #[test]
    fn a_record_of_tiny_frames_leaves_no_list_behind() {
        let writer = Box::new(tokio::io::sink());
        let mut transmitter = Transmitter::new(
            writer,
            sealer(),
            Borrower::new(Arc::default(), Budget::unlimited()),
            BytesMut::new(),
        );
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        for (parts, least, most) in [(100, 100, GATHER_KEPT), (10_000, 0, GATHER_KEPT)] {
            let mut left = parts;
            let frames = |gather: &mut TransmitBuf| {
                for _ in 0..std::mem::take(&mut left) {
                    gather.push(Bytes::from_static(b"x"));
                }
                !gather.is_empty()
            };
            transmitter.pump(cx, Instant::now(), frames).unwrap();
            let kept = transmitter.gather.capacity();
            println!("a record of {parts} parts leaves room for {kept}");
            assert!((least..=most).contains(&kept), "{kept}");
        }
    }
}
