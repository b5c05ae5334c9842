//! Hostile peers on QUIC against a running `barewire listen`, beside honest ones. Each test prints what it measured.
//!
//! Sizes are chosen for CI; `BAREWIRE_FULL=1` runs them at full size. As root each side has a network namespace and a
//! processor, as in the attacks over TCP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod client;
mod flood;
mod frames;
mod garbage;
mod memory;
mod paths;
