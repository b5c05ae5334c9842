//! What tests of hostile peers stand on: a victim that is a process of its own, honest bystanders, and a network
//! namespace for each side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

pub mod net;
pub mod rig;
pub mod victim;

/// What carries connections to the victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// TCP, with either secure channel.
    Tcp,
    /// QUIC.
    Quic,
}
