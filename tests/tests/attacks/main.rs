//! Hostile peers against a running `barewire listen`, beside honest ones.
//!
//! Each test prints what it measured. Sizes are chosen for CI; `BAREWIRE_FULL=1` runs them at full size. The victim is a
//! process of its own, so that its memory, processor time and descriptors can be read from outside, and so that a
//! panic in it would show. As root each side has a network namespace and a processor (see [`net`]).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod attacker;
mod floods;
mod frames;
mod holds;
mod setup;
mod slow;

use barewire_tests::{
    attack::{net, rig},
    full, within,
};
