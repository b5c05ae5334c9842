//! The endpoint: identity, listeners, dials and the connection table.

mod listener;
mod manage;
mod measure;
mod pending;
mod shutdown;
mod table;
mod task;
mod whereabouts;

use std::{
    fmt,
    sync::{Arc, Weak, atomic::AtomicU64},
    time::Duration,
};

use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_nat::autonat::{Reachability, TestedAddr};
use barewire_security::{noise, tls};
use barewire_transport::{
    Connection, Security, TransportConfig, Transports, UpgradeConfig, ws::Certificate,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OnceCell, watch},
    task::AbortHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::shutdown::ShutdownReport;
pub(crate) use self::{manage::NotEstablished, task::sleep_until};
use self::{
    pending::Pending,
    shutdown::Tally,
    table::{LinkControl, Table},
};
use crate::{
    addresses::{Addresses, is_wildcard},
    config::{Config, SecurityKind},
    dial::{DialStats, DialTarget, Dialer, Resolution, Whom},
    error::{BindError, DialError, ListenError},
    events::{Event, EventSender, Events},
    incidents::{Incident, Incidents},
    manager::Manager,
    metrics::{Metrics, MetricsSource},
    peer_book::PeerBook,
    protocols::identify::{self, IdentifyError, Local, PeerInfo},
    router::Registry,
};

/// multistream id of the muxer, offered inside the Noise handshake.
const YAMUX: &str = "/yamux/1.0.0";

/// What an endpoint is doing, for [`Endpoint::state`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct State {
    /// Bound addresses, without `/p2p`. A wildcard (`0.0.0.0` or `::`) stays one.
    pub listen_addrs: Vec<Multiaddr>,
    /// Addresses of this machine that the listeners can be dialled at, without `/p2p`: wildcards as
    /// the addresses of the interfaces, followed as those change.
    pub addresses: Vec<Multiaddr>,
    /// Addresses that enough other nodes see this one at, without `/p2p`: behind a router, where
    /// the world may reach it.
    pub external_addrs: Vec<Multiaddr>,
    /// Addresses that lead to this node through relays it has reservations at, `/p2p-circuit` at their end.
    pub relay_addrs: Vec<Multiaddr>,
    /// Whether others can open connections to this node, as far as an [AutoNAT client](crate::protocols::autonat::AutonatClient) has
    /// found out.
    pub reachability: Reachability,
    /// What it has found out about each address.
    pub tested_addrs: Vec<TestedAddr>,
    /// Addresses at which the router was asked to send on what comes, without `/p2p`.
    pub mapped_addrs: Vec<Multiaddr>,
    /// Established connections.
    pub connections: usize,
    /// Peers with at least one connection.
    pub peers: usize,
    /// No new connection is made or accepted.
    pub shutting_down: bool,
}

/// What the tasks of an endpoint share.
pub(crate) struct Shared {
    keypair: Keypair,
    pub(crate) peer_id: PeerId,
    config: Config,
    pub(crate) transports: Transports,
    table: Mutex<Table<Connection, PeerInfo>>,
    pending: Mutex<Pending<AbortHandle>>,
    addresses: Mutex<Addresses>,
    /// Done once somebody listens on a wildcard.
    following: OnceCell<()>,
    /// The first observation under way has come.
    observing: Notify,
    pub(crate) peer_book: PeerBook,
    pub(crate) metrics: Metrics,
    /// Parts of the node with values of their own.
    metrics_sources: Mutex<Vec<Weak<dyn MetricsSource>>>,
    local: watch::Sender<Arc<Local>>,
    pub(crate) state: watch::Sender<State>,
    events: EventSender,
    /// Connection and listener tasks and inbound upgrades.
    pub(crate) tasks: TaskTracker,
    /// Stop taking new work.
    pub(crate) stop: CancellationToken,
    /// Stop everything.
    kill: CancellationToken,
    tally: Tally,
    incidents: Incidents,
    next_link: AtomicU64,
    pub(crate) manager: Arc<Manager>,
    pub(crate) dialer: Dialer,
}

/// Ends everything when the last [`Endpoint`] is dropped.
struct Owner(Arc<Shared>);

/// Does not keep the endpoint.
#[derive(Clone)]
pub(crate) struct WeakEndpoint(Weak<Owner>);

impl WeakEndpoint {
    pub(crate) fn upgrade(&self) -> Option<Endpoint> {
        self.0.upgrade().map(Endpoint)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop.cancel();
        self.0.kill.cancel();
    }
}

/// An identity on the network: it listens, dials, and keeps its connections. Cheap to clone.
///
/// Each connection serves identify and ping by itself; more protocols come by a
/// [`Router`](crate::Router). When the last clone is dropped (a router holds one) all connections
/// are closed at once; [`shutdown`](Self::shutdown) is the gentle way.
#[derive(Clone)]
pub struct Endpoint(Arc<Owner>);

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("peer_id", &self.shared().peer_id)
            .field("state", &*self.shared().state.borrow())
            .finish_non_exhaustive()
    }
}

/// Settings of an endpoint to be; see [`Endpoint::builder`].
#[derive(Debug)]
pub struct EndpointBuilder {
    keypair: Keypair,
    config: Config,
}

impl EndpointBuilder {
    /// Replaces the whole configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Makes the endpoint. It listens nowhere yet. Must be called within a tokio runtime.
    pub async fn bind(self) -> Result<Endpoint, BindError> {
        let Self { keypair, config } = self;
        let mut tls = tls::Config::new(&keypair, vec![YAMUX.into()], &mut rand::rng())
            .map_err(|error| BindError::Security(error.to_string()))?;
        if config.log_tls_keys {
            tls.log_keys();
        }
        let tls = Arc::new(tls);
        let mut security = Vec::new();
        for kind in &config.security {
            security.push(match kind {
                SecurityKind::Noise => {
                    noise::Config::new(&keypair, vec![YAMUX.into()], &mut rand::rng())
                        .map(|noise| Security::Noise(Arc::new(noise)))
                        .map_err(|error| BindError::Security(error.to_string()))?
                }
                SecurityKind::Tls => Security::Tls(Arc::clone(&tls)),
            });
        }
        let manager = Manager::new(config.limits.clone(), config.gater.clone());
        let manager = Arc::new(manager);
        let mut upgrade = UpgradeConfig::new(security, manager.buffers().clone());
        upgrade.admission = Some(Arc::clone(&manager) as _);
        upgrade.muxer = config.muxer;
        upgrade.psk = config.psk.clone();
        upgrade.yamux = config.yamux;
        upgrade.stage_timeout = config.stage_timeout;
        upgrade.total_timeout = config.upgrade_timeout;
        let mut transport = TransportConfig::default();
        transport.tcp = config.tcp.clone();
        transport.ws = config.ws.clone();
        if config.log_tls_keys {
            let ws = &mut transport.ws;
            ws.certificate = ws.certificate.take().map(Certificate::with_key_log);
            ws.roots = std::mem::take(&mut ws.roots).with_key_log();
        }
        transport.quic = config.quic.clone();
        transport.tls = Some(tls);
        let peer_id = keypair.peer_id();
        transport.local = Some(peer_id);
        let peer_book = whereabouts::open_book(config.peer_book.clone()).await?;
        let registry = Arc::new(Registry::new(Vec::new()));
        let local = Local::new(Vec::new(), registry, keypair.public().clone());
        let shared = Shared {
            peer_id,
            transports: Transports::new(upgrade, transport),
            table: Mutex::new(Table::new(peer_id)),
            pending: Mutex::new(Pending::new(
                config.limits.max_pending_inbound,
                config.limits.max_pending_per_ip,
            )),
            addresses: Mutex::new(Addresses::new(config.observed.clone())),
            following: OnceCell::new(),
            observing: Notify::new(),
            peer_book,
            metrics: Metrics::default(),
            metrics_sources: Mutex::default(),
            local: watch::Sender::new(Arc::new(local)),
            state: watch::Sender::new(State::default()),
            events: EventSender::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tally: Tally::default(),
            incidents: Incidents::default(),
            next_link: AtomicU64::new(0),
            manager,
            dialer: Dialer::new(config.dial.clone(), config.dns.clone()),
            keypair,
            config,
        };
        let shared = Arc::new(shared);
        shared.tasks.spawn(manage::run(Arc::clone(&shared)));
        shared.start_whereabouts();
        Ok(Endpoint(Arc::new(Owner(shared))))
    }
}

impl Endpoint {
    /// Starts an endpoint with this identity and the default [`Config`].
    #[must_use]
    pub fn builder(keypair: Keypair) -> EndpointBuilder {
        EndpointBuilder {
            keypair,
            config: Config::default(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Identity of this node.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.shared().peer_id
    }

    /// Listens on one more address (`/ip4/…/tcp/…`, `/ip4/…/udp/…/quic-v1`, the same with ip6, or
    /// `/memory/…`; port 0 lets the system choose) and returns the bound one, without `/p2p`. Connected peers that accept pushes
    /// are told.
    ///
    /// A wildcard (`/ip4/0.0.0.0/…`, `/ip6/::/…`) listens on all addresses of this machine;
    /// [`addresses`](Self::addresses) are those, and peers are told of them as they come and go.
    pub async fn listen(&self, addr: Multiaddr) -> Result<Multiaddr, ListenError> {
        if is_wildcard(&addr) {
            self.shared().follow_interfaces().await;
        }
        listener::listen(self.shared(), &addr)
    }

    /// Addresses of this machine that the listeners can be dialled at, without `/p2p`. Changes show
    /// in [`state`](Self::state) and as events.
    #[must_use]
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.shared().state.borrow().addresses.clone()
    }

    /// Addresses that enough other nodes see this one at, without `/p2p`.
    #[must_use]
    pub fn external_addrs(&self) -> Vec<Multiaddr> {
        self.shared().state.borrow().external_addrs.clone()
    }

    /// Addresses of peers and how they have fared.
    #[must_use]
    pub fn peer_book(&self) -> &PeerBook {
        &self.shared().peer_book
    }

    /// Bound addresses, without `/p2p`.
    #[must_use]
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.shared().state.borrow().listen_addrs.clone()
    }

    /// Connects to an address, to one of several addresses of a peer, or to a peer. If it is known who
    /// the peer is (by `/p2p` at the end of an address, or by the target), nobody else is accepted, an
    /// open connection to it is returned instead of a new one, and concurrent calls share one dial.
    /// If it is not known, concurrent calls for the same addresses share one dial; when it turns out
    /// that this node has dialled the peer before and the connection is open, that one is returned
    /// and the new one closed.
    ///
    /// A target of nothing but a peer id is looked for in the [peer book](Self::peer_book).
    ///
    /// Names are looked up anew each time. Several addresses are tried a little apart; the first that
    /// becomes a connection is it, and the other attempts are stopped. See [`dial`](crate::dial).
    ///
    /// If both nodes dial each other at once and both are barewire nodes, one of the two
    /// connections is closed a moment later, when it has no streams: the one dialled by the node
    /// with the larger peer id. Ask [`connection`](Self::connection) rather than keep a handle.
    ///
    /// Cancel-safe: when no call waits for a dial any more its sockets are closed.
    pub async fn connect(&self, target: impl Into<DialTarget>) -> Result<Connection, DialError> {
        let target = target.into();
        let whom = target.whom()?;
        if let Whom::Peer(peer) = &whom
            && let Some(open) = self.shared().pooled(peer)
        {
            return Ok(open);
        }
        self.shared().join_dial(&whom, target).await
    }

    /// As [`connect`](Self::connect), but always a new connection, beside those that are open.
    pub async fn dial(&self, target: impl Into<DialTarget>) -> Result<Connection, DialError> {
        self.shared().dial(&target.into(), false).await
    }

    /// What an address stands for when the names in it are looked up. Cancel-safe.
    pub async fn resolve(&self, addr: &Multiaddr) -> Resolution {
        self.shared().dialer.resolve(addr).await
    }

    /// What dialling did since the endpoint was made.
    #[must_use]
    pub fn dial_stats(&self) -> DialStats {
        self.shared().dialer.stats()
    }

    /// The connection to use for new streams to a peer, if there is one.
    #[must_use]
    pub fn connection(&self, peer: &PeerId) -> Option<Connection> {
        self.shared().connection(peer)
    }

    /// All connections, the oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.shared().table.lock().all()
    }

    /// Inbound connections that are still in their upgrade.
    #[must_use]
    pub fn pending_inbound(&self) -> usize {
        self.shared().pending.lock().len()
    }

    /// What a connected peer has said about itself, if it has been asked already.
    #[must_use]
    pub fn peer_info(&self, peer: &PeerId) -> Option<Arc<PeerInfo>> {
        self.shared().table.lock().info(peer)
    }

    /// The round trip the last answered ping on a connection took.
    #[must_use]
    pub fn rtt(&self, connection: &Connection) -> Option<Duration> {
        self.shared().control(connection)?.rtt()
    }

    /// What the peer says about itself: at once if it has been asked on this connection before,
    /// else it is asked now. Concurrent calls share one exchange. Cancel-safe.
    pub async fn identify(&self, connection: &Connection) -> Result<Arc<PeerInfo>, IdentifyError> {
        self.shared().identify(connection).await
    }

    /// What happens from now on. For people, logs and metrics: a reader that falls behind misses
    /// events and is told how many.
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared().events.subscribe()
    }

    /// The state of this endpoint, and word of each change. Intermediate states may be skipped.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared().state.subscribe()
    }

    /// How often remotes were kept from something of this kind since the endpoint was made.
    #[must_use]
    pub fn incidents(&self, kind: Incident) -> u64 {
        self.shared().incidents.count(kind)
    }

    /// Stops listening and accepting, lets running handlers end and what they wrote leave, says
    /// goodbye on each connection, and cuts off what is not done at the deadline.
    ///
    /// Calling it again, or cancelling it and calling it again, waits for the same end. Handlers
    /// get the whole `deadline`; the call returns at most a second after it.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        shutdown::run(self.shared(), deadline).await
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.shared().keypair
    }

    /// Shows the values of a part of the node in its metrics for as long as it lives.
    pub(crate) fn add_metrics(&self, source: Weak<dyn MetricsSource>) {
        let mut sources = self.shared().metrics_sources.lock();
        sources.retain(|source| source.strong_count() > 0);
        sources.push(source);
    }

    pub(crate) fn set_registry(&self, registry: Registry) {
        let registry = Arc::new(registry);
        self.shared()
            .change_local(|local| (local.listen_addrs.clone(), registry));
    }
}

impl Shared {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        self.events.emit(event);
    }

    /// What this node says about itself now.
    pub(crate) fn local(&self) -> Arc<Local> {
        Arc::clone(&self.local.borrow())
    }

    fn connection(&self, peer: &PeerId) -> Option<Connection> {
        let alive = |connection: &Connection| connection.close_reason().is_none();
        self.table.lock().preferred(peer, alive)
    }

    /// A connection to a peer that goes through no relay.
    pub(crate) fn direct(&self, peer: &PeerId) -> Option<Connection> {
        let direct = |connection: &Connection| {
            connection.close_reason().is_none() && !connection.info().is_relayed()
        };
        self.table.lock().preferred(peer, direct)
    }

    /// The connection to a peer to use instead of one that has just been dialled, if one of its
    /// connections was dialled before. One that the peer dialled may have crossed this dial; which of
    /// those two stays is the table's affair.
    fn dialled_before(&self, peer: &PeerId) -> Option<Connection> {
        let dialled = {
            let table = self.table.lock();
            let mut links = table.links(peer).iter();
            links.any(|link| link.outbound && link.connection.close_reason().is_none())
        };
        self.pooled(peer).filter(|_| dialled)
    }

    /// The connection to a peer that everybody uses, while new ones are made at all. An idle one
    /// gets its whole time again, so that it is still there when it is used.
    pub(crate) fn pooled(&self, peer: &PeerId) -> Option<Connection> {
        let open = self.connection(peer);
        let open = open.filter(|_| !self.stop.is_cancelled())?;
        drop(open.lease("connect"));
        Some(open)
    }

    fn publish_counts(&self, (connections, peers): (usize, usize)) {
        self.state.send_modify(|state| {
            state.connections = connections;
            state.peers = peers;
        });
    }

    fn control(&self, connection: &Connection) -> Option<Arc<LinkControl>> {
        self.table
            .lock()
            .control(&connection.peer_id(), |other| other.is_same(connection))
    }

    pub(crate) async fn identify(
        &self,
        connection: &Connection,
    ) -> Result<Arc<PeerInfo>, IdentifyError> {
        let peer = connection.peer_id();
        let ask = async || {
            let info = identify::query(connection, self.config.identify.timeout).await?;
            let info = Arc::new(info);
            self.learn(connection, &info);
            Ok(info)
        };
        let Some(control) = self.control(connection) else {
            return ask().await;
        };
        let mut asked = None;
        control
            .identified
            .get_or_try_init(async || {
                asked = Some(ask().await?);
                Ok::<(), IdentifyError>(())
            })
            .await?;
        match asked.or_else(|| self.table.lock().info(&peer)) {
            Some(info) => Ok(info),
            // The connection ended between the answer and now.
            None => ask().await,
        }
    }

    /// Stores what a peer said over a connection.
    fn learn(&self, connection: &Connection, info: &Arc<PeerInfo>) {
        let peer = info.peer_id;
        if info.is_barewire() {
            connection.end_streams_early();
        }
        let superseded = self
            .table
            .lock()
            .set_info(&peer, Arc::clone(info), info.is_barewire());
        self.events.emit(|| Event::Identified {
            info: Arc::clone(info),
        });
        if superseded {
            self.events.emit(|| Event::Superseded { peer });
        }
        self.peer_book.learn(info, &connection.info().remote_addr);
        self.observed(connection, info);
    }

    /// Replaces what this node says about itself; connection tasks see it and push.
    fn change_local(&self, change: impl FnOnce(&Local) -> (Vec<Multiaddr>, Arc<Registry>)) {
        self.local.send_modify(|local| {
            let (listen_addrs, registry) = change(local);
            let public_key = self.keypair.public().clone();
            *local = Arc::new(Local::new(listen_addrs, registry, public_key));
        });
    }
}
