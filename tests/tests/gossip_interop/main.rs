//! Meshes of `barewire` with real go-, rust-, js- and py-libp2p peers: every message reaches every subscriber.
//!
//! `cargo test -p barewire-tests --test gossip_interop -- --nocapture` prints a line per mesh. A stack whose toolchain is absent is
//! skipped with the reason, unless CI=true.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod chains;
mod control;
mod soak;

use std::time::Duration;

/// Every step ends within this, also on a machine that builds something else meanwhile.
const DEADLINE: Duration = Duration::from_secs(60);
const TOPIC: &str = "interop";
