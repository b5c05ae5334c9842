//! Settings of an endpoint. Plain structs with `Default`; each default names its source.

use std::{sync::Arc, time::Duration};

use barewire_mux::yamux;
use barewire_transport::{MuxerKind, pnet::Psk, quic::QuicConfig, tcp::TcpConfig, ws::WsConfig};

use crate::{
    addresses::ObservedConfig,
    dial::{DialConfig, DnsConfig},
    manager::{ConnectionGater, Limits, Machine, MemorySource},
    peer_book::PeerBookConfig,
};

/// A secure channel of byte streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecurityKind {
    /// Noise XX, `/noise`.
    Noise,
    /// TLS 1.3, `/tls/1.0.0`.
    Tls,
}

/// Settings of an [`Endpoint`](crate::Endpoint).
///
/// ```
/// let mut config = barewire_node::Config::default();
/// config.ping.interval = None;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Socket options of TCP listeners and dials.
    pub tcp: TcpConfig,
    /// Settings of QUIC.
    pub quic: QuicConfig,
    /// WebSockets: certificate, trusted roots, origins, limits.
    pub ws: WsConfig,
    /// Key of the private network this node lives in. Only TCP and WebSocket can be used then.
    /// Default `None`.
    pub psk: Option<Psk>,
    /// Secure channels of byte streams, best first. A dial proposes them in this order; with a
    /// single one its handshake goes out with the proposal, which saves a round trip. Listening
    /// accepts any of them. Default: Noise alone, which every libp2p implementation speaks.
    pub security: Vec<SecurityKind>,
    /// Whether the secrets of TLS, over TCP, in QUIC and below secure WebSockets, are written to the file that the environment variable
    /// `SSLKEYLOGFILE` names, where there is one. Whoever has that file can read all traffic.
    /// Default off.
    pub log_tls_keys: bool,
    /// How addresses are dialled.
    pub dial: DialConfig,
    /// How names in addresses are looked up.
    pub dns: DnsConfig,
    /// Multiplexer implementation. Default: our own session.
    pub muxer: MuxerKind,
    /// Windows and limits of the multiplexer.
    pub yamux: yamux::Config,
    /// Limits on connections and memory, derived from the machine.
    pub limits: Limits,
    /// Where the use of memory is read. Default `None`: from the control group of the process, and its
    /// resident memory if [`Limits::max_resident`] is set.
    pub memory: Option<Arc<dyn MemorySource>>,
    /// Called about five times a second while memory is short, to give the system back what was freed and
    /// the allocator still keeps: until that is done memory stays short. It should take
    /// milliseconds at most. Default `None`.
    pub reclaim: Option<fn()>,
    /// How long a connection may be open without a lease: an open stream (except ping and identify),
    /// a tag, a protection, or [`Connection::lease`](crate::Connection::lease). `None` for ever.
    /// Default 60 s (own choice; rust-libp2p closes after 10 s, go-libp2p only trims).
    pub idle_timeout: Option<Duration>,
    /// Has a say in who is connected to. Default none.
    pub gater: Option<Arc<dyn ConnectionGater>>,
    /// Deadline of each stage of an upgrade. Default 10 s, as rust-libp2p; progress does not
    /// extend it.
    pub stage_timeout: Duration,
    /// Deadline from accept (or from a finished TCP connect) to a ready connection. Default 15 s,
    /// as go-libp2p.
    pub upgrade_timeout: Duration,
    /// Inbound streams of one connection that have not agreed on a protocol yet; those over the
    /// limit are reset. Default 128, as rust-libp2p.
    pub max_negotiating_streams: usize,
    /// Deadline of a protocol negotiation on an inbound stream. Default 10 s, as go-libp2p and
    /// rust-libp2p.
    pub negotiation_timeout: Duration,
    /// How long the superfluous one of two connections to a barewire peer must have been without
    /// streams before the side that dialled it closes it. Default 1 s (own choice: longer than any
    /// round trip, so that a stream opened just before both sides agreed is not lost).
    pub supplant_grace: Duration,
    /// When addresses that others see this node at are believed.
    pub observed: ObservedConfig,
    /// Where addresses of peers are kept, and for how long.
    pub peer_book: PeerBookConfig,
    /// Identify settings.
    pub identify: IdentifyConfig,
    /// Ping settings.
    pub ping: PingConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tcp: TcpConfig::default(),
            quic: QuicConfig::default(),
            ws: WsConfig::default(),
            psk: None,
            security: vec![SecurityKind::Noise],
            log_tls_keys: false,
            dial: DialConfig::default(),
            dns: DnsConfig::default(),
            muxer: MuxerKind::default(),
            yamux: yamux::Config::default(),
            limits: Limits::default(),
            memory: None,
            reclaim: None,
            idle_timeout: Some(Duration::from_secs(60)),
            gater: None,
            stage_timeout: Duration::from_secs(10),
            upgrade_timeout: Duration::from_secs(15),
            max_negotiating_streams: 128,
            negotiation_timeout: Duration::from_secs(10),
            supplant_grace: Duration::from_secs(1),
            observed: ObservedConfig::default(),
            peer_book: PeerBookConfig::default(),
            identify: IdentifyConfig::default(),
            ping: PingConfig::default(),
        }
    }
}

impl Config {
    /// Defaults for a process that may take `bytes` of memory: see [`Limits::derive`].
    #[must_use]
    pub fn from_memory(bytes: u64) -> Self {
        Self {
            limits: Limits::derive(Machine::get(), Some(bytes)),
            ..Self::default()
        }
    }
}

/// Settings of identify and identify/push.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentifyConfig {
    /// What this node calls itself. Default `barewire/<version>`. A node whose agent version does
    /// not begin with `barewire/` is treated by others as a foreign one.
    pub agent_version: String,
    /// Free text that peers do not check. Default `barewire/1`.
    pub protocol_version: String,
    /// How long after a connection is established the peer is asked, if it is still open. `None`
    /// asks only on demand. Default 50 ms (own choice: connections made for one request do not pay
    /// for it).
    pub delay: Option<Duration>,
    /// Deadline of one exchange. Default 5 s, as go-libp2p and js-libp2p.
    pub timeout: Duration,
    /// Shortest time between two pushes, both those sent and those accepted on one connection. A
    /// peer that has pushed too soon is asked once the time is over. Default 10 s (own choice; go-libp2p allows one each 5 s per address block).
    pub push_interval: Duration,
}

impl Default for IdentifyConfig {
    fn default() -> Self {
        Self {
            agent_version: concat!("barewire/", env!("CARGO_PKG_VERSION")).to_owned(),
            protocol_version: "barewire/1".to_owned(),
            delay: Some(Duration::from_millis(50)),
            timeout: Duration::from_secs(5),
            push_interval: Duration::from_secs(10),
        }
    }
}

/// Settings of the ping that runs by itself on each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingConfig {
    /// Time between pings of one connection, `None` for none. Default 15 s, as rust-libp2p.
    pub interval: Option<Duration>,
    /// How long to wait for the answer. Default 20 s, as rust-libp2p.
    pub timeout: Duration,
    /// Failures in a row after which the connection is closed, `None` for never. Default 3 (own
    /// choice).
    pub max_failures: Option<u32>,
}

impl Default for PingConfig {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(15)),
            timeout: Duration::from_secs(20),
            max_failures: Some(3),
        }
    }
}
