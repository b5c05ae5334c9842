//! DCUtR: from a connection through a relay to a direct one, by dialling each other at the same time.
//!
//! The node whose relayed connection is inbound begins, by itself. As soon as there is a direct connection new streams go over it; what
//! runs on the relayed one runs to its end, then that one is closed. [`Event::HolePunch`] tells each step.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use barewire_base::{Fault, Multiaddr, PeerId, Protocol};
use barewire_nat::dcutr::{
    Attempts, Exchange, MAX_ADDRS, MAX_MESSAGE, Punch, PunchMessage, Step, initiator_side,
};
use barewire_transport::{Connection, OpenStreamError, Role, Stream, StreamError};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::frame::{self, ReadError};
use crate::{
    Endpoint, RouterBuilder,
    addresses::Scope,
    codes,
    dial::DialTarget,
    endpoint::{Shared, WeakEndpoint},
    events::Event,
    manager::now,
    router::{BoxFuture, ProtocolHandler},
};

pub use barewire_nat::dcutr::{AttemptsConfig, ExchangeError, MessageError, PROTOCOL, Side};

/// Exchanges and attempts for each relayed connection, as go-libp2p.
const ATTEMPTS: u32 = 3;
/// Between looks whether the peer's dial was the one that came through (own choice).
const LOOK: Duration = Duration::from_millis(5);
/// How long the peer's dial may take after ours have all failed (own choice).
const GRACE: Duration = Duration::from_millis(300);

/// After how long the server dials over QUIC too: the client's dial has come by then where it can. Where this node's router gives each
/// connection a port of its own it cannot, and this node's may (own choice: longer than most round trips).
const PATIENCE: Duration = Duration::from_millis(300);
/// The same beside a peer that closes the second one of two connections, as this node does: whose dial is done first is half a round
/// trip earlier.
const NO_PATIENCE: Duration = Duration::ZERO;

/// Settings of a [`HolePuncher`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HolePunchConfig {
    /// Whether private addresses are named and dialled too. Default false: whoever names them could have this node knock at doors of
    /// its own network.
    pub private: bool,
    /// How often a peer may have this node dial. Default three times in 10 minutes.
    pub attempts: AttemptsConfig,
    /// How long an ordinary dial of the peer's public addresses may take, which runs beside the attempts. Default 5 s, as an attempt
    /// (own choice; go-libp2p makes attempts only after such a dial has failed, for which it gives it 10 s).
    pub dial_timeout: Duration,
    /// How long an exchange may take. Default 10 s, as rust-libp2p.
    pub exchange_timeout: Duration,
    /// How long an attempt may take. Default 5 s, as go- and rust-libp2p over QUIC.
    pub punch_timeout: Duration,
}

impl Default for HolePunchConfig {
    fn default() -> Self {
        Self {
            private: false,
            attempts: AttemptsConfig::default(),
            dial_timeout: Duration::from_secs(5),
            exchange_timeout: Duration::from_secs(10),
            punch_timeout: Duration::from_secs(5),
        }
    }
}

/// A step towards a direct connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PunchStep {
    /// The peer's public addresses are dialled, beside the attempts.
    Dialling,
    /// Both dial now.
    Punching {
        /// From 1.
        attempt: u32,
        /// What this node is to be on the connection.
        side: Side,
        /// Where it dials.
        addrs: Vec<Multiaddr>,
        /// The round trip through the relay, where it was measured.
        rtt: Option<Duration>,
    },
    /// There is a direct connection.
    Direct {
        /// Its remote address.
        addr: Multiaddr,
        /// The attempt that led to it; 0 for the ordinary dial.
        attempt: u32,
        /// Since the first step.
        took: Duration,
    },
    /// There will be none; the relayed one stays.
    Failed(PunchError),
}

/// Why there is no direct connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PunchError {
    /// The peer does not speak DCUtR, or cannot be asked.
    #[error("the peer does not take part: {0}")]
    Unsupported(OpenStreamError),
    /// The stream to it failed.
    #[error("the stream failed: {0}")]
    Stream(StreamError),
    /// It ended the stream.
    #[error("the peer ended the exchange")]
    Ended,
    /// It was too slow.
    #[error("the exchange was not done in time")]
    Timeout,
    /// What it said cannot be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// What it said, or this node has to say, leads nowhere.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// It has had its share of attempts.
    #[error("too many attempts")]
    TooMany,
    /// No dial came through.
    #[error("no dial came through; the routers may give each connection a port of its own")]
    NoWay,
}

impl PunchError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Stream(error) => error.fault(),
            Self::Message(error) => error.fault(),
            Self::Exchange(error) => error.fault(),
            Self::TooMany => Fault::Limit,
            Self::Timeout | Self::NoWay => Fault::Network,
            _ => Fault::Peer,
        }
    }
}

impl From<StreamError> for PunchError {
    fn from(error: StreamError) -> Self {
        match error {
            // The stream was opened without waiting for an answer.
            StreamError::ProtocolNotSupported(protocol) => {
                Self::Unsupported(OpenStreamError::ProtocolNotSupported(protocol))
            }
            error => Self::Stream(error),
        }
    }
}

impl From<ReadError> for PunchError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stream(error) => error.into(),
            ReadError::Ended => Self::Ended,
            ReadError::TooLong(len) => Self::Message(MessageError::TooLong(len)),
        }
    }
}

/// Opens direct connections beside relayed ones. Cheap to clone. Holds no reference to its endpoint.
#[derive(Clone)]
pub struct HolePuncher(Arc<Puncher>);

impl std::fmt::Debug for HolePuncher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HolePuncher")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

struct Puncher {
    endpoint: WeakEndpoint,
    config: HolePunchConfig,
    attempts: Mutex<Attempts>,
    /// Peers that this node is at work for. Bounded by its connections.
    active: Mutex<HashSet<PeerId>>,
}

impl HolePuncher {
    /// One for an endpoint. [`register`](Self::register) makes it answer;
    /// [`RelayClientConfig::puncher`](super::relay::RelayClientConfig::puncher) makes it begin.
    #[must_use]
    pub fn new(endpoint: &Endpoint, config: HolePunchConfig) -> Self {
        Self(Arc::new(Puncher {
            endpoint: endpoint.downgrade(),
            attempts: Mutex::new(Attempts::new(config.attempts.clone())),
            active: Mutex::default(),
            config,
        }))
    }

    /// Answers peers that want a direct connection.
    #[must_use]
    pub fn register(&self, router: RouterBuilder) -> RouterBuilder {
        router.accept(PROTOCOL, self.clone())
    }

    /// Works on a direct connection beside an inbound relayed one.
    pub(crate) fn begin(&self, connection: &Connection) {
        let Some(endpoint) = self.0.endpoint.upgrade() else {
            return;
        };
        let (puncher, connection) = (Arc::clone(&self.0), connection.clone());
        endpoint.spawn_until_stop(async move { puncher.initiate(&connection).await });
    }
}

impl ProtocolHandler for HolePuncher {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let puncher = Arc::clone(&self.0);
        Box::pin(async move {
            let info = connection.info();
            if !info.is_relayed() || info.role != Role::Client {
                stream.reset(codes::STREAM_PROTOCOL_VIOLATION);
                return;
            }
            puncher.respond(stream, &connection).await;
        })
    }
}

/// A peer that this node is at work for, until it is dropped.
struct Active<'a>(&'a Puncher, PeerId);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.lock().remove(&self.1);
    }
}

impl Puncher {
    fn activate(&self, peer: PeerId) -> Option<Active<'_>> {
        self.active.lock().insert(peer).then(|| Active(self, peer))
    }

    fn tell(&self, peer: PeerId, step: PunchStep) {
        tracing::debug!(%peer, ?step, "towards a direct connection");
        if let Some(shared) = self.shared() {
            shared.emit(|| Event::HolePunch { peer, step });
        }
    }

    async fn initiate(&self, connection: &Connection) {
        let peer = connection.peer_id();
        let Some(_active) = self.activate(peer) else {
            return;
        };
        let begun = now();
        match self.to_direct(connection).await {
            Ok(Some((addr, attempt))) => {
                self.attempts.lock().forget(&peer);
                let took = now() - begun;
                self.tell(
                    peer,
                    PunchStep::Direct {
                        addr,
                        attempt,
                        took,
                    },
                );
            }
            Ok(None) => {}
            Err(error) => self.tell(peer, PunchStep::Failed(error)),
        }
    }

    /// The address that led to a direct connection, and in which attempt; `None` when there was one or the relayed one ended.
    async fn to_direct(
        &self,
        connection: &Connection,
    ) -> Result<Option<(Multiaddr, u32)>, PunchError> {
        let peer = connection.peer_id();
        if self.direct(&peer).is_some() {
            return Ok(None);
        }
        // What the peer says about itself takes a round trip, which the first exchange does not wait for.
        let mut dialling = pin!(self.dial_public(connection));
        let mut punching = pin!(self.attempt_all(connection));
        let dialled = |addr| Ok(Some((addr, 0)));
        tokio::select! {
            addr = &mut dialling => match addr {
                Some(addr) => dialled(addr),
                None => punching.await,
            },
            punched = &mut punching => match punched {
                Err(error) => dialling.await.map_or(Err(error), dialled),
                punched => punched,
            },
        }
    }

    async fn attempt_all(
        &self,
        connection: &Connection,
    ) -> Result<Option<(Multiaddr, u32)>, PunchError> {
        let peer = connection.peer_id();
        self.ask_relay(connection).await;
        for attempt in 1..=ATTEMPTS {
            if connection.close_reason().is_some() {
                return Ok(None);
            }
            if !self.attempts.lock().take(now(), peer) {
                return Err(PunchError::TooMany);
            }
            let exchange = tokio::time::timeout(self.config.exchange_timeout, self.ask(connection));
            let punch = exchange.await.unwrap_or(Err(PunchError::Timeout))?;
            let side = initiator_side(attempt);
            if let Some(addr) = self.punch(connection, punch, side, attempt).await {
                return Ok(Some((addr, attempt)));
            }
        }
        Err(PunchError::NoWay)
    }

    /// Hears from the relay where it sees this node, if it has not said so yet.
    async fn ask_relay(&self, connection: &Connection) {
        if let Some(shared) = self.shared()
            && let Some(relay) = relay_of(&connection.info().remote_addr)
            && let Some(relay) = shared.direct(&relay)
        {
            // Other addresses of this node may do.
            drop(shared.identify(&relay).await);
        }
    }

    /// Dials the peer where it says that it may be dialled as things are.
    async fn dial_public(&self, connection: &Connection) -> Option<Multiaddr> {
        let (shared, peer) = (self.shared()?, connection.peer_id());
        let info = shared.identify(connection).await.ok()?;
        let public = info.listen_addrs.iter().filter(|addr| self.may_dial(addr));
        let public: Vec<_> = public.take(MAX_ADDRS).cloned().collect();
        if public.is_empty() {
            return None;
        }
        self.tell(peer, PunchStep::Dialling);
        self.dial(peer, public).await
    }

    async fn dial(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> Option<Multiaddr> {
        let shared = self.shared()?;
        let target = DialTarget::from((peer, addrs)).with_new_ports();
        let dialling = shared.dial(&target, false);
        let dialled = tokio::time::timeout(self.config.dial_timeout, dialling).await;
        Some(dialled.ok()?.ok()?.info().remote_addr.clone())
    }

    /// The initiator's exchange.
    async fn ask(&self, connection: &Connection) -> Result<Punch, PunchError> {
        // The first message goes out with the proposal of the protocol.
        let opened = connection.open_stream(PROTOCOL).await;
        let mut stream = opened.map_err(PunchError::Unsupported)?;
        let (mut exchange, connect) = Exchange::initiate(now(), self.own_addrs())?;
        send(&mut stream, &connect).await?;
        self.converse(&mut exchange, &mut stream).await
    }

    async fn respond(&self, mut stream: Stream, connection: &Connection) {
        let peer = connection.peer_id();
        if !self.attempts.lock().take(now(), peer) {
            stream.reset(codes::STREAM_RATE_LIMITED);
            self.tell(peer, PunchStep::Failed(PunchError::TooMany));
            return;
        }
        let begun = now();
        let exchange = async {
            self.ask_relay(connection).await;
            let mut exchange = Exchange::respond(self.own_addrs());
            self.converse(&mut exchange, &mut stream).await
        };
        let exchange = tokio::time::timeout(self.config.exchange_timeout, exchange).await;
        let punch = match exchange.unwrap_or(Err(PunchError::Timeout)) {
            Ok(punch) => punch,
            Err(error) => {
                stream.reset(codes::STREAM_PROTOCOL_VIOLATION);
                // The peer lets go of the exchange when its ordinary dial has come through.
                if self.direct(&peer).is_none() {
                    self.tell(peer, PunchStep::Failed(error));
                }
                return;
            }
        };
        drop(stream);
        let step = match self.punch(connection, punch, Side::Client, 1).await {
            Some(addr) => {
                self.attempts.lock().forget(&peer);
                PunchStep::Direct {
                    addr,
                    attempt: 1,
                    took: now() - begun,
                }
            }
            None => PunchStep::Failed(PunchError::NoWay),
        };
        self.tell(peer, step);
    }

    async fn converse(
        &self,
        exchange: &mut Exchange,
        stream: &mut Stream,
    ) -> Result<Punch, PunchError> {
        loop {
            let message = frame::read(stream, MAX_MESSAGE).await?;
            let message = PunchMessage::decode(&message)?;
            match exchange.handle(now(), message, |addr| self.may_dial(addr))? {
                Step::Send(message) => send(stream, &message).await?,
                Step::Punch(message, punch) => {
                    if let Some(message) = message {
                        send(stream, &message).await?;
                    }
                    // All is said.
                    drop(stream.finish());
                    return Ok(punch);
                }
            }
        }
    }

    /// Dials all addresses at once; that of the connection, which may be one that the peer's dial has made.
    async fn punch(
        &self,
        connection: &Connection,
        punch: Punch,
        side: Side,
        attempt: u32,
    ) -> Option<Multiaddr> {
        let peer = connection.peer_id();
        let step = PunchStep::Punching {
            attempt,
            side,
            addrs: punch.addrs.clone(),
            rtt: punch.rtt,
        };
        self.tell(peer, step);
        tokio::time::sleep_until(punch.at.into()).await;
        let role = match side {
            Side::Client => Role::Client,
            Side::Server => Role::Server,
        };
        // The peer speaks what it has spoken through the relay.
        let security = connection.info().security;
        let info = self.endpoint.upgrade()?.peer_info(&peer);
        let patience = match info.is_some_and(|info| info.is_barewire()) {
            true => NO_PATIENCE,
            false => PATIENCE,
        };
        let mut dials = JoinSet::new();
        for addr in punch.addrs {
            let transports = self.shared()?.transports.clone();
            dials.spawn(async move {
                transports
                    .punch(&addr, peer, role, patience, security)
                    .await
            });
        }
        let mut end = now() + self.config.punch_timeout;
        while now() < end {
            let done = tokio::select! {
                Some(done) = dials.join_next() => done.ok(),
                () = tokio::time::sleep(LOOK) => None,
            };
            let shared = self.shared()?;
            if let Some(Ok((connection, inbound))) = done
                && connection.peer_id() == peer
            {
                // One that is not wanted is told why.
                let established = shared.establish(&connection, inbound, None, false);
                if established.is_ok() {
                    return Some(connection.info().remote_addr.clone());
                }
            }
            if let Some(direct) = self.direct(&peer) {
                return Some(direct.info().remote_addr.clone());
            }
            if dials.is_empty() {
                end = end.min(now() + GRACE);
                dials.spawn(std::future::pending());
            }
        }
        None
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        let endpoint = self.endpoint.upgrade()?;
        Some(Arc::clone(endpoint.shared()))
    }

    fn direct(&self, peer: &PeerId) -> Option<Connection> {
        self.shared()?.direct(peer)
    }

    /// Where this node may be reached: what others agree on, what some say, what it listens on.
    fn own_addrs(&self) -> Vec<Multiaddr> {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return Vec::new();
        };
        let mut all = endpoint.external_addrs();
        all.extend(endpoint.state().borrow().mapped_addrs.iter().cloned());
        all.extend(endpoint.shared().seen_at());
        all.extend(endpoint.addresses());
        let mut own: Vec<Multiaddr> = Vec::new();
        for addr in all {
            if own.len() < MAX_ADDRS && self.may_dial(&addr) && !own.contains(&addr) {
                own.push(addr);
            }
        }
        own
    }

    fn may_dial(&self, addr: &Multiaddr) -> bool {
        let punched = addr.to_tcp().is_some() || addr.to_quic().is_some();
        let scope = addr.ip().map(Scope::of);
        punched
            && match scope {
                Some(Scope::Public) => true,
                Some(Scope::Private) => self.config.private,
                _ => false,
            }
    }
}

async fn send(stream: &mut Stream, message: &PunchMessage) -> Result<(), PunchError> {
    let sent = stream.write_chunk(frame::framed(&message.encode())).await;
    Ok(sent?)
}

/// The relay in `/…/p2p/RELAY/p2p-circuit`.
fn relay_of(addr: &Multiaddr) -> Option<PeerId> {
    let mut addr = addr.clone();
    match addr.pop() {
        Some(Protocol::P2pCircuit) => addr.peer_id(),
        _ => None,
    }
}
