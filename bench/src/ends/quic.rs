//! quinn by itself: barewire's certificates, windows and congestion controller, and nothing above its streams.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_security::tls::LIBP2P;
use barewire_transport::quic::{CongestionController, QuicConfig};
use bytes::Bytes;
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt, congestion,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{arrived, tls};

/// Bytes of one write.
const BLOCK: usize = 256 * 1024;
/// Bytes of one round trip, as in libp2p's ping.
const PING: usize = 32;

/// What barewire tells quinn, see its `QuicConfig`.
fn transport(mtu: u16) -> Arc<TransportConfig> {
    let ours = QuicConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IdleTimeout::try_from(ours.idle_timeout).ok())
        .keep_alive_interval(Some(ours.keep_alive))
        .max_concurrent_bidi_streams(ours.max_incoming_streams.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .receive_window(ours.receive_window.into())
        .stream_receive_window((ours.receive_window / 4 * 3).into())
        .send_window(ours.send_window.into())
        .mtu_discovery_config(Some(discovery));
    match ours.congestion {
        CongestionController::Cubic => {
            transport.congestion_controller_factory(Arc::new(congestion::CubicConfig::default()))
        }
        _ => transport.congestion_controller_factory(Arc::new(congestion::BbrConfig::default())),
    };
    Arc::new(transport)
}

fn endpoint(mtu: u16, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    let wanted = QuicConfig::default().socket_buffer;
    socket.set_recv_buffer_size(wanted)?;
    socket.set_send_buffer_size(wanted)?;
    socket.bind(&addr.into())?;
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(mtu.max(1_472))
        .map_err(io::Error::other)?;
    Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))
}

/// A socket that accepts connections.
pub(super) fn listen(mtu: u16) -> io::Result<Endpoint> {
    let tls = tls::config()?.server_config(vec![LIBP2P.to_vec()]);
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport(mtu));
    endpoint(mtu, Some(server))
}

async fn connect(to: SocketAddr, mtu: u16) -> io::Result<(Endpoint, Connection)> {
    let tls = tls::config()?.client_config(None, vec![LIBP2P.to_vec()]);
    let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport(mtu));
    let endpoint = endpoint(mtu, None)?;
    let connecting = endpoint
        .connect_with(client, to, &to.ip().to_string())
        .map_err(io::Error::other)?;
    Ok((endpoint, connecting.await?))
}

/// Calls `serve` with each stream of each connection.
async fn accept<F>(
    endpoint: Endpoint,
    serve: impl Fn(quinn::SendStream, quinn::RecvStream) -> F + Copy + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            while let Ok((send, recv)) = connection.accept_bi().await {
                tokio::spawn(serve(send, recv));
            }
            Ok::<_, io::Error>(())
        });
    }
    Ok(())
}

/// Receives each stream until its end, then answers with the count.
pub(super) async fn sink(endpoint: Endpoint) -> io::Result<()> {
    accept(endpoint, async |mut send, mut recv| {
        let mut total = 0_u64;
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
            total += chunk.bytes.len() as u64;
        }
        send.write_all(&total.to_be_bytes()).await?;
        send.finish().map_err(io::Error::other)
    })
    .await
}

/// Sends `bytes` and waits until the other side has them all.
pub(super) async fn send(to: SocketAddr, mtu: u16, bytes: u64) -> io::Result<Duration> {
    let (_endpoint, connection) = connect(to, mtu).await?;
    let block = Bytes::from(vec![0; BLOCK]);
    let start = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await?;
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BLOCK as u64);
        send.write_chunk(block.slice(..n as usize)).await?;
        left -= n;
    }
    send.finish().map_err(io::Error::other)?;
    let mut count = [0; 8];
    recv.read_exact(&mut count)
        .await
        .map_err(io::Error::other)?;
    arrived(bytes, u64::from_be_bytes(count), start)
}

/// Echoes single pings.
pub(super) async fn pong(endpoint: Endpoint) -> io::Result<()> {
    accept(endpoint, async |mut send, mut recv| {
        let mut ping = [0; PING];
        while recv.read_exact(&mut ping).await.is_ok() {
            send.write_all(&ping).await?;
        }
        Ok(())
    })
    .await
}

/// Times of `count` round trips on one stream, in order.
pub(super) async fn ping(to: SocketAddr, mtu: u16, count: usize) -> io::Result<Vec<Duration>> {
    let (_endpoint, connection) = connect(to, mtu).await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    let mut times = Vec::with_capacity(count);
    let mut ping = [0; PING];
    for _ in 0..count {
        let start = Instant::now();
        send.write_all(&ping).await?;
        recv.read_exact(&mut ping).await.map_err(io::Error::other)?;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Opens `count` connections, which live as long as the result.
pub(super) async fn hold(to: SocketAddr, mtu: u16, count: usize) -> io::Result<impl Sized> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(connect(to, mtu).await?);
    }
    Ok(held)
}
