//! What a server dials, for whom, how often, and what has to be paid for it.

use std::{net::IpAddr, time::Instant};

use barewire_base::{Fault, Multiaddr, PeerId, Protocol};

use super::{
    limiter::{Limiter, Rates, Ticket},
    message::ResponseStatus,
    v1::V1Status,
};

/// Least data that is asked for, in bytes. As go-libp2p and the specification: a handshake costs less.
pub const MIN_DATA: u64 = 30_000;
/// Most data that is asked for, in bytes. As go-libp2p and the specification.
pub const MAX_DATA: u64 = 100_000;
/// Addresses that one request of version 1 has dialled, as go-libp2p.
pub const MAX_V1_DIALS: usize = 16;
/// A message of data holds at least this many bytes, unless it is the last: fewer would cost more to read than to send. As go-libp2p.
const MIN_CHUNK: usize = 100;

/// Settings of a [`Server`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Requests of version 2. Default 60 in all and 12 of a peer, 2 of them at once, as go-libp2p; 12 of an address (own choice).
    pub requests: Rates,
    /// Those among them that data is asked for. Default 12 in all, as go-libp2p, and 4 to or from one address (own choice).
    pub paid: Rates,
    /// Requests of version 1. Default 30 in all and 3 of a peer, as go-libp2p; 6 of an address (own choice).
    pub v1: Rates,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let rates = |all, per_peer, per_address| Rates {
            all,
            per_peer,
            per_address,
            at_once: 2,
        };
        Self {
            requests: rates(60, 12, 12),
            paid: rates(12, 12, 4),
            v1: rates(30, 3, 6),
        }
    }
}

/// Why a server of version 2 does not dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// [`ServerConfig::requests`].
    #[error("too many requests")]
    TooMany,
    /// [`ServerConfig::paid`].
    #[error("too many requests for dials to other addresses than the client's own")]
    TooManyPaid,
    /// None of the addresses is one that this node dials.
    #[error("no address that this node dials")]
    NoAddress,
}

impl Refusal {
    /// The asking peer's where it names no address, else a limit.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NoAddress => Fault::Peer,
            _ => Fault::Limit,
        }
    }

    /// What to answer.
    #[must_use]
    pub const fn status(&self) -> ResponseStatus {
        match self {
            Self::NoAddress => ResponseStatus::DialRefused,
            _ => ResponseStatus::RequestRejected,
        }
    }
}

/// Why a server of version 1 does not dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum V1Refusal {
    /// [`ServerConfig::v1`].
    #[error("too many requests")]
    TooMany,
    /// The client is not seen at an address that this node dials, or names no port there.
    #[error("no address that this node dials")]
    NoAddress,
    /// It asks for a dial to somebody else.
    #[error("a request in the name of another peer")]
    OtherPeer,
}

impl V1Refusal {
    /// Who is at fault.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::TooMany => Fault::Limit,
            _ => Fault::Peer,
        }
    }

    /// What to answer.
    #[must_use]
    pub const fn status(&self) -> V1Status {
        match self {
            Self::OtherPeer => V1Status::BadRequest,
            _ => V1Status::DialRefused,
        }
    }
}

/// What to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialOne {
    /// Which address of the request, from 0.
    pub index: u32,
    /// It.
    pub addr: Multiaddr,
    /// What has to be paid first.
    pub payment: Option<Payment>,
}

/// Why a payment is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes of data, at least {MIN_CHUNK} are due")]
pub struct PaymentError(pub usize);

/// Data that a client has to send before it gets its dial: more than the dial can send to a bystander.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    bytes: u64,
    left: u64,
}

impl Payment {
    /// How many bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a message of data; whether that was all.
    ///
    /// # Errors
    /// [`PaymentError`] if it is too short.
    pub fn pay(&mut self, len: usize) -> Result<bool, PaymentError> {
        self.left = self
            .left
            .saturating_sub(u64::try_from(len).unwrap_or(u64::MAX));
        if self.left > 0 && len < MIN_CHUNK {
            return Err(PaymentError(len));
        }
        Ok(self.left == 0)
    }
}

/// Decides for a node that others ask whether they can be reached.
#[derive(Debug)]
pub struct Server {
    requests: Limiter,
    paid: Limiter,
    v1: Limiter,
}

impl Server {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self {
            requests: Limiter::new(config.requests),
            paid: Limiter::new(config.paid),
            v1: Limiter::new(config.v1),
        }
    }

    /// Whether to read a request of a peer that is seen at `from`, if that is an IP address. What is let in is given back by
    /// [`end`](Self::end).
    ///
    /// # Errors
    /// [`Refusal::TooMany`].
    pub fn begin(
        &mut self,
        now: Instant,
        peer: PeerId,
        from: Option<IpAddr>,
    ) -> Result<Ticket, Refusal> {
        if !self.requests.take(now, peer, [from, None]) {
            return Err(Refusal::TooMany);
        }
        self.requests.begin(peer);
        Ok(Ticket { peer, from })
    }

    /// A request of version 2 is done.
    pub fn end(&mut self, ticket: &Ticket) {
        self.requests.end(&ticket.peer);
    }

    /// Chooses what to dial: the first address that `may_dial` accepts, which names an IP and leads through no relay. If it is
    /// not where the client is seen, that costs, and `random` says how much.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn choose(
        &mut self,
        now: Instant,
        ticket: &Ticket,
        addrs: &[Option<Multiaddr>],
        may_dial: impl Fn(&Multiaddr) -> bool,
        random: u64,
    ) -> Result<DialOne, Refusal> {
        let mut all = (0u32..).zip(addrs);
        let found = all.find_map(|(index, addr)| {
            let addr = addr.clone()?.without_peer();
            let ip = addr.ip()?;
            (is_direct(&addr) && may_dial(&addr)).then_some((index, addr, ip))
        });
        let (index, addr, ip) = found.ok_or(Refusal::NoAddress)?;
        let own = ticket
            .from
            .is_some_and(|from| from.to_canonical() == ip.to_canonical());
        let mut payment = None;
        if !own {
            if !self.paid.take(now, ticket.peer, [ticket.from, Some(ip)]) {
                return Err(Refusal::TooManyPaid);
            }
            let bytes = MIN_DATA + random % (MAX_DATA - MIN_DATA + 1);
            payment = Some(Payment { bytes, left: bytes });
        }
        Ok(DialOne {
            index,
            addr,
            payment,
        })
    }

    /// A request of version 1, of `peer` that is seen at `from`, in the name of `claimed`: what to dial, with every IP replaced by
    /// that where the client is seen. What is let in is given back by [`end_v1`](Self::end_v1).
    ///
    /// # Errors
    /// [`V1Refusal`].
    pub fn begin_v1(
        &mut self,
        now: Instant,
        peer: PeerId,
        from: Option<IpAddr>,
        claimed: Option<PeerId>,
        addrs: &[Multiaddr],
        may_dial: impl Fn(&Multiaddr) -> bool,
    ) -> Result<(Ticket, Vec<Multiaddr>), V1Refusal> {
        if claimed.is_some_and(|claimed| claimed != peer) {
            return Err(V1Refusal::OtherPeer);
        }
        let ip = from.ok_or(V1Refusal::NoAddress)?.to_canonical();
        let mut dials: Vec<Multiaddr> = Vec::new();
        for addr in addrs {
            let direct = addr.ip().is_some() && is_direct(addr);
            let Some(addr) = addr.with_ip(ip).filter(|_| direct) else {
                continue;
            };
            let addr = addr.without_peer();
            if dials.len() < MAX_V1_DIALS && !dials.contains(&addr) && may_dial(&addr) {
                dials.push(addr);
            }
        }
        if dials.is_empty() {
            return Err(V1Refusal::NoAddress);
        }
        if !self.v1.take(now, peer, [from, None]) {
            return Err(V1Refusal::TooMany);
        }
        self.v1.begin(peer);
        Ok((Ticket { peer, from }, dials))
    }

    /// A request of version 1 is done.
    pub fn end_v1(&mut self, ticket: &Ticket) {
        self.v1.end(&ticket.peer);
    }

    /// Requests that are being served.
    #[must_use]
    pub fn running(&self) -> usize {
        self.requests.running() + self.v1.running()
    }
}

fn is_direct(addr: &Multiaddr) -> bool {
    !addr.iter().any(|part| part == Protocol::P2pCircuit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use barewire_base::Keypair;

    use super::*;

    fn peer(n: u16) -> PeerId {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        Keypair::from_seed(&seed).peer_id()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn addrs(list: &[&str]) -> Vec<Option<Multiaddr>> {
        list.iter().map(|text| text.parse().ok()).collect()
    }

    fn any(_: &Multiaddr) -> bool {
        true
    }

    #[test]
    fn the_first_address_that_may_be_dialled_is() {
        let (mut server, now) = (Server::new(ServerConfig::default()), Instant::now());
        let ticket = server.begin(now, peer(1), ip("192.0.2.1")).unwrap();
        let relay = format!("/ip4/192.0.2.9/tcp/1/p2p/{}/p2p-circuit", peer(2));
        let list = addrs(&[
            "unreadable",
            "/dns4/victim.example/tcp/1",
            &relay,
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/192.0.2.1/tcp/4001",
            "/ip4/192.0.2.1/tcp/4002",
        ]);
        let public = |addr: &Multiaddr| !addr.to_string().contains("/10.");
        let dial = server.choose(now, &ticket, &list, public, 0).unwrap();
        assert_eq!(
            (dial.index, dial.addr, dial.payment),
            (4, "/ip4/192.0.2.1/tcp/4001".parse().unwrap(), None)
        );
        let none = server.choose(now, &ticket, &list[..4], public, 0);
        assert_eq!(none, Err(Refusal::NoAddress));
        server.end(&ticket);
        assert_eq!(server.running(), 0);
    }

    #[test]
    fn another_address_has_its_price() {
        let (mut server, now) = (Server::new(ServerConfig::default()), Instant::now());
        let ticket = server.begin(now, peer(1), ip("::ffff:192.0.2.1")).unwrap();
        let own = addrs(&["/ip4/192.0.2.1/tcp/1"]);
        let dial = server.choose(now, &ticket, &own, any, 0).unwrap();
        assert_eq!(dial.payment, None, "the same address in its other form");
        let victim = addrs(&["/ip4/192.0.2.7/tcp/1"]);
        let mut price = |random| {
            let dial = server.choose(now, &ticket, &victim, any, random).unwrap();
            dial.payment.unwrap()
        };
        assert_eq!((price(0).bytes(), price(70_000).bytes()), (30_000, 100_000));
        let mut payment = price(70_001);
        assert_eq!(payment.bytes(), 30_000);
        assert_eq!(payment.pay(29_990), Ok(false));
        assert_eq!(payment.pay(9), Err(PaymentError(9)));
        let mut payment = price(0);
        assert_eq!(
            (payment.pay(29_990), payment.pay(10)),
            (Ok(false), Ok(true))
        );
        // A fifth dial there within the minute is not to be had for money.
        let fifth = server.choose(now, &ticket, &victim, any, 0);
        assert_eq!(fifth, Err(Refusal::TooManyPaid));
        // Who has no address of its own always pays.
        let ticket = server.begin(now, peer(2), None).unwrap();
        let somewhere = addrs(&["/ip4/192.0.2.8/tcp/1"]);
        let dial = server.choose(now, &ticket, &somewhere, any, 0).unwrap();
        assert!(dial.payment.is_some());
    }

    #[test]
    fn there_are_so_many_dials_and_no_more() {
        let (mut server, now) = (Server::new(ServerConfig::default()), Instant::now());
        let one = (0..100).map(|_| server.begin(now, peer(0), ip("192.0.2.1")));
        let tickets: Vec<_> = one.filter_map(Result::ok).collect();
        assert_eq!(tickets.len(), 2, "at once");
        let mut count = 2;
        for ticket in &tickets {
            server.end(ticket);
        }
        let ask = |server: &mut Server, now, n, from: &str| {
            let ticket = server.begin(now, peer(n), ip(from));
            ticket.inspect(|ticket| server.end(ticket)).is_ok()
        };
        count += (0..100)
            .filter(|_| ask(&mut server, now, 0, "192.0.2.1"))
            .count();
        assert_eq!(count, 12, "of a peer");
        // Other ids at the same address are no other peers; in the same customer's network of IPv6 neither.
        assert!(!ask(&mut server, now, 1, "192.0.2.1"));
        let sybils = (0..1000)
            .filter(|n| ask(&mut server, now, 100 + n, &format!("2001:db8::{n:x}")))
            .count();
        assert_eq!(sybils, 12, "of a network");
        let all = (0..1000)
            .filter(|n| ask(&mut server, now, 2000 + n, &format!("198.51.{}.1", n % 250)))
            .count();
        assert_eq!(all, 60 - 24, "in all");
        println!("1,000 sybils in one network had {sybils} dials, everybody together 60 a minute");
        let later = now + Duration::from_secs(60);
        assert!(ask(&mut server, later, 0, "192.0.2.1"));
        assert_eq!(server.running(), 0);
    }

    #[test]
    fn version_1_dials_where_the_client_is_seen() {
        let (mut server, now) = (Server::new(ServerConfig::default()), Instant::now());
        let named: Vec<Multiaddr> = [
            "/ip4/203.0.113.7/tcp/4001",
            "/ip4/10.0.0.1/tcp/4001",
            "/ip4/10.0.0.1/udp/4001/quic-v1",
            "/dns4/victim.example/tcp/1",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();
        let (ticket, dials) = server
            .begin_v1(
                now,
                peer(1),
                ip("192.0.2.1"),
                Some(peer(1)),
                &named,
                |addr| addr.ip() == ip("192.0.2.1"),
            )
            .unwrap();
        assert_eq!(
            dials,
            [
                "/ip4/192.0.2.1/tcp/4001".parse().unwrap(),
                "/ip4/192.0.2.1/udp/4001/quic-v1".parse().unwrap()
            ]
        );
        server.end_v1(&ticket);
        let mut ask = |claimed, from: Option<IpAddr>, many: &[Multiaddr]| {
            let asked = server.begin_v1(now, peer(1), from, claimed, many, any);
            asked.map(|(ticket, dials)| {
                server.end_v1(&ticket);
                dials.len()
            })
        };
        let other = ask(Some(peer(2)), ip("192.0.2.1"), &named);
        assert_eq!(other, Err(V1Refusal::OtherPeer));
        assert_eq!(ask(None, None, &named), Err(V1Refusal::NoAddress));
        assert_eq!(ask(None, ip("192.0.2.1"), &[]), Err(V1Refusal::NoAddress));
        let many: Vec<Multiaddr> = (1..=100)
            .map(|port| format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap())
            .collect();
        assert_eq!(ask(None, ip("192.0.2.1"), &many), Ok(MAX_V1_DIALS));
        assert_eq!(ask(None, ip("192.0.2.1"), &many), Ok(MAX_V1_DIALS));
        assert_eq!(
            ask(None, ip("192.0.2.1"), &many),
            Err(V1Refusal::TooMany),
            "three of a peer"
        );
    }
}
