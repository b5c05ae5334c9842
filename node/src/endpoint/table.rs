//! The connection table, and which of two connections to a barewire peer stays.
//!
//! `C` is the connection handle; the table knows nothing of sockets and reads no clock.
//!
//! **The rule.** Two barewire nodes that dial each other at once end with one connection each way.
//! Both sides keep the one *dialled by the node with the smaller peer id* (compared as bytes) and
//! mark the other as superseded: it is no longer handed out, its streams run to their end, then it
//! is closed with code `0x1004`. Both sides see the same two connections and the same two ids, so
//! they agree without a message. Foreign stacks keep both connections, so both stay. Several
//! connections in one direction all stay: whoever dialled them wanted them.
//!
//! A connection through a relay is superseded by any direct one, whoever the peer is: new streams go the direct way, and what runs on the
//! relayed one runs to its end.
//!
//! A peer counts as a barewire node when its identify message says an agent version that begins
//! with `barewire/`. A foreign node that lies about it only loses its second connection.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use barewire_base::PeerId;
use barewire_transport::{Connection, Lease};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OnceCell},
    time::Instant,
};

/// One connection in the table.
#[derive(Debug)]
pub(crate) struct Link<C> {
    /// Number given by the endpoint; higher means established later.
    pub(crate) id: u64,
    /// This side dialled it.
    pub(crate) outbound: bool,
    /// A relay carries it.
    pub(crate) relayed: bool,
    pub(crate) connection: C,
    pub(crate) control: Arc<LinkControl>,
}

/// What the table tells the task of a connection.
#[derive(Debug, Default)]
pub(crate) struct LinkControl {
    superseded: AtomicBool,
    changed: Notify,
    /// Wakes those who wait to use another connection.
    replaced: Notify,
    /// Filled once the peer has answered identify on this connection; makes concurrent askers wait
    /// for one exchange.
    pub(crate) identified: OnceCell<()>,
    /// Last round trip in nanoseconds, 0 before the first.
    rtt: AtomicU64,
    last_push: Mutex<Option<Instant>>,
    /// Those of the tags and protections of the peer, by name.
    leases: Mutex<BTreeMap<Arc<str>, Lease>>,
}

impl LinkControl {
    /// Keeps the connection open in the name of a tag or protection.
    pub(crate) fn hold(&self, connection: &Connection, name: &Arc<str>) {
        let mut leases = self.leases.lock();
        if !leases.contains_key(name) {
            leases.insert(Arc::clone(name), connection.lease(name));
        }
    }

    pub(crate) fn let_go(&self, name: &str) {
        self.leases.lock().remove(name);
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// Resolves when [`is_superseded`](Self::is_superseded) may have changed. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Resolves when another connection is to be used. Cancel-safe.
    pub(crate) async fn replaced(&self) {
        loop {
            let replaced = self.replaced.notified();
            if self.is_superseded() {
                return;
            }
            replaced.await;
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        let nanos = self.rtt.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        self.rtt.store(nanos.max(1), Ordering::Relaxed);
    }

    /// Counts a push, or what is read in its place, unless the last one was less than `interval`
    /// ago: the time of that one is the error.
    pub(crate) fn take_push(&self, now: Instant, interval: Duration) -> Result<(), Instant> {
        let mut last = self.last_push.lock();
        match *last {
            Some(last) if now.duration_since(last) < interval => Err(last),
            _ => {
                *last = Some(now);
                Ok(())
            }
        }
    }

    /// Sets the flag; `true` if it was different before.
    fn set_superseded(&self, value: bool) -> bool {
        let changed = self.superseded.swap(value, Ordering::AcqRel) != value;
        if changed {
            self.changed.notify_one();
            self.replaced.notify_waiters();
        }
        changed
    }
}

/// All connections of one peer and what is known about it while it is connected.
#[derive(Debug)]
struct Peer<C, I> {
    /// Oldest first.
    links: Vec<Link<C>>,
    info: Option<Arc<I>>,
    barewire: bool,
}

/// What [`Table::insert`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// The peer had no connection before.
    pub(crate) first: bool,
    /// There is a connection in each direction now.
    pub(crate) both_directions: bool,
}

/// Connections by peer. `I` is what identify learnt.
#[derive(Debug)]
pub(crate) struct Table<C, I> {
    local: PeerId,
    peers: HashMap<PeerId, Peer<C, I>>,
    len: usize,
}

impl<C: Clone, I> Table<C, I> {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            peers: HashMap::new(),
            len: 0,
        }
    }

    /// Adds a connection. Applies the rule when the peer is known to be a barewire node. How many
    /// there may be is not the table's concern.
    pub(crate) fn insert(&mut self, peer: PeerId, link: Link<C>) -> Inserted {
        self.len += 1;
        let entry = self.peers.entry(peer).or_insert_with(|| Peer {
            links: Vec::with_capacity(1),
            info: None,
            barewire: false,
        });
        let first = entry.links.is_empty();
        entry.links.push(link);
        let both_directions = both_directions(entry.links.iter());
        self.apply_rule(&peer);
        Inserted {
            first,
            both_directions,
        }
    }

    /// Removes a connection; `true` if it was the peer's last. A superseded connection that is left
    /// alone is in use again.
    pub(crate) fn remove(&mut self, peer: &PeerId, id: u64) -> bool {
        let Some(entry) = self.peers.get_mut(peer) else {
            return false;
        };
        let before = entry.links.len();
        entry.links.retain(|link| link.id != id);
        self.len -= before - entry.links.len();
        if entry.links.is_empty() {
            self.peers.remove(peer);
            return true;
        }
        self.apply_rule(peer);
        false
    }

    /// Stores what identify learnt; `true` if a connection is superseded by it. Ignored when the
    /// peer has no connection, so that the table is bounded by the connections.
    pub(crate) fn set_info(&mut self, peer: &PeerId, info: Arc<I>, barewire: bool) -> bool {
        let Some(entry) = self.peers.get_mut(peer) else {
            return false;
        };
        entry.info = Some(info);
        entry.barewire = barewire;
        self.apply_rule(peer)
    }

    pub(crate) fn info(&self, peer: &PeerId) -> Option<Arc<I>> {
        self.peers.get(peer)?.info.clone()
    }

    /// Each connection of an identified peer, with what identify learnt.
    pub(crate) fn identified(&self) -> Vec<(C, Arc<I>)> {
        let known = self.peers.values().filter_map(|peer| {
            let info = peer.info.as_ref()?;
            let links = peer.links.iter();
            Some(links.map(move |link| (link.connection.clone(), Arc::clone(info))))
        });
        known.flatten().collect()
    }

    /// The connection to use for new streams: of those that `alive` accepts the oldest that is not
    /// superseded. (The table learns of an end a moment later than the connection.)
    pub(crate) fn preferred(&self, peer: &PeerId, alive: impl Fn(&C) -> bool) -> Option<C> {
        let links = &self.peers.get(peer)?.links;
        let mut alive = links.iter().filter(|link| alive(&link.connection));
        let first = alive.next()?;
        let best = if first.control.is_superseded() {
            alive
                .find(|link| !link.control.is_superseded())
                .unwrap_or(first)
        } else {
            first
        };
        Some(best.connection.clone())
    }

    /// One connection, by its number.
    pub(crate) fn link(&self, peer: &PeerId, id: u64) -> Option<&Link<C>> {
        let links = &self.peers.get(peer)?.links;
        links.iter().find(|link| link.id == id)
    }

    /// The connections of a peer, the oldest first.
    pub(crate) fn links(&self, peer: &PeerId) -> &[Link<C>] {
        self.peers.get(peer).map_or(&[], |peer| &peer.links)
    }

    /// The control block of one connection.
    pub(crate) fn control(
        &self,
        peer: &PeerId,
        is: impl Fn(&C) -> bool,
    ) -> Option<Arc<LinkControl>> {
        self.peers
            .get(peer)?
            .links
            .iter()
            .find(|link| is(&link.connection))
            .map(|link| Arc::clone(&link.control))
    }

    /// All connections, in the order they were established.
    pub(crate) fn all(&self) -> Vec<C> {
        let mut links: Vec<_> = self.peers.values().flat_map(|peer| &peer.links).collect();
        links.sort_unstable_by_key(|link| link.id);
        links.iter().map(|link| link.connection.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn peer_count(&self) -> usize {
        self.peers.len()
    }

    fn apply_rule(&mut self, peer: &PeerId) -> bool {
        let Some(entry) = self.peers.get(peer) else {
            return false;
        };
        let keep_outbound = self.local < *peer;
        let direct = entry.links.iter().any(|link| !link.relayed);
        // Those that no other kind replaces.
        let kept = |link: &&Link<C>| !(link.relayed && direct);
        let decide = entry.barewire && both_directions(entry.links.iter().filter(kept));
        let mut newly = false;
        for link in &entry.links {
            let superseded = !kept(&link) || decide && link.outbound != keep_outbound;
            newly |= link.control.set_superseded(superseded) && superseded;
        }
        newly
    }
}

fn both_directions<'a, C: 'a>(mut links: impl Iterator<Item = &'a Link<C>> + Clone) -> bool {
    links.clone().any(|link| link.outbound) && links.any(|link| !link.outbound)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    /// Two ids, the smaller first.
    fn ids() -> (PeerId, PeerId) {
        let mut ids = [(); 2].map(|()| Keypair::generate(&mut rand::rng()).peer_id());
        ids.sort();
        (ids[0], ids[1])
    }

    fn link(id: u64, outbound: bool) -> Link<u64> {
        Link {
            id,
            outbound,
            relayed: false,
            connection: id,
            control: Arc::default(),
        }
    }

    #[test]
    fn both_sides_keep_the_connection_dialled_by_the_smaller_id() {
        let (small, large) = ids();
        // Connection 1 is dialled by the smaller id, 2 by the larger; arrival order differs.
        for order in [[1, 2], [2, 1]] {
            let mut at_small = Table::<u64, ()>::new(small);
            let mut at_large = Table::<u64, ()>::new(large);
            for id in order {
                at_small.insert(large, link(id, id == 1));
                at_large.insert(small, link(id, id == 2));
            }
            assert!(at_small.set_info(&large, Arc::new(()), true));
            assert!(at_large.set_info(&small, Arc::new(()), true));
            assert_eq!(at_small.preferred(&large, |_| true), Some(1));
            assert_eq!(at_large.preferred(&small, |_| true), Some(1));
            for (table, peer) in [(&at_small, large), (&at_large, small)] {
                assert!(table.control(&peer, |id| *id == 2).unwrap().is_superseded());
                assert!(!table.control(&peer, |id| *id == 1).unwrap().is_superseded());
            }
        }
    }

    #[test]
    fn the_rule_applies_to_a_second_connection_of_a_known_peer_at_once() {
        let (small, large) = ids();
        let mut table = Table::<u64, ()>::new(small);
        table.insert(large, link(1, false));
        assert!(!table.set_info(&large, Arc::new(()), true));
        let inserted = table.insert(large, link(2, true));
        assert!(inserted.both_directions && !inserted.first);
        assert_eq!(table.preferred(&large, |_| true), Some(2));
    }

    #[test]
    fn foreign_peers_keep_both() {
        let (small, large) = ids();
        let mut table = Table::<u64, ()>::new(small);
        table.insert(large, link(1, false));
        table.insert(large, link(2, true));
        assert!(!table.set_info(&large, Arc::new(()), false));
        assert_eq!(table.preferred(&large, |_| true), Some(1));
        assert!(
            !table
                .control(&large, |id| *id == 1)
                .unwrap()
                .is_superseded()
        );
        assert!(
            !table
                .control(&large, |id| *id == 2)
                .unwrap()
                .is_superseded()
        );
    }

    #[test]
    fn a_superseded_connection_returns_when_the_other_dies() {
        let (small, large) = ids();
        let mut table = Table::<u64, ()>::new(small);
        table.insert(large, link(1, false));
        table.insert(large, link(2, true));
        table.set_info(&large, Arc::new(()), true);
        let old = table.control(&large, |id| *id == 1).unwrap();
        assert!(old.is_superseded());
        assert_eq!(table.preferred(&large, |_| true), Some(2));
        assert_eq!(table.preferred(&large, |id| *id != 2), Some(1));
        assert_eq!(table.preferred(&large, |_| false), None);
        assert!(!table.remove(&large, 2));
        assert!(!old.is_superseded());
        assert!(table.remove(&large, 1));
        assert!(!table.remove(&large, 1));
        assert_eq!((table.len(), table.peer_count()), (0, 0));
    }

    #[test]
    fn a_direct_connection_replaces_those_through_relays() {
        let (small, large) = ids();
        let mut table = Table::<u64, ()>::new(small);
        for (id, outbound) in [(1, true), (2, false)] {
            let relayed = Link {
                relayed: true,
                ..link(id, outbound)
            };
            table.insert(large, relayed);
        }
        assert_eq!(table.preferred(&large, |_| true), Some(1));
        table.insert(large, link(3, false));
        let superseded = |table: &Table<u64, ()>, at| {
            let control = table.control(&large, |id| *id == at);
            control.unwrap().is_superseded()
        };
        assert!(superseded(&table, 1) && superseded(&table, 2) && !superseded(&table, 3));
        assert_eq!(table.preferred(&large, |_| true), Some(3));
        // The rule between barewire nodes is for connections of one kind.
        table.set_info(&large, Arc::new(()), true);
        assert!(!superseded(&table, 3));
        table.remove(&large, 3);
        assert!(!superseded(&table, 1) && superseded(&table, 2));
    }

    #[test]
    fn one_direction_keeps_all() {
        let (small, large) = ids();
        let mut table = Table::<u64, ()>::new(small);
        for id in 0..3 {
            table.insert(large, link(id, true));
        }
        table.set_info(&large, Arc::new(()), true);
        assert!((0..3).all(|n| {
            !table
                .control(&large, |id| *id == n)
                .unwrap()
                .is_superseded()
        }));
        assert_eq!(table.all(), [0, 1, 2]);
    }
}
