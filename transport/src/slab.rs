//! Read slabs: where records arrive, are opened in place, and are sliced for their readers.
//!
//! A record never straddles two slabs: a read stops early enough that the record it may leave
//! unfinished still fits. So no received byte is moved, except the first few KiB of a burst that
//! began in a small slab (counted in [`ReadSlab::moved`]).
//!
//! Large slabs are charged to the budget of their connection. One that has no room for them goes on with room for a
//! record at a time: slower, but what a reader leaves unread then pins little more than itself. So does a connection
//! whose readers are far behind, for which speed of reading is not what counts.

use std::sync::Arc;

use barewire_base::{Budget, Reservation};
use barewire_security::{MAX_HEADER, MAX_RECORD, MAX_SEALED};
use bytes::{BufMut, BytesMut};
use parking_lot::Mutex;

/// Slab of a connection with little traffic; held only while the socket has data.
pub(crate) const SMALL: usize = 4 * 1024;
/// Slab of a connection in a burst. Four full records: large enough that a read brings several,
/// small enough to stay in a second-level cache.
pub(crate) const LARGE: usize = 4 * MAX_SEALED;
/// Turns in a row that must bring little before a burst counts as over.
const QUIET_TURNS: u8 = 16;
/// Large slabs and write buffers the pool keeps for reuse.
const POOLED: usize = 16;
/// A connection that holds more bytes than this is waiting for its readers. Promptly read bursts hold less.
const BACKLOG: usize = LARGE;

/// Buffers shared by all connections of a node, so that an idle connection holds none.
#[derive(Debug, Default)]
pub(crate) struct SlabPool {
    free: Mutex<Vec<BytesMut>>,
}

impl SlabPool {
    /// A buffer of [`LARGE`] bytes.
    fn take(&self) -> BytesMut {
        self.free
            .lock()
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(LARGE))
    }

    /// Drops what is kept for reuse.
    pub(crate) fn clear(&self) {
        self.free.lock().clear();
    }

    /// Takes a large buffer back if nobody holds a slice of it.
    fn give(&self, mut buf: BytesMut) {
        buf.clear();
        if buf.try_reclaim(LARGE) {
            let mut free = self.free.lock();
            if free.len() < POOLED {
                free.push(buf);
            }
        }
    }
}

/// What one side of a connection borrows from the pool: a buffer at a time, charged to the connection's budget.
#[derive(Debug)]
pub(crate) struct Borrower {
    pool: Arc<SlabPool>,
    budget: Budget,
    taken: Taken,
}

/// What a [`Borrower`] has at present.
#[derive(Debug)]
enum Taken {
    Nothing,
    /// A buffer of the pool, paid for.
    Large(#[expect(dead_code, reason = "held until it is dropped")] Reservation),
    /// Room for a record, because the connection's readers are behind or the budget `refused` more.
    Record {
        refused: bool,
    },
}

impl Borrower {
    pub(crate) fn new(pool: Arc<SlabPool>, budget: Budget) -> Self {
        Self {
            pool,
            budget,
            taken: Taken::Nothing,
        }
    }

    /// A buffer of [`LARGE`] bytes; of a record, or `least`, if the budget cannot pay for more or the connection
    /// `holds` a lot. One that was taken before and is still held by readers is theirs from now on.
    pub(crate) fn take(&mut self, least: usize, holds: usize) -> BytesMut {
        if holds > BACKLOG {
            self.taken = Taken::Record { refused: false };
        } else if !matches!(self.taken, Taken::Large(_)) {
            self.taken = match self.budget.try_reserve(LARGE) {
                Ok(paid) => Taken::Large(paid),
                Err(_) => Taken::Record { refused: true },
            };
        }
        match self.taken {
            Taken::Record { .. } => BytesMut::with_capacity(least.max(MAX_SEALED)),
            _ => self.pool.take(),
        }
    }

    /// Whether the budget had no room for what was taken last.
    pub(crate) fn is_short(&self) -> bool {
        matches!(self.taken, Taken::Record { refused: true })
    }

    /// Length of what was taken last, or may be taken next.
    pub(crate) fn size(&self) -> usize {
        match self.taken {
            Taken::Record { .. } => MAX_SEALED,
            _ => LARGE,
        }
    }

    /// Gives back what was taken.
    pub(crate) fn give(&mut self, buf: BytesMut) {
        if let Taken::Large(_) = std::mem::replace(&mut self.taken, Taken::Nothing) {
            self.pool.give(buf);
        }
    }
}

/// The slab one connection reads into.
#[derive(Debug)]
pub(crate) struct ReadSlab {
    pool: Borrower,
    /// From the first unopened byte to the end of the slab.
    buf: BytesMut,
    large: bool,
    quiet_turns: u8,
    /// Bytes copied because a record outgrew a small slab.
    moved: u64,
}

impl ReadSlab {
    /// `surplus` is what the handshake has read too much.
    pub(crate) fn new(pool: Borrower, surplus: BytesMut) -> Self {
        Self {
            pool,
            buf: surplus,
            large: false,
            quiet_turns: 0,
            moved: 0,
        }
    }

    /// Bytes received and not opened yet.
    pub(crate) fn pending(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Whether the budget has no room for a large slab.
    pub(crate) fn is_short(&self) -> bool {
        self.pool.is_short()
    }

    /// Ciphertext bytes moved between slabs so far.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Makes room for the next read and returns how many bytes it may bring. `record` is the full
    /// length of the record at the front, once its header is known.
    ///
    /// `holds` is what the connection holds that is not read or not sent, in bytes. The second value
    /// tells that a fresh slab was taken while slices of the old one live on.
    pub(crate) fn prepare(&mut self, record: Option<usize>, holds: usize) -> (usize, bool) {
        let mut switched = false;
        let size = if self.large { self.pool.size() } else { SMALL };
        let filled = self.buf.len();
        if filled == 0 && self.buf.capacity() < size && !self.buf.try_reclaim(size) {
            let worn = if self.large {
                self.buf.capacity() < MAX_RECORD
            } else {
                self.buf.capacity() < 256
            };
            if worn {
                switched = self.buf.capacity() > 0 || self.large;
                self.buf = if self.large {
                    self.pool.take(MAX_SEALED, holds)
                } else {
                    BytesMut::with_capacity(SMALL)
                };
            }
        }
        let whole = record.unwrap_or(MAX_HEADER);
        if filled > 0 && whole > self.buf.capacity() {
            // Only a small slab can be outgrown: see the limit below.
            let mut grown = self.pool.take(MAX_SEALED, holds);
            grown.put_slice(&self.buf);
            self.moved += filled as u64;
            self.buf = grown;
            self.large = true;
            switched = true;
        }
        let capacity = self.buf.capacity();
        let end = if self.large {
            // Any record that begins before `capacity - MAX_RECORD` fits.
            capacity.saturating_sub(MAX_RECORD).max(whole.min(capacity))
        } else {
            capacity
        };
        (end - filled, switched)
    }

    /// Notes how a read went: a read that fills the slab is the sign of a burst. Headers of a
    /// transport's own frames may take a few of its bytes.
    pub(crate) fn note_read(&mut self, got: usize, asked: usize) {
        if got >= asked - asked / 16 && got >= SMALL / 2 {
            self.large = true;
        }
    }

    /// The socket is drained: lets go of the slab if it holds no unfinished record.
    pub(crate) fn rest(&mut self, read_since_rest: usize) {
        if !self.buf.is_empty() {
            return;
        }
        let buf = std::mem::take(&mut self.buf);
        if buf.capacity() > 0 && self.large {
            self.pool.give(buf);
        }
        if read_since_rest >= SMALL {
            self.quiet_turns = 0;
        } else if self.large {
            self.quiet_turns += 1;
            if self.quiet_turns == QUIET_TURNS {
                self.quiet_turns = 0;
                self.large = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Simulates reads of whatever is allowed and records of all lengths; after the slab is large
    /// no byte moves and each record is contiguous.
    #[test]
    fn records_never_straddle_large_slabs() {
        for budget in [Budget::unlimited(), Budget::root(LARGE - 1)] {
            straddle(Borrower::new(Arc::default(), budget));
        }
    }

    fn straddle(pool: Borrower) {
        let mut slab = ReadSlab::new(pool, BytesMut::new());
        slab.large = true;
        let mut lengths = [
            17usize, 65_537, 2, 40_000, 65_000, 65_537, 333, 65_537, 65_536,
        ]
        .into_iter()
        .cycle();
        let mut stream = Vec::new();
        let mut held = Vec::new();
        for round in 0..2_000 {
            let record = (slab.pending().len() >= 2).then(|| {
                let head = slab.pending();
                usize::from(u16::from_be_bytes([head[0], head[1]])) + 2
            });
            let (limit, _) = slab.prepare(record, if round % 3 == 0 { BACKLOG + 1 } else { 0 });
            assert!(limit > 0, "round {round}");
            while stream.len() < limit {
                let len = lengths.next().unwrap();
                stream.extend_from_slice(&u16::try_from(len - 2).unwrap().to_be_bytes());
                stream.resize(stream.len() + len - 2, 7u8);
            }
            let rest = stream.split_off(limit);
            slab.pending().put_slice(&stream);
            stream = rest;
            loop {
                let head = slab.pending();
                if head.len() < 2 {
                    break;
                }
                let total = usize::from(u16::from_be_bytes([head[0], head[1]])) + 2;
                if head.len() < total {
                    break;
                }
                held.push(head.split_to(total).freeze());
            }
            if round % 7 == 0 {
                held.clear();
            }
        }
        assert_eq!(slab.moved(), 0);
    }
}
