//! The client's side: reservations that are kept, and what comes through them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use barewire_base::{Multiaddr, PeerId, Protocol};
use barewire_nat::{
    autonat::Reachability,
    relay::{
        Action, Failure, HOP_PROTOCOL, HopMessage, Keeper, KeeperConfig, Limit, STOP_PROTOCOL,
        Status, StopMessage, Voucher,
    },
};
use barewire_transport::{Connection, LocalReason, RawConnection, Role, Stream};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    RelayError,
    dial::{circuit_limit, is_circuit},
    wire,
};
use crate::{
    Endpoint, RouterBuilder,
    addresses::Addresses,
    dial::{DialTarget, Whom},
    endpoint::{State, WeakEndpoint},
    incidents::Incident,
    manager::{Gated, now},
    protocols::dcutr::HolePuncher,
    router::{BoxFuture, ProtocolHandler},
};

/// Addresses of one relay that are announced (own choice: an identify message has room for a few relays).
const MAX_ADDRS: usize = 4;
/// A reservation counts no longer than this (own choice; relays give one hour, those of js-libp2p two).
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Settings of a [`RelayClient`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayClientConfig {
    /// When relays are asked.
    pub keeper: KeeperConfig,
    /// Whether relays are used only while this node is not known to be reachable without them, see
    /// [`State::reachability`](crate::State::reachability), and for how long the answer is waited for before the first is asked.
    /// Default `None`: always.
    pub unless_public: Option<Duration>,
    /// How long reaching a relay and its answer may take. Default 15 s (own choice: as dialling an address).
    pub timeout: Duration,
    /// What works on a direct connection beside each that comes through a relay. Default: nothing does.
    pub puncher: Option<HolePuncher>,
    /// Circuits at once that are not connections yet. Default 16 (own choice: as many as a relay carries to one peer).
    pub max_pending: usize,
}

impl Default for RelayClientConfig {
    fn default() -> Self {
        Self {
            keeper: KeeperConfig::default(),
            unless_public: None,
            timeout: Duration::from_secs(15),
            puncher: None,
            max_pending: 16,
        }
    }
}

/// Why an address is none of a relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no relay's address: it has to end in /p2p/ and the relay's peer id, with or without /p2p-circuit behind"
)]
pub struct RelayAddressError(pub Multiaddr);

/// A reservation there is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reserved {
    /// The relay.
    pub relay: PeerId,
    /// Where this node is reached through it, `/p2p-circuit` at their end.
    pub addrs: Vec<Multiaddr>,
    /// When it ends, unless it is renewed.
    pub until: Instant,
    /// What circuits may carry.
    pub limit: Limit,
}

/// What a [`RelayClient`] has and lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RelayState {
    /// Reservations whose addresses are announced, in the order of the relays.
    pub reserved: Vec<Reserved>,
    /// Relays that gave none, with the last cause.
    pub failed: Vec<(PeerId, RelayError)>,
}

/// Keeps reservations at relays for as long as it lives, and takes what comes through them. Cheap to clone. Holds no reference to its
/// endpoint.
#[derive(Debug, Clone)]
pub struct RelayClient(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    state: watch::Receiver<RelayState>,
    started: Arc<Notify>,
    task: AbortHandle,
    puncher: Option<HolePuncher>,
    max_pending: usize,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RelayClient {
    /// One that will keep reservations at the first of `relays` that give one, see [`KeeperConfig::wanted`].
    /// [`register`](Self::register) makes the node take what comes that way, and [`start`](Self::start) begins.
    pub fn new(
        endpoint: &Endpoint,
        relays: Vec<Multiaddr>,
        config: RelayClientConfig,
    ) -> Result<Self, RelayAddressError> {
        let mut whole = Vec::with_capacity(relays.len());
        for addr in relays {
            let mut relay = addr.clone();
            if relay.iter().last() == Some(Protocol::P2pCircuit) {
                relay.pop();
            }
            let Some(peer) = relay.peer_id().filter(|_| !is_circuit(&relay)) else {
                return Err(RelayAddressError(addr));
            };
            whole.push((peer, relay));
        }
        let (sender, state) = watch::channel(RelayState::default());
        let started = Arc::new(Notify::new());
        let (puncher, max_pending) = (config.puncher, config.max_pending);
        let keeping = Keeping {
            endpoint: endpoint.downgrade(),
            keeper: Keeper::new(config.keeper.clone(), whole.len(), now()),
            held: whole.iter().map(|_| None).collect(),
            failed: whole.iter().map(|_| None).collect(),
            relays: whole,
            timeout: config.timeout,
            wanted: config.keeper.wanted,
            node: endpoint.state(),
            state: sender,
            asking: JoinSet::new(),
            watching: JoinSet::new(),
        };
        let start = Arc::clone(&started);
        let task = endpoint.spawn_until_stop(async move {
            start.notified().await;
            keeping.run(config.unless_public).await;
        });
        Ok(Self(Arc::new(Owner {
            state,
            started,
            task,
            puncher,
            max_pending,
        })))
    }

    /// Begins to ask relays. Best when the node listens: what relays see of its ports is what others may come through.
    pub fn start(&self) {
        self.0.started.notify_one();
    }

    /// What it has, and word of each change.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RelayState> {
        self.0.state.clone()
    }

    /// Takes circuits that come through the relays.
    #[must_use]
    pub fn register(&self, router: RouterBuilder) -> RouterBuilder {
        let stop = StopHandler {
            endpoint: router.endpoint().downgrade(),
            state: self.0.state.clone(),
            puncher: self.0.puncher.clone(),
            pending: Arc::new(Semaphore::new(self.0.max_pending)),
        };
        router.accept(STOP_PROTOCOL, stop)
    }
}

/// What a relay has granted.
struct Granted {
    connection: Connection,
    reserved: Reserved,
}

struct Held {
    reserved: Reserved,
    watch: AbortHandle,
}

/// The task of a [`RelayClient`].
struct Keeping {
    endpoint: WeakEndpoint,
    keeper: Keeper,
    relays: Vec<(PeerId, Multiaddr)>,
    held: Vec<Option<Held>>,
    failed: Vec<Option<RelayError>>,
    timeout: Duration,
    /// Reservations to have while they are of use.
    wanted: usize,
    node: watch::Receiver<State>,
    state: watch::Sender<RelayState>,
    asking: JoinSet<(usize, Result<Granted, RelayError>)>,
    /// One for each reservation; ends with its connection.
    watching: JoinSet<usize>,
}

impl Keeping {
    /// With `unless_public`, keeps reservations only while the node is not known to be reachable without; what is known until then is
    /// waited for so long.
    async fn run(mut self, unless_public: Option<Duration>) {
        if let Some(patience) = unless_public {
            let known = |state: &State| state.reachability != Reachability::Unknown;
            drop(tokio::time::timeout(patience, self.node.wait_for(known)).await);
        }
        let mut public = false;
        loop {
            if unless_public.is_some() {
                let now_public = self.node.borrow_and_update().reachability == Reachability::Public;
                if now_public != public {
                    public = now_public;
                    tracing::info!(
                        public,
                        "relays are used while others cannot reach this node"
                    );
                    let wanted = if public { 0 } else { self.wanted };
                    self.keeper.set_wanted(now(), wanted);
                }
            }
            while let Some(action) = self.keeper.poll(now()) {
                match action {
                    Action::Reserve(number) => self.ask(number),
                    Action::Drop(number) => self.drop_held(number),
                }
            }
            if !self.publish() {
                return;
            }
            let next = self.keeper.poll_timeout();
            tokio::select! {
                Some(done) = self.asking.join_next() => {
                    if let Ok((number, result)) = done {
                        self.asked(number, result);
                    }
                }
                Some(done) = self.watching.join_next() => {
                    // One that was aborted watched a connection that does not matter any more.
                    if let Ok(number) = done {
                        self.keeper.lost(now(), number);
                    }
                }
                changed = self.node.changed(), if unless_public.is_some() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = crate::endpoint::sleep_until(next.map(Into::into)) => {}
            }
        }
    }

    fn ask(&mut self, number: usize) {
        let Some((relay, addr)) = self.relays.get(number).cloned() else {
            return;
        };
        let (endpoint, timeout) = (self.endpoint.clone(), self.timeout);
        self.asking.spawn(async move {
            let asking = reserve(&endpoint, relay, &addr);
            let asked = tokio::time::timeout(timeout, asking).await;
            (number, asked.unwrap_or(Err(RelayError::Timeout)))
        });
    }

    fn asked(&mut self, number: usize, result: Result<Granted, RelayError>) {
        let now = now();
        match result {
            Ok(Granted {
                connection,
                reserved,
            }) => {
                self.keeper.reserved(now, number, reserved.until - now);
                self.drop_held(number);
                let watch = self.watching.spawn(async move {
                    let _lease = connection.lease("relay reservation");
                    connection.closed().await;
                    number
                });
                self.held[number] = Some(Held { reserved, watch });
                self.failed[number] = None;
            }
            Err(error) => {
                tracing::debug!(relay = %self.relays[number].0, %error, "no reservation");
                let failure = match error {
                    RelayError::Refused(_) | RelayError::Open(_) => Failure::Refused,
                    _ => Failure::Unreachable,
                };
                self.keeper.failed(now, number, failure, rand::random());
                self.failed[number] = Some(error);
            }
        }
    }

    fn drop_held(&mut self, number: usize) {
        if let Some(held) = self.held[number].take() {
            held.watch.abort();
        }
    }

    /// Tells what has changed; `false` when the endpoint is gone.
    fn publish(&self) -> bool {
        let reserved: Vec<_> = self
            .held
            .iter()
            .flatten()
            .map(|held| held.reserved.clone())
            .collect();
        let relays = self.relays.iter().zip(&self.failed);
        let failed = relays.filter_map(|((relay, _), error)| Some((*relay, error.clone()?)));
        let new = RelayState {
            reserved,
            failed: failed.collect(),
        };
        let Some(endpoint) = self.endpoint.upgrade() else {
            return false;
        };
        let addrs = new
            .reserved
            .iter()
            .flat_map(|reserved| reserved.addrs.clone());
        let addrs: Vec<_> = addrs.collect();
        if *self.state.borrow() != new {
            // Who hears of a reservation finds its addresses announced.
            let change = |all: &mut Addresses| all.set_relayed(addrs);
            endpoint.shared().change_addresses(change);
            self.state.send_replace(new);
        }
        true
    }
}

async fn reserve(
    endpoint: &WeakEndpoint,
    relay: PeerId,
    addr: &Multiaddr,
) -> Result<Granted, RelayError> {
    let endpoint = endpoint.upgrade().ok_or(RelayError::Timeout)?;
    // A dial does not keep the endpoint from its end.
    let shared = Arc::clone(endpoint.shared());
    drop(endpoint);
    let connection = match shared.direct(&relay) {
        Some(open) => open,
        None => {
            let target = DialTarget::from(addr.clone()).with_listening_ports();
            let dialled = shared.join_dial(&Whom::Peer(relay), target).await;
            dialled.map_err(|error| RelayError::Dial(Box::new(error)))?
        }
    };
    if connection.info().is_relayed() {
        return Err(RelayError::Nested);
    }
    let opened = connection.open_stream(HOP_PROTOCOL).await;
    let mut stream = opened.map_err(RelayError::Open)?;
    let asked = stream.write_chunk(wire::framed(&HopMessage::Reserve)).await;
    asked.map_err(RelayError::Stream)?;
    let answer = wire::read(&mut stream).await?;
    // There is nothing more to say on it.
    let _ = stream.finish();
    let (reservation, limit) = match answer {
        HopMessage::Status {
            status: Status::Ok,
            reservation: Some(reservation),
            limit,
        } => (reservation, limit),
        HopMessage::Status {
            status: Status::Ok, ..
        } => return Err(RelayError::Unexpected),
        HopMessage::Status { status, .. } => return Err(RelayError::Refused(status)),
        _ => return Err(RelayError::Unexpected),
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let left = Duration::from_secs(reservation.expire).checked_sub(since.unwrap_or_default());
    let left = left.ok_or(RelayError::Expired)?.min(MAX_TTL);
    if let Some(voucher) = &reservation.voucher {
        Voucher::open(voucher, &relay, &shared.peer_id).map_err(RelayError::Voucher)?;
    }
    // The address that led to the relay first; then what it says itself.
    let mut addrs: Vec<Multiaddr> = Vec::new();
    for at in std::iter::once(addr).chain(&reservation.addrs) {
        let whole = at.clone().with_peer(relay).ok();
        let through = whole.filter(|at| !is_circuit(at));
        let through = through.and_then(|at| at.with(Protocol::P2pCircuit).ok());
        if let Some(through) = through
            && addrs.len() < MAX_ADDRS
            && !addrs.contains(&through)
        {
            addrs.push(through);
        }
    }
    Ok(Granted {
        connection,
        reserved: Reserved {
            relay,
            addrs,
            until: now() + left,
            limit,
        },
    })
}

/// Takes circuits from the relays that this node has reservations at.
struct StopHandler {
    endpoint: WeakEndpoint,
    state: watch::Receiver<RelayState>,
    puncher: Option<HolePuncher>,
    pending: Arc<Semaphore>,
}

impl ProtocolHandler for StopHandler {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let relay = connection.peer_id();
        let known = self
            .state
            .borrow()
            .reserved
            .iter()
            .any(|held| held.relay == relay);
        let place = Arc::clone(&self.pending).try_acquire_owned();
        let (endpoint, puncher) = (self.endpoint.clone(), self.puncher.clone());
        Box::pin(async move {
            let refusal = match place {
                _ if !known || connection.info().is_relayed() => Some(Status::PermissionDenied),
                Err(_) => Some(Status::ResourceLimitExceeded),
                Ok(_) => None,
            };
            match accept(&endpoint, stream, &connection, refusal).await {
                Ok(Some(circuit)) => {
                    if let Some(puncher) = puncher {
                        puncher.begin(&circuit);
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%relay, %error, "no connection came of a circuit"),
            }
            drop(place);
        })
    }
}

/// Answers the relay, and makes a connection of the circuit unless it is to be refused.
async fn accept(
    endpoint: &WeakEndpoint,
    mut stream: Stream,
    connection: &Connection,
    mut refusal: Option<Status>,
) -> Result<Option<Connection>, RelayError> {
    let shared = endpoint
        .upgrade()
        .map(|endpoint| Arc::clone(endpoint.shared()));
    let Some(shared) = shared else {
        return Ok(None);
    };
    let timeout = shared.config().upgrade_timeout;
    let request = tokio::time::timeout(timeout, wire::read(&mut stream)).await;
    let mut circuit = None;
    match request.map_err(|_| RelayError::Timeout)? {
        Ok(StopMessage::Connect { peer, limit }) => circuit = Some((peer, limit)),
        Ok(StopMessage::Status(_)) => refusal = Some(Status::UnexpectedMessage),
        Err(RelayError::Message(error)) => refusal = Some(error.status()),
        Err(error) => return Err(error),
    }
    let relay_addr = connection.info().remote_addr.clone();
    let addr = relay_addr.with_peer(connection.peer_id());
    let addr = addr.and_then(|addr| addr.with(Protocol::P2pCircuit)).ok();
    let (Some((peer, limit)), None, Some(addr)) = (circuit, refusal, addr) else {
        let status = refusal.unwrap_or(Status::ConnectionFailed);
        let answer = wire::framed(&StopMessage::Status(status));
        let refused = stream.write_last(answer).await;
        return refused.map(|()| None).map_err(RelayError::Stream);
    };
    if let Err(Gated(why)) = shared.manager.on_accept(&addr) {
        shared.refused(&addr, Some(peer), Incident::Gated, LocalReason::Gated(why));
        let answer = wire::framed(&StopMessage::Status(Status::PermissionDenied));
        let refused = stream.write_last(answer).await;
        return refused.map(|()| None).map_err(RelayError::Stream);
    }
    let answer = wire::framed(&StopMessage::Status(Status::Ok));
    let answered = stream.write_chunk(answer).await;
    answered.map_err(RelayError::Stream)?;
    let raw = RawConnection::circuit(stream, addr, circuit_limit(limit));
    let upgraded = shared.transports.upgrade(raw, Role::Server, None).await;
    let (connection, inbound) = upgraded.map_err(RelayError::Upgrade)?;
    // The relay said who comes, and somebody else did.
    if connection.peer_id() != peer || peer == shared.peer_id {
        shared.close_unentered(&connection, crate::codes::CONNECTION_NORMAL);
        return Err(RelayError::Unexpected);
    }
    // It is told why it is refused.
    let established = shared.establish(&connection, inbound, None, false);
    Ok(established.is_ok().then_some(connection))
}
