//! The client's side: asking others to dial.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::PeerId;
use barewire_nat::autonat::{
    Client as Core, ClientConfig, DATA_CHUNK, DIAL_BACK_PROTOCOL, DIAL_BACK_RESPONSE,
    DIAL_REQUEST_PROTOCOL, DialBack, DialResponse, MAX_DIAL_BACK, MAX_MESSAGE, Message, Probe,
    Reachability, TestedAddr, V1_MAX_MESSAGE, V1_PROTOCOL, V1Message, Version,
};
use barewire_transport::{Connection, OpenStreamError, Role, Stream};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{AutonatError, may_test, seen_at, send};
use crate::{
    Endpoint, RouterBuilder, codes,
    endpoint::{Shared, State, WeakEndpoint, sleep_until},
    events::{Event, EventItem, Events},
    manager::now,
    protocols::frame,
    router::{BoxFuture, ProtocolHandler},
};

/// How long after a change of connections or addresses it is looked at, together with what else changes until then (own choice).
const SETTLE: Duration = Duration::from_millis(250);
/// Dial-backs that are read at once (own choice: several times those that are asked for).
const MAX_DIAL_BACKS: usize = 32;

/// Settings of an [`AutonatClient`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AutonatClientConfig {
    /// Whom to ask about what, and what to believe.
    pub client: ClientConfig,
    /// Whether private addresses and those of this machine are tested too. Default no.
    pub private: bool,
    /// How long a request may take. Default 30 s, as go-libp2p: paying, a pause, a dial and a word.
    pub timeout: Duration,
    /// How long a server may take to say its nonce once it has a stream. Default 5 s, as go-libp2p.
    pub dial_back_timeout: Duration,
}

impl Default for AutonatClientConfig {
    fn default() -> Self {
        Self {
            client: ClientConfig::default(),
            private: false,
            timeout: Duration::from_secs(30),
            dial_back_timeout: Duration::from_secs(5),
        }
    }
}

/// What an [`AutonatClient`] has found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AutonatState {
    /// Whether others can open connections to this node.
    pub reachability: Reachability,
    /// At which address.
    pub addrs: Vec<TestedAddr>,
    /// Peers that can be asked.
    pub servers: usize,
}

/// Finds out which addresses of a node others can reach, for as long as it lives. Cheap to clone. Holds no reference to its endpoint.
#[derive(Debug, Clone)]
pub struct AutonatClient(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    inner: Arc<Inner>,
    state: watch::Receiver<AutonatState>,
    task: AbortHandle,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Inner {
    core: Mutex<Core>,
    /// The core has been told something.
    told: Notify,
    config: AutonatClientConfig,
    dial_backs: Arc<Semaphore>,
}

impl AutonatClient {
    /// One for an endpoint. It asks the peers that offer to dial, as soon as it is [registered](Self::register).
    #[must_use]
    pub fn new(endpoint: &Endpoint, config: AutonatClientConfig) -> Self {
        let inner = Arc::new(Inner {
            core: Mutex::new(Core::new(config.client.clone())),
            told: Notify::new(),
            config,
            dial_backs: Arc::new(Semaphore::new(MAX_DIAL_BACKS)),
        });
        let (sender, state) = watch::channel(AutonatState::default());
        let driver = Driver {
            inner: Arc::clone(&inner),
            endpoint: endpoint.downgrade(),
            state: sender,
            probes: JoinSet::new(),
            look: Some(now()),
        };
        let task = endpoint.spawn_until_stop(driver.run(endpoint.events(), endpoint.state()));
        Self(Arc::new(Owner { inner, state, task }))
    }

    /// Hears what servers say on the connections that they make.
    #[must_use]
    pub fn register(&self, router: RouterBuilder) -> RouterBuilder {
        router.accept(
            DIAL_BACK_PROTOCOL,
            DialBackHandler(Arc::clone(&self.0.inner)),
        )
    }

    /// What it has found out, and word of each change.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<AutonatState> {
        self.0.state.clone()
    }

    /// Answers of servers that claimed what was not so.
    #[must_use]
    pub fn lies(&self) -> u64 {
        self.0.inner.core.lock().lies()
    }
}

/// The task of an [`AutonatClient`].
struct Driver {
    inner: Arc<Inner>,
    endpoint: WeakEndpoint,
    state: watch::Sender<AutonatState>,
    probes: JoinSet<()>,
    /// When to look at connections and addresses.
    look: Option<Instant>,
}

impl Driver {
    async fn run(mut self, mut events: Events, mut states: watch::Receiver<State>) {
        loop {
            if self.look.is_some_and(|at| at <= now()) {
                self.look = None;
                if !self.look() {
                    return;
                }
            }
            while let Some(probe) = self.poll() {
                let inner = Arc::clone(&self.inner);
                let endpoint = self.endpoint.clone();
                self.probes
                    .spawn(async move { inner.ask(&endpoint, probe).await });
            }
            if !self.publish() {
                return;
            }
            let next = self.inner.core.lock().poll_timeout();
            let next = next.into_iter().chain(self.look).min();
            tokio::select! {
                event = events.next() => match event {
                    Some(EventItem::Event(
                        Event::Identified { .. } | Event::Disconnected { .. },
                    ) | EventItem::Missed(_)) => self.look_soon(),
                    Some(_) => {}
                    None => return,
                },
                changed = states.changed() => match changed {
                    Ok(()) => self.look_soon(),
                    Err(_) => return,
                },
                Some(_) = self.probes.join_next() => {}
                () = self.inner.told.notified() => {}
                () = sleep_until(next.map(Into::into)) => {}
            }
        }
    }

    fn look_soon(&mut self) {
        self.look.get_or_insert_with(|| now() + SETTLE);
    }

    fn poll(&self) -> Option<Probe> {
        self.inner.core.lock().poll(now(), rand::random())
    }

    /// Takes in who is connected and where this node is; `false` when the endpoint is gone.
    fn look(&self) -> bool {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return false;
        };
        let (shared, private) = (endpoint.shared(), self.inner.config.private);
        let addrs = shared.testable(|addr| may_test(shared, addr, private));
        let mut offers = BTreeMap::new();
        for (connection, info) in shared.identified() {
            let version = match () {
                () if info.speaks(DIAL_REQUEST_PROTOCOL) => Version::V2,
                () if info.speaks(V1_PROTOCOL) => Version::V1,
                () => continue,
            };
            if let Some(ip) = seen_at(&connection) {
                offers.entry(info.peer_id).or_insert((ip, version));
            }
        }
        let mut core = self.inner.core.lock();
        core.set_addresses(now(), addrs);
        let gone: Vec<PeerId> = core
            .servers()
            .filter(|peer| !offers.contains_key(peer))
            .copied()
            .collect();
        for peer in gone {
            core.remove_server(&peer);
        }
        for (peer, (ip, version)) in offers {
            core.add_server(now(), peer, Some(ip), version);
        }
        true
    }

    /// Tells what has changed; `false` when the endpoint is gone.
    fn publish(&self) -> bool {
        let new = {
            let core = self.inner.core.lock();
            AutonatState {
                reachability: core.reachability(),
                addrs: core.tested(),
                servers: core.servers().count(),
            }
        };
        let Some(endpoint) = self.endpoint.upgrade() else {
            return false;
        };
        let old = self.state.borrow().clone();
        if old == new {
            return true;
        }
        if (old.reachability, &old.addrs) != (new.reachability, &new.addrs) {
            let (reachability, tested) = (new.reachability, new.addrs.clone());
            // Who hears of it here finds it announced.
            let change = |all: &mut crate::addresses::Addresses| {
                all.set_tested(reachability, tested);
            };
            endpoint.shared().change_addresses(change);
        }
        self.state.send_replace(new);
        true
    }
}

impl Inner {
    /// Carries out a request, and tells the core what came of it.
    async fn ask(&self, endpoint: &WeakEndpoint, probe: Probe) {
        let (id, server) = (probe.id, probe.server);
        let asking = async {
            let shared = endpoint
                .upgrade()
                .map(|endpoint| Arc::clone(endpoint.shared()));
            let shared = shared.ok_or(AutonatError::Gone)?;
            let connection = shared.direct(&server).ok_or(AutonatError::Gone)?;
            match probe.version {
                Version::V2 => self.ask_v2(&connection, &probe).await,
                Version::V1 => self.ask_v1(&shared, &connection, &probe).await,
            }
        };
        let asked = timeout(self.config.timeout, asking).await;
        if let Err(error) = asked.unwrap_or(Err(AutonatError::Timeout)) {
            tracing::debug!(%server, %error, "a server's answer does not count");
            if !matches!(error, AutonatError::Answer(_)) {
                self.core.lock().failed(now(), id);
            }
        }
    }

    async fn ask_v2(&self, connection: &Connection, probe: &Probe) -> Result<(), AutonatError> {
        let mut stream = open(connection, DIAL_REQUEST_PROTOCOL).await?;
        let request = Message::DialRequest {
            addrs: probe.addrs.iter().cloned().map(Some).collect(),
            nonce: probe.id.nonce(),
        };
        send(&mut stream, &request.encode()).await?;
        let mut answer = read(&mut stream).await?;
        if let Message::DialDataRequest { index, bytes } = answer {
            let granted = self
                .core
                .lock()
                .data_request(now(), probe.id, index, bytes)?;
            let mut left = usize::try_from(granted).unwrap_or_default();
            while left > 0 {
                let len = left.min(DATA_CHUNK);
                send(&mut stream, &Message::DialDataResponse { len }.encode()).await?;
                left -= len;
            }
            answer = read(&mut stream).await?;
        }
        let Message::DialResponse(response) = answer else {
            return Err(AutonatError::Unexpected);
        };
        self.answered(probe, response)
    }

    fn answered(&self, probe: &Probe, response: DialResponse) -> Result<(), AutonatError> {
        let progress = self.core.lock().answer(now(), probe.id, response)?;
        tracing::debug!(server = %probe.server, ?response, ?progress, "a server has answered");
        Ok(())
    }

    async fn ask_v1(
        &self,
        shared: &Shared,
        connection: &Connection,
        probe: &Probe,
    ) -> Result<(), AutonatError> {
        let mut stream = open(connection, V1_PROTOCOL).await?;
        let request = V1Message::Dial {
            peer: Some(shared.peer_id),
            addrs: probe.addrs.clone(),
        };
        send(&mut stream, &request.encode()).await?;
        let answer = frame::read(&mut stream, V1_MAX_MESSAGE).await?;
        let V1Message::DialResponse { status, .. } = V1Message::decode(&answer)? else {
            return Err(AutonatError::Unexpected);
        };
        tracing::debug!(server = %probe.server, %status, "a server has answered");
        let answered = self.core.lock().answer_v1(now(), probe.id, status);
        Ok(answered?)
    }

    async fn heed(&self, mut stream: Stream, connection: &Connection) -> Result<(), AutonatError> {
        let reading = frame::read(&mut stream, MAX_DIAL_BACK);
        let message = timeout(self.config.dial_back_timeout, reading).await;
        let message = message.map_err(|_| AutonatError::Timeout)??;
        let DialBack { nonce } = DialBack::decode(&message)?;
        let info = connection.info();
        // Whoever says it has to have come in by itself: on a connection that this node has made it proves nothing.
        let came_in = info.role == Role::Server && !info.is_relayed();
        let known = came_in && {
            let mut core = self.core.lock();
            core.dial_back(now(), nonce, &info.local_addr).is_ok()
        };
        if !known {
            stream.reset(codes::STREAM_PROTOCOL_VIOLATION);
            return Err(AutonatError::Unexpected);
        }
        self.told.notify_one();
        let writing = stream.write_last(frame::framed(&DIAL_BACK_RESPONSE));
        let written = timeout(self.config.dial_back_timeout, writing).await;
        let written = written.map_err(|_| AutonatError::Timeout)?;
        written.map_err(AutonatError::Stream)
    }
}

async fn open(connection: &Connection, protocol: &str) -> Result<Stream, AutonatError> {
    let opened = connection.open_stream_negotiated(&[protocol]).await;
    opened.map_err(|error: OpenStreamError| AutonatError::Open(error))
}

async fn read(stream: &mut Stream) -> Result<Message, AutonatError> {
    let message = frame::read(stream, MAX_MESSAGE).await?;
    Ok(Message::decode(&message)?)
}

/// Hears nonces, from any peer: servers dial with other identities than they are asked by.
struct DialBackHandler(Arc<Inner>);

impl ProtocolHandler for DialBackHandler {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let inner = Arc::clone(&self.0);
        let place = Arc::clone(&inner.dial_backs).try_acquire_owned();
        Box::pin(async move {
            let Ok(_place) = place else {
                stream.reset(codes::STREAM_RESOURCE_LIMIT);
                return;
            };
            if let Err(error) = inner.heed(stream, &connection).await {
                let peer = connection.peer_id();
                tracing::debug!(%peer, %error, "a dial-back that nobody waits for");
            }
        })
    }

    fn holds_connection(&self) -> bool {
        false
    }
}
