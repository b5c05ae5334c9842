//! The server's side: dialling those that ask.

use std::{
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_nat::autonat::{
    DIAL_BACK_PROTOCOL, DIAL_REQUEST_PROTOCOL, DialBack, DialResponse, DialStatus, MAX_MESSAGE,
    Message, MessageError, Payment, ResponseStatus, Server as Core, ServerConfig, Ticket,
    V1_MAX_MESSAGE, V1_PROTOCOL, V1Message, V1Status,
};
use barewire_transport::{Connection, LocalPort, Stream};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{AutonatError, may_test, seen_at, send};
use crate::{
    Endpoint, RouterBuilder, codes,
    dial::BlackHoleState,
    endpoint::WeakEndpoint,
    error::BindError,
    manager::now,
    metrics::{Live, MetricsSource},
    protocols::frame,
    router::{BoxFuture, ProtocolHandler},
};

/// Connections of the node that dials: more than it has at once within its limits.
const MAX_DIALLED: usize = 64;
/// Bytes that they all may buffer (own choice: a handshake and two short streams each).
const MAX_BUFFERED: usize = 4 << 20;

/// Settings of an [`AutonatServer`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AutonatServerConfig {
    /// How often what is done for whom.
    pub server: ServerConfig,
    /// Whether private addresses and those of this machine are dialled too. Default no.
    pub private: bool,
    /// How long a client may take for its request, for its data, and for the answer, each. Default 15 s, as go-libp2p's for all together.
    pub request_timeout: Duration,
    /// How long a dial may take. Default 10 s, as go-libp2p.
    pub dial_timeout: Duration,
    /// How long saying the nonce may take. Default 5 s, as go-libp2p.
    pub dial_back_timeout: Duration,
    /// How long a request of version 1 takes that leads to no connection: always the same, so that it tells nobody which ports answer
    /// how. Default 15 s, as go-libp2p.
    pub v1_timeout: Duration,
    /// Longest pause before a dial that was paid for, so that those of many servers do not come at once. Default 3 s, as go-libp2p.
    pub max_pause: Duration,
}

impl Default for AutonatServerConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            private: false,
            request_timeout: Duration::from_secs(15),
            dial_timeout: Duration::from_secs(10),
            dial_back_timeout: Duration::from_secs(5),
            v1_timeout: Duration::from_secs(15),
            max_pause: Duration::from_secs(3),
        }
    }
}

/// What an [`AutonatServer`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AutonatStats {
    /// Requests that are being served.
    pub running: usize,
    /// Requests that were refused.
    pub refused: u64,
    /// Dials that reached their peer.
    pub reached: u64,
    /// Dials that did not.
    pub failed: u64,
    /// Bytes of data that clients have sent because they were asked to.
    pub data: u64,
}

/// Dials peers that ask for it. Cheap to clone. Holds no reference to its endpoint.
#[derive(Clone)]
pub struct AutonatServer(Arc<Server>);

impl std::fmt::Debug for AutonatServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AutonatServer")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

struct Server {
    endpoint: WeakEndpoint,
    /// Dials with an identity and ports of its own.
    dialler: Endpoint,
    config: AutonatServerConfig,
    stop: CancellationToken,
    core: Mutex<Core>,
    refused: AtomicU64,
    reached: AtomicU64,
    failed: AtomicU64,
    data: AtomicU64,
}

impl AutonatServer {
    /// A server for an endpoint, with what it dials from. [`register`](Self::register) makes it answer.
    ///
    /// # Errors
    /// [`BindError`], as of an endpoint.
    pub async fn bind(endpoint: &Endpoint, config: AutonatServerConfig) -> Result<Self, BindError> {
        let mut own = endpoint.shared().config().clone();
        // Nobody is told of it, and nothing runs on its connections beside what they are for.
        own.peer_book = Default::default();
        own.identify.delay = None;
        own.ping.interval = None;
        own.limits.set_connections(MAX_DIALLED);
        own.limits.buffers = own.limits.buffers.min(MAX_BUFFERED);
        own.limits.buffers_per_peer = own.limits.buffers_per_peer.min(MAX_BUFFERED);
        let keypair = Keypair::generate(&mut rand::rng());
        let dialler = Endpoint::builder(keypair).config(own).bind().await?;
        let server = Arc::new(Server {
            endpoint: endpoint.downgrade(),
            dialler,
            stop: endpoint.shared().stop.clone(),
            core: Mutex::new(Core::new(config.server.clone())),
            config,
            refused: AtomicU64::new(0),
            reached: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            data: AtomicU64::new(0),
        });
        endpoint.add_metrics(Arc::downgrade(&server) as _);
        Ok(Self(server))
    }

    /// Answers peers that ask, in both versions.
    #[must_use]
    pub fn register(&self, router: RouterBuilder) -> RouterBuilder {
        router
            .accept(DIAL_REQUEST_PROTOCOL, self.clone())
            .accept(V1_PROTOCOL, V1Handler(Arc::clone(&self.0)))
    }

    /// What it does and has done.
    #[must_use]
    pub fn stats(&self) -> AutonatStats {
        self.0.stats()
    }
}

impl ProtocolHandler for AutonatServer {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let serving = server.serve(stream, &connection);
            server.run(&connection, serving).await;
        })
    }

    fn holds_connection(&self) -> bool {
        false
    }
}

struct V1Handler(Arc<Server>);

impl ProtocolHandler for V1Handler {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let serving = server.serve_v1(stream, &connection);
            server.run(&connection, serving).await;
        })
    }

    fn holds_connection(&self) -> bool {
        false
    }
}

/// A request in the account, however it ends.
struct Counted<'a> {
    server: &'a Server,
    ticket: Ticket,
    v1: bool,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut core = self.server.core.lock();
        if self.v1 {
            core.end_v1(&self.ticket);
        } else {
            core.end(&self.ticket);
        }
    }
}

impl MetricsSource for Server {
    fn collect(&self, live: &mut Live) {
        let stats = self.stats();
        let dials = [("reached", stats.reached), ("failed", stats.failed)];
        let dials = dials.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count));
        live.counter("autonat_dials", "Dials that peers have asked for", dials);
        let refused = [(Vec::new(), stats.refused)];
        live.counter(
            "autonat_refused",
            "Requests for dials that were refused",
            refused,
        );
        let data = [(Vec::new(), stats.data)];
        live.counter(
            "autonat_data_bytes",
            "Bytes that dials were paid for with",
            data,
        );
    }
}

impl Server {
    fn stats(&self) -> AutonatStats {
        AutonatStats {
            running: self.core.lock().running(),
            refused: self.refused.load(Ordering::Relaxed),
            reached: self.reached.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            data: self.data.load(Ordering::Relaxed),
        }
    }

    /// Serves a request unless the node ends meanwhile: nobody waits for its dials then.
    async fn run(
        &self,
        connection: &Connection,
        serving: impl Future<Output = Result<(), AutonatError>>,
    ) {
        if let Some(Err(error)) = self.stop.run_until_cancelled(serving).await {
            let peer = connection.peer_id();
            tracing::debug!(%peer, %error, "a request for a dial led to nothing");
        }
    }

    async fn serve(&self, mut stream: Stream, connection: &Connection) -> Result<(), AutonatError> {
        let peer = connection.peer_id();
        let respond = |response| Message::DialResponse(response).encode();
        let begun = self.core.lock().begin(now(), peer, seen_at(connection));
        let counted = match begun {
            Ok(ticket) => Counted {
                server: self,
                ticket,
                v1: false,
            },
            Err(refusal) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let refusal = DialResponse::refusal(refusal.status());
                return self.finish(stream, &respond(refusal)).await;
            }
        };
        let request = read(&mut stream, self.config.request_timeout).await;
        let (addrs, nonce) = match request {
            Ok(Message::DialRequest { addrs, nonce }) => (addrs, nonce),
            other => {
                stream.reset(codes::STREAM_PROTOCOL_VIOLATION);
                return Err(other.err().unwrap_or(AutonatError::Unexpected));
            }
        };
        let chosen = self.core.lock().choose(
            now(),
            &counted.ticket,
            &addrs,
            |addr| self.may_dial(&peer, addr),
            rand::random(),
        );
        let dial = match chosen {
            Ok(dial) => dial,
            Err(refusal) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, %refusal, "refused to dial");
                let refusal = DialResponse::refusal(refusal.status());
                return self.finish(stream, &respond(refusal)).await;
            }
        };
        if let Some(payment) = dial.payment {
            let paying = self.collect_data(&mut stream, dial.index, payment);
            let paid = timeout(self.config.request_timeout, paying).await;
            if let Err(error) = paid.unwrap_or(Err(AutonatError::Timeout)) {
                stream.reset(codes::STREAM_PROTOCOL_VIOLATION);
                return Err(error);
            }
            let pause = self.config.max_pause.mul_f64(rand::random());
            tokio::time::sleep(pause).await;
        }
        let came = self.dial_back(peer, &dial.addr, nonce).await;
        tracing::debug!(%peer, addr = %dial.addr, ?came, "dialled a peer that asked for it");
        self.count(came == DialStatus::Ok);
        let response = DialResponse {
            status: ResponseStatus::Ok,
            index: dial.index,
            dial: came,
        };
        self.finish(stream, &respond(response)).await
    }

    async fn collect_data(
        &self,
        stream: &mut Stream,
        index: u32,
        mut payment: Payment,
    ) -> Result<(), AutonatError> {
        let bytes = payment.bytes();
        send(stream, &Message::DialDataRequest { index, bytes }.encode()).await?;
        loop {
            let message = frame::read(stream, MAX_MESSAGE).await?;
            let Message::DialDataResponse { len } = Message::decode(&message)? else {
                return Err(AutonatError::Unexpected);
            };
            self.data.fetch_add(len as u64, Ordering::Relaxed);
            if payment.pay(len)? {
                return Ok(());
            }
        }
    }

    async fn dial_back(&self, peer: PeerId, addr: &Multiaddr, nonce: u64) -> DialStatus {
        let dialling = self.dial(peer, addr);
        let Ok(Some(connection)) = timeout(self.config.dial_timeout, dialling).await else {
            return DialStatus::DialError;
        };
        let said = timeout(self.config.dial_back_timeout, say(&connection, nonce)).await;
        let status = match said {
            Ok(Ok(mut stream)) => {
                // The end of the connection would overtake the nonce, so it waits for any sign that it was heard. go-libp2p's clients
                // answer and then reset the stream, of which the reset may be all that comes.
                drop(timeout(self.config.dial_back_timeout, stream.read_chunk(1)).await);
                DialStatus::Ok
            }
            _ => DialStatus::DialBackError,
        };
        connection.close(codes::CONNECTION_NORMAL);
        status
    }

    /// A new connection from the other identity.
    async fn dial(&self, peer: PeerId, addr: &Multiaddr) -> Option<Connection> {
        let shared = self.dialler.shared();
        let dialled = shared
            .transports
            .dial_from(addr, Some(peer), LocalPort::New)
            .await;
        let (connection, inbound) = dialled.ok()?;
        let established = shared.establish(&connection, inbound, None, false);
        established.is_ok().then_some(connection)
    }

    async fn serve_v1(
        &self,
        mut stream: Stream,
        connection: &Connection,
    ) -> Result<(), AutonatError> {
        let peer = connection.peer_id();
        let reading = frame::read(&mut stream, V1_MAX_MESSAGE);
        let read = timeout(self.config.request_timeout, reading).await;
        let message = match read {
            Ok(Ok(message)) => V1Message::decode(&message).map_err(AutonatError::from),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(AutonatError::Timeout),
        };
        let (status, addr) = match message {
            Ok(V1Message::Dial {
                peer: claimed,
                addrs,
            }) => {
                let from = seen_at(connection);
                let begun = self
                    .core
                    .lock()
                    .begin_v1(now(), peer, from, claimed, &addrs, |addr| {
                        self.may_dial(&peer, addr)
                    });
                match begun {
                    Ok((ticket, addrs)) => {
                        let counted = Counted {
                            server: self,
                            ticket,
                            v1: true,
                        };
                        let reached = self.dial_any(peer, addrs).await;
                        drop(counted);
                        self.count(reached.is_some());
                        match reached {
                            Some(addr) => (V1Status::Ok, Some(addr)),
                            None => (V1Status::DialError, None),
                        }
                    }
                    Err(refusal) => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(%peer, %refusal, "refused to dial");
                        (refusal.status(), None)
                    }
                }
            }
            Err(AutonatError::Message(MessageError::Peer)) => (V1Status::BadRequest, None),
            other => {
                stream.reset(codes::STREAM_PROTOCOL_VIOLATION);
                return Err(other.err().unwrap_or(AutonatError::Unexpected));
            }
        };
        let response = V1Message::DialResponse { status, addr };
        self.finish(stream, &response.encode()).await
    }

    /// The first address that leads to a connection. Without one, the answer takes its whole time.
    async fn dial_any(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> Option<Multiaddr> {
        let end = tokio::time::sleep(self.config.v1_timeout);
        tokio::pin!(end);
        let mut dials = JoinSet::new();
        for addr in addrs {
            let transports = self.dialler.shared().transports.clone();
            dials.spawn(async move {
                let dialled = transports
                    .dial_from(&addr, Some(peer), LocalPort::New)
                    .await;
                dialled.is_ok().then_some(addr)
            });
        }
        loop {
            tokio::select! {
                () = &mut end => return None,
                Some(done) = dials.join_next() => {
                    if let Ok(Some(addr)) = done {
                        return Some(addr);
                    }
                }
            }
        }
    }

    /// Says the last word, to a client that may not listen.
    async fn finish(&self, mut stream: Stream, message: &[u8]) -> Result<(), AutonatError> {
        let writing = stream.write_last(frame::framed(message));
        let written = timeout(self.config.request_timeout, writing).await;
        let written = written.map_err(|_| AutonatError::Timeout)?;
        written.map_err(AutonatError::Stream)
    }

    fn count(&self, reached: bool) {
        let counter = if reached { &self.reached } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether to dial an address for a peer: one that this node could reach if it is there at all, and not this node itself.
    fn may_dial(&self, peer: &PeerId, addr: &Multiaddr) -> bool {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return false;
        };
        let shared = endpoint.shared();
        let stats = endpoint.dial_stats();
        let ipv6 = addr.ip().is_some_and(|ip| ip.is_ipv6());
        let quic = addr.to_quic().is_some();
        let blocked = (ipv6 && stats.ipv6 == BlackHoleState::Blocked)
            || (quic && stats.udp == BlackHoleState::Blocked);
        !blocked
            && may_test(shared, addr, self.config.private)
            && !self.is_own(&endpoint, addr)
            && shared.manager.before_dial(Some(peer), addr).is_ok()
    }

    /// An address of this machine, unless those are meant. Others are nobody's business to have dialled from inside.
    fn is_own(&self, endpoint: &Endpoint, addr: &Multiaddr) -> bool {
        let own = |ip: IpAddr| {
            let state = endpoint.state();
            let state = state.borrow();
            let mut all = state.addresses.iter().chain(&state.external_addrs);
            all.any(|own| own.ip() == Some(ip))
        };
        !self.config.private && addr.ip().is_some_and(own)
    }
}

async fn read(stream: &mut Stream, limit: Duration) -> Result<Message, AutonatError> {
    let reading = frame::read(stream, MAX_MESSAGE);
    let message = timeout(limit, reading).await;
    let message = message.map_err(|_| AutonatError::Timeout)??;
    Ok(Message::decode(&message)?)
}

/// Says a nonce.
async fn say(connection: &Connection, nonce: u64) -> Result<Stream, AutonatError> {
    let opened = connection
        .open_stream_negotiated(&[DIAL_BACK_PROTOCOL])
        .await;
    let mut stream = opened.map_err(AutonatError::Open)?;
    let message = frame::framed(&DialBack { nonce }.encode());
    let written = stream.write_last(message).await;
    written.map_err(AutonatError::Stream)?;
    Ok(stream)
}
