//! Connections over WebSocket, plain and secure, and in private networks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use barewire_base::{Budget, Keypair, Multiaddr, PeerId};
use barewire_security::noise;
use barewire_transport::{
    CloseReason, ConnectError, Connection, InboundStreams, Listener, Security, TransportConfig,
    TransportError, Transports, UpgradeConfig, UpgradeError,
    pnet::Psk,
    ws::{Certificate, HandshakeError, Roots},
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ECHO: &str = "/test/echo/1.0.0";

/// What a test changes on one end.
#[derive(Default)]
struct Setup {
    psk: Option<[u8; 32]>,
    transport: TransportConfig,
}

fn transports(seed: u8, setup: Setup) -> (Transports, PeerId) {
    let keypair = Keypair::from_seed(&[seed; 32]);
    let noise =
        noise::Config::new(&keypair, vec!["/yamux/1.0.0".into()], &mut rand::rng()).unwrap();
    let mut upgrade =
        UpgradeConfig::new(vec![Security::Noise(Arc::new(noise))], Budget::unlimited());
    upgrade.psk = setup.psk.map(Psk::from_bytes);
    (Transports::new(upgrade, setup.transport), keypair.peer_id())
}

type End = (Connection, InboundStreams);

async fn accept_one(mut listener: Listener) -> Result<End, UpgradeError> {
    listener.accept().await.unwrap().upgrade().await
}

/// A listener on `addr` and a dialler of it, connected.
async fn pair(addr: &str, client: Setup, server: Setup) -> (End, End) {
    let (client, _) = transports(1, client);
    let (server, server_id) = transports(2, server);
    let listener = server.listen(&addr.parse().unwrap()).unwrap();
    let target = listener.local_addr().clone();
    let (dialled, accepted) =
        tokio::join!(client.dial(&target, Some(server_id)), accept_one(listener));
    (dialled.unwrap(), accepted.unwrap())
}

fn serve_echo(mut streams: InboundStreams) {
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

/// A certificate for `localhost` and its files, gone with the test.
struct Certified {
    folder: PathBuf,
}

impl Certified {
    fn new(test: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("barewire-ws-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let certified = rcgen::generate_simple_self_signed(vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ])
        .unwrap();
        std::fs::write(folder.join("cert.pem"), certified.cert.pem()).unwrap();
        std::fs::write(
            folder.join("key.pem"),
            certified.signing_key.serialize_pem(),
        )
        .unwrap();
        Self { folder }
    }

    fn server(&self) -> Setup {
        let mut setup = Setup::default();
        let file = |name| self.folder.join(name);
        setup.transport.ws.certificate =
            Some(Certificate::from_pem_files(&file("cert.pem"), &file("key.pem")).unwrap());
        setup
    }

    fn client(&self) -> Setup {
        let mut setup = Setup::default();
        setup.transport.ws.roots = Roots::from_pem_file(&self.folder.join("cert.pem")).unwrap();
        setup
    }
}

impl Drop for Certified {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Small echo, half close, then `size` bytes there and back, on a connection over `addr`.
async fn works(addr: &str, client: Setup, server: Setup, size: usize) -> (End, Connection) {
    let (dialled, (accepted, streams)) = pair(addr, client, server).await;
    serve_echo(streams);
    let mut stream = dialled.0.open_stream(ECHO).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"hello");
    let payload: Bytes = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
    let (mut reader, mut writer) = dialled.0.open_stream(ECHO).await.unwrap().split();
    let sent = payload.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap();
    assert!(back == payload, "{} bytes came back", back.len());
    (dialled, accepted)
}

#[tokio::test]
async fn echoes_over_plain_websockets() {
    for (addr, suffix) in [
        ("/ip4/127.0.0.1/tcp/0/ws", "/ws"),
        ("/ip6/::1/tcp/0/ws", "/ws"),
    ] {
        let ((client, _streams), server) =
            works(addr, Setup::default(), Setup::default(), 8 << 20).await;
        for addr in [
            &client.info().local_addr,
            &client.info().remote_addr,
            &server.info().local_addr,
            &server.info().remote_addr,
        ] {
            assert!(addr.to_string().ends_with(suffix), "{addr}");
        }
        assert_eq!(client.info().local_addr, server.info().remote_addr);
        let (up, down) = (client.stats(), server.stats());
        println!(
            "echo of 8 MiB over {addr}: client copied {} out and {} in, server {} and {}",
            up.bytes_copied_out, up.bytes_copied_in, down.bytes_copied_out, down.bytes_copied_in
        );
        // One copy when sealed, a client's second when masked; what comes in stays where it is,
        // but for frames too short to be read alone, which are moved once.
        assert!(up.bytes_copied_out < 18 << 20, "{up:?}");
        assert!(down.bytes_copied_out < 9 << 20, "{down:?}");
        assert!(up.bytes_copied_in < 9 << 20, "{up:?}");
        assert!(down.bytes_copied_in < 9 << 20, "{down:?}");
    }
}

#[tokio::test]
async fn echoes_over_secure_websockets() {
    let files = Certified::new("echo");
    for addr in [
        "/ip4/127.0.0.1/tcp/0/tls/ws",
        "/ip4/127.0.0.1/tcp/0/wss",
        "/ip4/127.0.0.1/tcp/0/tls/sni/localhost/ws",
    ] {
        let ((client, _streams), server) =
            works(addr, files.client(), files.server(), 1 << 20).await;
        let suffix = addr.split_once("/tcp/0").unwrap().1;
        assert!(client.info().remote_addr.to_string().ends_with(suffix));
        assert!(!server.info().remote_addr.to_string().contains("sni"));
    }
}

#[tokio::test]
async fn certificates_are_checked() {
    let (files, others) = (Certified::new("own"), Certified::new("other"));
    let (server, _) = transports(2, files.server());
    let mut listener = server
        .listen(&"/ip4/127.0.0.1/tcp/0/tls/ws".parse().unwrap())
        .unwrap();
    let addr = listener.local_addr().clone();
    tokio::spawn(async move {
        loop {
            let incoming = listener.accept().await.unwrap();
            tokio::spawn(incoming.upgrade());
        }
    });
    let port = addr.to_string();
    let wrong_name: Multiaddr = port
        .replace("/tls/ws", "/tls/sni/elsewhere.example/ws")
        .parse()
        .unwrap();
    for (setup, addr) in [
        (others.client(), addr.clone()),
        (files.client(), wrong_name),
    ] {
        let error = transports(1, setup).0.dial(&addr, None).await.unwrap_err();
        let ConnectError::Upgrade(UpgradeError::WebSocket(HandshakeError::Certificate(_))) = &error
        else {
            panic!("{error:?}");
        };
        println!("{addr}: {error}");
    }
    let without = transports(3, Setup::default()).0;
    assert!(matches!(
        without.listen(&"/ip4/127.0.0.1/tcp/0/wss".parse().unwrap()),
        Err(TransportError::NoCertificate(_))
    ));
}

#[tokio::test]
async fn ends_are_orderly() {
    let ((client, _c), (server, _s)) = pair(
        "/ip4/127.0.0.1/tcp/0/ws",
        Setup::default(),
        Setup::default(),
    )
    .await;
    client.close(7);
    assert_eq!(server.closed().await, CloseReason::Remote(7));
    assert_eq!(client.closed().await, CloseReason::Local(7.into()));
    let begun = std::time::Instant::now();
    client.terminated().await;
    server.terminated().await;
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_refusal_names_the_status() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let n = socket.read(&mut head).await.unwrap();
        assert!(head[..n].starts_with(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:"));
        socket
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            .await
            .unwrap();
    });
    let addr = format!("/ip4/127.0.0.1/tcp/{port}/ws").parse().unwrap();
    let error = transports(1, Setup::default())
        .0
        .dial(&addr, None)
        .await
        .unwrap_err();
    let refused = UpgradeError::WebSocket(HandshakeError::Refused(502));
    assert_eq!(error, ConnectError::Upgrade(refused));
}

#[tokio::test]
async fn pings_keep_an_idle_connection_busy() {
    let setup = || {
        let mut setup = Setup::default();
        setup.transport.ws.ping_interval = Some(Duration::from_millis(20));
        setup
    };
    let ((client, _c), (server, _s)) =
        pair("/ip4/127.0.0.1/tcp/0/ws", setup(), Setup::default()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((client.close_reason(), server.close_reason()), (None, None));
    // More than the limit of frames without data: now they are a flood.
    let ((flooder, _c), (victim, _s)) = pair(
        "/ip4/127.0.0.1/tcp/0/ws",
        {
            let mut setup = Setup::default();
            setup.transport.ws.ping_interval = Some(Duration::from_millis(2));
            setup
        },
        Setup::default(),
    )
    .await;
    let reason = victim.closed().await;
    let reason = reason.to_string();
    assert!(
        reason.contains("1008") || reason.contains("flood"),
        "{reason}"
    );
    let told = flooder.closed().await;
    // The pongs it asked for are as many.
    let told = told.to_string();
    assert!(told.contains("1008") || told.contains("flood"), "{told}");
}

fn private(key: u8) -> Setup {
    Setup {
        psk: Some([key; 32]),
        ..Setup::default()
    }
}

#[tokio::test]
async fn private_networks_over_tcp_and_websocket() {
    for addr in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"] {
        works(addr, private(9), private(9), 4 << 20).await;
    }
}

#[tokio::test]
async fn other_networks_are_refused_on_both_sides() {
    for addr in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"] {
        for (client, server) in [(Some(1), Some(2)), (Some(1), None), (None, Some(2))] {
            let setup = |key: Option<u8>| key.map_or_else(Setup::default, private);
            let (dialler, _) = transports(1, setup(client));
            let (listening, _) = transports(2, setup(server));
            let listener = listening.listen(&addr.parse().unwrap()).unwrap();
            let target = listener.local_addr().clone();
            let (dialled, accepted) =
                tokio::join!(dialler.dial(&target, None), accept_one(listener));
            let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
            println!("{addr} {client:?} {server:?}: `{dialled}`, `{accepted}`");
            let other = ConnectError::Upgrade(UpgradeError::OtherNetwork);
            assert!(client.is_none() || dialled == other, "{dialled:?}");
            assert!(
                server.is_none() || accepted == UpgradeError::OtherNetwork,
                "{accepted:?}"
            );
        }
    }
}

#[tokio::test]
async fn quic_is_refused_in_a_private_network() {
    let (transports, _) = transports(1, private(1));
    let addr: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap();
    assert_eq!(
        transports.dial(&addr, None).await.unwrap_err(),
        ConnectError::Transport(TransportError::NotPrivate(addr.clone()))
    );
    assert!(matches!(
        transports.listen(&addr),
        Err(TransportError::NotPrivate(_))
    ));
}
