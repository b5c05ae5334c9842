//! Messages of both protocols on a stream.

use barewire_nat::relay::{HopMessage, MAX_MESSAGE, MessageError, StopMessage};
use barewire_transport::Stream;
use bytes::Bytes;

use super::RelayError;
use crate::protocols::frame::{self, ReadError};

/// A message of either protocol.
pub(super) trait Wire: Sized {
    fn encode(&self) -> Vec<u8>;
    fn decode(message: &[u8]) -> Result<Self, MessageError>;
}

impl Wire for HopMessage {
    fn encode(&self) -> Vec<u8> {
        self.encode()
    }

    fn decode(message: &[u8]) -> Result<Self, MessageError> {
        Self::decode(message)
    }
}

impl Wire for StopMessage {
    fn encode(&self) -> Vec<u8> {
        self.encode()
    }

    fn decode(message: &[u8]) -> Result<Self, MessageError> {
        Self::decode(message)
    }
}

/// A message with its length before it.
pub(super) fn framed(message: &impl Wire) -> Bytes {
    frame::framed(&message.encode())
}

/// Reads one message. The caller sets the deadline.
pub(super) async fn read<M: Wire>(stream: &mut Stream) -> Result<M, RelayError> {
    match frame::read(stream, MAX_MESSAGE).await {
        Ok(message) => Ok(M::decode(&message)?),
        Err(ReadError::Stream(error)) => Err(RelayError::Stream(error)),
        Err(ReadError::Ended) => Err(RelayError::Ended),
        Err(ReadError::TooLong(len)) => Err(MessageError::TooLong(len).into()),
    }
}
