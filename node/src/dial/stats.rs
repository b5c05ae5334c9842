//! Counters of dialling.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use barewire_base::{Multiaddr, Protocol};

use super::BlackHoleState;

const TRANSPORTS: [&str; 6] = ["quic-v1", "tcp", "ws", "wss", "memory", "relay"];

/// Attempts over one transport since the endpoint was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportDials {
    /// `quic-v1`, `tcp`, `ws`, `wss`, `memory` or `relay`.
    pub transport: &'static str,
    /// Attempts begun.
    pub attempts: u64,
    /// Those that became a connection.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were stopped: another was faster, or nobody waited any more.
    pub cancelled: u64,
}

/// What dialling did since the endpoint was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialStats {
    /// Attempts by transport.
    pub transports: Vec<TransportDials>,
    /// Look-ups of names.
    pub lookups: u64,
    /// Attempts under way.
    pub running: usize,
    /// Whether UDP gets through.
    pub udp: BlackHoleState,
    /// Whether IPv6 gets through.
    pub ipv6: BlackHoleState,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    transports: [[AtomicU64; 3]; TRANSPORTS.len()],
    pub(super) lookups: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Attempt,
    Success,
    Failure,
}

impl Counters {
    pub(super) fn count(&self, addr: &Multiaddr, what: Count) {
        let name = transport(addr);
        if let Some(at) = TRANSPORTS.iter().position(|other| *other == name) {
            self.transports[at][what as usize].fetch_add(1, Relaxed);
        }
    }

    pub(super) fn read(
        &self,
        running: usize,
        (udp, ipv6): (BlackHoleState, BlackHoleState),
    ) -> DialStats {
        let transports = TRANSPORTS
            .iter()
            .zip(&self.transports)
            .map(|(name, counts)| {
                let [attempts, succeeded, failed] =
                    counts.each_ref().map(|count| count.load(Relaxed));
                TransportDials {
                    transport: name,
                    attempts,
                    succeeded,
                    failed,
                    // Those under way are counted here until they end.
                    cancelled: attempts.saturating_sub(succeeded + failed),
                }
            });
        DialStats {
            transports: transports.collect(),
            lookups: self.lookups.load(Relaxed),
            running,
            udp,
            ipv6,
        }
    }
}

fn transport(addr: &Multiaddr) -> &'static str {
    let mut name = "tcp";
    let mut tls = false;
    for part in addr.iter() {
        match part {
            Protocol::P2pCircuit => return "relay",
            Protocol::Memory(_) => name = "memory",
            Protocol::Udp(_) => name = "quic-v1",
            Protocol::Tls => tls = true,
            Protocol::Ws => name = if tls { "wss" } else { "ws" },
            Protocol::Wss => name = "wss",
            _ => {}
        }
    }
    name
}
