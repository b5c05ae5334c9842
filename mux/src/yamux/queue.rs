//! The byte queues of a stream: what came and was not read, what was written and not sent.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use crate::muxer::Compact;

/// A received slice shorter than this is copied out if it is not read before input comes at a later time, so that a
/// slow reader does not pin a whole slab for it. Longer ones stay slices.
pub(crate) const SMALL: usize = 8 << 10;

/// Bytes received in order.
#[derive(Debug, Default)]
pub(crate) struct RecvQueue {
    chunks: VecDeque<Bytes>,
    /// Leading chunks that are long, or own their memory.
    settled: usize,
    /// Leading chunks that were there at the last [`compact`](Self::compact), and of these, those it has dealt with.
    seen: usize,
    compacted: usize,
    /// Copies of small slices; comes after all of `chunks`.
    tail: BytesMut,
    len: usize,
}

impl RecvQueue {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends a slice. Returns whether [`settle`](Self::settle) is wanted before input of a later time.
    #[inline]
    pub(crate) fn push(&mut self, chunk: Bytes) -> bool {
        self.len += chunk.len();
        let small = chunk.len() < SMALL;
        if !self.tail.is_empty() {
            if small {
                self.append(&chunk);
                return false;
            }
            self.flush_tail();
        }
        if !small && self.settled == self.chunks.len() {
            self.settled += 1;
        }
        self.chunks.push_back(chunk);
        small
    }

    /// Copies small slices together, so that no memory of the inputs they came with is held for them.
    /// Returns how many bytes were copied.
    pub(crate) fn settle(&mut self) -> usize {
        if self.settled == self.chunks.len() {
            return 0;
        }
        let mut copied = 0;
        let mut rest = self.chunks.split_off(self.settled);
        self.seen = self.seen.min(self.settled);
        self.compacted = self.compacted.min(self.settled);
        // A peer that sends a byte a frame makes this queue long once; do not keep the room for it.
        self.chunks.shrink_to(64);
        for chunk in rest.drain(..) {
            if chunk.len() < SMALL {
                copied += chunk.len();
                self.append(&chunk);
            } else {
                self.flush_tail();
                self.chunks.push_back(chunk);
            }
        }
        self.settled = self.chunks.len();
        copied
    }

    /// Copies the chunks that are meant. Returns how many bytes.
    pub(crate) fn compact(&mut self, which: Compact) -> usize {
        let max = match which {
            Compact::Lingering { max } => max,
            Compact::All => {
                self.seen = self.chunks.len();
                usize::MAX
            }
        };
        let copied = compact(&mut self.chunks, self.compacted..self.seen, max);
        self.compacted = self.seen;
        self.seen = self.chunks.len();
        copied
    }

    fn append(&mut self, chunk: &[u8]) {
        self.tail.extend_from_slice(chunk);
        if self.tail.len() >= GATHER {
            self.flush_tail();
        }
    }

    fn flush_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let tail = std::mem::take(&mut self.tail).freeze();
        self.chunks.push_back(tail);
        self.settled = self.chunks.len();
    }

    /// Takes up to `max` bytes that lie in one piece. `max` must be above 0.
    #[inline]
    pub(crate) fn pop(&mut self, max: usize) -> Option<Bytes> {
        let Some(front) = self.chunks.front_mut() else {
            if self.tail.is_empty() {
                return None;
            }
            let mut tail = std::mem::take(&mut self.tail).freeze();
            let out = if tail.len() > max {
                tail.split_to(max)
            } else {
                std::mem::take(&mut tail)
            };
            if !tail.is_empty() {
                self.chunks.push_back(tail);
                self.settled = 1;
            }
            self.len -= out.len();
            return Some(out);
        };
        if front.len() > max {
            self.len -= max;
            return Some(front.split_to(max));
        }
        let out = self.chunks.pop_front()?;
        self.settled = self.settled.saturating_sub(1);
        self.seen = self.seen.saturating_sub(1);
        self.compacted = self.compacted.saturating_sub(1);
        self.len -= out.len();
        Some(out)
    }

    /// Drops everything, and the queue's own memory. Returns how many bytes went.
    pub(crate) fn clear(&mut self) -> usize {
        std::mem::take(self).len
    }
}

/// Replaces the chunks of `range` that have at most `max` bytes by copies. Returns how many bytes.
fn compact(chunks: &mut VecDeque<Bytes>, range: Range<usize>, max: usize) -> usize {
    let mut copied = 0;
    for chunk in chunks.iter_mut().take(range.end).skip(range.start) {
        if chunk.len() <= max {
            copied += chunk.len();
            *chunk = Bytes::copy_from_slice(chunk);
        }
    }
    copied
}

/// Chunks for which an empty queue keeps the room.
const KEEP: usize = 8;

/// Longest buffer that small slices and small writes are gathered in.
const GATHER: usize = 16 << 10;

/// Behind [`KEEP`] chunks, one up to this length costs less to copy than to keep a place for.
const SHORT: usize = 1 << 10;

/// Bytes to be sent in order.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    chunks: VecDeque<Bytes>,
    /// Leading chunks that were there at the last [`compact`](Self::compact), and of these, those it has dealt with.
    seen: usize,
    compacted: usize,
    /// Copies of small writes; comes after all of `chunks`.
    tail: BytesMut,
    len: usize,
}

impl SendQueue {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a chunk. Short ones behind a long queue are copied together: who writes byte by byte what a peer does
    /// not take, as an echo of frames of one byte does, must not be held a list of bytes for.
    #[inline]
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        if chunk.len() <= SHORT && self.chunks.len() >= KEEP {
            self.push_copy(&chunk);
            return;
        }
        self.flush_tail();
        self.len += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// Appends a copy.
    #[inline]
    pub(crate) fn push_copy(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        if bytes.len() >= GATHER {
            self.flush_tail();
            self.chunks.push_back(Bytes::copy_from_slice(bytes));
            return;
        }
        if self.tail.len() + bytes.len() > GATHER {
            self.flush_tail();
            // More will follow: do not grow into it.
            self.tail.reserve(GATHER);
        }
        self.tail.extend_from_slice(bytes);
    }

    fn flush_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks
                .push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// Hands `count` bytes, at most what is queued, to `sink` without copying them.
    #[inline]
    pub(crate) fn take(&mut self, mut count: usize, mut sink: impl FnMut(Bytes)) {
        if self.chunks.is_empty() || count > self.len - self.tail.len() {
            self.flush_tail();
        }
        self.len -= count.min(self.len);
        while count > 0 {
            let Some(front) = self.chunks.front_mut() else {
                return;
            };
            if front.len() > count {
                sink(front.slice(..count));
                front.advance(count);
                return;
            }
            count -= front.len();
            if let Some(chunk) = self.chunks.pop_front() {
                self.seen = self.seen.saturating_sub(1);
                self.compacted = self.compacted.saturating_sub(1);
                sink(chunk);
            }
        }
    }

    /// As [`RecvQueue::compact`]: an echo queues slices of what it has received.
    pub(crate) fn compact(&mut self, which: Compact) -> usize {
        let max = match which {
            Compact::Lingering { max } => max,
            Compact::All => {
                self.seen = self.chunks.len();
                usize::MAX
            }
        };
        let copied = compact(&mut self.chunks, self.compacted..self.seen, max);
        self.compacted = self.seen;
        self.seen = self.chunks.len();
        copied
    }

    /// Drops everything, and the queue's own memory.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives memory back that a long queue has taken, if nothing is queued; the little that single messages need stays.
    #[inline]
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.chunks.capacity() > KEEP {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(len: usize, seed: &mut u8) -> Bytes {
        let data: Vec<u8> = (0..len)
            .map(|_| {
                *seed = seed.wrapping_mul(31).wrapping_add(7);
                *seed
            })
            .collect();
        data.into()
    }

    proptest! {
        #[test]
        fn recv_keeps_order(ops in proptest::collection::vec((0u8..4, 1usize..40_000), 1..60)) {
            let (mut queue, mut model, mut seed) = (RecvQueue::default(), VecDeque::new(), 1);
            for (op, n) in ops {
                match op {
                    0 | 1 => {
                        let data = bytes_of(if op == 0 { n % 100 + 1 } else { n }, &mut seed);
                        model.extend(data.iter().copied());
                        queue.push(data);
                    }
                    2 if n % 4 == 0 => drop(queue.compact(Compact::All)),
                    2 if n % 2 == 0 => drop(queue.compact(Compact::Lingering { max: n })),
                    2 => drop(queue.settle()),
                    _ => if let Some(got) = queue.pop(n) {
                        prop_assert!(!got.is_empty() && got.len() <= n);
                        let want: Vec<u8> = model.drain(..got.len()).collect();
                        prop_assert_eq!(&got[..], &want[..]);
                    } else {
                        prop_assert!(model.is_empty());
                    },
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }

        #[test]
        fn send_keeps_order(ops in proptest::collection::vec((0u8..4, 1usize..40_000), 1..60)) {
            let (mut queue, mut model, mut seed) = (SendQueue::default(), VecDeque::new(), 1);
            for (op, n) in ops {
                match op {
                    0 => {
                        let data = bytes_of(n, &mut seed);
                        model.extend(data.iter().copied());
                        queue.push(data);
                    }
                    1 | 2 => {
                        let data = bytes_of(if op == 1 { n % 100 + 1 } else { n }, &mut seed);
                        model.extend(data.iter().copied());
                        queue.push_copy(&data);
                    }
                    3 if n % 8 == 0 => drop(queue.compact(Compact::All)),
                    3 if n % 4 == 0 => drop(queue.compact(Compact::Lingering { max: n })),
                    _ => {
                        let count = n.min(queue.len());
                        let mut got = Vec::new();
                        queue.take(count, |part| got.extend_from_slice(&part));
                        let want: Vec<u8> = model.drain(..count).collect();
                        prop_assert_eq!(got, want);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }

    #[test]
    fn a_slow_reader_pins_no_slab_for_small_slices() {
        let mut queue = RecvQueue::default();
        let mut longest = 0;
        for _ in 0..10_000 {
            // Each input of 64 KiB carries one byte for this stream.
            let slab = Bytes::from(vec![7u8; 64 << 10]);
            if queue.push(slab.slice(..1)) {
                assert!(!slab.is_unique());
                queue.settle();
            }
            assert!(slab.is_unique(), "the slab is free again");
            longest = longest.max(queue.chunks.capacity());
        }
        assert!(longest <= 64, "{longest}");
        assert_eq!(queue.len(), 10_000);
    }

    #[test]
    fn short_chunks_that_are_not_sent_become_few() {
        let mut queue = SendQueue::default();
        let slab = Bytes::from(vec![7u8; 260_000]);
        for at in 0..slab.len() {
            queue.push(slab.slice(at..=at));
        }
        assert_eq!(
            queue.chunks[0].as_ptr(),
            slab.as_ptr(),
            "single messages are not copied"
        );
        let held = queue.chunks.len() + usize::from(!queue.tail.is_empty());
        println!("row 35: 260,000 bytes, one a write, unsent, are {held} chunks");
        assert!(held <= KEEP + 17 && queue.chunks.capacity() <= 64, "{held}");
        queue.compact(Compact::All);
        assert!(slab.is_unique(), "and do not pin a slab");
        let mut got = 0;
        queue.take(queue.len(), |part| got += part.len());
        assert_eq!(got, 260_000);
    }

    #[test]
    fn compacting_copies_what_was_there_before() {
        let mut queue = RecvQueue::default();
        let slab = Bytes::from(vec![7u8; 256 << 10]);
        queue.push(slab.slice(..20_000));
        queue.compact(Compact::Lingering { max: 32_000 });
        queue.push(slab.slice(20_000..40_000));
        assert_eq!(queue.chunks[0].as_ptr(), slab.as_ptr());
        queue.compact(Compact::Lingering { max: 32_000 });
        assert_ne!(queue.chunks[0].as_ptr(), slab.as_ptr());
        assert_eq!(queue.chunks[1].as_ptr(), slab[20_000..].as_ptr());
        let copy = queue.chunks[0].as_ptr();
        queue.compact(Compact::Lingering { max: 32_000 });
        assert_eq!(queue.chunks[0].as_ptr(), copy, "nothing is copied twice");
        assert!(slab.is_unique());
        assert_eq!(
            queue.pop(usize::MAX).unwrap().len() + queue.pop(usize::MAX).unwrap().len(),
            40_000
        );
    }

    #[test]
    fn a_prompt_reader_gets_the_slab() {
        let mut queue = RecvQueue::default();
        let slab = Bytes::from(vec![7u8; 64 << 10]);
        queue.push(slab.slice(12..40));
        queue.push(slab.slice(52..));
        assert_eq!(queue.pop(100).unwrap().as_ptr(), slab[12..].as_ptr());
        assert_eq!(queue.pop(usize::MAX).unwrap().as_ptr(), slab[52..].as_ptr());
    }
}
