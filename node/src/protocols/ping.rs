//! `/ipfs/ping/1.0.0`: 32 random bytes out, the same back.

use std::time::Duration;

use barewire_base::Fault;
use barewire_transport::{Connection, InlineHandler, OpenStreamError, Stream, StreamError};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::codes::STREAM_PROTOCOL_VIOLATION;

/// Protocol id.
pub const PROTOCOL: &str = "/ipfs/ping/1.0.0";

/// Bytes of one ping.
const LEN: usize = 32;

/// Echoes whole pings, whatever pieces they come in. Runs inside the connection task.
#[derive(Debug, Default)]
pub(crate) struct Responder {
    /// The beginning of a ping whose rest has not arrived: less than [`LEN`] bytes.
    partial: BytesMut,
}

impl InlineHandler for Responder {
    fn on_data(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, u32> {
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(&chunk);
            chunk = self.partial.split().freeze();
        }
        let whole = chunk.len() - chunk.len() % LEN;
        let rest = chunk.split_off(whole);
        if !rest.is_empty() {
            self.partial.extend_from_slice(&rest);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn on_finish(&mut self) -> Result<(), u32> {
        if self.partial.is_empty() {
            Ok(())
        } else {
            Err(STREAM_PROTOCOL_VIOLATION)
        }
    }
}

/// Why a ping failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// No stream could be opened.
    #[error(transparent)]
    Open(#[from] OpenStreamError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// No answer in time.
    #[error("no answer to a ping within {0:?}")]
    Timeout(Duration),
    /// The peer ended the stream instead of answering.
    #[error("the peer ended the stream instead of answering the ping")]
    Ended,
    /// Other bytes came back than were sent.
    #[error("the answer to a ping differs from what was sent")]
    Differs,
}

impl PingError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Stream(error) => error.fault(),
            Self::Timeout(_) => Fault::Network,
            _ => Fault::Peer,
        }
    }

    /// Whether the peer does not speak ping at all, which says nothing about its health.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Open(OpenStreamError::ProtocolNotSupported(_))
                | Self::Stream(StreamError::ProtocolNotSupported(_))
        )
    }
}

/// Pings one connection again and again over one stream.
///
/// go-libp2p and js-libp2p end a ping stream after 10 s without a ping (go-libp2p after 30 s in any
/// case), so a stream found dead is replaced silently; only a ping on a new stream may fail.
#[derive(Debug)]
pub struct Pinger {
    connection: Connection,
    stream: Option<Stream>,
    timeout: Duration,
}

impl Pinger {
    /// A pinger that waits `timeout` for each answer. Opens nothing yet.
    #[must_use]
    pub fn new(connection: &Connection, timeout: Duration) -> Self {
        Self {
            connection: connection.clone(),
            stream: None,
            timeout,
        }
    }

    /// Pings once; returns the round-trip time. If it is cancelled the next ping takes a new
    /// stream.
    pub async fn ping(&mut self) -> Result<Duration, PingError> {
        let timeout = self.timeout;
        tokio::time::timeout(timeout, self.ping_untimed())
            .await
            .unwrap_or(Err(PingError::Timeout(timeout)))
    }

    async fn ping_untimed(&mut self) -> Result<Duration, PingError> {
        let data = Bytes::copy_from_slice(&rand::random::<[u8; LEN]>());
        if let Some(mut stream) = self.stream.take() {
            match exchange(&mut stream, &data).await {
                Ok(rtt) => {
                    self.stream = Some(stream);
                    return Ok(rtt);
                }
                Err(PingError::Differs) => {
                    stream.reset(STREAM_PROTOCOL_VIOLATION);
                    return Err(PingError::Differs);
                }
                // The peer has ended an old stream, as some do by the clock.
                Err(_) => {}
            }
        }
        let mut stream = self.connection.open_stream(PROTOCOL).await?;
        stream.hold_nothing();
        match exchange(&mut stream, &data).await {
            Ok(rtt) => {
                self.stream = Some(stream);
                Ok(rtt)
            }
            Err(error) => {
                if error == PingError::Differs {
                    stream.reset(STREAM_PROTOCOL_VIOLATION);
                }
                Err(error)
            }
        }
    }

    /// Ends the stream in an orderly way. Dropping the pinger resets it.
    pub fn finish(mut self) {
        if let Some(stream) = &mut self.stream {
            // It fails only when the stream is over already.
            let _ = stream.finish();
        }
    }
}

async fn exchange(stream: &mut Stream, data: &Bytes) -> Result<Duration, PingError> {
    let start = Instant::now();
    stream.write_chunk(data.clone()).await?;
    let mut rest = data.clone();
    while !rest.is_empty() {
        let chunk = stream.read_chunk(LEN).await?.ok_or(PingError::Ended)?;
        if rest.len() < chunk.len() || rest.split_to(chunk.len()) != chunk {
            return Err(PingError::Differs);
        }
    }
    Ok(start.elapsed())
}

/// Pings once on a stream of its own.
pub async fn ping(connection: &Connection, timeout: Duration) -> Result<Duration, PingError> {
    let mut pinger = Pinger::new(connection, timeout);
    let rtt = pinger.ping().await;
    pinger.finish();
    rtt
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn pings_come_back_whole_in_any_fragmentation() {
        let sent: Vec<u8> = (0..160u8).collect();
        for cut in 1..=sent.len() {
            let mut responder = Responder::default();
            let mut back = Vec::new();
            for piece in sent.chunks(cut) {
                if let Some(answer) = responder.on_data(Bytes::copy_from_slice(piece)).unwrap() {
                    assert_eq!(answer.len() % LEN, 0);
                    back.extend_from_slice(&answer);
                }
                assert!(responder.partial.len() < LEN);
            }
            assert_eq!(back, sent);
            assert_eq!(responder.on_finish(), Ok(()));
        }
    }

    #[test]
    fn an_end_inside_a_ping_is_a_violation() {
        let mut responder = Responder::default();
        assert_eq!(
            responder
                .on_data(Bytes::from_static(&[7; 33]))
                .unwrap()
                .unwrap()
                .len(),
            LEN
        );
        assert_eq!(responder.on_finish(), Err(STREAM_PROTOCOL_VIOLATION));
    }

    #[test]
    fn a_whole_ping_is_not_copied() {
        let ping = Bytes::copy_from_slice(&[9; LEN]);
        let at = ping.as_ptr();
        let answer = Responder::default().on_data(ping).unwrap().unwrap();
        assert_eq!(answer.as_ptr(), at);
    }
}
