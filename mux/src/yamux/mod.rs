//! yamux `/yamux/1.0.0` without I/O and without a clock.
//!
//! As strict as rust-yamux on framing (whatever no implementation sends ends the session with GoAway 1), as lenient as
//! go-yamux on streams it does not know (their frames are dropped). See [`Session`].

mod api;
mod frame;
mod ids;
mod input;
mod memory;
mod output;
mod queue;
mod schedule;
mod session;
mod stream;
mod timers;

use std::time::Duration;

pub use session::Session;

/// GoAway code of an end without an error.
pub const GO_AWAY_NORMAL: u32 = 0;
/// GoAway code of a peer that broke the protocol.
pub const GO_AWAY_PROTOCOL: u32 = 1;
/// Reset code for a stream that does not fit a limit (go-libp2p `StreamResourceLimitExceeded`).
pub const RESET_RESOURCE_LIMIT: u32 = 0x1002;
/// Reset code for a stream that its peer neither reads nor ends (go-libp2p `StreamGarbageCollected`).
pub const RESET_GARBAGE_COLLECTED: u32 = 0x1006;

/// Limits and times of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Largest receive window of a stream, in bytes; at least 256 KiB. 128 MiB: credit comes back by half windows, so a
    /// stream uses about half to three quarters of it (measured at 60 ms: 574 MiB/s with 64 MiB, 801 with 128).
    pub max_stream_window: u32,
    /// Memory the session may take from the budget it is given, in bytes. 256 MiB: two streams at their largest
    /// window. go allows 16 MiB a stream, rust-yamux 1 GiB a connection.
    pub memory: usize,
    /// Streams the peer may hold open; more are reset. 256, as go's backlog.
    pub max_inbound: usize,
    /// Of these, streams that were not [`accepted`](crate::StreamMuxer::accepted) yet; more are reset.
    pub max_pending_inbound: usize,
    /// Streams we may hold open. 256, because rust-yamux ends a connection at 512 of both directions together.
    pub max_outbound: usize,
    /// Bytes of one stream that wait to be sent.
    pub send_buffer: usize,
    /// Bytes of all streams that wait to be sent, above which a stream may queue no more than 64 KiB: a peer that reads
    /// the answers on none of its streams must not make us hold a whole buffer for each.
    pub send_memory: usize,
    /// A ping is sent after this time without input (half of go's and hashicorp's 30 s).
    pub keepalive_interval: Duration,
    /// The session ends after this time without input.
    pub keepalive_timeout: Duration,
    /// A frame header must be complete this long after its first byte. 10 s, as the stages of an upgrade.
    pub header_timeout: Duration,
    /// A stream whose bytes wait this long for credit is reset: for all they need, or 16 KiB.
    pub write_deadline: Duration,
    /// A stream that we have stopped reading and have finished is reset if the peer does not end it for this long.
    pub linger: Duration,
    /// Streams per second that the peer may reset before we are done with them. Streams that finish do not count.
    pub aborts_per_second: u32,
    /// How many it may reset at once.
    pub abort_burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_stream_window: 128 << 20,
            memory: 256 << 20,
            max_inbound: 256,
            max_pending_inbound: 128,
            max_outbound: 256,
            send_buffer: 1 << 20,
            send_memory: 4 << 20,
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            write_deadline: Duration::from_secs(60),
            linger: Duration::from_secs(30),
            aborts_per_second: 200,
            abort_burst: 1_000,
        }
    }
}
