//! Cuts RPC frames out of a stream without gluing their chunks together.

use std::mem;

use barewire_base::{Budget, BudgetExceeded, Fault, Reservation, framing::FramingError, varint};
use bytes::{Bytes, BytesMut};

use crate::Payload;

/// Chunks shorter than this are copied together, so that a peer that sends byte by byte cannot make each of them pin a buffer.
const COPY_BELOW: usize = 1024;

/// Why a stream of RPCs cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The prefix is no varint, or announces more than is accepted.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// There is no memory for what has arrived of the frame.
    #[error("an RPC does not fit memory: {0}")]
    Budget(#[from] BudgetExceeded),
}

impl FrameError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Framing(error) => error.fault(),
            Self::Budget(error) => error.fault(),
        }
    }
}

/// A whole frame.
#[derive(Debug)]
#[non_exhaustive]
pub struct Frame {
    /// The RPC, without its length prefix.
    pub body: Payload,
    /// What the budget was charged for it. Keep it as long as the frame.
    pub reservation: Reservation,
}

/// Cuts length-prefixed RPCs out of a byte stream that arrives in chunks, and keeps the chunks.
///
/// The announced length is compared with the limit and allocates nothing; the budget is charged as bytes arrive. What was
/// received in one chunk comes out as one; a frame that spans chunks comes out as a list of slices of them, with pieces below
/// 1 KiB copied together.
#[derive(Debug)]
pub struct FrameReader {
    max_len: usize,
    budget: Budget,
    /// Received and not looked at yet: at most the last pushed chunk's rest.
    input: Bytes,
    prefix: [u8; varint::MAX_LEN],
    prefix_len: usize,
    body: Option<Body>,
    failed: Option<FrameError>,
}

#[derive(Debug)]
struct Body {
    missing: usize,
    chunks: Vec<Bytes>,
    /// Short pieces behind `chunks`.
    tail: BytesMut,
    reservation: Reservation,
}

impl FrameReader {
    /// A reader of frames of up to `max_len` bytes, whose bytes are charged to `budget` while they are held.
    #[must_use]
    pub const fn new(max_len: usize, budget: Budget) -> Self {
        Self {
            max_len,
            budget,
            input: Bytes::new(),
            prefix: [0; varint::MAX_LEN],
            prefix_len: 0,
            body: None,
            failed: None,
        }
    }

    /// Changes the limit for frames whose prefix was not read yet. See [`Router::max_rpc_len`](crate::Router::max_rpc_len).
    pub const fn set_max_len(&mut self, max_len: usize) {
        self.max_len = max_len;
    }

    /// Bytes held of a frame that is not whole.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.body
            .as_ref()
            .map_or(0, |body| body.reservation.bytes())
            + self.input.len()
            + self.prefix_len
    }

    /// Whether the stream may end here.
    #[must_use]
    pub const fn is_at_boundary(&self) -> bool {
        self.input.is_empty() && self.prefix_len == 0 && self.body.is_none()
    }

    /// Takes the next chunk of the stream and hands every frame that is whole now to `frames`. Empty frames, which mean
    /// nothing, are left out.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is lost then, and every further call returns the same error. Frames before the error were
    /// handed out.
    pub fn push(&mut self, chunk: Bytes, mut frames: impl FnMut(Frame)) -> Result<(), FrameError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        self.input = chunk;
        loop {
            match self.advance() {
                Ok(Some(frame)) if frame.body.is_empty() => {}
                Ok(Some(frame)) => frames(frame),
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.failed = Some(error);
                    self.input = Bytes::new();
                    self.body = None;
                    return Err(error);
                }
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.body.is_none() {
            let Some(len) = self.read_prefix()? else {
                return Ok(None);
            };
            self.body = Some(Body {
                missing: len,
                chunks: Vec::new(),
                tail: BytesMut::new(),
                reservation: self.budget.try_reserve(0)?,
            });
        }
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let piece = self.input.split_to(self.input.len().min(body.missing));
        body.reservation.grow(piece.len())?;
        body.missing -= piece.len();
        let whole = body.missing == 0 && body.chunks.is_empty() && body.tail.is_empty();
        if piece.len() >= COPY_BELOW || whole {
            if !body.tail.is_empty() {
                body.chunks.push(mem::take(&mut body.tail).freeze());
            }
            body.chunks.push(piece);
        } else {
            body.tail.extend_from_slice(&piece);
        }
        if body.missing > 0 {
            return Ok(None);
        }
        Ok(self.body.take().map(|mut body| {
            body.chunks.push(body.tail.freeze());
            Frame {
                body: Payload::from_chunks(body.chunks),
                reservation: body.reservation,
            }
        }))
    }

    fn read_prefix(&mut self) -> Result<Option<usize>, FrameError> {
        let had = self.prefix_len;
        let take = self.input.len().min(varint::MAX_LEN - had);
        self.prefix[had..had + take].copy_from_slice(&self.input[..take]);
        let seen = &self.prefix[..had + take];
        match varint::decode(seen).map_err(FramingError::Prefix)? {
            Some((len, used)) => {
                let _ = self.input.split_to(used - had);
                self.prefix_len = 0;
                match usize::try_from(len) {
                    Ok(len) if len <= self.max_len => Ok(Some(len)),
                    _ => Err(FramingError::TooLong {
                        len,
                        max: self.max_len,
                    }
                    .into()),
                }
            }
            None => {
                self.prefix_len = had + take;
                self.input = Bytes::new();
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &[u8], cuts: &[usize], max_len: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let budget = Budget::unlimited();
        let mut reader = FrameReader::new(max_len, budget.clone());
        let mut out = Vec::new();
        let mut rest = Bytes::copy_from_slice(stream);
        for &cut in cuts.iter().chain([&usize::MAX]) {
            let chunk = rest.split_to(cut.min(rest.len()));
            reader.push(chunk, |frame| out.push(frame.body.to_bytes().to_vec()))?;
        }
        assert!(reader.is_at_boundary());
        assert_eq!((budget.used(), reader.buffered()), (0, 0));
        Ok(out)
    }

    fn prefixed(bodies: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for body in bodies {
            barewire_base::framing::encode_prefixed(body, &mut out);
        }
        out.to_vec()
    }

    #[test]
    fn frames_come_out_however_the_stream_is_cut() {
        let big: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
        let bodies: [&[u8]; 5] = [b"one", b"", &big, b"x", &big[..1500]];
        let expected: Vec<Vec<u8>> = [bodies[0], bodies[2], bodies[3], bodies[4]]
            .iter()
            .map(|b| b.to_vec())
            .collect();
        let stream = prefixed(&bodies);
        for size in [1, 2, 3, 7, 100, 1023, 1024, 1025, 4999, 1 << 20] {
            let cuts = vec![size; stream.len() / size + 1];
            assert_eq!(
                read(&stream, &cuts, 5000).unwrap(),
                expected,
                "cut by {size}"
            );
        }
    }

    #[test]
    fn what_came_in_one_chunk_is_not_copied() {
        let stream = Bytes::from(prefixed(&[&[7; 300], &[8; 20]]));
        let span = stream.as_ptr() as usize..stream.as_ptr() as usize + stream.len();
        let mut reader = FrameReader::new(1000, Budget::unlimited());
        let mut seen = 0;
        reader
            .push(stream, |frame| {
                seen += 1;
                assert!(span.contains(&(frame.body.chunks()[0].as_ptr() as usize)));
            })
            .unwrap();
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_prefix_allocates_nothing_and_is_held_against_the_limit() {
        let budget = Budget::root(1 << 20);
        let mut reader = FrameReader::new(512 << 20, budget.clone());
        let mut prefix = BytesMut::new();
        varint::encode(512 << 20, &mut prefix);
        reader.push(prefix.freeze(), |_| {}).unwrap();
        assert_eq!(budget.used(), 0);
        reader.push(Bytes::from(vec![0; 1000]), |_| {}).unwrap();
        assert_eq!(budget.used(), 1000);
        let error = reader
            .push(Bytes::from(vec![0; 2 << 20]), |_| {})
            .unwrap_err();
        assert_eq!(error.fault(), Fault::Limit);
        assert_eq!(budget.used(), 0);
        assert_eq!(reader.push(Bytes::new(), |_| {}).unwrap_err(), error);

        let error = read(&[0xff, 0xff, 0x03], &[1], 65_534).unwrap_err();
        assert_eq!(
            error,
            FrameError::Framing(FramingError::TooLong {
                len: 65_535,
                max: 65_534
            })
        );
        assert_eq!(error.fault(), Fault::Peer);
    }

    #[test]
    fn single_bytes_do_not_pin_a_buffer_each() {
        let mut reader = FrameReader::new(1 << 20, Budget::unlimited());
        let mut chunks = 0;
        for byte in prefixed(&[&[5; 100_000]]) {
            reader
                .push(Bytes::from(vec![byte; 1]), |frame| {
                    chunks = frame.body.chunks().len()
                })
                .unwrap();
        }
        assert_eq!(chunks, 1);
    }
}
