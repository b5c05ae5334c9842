//! TCP over IPv4 and IPv6.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use barewire_base::Multiaddr;
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
        let inner = tokio::net::TcpListener::from_std(socket.into())?;
        Ok(Self {
            local_addr: Multiaddr::tcp(inner.local_addr()?),
            inner,
            config: config.clone(),
        })
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
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    config.size_buffers(&SockRef::from(&socket))?;
    raw(socket.connect(addr).await?, config)
}

fn raw(stream: TcpStream, config: &TcpConfig) -> io::Result<RawConnection> {
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
        copied: Arc::default(),
    })
}
