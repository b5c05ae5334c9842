//! `/barewire/hold/1.0.0`: a stream that says nothing and keeps its connection open at both ends.
//!
//! Whoever keeps a connection opens one, so that the other side's idle timeout does not close it.
//! Bytes on it are ignored, up to a few.

use barewire_transport::{Connection, OpenStreamError, Stream};

use crate::codes::STREAM_PROTOCOL_VIOLATION;

/// Protocol id.
pub const PROTOCOL: &str = "/barewire/hold/1.0.0";

/// Bytes that are ignored; more are a violation, for nobody should pay for reading them.
const MAX_IGNORED: usize = 1024;

/// Holds a connection until the stream is dropped. Fails if the peer does not speak the protocol.
pub(crate) async fn open(connection: &Connection) -> Result<Stream, OpenStreamError> {
    connection.open_stream_negotiated(&[PROTOCOL]).await
}

/// Keeps a stream until its end.
pub(crate) async fn serve(mut stream: Stream) {
    let mut ignored = 0;
    loop {
        match stream.read_chunk(MAX_IGNORED).await {
            Ok(Some(chunk)) => ignored += chunk.len(),
            Ok(None) => {
                // The stream is over at both ends then; nobody is left to tell of a failure.
                let _ = stream.finish();
                return;
            }
            Err(_) => return,
        }
        if ignored > MAX_IGNORED {
            stream.reset(STREAM_PROTOCOL_VIOLATION);
            return;
        }
    }
}
