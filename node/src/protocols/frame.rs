//! Messages with their length before them, on streams that go on as something else: a message is read to its last byte and no further.

use barewire_base::{framing, varint};
use barewire_transport::{Stream, StreamError};
use bytes::{Bytes, BytesMut};

/// Why no message came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadError {
    Stream(StreamError),
    /// The stream ended.
    Ended,
    /// The message would be longer than allowed, by its length.
    TooLong(usize),
}

/// A message with its length before it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    framing::encode_prefixed(message, &mut out);
    out.freeze()
}

/// Reads one message of at most `max` bytes, fewer than 2 MiB. The caller sets the deadline.
pub(crate) async fn read(stream: &mut Stream, max: usize) -> Result<BytesMut, ReadError> {
    let mut prefix = Vec::with_capacity(2);
    let len = loop {
        prefix.extend_from_slice(&next(stream, 1).await?);
        match varint::decode(&prefix) {
            Ok(Some((len, _))) => break usize::try_from(len).unwrap_or(usize::MAX),
            Ok(None) if prefix.len() < 3 => {}
            _ => break usize::MAX,
        }
    };
    if len > max {
        return Err(ReadError::TooLong(len));
    }
    let mut message = BytesMut::new();
    while message.len() < len {
        let chunk = next(stream, len - message.len()).await?;
        message.extend_from_slice(&chunk);
    }
    Ok(message)
}

/// At least one byte, at most `max`.
async fn next(stream: &mut Stream, max: usize) -> Result<Bytes, ReadError> {
    loop {
        match stream.read_chunk(max).await {
            Ok(Some(chunk)) if chunk.is_empty() => {}
            Ok(Some(chunk)) => return Ok(chunk),
            Ok(None) => return Err(ReadError::Ended),
            Err(error) => return Err(ReadError::Stream(error)),
        }
    }
}
