//! WebSocket, plain and over TLS, as a byte stream for the upgrade.
//!
//! | address | what |
//! |---|---|
//! | `/ip4/…/tcp/…/ws` | WebSocket over TCP |
//! | `/ip4/…/tcp/…/tls/ws`, `/ip4/…/tcp/…/wss` | the same over TLS; the certificate is that of the IP address |
//! | `/ip4/…/tcp/…/tls/sni/NAME/ws` | the same; the certificate is that of `NAME` |
//!
//! The WebSocket is trusted for nothing: Noise or TLS with libp2p's certificates runs inside, also
//! inside TLS. Binary frames only, never compressed, never collected into messages. The opening
//! handshake uses tungstenite, TLS is rustls; frames are own code, for the reasons [`frame`] gives.

pub mod frame;
pub mod head;
mod socket;
mod tls;

use std::{future::Future, net::SocketAddr, time::Duration};

use barewire_base::{Multiaddr, Protocol};
use barewire_mux::Role;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

pub use frame::FrameError;
pub use head::HandshakeError;
pub(crate) use socket::Copied;
pub use tls::{Certificate, PemError, Roots};

use crate::{driver::BoxReader, transmit::BoxWriter, transports::RawConnection};

/// First read of a handshake; every head of the known implementations fits.
const READ: usize = 1024;
/// How long a remote whose request is refused may take to read why.
const REFUSAL: Duration = Duration::from_secs(1);

/// Settings of WebSockets.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WsConfig {
    /// Origins whose web pages may open a WebSocket, as browsers write them
    /// (`https://app.example`); requests without an origin always pass, since they come from no web
    /// page. `None`, the default, allows all, as go-libp2p and rust-libp2p do: the peer proves its
    /// identity inside.
    pub origins: Option<Vec<String>>,
    /// Certificate to listen with on `/tls/ws` addresses. Default `None`.
    pub certificate: Option<Certificate>,
    /// Authorities that may certify the servers of dialled `/tls/ws` addresses. Default: those of
    /// the system.
    pub roots: Roots,
    /// Longest payload of a frame, in bytes. Default 256 MiB, as rust-libp2p; nothing of that size
    /// is ever held.
    pub max_frame: u64,
    /// Frames without data (empty ones, pings, pongs) that may come in a second. Default 128 (own
    /// choice: known implementations send none).
    pub max_idle_frames_per_second: u32,
    /// Time between pings sent to keep proxies from closing an idle connection. Default `None`, as
    /// everyone: the muxer has a keepalive of its own.
    pub ping_interval: Option<Duration>,
    /// Deadline of the opening handshake, TLS included; progress does not extend it. Default 10 s.
    pub handshake_timeout: Duration,
}

impl Default for WsConfig {
    fn default() -> Self {
        Self {
            origins: None,
            certificate: None,
            roots: Roots::default(),
            max_frame: 256 * 1024 * 1024,
            max_idle_frames_per_second: 128,
            ping_interval: None,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// A WebSocket address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WsAddr {
    pub(crate) socket: SocketAddr,
    pub(crate) secure: bool,
    sni: Option<String>,
    /// What follows the TCP port, without a peer id.
    suffix: Multiaddr,
}

impl WsAddr {
    /// Reads `/ip4|ip6/…/tcp/…` with one of the suffixes above and perhaps `/p2p/…`; `None` for any
    /// other shape.
    pub(crate) fn of(addr: &Multiaddr) -> Option<Self> {
        let mut parts = addr.iter().filter(|part| !matches!(part, Protocol::P2p(_)));
        let ip = match parts.next()? {
            Protocol::Ip4(ip) => ip.into(),
            Protocol::Ip6(ip) => ip.into(),
            _ => return None,
        };
        let Protocol::Tcp(port) = parts.next()? else {
            return None;
        };
        let mut suffix = Multiaddr::empty();
        let rest: Vec<_> = parts.collect();
        let (secure, sni) = match rest.as_slice() {
            [Protocol::Ws] => (false, None),
            [Protocol::Wss] | [Protocol::Tls, Protocol::Ws] => (true, None),
            [Protocol::Tls, Protocol::Sni(name), Protocol::Ws] => (true, Some(name.to_string())),
            _ => return None,
        };
        for part in rest {
            suffix.push(part).ok()?;
        }
        Some(Self {
            socket: SocketAddr::new(ip, port),
            secure,
            sni,
            suffix,
        })
    }

    /// The address of `tcp` with this address's suffix, without a name that is another host's.
    pub(crate) fn over(&self, tcp: &Multiaddr, with_name: bool) -> Multiaddr {
        let mut addr = tcp.clone();
        for part in &self.suffix {
            if with_name || !matches!(part, Protocol::Sni(_)) {
                // A few bytes on an address of eight or twenty are within every limit.
                drop(addr.push(part));
            }
        }
        addr
    }

    /// Labels a TCP connection as what a WebSocket at this address runs on. The side that dialled
    /// knows the other one by the name it dialled.
    pub(crate) fn below(&self, raw: RawConnection, dialled: bool) -> RawConnection {
        RawConnection {
            local_addr: self.over(&raw.local_addr, !dialled),
            remote_addr: self.over(&raw.remote_addr, dialled),
            transport: if self.secure { "wss" } else { "ws" },
            ..raw
        }
    }

    /// Host and port as the request names them.
    fn host(&self) -> String {
        match &self.sni {
            Some(name) => format!("{name}:{}", self.socket.port()),
            None => self.socket.to_string(),
        }
    }
}

/// Makes a WebSocket of a byte stream that the remote opened and [`WsAddr::below`] has labelled.
pub(crate) async fn accept(
    raw: RawConnection,
    secure: bool,
    config: &WsConfig,
) -> Result<RawConnection, HandshakeError> {
    let mut raw = raw;
    in_time(config, async {
        if secure {
            raw = tls::accept(raw, config.certificate.as_ref()).await?;
        }
        let mut io = Io(&mut raw.reader, &mut raw.writer);
        let answer = match io.read_head().await {
            Ok((head, surplus)) if surplus.is_empty() => {
                head::accept(&head, config.origins.as_deref())
            }
            Ok(_) => Err(HandshakeError::EarlyData),
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => io.send(&answer).await?,
            Err(error) => {
                io.refuse(&error).await;
                return Err(error);
            }
        }
        Ok(wrap(raw, Role::Server, BytesMut::new(), config))
    })
    .await
}

/// Asks for a WebSocket on a byte stream that this side opened.
pub(crate) async fn connect(
    raw: RawConnection,
    addr: &WsAddr,
    config: &WsConfig,
) -> Result<RawConnection, HandshakeError> {
    let mut raw = addr.below(raw, true);
    in_time(config, async {
        if addr.secure {
            let name = match &addr.sni {
                Some(name) => name.clone(),
                None => addr.socket.ip().to_string(),
            };
            raw = tls::connect(raw, &name, &config.roots).await?;
        }
        let mut io = Io(&mut raw.reader, &mut raw.writer);
        let key = generate_key();
        io.send(&head::request(&addr.host(), &key)).await?;
        let (head, surplus) = io.read_head().await?;
        head::check_answer(&head, &key)?;
        Ok(wrap(raw, Role::Client, surplus, config))
    })
    .await
}

async fn in_time<T>(
    config: &WsConfig,
    work: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(config.handshake_timeout, work)
        .await
        .unwrap_or(Err(HandshakeError::Timeout))
}

fn wrap(raw: RawConnection, role: Role, surplus: BytesMut, config: &WsConfig) -> RawConnection {
    let limits = frame::Limits {
        max_frame: config.max_frame,
        max_idle_frames_per_second: config.max_idle_frames_per_second,
    };
    let (reader, writer) = socket::halves(
        raw.reader,
        raw.writer,
        role,
        surplus,
        limits,
        config.ping_interval,
        raw.copied.clone(),
    );
    RawConnection {
        reader: Box::new(reader) as BoxReader,
        writer: Box::new(writer) as BoxWriter,
        ..raw
    }
}

/// The byte stream of a handshake.
struct Io<'a, R, W>(&'a mut R, &'a mut W);

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Io<'_, R, W> {
    /// A whole head, and what came behind it.
    async fn read_head(&mut self) -> Result<(BytesMut, BytesMut), HandshakeError> {
        let mut buf = BytesMut::new();
        let mut searched = 0;
        loop {
            buf.reserve(READ);
            if self.0.read_buf(&mut buf).await.map_err(io_error)? == 0 {
                return Err(HandshakeError::Io(std::io::ErrorKind::UnexpectedEof));
            }
            if let Some(end) = head::find_end(&buf, searched)? {
                let surplus = buf.split_off(end);
                return Ok((buf, surplus));
            }
            searched = buf.len();
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.1.write_all(bytes).await.map_err(io_error)?;
        self.1.flush().await.map_err(io_error)
    }

    /// Tells a client why it is refused. A socket closed with unread input would take the answer
    /// back, so what still comes is read for a moment.
    async fn refuse(&mut self, error: &HandshakeError) {
        let Some(answer) = error.answer() else { return };
        let said = async {
            self.send(answer).await?;
            self.1.shutdown().await.map_err(io_error)?;
            let mut scratch = [0; 4096];
            while self.0.read(&mut scratch).await.map_err(io_error)? > 0 {}
            Ok::<_, HandshakeError>(())
        };
        // Whether it was heard changes nothing.
        drop(tokio::time::timeout(REFUSAL, said).await);
    }
}

fn io_error(error: std::io::Error) -> HandshakeError {
    HandshakeError::Io(error.kind())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses() {
        let read = |text: &str| WsAddr::of(&text.parse().unwrap());
        let peer = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";
        for (text, secure, host) in [
            ("/ip4/127.0.0.1/tcp/80/ws", false, "127.0.0.1:80"),
            ("/ip6/::1/tcp/80/ws", false, "[::1]:80"),
            ("/ip4/127.0.0.1/tcp/443/wss", true, "127.0.0.1:443"),
            ("/ip4/127.0.0.1/tcp/443/tls/ws", true, "127.0.0.1:443"),
            ("/ip4/127.0.0.1/tcp/443/tls/sni/a.b/ws", true, "a.b:443"),
        ] {
            for text in [text.to_owned(), format!("{text}/p2p/{peer}")] {
                let addr = read(&text).unwrap();
                assert_eq!((addr.secure, addr.host().as_str()), (secure, host));
            }
        }
        for text in [
            "/ip4/127.0.0.1/tcp/80",
            "/ip4/127.0.0.1/udp/80/ws",
            "/ip4/127.0.0.1/tcp/80/ws/ws",
            "/ip4/127.0.0.1/tcp/80/tls",
            "/dns4/a.b/tcp/80/ws",
            "/ip4/127.0.0.1/tcp/80/sni/a.b/ws",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let named = read("/ip4/127.0.0.1/tcp/443/tls/sni/a.b/ws").unwrap();
        let tcp = "/ip4/10.0.0.1/tcp/7".parse().unwrap();
        assert_eq!(
            named.over(&tcp, true).to_string(),
            "/ip4/10.0.0.1/tcp/7/tls/sni/a.b/ws"
        );
        assert_eq!(
            named.over(&tcp, false).to_string(),
            "/ip4/10.0.0.1/tcp/7/tls/ws"
        );
    }
}
