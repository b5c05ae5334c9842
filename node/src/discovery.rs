//! Keeping a number of peers connected, out of those that become known: by bootstrap addresses, the peer book, and
//! whoever calls [`Discovery::found`], as rendezvous and mDNS do.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use barewire_base::{Multiaddr, PeerId};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    dial::DialTarget,
    endpoint::{Endpoint, State, WeakEndpoint},
    manager::Backoff,
};

/// Peers that were found and wait to be looked at. More are in the peer book, and found there.
const MAX_WAITING: usize = 256;
/// Dials at a time (own choice: each may try several addresses).
const MAX_DIALS: usize = 8;
/// Peers whose failure is remembered.
const MAX_FAILED: usize = 1_024;
/// How long a peer that could not be reached is left alone (own choice).
const LEAVE_ALONE: Duration = Duration::from_secs(60);

/// Settings of a [`Discovery`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveryConfig {
    /// Peers to be connected to; with fewer, known ones are dialled. Default 12 (own choice: twice the mesh of a gossip topic).
    pub target: usize,
    /// Addresses to dial when too few peers are connected: any that can be dialled, `/dnsaddr/…` too.
    pub bootstrap: Vec<Multiaddr>,
    /// Time between two looks while too few peers are connected. Default 30 s (own choice). It begins with
    /// 250 ms while nobody is connected, as [`Backoff`] grows.
    pub interval: Duration,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            target: 12,
            bootstrap: Vec::new(),
            interval: Duration::from_secs(30),
        }
    }
}

/// Connects to peers until enough are. Cheap to clone; ends when the last clone is dropped or the endpoint stops.
#[derive(Debug, Clone)]
pub struct Discovery(mpsc::Sender<PeerId>);

impl Discovery {
    /// Starts it. The bootstrap addresses are dialled at once.
    #[must_use]
    pub fn spawn(endpoint: &Endpoint, config: DiscoveryConfig) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let driver = Driver {
            owner: endpoint.downgrade(),
            state: endpoint.state(),
            own: endpoint.peer_id(),
            config,
            failed: HashMap::new(),
            dials: JoinSet::new(),
            dialling: HashSet::new(),
            backoff: Backoff::default(),
        };
        endpoint.spawn_until_stop(driver.run(receiver));
        Self(sender)
    }

    /// A peer has become known whose addresses are in the peer book. It is dialled if too few are connected.
    pub fn found(&self, peer: PeerId) {
        // When too many wait the peer is found in the book later.
        let _ = self.0.try_send(peer);
    }
}

/// Whom a dial was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whom {
    Peer(PeerId),
    /// The bootstrap address of this number.
    Bootstrap(usize),
}

struct Driver {
    owner: WeakEndpoint,
    state: watch::Receiver<State>,
    own: PeerId,
    config: DiscoveryConfig,
    /// Until when a peer is left alone.
    failed: HashMap<PeerId, Instant>,
    dials: JoinSet<(Whom, bool)>,
    /// For whom they are.
    dialling: HashSet<Whom>,
    /// While nobody is connected.
    backoff: Backoff,
}

impl Driver {
    async fn run(mut self, mut found: mpsc::Receiver<PeerId>) {
        let mut look_at = Instant::now();
        loop {
            let wanting = self.wanting() > 0;
            let may_dial = self.dials.len() < MAX_DIALS;
            tokio::select! {
                peer = found.recv(), if may_dial => match peer {
                    Some(peer) => if wanting { self.dial(peer) },
                    None => return,
                },
                Some(done) = self.dials.join_next() => if let Ok((whom, connected)) = done {
                    self.dialled(whom, connected);
                },
                changed = self.state.changed() => if changed.is_err() { return },
                () = sleep_until(look_at), if wanting && may_dial => {
                    self.look();
                    look_at = Instant::now() + self.pause();
                }
            }
        }
    }

    /// Peers that are missing, dials that run not counted.
    fn wanting(&self) -> usize {
        let connected = self.state.borrow().peers;
        self.config
            .target
            .saturating_sub(connected + self.dials.len())
    }

    /// Dials the bootstrap addresses and peers of the book, as many as are missing.
    fn look(&mut self) {
        let Some(endpoint) = self.owner.upgrade() else {
            return;
        };
        for (index, addr) in self.config.bootstrap.clone().into_iter().enumerate() {
            let connected = |peer| endpoint.connection(&peer).is_some();
            if self.dials.len() < MAX_DIALS && !addr.peer_id().is_some_and(connected) {
                self.spawn(endpoint.clone(), Whom::Bootstrap(index), addr);
            }
        }
        let mut known = endpoint.peer_book().entries();
        known.retain(|entry| !entry.connected && !entry.addrs.is_empty());
        // Whoever was seen last is there most likely.
        known.sort_by_key(|entry| std::cmp::Reverse(entry.last_seen));
        for entry in known {
            if self.wanting() == 0 || self.dials.len() == MAX_DIALS {
                return;
            }
            self.dial(entry.peer_id);
        }
    }

    fn dial(&mut self, peer: PeerId) {
        let now = Instant::now();
        let Some(endpoint) = self.owner.upgrade() else {
            return;
        };
        let alone = self.failed.get(&peer).is_some_and(|until| *until > now);
        if peer == self.own || alone || endpoint.connection(&peer).is_some() {
            return;
        }
        self.spawn(endpoint, Whom::Peer(peer), peer);
    }

    fn spawn(&mut self, endpoint: Endpoint, whom: Whom, target: impl Into<DialTarget>) {
        if !self.dialling.insert(whom) {
            return;
        }
        let target = target.into();
        self.dials.spawn(async move {
            let connected = endpoint.connect(target).await;
            if let Err(error) = &connected {
                tracing::debug!(?whom, %error, "a peer that was found cannot be reached");
            }
            (whom, connected.is_ok())
        });
    }

    /// Time to the next look: short while nobody is connected, so that whoever was started first is there soon after
    /// its entry point.
    fn pause(&mut self) -> Duration {
        if self.state.borrow().peers > 0 || self.config.bootstrap.is_empty() {
            self.backoff.reset();
            return self.config.interval;
        }
        let now = Instant::now().into_std();
        self.backoff
            .failed(now, rand::random())
            .min(self.config.interval)
    }

    /// A peer that could not be reached is left alone for a while.
    fn dialled(&mut self, whom: Whom, connected: bool) {
        self.dialling.remove(&whom);
        let peer = match whom {
            Whom::Peer(peer) if !connected => peer,
            _ => return,
        };
        let now = Instant::now();
        if self.failed.len() >= MAX_FAILED {
            self.failed.retain(|_, until| *until > now);
        }
        if self.failed.len() < MAX_FAILED {
            self.failed.insert(peer, now + LEAVE_ALONE);
        }
    }
}
