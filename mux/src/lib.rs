//! Stream multiplexing as state machines: no socket, no clock, no runtime.
//!
//! [`StreamMuxer`] is what a connection task drives: bytes go in by [`StreamMuxer::handle_input`], come out by
//! [`StreamMuxer::poll_transmit`], and everything the owner has to know comes from [`StreamMuxer::poll_event`].
//! [`yamux::Session`] is the implementation of this project; the `yamux` crate stands behind the same trait with the
//! feature `yamux-crate`.
//!
//! The owner's loop:
//!
//! ```text
//! handle_input(now, bytes)  ─┐
//! handle_timeout(now)       ─┼─▶ poll_event() until None ─▶ poll_transmit(now, out) until false ─▶ poll_timeout()
//! write / read / finish …   ─┘
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )
)]

#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
mod error;
mod muxer;
pub mod yamux;
#[cfg(feature = "yamux-crate")]
pub mod yamux_crate;

pub use error::{MuxError, OpenError, Violation, WriteError};
pub use muxer::{
    Compact, Event, LimitsHit, ReadOutcome, Role, StreamCounts, StreamId, StreamIdHasher,
    StreamIdMap, StreamMuxer, ZeroStreamId,
};
