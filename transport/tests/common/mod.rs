//! Two connected ends, over a byte stream or QUIC.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test files that do not use all of it"
)]

use std::sync::Arc;

use barewire_base::{Budget, Keypair, PeerId};
use barewire_security::{noise, tls};
use barewire_transport::{
    ConnectError, Connection, InboundStreams, Security, TransportConfig, Transports, UpgradeConfig,
    UpgradeError, quic::QuicConfig, upgrade_inbound, upgrade_outbound,
};

pub const ECHO: &str = "/test/echo/1.0.0";

pub type End = (Connection, InboundStreams);

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Noise and yamux over a pipe.
    Yamux,
    /// TLS and yamux over a pipe.
    Tls,
    /// QUIC over loopback.
    Quic,
}

pub fn config(seed: u8) -> (UpgradeConfig, PeerId) {
    let keypair = Keypair::from_seed(&[seed; 32]);
    let muxers = vec!["/yamux/1.0.0".into()];
    let noise = noise::Config::new(&keypair, muxers, &mut rand::rng()).unwrap();
    (
        UpgradeConfig::new(vec![Security::Noise(Arc::new(noise))], Budget::unlimited()),
        keypair.peer_id(),
    )
}

/// The same with TLS instead of Noise.
pub fn tls_config(seed: u8) -> (UpgradeConfig, PeerId) {
    let (mut config, peer) = config(seed);
    config.security = vec![tls_security(seed, &["/yamux/1.0.0"])];
    (config, peer)
}

pub fn tls_security(seed: u8, muxers: &[&str]) -> Security {
    let keypair = Keypair::from_seed(&[seed; 32]);
    let muxers = muxers.iter().map(|muxer| Arc::from(*muxer)).collect();
    Security::Tls(Arc::new(
        tls::Config::new(&keypair, muxers, &mut rand::rng()).unwrap(),
    ))
}

/// Transports of the identity with this seed that speak QUIC too.
pub fn transports(seed: u8, quic: QuicConfig) -> (Transports, PeerId) {
    let (upgrade, peer) = config(seed);
    let keypair = Keypair::from_seed(&[seed; 32]);
    let mut transport = TransportConfig::default();
    transport.quic = quic;
    transport.tls = Some(Arc::new(
        tls::Config::new(&keypair, Vec::new(), &mut rand::rng()).unwrap(),
    ));
    (Transports::new(upgrade, transport), peer)
}

/// Dials over QUIC, expecting `expected`.
pub async fn dial_quic(
    expected: Option<PeerId>,
) -> (Result<End, ConnectError>, Result<End, UpgradeError>) {
    let (client, _) = transports(1, QuicConfig::default());
    let (server, _) = transports(2, QuicConfig::default());
    let any = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
    let mut listener = server.listen(&any).unwrap();
    let addr = listener.local_addr().clone();
    tokio::join!(client.dial(&addr, expected), async {
        listener.accept().await.unwrap().upgrade().await
    })
}

/// Client and server; a pipe holds `capacity` bytes each way.
pub async fn pair(over: Over, capacity: usize) -> (End, End) {
    let config = if over == Over::Tls {
        tls_config
    } else {
        config
    };
    let (server, server_id) = config(2);
    if over == Over::Quic {
        let (dialled, accepted) = dial_quic(Some(server_id)).await;
        return (dialled.unwrap(), accepted.unwrap());
    }
    let (near, far) = tokio::io::duplex(capacity);
    let (client, _) = config(1);
    let (dialled, accepted) = tokio::join!(
        upgrade_outbound(near, &client, Some(server_id)),
        upgrade_inbound(far, &server)
    );
    (dialled.unwrap(), accepted.unwrap())
}

/// Echoes every stream until the connection ends.
pub fn serve_echo(mut streams: InboundStreams) {
    tokio::spawn(async move {
        while let Some(inbound) = streams.accept().await {
            tokio::spawn(async move {
                let Ok(mut stream) = inbound
                    .negotiate(|id| (id == ECHO).then(|| ECHO.into()))
                    .await
                else {
                    return;
                };
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX).await {
                    if stream.write_chunk(chunk).await.is_err() {
                        return;
                    }
                }
                stream.finish().ok();
            });
        }
    });
}
