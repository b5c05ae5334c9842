//! `/barewire/echo/1.0.0`: what a stream says comes back on it, and its end too.

use barewire_base::Fault;
use barewire_transport::{Connection, OpenStreamError, Stream, StreamError};
use bytes::{Buf, Bytes};

use crate::router::{BoxFuture, ProtocolHandler};

/// Protocol id.
pub const PROTOCOL: &str = "/barewire/echo/1.0.0";

/// Answers echo streams. May be registered under any protocol id.
///
/// Chunks go back as they came, without a copy. A client that does not read is not read from:
/// the next chunk is taken when there is room to queue it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl ProtocolHandler for Echo {
    fn handle(&self, mut stream: Stream, _connection: Connection) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // An error means that the stream is over on both sides; there is nobody to tell.
            let _ = serve(&mut stream).await;
        })
    }
}

async fn serve(stream: &mut Stream) -> Result<(), StreamError> {
    loop {
        // What is taken before there is room for it would be held here, outside of every budget.
        stream.writable().await?;
        match stream.read_chunk(usize::MAX).await? {
            Some(chunk) => stream.write_chunk(chunk).await?,
            None => return stream.finish(),
        }
    }
}

/// Why an echo did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EchoError {
    /// No stream could be opened.
    #[error(transparent)]
    Open(#[from] OpenStreamError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Another byte came back than was sent.
    #[error("byte {offset} of the echo differs from what was sent")]
    Differs {
        /// Position of the first difference.
        offset: u64,
    },
    /// The echo ended early.
    #[error("the echo ended after {received} of {sent} bytes")]
    Short {
        /// Bytes that came back.
        received: u64,
        /// Bytes sent.
        sent: u64,
    },
    /// More came back than was sent.
    #[error("more came back than the {sent} bytes sent")]
    Long {
        /// Bytes sent.
        sent: u64,
    },
}

impl EchoError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Stream(error) => error.fault(),
            Self::Open(OpenStreamError::InvalidProtocol(_)) => Fault::Local,
            _ => Fault::Peer,
        }
    }
}

/// Sends `payload` on a stream of its own and compares what comes back, byte by byte.
///
/// Cancelling it resets the stream.
pub async fn round_trip(
    connection: &Connection,
    protocol: &str,
    payload: Bytes,
) -> Result<(), EchoError> {
    let mut stream = connection.open_stream(protocol).await?;
    stream.write_last(payload.clone()).await?;
    let mut check = Check::new(payload);
    while let Some(chunk) = stream.read_chunk(usize::MAX).await? {
        check.push(&chunk)?;
    }
    check.finish()
}

/// Compares an echo with what was sent.
#[derive(Debug)]
struct Check {
    sent: u64,
    rest: Bytes,
}

impl Check {
    fn new(sent: Bytes) -> Self {
        Self {
            sent: sent.len() as u64,
            rest: sent,
        }
    }

    fn push(&mut self, chunk: &[u8]) -> Result<(), EchoError> {
        let Some(expected) = self.rest.get(..chunk.len()) else {
            return Err(EchoError::Long { sent: self.sent });
        };
        if expected != chunk {
            let same = expected.iter().zip(chunk).take_while(|(a, b)| a == b);
            return Err(EchoError::Differs {
                offset: self.received() + same.count() as u64,
            });
        }
        self.rest.advance(chunk.len());
        Ok(())
    }

    fn finish(self) -> Result<(), EchoError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(EchoError::Short {
                received: self.received(),
                sent: self.sent,
            })
        }
    }

    fn received(&self) -> u64 {
        self.sent - self.rest.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_wherever_they_are() {
        let sent = Bytes::from_static(b"abcdef");
        let mut check = Check::new(sent.clone());
        assert_eq!(check.push(b"abc"), Ok(()));
        assert_eq!(check.push(b"dXf"), Err(EchoError::Differs { offset: 4 }));
        let mut check = Check::new(sent.clone());
        assert_eq!(check.push(b"abcdefg"), Err(EchoError::Long { sent: 6 }));
        let mut check = Check::new(sent.clone());
        assert_eq!(check.push(b"abcd"), Ok(()));
        assert_eq!(
            check.finish(),
            Err(EchoError::Short {
                received: 4,
                sent: 6
            })
        );
        let mut check = Check::new(sent);
        assert_eq!(check.push(b"abcdef"), Ok(()));
        assert_eq!(check.finish(), Ok(()));
    }
}
