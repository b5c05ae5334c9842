//! Which address is dialled when. No I/O: time and random numbers come in as arguments.
//!
//! A [`Plan`] is one dial: the addresses of one peer in an order, each with a time. The [`Planner`]
//! is what all dials of a node share: how much runs at once, how often a host is dialled, which
//! addresses have failed lately, and whether UDP and IPv6 work at all.
//!
//! **Order.** QUIC first, TCP after it, WebSocket after that, relays last; within one kind IPv6 and
//! IPv4 take turns. Each has its time, but the failure of one brings all others forward.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId, Protocol};

use super::black_hole::{BlackHole, BlackHoleState};
use crate::{
    addresses::Scope,
    manager::{Machine, max_dials},
};

/// Between two addresses in a public network, as go-libp2p and RFC 8305.
const PUBLIC_GAP: Duration = Duration::from_millis(250);
/// The same in a private network, where an answer comes sooner. As go-libp2p.
const PRIVATE_GAP: Duration = Duration::from_millis(30);
/// How long relays wait for direct addresses. As go-libp2p.
const RELAY_GAP: Duration = Duration::from_millis(500);
/// The time in which [`DialLimits::max_per_ip`] counts.
const IP_WINDOW: Duration = Duration::from_secs(10);
/// First part of a backoff, as go-libp2p.
const BACKOFF_BASE: Duration = Duration::from_secs(5);
/// Longest backoff, as go-libp2p.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Addresses whose failures are remembered; one more takes the place of that which is free again
/// first (own choice: 1 MiB).
const MAX_BACKOFFS: usize = 4_096;
/// Hosts whose dials are remembered; one more takes the place of that dialled longest ago (own choice).
const MAX_HOSTS: usize = 4_096;

/// Limits on dialling.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialLimits {
    /// Addresses of one peer that are tried. Default 16 (own choice; js-libp2p takes 25).
    pub max_addresses: usize,
    /// Attempts of one dial under way at once. Default 8, as rust-libp2p.
    pub max_parallel: usize,
    /// Attempts of all dials under way at once. Default: an eighth of the descriptors there are, at
    /// most 100, as js-libp2p.
    pub max_total: usize,
    /// Attempts in 10 s at one IP that were not successful, so that lists from others cannot make
    /// this node attack anybody. Addresses given by the user do not count, nor do those of this
    /// machine. Default 8.
    pub max_per_ip: usize,
}

impl Default for DialLimits {
    fn default() -> Self {
        Self {
            max_addresses: 16,
            max_parallel: 8,
            max_total: max_dials(Machine::get()),
            max_per_ip: 8,
        }
    }
}

/// Why an address is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Skip {
    /// [`DialLimits::max_addresses`].
    #[error("not tried: the peer has too many addresses")]
    TooMany,
    /// It has failed lately.
    #[error("not tried: it failed a short while ago; wait {} s or dial it by its address", .0.as_secs().max(1))]
    Backoff(Duration),
    /// UDP packets lead nowhere here.
    #[error("not tried: UDP does not get through from here")]
    NoUdp,
    /// IPv6 packets lead nowhere here.
    #[error("not tried: IPv6 does not get through from here")]
    NoIpv6,
    /// Another address was faster.
    #[error("not tried: the dial ended before its turn")]
    Unneeded,
}

/// What to do next in a dial.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Dial this address, and say how it went under this number.
    Start(usize, Multiaddr),
    /// This address is not tried.
    Skip(Multiaddr, Skip),
    /// Nothing until then.
    Wait(Instant),
    /// Nothing until an attempt of this dial or of another ends.
    Full,
    /// Nothing until an attempt of this dial ends.
    Running,
    /// Nothing runs and nothing is left.
    Done,
}

/// What the failure of an attempt says about the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Nobody answered there.
    Unreachable,
    /// Somebody did, so packets get through; but it came to nothing.
    Reached,
    /// Nothing: this node did not want it.
    Local,
}

/// How an address is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Quic,
    Tcp,
    Ws,
    Relay,
}

#[derive(Debug)]
struct Waiting {
    addr: Multiaddr,
    kind: Kind,
    due: Instant,
    /// The host whose dials are counted for it.
    host: Option<IpAddr>,
}

#[derive(Debug)]
struct Attempt {
    id: usize,
    addr: Multiaddr,
    started: Instant,
    host: Option<IpAddr>,
}

/// One dial.
#[derive(Debug)]
pub struct Plan {
    peer: Option<PeerId>,
    /// The user named the addresses: what failed lately is tried again.
    by_user: bool,
    /// By `due`.
    waiting: VecDeque<Waiting>,
    running: Vec<Attempt>,
    seen: HashSet<Multiaddr>,
    accepted: usize,
    next_id: usize,
}

/// What all dials share.
#[derive(Debug)]
pub struct Planner {
    limits: DialLimits,
    running: usize,
    hosts: HashMap<IpAddr, VecDeque<Instant>>,
    backoffs: HashMap<(Option<PeerId>, Multiaddr), Failures>,
    udp: BlackHole,
    ipv6: BlackHole,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    until: Instant,
}

impl Plan {
    /// A dial of `peer`, if it is known whose addresses these are. `by_user` if a person or a
    /// program named them, so that what failed lately is tried all the same.
    #[must_use]
    pub fn new(peer: Option<PeerId>, by_user: bool) -> Self {
        Self {
            peer,
            by_user,
            waiting: VecDeque::new(),
            running: Vec::new(),
            seen: HashSet::new(),
            accepted: 0,
            next_id: 0,
        }
    }

    /// Attempts under way.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Adds addresses, without names, from now on. Those met before are ignored; those over the
    /// limit are returned. With many addresses some of each kind and family are taken.
    pub fn add(
        &mut self,
        now: Instant,
        limits: &DialLimits,
        addrs: impl IntoIterator<Item = Multiaddr>,
    ) -> Vec<Multiaddr> {
        self.add_from(now, limits, self.by_user, addrs)
    }

    /// As [`add`](Self::add), with what a name stands for: that is up to others, also if the user
    /// gave the name, so it counts for its hosts.
    pub fn add_resolved(
        &mut self,
        now: Instant,
        limits: &DialLimits,
        addrs: impl IntoIterator<Item = Multiaddr>,
    ) -> Vec<Multiaddr> {
        self.add_from(now, limits, false, addrs)
    }

    fn add_from(
        &mut self,
        now: Instant,
        limits: &DialLimits,
        by_user: bool,
        addrs: impl IntoIterator<Item = Multiaddr>,
    ) -> Vec<Multiaddr> {
        let mut groups: HashMap<_, VecDeque<Multiaddr>> = HashMap::new();
        for addr in addrs {
            if self.seen.insert(addr.clone()) {
                let family = addr.ip().is_some_and(|ip| ip.is_ipv4());
                let group = (is_near(&addr), kind(&addr), family);
                groups.entry(group).or_default().push_back(addr);
            }
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable_by_key(|(group, _)| *group);
        // One of each group in turn.
        let mut taken: Vec<(bool, Kind, Multiaddr)> = Vec::new();
        let mut empty = false;
        while !empty {
            empty = true;
            for ((near, kind, _), addrs) in &mut groups {
                if self.accepted < limits.max_addresses
                    && let Some(addr) = addrs.pop_front()
                {
                    self.accepted += 1;
                    taken.push((*near, *kind, addr));
                    empty = false;
                }
            }
        }
        for near in [true, false] {
            let mut of_net: Vec<_> = taken.iter().filter(|(n, ..)| *n == near).collect();
            // Stable: the families keep taking turns within a kind.
            of_net.sort_by_key(|(_, kind, _)| *kind);
            self.schedule(now, near, by_user, &of_net);
        }
        self.waiting
            .make_contiguous()
            .sort_by_key(|waiting| waiting.due);
        groups.into_iter().flat_map(|(_, addrs)| addrs).collect()
    }

    fn schedule(
        &mut self,
        now: Instant,
        near: bool,
        by_user: bool,
        addrs: &[&(bool, Kind, Multiaddr)],
    ) {
        let gap = if near { PRIVATE_GAP } else { PUBLIC_GAP };
        let mut begin = Duration::ZERO;
        let mut last = None;
        let mut of_kind = 0;
        let mut latest = Duration::ZERO;
        for (_, kind, addr) in addrs {
            if last.is_some_and(|last| last != *kind) {
                begin = match kind {
                    Kind::Relay => latest + RELAY_GAP,
                    _ => begin + gap,
                };
                of_kind = 0;
            }
            last = Some(*kind);
            let delay = begin + gap * of_kind;
            of_kind += 1;
            latest = latest.max(delay);
            let host = addr.ip().map(|ip| ip.to_canonical());
            self.waiting.push_back(Waiting {
                addr: addr.clone(),
                kind: *kind,
                due: now + delay,
                host: host.filter(|ip| !by_user && !ip.is_loopback()),
            });
        }
    }

    /// Brings what waits forward so that the next one is due now.
    fn hurry(&mut self, now: Instant) {
        let Some(first) = self.waiting.front() else {
            return;
        };
        let ahead = first.due.saturating_duration_since(now);
        for waiting in &mut self.waiting {
            waiting.due -= ahead;
        }
    }

    fn take(&mut self, id: usize) -> Option<Attempt> {
        let at = self.running.iter().position(|attempt| attempt.id == id)?;
        Some(self.running.swap_remove(at))
    }
}

impl Planner {
    /// Nothing dialled yet.
    #[must_use]
    pub fn new(limits: DialLimits) -> Self {
        Self {
            limits,
            running: 0,
            hosts: HashMap::new(),
            backoffs: HashMap::new(),
            udp: BlackHole::default(),
            ipv6: BlackHole::default(),
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &DialLimits {
        &self.limits
    }

    /// Attempts under way in all dials.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether UDP and IPv6 seem to work.
    #[must_use]
    pub fn black_holes(&self) -> (BlackHoleState, BlackHoleState) {
        (self.udp.state(), self.ipv6.state())
    }

    /// What to do next in `plan`. Call again until it is none of the first two.
    pub fn next(&mut self, now: Instant, plan: &mut Plan) -> Step {
        let mut wake: Option<Instant> = None;
        for at in 0..plan.waiting.len() {
            let Some(next) = plan.waiting.get(at) else {
                break;
            };
            if next.due > now {
                wake = Some(wake.map_or(next.due, |wake| wake.min(next.due)));
                break;
            }
            if plan.running.len() >= self.limits.max_parallel {
                return Step::Running;
            }
            if self.running >= self.limits.max_total {
                return Step::Full;
            }
            let host = next.host;
            if let Some(free) = host.and_then(|host| self.host_free_at(now, host)) {
                wake = Some(wake.map_or(free, |wake| wake.min(free)));
                continue;
            }
            let Some(next) = plan.waiting.remove(at) else {
                break;
            };
            if let Some(skip) = self.refuse(now, plan, &next) {
                plan.hurry(now);
                return Step::Skip(next.addr, skip);
            }
            if let Some(host) = host {
                if self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(&host) {
                    evict(&mut self.hosts, |times| times.back().copied());
                }
                self.hosts.entry(host).or_default().push_back(now);
            }
            let id = plan.next_id;
            plan.next_id += 1;
            self.running += 1;
            plan.running.push(Attempt {
                id,
                addr: next.addr.clone(),
                started: now,
                host,
            });
            return Step::Start(id, next.addr);
        }
        match wake {
            Some(at) => Step::Wait(at),
            None if plan.running.is_empty() => Step::Done,
            None => Step::Running,
        }
    }

    /// When one more attempt may be made at a host; `None` for now.
    fn host_free_at(&mut self, now: Instant, ip: IpAddr) -> Option<Instant> {
        if self.hosts.len() >= MAX_HOSTS {
            self.hosts
                .retain(|_, times| times.back().is_some_and(|last| *last + IP_WINDOW > now));
        }
        let times = self.hosts.get_mut(&ip)?;
        while times.front().is_some_and(|first| *first + IP_WINDOW <= now) {
            times.pop_front();
        }
        if times.is_empty() {
            self.hosts.remove(&ip);
            return None;
        }
        (times.len() >= self.limits.max_per_ip).then(|| times.front().map(|at| *at + IP_WINDOW))?
    }

    fn refuse(&mut self, now: Instant, plan: &Plan, next: &Waiting) -> Option<Skip> {
        if plan.by_user {
            return None;
        }
        let failures = self.backoffs.get(&(plan.peer, next.addr.clone()));
        if let Some(failures) = failures.filter(|failures| failures.until > now) {
            return Some(Skip::Backoff(failures.until - now));
        }
        if !is_public(&next.addr) {
            return None;
        }
        if next.kind == Kind::Quic && !self.udp.allows() {
            return Some(Skip::NoUdp);
        }
        if is_ipv6(&next.addr) && !self.ipv6.allows() {
            return Some(Skip::NoIpv6);
        }
        None
    }

    /// An attempt ended in a connection. The others of the dial are over with it: their addresses
    /// are returned, first those that ran, then those that waited.
    pub fn succeeded(
        &mut self,
        plan: &mut Plan,
        id: usize,
    ) -> (Vec<(usize, Multiaddr)>, Vec<Multiaddr>) {
        if let Some(won) = plan.take(id) {
            self.running -= 1;
            self.backoffs.remove(&(plan.peer, won.addr.clone()));
            self.uncount(&won);
            self.observe(&won.addr, true);
            for other in &plan.running {
                // Whoever began earlier and is not there yet has lost.
                if other.started < won.started {
                    self.observe(&other.addr, false);
                }
                self.uncount(other);
            }
        }
        self.abandon(plan)
    }

    /// An attempt was no burden to its host.
    fn uncount(&mut self, attempt: &Attempt) {
        if let Some(host) = attempt.host
            && let Some(times) = self.hosts.get_mut(&host)
            && let Some(at) = times.iter().rposition(|at| *at == attempt.started)
        {
            times.remove(at);
        }
    }

    /// An attempt failed. `random` from 0 to 1.
    pub fn failed(
        &mut self,
        now: Instant,
        random: f64,
        plan: &mut Plan,
        id: usize,
        outcome: Outcome,
    ) {
        let Some(attempt) = plan.take(id) else {
            return;
        };
        self.running -= 1;
        if outcome == Outcome::Local {
            self.uncount(&attempt);
        } else {
            self.observe(&attempt.addr, outcome == Outcome::Reached);
            self.back_off(now, random, (plan.peer, attempt.addr));
        }
        plan.hurry(now);
    }

    /// The dial is over: its attempts are stopped. Returns what ran and what waited.
    pub fn abandon(&mut self, plan: &mut Plan) -> (Vec<(usize, Multiaddr)>, Vec<Multiaddr>) {
        self.running -= plan.running.len();
        let ran = plan
            .running
            .drain(..)
            .map(|attempt| (attempt.id, attempt.addr));
        let waited = plan.waiting.drain(..).map(|waiting| waiting.addr);
        (ran.collect(), waited.collect())
    }

    fn back_off(&mut self, now: Instant, random: f64, key: (Option<PeerId>, Multiaddr)) {
        if self.backoffs.len() >= MAX_BACKOFFS && !self.backoffs.contains_key(&key) {
            self.backoffs.retain(|_, failures| failures.until > now);
            if self.backoffs.len() >= MAX_BACKOFFS {
                evict(&mut self.backoffs, |failures| failures.until);
            }
        }
        let failures = self.backoffs.entry(key).or_insert(Failures {
            count: 0,
            until: now,
        });
        if now.saturating_duration_since(failures.until) > BACKOFF_MAX {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        let n = u64::from((failures.count - 1).min(100));
        let exact = (BACKOFF_BASE + Duration::from_secs(n * n)).min(BACKOFF_MAX);
        let random = if random.is_nan() {
            0.0
        } else {
            random.clamp(0.0, 1.0)
        };
        failures.until = now + exact.mul_f64(1.0 - random / 4.0);
    }

    fn observe(&mut self, addr: &Multiaddr, success: bool) {
        if !is_public(addr) {
            return;
        }
        if kind(addr) == Kind::Quic {
            self.udp.observe(success);
        }
        if is_ipv6(addr) {
            self.ipv6.observe(success);
        }
    }
}

/// Makes room in a full table: takes out the entry with the smallest `age`.
fn evict<K: Clone + Eq + Hash, V, T: Ord>(table: &mut HashMap<K, V>, age: impl Fn(&V) -> T) {
    let oldest = table.iter().min_by_key(|(_, value)| age(value));
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        table.remove(&key);
    }
}

fn kind(addr: &Multiaddr) -> Kind {
    let mut kind = Kind::Tcp;
    for part in addr.iter() {
        match part {
            Protocol::P2pCircuit => return Kind::Relay,
            Protocol::Udp(_) => kind = Kind::Quic,
            Protocol::Ws | Protocol::Wss => kind = Kind::Ws,
            _ => {}
        }
    }
    kind
}

fn is_ipv6(addr: &Multiaddr) -> bool {
    addr.ip().is_some_and(|ip| ip.is_ipv6())
}

fn is_public(addr: &Multiaddr) -> bool {
    addr.ip().is_some_and(|ip| Scope::of(ip) == Scope::Public)
}

/// On this machine or in a private network.
pub(super) fn is_near(addr: &Multiaddr) -> bool {
    !addr.ip().is_some_and(|ip| Scope::of(ip) == Scope::Public)
}

#[cfg(test)]
mod tests;
