//! Nodes of our own that gossip within the test's process, where everything the router knows can be asked for.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_node::{
    BoxFuture, Connection, Endpoint, ProtocolHandler, Router, Stream,
    protocols::gossip::{Config, Gossip, GossipConfig, GossipEvent, MessageIdFn, Version},
};
use bytes::{Bytes, BytesMut};
use tokio::{sync::broadcast::Receiver, time::Instant};

/// Anything on one machine is done by then, also when it builds something else meanwhile.
pub const SOON: Duration = Duration::from_secs(60);

/// A node that gossips.
pub struct Node {
    /// Its gossip.
    pub gossip: Gossip,
    /// Its connections.
    pub endpoint: Endpoint,
    /// Where it listens, with its id.
    pub addr: Multiaddr,
    _router: Router,
}

impl Node {
    /// One that listens on a loopback port of TCP.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(config: GossipConfig) -> Self {
        Self::listening(config, "/ip4/127.0.0.1/tcp/0").await
    }

    /// One that listens at `addr`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn listening(config: GossipConfig, addr: &str) -> Self {
        let endpoint = Endpoint::builder(Keypair::generate(&mut rand::rng()));
        let endpoint = endpoint.bind().await.expect("an endpoint");
        let gossip = Gossip::spawn(&endpoint, config).expect("a configuration that works");
        let router = gossip.register(Router::builder(endpoint.clone()));
        let router = router.spawn().expect("a router");
        let bound = endpoint.listen(addr.parse().expect("an address")).await;
        let addr = bound
            .expect("a port")
            .with_peer(endpoint.peer_id())
            .expect("an address with its id");
        Self {
            gossip,
            endpoint,
            addr,
            _router: router,
        }
    }

    /// Its id.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.endpoint.peer_id()
    }

    /// Connects to another.
    ///
    /// # Panics
    /// When there is no connection.
    pub async fn connect(&self, addr: &str) {
        let addr: Multiaddr = addr.parse().expect("an address");
        self.endpoint.connect(addr).await.expect("a connection");
    }

    /// Waits until its mesh of the topic has so many peers.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn meshed(&self, topic: &str, count: usize) {
        let meshed = self.gossip.wait_for_mesh(topic, count, SOON).await;
        meshed.expect("a mesh");
    }
}

/// go's parameters, ids made of the content, as foreign peers get them by `--message-id sha256`, and messages up to 2 MiB.
#[must_use]
pub fn config() -> GossipConfig {
    let mut router = Config::default();
    router.topic_defaults.message_id = MessageIdFn::Sha256;
    router.topic_defaults.max_message_size = 2 << 20;
    let mut config = GossipConfig::new(router);
    config.peer_max_rpc = Some(2 << 20);
    config
}

/// Waits until something is so.
///
/// # Panics
/// When it does not come to that.
pub async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Events of the router that blame somebody or lose something, by their names; none between honest peers.
///
/// # Panics
/// When events were missed.
#[must_use]
pub fn complaints(events: &mut Receiver<GossipEvent>) -> HashMap<String, usize> {
    use barewire_node::protocols::gossip::core::Event;
    use tokio::sync::broadcast::error::TryRecvError;
    let mut found = HashMap::new();
    loop {
        let complaint = match events.try_recv() {
            Ok(GossipEvent::Router { peer, event }) => match event {
                Event::Penalty { kind, .. } => format!("{peer}: penalty {kind:?}"),
                Event::Rejected { reason, .. } => format!("{peer}: rejected {reason:?}"),
                Event::Dropped { reason, .. } => format!("{peer}: dropped {reason:?}"),
                Event::Graylisted { .. } => format!("{peer}: graylisted"),
                _ => continue,
            },
            Ok(GossipEvent::StreamCut { peer }) => format!("{peer}: stream cut"),
            Ok(_) => continue,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return found,
            Err(error @ TryRecvError::Lagged(_)) => panic!("{error}"),
        };
        *found.entry(complaint).or_default() += 1;
    }
}

/// A peer without a router, which says whatever a test wants.
pub struct Stranger {
    /// Its connections.
    pub endpoint: Endpoint,
    stream: Stream,
    received: Arc<AtomicU64>,
    _router: Router,
}

/// Counts what comes, unless it is deaf and takes nothing.
struct Ear(Arc<AtomicU64>, bool);

impl ProtocolHandler for Ear {
    fn handle(&self, mut stream: Stream, _: Connection) -> BoxFuture<'static, ()> {
        let (received, deaf) = (Arc::clone(&self.0), self.1);
        Box::pin(async move {
            if deaf {
                std::future::pending::<()>().await;
            }
            while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX).await {
                received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        })
    }
}

impl Stranger {
    /// One that speaks version 1.1 to the node at `addr`.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn at(addr: &Multiaddr, keypair: &Keypair) -> Self {
        Self::new(addr, keypair, false).await
    }

    /// One that reads nothing of what it is sent.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn deaf(addr: &Multiaddr, keypair: &Keypair) -> Self {
        Self::new(addr, keypair, true).await
    }

    async fn new(addr: &Multiaddr, keypair: &Keypair, deaf: bool) -> Self {
        let endpoint = Endpoint::builder(keypair.clone());
        let endpoint = endpoint.bind().await.expect("an endpoint");
        let received = Arc::default();
        let protocol = Version::V1_1.protocol_id();
        let router = Router::builder(endpoint.clone());
        let router = router.accept(protocol, Ear(Arc::clone(&received), deaf));
        let router = router.spawn().expect("a router");
        let connection = endpoint.connect(addr.clone()).await.expect("a connection");
        let stream = connection.open_stream_negotiated(&[protocol]).await;
        Self {
            endpoint,
            stream: stream.expect("a stream"),
            received,
            _router: router,
        }
    }

    /// Sends an RPC; whether the stream took it.
    pub async fn say(&mut self, rpc: impl Into<Bytes>) -> bool {
        let rpc = rpc.into();
        let mut frame = BytesMut::new();
        barewire_base::varint::encode(rpc.len() as u64, &mut frame);
        frame.extend_from_slice(&rpc);
        self.stream.write_chunk(frame.freeze()).await.is_ok()
    }

    /// Bytes that it was sent.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// RPCs as they are on the wire, made by hand.
pub mod rpc {
    use barewire_base::varint;
    use bytes::BytesMut;

    /// A field of bytes, or a message within a message.
    #[must_use]
    pub fn field(number: u64, value: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        varint::encode(number << 3 | 2, &mut out);
        varint::encode(value.len() as u64, &mut out);
        out.extend_from_slice(value);
        out.to_vec()
    }

    /// A subscription.
    #[must_use]
    pub fn subscribe(topic: &str) -> Vec<u8> {
        field(1, &[&[0x08, 1][..], &field(2, topic.as_bytes())].concat())
    }

    /// A message, encoded already.
    #[must_use]
    pub fn publish(message: &[u8]) -> Vec<u8> {
        field(2, message)
    }

    /// A GRAFT.
    #[must_use]
    pub fn graft(topic: &str) -> Vec<u8> {
        field(3, &field(3, &field(1, topic.as_bytes())))
    }

    /// A PRUNE without a backoff of its own.
    #[must_use]
    pub fn prune(topic: &str) -> Vec<u8> {
        field(3, &field(4, &field(1, topic.as_bytes())))
    }

    /// An IWANT.
    #[must_use]
    pub fn iwant<'a>(ids: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let ids: Vec<u8> = ids.into_iter().flat_map(|id| field(1, id)).collect();
        field(3, &field(2, &ids))
    }

    /// An IHAVE.
    #[must_use]
    pub fn ihave<'a>(topic: &str, ids: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let ids = ids.into_iter().flat_map(|id| field(2, id));
        let offer: Vec<u8> = field(1, topic.as_bytes()).into_iter().chain(ids).collect();
        field(3, &field(1, &offer))
    }
}
