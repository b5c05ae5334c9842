//! Whom a client asks about which of its addresses, when, and which answers it believes.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::{Fault, Multiaddr, PeerId, Protocol};

use super::{
    message::{DialResponse, DialStatus, ResponseStatus},
    server::MAX_DATA,
    tested::{Network, Reachability, Rounds, Tested, TestedAddr},
    v1::V1Status,
};

/// Addresses in one request, as go-libp2p.
const MAX_IN_REQUEST: usize = 10;
/// Servers that are known in one network (own choice: their words count once, and one may refuse).
const MAX_PER_NETWORK: usize = 4;
/// Servers that are known, of each version (own choice).
const MAX_SERVERS: usize = 64;
/// How long after an answer the nonce may come, as go-libp2p.
const NONCE_WAIT: Duration = Duration::from_secs(5);
/// First pause of a server that did not answer as it should; doubles from there up to [`ClientConfig::refresh`] (own choice).
const MIN_PAUSE: Duration = Duration::from_secs(60);

/// Settings of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Networks of servers that have to agree. Default 3, as go-libp2p counts servers.
    pub confirmations: usize,
    /// Addresses that are tested at most; those behind are left alone. Default 16 (own choice: go-libp2p has 50).
    pub max_addrs: usize,
    /// How long an address is there before it is tested. Default 1 s, as go-libp2p.
    pub delay: Duration,
    /// Until a known address is tested again. Default 1 hour, as go-libp2p.
    pub refresh: Duration,
    /// Until servers are asked again about an address that they could not agree on. Default 15 minutes, as go-libp2p's of version 1.
    pub retry: Duration,
    /// How long an answer counts. Default 5 hours, as go-libp2p.
    pub ttl: Duration,
    /// Least time between two requests to one server. Default 5 s, as often as those of go-libp2p allow.
    pub pace: Duration,
    /// Requests at once. Default 4 (own choice; go-libp2p makes 5).
    pub at_once: usize,
    /// Bytes of data that are sent within an hour because servers ask for them. Default 4 MiB (own choice: 40 dials at the highest
    /// price).
    pub data_per_hour: u64,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            confirmations: 3,
            max_addrs: 16,
            delay: Duration::from_secs(1),
            refresh: Duration::from_secs(3600),
            retry: Duration::from_secs(15 * 60),
            ttl: Duration::from_secs(5 * 3600),
            pace: Duration::from_secs(5),
            at_once: 4,
            data_per_hour: 4 << 20,
        }
    }
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// Version 1. Such servers are asked while none of version 2 is there: their words are without proof.
    V1,
    /// Version 2.
    V2,
}

/// Names a request; it is its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(u64);

impl ProbeId {
    /// What the server is to say on its connection.
    #[must_use]
    pub const fn nonce(self) -> u64 {
        self.0
    }
}

/// Ask this. What comes of it goes to [`Client::answer`], [`Client::answer_v1`] or [`Client::failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its name.
    pub id: ProbeId,
    /// Whom.
    pub server: PeerId,
    /// In which version.
    pub version: Version,
    /// About which addresses, the most wanted first. At least one.
    pub addrs: Vec<Multiaddr>,
}

/// What an answer has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The request is over.
    Done,
    /// The server says that it has said the nonce, which is not here yet: the request is over when it comes, or a little later.
    Wait,
}

/// Why an answer counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The request is over.
    #[error("an answer to a request that is over")]
    Over,
    /// It is about an address that was not in the request.
    #[error("an answer about address {0}, which was not asked about")]
    Index(u32),
    /// It asks for more data than is allowed.
    #[error("the server asks for {0} bytes of data, at most {MAX_DATA} are allowed")]
    Price(u64),
    /// [`ClientConfig::data_per_hour`].
    #[error("servers have asked for too much data lately")]
    Budget,
    /// The server has a limit, or trouble of its own.
    #[error("the server does not dial now: {0:?}")]
    Rejected(ResponseStatus),
    /// The status makes no sense.
    #[error("the server says nothing about its dial: {0:?}")]
    Status(DialStatus),
    /// It has connected in another way than it says, or not at all.
    #[error("the server's own connection does not fit what it says")]
    Inconsistent,
}

impl AnswerError {
    /// Who is at fault.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Over => Fault::Local,
            Self::Budget | Self::Rejected(_) => Fault::Limit,
            _ => Fault::Peer,
        }
    }
}

/// Why a nonce is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialBackError {
    /// No request has it.
    #[error("a nonce that no request has")]
    Unknown,
    /// It has come before.
    #[error("a nonce that has come before")]
    Again,
}

#[derive(Debug)]
struct Server {
    network: Network,
    version: Version,
    busy: bool,
    free_at: Instant,
    failures: u32,
}

#[derive(Debug)]
struct Pending {
    probe: Probe,
    network: Network,
    /// Where the connection came in on which the nonce was said.
    came_at: Option<Multiaddr>,
    /// The index of the address that the server says it has reached, and until when the nonce is waited for.
    answered: Option<(usize, Instant)>,
}

/// The decisions.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    /// The most wanted first.
    addrs: Vec<(Multiaddr, Tested)>,
    /// What servers of version 1 say, of all addresses together.
    whole: Option<Tested>,
    servers: BTreeMap<PeerId, Server>,
    pending: BTreeMap<u64, Pending>,
    /// Data that was sent: when, and how much.
    paid: VecDeque<(Instant, u64)>,
    lies: u64,
}

impl Client {
    /// Nothing is known.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            addrs: Vec::new(),
            whole: None,
            servers: BTreeMap::new(),
            pending: BTreeMap::new(),
            paid: VecDeque::new(),
            lies: 0,
        }
    }

    const fn rounds(&self) -> Rounds {
        Rounds {
            confirmations: self.config.confirmations,
            refresh: self.config.refresh,
            retry: self.config.retry,
            ttl: self.config.ttl,
        }
    }

    /// The addresses to test, the most wanted first, instead of those there were. What is known of an address stays as long as the
    /// address does.
    pub fn set_addresses(&mut self, now: Instant, addrs: Vec<Multiaddr>) {
        let mut known = std::mem::take(&mut self.addrs);
        for addr in addrs {
            let addr = addr.without_peer();
            let full = self.addrs.len() >= self.config.max_addrs;
            if full || self.addrs.iter().any(|(other, _)| *other == addr) {
                continue;
            }
            let before = known.iter().position(|(other, _)| *other == addr);
            let tested = before.map(|at| known.swap_remove(at).1);
            let tested = tested.unwrap_or_else(|| Tested::new(now, now + self.config.delay));
            self.addrs.push((addr, tested));
        }
        if self.addrs.is_empty() {
            self.whole = None;
        } else if self.whole.is_none() {
            self.whole = Some(Tested::new(now, now + self.config.delay));
        }
    }

    /// There is a server, seen at this IP address. One that is known stays as it is.
    pub fn add_server(&mut self, now: Instant, peer: PeerId, ip: Option<IpAddr>, version: Version) {
        let network = Network::of(ip);
        if let Some(known) = self.servers.get_mut(&peer) {
            known.version = version;
            return;
        }
        let same = self.servers.values().filter(|of| of.version == version);
        let (mut all, mut near) = (0, 0);
        for server in same {
            all += 1;
            near += usize::from(server.network == network);
        }
        if all >= MAX_SERVERS || near >= MAX_PER_NETWORK {
            return;
        }
        let server = Server {
            network,
            version,
            busy: false,
            free_at: now,
            failures: 0,
        };
        self.servers.insert(peer, server);
    }

    /// A server is gone.
    pub fn remove_server(&mut self, peer: &PeerId) {
        self.servers.remove(peer);
    }

    /// The servers there are.
    pub fn servers(&self) -> impl Iterator<Item = &PeerId> {
        self.servers.keys()
    }

    /// What to ask now; call it again until it is nothing. `random` is the nonce, and has to be new each time.
    pub fn poll(&mut self, now: Instant, random: u64) -> Option<Probe> {
        self.handle_timeout(now);
        if self.pending.len() >= self.config.at_once {
            return None;
        }
        let nonce = random.max(1);
        if self.pending.contains_key(&nonce) {
            return None;
        }
        let id = ProbeId(nonce);
        let asked = self.ask_v2(now, id).or_else(|| self.ask_v1(now, id));
        let (probe, network) = asked?;
        if let Some(server) = self.servers.get_mut(&probe.server) {
            server.busy = true;
        }
        let pending = Pending {
            probe: probe.clone(),
            network,
            came_at: None,
            answered: None,
        };
        self.pending.insert(nonce, pending);
        Some(probe)
    }

    fn ask_v2(&mut self, now: Instant, id: ProbeId) -> Option<(Probe, Network)> {
        let servers = &self.servers;
        let wanted = self.addrs.iter().enumerate().find_map(|(at, (_, tested))| {
            let free = free(servers, tested, Version::V2);
            let free = free.filter(|(_, server)| server.free_at <= now);
            // The nonce is random, and so is the choice among those that have waited for the longest.
            let best = free.min_by_key(|(peer, server)| (server.free_at, mixed(peer, id.0)));
            best.map(|(peer, server)| (at, *peer, server.network))
        });
        let (at, server, network) = wanted?;
        let mut addrs = Vec::new();
        if let Some((addr, tested)) = self.addrs.get_mut(at) {
            tested.ask(network);
            addrs.push(addr.clone());
        }
        // Should the server not dial the first, it may dial one of these.
        let others = self
            .addrs
            .iter()
            .enumerate()
            .filter(|(other, (_, tested))| {
                *other != at && tested.wants() && tested.may_ask(&network)
            });
        addrs.extend(others.map(|(_, (addr, _))| addr.clone()));
        addrs.truncate(MAX_IN_REQUEST);
        let probe = Probe {
            id,
            server,
            version: Version::V2,
            addrs,
        };
        Some((probe, network))
    }

    fn ask_v1(&mut self, now: Instant, id: ProbeId) -> Option<(Probe, Network)> {
        if self.has_v2() {
            return None;
        }
        let tested = self.whole.as_mut()?;
        let free = free(&self.servers, tested, Version::V1);
        let free = free.filter(|(_, server)| server.free_at <= now);
        let best = free.min_by_key(|(peer, server)| (server.free_at, mixed(peer, id.0)));
        let (server, network) = best.map(|(peer, server)| (*peer, server.network))?;
        tested.ask(network);
        let probe = Probe {
            id,
            server,
            version: Version::V1,
            addrs: self.addrs.iter().map(|(addr, _)| addr.clone()).collect(),
        };
        Some((probe, network))
    }

    fn has_v2(&self) -> bool {
        let mut versions = self.servers.values().map(|server| server.version);
        versions.any(|version| version == Version::V2)
    }

    /// When to [`poll`](Self::poll) again if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let nonces = self.pending.values().filter_map(|p| Some(p.answered?.1));
        let tested = self.addrs.iter().map(|(_, tested)| tested);
        let rounds = tested.clone().chain(&self.whole).map(Tested::next);
        let mut next = nonces.chain(rounds).min();
        if self.pending.len() < self.config.at_once {
            let v2 = tested.flat_map(|tested| free(&self.servers, tested, Version::V2));
            let whole = self.whole.iter().filter(|_| !self.has_v2());
            let v1 = whole.flat_map(|tested| free(&self.servers, tested, Version::V1));
            let free = v2.chain(v1).map(|(_, server)| server.free_at).min();
            next = next.into_iter().chain(free).min();
        }
        next
    }

    /// Ends what was waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = |pending: &Pending| pending.answered.is_some_and(|(_, until)| until <= now);
        let over: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| late(pending))
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in over {
            self.lied(now, nonce);
        }
        let rounds = self.rounds();
        for (_, tested) in &mut self.addrs {
            tested.handle_timeout(now, &rounds);
        }
        if let Some(whole) = &mut self.whole {
            whole.handle_timeout(now, &rounds);
        }
    }

    /// A server asks for data before it dials: how many bytes to send, which count as sent from now on.
    ///
    /// # Errors
    /// [`AnswerError`] if it is not to get them. The request is over then.
    pub fn data_request(
        &mut self,
        now: Instant,
        id: ProbeId,
        index: u32,
        bytes: u64,
    ) -> Result<u64, AnswerError> {
        let pending = self.pending.get(&id.0).ok_or(AnswerError::Over)?;
        let hour = Duration::from_secs(3600);
        let old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= hour;
        while self.paid.front().is_some_and(old) {
            self.paid.pop_front();
        }
        let paid: u64 = self.paid.iter().map(|(_, bytes)| bytes).sum();
        let error = match () {
            () if at(&pending.probe, index).is_none() => AnswerError::Index(index),
            () if bytes > MAX_DATA => AnswerError::Price(bytes),
            () if paid + bytes > self.config.data_per_hour => AnswerError::Budget,
            () => {
                self.paid.push_back((now, bytes));
                return Ok(bytes);
            }
        };
        self.failed(now, id);
        Err(error)
    }

    /// The answer of a server of version 2.
    ///
    /// # Errors
    /// [`AnswerError`] if it counts for nothing. The request is over then.
    pub fn answer(
        &mut self,
        now: Instant,
        id: ProbeId,
        response: DialResponse,
    ) -> Result<Progress, AnswerError> {
        let pending = self.pending.get_mut(&id.0).ok_or(AnswerError::Over)?;
        if pending.answered.is_some() {
            return Err(AnswerError::Over);
        }
        match response.status {
            ResponseStatus::Ok => {}
            ResponseStatus::DialRefused => {
                self.refused(id.0, usize::MAX);
                self.end(now, id.0, true);
                return Ok(Progress::Done);
            }
            status => {
                self.failed(now, id);
                return Err(AnswerError::Rejected(status));
            }
        }
        let Some(index) = at(&pending.probe, response.index) else {
            self.failed(now, id);
            return Err(AnswerError::Index(response.index));
        };
        let came = pending.came_at.is_some();
        match response.dial {
            DialStatus::Ok if !came => {
                pending.answered = Some((index, now + NONCE_WAIT));
                Ok(Progress::Wait)
            }
            // Whatever the server thinks: the nonce is here.
            DialStatus::Ok | DialStatus::DialBackError if came => self.reached(now, id.0, index),
            // It has connected, so this is not unreachable; nor is there proof.
            DialStatus::DialBackError => {
                self.failed(now, id);
                Err(AnswerError::Status(response.dial))
            }
            DialStatus::DialError if came => {
                self.lied(now, id.0);
                Err(AnswerError::Inconsistent)
            }
            DialStatus::DialError => {
                self.vote(now, id.0, index, false);
                Ok(Progress::Done)
            }
            status => {
                self.failed(now, id);
                Err(AnswerError::Status(status))
            }
        }
    }

    /// The answer of a server of version 1.
    ///
    /// # Errors
    /// [`AnswerError`] if it counts for nothing. The request is over then.
    pub fn answer_v1(
        &mut self,
        now: Instant,
        id: ProbeId,
        status: V1Status,
    ) -> Result<(), AnswerError> {
        let pending = self.pending.get(&id.0).ok_or(AnswerError::Over)?;
        let (network, rounds) = (pending.network, self.rounds());
        let reached = match status {
            V1Status::Ok => Some(true),
            V1Status::DialError => Some(false),
            _ => None,
        };
        if let (Some(whole), Some(reached)) = (&mut self.whole, reached) {
            whole.vote(now, network, reached, &rounds);
        }
        self.end(now, id.0, reached.is_some());
        reached.map(drop).ok_or(AnswerError::Rejected(
            // The same trouble by another name.
            match status {
                V1Status::DialRefused => ResponseStatus::DialRefused,
                _ => ResponseStatus::InternalError,
            },
        ))
    }

    /// A request led to no answer.
    pub fn failed(&mut self, now: Instant, id: ProbeId) {
        self.end(now, id.0, false);
    }

    /// Somebody says a nonce, on a connection that it has opened to `local`, an address of this machine.
    ///
    /// # Errors
    /// [`DialBackError`] if it is to be turned away.
    pub fn dial_back(
        &mut self,
        now: Instant,
        nonce: u64,
        local: &Multiaddr,
    ) -> Result<(), DialBackError> {
        let pending = self.pending.get_mut(&nonce);
        let pending = pending.ok_or(DialBackError::Unknown)?;
        if pending.probe.version == Version::V1 {
            return Err(DialBackError::Unknown);
        }
        if pending.came_at.is_some() {
            return Err(DialBackError::Again);
        }
        pending.came_at = Some(local.clone());
        if let Some((index, _)) = pending.answered {
            // Counted, whatever comes of it.
            let _ = self.reached(now, nonce, index);
        }
        Ok(())
    }

    /// The nonce is here, and the server says how it came.
    fn reached(&mut self, now: Instant, nonce: u64, index: usize) -> Result<Progress, AnswerError> {
        let fits = self.pending.get(&nonce).is_some_and(|pending| {
            let tested = pending.probe.addrs.get(index);
            let pair = pending.came_at.as_ref().zip(tested);
            pair.is_some_and(|(local, tested)| same_stack(local, tested))
        });
        if fits {
            self.vote(now, nonce, index, true);
            return Ok(Progress::Done);
        }
        self.lied(now, nonce);
        Err(AnswerError::Inconsistent)
    }

    /// The server says what is not so: it is not asked for a long time.
    fn lied(&mut self, now: Instant, nonce: u64) {
        self.lies += 1;
        let server = self.pending.get(&nonce).map(|p| p.probe.server);
        self.end(now, nonce, false);
        if let Some(server) = server.and_then(|server| self.servers.get_mut(&server)) {
            server.free_at = now + self.config.refresh;
        }
    }

    fn vote(&mut self, now: Instant, nonce: u64, index: usize, reached: bool) {
        self.refused(nonce, index);
        let rounds = self.rounds();
        if let Some(pending) = self.pending.get(&nonce)
            && let Some(addr) = pending.probe.addrs.get(index)
            && let Some((_, tested)) = self.addrs.iter_mut().find(|(other, _)| other == addr)
        {
            tested.vote(now, pending.network, reached, &rounds);
        }
        self.end(now, nonce, true);
    }

    /// The server has passed over the addresses before `index`.
    fn refused(&mut self, nonce: u64, index: usize) {
        let Some(pending) = self.pending.get(&nonce) else {
            return;
        };
        for addr in pending.probe.addrs.iter().take(index) {
            let tested = self.addrs.iter_mut().find(|(other, _)| other == addr);
            if let Some((_, tested)) = tested {
                tested.refuse(pending.network);
            }
        }
    }

    fn end(&mut self, now: Instant, nonce: u64, answered: bool) {
        let Some(pending) = self.pending.remove(&nonce) else {
            return;
        };
        let tested = match pending.probe.version {
            Version::V1 => self.whole.as_mut(),
            Version::V2 => {
                let first = pending.probe.addrs.first();
                let mut addrs = self.addrs.iter_mut();
                addrs
                    .find(|(addr, _)| Some(addr) == first)
                    .map(|(_, tested)| tested)
            }
        };
        if let Some(tested) = tested {
            tested.asked(&pending.network);
        }
        let Some(server) = self.servers.get_mut(&pending.probe.server) else {
            return;
        };
        server.busy = false;
        server.failures = if answered { 0 } else { server.failures + 1 };
        let pause = match server.failures {
            0 => self.config.pace,
            n => MIN_PAUSE.saturating_mul(1 << (n - 1).min(16)),
        };
        server.free_at = now + pause.min(self.config.refresh).max(self.config.pace);
    }

    /// Whether this node can be reached: at any of its addresses. If nothing is known of those, what servers of version 1 say.
    #[must_use]
    pub fn reachability(&self) -> Reachability {
        let is = |of| {
            self.addrs
                .iter()
                .filter(move |(_, tested)| tested.state() == of)
        };
        if is(Reachability::Public).next().is_some() {
            return Reachability::Public;
        }
        // An address that no server dials decides nothing.
        let open = |tested: &Tested| {
            tested.is_asking() || free(&self.servers, tested, Version::V2).next().is_some()
        };
        let settled = is(Reachability::Unknown).all(|(_, tested)| !open(tested));
        if is(Reachability::Private).next().is_some() && settled {
            return Reachability::Private;
        }
        self.whole
            .as_ref()
            .map_or(Reachability::Unknown, Tested::state)
    }

    /// What is known of each address, the most wanted first.
    #[must_use]
    pub fn tested(&self) -> Vec<TestedAddr> {
        let tested = self.addrs.iter().map(|(addr, tested)| {
            let (reached, failed) = tested.count();
            TestedAddr {
                addr: addr.clone(),
                reachability: tested.state(),
                reached,
                failed,
            }
        });
        tested.collect()
    }

    /// Requests under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Answers that claimed what was not so.
    #[must_use]
    pub const fn lies(&self) -> u64 {
        self.lies
    }
}

/// Servers to ask about an address if it wants that, whether or not their time has come.
fn free<'a>(
    servers: &'a BTreeMap<PeerId, Server>,
    tested: &'a Tested,
    version: Version,
) -> impl Iterator<Item = (&'a PeerId, &'a Server)> {
    servers.iter().filter(move |(_, server)| {
        let fits = server.version == version && !server.busy;
        fits && tested.wants() && tested.may_ask(&server.network)
    })
}

fn at(probe: &Probe, index: u32) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    (index < probe.addrs.len()).then_some(index)
}

/// An order of peers that nobody knows before.
fn mixed(peer: &PeerId, random: u64) -> u64 {
    let mut mixed = random;
    for byte in peer.as_bytes() {
        mixed = (mixed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mixed
}

/// Whether a connection that came in at `local` may have been made by dialling `dialled`: both name the same protocols, in their order.
/// Names that were looked up, and what is only said when dialling, are not compared.
#[must_use]
pub fn same_stack(local: &Multiaddr, dialled: &Multiaddr) -> bool {
    let stack = |addr: &Multiaddr| {
        let mut stack = Vec::new();
        for part in addr.iter() {
            match part {
                Protocol::P2p(_) | Protocol::Sni(_) => {}
                Protocol::Wss => stack.extend(["tls", "ws"]),
                other if other.name() == "certhash" => {}
                other => stack.push(other.name()),
            }
        }
        // A socket for both families shows IPv4 as IPv6.
        match (addr.ip().map(|ip| ip.to_canonical()), stack.first_mut()) {
            (Some(IpAddr::V4(_)), Some(first)) => *first = "ip4",
            (Some(IpAddr::V6(_)), Some(first)) => *first = "ip6",
            _ => {}
        }
        stack
    };
    stack(local) == stack(dialled)
}

#[cfg(test)]
mod tests;
