//! The built-in transports behind one door: listen on and dial multiaddrs.

use std::{io, sync::Arc, time::Duration};

use barewire_base::{Multiaddr, PeerId, Protocol};
use barewire_mux::Role;
use barewire_security::tls;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    config::UpgradeConfig,
    connection::{CIRCUIT, CircuitLimit, Connection},
    driver::BoxReader,
    error::UpgradeError,
    inbound::InboundStreams,
    memory::{self, MemoryListener},
    pnet,
    quic::{QuicConfig, QuicIncoming, QuicListener, Sockets},
    stream::Stream,
    tcp::{self, Ports, TcpConfig, TcpListener},
    traffic::Traffic,
    transmit::BoxWriter,
    upgrade::upgrade_halves,
    ws::{self, Copied, WsAddr, WsConfig},
};

/// A byte stream with its addresses, ready to be upgraded.
pub struct RawConnection {
    pub(crate) reader: BoxReader,
    pub(crate) writer: BoxWriter,
    pub(crate) local_addr: Multiaddr,
    pub(crate) remote_addr: Multiaddr,
    /// Name of what carries it, see [`ConnectionInfo::transport`](crate::ConnectionInfo::transport).
    pub(crate) transport: &'static str,
    /// What a relay lets through, if one carries it.
    pub(crate) limit: Option<CircuitLimit>,
    /// What the layers below the record layer have copied.
    pub(crate) copied: Arc<Copied>,
}

impl std::fmt::Debug for RawConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawConnection")
            .field("local_addr", &self.local_addr)
            .field("remote_addr", &self.remote_addr)
            .finish_non_exhaustive()
    }
}

impl RawConnection {
    /// Any byte stream with the addresses it should be known by. `transport` names what carries it,
    /// see [`ConnectionInfo::transport`](crate::ConnectionInfo::transport).
    pub fn new<IO>(
        io: IO,
        transport: &'static str,
        local_addr: Multiaddr,
        remote_addr: Multiaddr,
    ) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(io);
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
            local_addr,
            remote_addr,
            transport,
            limit: None,
            copied: Arc::default(),
        }
    }

    /// A stream to a relay that leads to somebody else from now on. `addr` is the relay's, `/p2p-circuit` at its end.
    #[must_use]
    pub fn circuit(stream: Stream, addr: Multiaddr, limit: Option<CircuitLimit>) -> Self {
        let (reader, writer) = stream.split();
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
            local_addr: addr.clone(),
            remote_addr: addr,
            transport: CIRCUIT,
            limit,
            copied: Arc::default(),
        }
    }

    /// A byte stream of unknown origin; both addresses are `/memory/0`.
    pub(crate) fn unaddressed<IO>(io: IO) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::new(io, "memory", memory::address(0), memory::address(0))
    }

    /// Address of this side.
    #[must_use]
    pub fn local_addr(&self) -> &Multiaddr {
        &self.local_addr
    }

    /// Address of the remote.
    #[must_use]
    pub fn remote_addr(&self) -> &Multiaddr {
        &self.remote_addr
    }
}

/// Why an address could not be dialled or listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No built-in transport takes this address.
    #[error(
        "no transport for {0}; supported are /ip4/…/tcp/…, the same with /ws or /tls/ws behind, /ip4/…/udp/…/quic-v1, all with ip6 too, and /memory/…"
    )]
    Unsupported(Multiaddr),
    /// The socket could not be opened or connected.
    #[error("{addr}: {}", describe(*kind))]
    Io {
        /// Address that was tried.
        addr: Multiaddr,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// No connection in time.
    #[error("{0}: no answer in time; is the host up and the port open?")]
    Timeout(Multiaddr),
    /// A secure WebSocket was to be listened on without a certificate.
    #[error("{0}: listening on a secure WebSocket needs a certificate and its key")]
    NoCertificate(Multiaddr),
    /// The transport cannot be used with a pre-shared key.
    #[error("{0}: this transport cannot be used in a private network; TCP and WebSocket can")]
    NotPrivate(Multiaddr),
    /// `LIBP2P_FORCE_PNET=1` is set, but no pre-shared key.
    #[error(
        "LIBP2P_FORCE_PNET is set, so nothing is dialled or listened on without a pre-shared key"
    )]
    PskRequired,
}

impl TransportError {
    /// The same about the whole address that was asked for.
    fn at(self, addr: &Multiaddr) -> Self {
        let addr = addr.clone();
        match self {
            Self::Io { kind, .. } => Self::Io { addr, kind },
            Self::Timeout(_) => Self::Timeout(addr),
            other => other,
        }
    }
}

/// What a person can do about an I/O error.
fn describe(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::ConnectionRefused => {
            "connection refused; is a node listening on that port?".into()
        }
        io::ErrorKind::AddrInUse => "the port is in use; choose another or use port 0".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need privileges".into()
        }
        kind => kind.to_string(),
    }
}

/// Why a listener had no connection attempt to give.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// It concerns one attempt, or the process is out of descriptors. The listener stays usable.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The socket broke, or the system took it away. Nothing is accepted any more.
    #[error("the listening socket is gone")]
    Ended,
}

/// Why an address did not become a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No byte stream.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The remote answered but did not become a connection.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
}

/// Settings of the built-in transports.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TransportConfig {
    /// Socket options of TCP listeners and dials.
    pub tcp: TcpConfig,
    /// Settings of QUIC.
    pub quic: QuicConfig,
    /// Certificate that QUIC connections show. Without one QUIC addresses are not supported.
    pub tls: Option<Arc<tls::Config>>,
    /// WebSockets, plain and secure.
    pub ws: WsConfig,
    /// Who this node is, which decides about [`TcpConfig::reuse_port`].
    pub local: Option<PeerId>,
}

/// Bytes of a packet that opens a router, as the specification of DCUtR.
const PUNCH_LEN: usize = 64;
/// Between two of them, as the same.
const PUNCH_GAP: std::ops::Range<Duration> = Duration::from_millis(10)..Duration::from_millis(200);

/// After how long QUIC is dialled once more beside the first time: a first packet that came before the other router was open is lost,
/// and quinn repeats it only after a second (own choice: longer than most round trips).
const PUNCH_AGAIN: Duration = Duration::from_millis(200);
/// How long the server of a TCP connection that it has dialled itself waits for the client's first byte. A client that has dialled too
/// speaks at once; if nobody does, the connection was accepted by a listener, which waits as well (own choice: longer than a round trip).
const PUNCH_SILENCE: Duration = Duration::from_secs(1);

/// The port that a TCP dial leaves from. QUIC has its listeners' anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalPort {
    /// One that is listened on, unless [`TcpConfig::reuse_port`] leaves that to the other node.
    #[default]
    Shared,
    /// One that is listened on. For dials that the other node does not cross: those of relays, to whom the port is to be seen.
    Listening,
    /// Another one. For dials beside others that need the listening one.
    New,
}

/// The transports of one node with what they share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transports {
    upgrade: Arc<UpgradeConfig>,
    config: Arc<TransportConfig>,
    quic: Option<Arc<Sockets>>,
    ports: Arc<Ports>,
    /// The environment forbids connections without a pre-shared key.
    psk_required: bool,
}

impl Transports {
    /// Transports that upgrade what they connect by `upgrade`.
    #[must_use]
    pub fn new(upgrade: UpgradeConfig, config: TransportConfig) -> Self {
        let upgrade = Arc::new(upgrade);
        let quic = config
            .tls
            .clone()
            .map(|tls| Arc::new(Sockets::new(config.quic.clone(), tls, Arc::clone(&upgrade))));
        Self {
            upgrade,
            config: Arc::new(config),
            quic,
            ports: Arc::default(),
            psk_required: pnet::is_forced(),
        }
    }

    /// Whether an address names an IP, or a process of this machine, and a transport that this node can dial it with.
    #[must_use]
    pub fn can_dial(&self, addr: &Multiaddr) -> bool {
        let quic = addr.to_quic().is_some() && self.quic.is_some();
        let others =
            WsAddr::of(addr).is_some() || addr.to_tcp().is_some() || memory_port(addr).is_some();
        (quic || others) && self.check_private(addr).is_ok()
    }

    /// Refuses what must not be used with, or without, a pre-shared key.
    fn check_private(&self, addr: &Multiaddr) -> Result<(), TransportError> {
        if self.upgrade.psk.is_none() {
            return match self.psk_required {
                true => Err(TransportError::PskRequired),
                false => Ok(()),
            };
        }
        match addr.iter().any(|part| matches!(part, Protocol::Udp(_))) {
            true => Err(TransportError::NotPrivate(addr.clone())),
            false => Ok(()),
        }
    }

    /// What went over streams, by protocol.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.upgrade.traffic
    }

    /// Drops the buffers kept for reuse, as when memory is short.
    pub fn drop_spare_buffers(&self) {
        self.upgrade.slabs.clear();
    }

    /// Opens a listening socket on the transport part of `addr`; a trailing `/p2p` is ignored.
    pub fn listen(&self, addr: &Multiaddr) -> Result<Listener, TransportError> {
        self.check_private(addr)?;
        if let Some(ws) = WsAddr::of(addr) {
            if ws.secure && self.config.ws.certificate.is_none() {
                return Err(TransportError::NoCertificate(addr.clone()));
            }
            return TcpListener::bind(ws.socket, &self.config.tcp)
                .map(|listener| self.listener(Socket::ws(listener, ws, &self.config)))
                .map_err(|error| io_error(addr, &error));
        }
        if let Some((socket, _)) = addr.to_tcp() {
            return TcpListener::bind(socket, &self.config.tcp)
                .and_then(|listener| listener.share(&self.ports))
                .map(|listener| self.listener(Socket::Tcp(listener)))
                .map_err(|error| io_error(addr, &error));
        }
        if let (Some((socket, _)), Some(quic)) = (addr.to_quic(), &self.quic) {
            return quic
                .listen(socket)
                .map(|listener| self.listener(Socket::Quic(listener)))
                .map_err(|error| io_error(addr, &error));
        }
        match memory_port(addr) {
            Some(port) => MemoryListener::bind(port)
                .map(|listener| self.listener(Socket::Memory(listener)))
                .map_err(|error| io_error(addr, &error)),
            None => Err(TransportError::Unsupported(addr.clone())),
        }
    }

    fn listener(&self, socket: Socket) -> Listener {
        Listener {
            socket,
            upgrade: Arc::clone(&self.upgrade),
        }
    }

    /// Connects to one address: a socket, then the upgrade, as which the remote proves its
    /// identity. With `expected`, any other identity is refused; a trailing `/p2p` of `addr` is
    /// not looked at.
    ///
    /// Cancel safe: a dropped call closes the socket.
    pub async fn dial(
        &self,
        addr: &Multiaddr,
        expected: Option<PeerId>,
    ) -> Result<(Connection, InboundStreams), ConnectError> {
        self.dial_from(addr, expected, LocalPort::Shared).await
    }

    /// As [`dial`](Self::dial), from the port that is named.
    pub async fn dial_from(
        &self,
        addr: &Multiaddr,
        expected: Option<PeerId>,
        port: LocalPort,
    ) -> Result<(Connection, InboundStreams), ConnectError> {
        self.check_private(addr)?;
        if let (Some((socket, _)), Some(quic)) = (addr.to_quic(), &self.quic) {
            return quic.dial(addr, socket, expected).await;
        }
        let raw = match WsAddr::of(addr) {
            Some(ws) => {
                let tcp = self.connect(&Multiaddr::tcp(ws.socket), false).await;
                let tcp = tcp.map_err(|error| error.at(addr))?;
                ws::connect(tcp, &ws, &self.config.ws)
                    .await
                    .map_err(UpgradeError::WebSocket)?
            }
            None => {
                let reuse = match port {
                    LocalPort::Shared => self.may_reuse(expected),
                    LocalPort::Listening => true,
                    LocalPort::New => false,
                };
                self.connect(addr, reuse).await?
            }
        };
        Ok(upgrade_halves(raw, Role::Client, &self.upgrade, expected).await?)
    }

    /// Upgrades a byte stream that did not come from a transport, such as a [circuit](RawConnection::circuit), as this node's other
    /// connections.
    ///
    /// Cancel safe: a dropped call closes the byte stream.
    pub async fn upgrade(
        &self,
        raw: RawConnection,
        role: Role,
        expected: Option<PeerId>,
    ) -> Result<(Connection, InboundStreams), UpgradeError> {
        upgrade_halves(raw, role, &self.upgrade, expected).await
    }

    /// Makes a hole in the routers between this node and one at `addr` that does the same now: over TCP both dial from their listening
    /// ports, and what comes of it is upgraded in the given role, unless the other one turns out to have accepted it. Over QUIC the client
    /// dials, and the server sends packets until it is cancelled: the connection comes to its listener. After `patience` it dials too. The
    /// caller sets the deadline.
    ///
    /// `security` is what both are known to speak, as [`ConnectionInfo::security`](crate::ConnectionInfo::security) names it: with one to
    /// choose from the handshake goes out with its name.
    ///
    /// Cancel safe: a dropped call closes the socket.
    pub async fn punch(
        &self,
        addr: &Multiaddr,
        peer: PeerId,
        role: Role,
        patience: Duration,
        security: &str,
    ) -> Result<(Connection, InboundStreams), ConnectError> {
        self.check_private(addr)?;
        if let (Some((socket, _)), Some(quic)) = (addr.to_quic(), &self.quic) {
            return match role {
                Role::Client => {
                    let dial = || quic.dial(addr, socket, Some(peer));
                    let again = async {
                        tokio::time::sleep(PUNCH_AGAIN).await;
                        dial().await
                    };
                    tokio::select! {
                        dialled = dial() => dialled,
                        dialled = again => dialled,
                    }
                }
                Role::Server => {
                    let knock = async {
                        loop {
                            let contents: [u8; PUNCH_LEN] = rand::random();
                            // What the network loses now may pass the next time.
                            drop(quic.send_past(socket, &contents));
                            tokio::time::sleep(rand::random_range(PUNCH_GAP)).await;
                        }
                    };
                    let dial = async {
                        tokio::time::sleep(patience).await;
                        quic.dial(addr, socket, Some(peer)).await
                    };
                    tokio::select! {
                        never = knock => never,
                        dialled = dial => dialled,
                    }
                }
            };
        }
        let Some((socket, _)) = addr.to_tcp() else {
            return Err(TransportError::Unsupported(addr.clone()).into());
        };
        let (local, config) = (self.ports.towards(socket), &self.config.tcp);
        let opening = tcp::open_from(local, socket, config);
        let opened = tokio::time::timeout(config.connect_timeout, opening).await;
        let opened = opened.map_err(|_| TransportError::Timeout(addr.clone()))?;
        let stream = opened.map_err(|error| io_error(addr, &error))?;
        let mut role = role;
        if role == Role::Server {
            let spoken = tokio::time::timeout(PUNCH_SILENCE, stream.readable()).await;
            if spoken.is_err() {
                role = Role::Client;
            }
        }
        let raw = tcp::raw(stream, config).map_err(|error| io_error(addr, &error))?;
        let mut upgrade = UpgradeConfig::clone(&self.upgrade);
        if role == Role::Client
            && upgrade
                .security
                .iter()
                .any(|known| known.protocol() == security)
        {
            upgrade
                .security
                .retain(|known| known.protocol() == security);
        }
        Ok(upgrade_halves(raw, role, &upgrade, Some(peer)).await?)
    }

    /// Whether a dial may leave from a listening port, see [`TcpConfig::reuse_port`].
    fn may_reuse(&self, expected: Option<PeerId>) -> bool {
        let Some(remote) = expected else {
            return false;
        };
        let Some(local) = self.config.local else {
            return true;
        };
        // Either of two may be the one, so that each node is with about half of all others.
        let last = |peer: PeerId| peer.as_bytes().last().copied().unwrap_or_default();
        let odd = (last(local) ^ last(remote)) & 1 == 1;
        (local < remote) != odd
    }

    /// Opens a byte stream to the transport part of `addr`, from a listening port if `reuse`.
    async fn connect(
        &self,
        addr: &Multiaddr,
        reuse: bool,
    ) -> Result<RawConnection, TransportError> {
        let config = &self.config.tcp;
        if let Some((socket, _)) = addr.to_tcp() {
            let local = if reuse {
                self.ports.towards(socket)
            } else {
                None
            };
            let connecting = async {
                match local {
                    Some(local) => tcp::connect_from(local, socket, config).await,
                    None => tcp::connect(socket, config).await,
                }
            };
            return match tokio::time::timeout(config.connect_timeout, connecting).await {
                Ok(connected) => connected.map_err(|error| io_error(addr, &error)),
                Err(_) => Err(TransportError::Timeout(addr.clone())),
            };
        }
        match memory_port(addr) {
            Some(port) => memory::connect(port)
                .await
                .map_err(|error| io_error(addr, &error)),
            None => Err(TransportError::Unsupported(addr.clone())),
        }
    }
}

/// A listening socket of a built-in transport.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    upgrade: Arc<UpgradeConfig>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Ws(TcpListener, Box<Ws>),
    Memory(MemoryListener),
    Quic(QuicListener),
}

impl Socket {
    fn ws(listener: TcpListener, addr: WsAddr, config: &Arc<TransportConfig>) -> Self {
        let local_addr = addr.over(listener.local_addr(), true);
        let ws = Ws {
            addr,
            local_addr,
            config: Arc::clone(config),
        };
        Self::Ws(listener, Box::new(ws))
    }
}

/// What makes a WebSocket of an accepted TCP connection.
#[derive(Debug, Clone)]
struct Ws {
    addr: WsAddr,
    local_addr: Multiaddr,
    config: Arc<TransportConfig>,
}

impl Listener {
    /// Address it listens on, with the port the system chose.
    #[must_use]
    pub fn local_addr(&self) -> &Multiaddr {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr(),
            Socket::Ws(_, ws) => &ws.local_addr,
            Socket::Memory(listener) => listener.local_addr(),
            Socket::Quic(listener) => listener.local_addr(),
        }
    }

    /// The next connection attempt. Cancel safe.
    pub async fn accept(&mut self) -> Result<Incoming, AcceptError> {
        let attempt = match &mut self.socket {
            Socket::Tcp(listener) => Attempt::Raw(listener.accept().await?),
            Socket::Ws(listener, ws) => {
                let raw = ws.addr.below(listener.accept().await?, false);
                Attempt::Ws(raw, ws.clone())
            }
            Socket::Memory(listener) => Attempt::Raw(listener.accept().await?),
            Socket::Quic(listener) => Attempt::Quic(Box::new(listener.accept().await?)),
        };
        Ok(Incoming {
            attempt,
            upgrade: Arc::clone(&self.upgrade),
        })
    }
}

/// A connection attempt of a remote that has cost little so far. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    attempt: Attempt,
    upgrade: Arc<UpgradeConfig>,
}

#[derive(Debug)]
enum Attempt {
    Raw(RawConnection),
    Ws(RawConnection, Box<Ws>),
    Quic(Box<QuicIncoming>),
}

impl Incoming {
    /// Address of this side.
    #[must_use]
    pub fn local_addr(&self) -> &Multiaddr {
        match &self.attempt {
            Attempt::Raw(raw) | Attempt::Ws(raw, _) => raw.local_addr(),
            Attempt::Quic(incoming) => &incoming.local_addr,
        }
    }

    /// Address of the remote.
    #[must_use]
    pub fn remote_addr(&self) -> &Multiaddr {
        match &self.attempt {
            Attempt::Raw(raw) | Attempt::Ws(raw, _) => raw.remote_addr(),
            Attempt::Quic(incoming) => &incoming.remote_addr,
        }
    }

    /// Whether the remote has proven that it receives what is sent to its address.
    #[must_use]
    pub fn is_validated(&self) -> bool {
        match &self.attempt {
            Attempt::Raw(_) | Attempt::Ws(..) => true,
            Attempt::Quic(incoming) => incoming.is_validated(),
        }
    }

    /// Makes the remote prove that it receives what is sent to its address, and forgets it until it
    /// does: a proof against floods from invented addresses that costs an honest remote a round
    /// trip. Gives the attempt back when its address is proven, as it always is over TCP.
    #[must_use]
    pub fn validate_address(self) -> Option<Self> {
        match self.attempt {
            Attempt::Raw(_) | Attempt::Ws(..) => Some(self),
            Attempt::Quic(incoming) => incoming.validate().err().map(|incoming| Self {
                attempt: Attempt::Quic(incoming),
                upgrade: self.upgrade,
            }),
        }
    }

    /// Drops the attempt without an answer where the transport can do that; elsewhere it is refused.
    pub fn ignore(self) {
        if let Attempt::Quic(incoming) = self.attempt {
            incoming.ignore();
        }
    }

    /// Makes a connection of it.
    ///
    /// Cancel safe: a dropped call closes the socket.
    pub async fn upgrade(self) -> Result<(Connection, InboundStreams), UpgradeError> {
        match self.attempt {
            Attempt::Raw(raw) => upgrade_halves(raw, Role::Server, &self.upgrade, None).await,
            Attempt::Ws(raw, ws) => {
                // One deadline for both, as for a connection without a WebSocket below it.
                let upgraded = tokio::time::timeout(self.upgrade.total_timeout, async {
                    let raw = ws::accept(raw, ws.addr.secure, &ws.config.ws)
                        .await
                        .map_err(UpgradeError::WebSocket)?;
                    upgrade_halves(raw, Role::Server, &self.upgrade, None).await
                });
                let stage = "WebSocket upgrade";
                upgraded
                    .await
                    .unwrap_or(Err(UpgradeError::Timeout { stage }))
            }
            Attempt::Quic(incoming) => incoming.upgrade().await,
        }
    }
}

pub(crate) fn io_error(addr: &Multiaddr, error: &io::Error) -> TransportError {
    TransportError::Io {
        addr: addr.clone(),
        kind: error.kind(),
    }
}

/// The port of `/memory/N[/p2p/…]`.
fn memory_port(addr: &Multiaddr) -> Option<u64> {
    let mut parts = addr.iter();
    let Some(Protocol::Memory(port)) = parts.next() else {
        return None;
    };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some(port),
        _ => None,
    }
}
