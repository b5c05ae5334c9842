//! Secure channels of barewire as state machines without I/O.
//!
//! A handshake ([`noise`] or [`tls`]) turns a byte stream into a [`Session`] with a proven peer; the session
//! seals and opens records in buffers that its owner provides. Neither opens a socket. Noise reads
//! no clock and draws no randomness of its own either: with the same inputs and the same random
//! source, the bytes are the same. TLS ([`tls`]) leaves both to rustls.

pub mod noise;
mod session;
pub mod tls;
mod verified;

pub use session::{
    Alert, MAX_HEADER, MAX_PLAINTEXT, MAX_RECORD, MAX_SEALED, OpenError, Opened, Opener, SealError,
    Sealer, Secured, Session,
};
