//! A stream of a connection whose streams a [`StreamMuxer`](barewire_mux::StreamMuxer) makes.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use barewire_mux::{ReadOutcome, StreamId};
use bytes::Bytes;

use crate::{
    connection::{Handle, State, now, store_waker},
    error::StreamError,
    stream::InlineHandler,
};

/// Either half of a muxed stream; the muxer holds what they share.
#[derive(Clone)]
pub(crate) struct MuxedStream {
    pub(crate) handle: Arc<Handle>,
    pub(crate) id: StreamId,
}

impl std::fmt::Debug for MuxedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MuxedStream({})", self.id)
    }
}

impl MuxedStream {
    fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.handle.0.state.lock()
    }

    /// Two halves exist from now on, and `prefix` rides with the first write.
    pub(crate) fn begin(&self, prefix: Bytes) {
        if let Some(stream) = self.state().streams.get_mut(&self.id) {
            stream.prefix = Some(prefix);
            stream.halves = 2;
        }
    }

    pub(crate) fn hold_back(&self, answer: Bytes) {
        let mut state = self.state();
        state.send_prefix(self.id);
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.prefix = Some(answer);
        }
    }

    pub(crate) fn accepted(&self) {
        self.state().mux.accepted(self.id);
    }

    /// Sends negotiation bytes at once, whatever waits already.
    pub(crate) fn send_now(&self, data: Bytes) {
        let mut state = self.state();
        // A failure shows in the next read.
        drop(state.mux.write(self.id, data));
        state.wake_driver();
    }

    pub(crate) fn serve_inline(&self, mut handler: Box<dyn InlineHandler>, rest: Bytes) {
        let now = now();
        let id = self.id;
        let mut state = self.state();
        state.send_prefix(id);
        let answered = if rest.is_empty() {
            Ok(None)
        } else {
            handler.on_data(rest)
        };
        match answered {
            Ok(answer) => {
                if let Some(answer) = answer {
                    // The stream may be gone; the handler's first read finds out.
                    drop(state.mux.write(id, answer));
                }
                if let Some(stream) = state.streams.get_mut(&id) {
                    stream.inline = Some(handler);
                    stream.halves = u8::MAX;
                }
                state.run_inline(id, now);
            }
            Err(code) => state.mux.reset(id, code),
        }
        state.wake_driver();
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let now = now();
        let mut state = self.state();
        let outcome = state.mux.read(now, self.id, max);
        let result = match outcome {
            ReadOutcome::Chunk(chunk) => Poll::Ready(Ok(Some(chunk))),
            ReadOutcome::Finished => Poll::Ready(Ok(None)),
            ReadOutcome::Pending => match state.closed_error() {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    state.send_prefix(self.id);
                    state.wake_driver();
                    match state.streams.get_mut(&self.id) {
                        Some(stream) => store_waker(&mut stream.read_waker, cx),
                        None => return Poll::Ready(Err(StreamError::LocallyClosed)),
                    }
                    Poll::Pending
                }
            },
            ReadOutcome::Reset(code) => Poll::Ready(Err(StreamError::Reset(code))),
            _ => Poll::Ready(Err(state
                .closed_error()
                .unwrap_or(StreamError::LocallyClosed))),
        };
        // Credit that was just granted.
        state.wake_driver();
        result
    }

    pub(crate) fn stop(&self, code: u32) {
        let mut state = self.state();
        state.stop_reading(self.id);
        state.mux.stop(self.id, code);
        state.wake_driver();
    }

    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        data: &mut Option<Bytes>,
        last: bool,
    ) -> Poll<Result<(), StreamError>> {
        let mut state = self.state();
        ready!(self.poll_capacity(&mut state, cx))?;
        let data = data.take().unwrap_or_default();
        state.send_prefix(self.id);
        let queued = state.mux.write(self.id, data).map_err(write_error);
        if queued.is_ok() && last {
            // Writing just succeeded, so the direction is open.
            drop(state.finish(self.id));
        }
        state.wake_driver();
        Poll::Ready(queued)
    }

    /// Waits for room in the send buffer.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.poll_capacity(&mut self.state(), cx)
    }

    fn poll_capacity(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if let Some(error) = state.closed_error() {
            return Poll::Ready(Err(error));
        }
        if self.has_held_end(state) {
            return Poll::Ready(Err(StreamError::LocallyClosed));
        }
        match state.mux.send_capacity(self.id) {
            Ok(0) => {
                if let Some(stream) = state.streams.get_mut(&self.id) {
                    store_waker(&mut stream.write_waker, cx);
                }
                Poll::Pending
            }
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(write_error(error))),
        }
    }

    /// Sends the negotiation bytes that still wait for company.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        state.send_prefix(self.id);
        state.wake_driver();
    }

    pub(crate) fn finish(&self) -> Result<(), StreamError> {
        let mut state = self.state();
        if let Some(error) = state.closed_error() {
            return Err(error);
        }
        if self.has_held_end(&state) {
            return Err(StreamError::LocallyClosed);
        }
        state.send_prefix(self.id);
        state.finish(self.id).map_err(write_error)?;
        state.wake_driver();
        Ok(())
    }

    /// This direction is over, though the muxer does not know it yet.
    fn has_held_end(&self, state: &State) -> bool {
        let stream = state.streams.get(&self.id);
        stream.is_some_and(|stream| stream.end_held)
    }

    pub(crate) fn reset(&self, code: u32) {
        let mut state = self.state();
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.write_closed = true;
            stream.prefix = None;
        }
        state.mux.reset(self.id, code);
        state.wake_driver();
    }

    /// The reading half is gone; `ended` when it had read all or been stopped.
    pub(crate) fn drop_read(&self, ended: bool) {
        let inline = {
            let state = self.state();
            state
                .streams
                .get(&self.id)
                .is_some_and(|stream| stream.halves == u8::MAX)
        };
        if !inline && !ended {
            self.stop(0);
        }
        self.drop_half();
    }

    /// The writing half is gone.
    pub(crate) fn drop_write(&self) {
        let inline_or_closed = {
            let state = self.state();
            state
                .streams
                .get(&self.id)
                .is_none_or(|stream| stream.halves == u8::MAX || stream.write_closed)
        };
        if !inline_or_closed {
            self.reset(0);
        }
        self.drop_half();
    }

    fn drop_half(&self) {
        let mut state = self.state();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return;
        };
        if stream.halves == u8::MAX {
            return;
        }
        stream.halves = stream.halves.saturating_sub(1);
        if stream.halves == 0 {
            let end_held = stream.end_held;
            state.streams.remove(&self.id);
            if end_held {
                state.ends_held -= 1;
                // Nobody is left to wait for the answer.
                drop(state.mux.finish(self.id));
            }
            state.mux.release(self.id);
            state.wake_driver();
        }
    }
}

fn write_error(error: barewire_mux::WriteError) -> StreamError {
    match error {
        barewire_mux::WriteError::Reset(code) => StreamError::Reset(code),
        _ => StreamError::LocallyClosed,
    }
}
