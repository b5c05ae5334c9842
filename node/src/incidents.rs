//! What remotes were kept from doing, counted by kind. Each kind is logged too, but rarely: a flood must not become a
//! flood of lines.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use barewire_base::Fault;
use barewire_transport::{CloseReason, LimitsHit, LocalReason, UpgradeError, ws};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::manager::Refusal;

/// Time between two lines about one kind.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A kind of thing that a remote did and should not, or could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Incident {
    /// An inbound connection did not finish its upgrade in time.
    UpgradeTimeout,
    /// An inbound connection broke a protocol of its upgrade.
    UpgradeFailed,
    /// An inbound connection in its upgrade lost its place to a newer one.
    PendingDropped,
    /// An inbound QUIC attempt was told to prove its address first (a Retry), because there were many.
    AddressUnproven,
    /// A connection found the table full.
    TooManyConnections,
    /// A connection broke the muxer protocol, or flooded it.
    Muxer,
    /// A connection sent a damaged record, or flooded with empty ones or changes of keys.
    Record,
    /// A connection broke the WebSocket framing, or flooded it.
    WebSocket,
    /// A connection broke the rules of QUIC.
    Quic,
    /// A connection accepted no bytes for too long.
    WriteStalled,
    /// A connection did not answer keepalive pings.
    KeepaliveTimeout,
    /// The gater refused a connection.
    Gated,
    /// A connection came from a network with too many of them, or too many at once.
    NetworkLimit,
    /// A peer had too many connections.
    PeerLimit,
    /// A connection was refused or closed because memory is short.
    MemoryShort,
    /// A connection was trimmed to make room for others.
    Trimmed,
    /// A peer answered too many pings in a row not at all.
    PingFailed,
    /// A stream was refused because its connection had too many.
    StreamRefused,
    /// A stream was reset because the memory budget had no room for its bytes.
    StreamShed,
    /// A stream did not agree on a protocol, or not in time.
    StreamNegotiation,
}

impl Incident {
    /// All kinds.
    pub const ALL: [Self; 20] = [
        Self::UpgradeTimeout,
        Self::UpgradeFailed,
        Self::PendingDropped,
        Self::AddressUnproven,
        Self::TooManyConnections,
        Self::Muxer,
        Self::Record,
        Self::WebSocket,
        Self::Quic,
        Self::WriteStalled,
        Self::KeepaliveTimeout,
        Self::Gated,
        Self::NetworkLimit,
        Self::PeerLimit,
        Self::MemoryShort,
        Self::Trimmed,
        Self::PingFailed,
        Self::StreamRefused,
        Self::StreamShed,
        Self::StreamNegotiation,
    ];

    /// A name that suits a label of a metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpgradeTimeout => "upgrade_timeout",
            Self::UpgradeFailed => "upgrade_failed",
            Self::PendingDropped => "pending_dropped",
            Self::AddressUnproven => "address_unproven",
            Self::TooManyConnections => "too_many_connections",
            Self::Muxer => "muxer",
            Self::Record => "record",
            Self::WebSocket => "websocket",
            Self::Quic => "quic",
            Self::WriteStalled => "write_stalled",
            Self::KeepaliveTimeout => "keepalive_timeout",
            Self::Gated => "gated",
            Self::NetworkLimit => "network_limit",
            Self::PeerLimit => "peer_limit",
            Self::MemoryShort => "memory_short",
            Self::Trimmed => "trimmed",
            Self::PingFailed => "ping_failed",
            Self::StreamRefused => "stream_refused",
            Self::StreamShed => "stream_shed",
            Self::StreamNegotiation => "stream_negotiation",
        }
    }

    /// The kind an inbound upgrade failed by.
    pub(crate) fn of_upgrade(error: &UpgradeError) -> Self {
        match error {
            UpgradeError::Timeout { .. } => Self::UpgradeTimeout,
            UpgradeError::Refused(LocalReason::Gated(_)) => Self::Gated,
            _ => Self::UpgradeFailed,
        }
    }

    /// The kind a refused connection is counted as.
    pub(crate) fn of_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::PerIp | Refusal::IpRate => Self::NetworkLimit,
            Refusal::PerPeer => Self::PeerLimit,
            Refusal::Memory => Self::MemoryShort,
            Refusal::Connections | Refusal::Inbound | Refusal::Descriptors => {
                Self::TooManyConnections
            }
        }
    }

    /// The kind a connection ended by; `None` for an ordinary end.
    pub(crate) fn of_close(reason: &CloseReason) -> Option<Self> {
        match reason {
            CloseReason::Muxer(_) => Some(Self::Muxer),
            CloseReason::Record(_)
            | CloseReason::EmptyRecordFlood
            | CloseReason::KeyUpdateFlood => Some(Self::Record),
            CloseReason::Frame(ws::FrameError::ClosedWith(_)) => None,
            CloseReason::Frame(_) => Some(Self::WebSocket),
            CloseReason::Quic(_) => Some(Self::Quic),
            CloseReason::WriteStalled => Some(Self::WriteStalled),
            CloseReason::KeepaliveTimeout => Some(Self::KeepaliveTimeout),
            CloseReason::Local(LocalReason::Trimmed) => Some(Self::Trimmed),
            CloseReason::Local(LocalReason::PingFailed) => Some(Self::PingFailed),
            CloseReason::Local(LocalReason::Limit(name)) if *name == Refusal::Memory.name() => {
                Some(Self::MemoryShort)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The counters of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    counts: [AtomicU64; Incident::ALL.len()],
    logged: [Mutex<Logged>; Incident::ALL.len()],
}

/// Up to where a kind was told.
#[derive(Debug, Default)]
struct Logged {
    at: Option<Instant>,
    count: u64,
}

impl Incidents {
    /// Counts `times` incidents and logs the last, unless its kind was logged a moment ago.
    pub(crate) fn record(
        &self,
        kind: Incident,
        times: u64,
        fault: Fault,
        who: &dyn fmt::Display,
        cause: &dyn fmt::Display,
    ) {
        let index = kind as usize;
        let count = self.counts[index].fetch_add(times, Ordering::Relaxed) + times;
        let now = Instant::now();
        let since = {
            let mut logged = self.logged[index].lock();
            if logged.at.is_some_and(|at| now < at + LOG_EVERY) {
                return;
            }
            logged.at = Some(now);
            count - std::mem::replace(&mut logged.count, count)
        };
        // A cable that was pulled is nobody's misdeed.
        if fault == Fault::Network {
            tracing::info!(%kind, count, since, %who, "{cause}");
        } else {
            tracing::warn!(%kind, count, since, %who, "{cause}");
        }
    }

    /// What the limits of a connection that has ended have cost its remote.
    pub(crate) fn record_limits(&self, hit: LimitsHit, who: &dyn fmt::Display) {
        if hit.refused > 0 {
            let cause = "streams beyond the limit of the connection were refused";
            self.record(
                Incident::StreamRefused,
                hit.refused,
                Fault::Limit,
                who,
                &cause,
            );
        }
        if hit.shed > 0 {
            let cause = "streams were reset because the memory budget was used up";
            self.record(Incident::StreamShed, hit.shed, Fault::Limit, who, &cause);
        }
    }

    pub(crate) fn count(&self, kind: Incident) -> u64 {
        self.counts[kind as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_in_their_order() {
        for (index, kind) in Incident::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn counts_all_and_logs_few() {
        let incidents = Incidents::default();
        for _ in 0..1_000 {
            incidents.record(Incident::Muxer, 2, Fault::Peer, &"somebody", &"a flood");
        }
        assert_eq!(incidents.count(Incident::Muxer), 2_000);
        assert_eq!(incidents.count(Incident::Record), 0);
        // Only the first of them was told.
        assert_eq!(incidents.logged[Incident::Muxer as usize].lock().count, 2);
        tokio::time::advance(LOG_EVERY).await;
        incidents.record(Incident::Muxer, 1, Fault::Peer, &"somebody", &"a flood");
        assert_eq!(
            incidents.logged[Incident::Muxer as usize].lock().count,
            2_001
        );
    }
}
