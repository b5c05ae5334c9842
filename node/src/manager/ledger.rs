//! Who is connected, what each peer is worth, and who may come or has to go.
//!
//! No socket, no clock, no task: connections are numbers, time is an argument. What the ledger
//! decides is carried out by the endpoint.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::PeerId;

use super::limits::Limits;

/// Networks that are remembered before those that owe nothing are forgotten.
const MIN_NETWORKS: usize = 1024;

/// Addresses that are limited together: one IPv4 address, or one IPv6 /56, which is what a
/// customer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of an address. A v4-mapped address is its IPv4 address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => IpAddr::V4(ip),
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 72 << 72).into()),
        })
    }

    pub(crate) fn is_loopback(self) -> bool {
        // The /56 of ::1 is ::; nothing else lives there.
        self.0.is_loopback() || self.0.is_unspecified()
    }
}

/// The limit a connection did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// [`Limits::max_connections`], less the slots reserved for others.
    #[error("connections in all")]
    Connections,
    /// [`Limits::max_inbound`].
    #[error("inbound connections")]
    Inbound,
    /// [`Limits::max_per_peer`].
    #[error("connections of one peer")]
    PerPeer,
    /// [`Limits::max_per_ip`].
    #[error("connections from one network")]
    PerIp,
    /// [`Limits::rate_per_ip`].
    #[error("new connections per second from one network")]
    IpRate,
    /// [`Limits::max_descriptors`].
    #[error("open files")]
    Descriptors,
    /// Memory is short: see [`Limits::memory`].
    #[error("memory of this process")]
    Memory,
}

impl Refusal {
    /// Name of the limit, as in the text of a close reason.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections in all",
            Self::Inbound => "inbound connections",
            Self::PerPeer => "connections of one peer",
            Self::PerIp => "connections from one network",
            Self::IpRate => "new connections per second from one network",
            Self::Descriptors => "open files",
            Self::Memory => "memory of this process",
        }
    }
}

/// A connection as the ledger sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub peer: PeerId,
    /// The remote dialled.
    pub inbound: bool,
    /// It takes a descriptor.
    pub descriptor: bool,
}

#[derive(Debug)]
struct Link {
    entry: Entry,
    since: Instant,
    /// It has been told to close and counts no more.
    closing: bool,
}

#[derive(Debug, Default)]
struct Peer {
    /// Its connections that are not closing.
    links: usize,
    tags: BTreeMap<Arc<str>, i64>,
    protections: BTreeSet<Arc<str>>,
}

impl Peer {
    fn value(&self) -> i64 {
        self.tags
            .values()
            .fold(0, |sum: i64, value| sum.saturating_add(*value))
    }

    fn is_known(&self) -> bool {
        self.links > 0 || !self.tags.is_empty() || !self.protections.is_empty()
    }
}

/// A bucket of connections that may still come, and how many are there.
#[derive(Debug)]
struct Visits {
    held: usize,
    /// When the allowance is whole again.
    full_at: Instant,
}

/// Connections and peers, and the decisions about them.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    links: HashMap<u64, Link>,
    peers: HashMap<PeerId, Peer>,
    networks: HashMap<Network, Visits>,
    sweep_at: usize,
    /// Links that are not closing.
    live: usize,
    inbound: usize,
    descriptors: usize,
    /// Dials that take a descriptor.
    dialling: usize,
    last_trim: Option<Instant>,
    memory_short: bool,
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            links: HashMap::new(),
            peers: HashMap::new(),
            networks: HashMap::new(),
            sweep_at: MIN_NETWORKS,
            live: 0,
            inbound: 0,
            descriptors: 0,
            dialling: 0,
            last_trim: None,
            memory_short: false,
        }
    }

    /// The limits it keeps.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Connections that are not closing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Takes note of a short or sufficient memory. While it is short nobody new comes in.
    pub fn set_memory_short(&mut self, short: bool) {
        self.memory_short = short;
    }

    /// Whether nobody new comes in because memory is short.
    #[must_use]
    pub fn is_memory_short(&self) -> bool {
        self.memory_short
    }

    /// A connection attempt from `ip` (`None` where there is no such thing). Counted until
    /// [`leave`](Self::leave), if a network is returned.
    ///
    /// # Errors
    /// The limit it does not fit. Nothing is counted then, the attempt included.
    pub fn visit(&mut self, now: Instant, ip: Option<IpAddr>) -> Result<Option<Network>, Refusal> {
        let network = self.visit_unproven(now, ip)?;
        if let Some(network) = network
            && !self.charge(now, network)
        {
            self.leave(network);
            return Err(Refusal::IpRate);
        }
        Ok(network)
    }

    /// As [`visit`](Self::visit), but `ip` is not proven: anybody may have written it on a packet.
    /// It is not charged to the rate of its network before [`proven`](Self::proven).
    ///
    /// # Errors
    /// As for [`visit`](Self::visit).
    pub fn visit_unproven(
        &mut self,
        now: Instant,
        ip: Option<IpAddr>,
    ) -> Result<Option<Network>, Refusal> {
        if self.memory_short {
            return Err(Refusal::Memory);
        }
        let Some(network) = ip.map(Network::of) else {
            return Ok(None);
        };
        if network.is_loopback() && !self.limits.limit_loopback {
            return Ok(None);
        }
        if self.networks.len() >= self.sweep_at {
            self.networks
                .retain(|_, visits| visits.held > 0 || visits.full_at > now);
            self.sweep_at = MIN_NETWORKS.max(self.networks.len() * 2);
        }
        let visits = self.networks.entry(network).or_insert(Visits {
            held: 0,
            full_at: now,
        });
        if visits.held >= self.limits.max_per_ip {
            return Err(Refusal::PerIp);
        }
        visits.held += 1;
        Ok(Some(network))
    }

    /// A visit from `network` that was not proven has become a connection.
    pub fn proven(&mut self, now: Instant, network: Network) {
        self.charge(now, network);
    }

    /// Takes one connection out of the allowance of a network, if there is one left.
    fn charge(&mut self, now: Instant, network: Network) -> bool {
        let one = Duration::from_secs(1) / self.limits.rate_per_ip.max(1);
        let Some(visits) = self.networks.get_mut(&network) else {
            return false;
        };
        let full_at = visits.full_at.max(now) + one;
        if full_at.duration_since(now) > one * self.limits.burst_per_ip.max(1) {
            return false;
        }
        visits.full_at = full_at;
        true
    }

    /// Whether half of what the network of `ip` is allowed is used up, so that a newcomer should
    /// prove first that it comes from there.
    #[must_use]
    pub fn wants_proof(&self, now: Instant, ip: Option<IpAddr>) -> bool {
        let Some(visits) = ip.and_then(|ip| self.networks.get(&Network::of(ip))) else {
            return false;
        };
        let one = Duration::from_secs(1) / self.limits.rate_per_ip.max(1);
        let owed = visits.full_at.saturating_duration_since(now);
        visits.held * 2 >= self.limits.max_per_ip
            || owed * 2 >= one * self.limits.burst_per_ip.max(1)
    }

    /// What [`visit`](Self::visit) counted has ended.
    pub fn leave(&mut self, network: Network) {
        if let Some(visits) = self.networks.get_mut(&network) {
            visits.held = visits.held.saturating_sub(1);
        }
    }

    /// Whether such a connection would fit now.
    ///
    /// # Errors
    /// The limit it does not fit.
    pub fn check(&self, entry: &Entry) -> Result<(), Refusal> {
        let limits = &self.limits;
        let links = self.peers.get(&entry.peer).map_or(0, |peer| peer.links);
        if links >= limits.max_per_peer {
            return Err(Refusal::PerPeer);
        }
        let privileged = self.is_privileged(&entry.peer);
        let room = if privileged {
            limits.max_connections
        } else {
            limits.max_connections.saturating_sub(limits.reserved_slots)
        };
        if self.live >= room {
            return Err(Refusal::Connections);
        }
        if entry.inbound && !privileged && self.inbound >= limits.max_inbound {
            return Err(Refusal::Inbound);
        }
        if entry.descriptor {
            self.check_descriptor()?;
        }
        Ok(())
    }

    /// Whether one more descriptor fits beside those that inbound handshakes may take.
    fn check_descriptor(&self) -> Result<(), Refusal> {
        let limits = &self.limits;
        let room = limits
            .max_descriptors
            .saturating_sub(limits.max_pending_inbound);
        if self.descriptors + self.dialling >= room {
            return Err(Refusal::Descriptors);
        }
        Ok(())
    }

    /// A dial that takes a descriptor begins. Counted until [`end_dial`](Self::end_dial), which has to
    /// come before its connection is entered.
    ///
    /// # Errors
    /// No descriptor is left for it.
    pub fn begin_dial(&mut self) -> Result<(), Refusal> {
        self.check_descriptor()?;
        self.dialling += 1;
        Ok(())
    }

    /// A dial is over.
    pub fn end_dial(&mut self) {
        self.dialling = self.dialling.saturating_sub(1);
    }

    /// Enters a connection under a number not used before.
    ///
    /// # Errors
    /// The limit it does not fit.
    pub fn enter(&mut self, now: Instant, id: u64, entry: Entry) -> Result<(), Refusal> {
        self.check(&entry)?;
        let link = Link {
            entry,
            since: now,
            closing: false,
        };
        if self.links.insert(id, link).is_none() {
            self.peers.entry(entry.peer).or_default().links += 1;
            self.live += 1;
            self.inbound += usize::from(entry.inbound);
            self.descriptors += usize::from(entry.descriptor);
        }
        Ok(())
    }

    /// A connection has ended.
    pub fn remove(&mut self, id: u64) {
        if let Some(link) = self.links.remove(&id)
            && !link.closing
        {
            self.discount(&link.entry);
        }
    }

    fn discount(&mut self, entry: &Entry) {
        self.live -= 1;
        self.inbound -= usize::from(entry.inbound);
        self.descriptors -= usize::from(entry.descriptor);
        if let Some(peer) = self.peers.get_mut(&entry.peer) {
            peer.links -= 1;
        }
        self.forget(&entry.peer);
    }

    fn forget(&mut self, peer: &PeerId) {
        if self.peers.get(peer).is_some_and(|peer| !peer.is_known()) {
            self.peers.remove(peer);
        }
    }

    /// Gives a peer a value under a name, instead of the one it had under that name. Peers of a
    /// smaller sum are trimmed first; without tags it is 0.
    pub fn tag(&mut self, peer: PeerId, name: Arc<str>, value: i64) {
        self.peers.entry(peer).or_default().tags.insert(name, value);
    }

    /// Takes a value back; `true` if there was one of that name.
    pub fn untag(&mut self, peer: &PeerId, name: &str) -> bool {
        let had = self
            .peers
            .get_mut(peer)
            .is_some_and(|peer| peer.tags.remove(name).is_some());
        self.forget(peer);
        had
    }

    /// A protected peer is not trimmed and may use reserved slots, until each name is unprotected.
    pub fn protect(&mut self, peer: PeerId, name: Arc<str>) {
        self.peers.entry(peer).or_default().protections.insert(name);
    }

    /// Ends a protection; `true` if there was one of that name.
    pub fn unprotect(&mut self, peer: &PeerId, name: &str) -> bool {
        let had = self
            .peers
            .get_mut(peer)
            .is_some_and(|peer| peer.protections.remove(name));
        self.forget(peer);
        had
    }

    /// Whether a peer is protected, or reserved by configuration.
    #[must_use]
    pub fn is_privileged(&self, peer: &PeerId) -> bool {
        self.limits.reserved_peers.contains(peer)
            || self
                .peers
                .get(peer)
                .is_some_and(|peer| !peer.protections.is_empty())
    }

    /// What a peer is worth: the sum of its tags.
    #[must_use]
    pub fn value(&self, peer: &PeerId) -> i64 {
        self.peers.get(peer).map_or(0, Peer::value)
    }

    /// Names of the tags and protections of a peer; each keeps its connections open.
    #[must_use]
    pub fn holds(&self, peer: &PeerId) -> Vec<Arc<str>> {
        let Some(peer) = self.peers.get(peer) else {
            return Vec::new();
        };
        let names: BTreeSet<_> = peer.tags.keys().chain(&peer.protections).collect();
        names.into_iter().map(Arc::clone).collect()
    }

    /// The connections to close so that `coming` more fit below the high water mark, the least worthy
    /// first; none if it was done less than [`Limits::silence`] ago. They count no more.
    ///
    /// Spared are privileged peers and connections in their grace. Of equal value, those that are
    /// idle go before those `busy` says are not, and then the younger ones.
    pub fn trim(
        &mut self,
        now: Instant,
        coming: usize,
        busy: impl Fn(&PeerId, u64) -> bool,
    ) -> Vec<u64> {
        let silent = self
            .last_trim
            .is_none_or(|last| now.saturating_duration_since(last) >= self.limits.silence);
        if self.live + coming <= self.limits.high_water || !silent {
            return Vec::new();
        }
        self.last_trim = Some(now);
        let excess = self.live.saturating_sub(self.limits.low_water);
        let grace = self.limits.grace;
        let old = |link: &Link| now.saturating_duration_since(link.since) >= grace;
        self.close_worst(excess, old, busy)
    }

    /// Up to `count` connections to close because memory is short, the least worthy first. Neither
    /// grace nor silence spares them, only privilege.
    pub fn shed(&mut self, count: usize, busy: impl Fn(&PeerId, u64) -> bool) -> Vec<u64> {
        self.close_worst(count, |_| true, busy)
    }

    /// Marks the connections of a peer as closing, if it is not privileged.
    pub fn shed_peer(&mut self, peer: &PeerId) -> Vec<u64> {
        if self.is_privileged(peer) {
            return Vec::new();
        }
        let mut ids: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| !link.closing && link.entry.peer == *peer)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        self.mark_closing(&ids);
        ids
    }

    fn close_worst(
        &mut self,
        count: usize,
        eligible: impl Fn(&Link) -> bool,
        busy: impl Fn(&PeerId, u64) -> bool,
    ) -> Vec<u64> {
        let mut candidates: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| !link.closing && eligible(link))
            .filter(|(_, link)| !self.is_privileged(&link.entry.peer))
            .map(|(id, link)| {
                let value = self.value(&link.entry.peer);
                (
                    value,
                    busy(&link.entry.peer, *id),
                    std::cmp::Reverse(link.since),
                    *id,
                )
            })
            .collect();
        candidates.sort_unstable();
        let ids: Vec<u64> = candidates
            .into_iter()
            .take(count)
            .map(|(_, _, _, id)| id)
            .collect();
        self.mark_closing(&ids);
        ids
    }

    fn mark_closing(&mut self, ids: &[u64]) {
        for id in ids {
            let Some(link) = self.links.get_mut(id).filter(|link| !link.closing) else {
                continue;
            };
            link.closing = true;
            let entry = link.entry;
            self.discount(&entry);
        }
    }

    /// Connections that memory may be freed by: those that are not closing, of peers without
    /// privilege.
    #[must_use]
    pub fn closable(&self) -> usize {
        let peers = self.peers.iter();
        let ordinary = peers.filter(|(peer, _)| !self.is_privileged(peer));
        ordinary.map(|(_, peer)| peer.links).sum()
    }

    /// Whether the peer has a connection that is not closing.
    #[must_use]
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.links > 0)
    }

    /// Whose connection a number is.
    #[must_use]
    pub fn peer_of(&self, id: u64) -> Option<PeerId> {
        self.links.get(&id).map(|link| link.entry.peer)
    }

    /// When [`trim`](Self::trim) should be called next; `None` while there is nothing to trim.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        (self.live > self.limits.high_water).then(|| {
            self.last_trim
                .map_or(now, |last| last + self.limits.silence)
        })
    }

    /// Panics if the counters do not match the entries. For tests and the fuzzer.
    #[doc(hidden)]
    pub fn assert_consistent(&self) {
        let live: Vec<_> = self.links.values().filter(|link| !link.closing).collect();
        assert_eq!(self.live, live.len());
        let inbound = live.iter().filter(|link| link.entry.inbound).count();
        assert_eq!(self.inbound, inbound);
        let descriptors = live.iter().filter(|link| link.entry.descriptor).count();
        assert_eq!(self.descriptors, descriptors);
        for (id, peer) in &self.peers {
            assert!(peer.is_known(), "{id} is kept for nothing");
            let links = live.iter().filter(|link| link.entry.peer == *id).count();
            assert_eq!(peer.links, links);
            assert!(links <= self.limits.max_per_peer);
        }
        assert!(live.iter().all(|l| self.peers.contains_key(&l.entry.peer)));
        assert!(self.live <= self.limits.max_connections);
        let held = self.networks.values().map(|visits| visits.held).max();
        assert!(held.unwrap_or(0) <= self.limits.max_per_ip);
    }
}

#[cfg(test)]
mod tests;
