//! TCP over IPv4 and IPv6.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use barewire_base::Multiaddr;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::transports::{AcceptError, RawConnection};

/// Settings of TCP sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpConfig {
    /// Disables Nagle's algorithm. Default true: frames are coalesced before they are sealed.
    pub nodelay: bool,
    /// Receive buffer in bytes; `None` leaves the kernel's auto-tuning on. Default `None`.
    pub receive_buffer: Option<usize>,
    /// Send buffer in bytes; `None` leaves the kernel's auto-tuning on. Default `None`.
    pub send_buffer: Option<usize>,
    /// Unsent bytes the kernel may hold before the socket stops taking more, so that a small
    /// message does not wait behind bulk. Linux only. Default 128 KiB (measured).
    pub unsent_low_water: Option<u32>,
    /// Connections the kernel queues before they are accepted. Default 1024, as rust-libp2p.
    pub backlog: u32,
    /// Deadline of connecting. Default 5 s, as go-libp2p.
    pub connect_timeout: Duration,
    /// Dials from a port that is listened on where one fits, so that the remote and the routers on
    /// the way see the port others can dial. Of two nodes only one does, and only where it knows the
    /// other's id, so that their dials cannot meet half way in one TCP connection with two dialling
    /// ends. Who dials others back to learn whether they can be reached must not do it. Default true, as
    /// go-libp2p and rust-libp2p.
    pub reuse_port: bool,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            nodelay: true,
            receive_buffer: None,
            send_buffer: None,
            unsent_low_water: Some(128 * 1024),
            backlog: 1024,
            connect_timeout: Duration::from_secs(5),
            reuse_port: true,
        }
    }
}

impl TcpConfig {
    fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        self.size_buffers(socket)?;
        #[cfg(target_os = "linux")]
        if let Some(bytes) = self.unsent_low_water {
            socket.set_tcp_notsent_lowat(bytes)?;
        }
        Ok(())
    }

    /// Before connecting or listening, so that the window scale fits the buffer.
    fn size_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        Ok(())
    }
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct TcpListener {
    inner: tokio::net::TcpListener,
    local_addr: Multiaddr,
    config: TcpConfig,
    /// Dials may leave from here.
    port: Option<Port>,
}

impl TcpListener {
    /// Listens on `addr`; port 0 lets the system choose. An IPv6 socket takes IPv6 only, so that
    /// both families can share a port. Must be called within a tokio runtime.
    pub fn bind(addr: SocketAddr, config: &TcpConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restarted node takes its port back at once.
        socket.set_reuse_address(true)?;
        config.size_buffers(&SockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
        // Dials may be bound to the port too. Not before it is taken: two nodes must not share it.
        #[cfg(unix)]
        if config.reuse_port {
            socket.set_reuse_port(true)?;
        }
        let inner = tokio::net::TcpListener::from_std(socket.into())?;
        Ok(Self {
            local_addr: Multiaddr::tcp(inner.local_addr()?),
            inner,
            config: config.clone(),
            port: None,
        })
    }

    /// Lets dials leave from its port.
    pub(crate) fn share(mut self, ports: &Arc<Ports>) -> io::Result<Self> {
        if self.config.reuse_port {
            self.port = Some(ports.add(self.inner.local_addr()?));
        }
        Ok(self)
    }

    /// Address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> &Multiaddr {
        &self.local_addr
    }

    /// The next connection. Cancel safe.
    pub async fn accept(&mut self) -> Result<RawConnection, AcceptError> {
        match self.inner.accept().await {
            Ok((stream, _)) => Ok(raw(stream, &self.config)?),
            // The socket listens no more.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(AcceptError::Ended),
            Err(error) => Err(error.into()),
        }
    }
}

/// Connects to `addr`. Cancel safe. The caller sets the deadline.
pub async fn connect(addr: SocketAddr, config: &TcpConfig) -> io::Result<RawConnection> {
    raw(open(addr, None, config).await?, config)
}

/// As [`connect`], from `local`, which is listened on; from another port where that cannot be.
pub(crate) async fn connect_from(
    local: SocketAddr,
    addr: SocketAddr,
    config: &TcpConfig,
) -> io::Result<RawConnection> {
    raw(open_from(Some(local), addr, config).await?, config)
}

/// The socket of [`connect_from`], or of [`connect`].
pub(crate) async fn open_from(
    local: Option<SocketAddr>,
    addr: SocketAddr,
    config: &TcpConfig,
) -> io::Result<TcpStream> {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable};
    if local.is_some() {
        match open(addr, local, config).await {
            // Who is dialled at the port that is dialled from is this socket itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {}
            // There is such a connection, or was a moment ago.
            Err(error) if matches!(error.kind(), AddrInUse | AddrNotAvailable) => {}
            opened => return opened,
        }
    }
    open(addr, None, config).await
}

async fn open(
    addr: SocketAddr,
    local: Option<SocketAddr>,
    config: &TcpConfig,
) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    config.size_buffers(&SockRef::from(&socket))?;
    if let Some(local) = local {
        socket.set_reuseaddr(true)?;
        #[cfg(unix)]
        socket.set_reuseport(true)?;
        socket.bind(local)?;
    }
    socket.connect(addr).await
}

/// The addresses that are listened on, to dial from.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<Vec<SocketAddr>>);

impl Ports {
    /// Notes a listener until the returned value is dropped.
    pub(crate) fn add(self: &Arc<Self>, local: SocketAddr) -> Port {
        self.0.lock().push(local);
        Port {
            ports: Arc::clone(self),
            local,
        }
    }

    /// What to dial `remote` from.
    pub(crate) fn towards(&self, remote: SocketAddr) -> Option<SocketAddr> {
        let ports = self.0.lock();
        let mut ports = ports
            .iter()
            .filter(|local| local.is_ipv4() == remote.is_ipv4());
        // With another source than that of the route answers may not find back.
        let source = ports.clone().next().and_then(|_| source_ip(remote).ok());
        let fits = |local: &&SocketAddr| {
            local.ip().is_unspecified() || source.is_some_and(|source| source == local.ip())
        };
        ports.find(fits).copied()
    }
}

/// A port in [`Ports`].
#[derive(Debug)]
pub(crate) struct Port {
    ports: Arc<Ports>,
    local: SocketAddr,
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut ports = self.ports.0.lock();
        if let Some(at) = ports.iter().position(|local| *local == self.local) {
            ports.swap_remove(at);
        }
    }
}

/// The address packets to `remote` leave from. Sends nothing.
pub(crate) fn source_ip(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let probe = std::net::UdpSocket::bind((any, 0))?;
    probe.connect(remote)?;
    Ok(probe.local_addr()?.ip())
}

pub(crate) fn raw(stream: TcpStream, config: &TcpConfig) -> io::Result<RawConnection> {
    config.apply(&SockRef::from(&stream))?;
    let local_addr = Multiaddr::tcp(stream.local_addr()?);
    let remote_addr = Multiaddr::tcp(stream.peer_addr()?);
    // Owned halves read and write without a lock between them.
    let (reader, writer) = stream.into_split();
    Ok(RawConnection {
        reader: Box::new(reader),
        writer: Box::new(writer),
        local_addr,
        remote_addr,
        transport: "tcp",
        limit: None,
        copied: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_dial_does_not_meet_itself() {
        let config = TcpConfig::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let mut listener = TcpListener::bind(any, &config).unwrap();
        let (own, _) = listener.local_addr().to_tcp().unwrap();
        let (near, far) = tokio::join!(connect_from(own, own, &config), listener.accept());
        let (near, far) = (near.unwrap(), far.unwrap());
        assert_ne!(near.local_addr(), near.remote_addr());
        assert_eq!(near.local_addr(), far.remote_addr());
    }

    #[test]
    fn the_port_fits_the_way() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let ports = Arc::new(Ports::default());
        let local = ports.add(addr("127.0.0.1:7"));
        assert_eq!(
            ports.towards(addr("127.0.0.1:9")),
            Some(addr("127.0.0.1:7"))
        );
        assert_eq!(ports.towards(addr("[::1]:9")), None);
        assert_eq!(ports.towards(addr("203.0.113.1:9")), None);
        let all = ports.add(addr("0.0.0.0:8"));
        assert_eq!(
            ports.towards(addr("203.0.113.1:9")),
            Some(addr("0.0.0.0:8"))
        );
        drop((local, all));
        assert_eq!(ports.towards(addr("127.0.0.1:9")), None);
    }
}
