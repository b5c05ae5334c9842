//! Hostile WebSocket clients against a running `barewire listen`. Each test prints what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod client;
mod frames;
mod heads;
mod one_frame;
mod victim;
