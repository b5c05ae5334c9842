//! How often a server does something, in all and for whom.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::PeerId;

/// What limits count in.
const WINDOW: Duration = Duration::from_secs(60);

/// Limits of requests within a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    /// In all.
    pub all: usize,
    /// Of one peer.
    pub per_peer: usize,
    /// That come from, or lead to, one IPv4 address or one /56 of IPv6, as which providers hand it to a customer: peer ids are free.
    pub per_address: usize,
    /// Of one peer at the same time.
    pub at_once: usize,
}

/// A request that is being served. Give it back.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket {
    pub(super) peer: PeerId,
    pub(super) from: Option<IpAddr>,
}

/// What counts as one address.
fn same(one: IpAddr, other: IpAddr) -> bool {
    match (one.to_canonical(), other.to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one == other,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.octets()[..7] == other.octets()[..7],
        _ => false,
    }
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    peer: PeerId,
    addresses: [Option<IpAddr>; 2],
}

/// Counts what was let through in the last minute: at most [`Rates::all`] entries.
#[derive(Debug)]
pub(super) struct Limiter {
    rates: Rates,
    log: VecDeque<Entry>,
    running: HashMap<PeerId, usize>,
}

impl Limiter {
    pub(super) fn new(rates: Rates) -> Self {
        Self {
            rates,
            log: VecDeque::new(),
            running: HashMap::new(),
        }
    }

    /// Whether a request is within the limits; it counts then.
    pub(super) fn take(
        &mut self,
        now: Instant,
        peer: PeerId,
        addresses: [Option<IpAddr>; 2],
    ) -> bool {
        let old = |entry: &Entry| now.saturating_duration_since(entry.at) >= WINDOW;
        while self.log.front().is_some_and(old) {
            self.log.pop_front();
        }
        let of_peer = self.log.iter().filter(|entry| entry.peer == peer).count();
        let of_address = |address: &IpAddr| {
            let shares = |entry: &&Entry| {
                let mut all = entry.addresses.iter().flatten();
                all.any(|other| same(*other, *address))
            };
            self.log.iter().filter(shares).count() >= self.rates.per_address
        };
        let running = self.running.get(&peer).copied().unwrap_or_default();
        if self.log.len() >= self.rates.all
            || of_peer >= self.rates.per_peer
            || running >= self.rates.at_once
            || addresses.iter().flatten().any(of_address)
        {
            return false;
        }
        self.log.push_back(Entry {
            at: now,
            peer,
            addresses,
        });
        true
    }

    /// What was taken last runs until [`end`](Self::end).
    pub(super) fn begin(&mut self, peer: PeerId) {
        *self.running.entry(peer).or_default() += 1;
    }

    pub(super) fn end(&mut self, peer: &PeerId) {
        if let Some(running) = self.running.get_mut(peer) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(peer);
            }
        }
    }

    pub(super) fn running(&self) -> usize {
        self.running.values().sum()
    }
}
