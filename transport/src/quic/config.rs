//! Settings of QUIC, and what quinn is told of them.

#[cfg(feature = "qlog")]
use std::path::PathBuf;
use std::{sync::Arc, time::Duration};

use barewire_base::{Budget, Reservation};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, VarInt, congestion};

/// The only version spoken: RFC 9000.
const VERSION_1: u32 = 1;
/// Smallest receive window a connection gets, however little memory is left.
pub(super) const MIN_WINDOW: u32 = 1024 * 1024;
/// A window takes at most this part of the memory that is left.
const SHARE_OF_BUDGET: usize = 16;
/// Windows on offer: the largest, and four times half of the one before.
const TIERS: u32 = 5;
/// Largest UDP payload over IPv4.
pub(super) const MAX_UDP_PAYLOAD: usize = 65_507;

/// Settings of QUIC connections and their sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuicConfig {
    /// Silence after which a connection is given up. Default 30 s, as go-libp2p; the smaller of
    /// both sides' counts.
    pub idle_timeout: Duration,
    /// Silence after which something is sent to keep the connection open. Default 4 s: rust-libp2p
    /// and litep2p give up after 10 s, and one lost packet must not matter.
    pub keep_alive: Duration,
    /// Longest wait for each step of a handshake. Default 5 s, as go-libp2p and rust-libp2p.
    pub handshake_timeout: Duration,
    /// Streams the remote may have open at once. Default 256, as go-libp2p and rust-libp2p.
    pub max_incoming_streams: u32,
    /// Bytes the remote may send on one connection before they are read; a single stream gets three
    /// quarters of it. Charged to the memory budget, and halved up to four times while the budget
    /// is short. Default 16 MiB (go-libp2p: 15 MiB).
    pub receive_window: u32,
    /// Bytes written and not acknowledged that one connection keeps. Default 16 MiB, the remote's
    /// window of the known implementations.
    pub send_window: u32,
    /// Largest UDP payload that path MTU discovery tries, 1,200 to 65,507 bytes. Default 1,452, which
    /// fits Ethernet over IPv6. More pays where the path carries jumbo frames.
    pub max_mtu: u16,
    /// What paces the sender.
    pub congestion: CongestionController,
    /// Bytes asked for each of a socket's buffers; the system may clamp them. Default 7 MiB, as
    /// go-libp2p.
    pub socket_buffer: usize,
    /// Whether a server follows a client to another address. Default false: an attacker could turn
    /// it to a victim.
    pub migration: bool,
    /// Folder in which each connection, also one that fails, leaves a trace in qlog's JSON-SEQ form,
    /// named `TIME-PROCESS-NUMBER-client.sqlog` or `…-server.sqlog`. It is made if it is not there. Traces grow with the
    /// traffic, some hundred bytes per packet, and have no bound. Default `None`.
    #[cfg(feature = "qlog")]
    pub qlog: Option<PathBuf>,
}

/// Congestion controllers on offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CongestionController {
    /// Model of the path's bandwidth and delay; a random loss does not slow it down.
    #[default]
    Bbr,
    /// RFC 9438; gives way at each loss.
    Cubic,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(4),
            handshake_timeout: Duration::from_secs(5),
            max_incoming_streams: 256,
            receive_window: 16 * 1024 * 1024,
            send_window: 16 * 1024 * 1024,
            max_mtu: 1_452,
            congestion: CongestionController::default(),
            socket_buffer: 7 * 1024 * 1024,
            migration: false,
            #[cfg(feature = "qlog")]
            qlog: None,
        }
    }
}

/// Streams a remote may have open at first; more are allowed as it opens them. quinn keeps an entry for each that may
/// come: 17 KiB a connection for 256.
pub(super) const FIRST_STREAMS: u32 = 16;

impl QuicConfig {
    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        endpoint.supported_versions(vec![VERSION_1]);
        // Room for what the remote's own discovery may find; below 1,200 quinn refuses.
        let largest = self.max_mtu.clamp(1_472, MAX_UDP_PAYLOAD as u16);
        drop(endpoint.max_udp_payload_size(largest).map(drop));
        endpoint
    }

    pub(super) fn transport(&self, window: u32) -> quinn::TransportConfig {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.max_mtu);
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.keep_alive))
            .max_concurrent_bidi_streams(self.max_incoming_streams.min(FIRST_STREAMS).into())
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .receive_window(window.into())
            .stream_receive_window((window / 4 * 3).into())
            .send_window(self.send_window.into())
            .mtu_discovery_config(Some(mtu));
        match self.congestion {
            CongestionController::Bbr => {
                transport.congestion_controller_factory(Arc::new(congestion::BbrConfig::default()))
            }
            CongestionController::Cubic => transport
                .congestion_controller_factory(Arc::new(congestion::CubicConfig::default())),
        };
        transport
    }
}

/// Transport settings with smaller and smaller windows, and the memory they are charged to.
#[derive(Debug)]
pub(super) struct Windows {
    tiers: Vec<(u32, Arc<quinn::TransportConfig>)>,
    budget: Budget,
}

impl Windows {
    pub(super) fn new(config: &QuicConfig, budget: Budget) -> Self {
        let window = |tier: u32| (config.receive_window >> tier).max(MIN_WINDOW);
        let tiers = (0..TIERS)
            .map(|tier| (window(tier), Arc::new(config.transport(window(tier)))))
            .collect();
        Self { tiers, budget }
    }

    /// Settings for one more connection, and the memory its window may take, which is charged until
    /// the reservation is dropped. The smallest window needs none.
    pub(super) fn take(&self) -> (Arc<quinn::TransportConfig>, Option<Reservation>) {
        let share = self.budget.available() / SHARE_OF_BUDGET;
        for (window, transport) in &self.tiers {
            let bytes = *window as usize;
            if bytes <= share
                && let Ok(reservation) = self.budget.try_reserve(bytes)
            {
                return (Arc::clone(transport), Some(reservation));
            }
        }
        let smallest = self
            .tiers
            .last()
            .map(|(_, transport)| Arc::clone(transport));
        (smallest.unwrap_or_default(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_with_the_memory_that_is_left() {
        let config = QuicConfig::default();
        let budget = Budget::root(1 << 30);
        let windows = Windows::new(&config, budget.clone());
        let mut held = Vec::new();
        for _ in 0..10_000 {
            held.push(windows.take());
            assert!(budget.used() <= 1 << 30);
        }
        let full = held
            .iter()
            .filter_map(|(_, charge)| charge.as_ref())
            .filter(|charge| charge.bytes() == 16 << 20)
            .count();
        assert!(full > 40, "{full} connections have the full window");
        assert!(held.iter().any(|(_, charge)| charge.is_none()));
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
