//! QUIC version 1 over UDP, by quinn: listening and dialling on the same sockets.
//!
//! The certificate carries libp2p's identity, as in TLS over TCP; the application protocol is
//! `libp2p`; streams are negotiated one by one with multistream-select.

mod config;
mod connection;
#[cfg(feature = "qlog")]
mod qlog;
mod socket;
mod stream;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use barewire_base::{Multiaddr, PeerId, Reservation};
use barewire_mux::Role;
use barewire_security::{
    Alert,
    tls::{self, Verdict},
};
use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, ConnectionError, Endpoint, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    udp::Transmit,
};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};

use self::config::Windows;
pub use self::config::{CongestionController, QuicConfig};
pub(crate) use self::{connection::Handle, stream::QuicStream};
use crate::{
    config::UpgradeConfig,
    connection::{Connection, ConnectionInfo, Link, now},
    error::UpgradeError,
    inbound::InboundStreams,
    tcp::source_ip,
    transports::{AcceptError, ConnectError, TransportError, io_error},
};

/// Attempts quinn keeps for us before it refuses more by itself.
const MAX_WAITING: usize = 256;
/// Bytes of early packets quinn keeps for one attempt, and for all of them.
const WAITING_BYTES: (u64, u64) = (16 * 1024, 4 * 1024 * 1024);

/// The QUIC sockets of a node.
#[derive(Debug)]
pub(crate) struct Sockets {
    config: QuicConfig,
    tls: Arc<tls::Config>,
    upgrade: Arc<UpgradeConfig>,
    windows: Windows,
    open: Mutex<Vec<Open>>,
}

/// A socket in use.
#[derive(Debug)]
struct Open {
    endpoint: Endpoint,
    socket: Arc<dyn AsyncUdpSocket>,
    addr: SocketAddr,
    /// Opened for a listener, which takes it away when it goes.
    listening: bool,
}

impl Open {
    fn reaches(&self, remote: SocketAddr) -> bool {
        let local = self.addr.ip();
        self.addr.is_ipv4() == remote.is_ipv4()
            && (local.is_unspecified() || local.is_loopback() == remote.ip().is_loopback())
    }
}

impl Sockets {
    pub(crate) fn new(
        config: QuicConfig,
        tls: Arc<tls::Config>,
        upgrade: Arc<UpgradeConfig>,
    ) -> Self {
        Self {
            windows: Windows::new(&config, upgrade.budget.clone()),
            config,
            tls,
            upgrade,
            open: Mutex::default(),
        }
    }

    /// Opens a socket that accepts connections.
    pub(crate) fn listen(self: &Arc<Self>, addr: SocketAddr) -> io::Result<QuicListener> {
        let server = self.server_config(&Verdict::default())?;
        let (endpoint, socket) = self.bind(addr, Some(server))?;
        let addr = endpoint.local_addr()?;
        self.open.lock().push(Open {
            endpoint: endpoint.clone(),
            socket,
            addr,
            listening: true,
        });
        Ok(QuicListener {
            sockets: Arc::clone(self),
            endpoint,
            addr,
            local_addr: Multiaddr::quic(addr),
        })
    }

    fn bind(
        &self,
        addr: SocketAddr,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<(Endpoint, Arc<dyn AsyncUdpSocket>)> {
        let socket = socket::bind(addr, &self.config)?;
        let (config, runtime) = (self.config.endpoint(), Arc::new(TokioRuntime));
        let endpoint =
            Endpoint::new_with_abstract_socket(config, server, Arc::clone(&socket), runtime)?;
        Ok((endpoint, socket))
    }

    /// Sends a packet that is none of QUIC to `remote` from a listening socket, so that routers on the way let answers in. One that
    /// is lost is not sent again.
    pub(crate) fn send_past(&self, remote: SocketAddr, contents: &[u8]) -> io::Result<()> {
        let socket = {
            let open = self.open.lock();
            let mut listening = open
                .iter()
                .filter(|open| open.listening && open.reaches(remote));
            listening.next().map(|open| Arc::clone(&open.socket))
        };
        socket
            .ok_or(io::ErrorKind::AddrNotAvailable)?
            .try_send(&Transmit {
                destination: remote,
                ecn: None,
                contents,
                segment_size: None,
                src_ip: None,
            })
    }

    /// The socket to dial `remote` from: a listening one that reaches it, so that the remote sees the
    /// port others can dial.
    fn endpoint_for(&self, remote: SocketAddr) -> io::Result<(Endpoint, SocketAddr)> {
        let mut open = self.open.lock();
        let candidates = || open.iter().filter(|open| open.reaches(remote));
        let found = candidates()
            .find(|open| open.listening)
            .or_else(|| candidates().next());
        if let Some(found) = found {
            return Ok((found.endpoint.clone(), found.addr));
        }
        let any: IpAddr = if remote.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let (endpoint, socket) = self.bind((any, 0).into(), None)?;
        let addr = endpoint.local_addr()?;
        open.push(Open {
            endpoint: endpoint.clone(),
            socket,
            addr,
            listening: false,
        });
        Ok((endpoint, addr))
    }

    /// Starts a handshake with `remote`.
    fn begin(
        &self,
        remote: SocketAddr,
        config: &quinn::ClientConfig,
    ) -> io::Result<(Endpoint, quinn::Connecting)> {
        // A name that is an IP address is not sent.
        let name = remote.ip().to_string();
        // A socket that listens may have broken, and one that does not; then another is opened.
        for _ in 0..3 {
            let (endpoint, addr) = self.endpoint_for(remote)?;
            match endpoint.connect_with(config.clone(), remote, &name) {
                Ok(connecting) => return Ok((endpoint, connecting)),
                Err(quinn::ConnectError::EndpointStopping) => {
                    self.open.lock().retain(|open| open.addr != addr);
                }
                Err(error) => return Err(connect_error(&error)),
            }
        }
        Err(io::ErrorKind::NotConnected.into())
    }

    /// Connects to `remote`, which is what `addr` says.
    pub(crate) async fn dial(
        &self,
        addr: &Multiaddr,
        remote: SocketAddr,
        expected: Option<PeerId>,
    ) -> Result<(Connection, InboundStreams), ConnectError> {
        let verdict = Verdict::default();
        let (transport, window) = self.windows.take();
        #[cfg(feature = "qlog")]
        let transport = qlog::traced(&self.config, transport, window.as_ref(), Role::Client);
        let mut config = self
            .client_config(expected, &verdict)
            .map_err(|error| io_error(addr, &error))?;
        config.transport_config(transport);
        let (endpoint, mut connecting) = self
            .begin(remote, &config)
            .map_err(|error| io_error(addr, &error))?;
        let end = Instant::now() + self.upgrade.total_timeout;
        match timeout_at(self.step(end), connecting.handshake_data()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(refused(&error, &verdict).into()),
            Err(_) => return Err(TransportError::Timeout(addr.clone()).into()),
        }
        let connected = timeout_at(self.step(end), connecting).await;
        let connection = finished(connected, &verdict)?;
        let mut local = endpoint
            .local_addr()
            .map_err(|error| io_error(addr, &error))?;
        if local.ip().is_unspecified()
            && let Ok(ip) = source_ip(remote)
        {
            local.set_ip(ip);
        }
        Ok(ready(self, connection, Role::Client, local, window)?)
    }

    /// When the next step of a handshake has to be done.
    fn step(&self, end: Instant) -> Instant {
        end.min(Instant::now() + self.config.handshake_timeout)
    }

    fn client_config(
        &self,
        expected: Option<PeerId>,
        verdict: &Verdict,
    ) -> io::Result<quinn::ClientConfig> {
        let alpn = vec![tls::LIBP2P.to_vec()];
        let tls = self
            .tls
            .client_config_judged(expected, alpn, verdict.clone());
        let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
        Ok(quinn::ClientConfig::new(Arc::new(crypto)))
    }

    fn server_config(&self, verdict: &Verdict) -> io::Result<quinn::ServerConfig> {
        let alpn = vec![tls::LIBP2P.to_vec()];
        let tls = self
            .tls
            .server_config_judged(alpn, verdict.clone())
            .map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server
            .migration(self.config.migration)
            .max_incoming(MAX_WAITING)
            .incoming_buffer_size(WAITING_BYTES.0)
            .incoming_buffer_size_total(WAITING_BYTES.1);
        Ok(server)
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) struct QuicListener {
    sockets: Arc<Sockets>,
    endpoint: Endpoint,
    addr: SocketAddr,
    local_addr: Multiaddr,
}

impl QuicListener {
    pub(crate) fn local_addr(&self) -> &Multiaddr {
        &self.local_addr
    }

    /// The next attempt to connect. Cancel safe.
    pub(crate) async fn accept(&mut self) -> Result<QuicIncoming, AcceptError> {
        // None once quinn has given up the socket.
        let incoming = self.endpoint.accept().await.ok_or(AcceptError::Ended)?;
        let mut local = self.addr;
        if let Some(ip) = incoming.local_ip() {
            local.set_ip(ip.to_canonical());
        }
        Ok(QuicIncoming {
            sockets: Arc::clone(&self.sockets),
            local,
            local_addr: Multiaddr::quic(local),
            remote_addr: Multiaddr::quic(incoming.remote_address()),
            incoming,
        })
    }
}

impl Drop for QuicListener {
    fn drop(&mut self) {
        // Connections keep the socket as long as they need it.
        self.endpoint.set_server_config(None);
        self.sockets
            .open
            .lock()
            .retain(|open| !(open.listening && open.addr == self.addr));
    }
}

/// An attempt of a remote to connect, of which only the first packet has been looked at.
#[derive(Debug)]
pub(crate) struct QuicIncoming {
    sockets: Arc<Sockets>,
    incoming: quinn::Incoming,
    local: SocketAddr,
    pub(crate) local_addr: Multiaddr,
    pub(crate) remote_addr: Multiaddr,
}

impl QuicIncoming {
    pub(crate) fn is_validated(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Makes the remote prove its address, if it has not done so.
    pub(crate) fn validate(self: Box<Self>) -> Result<(), Box<Self>> {
        if self.is_validated() || !self.incoming.may_retry() {
            return Err(self);
        }
        let Self {
            sockets,
            incoming,
            local,
            local_addr,
            remote_addr,
        } = *self;
        incoming.retry().map_err(|refused| {
            Box::new(Self {
                sockets,
                incoming: refused.into_incoming(),
                local,
                local_addr,
                remote_addr,
            })
        })
    }

    /// Forgets it without an answer.
    pub(crate) fn ignore(self) {
        self.incoming.ignore();
    }

    pub(crate) async fn upgrade(self) -> Result<(Connection, InboundStreams), UpgradeError> {
        let verdict = Verdict::default();
        let (transport, window) = self.sockets.windows.take();
        #[cfg(feature = "qlog")]
        let transport = qlog::traced(
            &self.sockets.config,
            transport,
            window.as_ref(),
            Role::Server,
        );
        let mut server =
            self.sockets
                .server_config(&verdict)
                .map_err(|error| UpgradeError::Io {
                    stage: STAGE,
                    kind: error.kind(),
                })?;
        server.transport_config(transport);
        let connecting = self
            .incoming
            .accept_with(Arc::new(server))
            .map_err(|error| refused(&error, &verdict))?;
        // The first packet has been read; what is left is one step.
        let end = Instant::now() + self.sockets.upgrade.total_timeout;
        let connected = timeout_at(self.sockets.step(end), connecting).await;
        ready(
            &self.sockets,
            finished(connected, &verdict)?,
            Role::Server,
            self.local,
            window,
        )
    }
}

/// Upgrade stage named in errors.
const STAGE: &str = "QUIC handshake";

fn finished(
    connected: Result<Result<quinn::Connection, ConnectionError>, tokio::time::error::Elapsed>,
    verdict: &Verdict,
) -> Result<quinn::Connection, UpgradeError> {
    match connected {
        Ok(connected) => connected.map_err(|error| refused(&error, verdict)),
        Err(_) => Err(UpgradeError::Timeout { stage: STAGE }),
    }
}

/// A connection whose handshake is done.
fn ready(
    sockets: &Sockets,
    connection: quinn::Connection,
    role: Role,
    local: SocketAddr,
    window: Option<Reservation>,
) -> Result<(Connection, InboundStreams), UpgradeError> {
    let upgrade = &sockets.upgrade;
    let identity = connection.peer_identity();
    let certificates = identity
        .as_ref()
        .and_then(|identity| identity.downcast_ref::<Vec<CertificateDer<'static>>>())
        .map_or(&[][..], Vec::as_slice);
    let public_key = tls::peer_of(certificates)
        .map_err(|error| UpgradeError::Tls(tls::Error::Certificate(error)))?;
    let info = ConnectionInfo {
        peer_id: public_key.peer_id(),
        public_key,
        role,
        local_addr: Multiaddr::quic(local),
        remote_addr: Multiaddr::quic(connection.remote_address()),
        transport: "quic-v1",
        security: tls::PROTOCOL,
        muxer: "quic",
        early_muxer: true,
        established: now(),
        limit: None,
        traffic: Arc::clone(&upgrade.traffic),
    };
    // The window is charged already; the peer's own budget counts what its streams keep.
    let admitted = upgrade.admit(info.peer_id, role, &info.remote_addr);
    let streams = sockets.config.max_incoming_streams;
    let handle = Handle::new(connection, info, window, streams);
    if let Err(reason) = admitted {
        handle.0.close(reason.clone());
        return Err(UpgradeError::Refused(reason));
    }
    let connection = Connection(Link::Quic(Arc::new(handle)));
    Ok((connection.clone(), InboundStreams::new(connection)))
}

/// Why quinn gave up a handshake, in our words.
fn refused(error: &ConnectionError, verdict: &Verdict) -> UpgradeError {
    if let Some(refusal) = verdict.refusal() {
        return UpgradeError::Tls(tls::Error::Certificate(refusal));
    }
    let io = |kind| UpgradeError::Io { stage: STAGE, kind };
    match error {
        ConnectionError::TransportError(error) => match alert(error.code.into()) {
            Some(120) => UpgradeError::Tls(tls::Error::NoApplicationProtocol),
            Some(116) => UpgradeError::Tls(tls::Error::NoCertificate),
            Some(_) => UpgradeError::Tls(tls::Error::Misbehaved(error.reason.clone())),
            None => UpgradeError::Quic(error.code.into()),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
            Some(alert) => UpgradeError::Tls(tls::Error::Alert(Alert(alert.into()))),
            None if u64::from(close.error_code) == CONNECTION_REFUSED => {
                io(io::ErrorKind::ConnectionRefused)
            }
            None => UpgradeError::Quic(close.error_code.into()),
        },
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => {
            io(io::ErrorKind::ConnectionReset)
        }
        ConnectionError::TimedOut => UpgradeError::Timeout { stage: STAGE },
        ConnectionError::VersionMismatch => io(io::ErrorKind::Unsupported),
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
            io(io::ErrorKind::ConnectionAborted)
        }
    }
}

/// RFC 9000, 20.1.
const CONNECTION_REFUSED: u64 = 2;

/// The TLS alert within a transport error code, RFC 9001, 4.8.
fn alert(code: u64) -> Option<u8> {
    u8::try_from(code.checked_sub(0x100)?).ok()
}

fn connect_error(error: &quinn::ConnectError) -> io::Error {
    let kind = match error {
        quinn::ConnectError::InvalidRemoteAddress(_) => io::ErrorKind::InvalidInput,
        quinn::ConnectError::CidsExhausted => io::ErrorKind::QuotaExceeded,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::{Budget, Keypair};

    use super::*;
    use crate::Security;

    fn sockets() -> Arc<Sockets> {
        let keypair = Keypair::generate(&mut rand::rng());
        let tls = tls::Config::new(&keypair, Vec::new(), &mut rand::rng()).unwrap();
        let tls = Arc::new(tls);
        let security = vec![Security::Tls(Arc::clone(&tls))];
        let upgrade = UpgradeConfig::new(security, Budget::unlimited());
        let config = QuicConfig::default();
        Arc::new(Sockets::new(config, tls, Arc::new(upgrade)))
    }

    fn break_all(sockets: &Sockets) {
        for open in sockets.open.lock().iter() {
            open.endpoint.close(0u32.into(), b"");
        }
    }

    #[tokio::test]
    async fn a_broken_socket_ends_its_listener_and_no_dial() {
        let (near, far) = (sockets(), sockets());
        let any = "127.0.0.1:0".parse().unwrap();
        let mut listener = far.listen(any).unwrap();
        let (remote, addr) = (listener.addr, listener.local_addr().clone());
        tokio::spawn(async move {
            while let Ok(incoming) = listener.accept().await {
                tokio::spawn(incoming.upgrade());
            }
        });
        let mut own = near.listen(any).unwrap();
        near.dial(&addr, remote, None).await.unwrap();
        break_all(&near);
        assert!(matches!(own.accept().await, Err(AcceptError::Ended)));
        // From a new socket, which breaks too.
        near.dial(&addr, remote, None).await.unwrap();
        break_all(&near);
        near.dial(&addr, remote, None).await.unwrap();
        assert_eq!(near.open.lock().len(), 1);
    }
}
