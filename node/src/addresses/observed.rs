//! At which addresses other nodes see this one, and which of their words to believe. No I/O, no
//! clock.
//!
//! Identify tells each node where the other one sees it. Behind a router that is the only way to
//! learn the address to be dialled at, and anybody may lie. So an observation counts only
//!
//! - if it maps a listener: the same transport, made over a connection whose local port is the
//!   listener's (a port the system chose for one dial is seen by that one peer only);
//! - if it can be known where it comes from: an observer in a private network vouches for private
//!   addresses, a public one for public addresses, and one on this machine for none;
//! - once per network of the observer (IPv4 /24, IPv6 /48), however many identities it has there.
//!
//! An address is confirmed while enough networks agree on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId, Protocol};

use super::scope::Scope;

/// Confirmed addresses per listener, those with the most observers first: as go-libp2p. More than
/// that is a router that gives each connection a port of its own.
const MAX_CONFIRMED_PER_LISTENER: usize = 3;
/// Addresses one peer vouches for at a time; its oldest word is forgotten first (own choice: one for
/// each transport and family a node is likely to listen with).
const MAX_PER_PEER: usize = 8;
/// Addresses one network of observers vouches for at a time (own choice).
const MAX_PER_NETWORK: usize = 32;
/// Addresses under observation (own choice).
const MAX_CANDIDATES: usize = 256;
/// Observers remembered per address beyond those needed (own choice): the address survives as many
/// that leave.
const SPARE_VOTES: usize = 12;

/// Settings of observed addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObservedConfig {
    /// Networks that have to agree before an address is announced. Default 4, as go-libp2p.
    pub confirmations: usize,
    /// How long an observation counts after its connection has ended. Default 30 min, go-libp2p's
    /// time to live of its own observed addresses.
    pub ttl: Duration,
}

impl Default for ObservedConfig {
    fn default() -> Self {
        Self {
            confirmations: 4,
            ttl: Duration::from_secs(30 * 60),
        }
    }
}

/// What one peer says.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// Who says it.
    pub peer: PeerId,
    /// Where that peer is.
    pub remote: &'a Multiaddr,
    /// This end of the connection it speaks of.
    pub local: &'a Multiaddr,
    /// Where it sees this end.
    pub observed: &'a Multiaddr,
}

/// Why an observation does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ignored {
    /// One of the addresses is not an IP address with a port.
    #[error("not an IP address with a port")]
    Shape,
    /// The observed address is of another transport or family than the connection.
    #[error("it names another transport than the connection's")]
    Transport,
    /// The connection uses a port nobody listens on.
    #[error("the connection does not come from a listening port")]
    Port,
    /// The observer cannot know an address of that reach.
    #[error("the observer cannot vouch for an address of that reach")]
    Scope,
    /// The address is one this node listens on anyway.
    #[error("it is an address of this machine")]
    Own,
    /// Too much is under observation.
    #[error("too many addresses are under observation")]
    Full,
}

/// A transport and the port it listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Socket {
    transport: Vec<&'static str>,
    v6: bool,
    port: u16,
}

/// An address taken apart: what is before the peer id, with `/wss` written as `/tls/ws`.
fn split(addr: &Multiaddr) -> Option<(IpAddr, Socket)> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let (kind, port) = match parts.next()? {
        Protocol::Tcp(port) => ("tcp", port),
        Protocol::Udp(port) => ("udp", port),
        _ => return None,
    };
    let mut transport = vec![kind];
    for part in parts {
        match part {
            Protocol::P2p(_) => break,
            Protocol::P2pCircuit => return None,
            Protocol::Sni(_) => {}
            Protocol::Wss => transport.extend(["tls", "ws"]),
            other => transport.push(other.name()),
        }
    }
    let socket = Socket {
        transport,
        v6: ip.is_ipv6(),
        port,
    };
    (port != 0).then_some((ip, socket))
}

/// The network an observer is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Network {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

#[derive(Debug)]
struct Vote {
    peer: PeerId,
    until: Instant,
}

#[derive(Debug)]
struct Candidate {
    listener: Socket,
    /// One per network.
    votes: BTreeMap<Network, Vote>,
    /// Rises with each new candidate: the older of two is announced first.
    number: u64,
}

impl Candidate {
    fn last(&self) -> Option<Instant> {
        self.votes.values().map(|vote| vote.until).max()
    }
}

/// What other nodes say about where this one is.
#[derive(Debug)]
pub struct Observed {
    config: ObservedConfig,
    candidates: BTreeMap<Multiaddr, Candidate>,
    next_number: u64,
    confirmed: Vec<Multiaddr>,
}

impl Observed {
    /// Nothing observed yet.
    #[must_use]
    pub fn new(config: ObservedConfig) -> Self {
        Self {
            config,
            candidates: BTreeMap::new(),
            next_number: 0,
            confirmed: Vec::new(),
        }
    }

    /// Takes the word of a peer, or renews it. `listening` are the concrete addresses this node
    /// listens on. Returns whether the confirmed addresses have changed.
    ///
    /// # Errors
    /// [`Ignored`] if the observation does not count. Nothing changes then.
    pub fn observe(
        &mut self,
        now: Instant,
        observation: &Observation<'_>,
        listening: &[Multiaddr],
    ) -> Result<bool, Ignored> {
        let (addr, listener, network) = plausible(observation, listening)?;
        let peer = observation.peer;
        let until = now + self.config.ttl;
        let candidate = self.candidates.get(&addr);
        if let Some(voted) = candidate.and_then(|candidate| candidate.votes.get(&network)) {
            if voted.until >= until {
                return Ok(false);
            }
        } else {
            let crowded = |of: &dyn Fn(&Network, &Vote) -> bool, limit| {
                let held = self.candidates.iter().filter_map(|(addr, candidate)| {
                    let mine = candidate.votes.iter().find(|(net, vote)| of(net, vote))?;
                    Some((mine.1.until, addr.clone(), *mine.0))
                });
                let held: BTreeSet<_> = held.collect();
                (held.len() >= limit)
                    .then(|| held.into_iter().next())
                    .flatten()
            };
            let oldest = crowded(&|_, vote| vote.peer == peer, MAX_PER_PEER)
                .or_else(|| crowded(&|net, _| *net == network, MAX_PER_NETWORK));
            if let Some((_, addr, network)) = oldest {
                self.withdraw(&addr, &network);
            }
            self.make_room(&addr)?;
        }
        let number = self.next_number;
        let candidate = self.candidates.entry(addr).or_insert_with(|| Candidate {
            listener,
            votes: BTreeMap::new(),
            number,
        });
        if candidate.number == number {
            self.next_number += 1;
        }
        let full = candidate.votes.len() >= self.config.confirmations.saturating_add(SPARE_VOTES);
        if !full || candidate.votes.contains_key(&network) {
            candidate.votes.insert(network, Vote { peer, until });
        }
        Ok(self.update())
    }

    /// Forgets what maps no listener any more. Returns whether the confirmed addresses have changed.
    pub fn set_listening(&mut self, listening: &[Multiaddr]) -> bool {
        let sockets: BTreeSet<_> = listening.iter().filter_map(split).map(|(_, s)| s).collect();
        let own = |addr: &Multiaddr| listening.contains(addr);
        self.candidates
            .retain(|addr, candidate| sockets.contains(&candidate.listener) && !own(addr));
        self.update()
    }

    /// The next time at which [`handle_timeout`](Self::handle_timeout) may do something. It never
    /// becomes earlier, except from `None`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let votes = self.candidates.values().flat_map(|c| c.votes.values());
        votes.map(|vote| vote.until).min()
    }

    /// Forgets what nobody has renewed. Returns whether the confirmed addresses have changed.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        for candidate in self.candidates.values_mut() {
            candidate.votes.retain(|_, vote| vote.until > now);
        }
        self.candidates
            .retain(|_, candidate| !candidate.votes.is_empty());
        self.update()
    }

    /// The addresses enough networks agree on.
    #[must_use]
    pub fn confirmed(&self) -> &[Multiaddr] {
        &self.confirmed
    }

    /// Addresses under observation, confirmed ones included.
    #[must_use]
    pub fn candidates(&self) -> usize {
        self.candidates.len()
    }

    /// All addresses that somebody sees this node at, those with the most observers first: worth a try where a wrong one costs a
    /// packet, as in a hole punch.
    #[must_use]
    pub fn seen(&self) -> Vec<Multiaddr> {
        let mut seen: Vec<_> = self.candidates.iter().collect();
        seen.sort_by_key(|(_, c)| (std::cmp::Reverse(c.votes.len()), c.number));
        seen.into_iter().map(|(addr, _)| addr.clone()).collect()
    }

    fn withdraw(&mut self, addr: &Multiaddr, network: &Network) {
        if let Some(candidate) = self.candidates.get_mut(addr) {
            candidate.votes.remove(network);
            if candidate.votes.is_empty() {
                self.candidates.remove(addr);
            }
        }
    }

    /// Drops the unconfirmed candidate with the fewest observers, the one that expires first among
    /// them, if `addr` would be one too many. What is confirmed cannot be pushed out.
    fn make_room(&mut self, addr: &Multiaddr) -> Result<(), Ignored> {
        if self.candidates.len() < MAX_CANDIDATES || self.candidates.contains_key(addr) {
            return Ok(());
        }
        let enough = self.config.confirmations;
        let weakest = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.votes.len() < enough)
            .min_by_key(|(_, c)| (c.votes.len(), c.last(), c.number))
            .map(|(addr, _)| addr.clone())
            .ok_or(Ignored::Full)?;
        self.candidates.remove(&weakest);
        Ok(())
    }

    fn update(&mut self) -> bool {
        let mut agreed: Vec<_> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.votes.len() >= self.config.confirmations.max(1))
            .collect();
        agreed.sort_by_key(|(_, c)| (std::cmp::Reverse(c.votes.len()), c.number));
        let mut per_listener: BTreeMap<&Socket, usize> = BTreeMap::new();
        agreed.retain(|(_, candidate)| {
            let count = per_listener.entry(&candidate.listener).or_default();
            *count += 1;
            *count <= MAX_CONFIRMED_PER_LISTENER
        });
        let mut confirmed: Vec<_> = agreed.into_iter().map(|(addr, _)| addr.clone()).collect();
        confirmed.sort();
        let changed = confirmed != self.confirmed;
        self.confirmed = confirmed;
        changed
    }
}

/// The address, the listener it maps and who vouches for it, if the observation counts.
fn plausible(
    observation: &Observation<'_>,
    listening: &[Multiaddr],
) -> Result<(Multiaddr, Socket, Network), Ignored> {
    let remote = observation.remote.iter().next();
    let remote = match remote {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Err(Ignored::Shape),
    };
    let (ip, seen) = split(observation.observed).ok_or(Ignored::Shape)?;
    let (_, local) = split(observation.local).ok_or(Ignored::Shape)?;
    if seen.transport != local.transport || seen.v6 != local.v6 {
        return Err(Ignored::Transport);
    }
    let vouches = matches!(
        (Scope::of(remote), Scope::of(ip)),
        (Scope::Public, Scope::Public) | (Scope::Private | Scope::Link, Scope::Private)
    );
    if !vouches {
        return Err(Ignored::Scope);
    }
    let mut maps = false;
    for (own_ip, own) in listening.iter().filter_map(split) {
        if own == seen && own_ip == ip {
            return Err(Ignored::Own);
        }
        maps |= own == local;
    }
    if !maps {
        return Err(Ignored::Port);
    }
    Ok((
        observation.observed.clone().without_peer(),
        local,
        Network::of(remote),
    ))
}

#[cfg(test)]
mod tests;
