//! tokio-rustls over TCP without a muxer, with the certificates, ciphers and checks of barewire's own TLS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use barewire_base::Keypair;
use barewire_security::tls::Config;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::raw;

/// Settings with a fresh identity.
pub(super) fn config() -> io::Result<Config> {
    let mut rng = rand::rng();
    let identity = Keypair::generate(&mut rng);
    Config::new(&identity, Vec::new(), &mut rng).map_err(io::Error::other)
}

/// Receives until the end, then answers with the count.
pub(super) async fn sink(listener: TcpListener) -> io::Result<()> {
    let config = config()?;
    let acceptor = TlsAcceptor::from(Arc::new(config.server_config(config.stream_alpn())));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let accepting = acceptor.accept(socket);
        tokio::spawn(async move { raw::count(accepting.await?).await });
    }
}

/// Sends `bytes` and waits until the other side has opened them all.
pub(super) async fn send(to: SocketAddr, bytes: u64) -> io::Result<Duration> {
    let config = config()?;
    let client = config.client_config(None, config.stream_alpn());
    let socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::from(to.ip());
    let stream = TlsConnector::from(Arc::new(client))
        .connect(name, socket)
        .await?;
    raw::push(stream, bytes).await
}
