//! Both sides of TLS handshakes over in-memory wires, and foreign ones made of rustls' own parts.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::result_large_err,
    reason = "tests; each test binary uses a part of this module"
)]

use std::{net::Ipv4Addr, sync::Arc};

use barewire_base::{Keypair, PeerId};
use barewire_security::{
    Secured, Session,
    tls::{Config, Error, Handshake},
};
use bytes::BytesMut;
use rand::{SeedableRng, rngs::StdRng};
use rustls::{ClientConnection, pki_types::ServerName};

pub const YAMUX: &str = "/yamux/1.0.0";

pub struct Node {
    pub identity: Keypair,
    pub config: Config,
}

pub fn node(seed: u8, muxers: &[&str]) -> Node {
    let identity = Keypair::from_seed(&[seed; 32]);
    let muxers = muxers.iter().map(|muxer| Arc::from(*muxer)).collect();
    let mut rng = StdRng::seed_from_u64(seed.into());
    let config = Config::new(&identity, muxers, &mut rng).unwrap();
    Node { identity, config }
}

pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}

/// rustls' buffered client with our settings.
pub fn rustls_client(client: &Node, server: &Node) -> ClientConnection {
    let expected = Some(server.identity.peer_id());
    let settings = client
        .config
        .client_config(expected, client.config.stream_alpn());
    ClientConnection::new(Arc::new(settings), server_name()).unwrap()
}

/// Carries records back and forth until both have finished or one has failed; the errors are those
/// of the client and of the server.
pub fn run(
    client: &mut Handshake,
    server: &mut Handshake,
) -> Result<(), (Option<Error>, Option<Error>)> {
    let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
    while !(client.is_finished() && server.is_finished()) {
        client.poll_transmit(&mut up);
        let taken = server
            .handle_input(&mut up)
            .map_err(|error| (None, Some(error)))?;
        drop(up.split_to(taken));
        server.poll_transmit(&mut down);
        let taken = client
            .handle_input(&mut down)
            .map_err(|error| (Some(error), None))?;
        drop(down.split_to(taken));
    }
    Ok(())
}

pub fn handshake(
    client: &Node,
    server: &Node,
    expected: Option<PeerId>,
) -> Result<(Secured, Secured), (Option<Error>, Option<Error>)> {
    let mut dialler = Handshake::client(&client.config, expected).unwrap();
    let mut listener = Handshake::server(&server.config).unwrap();
    run(&mut dialler, &mut listener)?;
    Ok((dialler.finish().unwrap(), listener.finish().unwrap()))
}

/// The sessions of a client and a server.
pub fn sessions() -> (Session, Session) {
    let (client, server) = (node(1, &[YAMUX]), node(2, &[YAMUX]));
    let (client, server) = handshake(&client, &server, None).unwrap();
    (client.session, server.session)
}
