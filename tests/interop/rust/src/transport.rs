//! TCP, QUIC and WebSocket, with Noise or TLS, and yamux.

use barewire_peer_cli::{Failure, StackOptions};
use futures::future::Either;
use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, OrTransport},
        upgrade::Version,
    },
    dns, identity, noise, quic, relay, tcp, tls, websocket, yamux,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::counted::{Counted, Written};

pub(crate) type Muxed = Boxed<(PeerId, StreamMuxerBox)>;

/// Secures and multiplexes a raw transport; a macro because every security choice is a type of its own.
macro_rules! upgraded {
    ($raw:expr, $security:expr) => {
        $raw.upgrade(Version::V1Lazy)
            .authenticate($security)
            .multiplex(yamux::Config::default())
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed()
    };
}

macro_rules! secured {
    ($raw:expr, $key:expr, $options:expr) => {
        match $options.security.as_str() {
            "tls" => upgraded!($raw, tls::Config::new($key)?),
            _ => upgraded!($raw, noise::Config::new($key)?),
        }
    };
}

/// Builds only what the addresses need, so that a measured TCP connection carries nothing else.
pub(crate) fn build(
    key: &identity::Keypair,
    options: &StackOptions,
    addrs: &[String],
) -> Result<Muxed, Failure> {
    let tcp = || tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let mut transport: Muxed = secured!(tcp(), key, options);
    if addrs.iter().any(|addr| addr.contains("/ws")) {
        let mut ws = websocket::Config::new(tcp());
        ws.set_tls_config(wss(options)?);
        // The other way round TCP would take the address and leave out the WebSocket.
        transport = join(secured!(ws, key, options), transport);
    }
    if addrs.iter().any(|addr| addr.contains("/quic-v1")) {
        let quic = quic::tokio::Transport::new(quic::Config::new(key))
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
            .boxed();
        transport = join(quic, transport);
    }
    if addrs.iter().any(|addr| addr.contains("/dns")) {
        transport = dns::tokio::Transport::system(transport)?.boxed();
    }
    Ok(transport)
}

/// What dials and listens through relays, and its behaviour.
pub(crate) fn circuits(
    key: &identity::Keypair,
    options: &StackOptions,
) -> Result<(Muxed, Option<relay::client::Behaviour>), Failure> {
    let (raw, behaviour) = relay::client::new(key.public().to_peer_id());
    Ok((secured!(raw, key, options), Some(behaviour)))
}

/// The certificate to listen with on wss and the one to trust when dialling it.
fn wss(options: &StackOptions) -> Result<websocket::tls::Config, Failure> {
    let mut tls = websocket::tls::Config::builder();
    if let (Some(cert), Some(key)) = (&options.ws_cert, &options.ws_key) {
        let key = PrivateKeyDer::from_pem_file(key)?;
        let chain = CertificateDer::pem_file_iter(cert)?
            .map(|cert| Ok(websocket::tls::Certificate::new(cert?.to_vec())))
            .collect::<Result<Vec<_>, Failure>>()?;
        tls.server(
            websocket::tls::PrivateKey::new(key.secret_der().to_vec()),
            chain,
        )?;
    }
    if let Some(trusted) = &options.ws_ca {
        let trusted = CertificateDer::from_pem_file(trusted)?;
        tls.add_trust(&websocket::tls::Certificate::new(trusted.to_vec()))?;
    }
    Ok(tls.finish())
}

/// Counts what is written to the streams.
pub(crate) fn counted(transport: Muxed, written: Written) -> Muxed {
    transport
        .map(move |(peer, muxer), _| {
            (
                peer,
                StreamMuxerBox::new(Counted::new(muxer, written.clone())),
            )
        })
        .boxed()
}

pub(crate) fn join(first: Muxed, second: Muxed) -> Muxed {
    OrTransport::new(first, second)
        .map(|either, _| match either {
            Either::Left(connected) | Either::Right(connected) => connected,
        })
        .boxed()
}
