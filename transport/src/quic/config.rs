//! Settings of QUIC, and what quinn is told of them.

#[cfg(feature = "qlog")]
use std::path::PathBuf;
use std::{sync::Arc, time::Duration};

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, VarInt, congestion};

use super::window::LEAST;

/// The only version spoken: RFC 9000.
const VERSION_1: u32 = 1;
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
    /// Bytes the remote may send on one connection before they are read, at most; a single stream gets
    /// three quarters of it. It begins with 256 KiB and grows while the application reads fast, out
    /// of the memory budget of the peer. Default 16 MiB (go-libp2p: 15 MiB).
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

impl QuicConfig {
    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        endpoint.supported_versions(vec![VERSION_1]);
        // Room for what the remote's own discovery may find; below 1,200 quinn refuses.
        let largest = self.max_mtu.clamp(1_472, MAX_UDP_PAYLOAD as u16);
        drop(endpoint.max_udp_payload_size(largest).map(drop));
        endpoint
    }

    pub(super) fn transport(&self) -> quinn::TransportConfig {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.max_mtu);
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.keep_alive))
            .max_concurrent_bidi_streams(self.max_incoming_streams.into())
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .receive_window(LEAST.min(self.receive_window).into())
            .stream_receive_window((self.receive_window / 4 * 3).into())
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
