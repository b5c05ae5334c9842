//! Nodes for tests.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::{future::Future, sync::Arc, time::Duration};

use barewire_base::Budget;
use barewire_node::{
    Config, Connection, Endpoint, Keypair, Multiaddr, Router,
    protocols::{echo, perf},
};
use barewire_security::{Opened, Opener, Sealer, noise};
use barewire_transport::{Security, UpgradeConfig};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Anything on one machine is done by then.
pub const SOON: Duration = Duration::from_secs(10);

pub fn keypair() -> Keypair {
    Keypair::generate(&mut rand::rng())
}

/// Defaults with waits cut short.
pub fn quick() -> Config {
    let mut config = Config::default();
    config.supplant_grace = Duration::from_millis(100);
    config
}

pub async fn endpoint(config: Config) -> Endpoint {
    Endpoint::builder(keypair())
        .config(config)
        .bind()
        .await
        .unwrap()
}

/// A node that serves perf and echo on a loopback port, and its address with `/p2p`.
pub async fn node() -> (Router, Multiaddr) {
    node_with(quick()).await
}

pub async fn node_with(config: Config) -> (Router, Multiaddr) {
    let router = Router::builder(endpoint(config).await)
        .accept(perf::PROTOCOL, perf::Perf)
        .accept(echo::PROTOCOL, echo::Echo)
        .spawn()
        .unwrap();
    let addr = listen(router.endpoint(), "/ip4/127.0.0.1/tcp/0").await;
    (router, addr)
}

/// Listens and returns the bound address with `/p2p`.
pub async fn listen(endpoint: &Endpoint, addr: &str) -> Multiaddr {
    let bound = endpoint.listen(addr.parse().unwrap()).await.unwrap();
    bound.with_peer(endpoint.peer_id()).unwrap()
}

/// A second node connected to `addr`.
pub async fn client_of(addr: &Multiaddr) -> (Endpoint, Connection) {
    let endpoint = endpoint(quick()).await;
    let connection = endpoint.connect(addr.clone()).await.unwrap();
    (endpoint, connection)
}

/// Polls `condition` until it holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, waiting).await;
}

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {SOON:?}"),
    }
}

/// For a peer made by hand, without an endpoint.
pub fn upgrade_config() -> UpgradeConfig {
    let muxers = vec!["/yamux/1.0.0".into()];
    let noise = noise::Config::new(&keypair(), muxers, &mut rand::rng()).unwrap();
    UpgradeConfig::new(vec![Security::Noise(Arc::new(noise))], Budget::unlimited())
}

/// yamux frame types and flags.
pub const DATA: u8 = 0;
pub const SYN: u16 = 1;
pub const FIN: u16 = 4;
pub const RST: u16 = 8;

/// A yamux frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u16,
    pub id: u32,
    pub length: u32,
    pub body: Vec<u8>,
}

/// A secured connection whose yamux frames are made by hand, for streams no honest peer opens.
pub struct RawPeer {
    socket: TcpStream,
    sealer: Sealer,
    opener: Opener,
    input: BytesMut,
    frames: BytesMut,
}

impl RawPeer {
    pub async fn dial(addr: &Multiaddr) -> Self {
        let muxers = vec!["/yamux/1.0.0".into()];
        let config = noise::Config::new(&keypair(), muxers, &mut rand::rng()).unwrap();
        let mut handshake =
            noise::Handshake::initiator(&Arc::new(config), addr.peer_id(), &mut rand::rng())
                .unwrap();
        let (socket, _) = addr.to_tcp().unwrap();
        let mut socket = TcpStream::connect(socket).await.unwrap();
        let negotiation = b"\x13/multistream/1.0.0\n\x07/noise\n";
        let mut output = BytesMut::from(&negotiation[..]);
        let mut input = BytesMut::new();
        while input.len() < negotiation.len() {
            handshake.poll_transmit(&mut output);
            socket.write_all_buf(&mut output).await.unwrap();
            assert_ne!(socket.read_buf(&mut input).await.unwrap(), 0);
        }
        assert_eq!(input.split_to(negotiation.len()), negotiation[..]);
        loop {
            let consumed = handshake.handle_input(&input).unwrap();
            input.advance(consumed);
            handshake.poll_transmit(&mut output);
            socket.write_all_buf(&mut output).await.unwrap();
            if handshake.is_finished() {
                break;
            }
            if consumed == 0 {
                assert_ne!(socket.read_buf(&mut input).await.unwrap(), 0);
            }
        }
        let secured = handshake.finish().unwrap();
        assert!(secured.muxer.is_some());
        let (sealer, opener) = secured.session.split();
        Self {
            socket,
            sealer,
            opener,
            input,
            frames: BytesMut::new(),
        }
    }

    pub async fn send_frame(&mut self, kind: u8, flags: u16, id: u32, body: &[u8]) {
        let mut frame = vec![0, kind];
        frame.extend_from_slice(&flags.to_be_bytes());
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(body);
        let mut record = BytesMut::new();
        self.sealer
            .seal(std::iter::once(&frame[..]), &mut record)
            .unwrap();
        self.socket.write_all_buf(&mut record).await.unwrap();
    }

    /// The next frame; panics when the connection ends.
    pub async fn next_frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.take_frame() {
                return frame;
            }
            match self.opener.open_in_place(&mut self.input).unwrap() {
                Opened::Record {
                    plaintext,
                    consumed,
                } => {
                    self.frames.extend_from_slice(&self.input[plaintext]);
                    self.input.advance(consumed);
                }
                other @ (Opened::KeyUpdate { .. } | Opened::Closed) => panic!("{other:?}"),
                Opened::NeedMore { .. } => {
                    let read = self.socket.read_buf(&mut self.input).await.unwrap();
                    assert_ne!(read, 0, "the connection ended");
                }
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let mut header = self.frames.get(..12)?;
        let _version = header.get_u8();
        let (kind, flags, id) = (header.get_u8(), header.get_u16(), header.get_u32());
        let length = header.get_u32();
        let body = if kind == DATA { length as usize } else { 0 };
        if self.frames.len() < 12 + body {
            return None;
        }
        self.frames.advance(12);
        Some(Frame {
            kind,
            flags,
            id,
            length,
            body: self.frames.split_to(body).to_vec(),
        })
    }
}
