//! What an upgrade needs to know.

use std::{fmt, sync::Arc, time::Duration};

use barewire_base::{Budget, Multiaddr, PeerId};
use barewire_mux::{Role, yamux};

use crate::{close::LocalReason, pnet::Psk, secure::Security, slab::SlabPool, traffic::Traffic};

/// Which implementation multiplexes streams. Both speak `/yamux/1.0.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MuxerKind {
    /// The session of `barewire-mux`.
    #[default]
    Yamux,
    /// The `yamux` crate behind the same trait, for comparisons. It charges nothing to the memory
    /// budget, has neither keepalive nor write deadlines, and does not slow down a peer that aborts
    /// streams; 512 streams end the connection. One connection buffers at most 256 MiB.
    #[cfg(feature = "yamux-crate")]
    YamuxCrate,
}

/// Decides about a connection when it is known whose it is: after the secure handshake, before the
/// muxer. Called on the task of the upgrade, so it must be quick.
pub trait Admission: fmt::Debug + Send + Sync {
    /// The budget that the connection's own is a child of: usually one per peer.
    ///
    /// # Errors
    /// The connection is not wanted. The remote is told the code where it can be told: over QUIC,
    /// and where the muxer was agreed with the handshake. Else the socket is closed.
    fn secured(
        &self,
        peer: PeerId,
        role: Role,
        remote_addr: &Multiaddr,
    ) -> Result<Budget, LocalReason>;
}

/// Settings of the upgrade and of the connection it makes. Cheap to share in an `Arc`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UpgradeConfig {
    /// Secure channels, best first. A dialling side proposes them in this order; with only one, its
    /// handshake goes out with the proposal, which saves a round trip. A listening side accepts any
    /// of them.
    pub security: Vec<Security>,
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
    /// Who may connect, and out of whose budget. `None` lets everybody in, each connection a child
    /// of [`budget`](Self::budget).
    pub admission: Option<Arc<dyn Admission>>,
    /// Key of the private network all connections belong to. Default `None`.
    pub psk: Option<Psk>,
    /// Where bytes are counted by protocol. Default: counters of its own.
    pub traffic: Arc<Traffic>,
    pub(crate) slabs: Arc<SlabPool>,
}

impl UpgradeConfig {
    /// Defaults around the given secure channels and memory budget.
    #[must_use]
    pub fn new(security: Vec<Security>, budget: Budget) -> Self {
        Self {
            security,
            muxer: MuxerKind::default(),
            yamux: yamux::Config::default(),
            budget,
            connection_budget: 256 * 1024 * 1024,
            stage_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(15),
            write_stall_timeout: Duration::from_secs(30),
            max_empty_records_per_second: 1_000,
            admission: None,
            psk: None,
            traffic: Arc::default(),
            slabs: Arc::default(),
        }
    }

    /// What a connection to `peer` takes its memory from, or why it is not wanted.
    pub(crate) fn admit(
        &self,
        peer: PeerId,
        role: Role,
        remote_addr: &Multiaddr,
    ) -> Result<Budget, LocalReason> {
        match &self.admission {
            Some(admission) => admission.secured(peer, role, remote_addr),
            None => Ok(self.budget.clone()),
        }
    }
}
