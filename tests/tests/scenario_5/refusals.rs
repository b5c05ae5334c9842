//! Who is refused over TCP with TLS and over QUIC, as dialler and as listener, and in which words.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, multistream};
use barewire_security::tls;
use barewire_tests::{
    peers,
    process::{Process, run, run_failing},
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::{
    SOON,
    certificates::{Flaw, Shows, client, server},
};

const PROTOCOL: &str = "/tls/1.0.0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Tcp,
    Quic,
}

const CARRIERS: [Carrier; 2] = [Carrier::Tcp, Carrier::Quic];

/// A listening node that tells of refusals. One refusal each: a kind is logged once in ten seconds.
struct Node {
    process: Process,
    socket: SocketAddr,
    addr: String,
}

impl Node {
    async fn start(barewire: &Path, carrier: Carrier) -> Self {
        let mut command = Command::new(barewire);
        let listen = match carrier {
            Carrier::Tcp => "/ip4/127.0.0.1/tcp/0",
            Carrier::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        command.args(["listen", "--json", "--listen", listen]);
        command.env("RUST_LOG", "info");
        let mut process = Process::spawn(command).unwrap();
        let addr = process.listening(SOON).await.unwrap();
        let parsed: Multiaddr = addr.parse().unwrap();
        let (socket, _) = parsed.to_tcp().or_else(|| parsed.to_quic()).unwrap();
        Self {
            process,
            socket,
            addr,
        }
    }

    /// Waits for a line with this sentence; then an honest peer is served.
    async fn says(self, barewire: &Path, name: &str, sentence: &str) {
        let begun = Instant::now();
        while !self.process.stderr().contains(sentence) {
            let said = self.process.stderr();
            assert!(
                begun.elapsed() < SOON,
                "{name}: not `{sentence}` but:\n{said}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let args = ["ping", "--json", "--security", "tls", &self.addr];
        run(barewire, args, "ping", SOON).await.unwrap();
        println!("scenario 5: {name}: the listener says that {sentence}");
        self.process.stop(SOON).await.unwrap();
    }
}

/// Proposes TLS and waits for the agreement.
async fn propose(node: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(node).await.unwrap();
    let proposal = multistream::optimistic_proposal(PROTOCOL);
    socket.write_all(&proposal).await.unwrap();
    let mut agreed = vec![0; proposal.len()];
    socket.read_exact(&mut agreed).await.unwrap();
    assert_eq!(agreed, &proposal[..]);
    socket
}

/// Dials as this client; returns once the listener has ended it.
async fn dial(node: SocketAddr, carrier: Carrier, config: rustls::ClientConfig) {
    match carrier {
        Carrier::Tcp => {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let name = ServerName::IpAddress(node.ip().into());
            // Over TLS 1.3 the client is done before the server has seen its certificate.
            if let Ok(mut stream) = connector.connect(name, propose(node).await).await {
                let mut scratch = [0; 64];
                while stream.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
            }
        }
        Carrier::Quic => {
            let crypto = QuicClientConfig::try_from(config).unwrap();
            let config = quinn::ClientConfig::new(Arc::new(crypto));
            let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let connecting = endpoint.connect_with(config, node, "127.0.0.1").unwrap();
            if let Ok(connection) = connecting.await {
                connection.closed().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_refuses_who_does_not_prove_an_identity() {
    let barewire = peers::barewire().expect("barewire builds");
    for carrier in CARRIERS {
        let right = tls::LIBP2P;
        let mut cases = vec![
            (
                "no client certificate".to_owned(),
                client(Shows::Nothing, right),
                "the peer showed no certificate",
            ),
            (
                "another application protocol".to_owned(),
                client(Shows::Honest, b"h2"),
                "the peer offers only application protocols that are not libp2p's",
            ),
        ];
        for flaw in Flaw::ALL {
            cases.push((
                format!("a client's certificate: {flaw:?}"),
                client(Shows::Flawed(flaw), right),
                flaw.sentence(),
            ));
        }
        for (name, config, sentence) in cases {
            let node = Node::start(&barewire, carrier).await;
            tokio::time::timeout(SOON, dial(node.socket, carrier, config))
                .await
                .expect("it is ended");
            let name = format!("{carrier:?}: {name}");
            node.says(&barewire, &name, sentence).await;
        }
    }
}

/// Serves one connection on loopback with this configuration; its address.
async fn serve(carrier: Carrier, config: rustls::ServerConfig) -> String {
    match carrier {
        Carrier::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
                let (mut socket, _) = listener.accept().await.unwrap();
                let proposal = multistream::optimistic_proposal(PROTOCOL);
                let mut asked = vec![0; proposal.len()];
                socket.read_exact(&mut asked).await.unwrap();
                socket.write_all(&proposal).await.unwrap();
                // The dialler refuses it.
                drop(acceptor.accept(socket).await);
            });
            format!("/ip4/127.0.0.1/tcp/{port}")
        }
        Carrier::Quic => {
            let crypto = QuicServerConfig::try_from(config).unwrap();
            let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            let any = "127.0.0.1:0".parse().unwrap();
            let endpoint = quinn::Endpoint::server(config, any).unwrap();
            let port = endpoint.local_addr().unwrap().port();
            tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    // The dialler refuses it.
                    drop(incoming.await);
                }
            });
            format!("/ip4/127.0.0.1/udp/{port}/quic-v1")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_refuses_who_does_not_prove_an_identity() {
    let barewire = peers::barewire().expect("barewire builds");
    for carrier in CARRIERS {
        let mut cases: Vec<_> = Flaw::ALL
            .map(|flaw| {
                let name = format!("a server's certificate: {flaw:?}");
                (name, server(Some(flaw), tls::LIBP2P), flaw.sentence())
            })
            .into();
        cases.push((
            "a server of another protocol".to_owned(),
            server(None, b"h2"),
            "NoApplicationProtocol",
        ));
        for (name, config, sentence) in cases {
            let addr = serve(carrier, config).await;
            let args = ["ping", "--security", "tls", "--timeout", "20", &addr];
            let said = run_failing(&barewire, args, SOON).await.unwrap();
            assert!(said.contains(sentence), "{carrier:?}: {name}: {said}");
            println!("scenario 5: {carrier:?}: {name}: {}", said.trim_end());
        }
    }
}

/// A hello of TLS 1.2: it lists no versions, so that the old field counts.
fn old_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; ECDHE with AES-GCM as TLS 1.2 has it; no compression; no extensions but the groups.
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let groups = [0, 10, 0, 4, 0, 2, 0, 0x1d];
    let schemes = [0, 13, 0, 4, 0, 2, 4, 3];
    body.extend([0, (groups.len() + schemes.len()) as u8]);
    body.extend(groups);
    body.extend(schemes);
    record(&message(1, &body))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&[22, 3, 3], &length[..], message].concat()
}

/// The alert of a peer that speaks newer versions only.
const PROTOCOL_VERSION: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_is_refused() {
    let barewire = peers::barewire().expect("barewire builds");
    let node = Node::start(&barewire, Carrier::Tcp).await;
    let mut socket = propose(node.socket).await;
    socket.write_all(&old_hello()).await.unwrap();
    let mut answer = Vec::new();
    // It may be reset behind the alert.
    drop(socket.read_to_end(&mut answer).await);
    assert_eq!(answer, PROTOCOL_VERSION);
    let sentence = "no TLS in common with the peer";
    node.says(&barewire, "Tcp: a client of TLS 1.2", sentence)
        .await;

    // A server that chooses TLS 1.2.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let proposal = multistream::optimistic_proposal(PROTOCOL);
        let mut asked = vec![0; proposal.len()];
        socket.read_exact(&mut asked).await.unwrap();
        let mut hello = vec![3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0xc0, 0x2b, 0]);
        let answer = [&proposal[..], &record(&message(2, &hello))].concat();
        socket.write_all(&answer).await.unwrap();
        // Until it has gone.
        drop(socket.read_to_end(&mut Vec::new()).await);
    });
    let addr = format!("/ip4/127.0.0.1/tcp/{port}");
    let args = ["ping", "--security", "tls", "--timeout", "20", &addr];
    let said = run_failing(&barewire, args, SOON).await.unwrap();
    assert!(said.contains("TLS"), "{said}");
    println!("scenario 5: Tcp: a server of TLS 1.2: {}", said.trim_end());
}
