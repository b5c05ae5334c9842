//! Streams the remote opens, before and while their protocol is agreed.

use std::{sync::Arc, task::Poll};

use barewire_base::multistream;
use bytes::{Buf, Bytes, BytesMut};

use crate::{
    connection::{Connection, Link, store_waker},
    error::{NEGOTIATION_FAILED, NegotiateError, StreamError},
    muxed::MuxedStream,
    stream::{Raw, Stream},
};

/// The streams the remote opens on one connection. Dropping it refuses all further ones.
#[derive(Debug)]
pub struct InboundStreams {
    connection: Connection,
}

impl InboundStreams {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The connection these streams belong to.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The next stream, or `None` when the connection has ended. Cancel safe.
    pub async fn accept(&mut self) -> Option<InboundStream> {
        let raw = match &self.connection.0 {
            Link::Muxed(handle) => {
                let id = std::future::poll_fn(|cx| {
                    let mut state = handle.0.state.lock();
                    if let Some(id) = state.accept.pop_front() {
                        return Poll::Ready(Some(id));
                    }
                    if state.closed.is_some() {
                        return Poll::Ready(None);
                    }
                    store_waker(&mut state.accept_waker, cx);
                    Poll::Pending
                });
                let id = id.await?;
                let handle = Arc::clone(handle);
                Raw::Muxed(MuxedStream { handle, id })
            }
            Link::Quic(handle) => Raw::Quic(handle.accept().await?),
        };
        let stream = Stream::inbound(raw);
        Some(InboundStream { stream })
    }
}

impl Drop for InboundStreams {
    fn drop(&mut self) {
        match &self.connection.0 {
            Link::Muxed(handle) => {
                let mut state = handle.0.state.lock();
                state.accept_closed = true;
                while let Some(id) = state.accept.pop_front() {
                    state.streams.remove(&id);
                    state.mux.release(id);
                }
                state.wake_driver();
            }
            Link::Quic(handle) => handle.0.refuse_streams(),
        }
    }
}

/// A stream the remote opened whose protocol is not agreed yet. Dropping it resets the stream.
#[derive(Debug)]
pub struct InboundStream {
    stream: Stream,
}

impl InboundStream {
    /// Refuses the stream; the remote sees a reset with `code`.
    pub fn reset(self, code: u32) {
        self.stream.reset(code);
    }

    /// Agrees on a protocol: `supported` maps a proposed id to the registered one.
    ///
    /// Does not wait when the proposal has arrived with the stream, as it does from every known
    /// implementation. There is no deadline in here. The answer travels with the first write on the
    /// stream, or when the first read has to wait; who does neither soon asks for it by
    /// [`Stream::held_answer`].
    ///
    /// A remote that gets no protocol reads the refusals and the end of the stream, also when it has
    /// sent more behind its proposal; what still comes is discarded.
    pub async fn negotiate(
        self,
        mut supported: impl FnMut(&str) -> Option<Arc<str>>,
    ) -> Result<Stream, NegotiateError> {
        let Self { mut stream } = self;
        let mut listener = multistream::Listener::new();
        let mut answer = BytesMut::new();
        let mut chunk = Bytes::new();
        loop {
            if chunk.is_empty() {
                // What was answered so far goes out if this read has to wait.
                if !answer.is_empty() {
                    stream.hold_back(answer.split().freeze());
                }
                chunk = match stream.read_chunk(usize::MAX).await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => {
                        // The refusals held back still go out, with our end behind them.
                        drop(stream.finish());
                        return Err(NegotiateError::Ended);
                    }
                    Err(error) => return Err(NegotiateError::Stream(error)),
                };
            }
            let consumed = listener.handle_input(&chunk, &mut supported);
            let answered = listener.poll_transmit(&mut answer);
            let consumed = match consumed {
                Ok(consumed) => consumed,
                Err(error) => {
                    // Most often a refused proposal with the protocol's own bytes behind it. A reset
                    // would overtake the refusal, so it only comes if the remote never ends.
                    if answered {
                        stream.hold_back(answer.freeze());
                        drop(stream.finish());
                        stream.stop(NEGOTIATION_FAILED);
                    } else {
                        stream.reset(NEGOTIATION_FAILED);
                    }
                    return Err(NegotiateError::Negotiation(error));
                }
            };
            chunk.advance(consumed);
            if let Some(agreed) = listener.outcome() {
                stream.agree(agreed.clone(), answer.freeze(), chunk);
                return Ok(stream);
            }
        }
    }
}

impl From<StreamError> for NegotiateError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}
