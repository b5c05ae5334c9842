//! What is known of one peer, and which of its addresses to try first.

use std::{cmp::Reverse, sync::Arc};

use barewire_base::{Multiaddr, PeerId};
use bytes::Bytes;

/// Seconds since 1970, UTC: the only clock that survives a restart. If it jumps, addresses expire
/// early or late; nothing else depends on it.
pub type UnixSeconds = u64;

/// Where an address comes from, the most trusted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AddressSource {
    /// The user of this node gave it. It never expires.
    User,
    /// This node has connected to the peer there.
    Connection,
    /// The peer signed it.
    SignedRecord,
    /// The peer said so in identify.
    Identify,
    /// A name resolved to it.
    Dns,
}

impl AddressSource {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::User,
        Self::Connection,
        Self::SignedRecord,
        Self::Identify,
        Self::Dns,
    ];

    /// A short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Connection => "connection",
            Self::SignedRecord => "signed record",
            Self::Identify => "identify",
            Self::Dns => "dns",
        }
    }
}

/// One address of a peer and how it has fared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownAddress {
    /// The address, without `/p2p`.
    pub addr: Multiaddr,
    /// The best source that named it.
    pub source: AddressSource,
    /// When it is forgotten if nothing renews it, `None` for never. It stays longer while the peer
    /// is connected.
    pub expires: Option<UnixSeconds>,
    /// When a dial last ended in a connection.
    pub last_success: Option<UnixSeconds>,
    /// When a dial last failed.
    pub last_failure: Option<UnixSeconds>,
    /// Dials that ended in a connection.
    pub successes: u32,
    /// Dials that failed since the last that did not.
    pub failures: u32,
}

impl KnownAddress {
    pub(super) fn new(addr: Multiaddr, source: AddressSource) -> Self {
        Self {
            addr,
            source,
            expires: None,
            last_success: None,
            last_failure: None,
            successes: 0,
            failures: 0,
        }
    }

    /// Smaller is better: what worked last, the most recent first; then what was never tried, by
    /// its source; then what failed last, the fewest failures first.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let class: u8 = match (self.failures, self.last_success) {
            (0, Some(_)) => 0,
            (0, None) => 1,
            _ => 2,
        };
        let recent = Reverse(self.last_success);
        (class, self.failures, recent, self.source, self.addr.clone())
    }

    pub(super) fn is_expired(&self, now: UnixSeconds) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// What is known of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerEntry {
    /// The peer.
    pub peer_id: PeerId,
    /// Its addresses, the best first.
    pub addrs: Vec<KnownAddress>,
    /// Protocols it said it accepts, when it was last asked. Text of a remote.
    pub protocols: Vec<Arc<str>>,
    /// What it called its software. Text of a remote.
    pub agent_version: String,
    /// Its newest signed peer record, verbatim, with the record's sequence number.
    pub signed_record: Option<(u64, Bytes)>,
    /// When it was last connected, or first heard of.
    pub last_seen: UnixSeconds,
    /// Whether it is connected now.
    pub connected: bool,
}

impl PeerEntry {
    pub(super) fn new(peer_id: PeerId, now: UnixSeconds) -> Self {
        Self {
            peer_id,
            addrs: Vec::new(),
            protocols: Vec::new(),
            agent_version: String::new(),
            signed_record: None,
            last_seen: now,
            connected: false,
        }
    }

    pub(super) fn addr_mut(&mut self, addr: &Multiaddr) -> Option<&mut KnownAddress> {
        self.addrs.iter_mut().find(|known| known.addr == *addr)
    }

    /// Smaller is forgotten sooner when there are too many peers: those without addresses, then
    /// those nobody ever reached, then those not seen for long. What the user gave is last.
    pub(super) fn worth(&self) -> impl Ord + use<> {
        let given = self.addrs.iter().any(|a| a.source == AddressSource::User);
        let reached = self.addrs.iter().any(|a| a.last_success.is_some());
        (
            given,
            !self.addrs.is_empty(),
            reached,
            self.last_seen,
            self.peer_id,
        )
    }
}
