//! Carries out what the planner says.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId};
use barewire_transport::{
    Connection, InboundStreams, LocalReason, TransportError, UpgradeError,
    dns::{DnsConfig, Resolution, Resolver, has_name},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet};
use tracing::Instrument as _;

use super::{
    DialConfig, DialEvent, DialStats, DialStep, DialTarget, Outcome, Plan, Planner, Skip, Step,
    join::Joins,
    names::OwnNetworks,
    planner::is_near,
    stats::{Count, Counters},
};
use crate::{
    codes,
    endpoint::{NotEstablished, Shared, sleep_until},
    error::DialError,
    incidents::Incident,
    manager::{Dialling, Gated},
    metrics::outcome_of,
    protocols::relay::is_circuit,
};

/// What all dials of an endpoint share.
#[derive(Debug)]
pub(crate) struct Dialer {
    planner: Mutex<Planner>,
    /// An attempt has ended.
    freed: Notify,
    counters: Counters,
    pub(super) joins: Joins,
    pub(super) config: DialConfig,
    resolver: Resolver,
}

impl Dialer {
    pub(crate) fn new(config: DialConfig, dns: DnsConfig) -> Self {
        Self {
            planner: Mutex::new(Planner::new(config.limits.clone())),
            freed: Notify::new(),
            counters: Counters::default(),
            joins: Joins::default(),
            config,
            resolver: Resolver::new(dns),
        }
    }

    pub(crate) fn stats(&self) -> DialStats {
        let planner = self.planner.lock();
        self.counters.read(planner.running(), planner.black_holes())
    }

    pub(crate) async fn resolve(&self, addr: &Multiaddr) -> Resolution {
        let resolution = self.resolver.resolve(addr, None, 1).await;
        let lookups = resolution.lookups.len() as u64;
        self.counters.lookups.fetch_add(lookups, Relaxed);
        resolution
    }
}

/// Gives its places back when the dial ends, however it does.
struct Places<'a> {
    dialer: &'a Dialer,
    plan: Plan,
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        self.dialer.planner.lock().abandon(&mut self.plan);
        self.dialer.freed.notify_waiters();
    }
}

type Attempted = (
    usize,
    Multiaddr,
    Duration,
    Result<(Connection, InboundStreams), DialError>,
);

/// One dial. Dropping it stops its attempts, which closes their sockets.
struct Dial<'a> {
    shared: &'a Arc<Shared>,
    target: &'a DialTarget,
    expected: Option<PeerId>,
    /// A connection to the peer that was dialled before will do.
    pooled: bool,
    began: Instant,
    places: Places<'a>,
    attempts: JoinSet<Attempted>,
    names: JoinSet<(Multiaddr, Resolution)>,
    errors: Vec<DialError>,
}

impl Shared {
    /// Connects to a target anew. With `pooled`, a connection to the peer that was dialled before
    /// and turns out to be there is returned in place of the new one.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        target: &DialTarget,
        pooled: bool,
    ) -> Result<Connection, DialError> {
        if self.stop.is_cancelled() {
            return Err(DialError::ShuttingDown);
        }
        let expected = target.peer()?;
        let known;
        let addrs = match expected {
            Some(peer) if target.addrs.is_empty() => {
                known = self.peer_book.addresses(&peer);
                &known
            }
            _ => &target.addrs,
        };
        if expected == Some(self.peer_id) {
            let addr = addrs.first().cloned().unwrap_or_else(Multiaddr::empty);
            return Err(DialError::OwnAddress(addr));
        }
        if addrs.is_empty() {
            return Err(DialError::NoAddress(expected));
        }
        let dial = Dial {
            shared: self,
            target,
            expected,
            pooled,
            began: Instant::now(),
            places: Places {
                dialer: &self.dialer,
                plan: Plan::new(expected, target.by_user),
            },
            attempts: JoinSet::new(),
            names: JoinSet::new(),
            errors: Vec::new(),
        };
        let mut errors = match dial.run(addrs).await {
            Ok(connection) => return Ok(connection),
            Err(errors) => errors,
        };
        match errors.pop() {
            Some(error) if errors.is_empty() => Err(error),
            Some(error) => {
                errors.push(error);
                Err(DialError::All(errors))
            }
            None => Err(DialError::NoAddress(expected)),
        }
    }
}

impl Dial<'_> {
    async fn run(mut self, addrs: &[Multiaddr]) -> Result<Connection, Vec<DialError>> {
        let stop = self.shared.stop.clone();
        let deadline = tokio::time::sleep(self.shared.dialer.config.timeout);
        tokio::pin!(deadline);
        self.enter(addrs);
        loop {
            // Before it is looked whether there is a place, so that none is missed.
            let freed = self.shared.dialer.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let (wake, full) = match self.start_due() {
                Step::Wait(at) => (Some(at), false),
                Step::Full => (None, true),
                Step::Done if self.names.is_empty() => return Err(self.errors),
                _ => (None, false),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(vec![DialError::ShuttingDown]),
                Some(done) = self.attempts.join_next() => {
                    // A panic inside an attempt would be a defect; the others go on.
                    if let Ok(attempted) = done
                        && let Some(connection) = self.ended(attempted)
                    {
                        return Ok(connection);
                    }
                }
                Some(done) = self.names.join_next() => {
                    if let Ok((named, resolution)) = done {
                        self.resolved(&named, resolution);
                    }
                }
                () = freed, if full => {}
                () = sleep_until(wake.map(Into::into)) => {}
                () = &mut deadline => {
                    self.out_of_time();
                    return Err(self.errors);
                }
            }
        }
    }

    /// Takes the addresses of the target.
    fn enter(&mut self, addrs: &[Multiaddr]) {
        // A name in the address of a relay is looked up when the relay is dialled.
        let by_name = |addr: &&Multiaddr| has_name(addr) && !is_circuit(addr);
        let (named, plain): (Vec<_>, Vec<_>) = addrs.iter().partition(by_name);
        let most = self.shared.dialer.config.limits.max_addresses;
        for (n, addr) in named.iter().enumerate() {
            if n >= most {
                self.skipped((*addr).clone(), Skip::TooMany);
                continue;
            }
            self.tell(addr, || DialStep::Resolving);
            let resolver = self.shared.dialer.resolver.clone();
            let (addr, expected) = ((*addr).clone(), self.expected);
            // All names together stay within the limits of a dial.
            let share = named.len().min(most);
            self.names.spawn(async move {
                let resolution = resolver.resolve(&addr, expected, share).await;
                (addr, resolution)
            });
        }
        let limits = &self.shared.dialer.config.limits;
        let plan = &mut self.places.plan;
        let over = plan.add(Instant::now(), limits, plain.into_iter().cloned());
        for addr in over {
            self.skipped(addr, Skip::TooMany);
        }
    }

    fn resolved(&mut self, named: &Multiaddr, resolution: Resolution) {
        let counters = &self.shared.dialer.counters;
        counters
            .lookups
            .fetch_add(resolution.lookups.len() as u64, Relaxed);
        self.tell(named, || DialStep::Resolved(resolution.clone()));
        if let Some(error) = resolution.error() {
            let addr = named.clone();
            self.fail(named, DialError::Name { addr, error });
            return;
        }
        let any = self.shared.dialer.config.private_names;
        let networks = OwnNetworks::of(any, &self.shared.state.borrow().addresses);
        let (allowed, denied): (Vec<_>, Vec<_>) = resolution
            .addresses
            .into_iter()
            .partition(|addr| networks.allow(named, addr));
        for addr in denied {
            let name = named.clone();
            self.fail(&addr.clone(), DialError::PrivateName { name, addr });
        }
        let limits = &self.shared.dialer.config.limits;
        let plan = &mut self.places.plan;
        for addr in plan.add_resolved(Instant::now(), limits, allowed) {
            self.skipped(addr, Skip::TooMany);
        }
    }

    /// Starts what is due; returns what to wait for.
    fn start_due(&mut self) -> Step {
        loop {
            let now = tokio::time::Instant::now().into_std();
            let step = self
                .shared
                .dialer
                .planner
                .lock()
                .next(now, &mut self.places.plan);
            match step {
                Step::Start(id, addr) => self.start(id, addr),
                Step::Skip(addr, why) => self.skipped(addr, why),
                step => return step,
            }
        }
    }

    fn start(&mut self, id: usize, addr: Multiaddr) {
        let dialling = match self.before(&addr) {
            Ok(dialling) => dialling,
            Err(error) => {
                self.failed(id, &addr, error);
                return;
            }
        };
        self.tell(&addr, || DialStep::Started);
        self.shared.dialer.counters.count(&addr, Count::Attempt);
        let config = &self.shared.dialer.config;
        let (relayed, port) = (is_circuit(&addr), self.target.port);
        let limit = if is_near(&addr) && !relayed {
            config.private_timeout
        } else {
            config.address_timeout
        };
        let (shared, expected) = (Arc::clone(self.shared), self.expected);
        let span =
            tracing::debug_span!("dial", %addr, peer = expected.map(tracing::field::display));
        let attempt = async move {
            let begun = tokio::time::Instant::now();
            // The connection counts by itself.
            let _dialling = dialling;
            let connecting = async {
                if relayed {
                    return shared.dial_circuit(&addr, expected).await;
                }
                let dialled = shared.transports.dial_from(&addr, expected, port).await;
                dialled.map_err(|error| DialError::new(&addr, error))
            };
            let result = match tokio::time::timeout(limit, connecting).await {
                Ok(result) => result,
                Err(_) => Err(DialError::Transport(TransportError::Timeout(addr.clone()))),
            };
            (id, addr, begun.elapsed(), result)
        };
        self.attempts.spawn(attempt.instrument(span));
    }

    /// Whether to dial it at all; counts it until the answer is dropped.
    fn before(&self, addr: &Multiaddr) -> Result<Option<Dialling>, DialError> {
        let shared = self.shared;
        let own = {
            let state = shared.state.borrow();
            let bare = addr.clone().without_peer();
            state.addresses.contains(&bare) || state.listen_addrs.contains(&bare)
        };
        if own {
            return Err(DialError::OwnAddress(addr.clone()));
        }
        shared
            .manager
            .before_dial(self.expected.as_ref(), addr)
            .map_err(|Gated(why)| {
                let reason = LocalReason::Gated(why);
                shared.refused(addr, self.expected, Incident::Gated, reason);
                let addr = addr.clone();
                DialError::Gated { addr, why }
            })?;
        shared.manager.dialling(addr).map_err(|limit| {
            let addr = addr.clone();
            DialError::Limit { addr, limit }
        })
    }

    fn ended(&mut self, (id, addr, took, result): Attempted) -> Option<Connection> {
        let error = match result {
            Ok((connection, inbound)) => match self.establish(&addr, &connection, inbound) {
                Ok(connection) => {
                    self.shared.metrics.handshake(&connection, took);
                    self.won(id, &addr, &connection);
                    return Some(connection);
                }
                Err(error) => error,
            },
            Err(error) => {
                if let Some(peer) = &self.expected
                    && outcome(&error) != Outcome::Local
                {
                    self.shared.peer_book.failed(peer, &addr);
                }
                error
            }
        };
        self.shared.dialer.counters.count(&addr, Count::Failure);
        self.failed(id, &addr, error);
        None
    }

    fn establish(
        &self,
        addr: &Multiaddr,
        connection: &Connection,
        inbound: InboundStreams,
    ) -> Result<Connection, DialError> {
        let addr = addr.clone();
        if connection.peer_id() == self.shared.peer_id {
            self.shared
                .close_unentered(connection, codes::CONNECTION_NORMAL);
            return Err(DialError::OwnAddress(addr));
        }
        let shared = self.shared;
        match shared.establish(connection, inbound, None, self.pooled) {
            Ok(()) => Ok(connection.clone()),
            Err(NotEstablished::Known(open)) => Ok(open),
            Err(NotEstablished::Gated(Gated(why))) => Err(DialError::Gated { addr, why }),
            Err(NotEstablished::Limit(limit)) => Err(DialError::Limit { addr, limit }),
        }
    }

    fn won(&mut self, id: usize, addr: &Multiaddr, connection: &Connection) {
        self.shared.dialer.counters.count(addr, Count::Success);
        self.shared.metrics.dialled(addr, "connected");
        self.tell(addr, || DialStep::Connected(connection.info().clone()));
        let plan = &mut self.places.plan;
        let (ran, waited) = self.shared.dialer.planner.lock().succeeded(plan, id);
        for (_, addr) in ran {
            self.shared.metrics.dialled(&addr, "cancelled");
            self.tell(&addr, || DialStep::Cancelled);
        }
        for addr in waited {
            self.shared.metrics.dialled(&addr, "skipped");
            self.tell(&addr, || {
                let addr = addr.clone();
                let why = Skip::Unneeded;
                DialStep::Failed(DialError::Skipped { addr, why })
            });
        }
    }

    fn failed(&mut self, id: usize, addr: &Multiaddr, error: DialError) {
        let now = tokio::time::Instant::now().into_std();
        let plan = &mut self.places.plan;
        let random = rand::random();
        self.shared
            .dialer
            .planner
            .lock()
            .failed(now, random, plan, id, outcome(&error));
        self.shared.dialer.freed.notify_waiters();
        self.fail(addr, error);
    }

    fn skipped(&mut self, addr: Multiaddr, why: Skip) {
        self.fail(&addr.clone(), DialError::Skipped { addr, why });
    }

    fn fail(&mut self, addr: &Multiaddr, error: DialError) {
        self.shared.metrics.dialled(addr, outcome_of(&error));
        self.tell(addr, || DialStep::Failed(error.clone()));
        self.errors.push(error);
    }

    fn out_of_time(&mut self) {
        let plan = &mut self.places.plan;
        let (ran, waited) = self.shared.dialer.planner.lock().abandon(plan);
        let ran = ran.into_iter().map(|(_, addr)| addr);
        for addr in ran.chain(waited) {
            let error = DialError::Transport(TransportError::Timeout(addr.clone()));
            self.fail(&addr, error);
        }
    }

    fn tell(&self, addr: &Multiaddr, step: impl FnOnce() -> DialStep) {
        self.target.tell(|| DialEvent {
            at: self.began.elapsed(),
            addr: addr.clone(),
            step: step(),
        });
    }
}

/// What an attempt that failed by `error` says about the network.
fn outcome(error: &DialError) -> Outcome {
    match error {
        DialError::Transport(TransportError::Io { .. } | TransportError::Timeout(_)) => {
            Outcome::Unreachable
        }
        DialError::Upgrade { error, .. } => match error {
            UpgradeError::Timeout { .. } => Outcome::Unreachable,
            UpgradeError::Refused(_) | UpgradeError::Seal(_) => Outcome::Local,
            _ => Outcome::Reached,
        },
        DialError::WrongPeer { .. } | DialError::Relay { .. } => Outcome::Reached,
        _ => Outcome::Local,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;
    use crate::{config::Config, endpoint::Endpoint, manager::ConnectionGater};

    #[derive(Debug)]
    struct Nobody;

    impl ConnectionGater for Nobody {
        fn before_dial(&self, _: Option<&PeerId>, _: &Multiaddr) -> Result<(), Gated> {
            Err(Gated("nobody is wanted"))
        }
    }

    #[tokio::test]
    async fn what_this_node_does_not_want_says_nothing_about_the_address() {
        let config = Config {
            gater: Some(Arc::new(Nobody)),
            ..Config::default()
        };
        let keypair = Keypair::generate(&mut rand::rng());
        let endpoint = Endpoint::builder(keypair).config(config).bind();
        let endpoint = endpoint.await.unwrap();
        let peer = Keypair::generate(&mut rand::rng()).peer_id();
        let quic: Multiaddr = "/ip6/2001:db8::1/udp/9/quic-v1".parse().unwrap();
        for _ in 0..120 {
            let error = endpoint.connect((peer, vec![quic.clone()])).await;
            // Never "it failed lately" or "UDP does not get through".
            let gated = matches!(error, Err(DialError::Gated { .. }));
            assert!(gated, "{error:?}");
        }
        let stats = endpoint.dial_stats();
        let unknown = super::super::BlackHoleState::Unknown;
        assert_eq!((stats.udp, stats.ipv6), (unknown, unknown));
    }
}
