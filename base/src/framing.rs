//! Length-prefixed framing: a multiformats varint of the body's length, then the body.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Fault,
    varint::{self, VarintError},
};

/// Why a length-prefixed stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// The length prefix is not a varint.
    #[error("the length prefix is not a valid varint: {0}")]
    Prefix(#[from] VarintError),
    /// The announced body is longer than this decoder accepts.
    #[error("a frame of {len} bytes was announced, at most {max} are accepted")]
    TooLong {
        /// Announced length in bytes.
        len: u64,
        /// Accepted length in bytes.
        max: usize,
    },
}

impl FramingError {
    /// Always the peer's: both errors come from bytes it sent.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// Appends `body` with its length before it.
pub fn encode_prefixed(body: &[u8], out: &mut BytesMut) {
    out.reserve(varint::encoded_len(body.len() as u64) + body.len());
    varint::encode(body.len() as u64, out);
    out.put_slice(body);
}

/// Cuts length-prefixed bodies out of a byte stream that arrives in chunks.
///
/// A body that lies in one chunk is returned as a slice of it; any other is copied once. A length
/// prefix alone allocates nothing, and memory held for an unfinished body is at most twice what
/// was received of it plus one chunk. Call [`next`](Self::next) until it returns `None` after each
/// [`push`](Self::push): then a partial body no longer keeps the chunk it came in alive.
#[derive(Debug)]
pub struct LengthPrefixedDecoder {
    max_len: usize,
    chunks: VecDeque<Bytes>,
    prefix: [u8; varint::MAX_LEN],
    prefix_len: usize,
    /// Length of the body whose prefix was read.
    body_len: Option<usize>,
    /// The received part of a body that spans chunks.
    partial: BytesMut,
    failed: Option<FramingError>,
}

impl LengthPrefixedDecoder {
    /// A decoder that accepts bodies of up to `max_len` bytes.
    #[must_use]
    pub fn new(max_len: usize) -> Self {
        Self {
            max_len,
            chunks: VecDeque::new(),
            prefix: [0; varint::MAX_LEN],
            prefix_len: 0,
            body_len: None,
            partial: BytesMut::new(),
            failed: None,
        }
    }

    /// Takes the next chunk of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() && self.failed.is_none() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next whole body, or `None` until more was pushed. A body may be empty.
    ///
    /// # Errors
    /// [`FramingError`]; the stream is lost then and every further call returns the same error.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator would end at the first None"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, FramingError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let outcome = self.advance();
        if let Err(error) = outcome {
            self.failed = Some(error);
            self.chunks = VecDeque::new();
            self.partial = BytesMut::new();
        }
        outcome
    }

    /// Whether the stream may end here: no body was begun and none is waiting to be taken.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.chunks.is_empty() && self.prefix_len == 0 && self.body_len.is_none()
    }

    /// Bytes received and not yet returned.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.prefix_len + self.partial.len() + self.chunks.iter().map(Bytes::len).sum::<usize>()
    }

    fn advance(&mut self) -> Result<Option<Bytes>, FramingError> {
        let len = match self.body_len {
            Some(len) => len,
            None => match self.read_prefix()? {
                Some(len) => len,
                None => return Ok(None),
            },
        };
        self.body_len = Some(len);
        let body = self.read_body(len);
        if body.is_some() {
            self.body_len = None;
        }
        Ok(body)
    }

    fn read_prefix(&mut self) -> Result<Option<usize>, FramingError> {
        while let Some(chunk) = self.chunks.front_mut() {
            let had = self.prefix_len;
            let take = chunk.len().min(varint::MAX_LEN - had);
            self.prefix[had..had + take].copy_from_slice(&chunk[..take]);
            if let Some((len, used)) = varint::decode(&self.prefix[..had + take])? {
                let _ = chunk.split_to(used - had);
                self.drop_empty_front();
                self.prefix_len = 0;
                return match usize::try_from(len) {
                    Ok(len) if len <= self.max_len => Ok(Some(len)),
                    _ => Err(FramingError::TooLong {
                        len,
                        max: self.max_len,
                    }),
                };
            }
            // Fewer than nine bytes and no end of the varint: the chunk was used up.
            self.prefix_len = had + take;
            self.chunks.pop_front();
        }
        Ok(None)
    }

    fn read_body(&mut self, len: usize) -> Option<Bytes> {
        if len == 0 {
            return Some(Bytes::new());
        }
        while let Some(chunk) = self.chunks.front_mut() {
            let missing = len - self.partial.len();
            let take = chunk.split_to(missing.min(chunk.len()));
            self.drop_empty_front();
            if self.partial.is_empty() && take.len() == len {
                return Some(take);
            }
            let filled = self.partial.len() + take.len();
            if self.partial.capacity() < filled {
                // Doubles so that each byte is moved a bounded number of times, but never past
                // the body: the peer pays with bytes sent for every byte allocated.
                let wanted = len.min(filled * 2);
                self.partial.reserve(wanted - self.partial.len());
            }
            self.partial.put_slice(&take);
            if filled == len {
                return Some(std::mem::take(&mut self.partial).freeze());
            }
        }
        None
    }

    fn drop_empty_front(&mut self) {
        if self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn frames(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for body in bodies {
            encode_prefixed(body, &mut out);
        }
        out.to_vec()
    }

    #[test]
    fn a_body_in_one_chunk_is_a_slice_of_it() {
        let chunk = Bytes::from(frames(&[vec![1; 300], vec![], vec![2; 5]]));
        let start = chunk.as_ptr() as usize;
        let mut decoder = LengthPrefixedDecoder::new(1000);
        decoder.push(chunk);
        let body = decoder.next().unwrap().unwrap();
        assert_eq!(body.as_ptr() as usize, start + 2);
        assert_eq!(body, vec![1; 300]);
        assert_eq!(decoder.next().unwrap().unwrap(), Bytes::new());
        assert!(!decoder.is_at_boundary());
        assert_eq!(
            decoder.next().unwrap().unwrap().as_ptr() as usize,
            start + 304
        );
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.is_at_boundary());
    }

    #[test]
    fn a_prefix_allocates_nothing() {
        let mut decoder = LengthPrefixedDecoder::new(512 << 20);
        let mut prefix = Vec::new();
        varint::encode((512 << 20) - 1, &mut prefix);
        decoder.push(Bytes::from(prefix));
        assert_eq!(decoder.next(), Ok(None));
        assert_eq!(decoder.partial.capacity(), 0);
        decoder.push(Bytes::from(vec![0; 1000]));
        assert_eq!(decoder.next(), Ok(None));
        assert!(
            decoder.partial.capacity() <= 2000,
            "{}",
            decoder.partial.capacity()
        );
        assert_eq!(decoder.buffered(), 1000);
    }

    #[test]
    fn a_partial_body_does_not_keep_its_chunk() {
        let slab = Bytes::from(vec![9; 65536]);
        let mut decoder = LengthPrefixedDecoder::new(1000);
        decoder.push(slab.slice(..3));
        assert_eq!(decoder.next(), Ok(None));
        assert!(slab.is_unique());
    }

    #[test]
    fn refusals_last() {
        let mut decoder = LengthPrefixedDecoder::new(10);
        decoder.push(Bytes::from_static(&[11]));
        let error = FramingError::TooLong { len: 11, max: 10 };
        assert_eq!(decoder.next(), Err(error));
        decoder.push(Bytes::from_static(&[1, 1]));
        assert_eq!(decoder.next(), Err(error));
        let mut decoder = LengthPrefixedDecoder::new(usize::MAX);
        decoder.push(Bytes::from_static(&[0xff; 20]));
        assert_eq!(decoder.next(), Err(VarintError::TooLong.into()));
        let mut decoder = LengthPrefixedDecoder::new(10);
        decoder.push(Bytes::from_static(&[0x81]));
        assert_eq!(decoder.next(), Ok(None));
        decoder.push(Bytes::from_static(&[0x00]));
        assert_eq!(decoder.next(), Err(VarintError::NotMinimal.into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_fragmentation_gives_the_same_bodies(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..6),
            cuts in proptest::collection::vec(1usize..200, 1..40),
            eager in any::<bool>(),
        ) {
            let wire = frames(&bodies);
            let mut decoder = LengthPrefixedDecoder::new(400);
            let mut got = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at(rest.len().min(*cut));
                decoder.push(Bytes::copy_from_slice(head));
                rest = tail;
                if eager {
                    while let Some(body) = decoder.next().unwrap() {
                        got.push(body.to_vec());
                    }
                }
            }
            while let Some(body) = decoder.next().unwrap() {
                got.push(body.to_vec());
            }
            prop_assert_eq!(got, bodies);
            prop_assert!(decoder.is_at_boundary());
        }
    }
}
