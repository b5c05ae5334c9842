//! Secure channels of barewire as state machines without I/O.
//!
//! A handshake ([`noise`]) turns a byte stream into a [`Session`] with a proven peer; the session
//! seals and opens records in buffers that its owner provides. Neither reads a clock, opens a
//! socket or draws randomness of its own: with the same inputs and the same random source, the
//! bytes are the same.

pub mod noise;
mod session;

pub use session::{
    MAX_PLAINTEXT, MAX_RECORD, OVERHEAD, OpenError, Opened, Opener, SealError, Sealer, Session,
};
