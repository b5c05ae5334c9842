//! Whether a node can be reached: found out with servers of our own and of go-libp2p, told to theirs, and what those get who lie, or
//! want somebody else dialled.
//!
//! Each test prints what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod abuse;
mod foreign;
mod own;

use std::time::Duration;

use barewire_node::{
    Endpoint, Keypair, Multiaddr, Router,
    protocols::autonat::{
        AutonatClient, AutonatClientConfig, AutonatServer, AutonatServerConfig, AutonatState,
    },
};

/// Every step ends within this, also on a machine that builds something else meanwhile.
const DEADLINE: Duration = Duration::from_secs(60);

async fn endpoint() -> Endpoint {
    let keypair = Keypair::generate(&mut rand::rng());
    Endpoint::builder(keypair).bind().await.unwrap()
}

/// A server, for addresses of this machine too.
struct Server {
    router: Router,
    server: AutonatServer,
    addr: Multiaddr,
}

impl Server {
    /// At an IPv4 address of this machine.
    async fn start(ip: &str, mut config: AutonatServerConfig) -> Self {
        config.private = true;
        config.max_pause = Duration::from_millis(50);
        let endpoint = endpoint().await;
        let server = AutonatServer::bind(&endpoint, config).await.unwrap();
        let router = server.register(Router::builder(endpoint.clone()));
        let router = router.spawn().unwrap();
        let listen = format!("/ip4/{ip}/tcp/0").parse().unwrap();
        let bound = endpoint.listen(listen).await.unwrap();
        let addr = bound.with_peer(endpoint.peer_id()).unwrap();
        Self {
            router,
            server,
            addr,
        }
    }

    async fn stop(self) {
        self.router.shutdown(Duration::from_secs(1)).await;
    }
}

/// A node that wants to know.
struct Client {
    router: Router,
    client: AutonatClient,
}

impl Client {
    async fn start(listen: &[&str]) -> Self {
        let endpoint = endpoint().await;
        let mut config = AutonatClientConfig::default();
        config.private = true;
        let client = AutonatClient::new(&endpoint, config);
        let router = client.register(Router::builder(endpoint.clone()));
        let router = router.spawn().unwrap();
        for addr in listen {
            endpoint.listen(addr.parse().unwrap()).await.unwrap();
        }
        Self { router, client }
    }

    fn endpoint(&self) -> &Endpoint {
        self.router.endpoint()
    }

    async fn connect(&self, addr: &Multiaddr) {
        let connection = self.endpoint().connect(addr.clone()).await.unwrap();
        self.endpoint().identify(&connection).await.unwrap();
        // What is to be asked for is asked for on connections that stay.
        self.endpoint().tag(connection.peer_id(), "test", 1);
    }

    /// Waits until something is known.
    async fn until(&self, known: impl FnMut(&AutonatState) -> bool) -> AutonatState {
        let mut states = self.client.state();
        let there = tokio::time::timeout(DEADLINE, states.wait_for(known)).await;
        let state = self.client.state().borrow().clone();
        assert!(there.is_ok(), "{state:?}");
        state
    }

    async fn stop(self) {
        self.router.shutdown(Duration::from_secs(1)).await;
    }
}
