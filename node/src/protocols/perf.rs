//! `/perf/1.0.0`: how many bytes a connection moves in a second.
//!
//! The client sends eight bytes, big endian: how many bytes it wants back. Then it sends as many
//! bytes as it likes and ends its direction. The server answers only after that end.

use std::time::{Duration, Instant};

use barewire_base::Fault;
use barewire_transport::{Connection, OpenStreamError, Stream, StreamError};
use bytes::Bytes;

use crate::{
    codes::STREAM_PROTOCOL_VIOLATION,
    router::{BoxFuture, ProtocolHandler},
};

/// Protocol id.
pub const PROTOCOL: &str = "/perf/1.0.0";

/// Four full records of plaintext less their muxer headers: no frame is cut short at a chunk's end.
const CHUNK: usize = 4 * 65_507;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Serves perf. Register it only where strangers may use the bandwidth.
#[derive(Debug, Clone, Copy, Default)]
pub struct Perf;

impl ProtocolHandler for Perf {
    fn handle(&self, mut stream: Stream, _connection: Connection) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = serve(&mut stream).await {
                tracing::debug!(%error, "perf stream failed");
            }
        })
    }
}

async fn serve(stream: &mut Stream) -> Result<(), StreamError> {
    let mut wanted = Wanted::default();
    while let Some(chunk) = stream.read_chunk(usize::MAX).await? {
        wanted.push(&chunk);
    }
    // A stream that ends before its eight bytes asks for nothing.
    send_zeros(stream, wanted.get().unwrap_or(0), |_| {}).await?;
    stream.finish()
}

/// The first eight bytes of a stream, however they are cut.
#[derive(Debug, Default)]
struct Wanted {
    bytes: [u8; 8],
    len: usize,
}

impl Wanted {
    fn push(&mut self, chunk: &[u8]) {
        let take = chunk.len().min(8 - self.len);
        self.bytes[self.len..self.len + take].copy_from_slice(&chunk[..take]);
        self.len += take;
    }

    fn get(&self) -> Option<u64> {
        (self.len == 8).then(|| u64::from_be_bytes(self.bytes))
    }
}

async fn send_zeros(
    stream: &mut Stream,
    mut bytes: u64,
    mut progress: impl FnMut(u64),
) -> Result<(), StreamError> {
    while bytes > 0 {
        let n = usize::try_from(bytes).map_or(CHUNK, |bytes| bytes.min(CHUNK));
        stream.write_chunk(Bytes::from_static(&ZEROS[..n])).await?;
        bytes -= n as u64;
        progress(n as u64);
    }
    Ok(())
}

/// Why a measurement failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PerfError {
    /// No stream could be opened.
    #[error(transparent)]
    Open(#[from] OpenStreamError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The server sent another number of bytes than asked for.
    #[error("the server sent {received} bytes instead of {wanted}")]
    WrongLength {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that came; counting stops at the first byte too many.
        received: u64,
    },
}

impl PerfError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open(OpenStreamError::Closed(reason)) => reason.fault(),
            Self::Stream(error) => error.fault(),
            _ => Fault::Peer,
        }
    }
}

/// What a measurement found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PerfReport {
    /// Bytes sent.
    pub upload_bytes: u64,
    /// From the start until the server's answer began, which it does when it has read everything.
    pub upload: Duration,
    /// Bytes received.
    pub download_bytes: u64,
    /// From the answer's first byte to its end.
    pub download: Duration,
}

/// Progress of a measurement, in bytes since the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes queued for sending.
    Sent(u64),
    /// Bytes received.
    Received(u64),
}

/// Uploads and then downloads on one stream. `progress` is called for each chunk and must be quick.
///
/// Cancelling it resets the stream.
pub async fn measure(
    connection: &Connection,
    upload: u64,
    download: u64,
    mut progress: impl FnMut(Progress),
) -> Result<PerfReport, PerfError> {
    let mut stream = connection.open_stream(PROTOCOL).await?;
    // Known before the clock starts, and before anything is sent to a peer that does not speak it.
    stream.negotiate().await?;
    let start = Instant::now();
    stream
        .write_chunk(Bytes::copy_from_slice(&download.to_be_bytes()))
        .await?;
    send_zeros(&mut stream, upload, |n| progress(Progress::Sent(n))).await?;
    stream.finish()?;
    let mut received = 0;
    let mut answered = None;
    loop {
        let chunk = stream.read_chunk(usize::MAX).await?;
        answered.get_or_insert_with(Instant::now);
        let Some(chunk) = chunk else { break };
        received += chunk.len() as u64;
        if received > download {
            stream.reset(STREAM_PROTOCOL_VIOLATION);
            return Err(PerfError::WrongLength {
                wanted: download,
                received,
            });
        }
        progress(Progress::Received(chunk.len() as u64));
    }
    let end = Instant::now();
    if received != download {
        return Err(PerfError::WrongLength {
            wanted: download,
            received,
        });
    }
    let answered = answered.unwrap_or(end);
    Ok(PerfReport {
        upload_bytes: upload,
        upload: answered - start,
        download_bytes: download,
        download: end - answered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_may_come_in_pieces() {
        let sent = 0x0102_0304_0506_0708_u64.to_be_bytes();
        for cut in 0..=8 {
            let mut wanted = Wanted::default();
            wanted.push(&sent[..cut]);
            assert_eq!(wanted.get().is_some(), cut == 8);
            wanted.push(&[&sent[cut..], b"payload"].concat());
            assert_eq!(wanted.get(), Some(0x0102_0304_0506_0708));
        }
    }
}
