//! The gather list in which a multiplexer hands one record's bytes to the record layer.

use bytes::Bytes;

/// Longest slice that a [`Part`] holds without a reference count: a yamux frame header.
pub const INLINE_LEN: usize = 12;

/// One piece of a [`TransmitBuf`].
#[derive(Clone, Debug)]
pub enum Part {
    /// A few bytes held in place, such as a frame header.
    Inline {
        /// The bytes, of which the first `len` count.
        bytes: [u8; INLINE_LEN],
        /// How many bytes count.
        len: u8,
    },
    /// A reference-counted slice of the application's or another layer's buffer.
    Shared(Bytes),
}

impl Part {
    /// The bytes of this part.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { bytes, len } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A list of byte slices that together make the plaintext of one record, and the bytes it should
/// not exceed. It is cleared and filled again, so that it allocates nothing in the steady state.
#[derive(Debug)]
pub struct TransmitBuf {
    parts: Vec<Part>,
    len: usize,
    limit: usize,
}

impl TransmitBuf {
    /// An empty list for up to `limit` bytes. Nothing is allocated before the first push.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            parts: Vec::new(),
            len: 0,
            limit,
        }
    }

    /// Drops all parts; the list's own memory is kept for the next record.
    #[inline]
    pub fn clear(&mut self) {
        self.parts.clear();
        self.len = 0;
    }

    /// Drops all parts and the list's own memory, for a connection that has gone idle.
    pub fn release(&mut self) {
        self.parts = Vec::new();
        self.len = 0;
    }

    /// Sets how many bytes the whole list should hold. Parts already pushed stay.
    #[inline]
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes the whole list should hold at most.
    #[inline]
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes pushed so far.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte was pushed.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that may still be pushed. The caller asks before it pushes: a push is never refused,
    /// it would only make a record the layer below has to refuse.
    #[inline]
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.limit.saturating_sub(self.len)
    }

    /// How many parts the list has room for.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.parts.capacity()
    }

    /// How many parts were pushed.
    #[inline]
    #[must_use]
    pub const fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Appends a copy of `bytes`, in place up to [`INLINE_LEN`] and in an allocation above it.
    #[inline]
    pub fn push_inline(&mut self, bytes: &[u8]) {
        if bytes.len() > INLINE_LEN {
            self.push(Bytes::copy_from_slice(bytes));
            return;
        }
        if bytes.is_empty() {
            return;
        }
        let mut inline = [0; INLINE_LEN];
        inline[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self.parts.push(Part::Inline {
            bytes: inline,
            len: bytes.len() as u8,
        });
    }

    /// Appends `bytes` without copying. Empty slices are left out.
    #[inline]
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        self.parts.push(Part::Shared(bytes));
    }

    /// The slices in the order in which they were pushed.
    #[inline]
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.parts.iter().map(Part::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_counts() {
        let mut buf = TransmitBuf::new(100);
        let payload = Bytes::from_static(b"payload");
        buf.push_inline(b"head");
        buf.push(payload.clone());
        buf.push(Bytes::new());
        buf.push_inline(b"");
        buf.push_inline(b"longer than twelve bytes");
        assert_eq!(buf.part_count(), 3);
        assert_eq!(buf.len(), 35);
        assert_eq!(buf.remaining(), 65);
        assert_eq!(
            buf.parts().collect::<Vec<_>>(),
            [&b"head"[..], b"payload", b"longer than twelve bytes"]
        );
        // The payload is the same memory, not a copy.
        assert_eq!(
            buf.parts().nth(1).map(<[u8]>::as_ptr),
            Some(payload.as_ptr())
        );
        buf.set_limit(10);
        assert_eq!(buf.remaining(), 0);
        buf.clear();
        assert!(buf.is_empty());
        assert_eq!(buf.remaining(), 10);
    }

    #[test]
    fn steady_state_keeps_its_memory() {
        let mut buf = TransmitBuf::new(1 << 16);
        let payload = Bytes::from_static(&[7; 100]);
        let fill = |buf: &mut TransmitBuf| {
            for _ in 0..64 {
                buf.push_inline(&[1; 12]);
                buf.push(payload.clone());
            }
        };
        fill(&mut buf);
        let capacity = buf.parts.capacity();
        for _ in 0..10 {
            buf.clear();
            fill(&mut buf);
        }
        assert_eq!(buf.parts.capacity(), capacity);
        buf.release();
        assert_eq!(buf.parts.capacity(), 0);
    }
}
