//! The connection manager: who may connect, who has to go, and what a node can afford.
//!
//! The decisions are made by [`Ledger`], [`MemoryWatch`] and [`Backoff`], which know no socket and
//! read no clock. The endpoint carries them out.
//!
//! **When a connection ends.** It is closed when neither a stream nor a lease has held it for
//! [`Config::idle_timeout`](crate::Config::idle_timeout). Streams hold it, except those of ping and
//! identify; so do tags and protections of its peer, and
//! [`Connection::lease`](crate::Connection::lease).
//! When there are more connections than [`Limits::high_water`], those of least value are trimmed.
//! When memory is short, newcomers are refused and those that hold most are closed. Each end has a
//! [`CloseReason`] that says who and why.

mod gater;
mod keep;
mod ledger;
mod limits;
mod machine;
mod memory;
mod source;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use barewire_base::{Budget, Multiaddr, PeerId, Protocol};
use barewire_transport::{Admission, CloseReason, Connection, LocalReason, Party, Role};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::{
    gater::{ConnectionGater, Gated},
    keep::{Backoff, KeptError, KeptPeer, KeptState},
    ledger::{Entry, Ledger, Network, Refusal},
    limits::{Explanation, Limits, RESERVED_DESCRIPTORS},
    machine::{Machine, MemoryGroup},
    memory::{MemoryWatch, Step},
    source::{MemorySource, MemoryUse},
};
pub(crate) use self::{keep::keep, limits::max_dials, source::SystemMemory};

/// Budgets of peers kept beyond the connections there are, before unused ones are dropped.
const SPARE_BUDGETS: usize = 64;

/// Connections that ended for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseCount {
    /// Who ended them.
    pub who: Party,
    /// Why, as [`CloseReason::why`] names it.
    pub why: &'static str,
    /// How many did since the endpoint was made.
    pub count: u64,
}

/// The part of the manager that the tasks of an endpoint share.
#[derive(Debug)]
pub(crate) struct Manager {
    pub(crate) ledger: Mutex<Ledger>,
    gater: Option<Arc<dyn ConnectionGater>>,
    buffers: Budget,
    buffers_per_peer: usize,
    /// Locked after the ledger where both are.
    budgets: Mutex<HashMap<PeerId, Budget>>,
    closes: Mutex<BTreeMap<(Party, &'static str), u64>>,
    /// There may be something to trim, or memory to watch.
    pub(crate) wake: Notify,
}

impl Manager {
    pub(crate) fn new(limits: Limits, gater: Option<Arc<dyn ConnectionGater>>) -> Self {
        Self {
            gater,
            buffers: Budget::root(limits.buffers),
            buffers_per_peer: limits.buffers_per_peer,
            budgets: Mutex::default(),
            closes: Mutex::default(),
            wake: Notify::new(),
            ledger: Mutex::new(Ledger::new(limits)),
        }
    }

    /// The budget of all connections.
    pub(crate) fn buffers(&self) -> &Budget {
        &self.buffers
    }

    pub(crate) fn before_dial(&self, peer: Option<&PeerId>, addr: &Multiaddr) -> Result<(), Gated> {
        match &self.gater {
            Some(gater) => gater.before_dial(peer, addr),
            None => Ok(()),
        }
    }

    pub(crate) fn on_accept(&self, remote: &Multiaddr) -> Result<(), Gated> {
        match &self.gater {
            Some(gater) => gater.on_accept(remote),
            None => Ok(()),
        }
    }

    pub(crate) fn after_mux(&self, connection: &Connection) -> Result<(), Gated> {
        match &self.gater {
            Some(gater) => gater.after_mux(connection),
            None => Ok(()),
        }
    }

    /// Counts a connection attempt from `ip` for as long as the visit lives. `proven` if the remote
    /// has shown that it receives what is sent there.
    pub(crate) fn visit(
        self: &Arc<Self>,
        ip: Option<IpAddr>,
        proven: bool,
    ) -> Result<Visit, Refusal> {
        let mut ledger = self.ledger.lock();
        let network = match proven {
            true => ledger.visit(now(), ip)?,
            false => ledger.visit_unproven(now(), ip)?,
        };
        Ok(Visit {
            manager: Arc::clone(self),
            network,
            proven,
        })
    }

    /// Whether a newcomer from `ip` has to prove that it is there.
    pub(crate) fn wants_proof(&self, ip: Option<IpAddr>) -> bool {
        self.ledger.lock().wants_proof(now(), ip)
    }

    /// Counts a dial of `addr` for as long as the answer lives, if it takes a descriptor.
    pub(crate) fn dialling(
        self: &Arc<Self>,
        addr: &Multiaddr,
    ) -> Result<Option<Dialling>, Refusal> {
        if !takes_descriptor(addr) {
            return Ok(None);
        }
        self.ledger.lock().begin_dial()?;
        Ok(Some(Dialling(Arc::clone(self))))
    }

    /// A connection has ended.
    pub(crate) fn ended(&self, id: u64, reason: &CloseReason) {
        self.ledger.lock().remove(id);
        self.closed(reason);
    }

    /// Counts the end of a connection, also of one that was ready and never entered.
    pub(crate) fn closed(&self, reason: &CloseReason) {
        let mut closes = self.closes.lock();
        *closes.entry((reason.who(), reason.why())).or_default() += 1;
    }

    pub(crate) fn closes(&self) -> Vec<CloseCount> {
        let closes = self.closes.lock();
        closes
            .iter()
            .map(|((who, why), count)| CloseCount {
                who: *who,
                why,
                count: *count,
            })
            .collect()
    }

    /// Peers by what their connections hold in buffers, the most first.
    pub(crate) fn fattest(&self) -> Vec<(PeerId, usize)> {
        let budgets = self.budgets.lock();
        let mut fattest: Vec<_> = budgets
            .iter()
            .map(|(peer, budget)| (*peer, budget.used()))
            .filter(|(_, used)| *used > 0)
            .collect();
        fattest.sort_unstable_by_key(|(peer, used)| (std::cmp::Reverse(*used), *peer));
        fattest
    }

    pub(crate) fn budget_of(&self, peer: PeerId) -> Budget {
        let connections = self.ledger.lock().len();
        let mut budgets = self.budgets.lock();
        if budgets.len() > 2 * connections + SPARE_BUDGETS {
            // Connections and handshakes that are left hold theirs.
            budgets.retain(|_, budget| budget.is_shared());
        }
        budgets
            .entry(peer)
            .or_insert_with(|| self.buffers.child(self.buffers_per_peer))
            .clone()
    }
}

impl Admission for Manager {
    fn secured(&self, peer: PeerId, role: Role, remote: &Multiaddr) -> Result<Budget, LocalReason> {
        if let Some(gater) = &self.gater {
            gater
                .after_security(&peer, role, remote)
                .map_err(|Gated(why)| LocalReason::Gated(why))?;
        }
        Ok(self.budget_of(peer))
    }
}

/// An inbound connection, from its accept to its end, as the limits per network count it.
#[derive(Debug)]
pub(crate) struct Visit {
    manager: Arc<Manager>,
    network: Option<Network>,
    proven: bool,
}

impl Visit {
    /// The remote has finished a handshake, and so has proven its address.
    pub(crate) fn connected(&mut self) {
        if let (Some(network), false) = (self.network, self.proven) {
            self.manager.ledger.lock().proven(now(), network);
        }
        self.proven = true;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(network) = self.network {
            self.manager.ledger.lock().leave(network);
        }
    }
}

/// A dial under way that takes a descriptor.
#[derive(Debug)]
pub(crate) struct Dialling(Arc<Manager>);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.ledger.lock().end_dial();
    }
}

/// Time now, from tokio's clock so that tests may pause it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether a connection by this address takes a descriptor of its own.
pub(crate) fn takes_descriptor(addr: &Multiaddr) -> bool {
    !addr.iter().any(|part| {
        matches!(
            part,
            Protocol::Udp(_) | Protocol::Memory(_) | Protocol::P2pCircuit
        )
    })
}

/// The address of a remote that limits per network count.
pub(crate) fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use barewire_base::Keypair;

    use super::*;

    #[test]
    fn connections_of_one_peer_share_its_budget() {
        let limits = Limits::derive(&Machine::default(), Some(64 << 20));
        let share = limits.buffers_per_peer;
        let manager = Manager::new(limits, None);
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let [one, other] = [(); 2].map(|()| Keypair::generate(&mut rand::rng()).peer_id());
        let secured = |peer| manager.secured(peer, Role::Server, &addr).unwrap();
        let (first, second) = (
            secured(one).child(usize::MAX),
            secured(one).child(usize::MAX),
        );
        let held = first.try_reserve(share).unwrap();
        assert!(
            second.try_reserve(1).is_err(),
            "the peer has used its share"
        );
        let _of_other = secured(other).try_reserve(share).unwrap();
        assert_eq!(manager.buffers().used(), 2 * share);
        assert_eq!(manager.fattest().len(), 2);
        drop(held);
        drop(second.try_reserve(1).unwrap());
    }

    #[test]
    fn a_handshake_keeps_its_budget_when_the_last_connection_ends() {
        let manager = Manager::new(Limits::default(), None);
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let peer = Keypair::generate(&mut rand::rng()).peer_id();
        let secured = |peer| manager.secured(peer, Role::Server, &addr).unwrap();
        let (_connection, handshake) = (secured(peer), secured(peer));
        manager.ended(0, &CloseReason::Local(LocalReason::Idle));
        for _ in 0..500 {
            secured(Keypair::generate(&mut rand::rng()).peer_id());
        }
        let _held = handshake.try_reserve(7).unwrap();
        assert_eq!(secured(peer).used(), 7, "the peer has one budget");
    }

    #[test]
    fn ledger_and_budgets_are_locked_in_one_order() {
        let manager = Arc::new(Manager::new(Limits::default(), None));
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let secured = |manager: &Manager, addr: &Multiaddr| {
            let peer = Keypair::generate(&mut rand::rng()).peer_id();
            manager.secured(peer, Role::Server, addr).unwrap()
        };
        // So many that each further one sweeps.
        let in_use: Vec<_> = (0..2 * SPARE_BUDGETS)
            .map(|_| secured(&manager, &addr).try_reserve(1).unwrap())
            .collect();
        let (sender, done) = std::sync::mpsc::sync_channel(1);
        let (others, stop) = (Arc::clone(&manager), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                secured(&others, &addr);
            }
        });
        std::thread::spawn(move || {
            for _ in 0..50 {
                // As the memory watch does, and long enough to be met.
                let _ledger = manager.ledger.lock();
                std::thread::sleep(Duration::from_millis(2));
                manager.fattest();
            }
            sender.send(()).unwrap();
        });
        let waited = done.recv_timeout(Duration::from_secs(20));
        stop.store(true, Ordering::Relaxed);
        waited.expect("the threads wait for each other");
        drop(in_use);
    }

    #[test]
    fn budgets_of_handshakes_that_came_to_nothing_are_dropped() {
        let manager = Manager::new(Limits::default(), None);
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        for _ in 0..500 {
            let peer = Keypair::generate(&mut rand::rng()).peer_id();
            manager.secured(peer, Role::Server, &addr).unwrap();
        }
        assert!(manager.budgets.lock().len() <= SPARE_BUDGETS + 1);
    }

    #[test]
    fn what_takes_a_descriptor_and_what_has_an_address() {
        let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
        assert!(takes_descriptor(&addr("/ip4/192.0.2.1/tcp/1/ws")));
        assert!(!takes_descriptor(&addr("/ip4/192.0.2.1/udp/1/quic-v1")));
        assert!(!takes_descriptor(&addr("/memory/7")));
        assert!(!takes_descriptor(&addr("/ip4/192.0.2.1/tcp/1/p2p-circuit")));
        assert_eq!(ip_of(&addr("/memory/7")), None);
        assert_eq!(
            ip_of(&addr("/ip6/2001:db8::1/udp/1/quic-v1")),
            Some("2001:db8::1".parse().unwrap())
        );
    }
}
