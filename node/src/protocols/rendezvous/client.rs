//! The client: connections to the points, requests, and what becomes of the answers.

use std::time::Duration;

use barewire_base::{Multiaddr, PeerId};
use barewire_rendezvous::{
    Answer, Client as Core, ClientConfig, ClientError, Discovered, Failed, Outgoing, Output,
    PointId, Status,
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::ask::{AskError, ask, sign};
use crate::{
    discovery::Discovery,
    endpoint::{Endpoint, State, WeakEndpoint, sleep_until},
    manager::{KeptPeer, KeptState},
    peer_book::AddressSource,
};

/// Events kept for a reader that is behind.
const MAX_EVENTS: usize = 256;
/// Addresses in a record: as many as the peer book of whoever finds this node serves.
const MAX_ADDRESSES: usize = 16;

/// What happens to a client, for people and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// Registered with a point, or registered anew.
    Registered {
        /// The point, as it was given.
        point: Multiaddr,
        /// The namespace.
        ns: String,
        /// For so long.
        ttl: Duration,
    },
    /// A peer was found that was not known, or has a new record.
    Discovered {
        /// The point, as it was given.
        point: Multiaddr,
        /// The namespace.
        ns: String,
        /// The peer.
        peer: PeerId,
        /// Its addresses, signed by it.
        addrs: Vec<Multiaddr>,
    },
    /// A point refused; it will be asked again.
    Refused {
        /// The point, as it was given.
        point: Multiaddr,
        /// The namespace.
        ns: String,
        /// Why.
        status: Status,
        /// Why, in words of the point.
        text: String,
    },
}

/// Keeps a node registered with points and finds others there, until it is dropped.
///
/// Each point is kept connected. What is found goes into the peer book of the endpoint, and to a [`Discovery`]
/// that connects.
#[derive(Debug)]
pub struct Client {
    events: broadcast::Sender<ClientEvent>,
    task: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Starts a client of points, each given by its address with its id at the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn spawn(
        endpoint: &Endpoint,
        points: Vec<Multiaddr>,
        config: ClientConfig,
        discovery: Option<Discovery>,
    ) -> Result<Self, ClientError> {
        let core = Core::new(config, endpoint.peer_id(), points.len(), rand::random())?;
        let events = broadcast::Sender::new(MAX_EVENTS);
        let driver = Driver {
            core,
            owner: endpoint.downgrade(),
            state: endpoint.state(),
            points: points.iter().map(|addr| (addr.clone(), None)).collect(),
            announced: Vec::new(),
            requests: JoinSet::new(),
            events: events.clone(),
            discovery,
        };
        let kept: Vec<_> = points
            .into_iter()
            .map(|addr| endpoint.keep_connected([addr]))
            .collect();
        let task = endpoint.spawn_until_stop(driver.run(kept));
        Ok(Self { events, task })
    }

    /// What happens from now on. A reader that falls behind misses events and is told how many.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ClientEvent> {
        self.events.subscribe()
    }
}

/// What was waited for beside the driver.
enum Done {
    /// A point that is connected has said what it is.
    Greeted(PointId, PeerId, bool),
    Asked(PointId, Result<Option<Answer>, AskError>),
}

struct Driver {
    core: Core,
    owner: WeakEndpoint,
    state: watch::Receiver<State>,
    /// Their addresses, and who they are while they are connected.
    points: Vec<(Multiaddr, Option<PeerId>)>,
    /// The addresses in the last record signed.
    announced: Vec<Multiaddr>,
    requests: JoinSet<Done>,
    events: broadcast::Sender<ClientEvent>,
    discovery: Option<Discovery>,
}

impl Driver {
    async fn run(mut self, kept: Vec<KeptPeer>) {
        let (changes, mut changed) = mpsc::channel(kept.len().max(1));
        let mut watches = JoinSet::new();
        for (index, kept) in kept.iter().enumerate() {
            watches.spawn(follow(PointId(index), kept.watch(), changes.clone()));
        }
        drop(changes);
        loop {
            if !self.announce() {
                return;
            }
            while let Some(output) = self.core.poll_output(Instant::now().into_std()) {
                self.act(output);
            }
            let wake = self.core.poll_timeout().map(Instant::from_std);
            tokio::select! {
                change = changed.recv() => match change {
                    Some((point, peer)) => self.point_changed(point, peer),
                    None => return,
                },
                Some(done) = self.requests.join_next() => if let Ok(done) = done {
                    self.done(done);
                },
                alive = self.state.changed() => if alive.is_err() { return },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Signs a new record if the addresses have changed. `false` when the endpoint is gone.
    fn announce(&mut self) -> bool {
        let Some(endpoint) = self.owner.upgrade() else {
            return false;
        };
        let addrs = {
            let state = self.state.borrow_and_update();
            let all = state.external_addrs.iter().chain(&state.addresses);
            all.take(MAX_ADDRESSES).cloned().collect::<Vec<_>>()
        };
        if addrs == self.announced {
            return true;
        }
        let records = sign(&endpoint, addrs.clone());
        self.core.set_records(Instant::now().into_std(), records);
        self.announced = addrs;
        true
    }

    fn point_changed(&mut self, point: PointId, peer: Option<PeerId>) {
        if let Some(known) = self.points.get_mut(point.0) {
            known.1 = peer;
        }
        self.core.disconnected(point);
        let endpoint = self.owner.upgrade();
        let connection = endpoint
            .clone()
            .zip(peer)
            .and_then(|(endpoint, peer)| endpoint.connection(&peer));
        if let Some((endpoint, connection)) = endpoint.zip(connection) {
            self.requests.spawn(async move {
                let info = endpoint.identify(&connection).await;
                let takes_both = info.is_ok_and(|info| info.is_barewire());
                Done::Greeted(point, connection.peer_id(), takes_both)
            });
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Greeted(point, peer, takes_both) => {
                let known = self.points.get(point.0).and_then(|known| known.1);
                if known == Some(peer) {
                    self.core
                        .connected(Instant::now().into_std(), point, takes_both);
                }
            }
            Done::Asked(point, result) => self.answered(point, result),
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Send(outgoing) => self.send(outgoing),
            Output::Registered { point, ns, ttl } => {
                let point = self.name(point);
                self.tell(ClientEvent::Registered { point, ns, ttl });
            }
            Output::Refused {
                point,
                ns,
                status,
                text,
            } => {
                let point = self.name(point);
                tracing::info!(%point, ns, status = status.name(), "a rendezvous point refuses");
                self.tell(ClientEvent::Refused {
                    point,
                    ns,
                    status,
                    text,
                });
            }
            Output::Discovered(found) => self.discovered(found),
            _ => {}
        }
    }

    fn send(&mut self, Outgoing { point, request }: Outgoing) {
        let peer = self.points.get(point.0).and_then(|known| known.1);
        let endpoint = self.owner.upgrade();
        let connection = endpoint
            .zip(peer)
            .and_then(|(endpoint, peer)| endpoint.connection(&peer));
        match connection {
            Some(connection) => {
                let asking = async move { Done::Asked(point, ask(&connection, &request).await) };
                self.requests.spawn(asking);
            }
            None => self
                .core
                .failed(Instant::now().into_std(), point, Failed::Other),
        }
    }

    fn answered(&mut self, point: PointId, result: Result<Option<Answer>, AskError>) {
        let now = Instant::now().into_std();
        let why = match result {
            Ok(Some(answer)) => return self.core.answered(now, point, answer),
            Ok(None) => Failed::Other,
            Err(error) => {
                tracing::debug!(point = %self.name(point), %error, "a rendezvous point does not answer");
                match error {
                    AskError::Ended | AskError::Stream(_) => Failed::Ended,
                    _ => Failed::Other,
                }
            }
        };
        self.core.failed(now, point, why);
    }

    fn discovered(&mut self, found: Discovered) {
        if let Some(endpoint) = self.owner.upgrade() {
            for addr in found.addrs.iter().take(MAX_ADDRESSES) {
                let book = endpoint.peer_book();
                book.add_from(&found.peer, addr, AddressSource::SignedRecord);
            }
        }
        if let Some(discovery) = &self.discovery {
            discovery.found(found.peer);
        }
        self.tell(ClientEvent::Discovered {
            point: self.name(found.point),
            ns: found.ns,
            peer: found.peer,
            addrs: found.addrs,
        });
    }

    fn name(&self, point: PointId) -> Multiaddr {
        let known = self.points.get(point.0);
        known.map_or_else(Multiaddr::empty, |known| known.0.clone())
    }

    fn tell(&self, event: ClientEvent) {
        // It fails when nobody reads.
        let _ = self.events.send(event);
    }
}

/// Tells when a point is connected, to whom, and when it is not.
async fn follow(
    point: PointId,
    mut state: watch::Receiver<KeptState>,
    changes: mpsc::Sender<(PointId, Option<PeerId>)>,
) {
    loop {
        let peer = match &*state.borrow_and_update() {
            KeptState::Connected { peer } => Some(*peer),
            _ => None,
        };
        if changes.send((point, peer)).await.is_err() || state.changed().await.is_err() {
            return;
        }
    }
}
