//! What an upgrade needs to know.

use std::{sync::Arc, time::Duration};

use barewire_base::Budget;
use barewire_mux::yamux;
use barewire_security::noise;

use crate::slab::SlabPool;

/// Which implementation multiplexes streams. Both speak `/yamux/1.0.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MuxerKind {
    /// The session of `barewire-mux`.
    #[default]
    Yamux,
    /// The `yamux` crate behind the same trait.
    #[cfg(feature = "yamux-crate")]
    YamuxCrate,
}

/// Settings of the upgrade and of the connection it makes. Cheap to share in an `Arc`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UpgradeConfig {
    /// Static key, signed payload and muxer list of the Noise handshake.
    pub noise: Arc<noise::Config>,
    /// Multiplexer implementation.
    pub muxer: MuxerKind,
    /// Limits and windows of the multiplexer.
    pub yamux: yamux::Config,
    /// Memory budget that connections take their children from.
    pub budget: Budget,
    /// Bytes one connection may charge to [`budget`](Self::budget). Default 256 MiB: two streams
    /// at their largest window.
    pub connection_budget: usize,
    /// Deadline of each stage (security negotiation, handshake, muxer negotiation). Default 10 s,
    /// as rust-libp2p; progress does not extend it.
    pub stage_timeout: Duration,
    /// Deadline of the whole upgrade. Default 15 s, as go-libp2p's accept timeout.
    pub total_timeout: Duration,
    /// How long the socket may accept no byte while some wait. Default 30 s.
    pub write_stall_timeout: Duration,
    /// Empty records allowed per second before the connection is closed. Default 1,000.
    pub max_empty_records_per_second: u32,
    pub(crate) slabs: Arc<SlabPool>,
}

impl UpgradeConfig {
    /// Defaults around the given Noise configuration and memory budget.
    #[must_use]
    pub fn new(noise: Arc<noise::Config>, budget: Budget) -> Self {
        Self {
            noise,
            muxer: MuxerKind::default(),
            yamux: yamux::Config::default(),
            budget,
            connection_budget: 256 * 1024 * 1024,
            stage_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(15),
            write_stall_timeout: Duration::from_secs(30),
            max_empty_records_per_second: 1_000,
            slabs: Arc::default(),
        }
    }
}
