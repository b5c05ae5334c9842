//! Connections through relays: with go- and rust-libp2p at each end and in the middle, with limits, with relays that restart, and
//! with clients that ask for what they must not get.
//!
//! Each test prints what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod abuse;
mod figures;
mod interop;
mod life;
mod punch;

use std::time::Duration;

use barewire_base::Protocol;
use barewire_node::{
    Endpoint, Keypair, Multiaddr, PeerId, Router,
    protocols::{
        echo,
        relay::{HOP_PROTOCOL, RelayClient, RelayClientConfig, RelayServer, RelayServerConfig},
    },
};

/// Every step ends within this, also on a machine that builds something else meanwhile.
const DEADLINE: Duration = Duration::from_secs(60);

/// A node of our own that serves echo.
struct Node {
    router: Router,
    addr: Multiaddr,
    server: RelayServer,
    client: RelayClient,
}

impl Node {
    fn endpoint(&self) -> &Endpoint {
        self.router.endpoint()
    }

    fn peer(&self) -> PeerId {
        self.endpoint().peer_id()
    }

    /// One that has reservations at relays, and is a relay itself.
    async fn start(
        seed: u8,
        listen: &str,
        relays: Vec<Multiaddr>,
        config: RelayServerConfig,
    ) -> Self {
        let endpoint = Endpoint::builder(Keypair::from_seed(&[seed; 32]));
        let endpoint = endpoint.bind().await.unwrap();
        let server = RelayServer::new(&endpoint, config);
        let client = RelayClient::new(&endpoint, relays, RelayClientConfig::default()).unwrap();
        let router = Router::builder(endpoint.clone())
            .accept(echo::PROTOCOL, echo::Echo)
            .accept(HOP_PROTOCOL, server.clone());
        let router = client.register(router).spawn().unwrap();
        let bound = endpoint.listen(listen.parse().unwrap()).await.unwrap();
        let addr = bound.with_peer(endpoint.peer_id()).unwrap();
        client.start();
        Self {
            router,
            addr,
            server,
            client,
        }
    }

    async fn relay(config: RelayServerConfig) -> Self {
        Self::start(1, "/ip4/127.0.0.1/tcp/0", Vec::new(), config).await
    }

    async fn behind(seed: u8, relays: &[&Self]) -> Self {
        let relays: Vec<_> = relays.iter().map(|relay| relay.addr.clone()).collect();
        let count = relays.len();
        let config = RelayServerConfig::default();
        let node = Self::start(seed, "/ip4/127.0.0.1/tcp/0", relays, config).await;
        node.reserved(count).await;
        node
    }

    /// Waits until so many reservations are there.
    async fn reserved(&self, count: usize) {
        let mut state = self.client.state();
        let there = state.wait_for(|state| state.reserved.len() == count);
        let there = tokio::time::timeout(DEADLINE, there).await;
        assert!(there.is_ok(), "{:?}", self.client.state().borrow());
    }

    async fn stop(self) {
        self.router.shutdown(Duration::from_secs(1)).await;
    }
}

/// The way to a peer through a relay.
fn through(relay: &Multiaddr, peer: PeerId) -> Multiaddr {
    let circuit = relay.clone().with(Protocol::P2pCircuit).unwrap();
    circuit.with_peer(peer).unwrap()
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let there = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(there.is_ok(), "{what}");
}
