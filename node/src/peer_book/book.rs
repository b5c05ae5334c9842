//! The book as a state machine: what it learns, what it serves, what it forgets. No I/O, no clock.

use std::collections::{BTreeSet, HashMap};

use barewire_base::{Multiaddr, PeerId};

use super::{
    PeerBookConfig,
    entry::{AddressSource, KnownAddress, PeerEntry, UnixSeconds},
    record,
};
use crate::{addresses::Scope, protocols::identify::PeerInfo};

/// Addresses given to the dialer for one peer, the best first (own choice: attackers list
/// thousands, honest peers have a handful).
pub const MAX_SERVED: usize = 16;
/// Addresses kept of one peer; the worst gives way (own choice).
pub const MAX_STORED: usize = 32;
/// Bytes of protocol ids kept of one peer.
const MAX_PROTOCOLS_LEN: usize = 4 * 1024;
/// Bytes of the agent version kept of one peer.
const MAX_AGENT_LEN: usize = 256;

/// Peers, their addresses and how those have fared.
#[derive(Debug)]
pub struct Book {
    config: PeerBookConfig,
    peers: HashMap<PeerId, PeerEntry>,
    connected: usize,
    /// Peers whose entry differs from what was last taken by [`take_changed`](Self::take_changed).
    changed: BTreeSet<PeerId>,
}

impl Book {
    /// An empty book.
    #[must_use]
    pub fn new(config: PeerBookConfig) -> Self {
        Self {
            config,
            peers: HashMap::new(),
            connected: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Takes entries that were stored before, as far as there is room. Nobody is connected.
    pub fn load(&mut self, now: UnixSeconds, entries: impl IntoIterator<Item = PeerEntry>) {
        for entry in entries {
            let peer = entry.peer_id;
            self.peers.insert(peer, entry);
            self.make_room(&peer);
        }
        self.expire(now);
    }

    /// Adds an address, or renews it. One that ends in another peer's id is ignored, and one that is
    /// nothing but the id. Returns whether it was taken: it may be worse than all the peer has.
    pub fn add(
        &mut self,
        now: UnixSeconds,
        peer: &PeerId,
        addr: &Multiaddr,
        source: AddressSource,
    ) -> bool {
        let Some(addr) = own_address(peer, addr) else {
            return false;
        };
        self.put(now, peer, &addr, source);
        self.fit(peer);
        let kept = |entry: &PeerEntry| entry.addrs.iter().any(|known| known.addr == addr);
        self.peers.get(peer).is_some_and(kept)
    }

    /// As [`add`](Self::add), for an address without `/p2p` and without regard to bounds.
    fn put(&mut self, now: UnixSeconds, peer: &PeerId, addr: &Multiaddr, source: AddressSource) {
        let expires = self.ttl(source).map(|ttl| now.saturating_add(ttl));
        let entry = self.entry_mut(now, peer);
        match entry.addr_mut(addr) {
            Some(known) => {
                known.source = known.source.min(source);
                known.expires = known
                    .expires
                    .zip(expires)
                    .map(|(old, renewed)| old.max(renewed));
            }
            None => entry.addrs.push(KnownAddress {
                expires,
                ..KnownAddress::new(addr.clone(), source)
            }),
        }
    }

    /// Takes what a peer said about itself over a connection with `remote`. Of a signed record only a
    /// greater sequence number replaces what is there; an older one is ignored with its addresses.
    pub fn learn(&mut self, now: UnixSeconds, info: &PeerInfo, remote: &Multiaddr) {
        let peer = info.peer_id;
        let entry = self.entry_mut(now, &peer);
        entry.agent_version = cut(&info.agent_version, MAX_AGENT_LEN).to_owned();
        let mut room = MAX_PROTOCOLS_LEN;
        let fits = |id: &&std::sync::Arc<str>| {
            let left = room.checked_sub(id.len());
            room = left.unwrap_or(0);
            left.is_some()
        };
        entry.protocols = info.protocols.iter().take_while(fits).cloned().collect();
        let source = match info.record_seq.zip(info.signed_record.as_ref()) {
            None => AddressSource::Identify,
            Some((seq, bytes)) => {
                if let Some((had, old)) = &entry.signed_record
                    && (*had > seq || *had == seq && old != bytes)
                {
                    self.fit(&peer);
                    return;
                }
                if bytes.len() <= record::MAX_LEN / 2 {
                    entry.signed_record = Some((seq, bytes.clone()));
                }
                AddressSource::SignedRecord
            }
        };
        let useful: Vec<_> = info
            .listen_addrs
            .iter()
            .filter(|addr| is_useful(addr, remote))
            .take(MAX_STORED)
            .collect();
        // What the peer no longer says is gone, unless it was proven or given.
        entry.addrs.retain(|known| {
            known.source < AddressSource::SignedRecord || useful.contains(&&known.addr)
        });
        for addr in useful {
            self.put(now, &peer, addr, source);
        }
        self.fit(&peer);
    }

    /// A dial of this address ended in a connection to the peer.
    pub fn succeeded(&mut self, now: UnixSeconds, peer: &PeerId, addr: &Multiaddr) {
        let Some(addr) = own_address(peer, addr) else {
            return;
        };
        self.put(now, peer, &addr, AddressSource::Connection);
        if let Some(known) = self.peers.get_mut(peer).and_then(|e| e.addr_mut(&addr)) {
            known.last_success = Some(now);
            known.successes = known.successes.saturating_add(1);
            known.failures = 0;
        }
        self.fit(peer);
    }

    /// A dial of this address failed. Unknown addresses are not added.
    pub fn failed(&mut self, now: UnixSeconds, peer: &PeerId, addr: &Multiaddr) {
        let addr = addr.clone().without_peer();
        if let Some(known) = self.peers.get_mut(peer).and_then(|e| e.addr_mut(&addr)) {
            known.last_failure = Some(now);
            known.failures = known.failures.saturating_add(1);
            self.changed.insert(*peer);
            self.fit(peer);
        }
    }

    /// The peer's first connection is there: its addresses do not expire until
    /// [`disconnected`](Self::disconnected).
    pub fn connected(&mut self, now: UnixSeconds, peer: &PeerId) {
        let entry = self.entry_mut(now, peer);
        if !std::mem::replace(&mut entry.connected, true) {
            self.connected += 1;
        }
    }

    /// The peer's last connection is gone.
    pub fn disconnected(&mut self, now: UnixSeconds, peer: &PeerId) {
        self.touch(now, peer);
        if let Some(entry) = self.peers.get_mut(peer)
            && std::mem::replace(&mut entry.connected, false)
        {
            self.connected -= 1;
        }
        self.make_room(peer);
    }

    /// Forgets the addresses of a peer. Its signed record stays, so that an older one cannot come
    /// back in its place.
    pub fn forget(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.addrs.clear();
            entry.protocols.clear();
            entry.agent_version.clear();
            self.changed.insert(*peer);
            self.drop_if_empty(peer);
        }
    }

    /// The addresses to dial a peer at, the best first, at most [`MAX_SERVED`].
    #[must_use]
    pub fn addresses(&self, now: UnixSeconds, peer: &PeerId) -> Vec<Multiaddr> {
        let Some(entry) = self.peers.get(peer) else {
            return Vec::new();
        };
        let valid = |known: &&KnownAddress| entry.connected || !known.is_expired(now);
        let served = entry.addrs.iter().filter(valid).take(MAX_SERVED);
        served.map(|known| known.addr.clone()).collect()
    }

    /// What is known of one peer.
    #[must_use]
    pub fn entry(&self, peer: &PeerId) -> Option<&PeerEntry> {
        self.peers.get(peer)
    }

    /// All peers with an address or a connection, by id.
    #[must_use]
    pub fn entries(&self) -> Vec<PeerEntry> {
        let known = |entry: &&PeerEntry| entry.connected || !entry.addrs.is_empty();
        let mut entries: Vec<_> = self.peers.values().filter(known).cloned().collect();
        entries.sort_by_key(|entry| entry.peer_id);
        entries
    }

    /// Peers in the book, those without addresses included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is no peer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Forgets addresses whose time is over, and renews those of connected peers. Worth calling a
    /// few times within the shortest time to live.
    pub fn expire(&mut self, now: UnixSeconds) {
        let connected = self.peers.values().filter(|entry| entry.connected);
        for peer in connected.map(|entry| entry.peer_id).collect::<Vec<_>>() {
            self.touch(now, &peer);
        }
        let mut emptied = Vec::new();
        for entry in self.peers.values_mut().filter(|entry| !entry.connected) {
            let before = entry.addrs.len();
            entry.addrs.retain(|known| !known.is_expired(now));
            if entry.addrs.len() < before {
                emptied.push(entry.peer_id);
            }
        }
        for peer in emptied {
            self.changed.insert(peer);
            self.drop_if_empty(&peer);
        }
    }

    /// Whether [`take_changed`](Self::take_changed) has something.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The peers that have changed since the last call, in their stored form; `None` for those that
    /// are gone.
    pub fn take_changed(&mut self) -> Vec<(PeerId, Option<Vec<u8>>)> {
        let changed = std::mem::take(&mut self.changed);
        let stored = |peer: PeerId| (peer, self.peers.get(&peer).map(record::encode));
        changed.into_iter().map(stored).collect()
    }

    /// Forgets which peers have changed, for a book that is not stored.
    pub fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// Says that these peers have to be taken again, as far as they are still there: they could not be
    /// stored.
    pub fn put_back(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        let known = peers.into_iter().filter(|p| self.peers.contains_key(p));
        self.changed.extend(known);
    }

    fn ttl(&self, source: AddressSource) -> Option<u64> {
        match source {
            AddressSource::User => None,
            AddressSource::Connection => Some(self.config.proven_ttl.as_secs()),
            _ => Some(self.config.identified_ttl.as_secs()),
        }
    }

    /// Says that a connected peer is alive now, which renews its addresses.
    fn touch(&mut self, now: UnixSeconds, peer: &PeerId) {
        let Some(entry) = self.peers.get_mut(peer).filter(|entry| entry.connected) else {
            return;
        };
        entry.last_seen = now;
        let config = &self.config;
        for known in &mut entry.addrs {
            let ttl = match known.source {
                AddressSource::User => continue,
                AddressSource::Connection => config.proven_ttl,
                _ => config.identified_ttl,
            };
            let renewed = now.saturating_add(ttl.as_secs());
            known.expires = known.expires.map(|at| at.max(renewed));
        }
        self.changed.insert(*peer);
    }

    /// The entry of a peer, new if there is none, and marked as changed.
    fn entry_mut(&mut self, now: UnixSeconds, peer: &PeerId) -> &mut PeerEntry {
        self.changed.insert(*peer);
        if !self.peers.contains_key(peer) {
            self.peers.insert(*peer, PeerEntry::new(*peer, now));
            self.make_room(peer);
        }
        self.peers
            .entry(*peer)
            .or_insert_with(|| PeerEntry::new(*peer, now))
    }

    /// Forgets the peers worth least while too many are not connected, but never `newest`.
    fn make_room(&mut self, newest: &PeerId) {
        while self.peers.len() - self.connected > self.config.max_unconnected.max(1) {
            let least = self
                .peers
                .values()
                .filter(|entry| !entry.connected && entry.peer_id != *newest)
                .min_by_key(|entry| entry.worth())
                .map(|entry| entry.peer_id);
            let Some(least) = least else { return };
            self.peers.remove(&least);
            self.changed.insert(least);
        }
    }

    fn drop_if_empty(&mut self, peer: &PeerId) {
        let empty = |e: &PeerEntry| e.addrs.is_empty() && e.signed_record.is_none() && !e.connected;
        if self.peers.get(peer).is_some_and(empty) {
            self.peers.remove(peer);
        }
    }

    /// Sorts the addresses of a peer and drops the worst until the entry is within its bounds.
    fn fit(&mut self, peer: &PeerId) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        entry.addrs.sort_by_cached_key(KnownAddress::rank);
        entry.addrs.truncate(MAX_STORED);
        while record::encoded_len(entry) > record::MAX_LEN && entry.addrs.pop().is_some() {}
    }
}

/// The address without the peer's id at its end; `None` if it leads to another peer or nowhere.
fn own_address(peer: &PeerId, addr: &Multiaddr) -> Option<Multiaddr> {
    if addr.peer_id().is_some_and(|id| id != *peer) {
        return None;
    }
    Some(addr.clone().without_peer()).filter(|addr| !addr.is_empty())
}

/// At most `max` bytes of a text.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether an address that a peer at `remote` says it has can mean something to this node: as
/// go-libp2p filters them. A peer far away knows nothing of this node's private network, and only
/// one on this machine of its loopback.
fn is_useful(addr: &Multiaddr, remote: &Multiaddr) -> bool {
    let reach = remote.ip().map_or(Scope::Loopback, Scope::of);
    match (reach, addr.ip().map(Scope::of)) {
        (_, Some(Scope::None)) => false,
        (Scope::Loopback, _) => true,
        (Scope::Public, Some(scope)) => scope == Scope::Public,
        (_, Some(scope)) => scope != Scope::Loopback,
        // A name may lead anywhere; other addresses without an IP lead to this process.
        (_, None) => addr.iter().next().is_some_and(|first| {
            use barewire_base::Protocol as P;
            matches!(first, P::Dns(_) | P::Dns4(_) | P::Dns6(_) | P::Dnsaddr(_))
        }),
    }
}

#[cfg(test)]
mod tests;
