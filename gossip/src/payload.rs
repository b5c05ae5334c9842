//! Bytes that may lie in several buffers: what was received in pieces is passed on in pieces.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};

/// A run of bytes in one buffer or several. Cloning and slicing share the buffers.
///
/// What fitted one record of the transport is one chunk; a message that spans records keeps the chunks it arrived in and
/// becomes one buffer only by [`to_bytes`](Self::to_bytes).
#[derive(Clone, Default)]
pub struct Payload {
    repr: Repr,
    len: usize,
}

#[derive(Clone)]
enum Repr {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Default for Repr {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl Payload {
    /// The concatenation of `chunks`; empty ones are left out.
    #[must_use]
    pub fn from_chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let mut chunks: Vec<Bytes> = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        let len = chunks.iter().map(Bytes::len).sum();
        let repr = match chunks.len() {
            0 | 1 => Repr::One(chunks.pop().unwrap_or_default()),
            _ => Repr::Many(chunks.into()),
        };
        Self { repr, len }
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunks in order. One, maybe empty, unless the bytes lie in several buffers.
    #[inline]
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        match &self.repr {
            Repr::One(bytes) => std::slice::from_ref(bytes),
            Repr::Many(chunks) => chunks,
        }
    }

    /// The bytes as one slice, if they lie in one buffer.
    #[inline]
    #[must_use]
    pub fn as_contiguous(&self) -> Option<&[u8]> {
        match &self.repr {
            Repr::One(bytes) => Some(bytes),
            Repr::Many(_) => None,
        }
    }

    /// The bytes in one buffer: without a copy if they are in one already, else with exactly one.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.repr {
            Repr::One(bytes) => bytes.clone(),
            Repr::Many(_) => self.copied(),
        }
    }

    /// The bytes in a buffer of their own, which pins no buffer of anybody else.
    #[must_use]
    pub fn copied(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.len);
        for chunk in self.chunks() {
            all.extend_from_slice(chunk);
        }
        all.freeze()
    }

    /// Whether both hold the same bytes, wherever they are cut.
    fn same_bytes(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        if let (Some(a), Some(b)) = (self.as_contiguous(), other.as_contiguous()) {
            return a == b;
        }
        let (mut left, mut right) = (self.chunks().iter(), other.chunks().iter());
        let (mut a, mut b): (&[u8], &[u8]) = (&[], &[]);
        loop {
            if a.is_empty() {
                match left.next() {
                    Some(chunk) => a = chunk,
                    None => return true,
                }
                continue;
            }
            if b.is_empty() {
                match right.next() {
                    Some(chunk) => b = chunk,
                    None => return true,
                }
                continue;
            }
            let n = a.len().min(b.len());
            if a[..n] != b[..n] {
                return false;
            }
            (a, b) = (&a[n..], &b[n..]);
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let len = bytes.len();
        Self {
            repr: Repr::One(bytes),
            len,
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.same_bytes(other)
    }
}

impl Eq for Payload {}

impl PartialEq<[u8]> for Payload {
    fn eq(&self, other: &[u8]) -> bool {
        let mut rest = other;
        self.len == other.len()
            && self.chunks().iter().all(|chunk| {
                let (head, tail) = rest.split_at(chunk.len().min(rest.len()));
                rest = tail;
                head == &chunk[..]
            })
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes in {})", self.len, self.chunks().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], at: &[usize]) -> Payload {
        let mut chunks = Vec::new();
        let mut from = 0;
        for &to in at.iter().chain([&bytes.len()]) {
            chunks.push(Bytes::copy_from_slice(&bytes[from..to]));
            from = to;
        }
        Payload::from_chunks(chunks)
    }

    #[test]
    fn compares_by_content() {
        let bytes = b"gossip travels far";
        let whole = cut(bytes, &[]);
        assert_eq!(whole.chunks().len(), 1);
        for at in [&[3usize][..], &[0, 3, 3, 9], &[1, 2, 17]] {
            let pieces = cut(bytes, at);
            assert_eq!(pieces, whole);
            assert_eq!(pieces, cut(bytes, &[5, 6]));
            assert!(pieces == bytes[..]);
            assert_eq!(&pieces.to_bytes()[..], bytes);
        }
        assert_ne!(cut(bytes, &[4]), cut(b"gossip travels faR", &[9]));
        assert!(cut(bytes, &[4]) != bytes[1..]);
        assert_eq!(Payload::default(), cut(b"", &[]));
    }

    #[test]
    fn one_chunk_is_not_copied() {
        let bytes = Bytes::from(vec![7; 100]);
        let payload = Payload::from_chunks([Bytes::new(), bytes.clone()]);
        assert_eq!(payload.to_bytes().as_ptr(), bytes.as_ptr());
        assert_ne!(payload.copied().as_ptr(), bytes.as_ptr());
    }
}
