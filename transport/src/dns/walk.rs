//! From names to addresses, without I/O: which questions to ask, and what the answers lead to.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use barewire_base::{Multiaddr, PeerId, Protocol, multiaddr::MultiaddrError};

/// What a TXT record that holds an address begins with.
const PREFIX: &[u8] = b"dnsaddr=";
/// Queries of a look-up at most.
const QUERIES: usize = 2;
/// Dropped entries that are remembered one by one; the others are only counted.
const MAX_DROPPED: usize = 64;
/// Characters of a record that is no address that are kept for the person who reads about it.
const MAX_SHOWN: usize = 128;

/// Limits of resolving one address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsLimits {
    /// Queries that name servers may be sent. A look-up counts for two: an answer that does not fit a
    /// datagram is asked for again over TCP. Default 32, as many as rust-libp2p makes look-ups.
    pub max_queries: usize,
    /// TXT records that are followed. Default 16, as rust-libp2p for one name.
    pub max_txt: usize,
    /// `/dnsaddr` within `/dnsaddr`. Default 4, as go-libp2p.
    pub max_depth: usize,
    /// Addresses that come out. Default 16: a dial tries no more.
    pub max_addresses: usize,
}

impl Default for DnsLimits {
    fn default() -> Self {
        Self {
            max_queries: 32,
            max_txt: 16,
            max_depth: 4,
            max_addresses: 16,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Texts.
    Txt,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Txt => "TXT",
        })
    }
}

/// A question for a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its number, for [`Walk::answer`].
    pub id: usize,
    /// The name.
    pub name: String,
    /// What is wanted of it.
    pub kind: RecordKind,
}

/// Records of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Of A.
    V4(Vec<Ipv4Addr>),
    /// Of AAAA.
    V6(Vec<Ipv6Addr>),
    /// Of TXT: the strings of each record put together.
    Txt(Vec<Vec<u8>>),
}

/// Why a name has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// NXDOMAIN.
    #[error("there is no such name; is it spelled right?")]
    NoSuchName,
    /// The name is there, but without records of this kind.
    #[error("the name has no such records")]
    NoRecords,
    /// No answer in time.
    #[error("the name server did not answer in time; is it reachable?")]
    Timeout,
    /// No name of DNS.
    #[error("that is no name of DNS")]
    InvalidName,
    /// The system does not say which name servers to ask.
    #[error("the system names no name server ({0}); give one")]
    NoServers(String),
    /// What else went wrong.
    #[error("the name server could not be asked: {0}")]
    Failed(String),
}

/// Why an entry led nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// What follows the name in the address is not the end of the entry.
    #[error("does not end as the address that was asked for")]
    Suffix,
    /// It is the address of somebody else.
    #[error("is the address of another peer")]
    OtherPeer,
    /// Not an address.
    #[error("{0}")]
    NotAnAddress(MultiaddrError),
    /// It was met before.
    #[error("was met before")]
    Loop,
    /// [`DnsLimits::max_depth`].
    #[error("is nested too deep")]
    TooDeep,
    /// [`DnsLimits::max_txt`].
    #[error("is one record too many")]
    TooManyTxt,
    /// [`DnsLimits::max_queries`].
    #[error("would take one look-up too many")]
    TooManyLookups,
    /// [`DnsLimits::max_addresses`].
    #[error("is one address too many")]
    TooManyAddresses,
    /// The look-up of its name failed.
    #[error("{0}")]
    Lookup(LookupError),
}

/// An entry that led nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The entry as text, cut if it is long. May come from a remote: unfit for a terminal.
    pub entry: String,
    /// Why.
    pub why: DropReason,
}

/// Resolving one address. Ask [`question`](Self::question) until it is `None`, give each answer, and
/// read the [`addresses`](Self::addresses) when it is [done](Self::is_done).
#[derive(Debug)]
pub struct Walk {
    limits: DnsLimits,
    expected: Option<PeerId>,
    open: VecDeque<(Question, Pending)>,
    asked: Vec<Option<Pending>>,
    running: usize,
    txt: usize,
    seen: HashSet<Multiaddr>,
    addresses: Vec<Multiaddr>,
    dropped: Vec<Dropped>,
    dropped_more: usize,
}

/// What waits for an answer: an address with a name in it.
#[derive(Debug, Clone)]
struct Pending {
    addr: Multiaddr,
    depth: usize,
}

impl Walk {
    /// Begins with `addr`. Results for another peer than `expected`, or than the one at the end of
    /// `addr`, are dropped.
    #[must_use]
    pub fn new(addr: &Multiaddr, expected: Option<PeerId>, limits: DnsLimits) -> Self {
        let mut walk = Self {
            limits,
            expected: expected.or_else(|| addr.peer_id()),
            open: VecDeque::new(),
            asked: Vec::new(),
            running: 0,
            txt: 0,
            seen: HashSet::new(),
            addresses: Vec::new(),
            dropped: Vec::new(),
            dropped_more: 0,
        };
        walk.enter(addr.clone(), 0);
        walk
    }

    /// The next question to ask; any number may be under way at once.
    pub fn question(&mut self) -> Option<Question> {
        let (question, pending) = self.open.pop_front()?;
        if let Some(slot) = self.asked.get_mut(question.id) {
            *slot = Some(pending);
            self.running += 1;
        }
        Some(question)
    }

    /// Takes the answer to a question; a second one, or one to a question that was not asked, is
    /// ignored.
    pub fn answer(&mut self, id: usize, answer: Result<Answer, LookupError>) {
        let Some(Pending { addr, depth }) = self.asked.get_mut(id).and_then(Option::take) else {
            return;
        };
        self.running -= 1;
        match answer {
            Ok(Answer::V4(ips)) => self.found(&addr, depth, ips.into_iter().map(IpAddr::V4)),
            Ok(Answer::V6(ips)) => self.found(&addr, depth, ips.into_iter().map(IpAddr::V6)),
            Ok(Answer::Txt(records)) => self.texts(&addr, depth, &records),
            Err(error) => self.drop_entry(&addr, DropReason::Lookup(error)),
        }
    }

    /// No question is open or under way.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.open.is_empty() && self.running == 0
    }

    /// Time is up: what is open or under way fails.
    pub fn give_up(&mut self) {
        let open = self.open.drain(..).map(|(_, pending)| pending);
        let running = self.asked.iter_mut().filter_map(Option::take);
        let left: Vec<_> = open.chain(running).collect();
        self.running = 0;
        for pending in left {
            self.drop_entry(&pending.addr, DropReason::Lookup(LookupError::Timeout));
        }
    }

    /// Look-ups so far.
    #[must_use]
    pub fn lookups(&self) -> usize {
        self.asked.len()
    }

    /// What the name stands for so far, without names.
    #[must_use]
    pub fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// The addresses, the entries that were dropped, and how many more were.
    #[must_use]
    pub fn finish(self) -> (Vec<Multiaddr>, Vec<Dropped>, usize) {
        (self.addresses, self.dropped, self.dropped_more)
    }

    /// Takes an address that may have a name in it.
    fn enter(&mut self, addr: Multiaddr, depth: usize) {
        // Two families of one host are one address.
        if !self.seen.insert(addr.clone()) {
            return self.drop_entry(&addr, DropReason::Loop);
        }
        let Some(name) = name_in(&addr) else {
            if self.expected.is_some() && addr.peer_id().is_some_and(|id| Some(id) != self.expected)
            {
                return self.drop_entry(&addr, DropReason::OtherPeer);
            }
            if self.addresses.len() >= self.limits.max_addresses {
                return self.drop_entry(&addr, DropReason::TooManyAddresses);
            }
            return self.addresses.push(addr);
        };
        let (name, kinds): (_, &[RecordKind]) = match name {
            Protocol::Dns(host) => (host, &[RecordKind::A, RecordKind::Aaaa]),
            Protocol::Dns4(host) => (host, &[RecordKind::A]),
            Protocol::Dns6(host) => (host, &[RecordKind::Aaaa]),
            Protocol::Dnsaddr(host) => {
                if depth >= self.limits.max_depth {
                    return self.drop_entry(&addr, DropReason::TooDeep);
                }
                (format!("_dnsaddr.{host}").into(), &[RecordKind::Txt])
            }
            _ => return,
        };
        for kind in kinds {
            if (self.asked.len() + 1) * QUERIES > self.limits.max_queries {
                self.drop_entry(&addr, DropReason::TooManyLookups);
                return;
            }
            let question = Question {
                id: self.asked.len(),
                name: name.to_string(),
                kind: *kind,
            };
            let pending = Pending {
                addr: addr.clone(),
                depth,
            };
            self.asked.push(None);
            self.open.push_back((question, pending));
        }
    }

    fn found(&mut self, addr: &Multiaddr, depth: usize, ips: impl Iterator<Item = IpAddr>) {
        for ip in ips {
            match with_ip(addr, ip) {
                Ok(found) => self.enter(found, depth),
                Err(error) => self.drop_entry(addr, DropReason::NotAnAddress(error)),
            }
        }
    }

    fn texts(&mut self, addr: &Multiaddr, depth: usize, records: &[Vec<u8>]) {
        let suffix = after_name(addr);
        for record in records {
            let Some(text) = record.strip_prefix(PREFIX) else {
                continue;
            };
            match self.text(text, &suffix) {
                Ok(found) => {
                    self.txt += 1;
                    self.enter(found, depth + 1);
                }
                Err(why) => self.drop_text(text, why),
            }
        }
    }

    fn text(&self, text: &[u8], suffix: &[Protocol<'_>]) -> Result<Multiaddr, DropReason> {
        // The length is looked at before the text is.
        let found: Multiaddr = std::str::from_utf8(text)
            .map_err(|_| MultiaddrError::InvalidValue("dnsaddr"))
            .and_then(str::parse)
            .map_err(DropReason::NotAnAddress)?;
        if !ends_with(&found, suffix) {
            return Err(DropReason::Suffix);
        }
        if self.expected.is_some() && found.peer_id().is_some_and(|id| Some(id) != self.expected) {
            return Err(DropReason::OtherPeer);
        }
        if self.txt >= self.limits.max_txt {
            return Err(DropReason::TooManyTxt);
        }
        Ok(found)
    }

    fn drop_entry(&mut self, addr: &Multiaddr, why: DropReason) {
        if self.dropped.len() < MAX_DROPPED {
            let entry = addr.to_string();
            self.dropped.push(Dropped { entry, why });
        } else {
            self.dropped_more += 1;
        }
    }

    fn drop_text(&mut self, text: &[u8], why: DropReason) {
        if self.dropped.len() < MAX_DROPPED {
            let shown = &text[..text.len().min(MAX_SHOWN)];
            let entry = String::from_utf8_lossy(shown).into_owned();
            self.dropped.push(Dropped { entry, why });
        } else {
            self.dropped_more += 1;
        }
    }
}

/// Whether there is a name in an address that this node has to look up to dial it. Names behind a
/// relay are the relay's business.
#[must_use]
pub fn has_name(addr: &Multiaddr) -> bool {
    name_in(addr).is_some()
}

/// The first name in an address.
#[must_use]
pub fn name_in(addr: &Multiaddr) -> Option<Protocol<'_>> {
    addr.iter()
        .take_while(|part| !matches!(part, Protocol::P2pCircuit))
        .find(is_name)
}

fn is_name(part: &Protocol<'_>) -> bool {
    matches!(
        part,
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)
    )
}

fn after_name(addr: &Multiaddr) -> Vec<Protocol<'_>> {
    addr.iter()
        .skip_while(|part| !is_name(part))
        .skip(1)
        .collect()
}

/// Component by component.
fn ends_with(addr: &Multiaddr, suffix: &[Protocol<'_>]) -> bool {
    let parts: Vec<_> = addr.iter().collect();
    parts.ends_with(suffix)
}

/// Puts an IP in the place of the first name. Secure WebSockets need the name in their handshake:
/// `/wss` and `/tls/ws` become `/tls/sni/NAME/ws`.
fn with_ip(addr: &Multiaddr, ip: IpAddr) -> Result<Multiaddr, MultiaddrError> {
    let mut found = Multiaddr::empty();
    let mut name = None;
    let mut parts = addr.iter().peekable();
    while let Some(part) = parts.next() {
        match part {
            Protocol::Dns(host) | Protocol::Dns4(host) | Protocol::Dns6(host) if name.is_none() => {
                name = Some(host);
                found.push(match ip {
                    IpAddr::V4(ip) => Protocol::Ip4(ip),
                    IpAddr::V6(ip) => Protocol::Ip6(ip),
                })?;
            }
            Protocol::Tls if name.is_some() && matches!(parts.peek(), Some(Protocol::Ws)) => {
                found.push(Protocol::Tls)?;
                if let Some(host) = &name {
                    found.push(Protocol::Sni(host.clone()))?;
                }
            }
            Protocol::Wss => {
                found.push(Protocol::Tls)?;
                if let Some(host) = &name {
                    found.push(Protocol::Sni(host.clone()))?;
                }
                found.push(Protocol::Ws)?;
            }
            part => found.push(part)?,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
