//! What a relay owes to whom: reservations and circuits, within limits.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::{Fault, PeerId};

use super::{Limit, Status};

/// Limits of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerConfig {
    /// Reservations in all. Default 128, as go- and rust-libp2p. A peer has one: a second replaces it.
    pub max_reservations: usize,
    /// Reservations from one IPv4 address or one /56 of IPv6, as which providers hand it to a customer. Those of this machine do
    /// not count. Default 8, as go-libp2p.
    pub max_per_address: usize,
    /// Reservations from one network: an IPv6 /32, the least that a registry gives a provider. Default 32, as go-libp2p, which looks
    /// up the autonomous system, also for IPv6 alone.
    pub max_per_network: usize,
    /// How long a reservation lasts. Default 1 hour, as go- and rust-libp2p.
    pub reservation: Duration,
    /// Circuits in all. Default 1,024 (own choice: 96 MiB of idle ones; go-libp2p has no such limit).
    pub max_circuits: usize,
    /// Circuits that one peer has asked for, and as many more that lead to it. Default 16, as go-libp2p.
    pub max_circuits_per_peer: usize,
    /// What a circuit may carry, in each direction. Default 2 minutes and 128 KiB, as go-libp2p.
    pub limit: Limit,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            max_reservations: 128,
            max_per_address: 8,
            max_per_network: 32,
            reservation: Duration::from_secs(3600),
            max_circuits: 1024,
            max_circuits_per_peer: 16,
            limit: Limit::default(),
        }
    }
}

/// Where a client comes from, as far as limits go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin(IpAddr);

impl Origin {
    /// Of the address of a connection; `None` for one that no limit counts.
    #[must_use]
    pub fn of(ip: IpAddr) -> Option<Self> {
        let ip = ip.to_canonical();
        (!ip.is_loopback()).then_some(Self(ip))
    }

    fn shares_address(self, other: Self) -> bool {
        match (self.0, other.0) {
            (IpAddr::V4(one), IpAddr::V4(other)) => one == other,
            (IpAddr::V6(one), IpAddr::V6(other)) => one.octets()[..7] == other.octets()[..7],
            _ => false,
        }
    }

    fn shares_network(self, other: Self) -> bool {
        match (self.0, other.0) {
            (IpAddr::V6(one), IpAddr::V6(other)) => one.octets()[..4] == other.octets()[..4],
            _ => false,
        }
    }
}

/// Why a relay does not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// [`LedgerConfig::max_reservations`].
    #[error("all reservations are taken")]
    Reservations,
    /// [`LedgerConfig::max_per_address`].
    #[error("too many reservations from one address")]
    Address,
    /// [`LedgerConfig::max_per_network`].
    #[error("too many reservations from one network")]
    Network,
    /// The target has no reservation.
    #[error("the target has no reservation")]
    NoReservation,
    /// A circuit from a peer to itself.
    #[error("a circuit from a peer to itself")]
    Itself,
    /// [`LedgerConfig::max_circuits`].
    #[error("too many circuits")]
    Circuits,
    /// [`LedgerConfig::max_circuits_per_peer`], of who asks.
    #[error("too many circuits of one peer")]
    CircuitsFrom,
    /// The same, of the target.
    #[error("too many circuits to one peer")]
    CircuitsTo,
}

impl Refusal {
    /// The asking peer's where it asks for nonsense, else a limit.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Itself | Self::NoReservation => Fault::Peer,
            _ => Fault::Limit,
        }
    }

    /// What to answer, as go-libp2p does.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::Reservations | Self::Address | Self::Network => Status::ReservationRefused,
            Self::NoReservation => Status::NoReservation,
            Self::Itself => Status::PermissionDenied,
            Self::Circuits | Self::CircuitsFrom | Self::CircuitsTo => Status::ResourceLimitExceeded,
        }
    }
}

/// What [`Ledger::reserve`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// When it ends.
    pub until: Instant,
    /// Names this reservation among all of the peer.
    pub number: u64,
    /// The peer had one already.
    pub renewed: bool,
}

#[derive(Debug)]
struct Entry {
    until: Instant,
    origin: Option<Origin>,
    number: u64,
}

/// Names a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitId(u64);

/// The account. Its maps are bounded by the limits.
#[derive(Debug)]
pub struct Ledger {
    config: LedgerConfig,
    reservations: HashMap<PeerId, Entry>,
    /// Who asked and who is asked for.
    circuits: BTreeMap<CircuitId, (PeerId, PeerId)>,
    /// Circuits from and to a peer.
    of_peers: HashMap<PeerId, (usize, usize)>,
    next: u64,
}

impl Ledger {
    /// Nobody has anything.
    #[must_use]
    pub fn new(config: LedgerConfig) -> Self {
        Self {
            config,
            reservations: HashMap::new(),
            circuits: BTreeMap::new(),
            of_peers: HashMap::new(),
            next: 0,
        }
    }

    /// The limits.
    #[must_use]
    pub const fn config(&self) -> &LedgerConfig {
        &self.config
    }

    /// Gives `peer` a reservation, in place of the one it has: that always succeeds, whatever the limits.
    ///
    /// # Errors
    /// [`Refusal`] if a limit is reached.
    pub fn reserve(
        &mut self,
        now: Instant,
        peer: PeerId,
        origin: Option<Origin>,
    ) -> Result<Reserved, Refusal> {
        self.expire(now);
        let renewed = self.reservations.contains_key(&peer);
        if !renewed {
            self.has_room(origin)?;
        }
        let (until, number) = (now + self.config.reservation, self.take_number());
        let entry = Entry {
            until,
            origin,
            number,
        };
        self.reservations.insert(peer, entry);
        Ok(Reserved {
            until,
            number,
            renewed,
        })
    }

    fn has_room(&self, origin: Option<Origin>) -> Result<(), Refusal> {
        if self.reservations.len() >= self.config.max_reservations {
            return Err(Refusal::Reservations);
        }
        let Some(origin) = origin else {
            return Ok(());
        };
        let count = |shares: fn(Origin, Origin) -> bool| {
            let others = self.reservations.values().filter_map(|entry| entry.origin);
            others.filter(|other| shares(*other, origin)).count()
        };
        if count(Origin::shares_address) >= self.config.max_per_address {
            return Err(Refusal::Address);
        }
        if count(Origin::shares_network) >= self.config.max_per_network {
            return Err(Refusal::Network);
        }
        Ok(())
    }

    /// Ends a reservation, unless it has been replaced by a later one: its client has gone.
    pub fn release(&mut self, peer: &PeerId, number: u64) {
        if self
            .reservations
            .get(peer)
            .is_some_and(|entry| entry.number == number)
        {
            self.reservations.remove(peer);
        }
    }

    /// Begins a circuit from `source` to `target`, which must have a reservation.
    ///
    /// # Errors
    /// [`Refusal`] if it has none, or a limit is reached.
    pub fn begin_circuit(
        &mut self,
        now: Instant,
        source: PeerId,
        target: PeerId,
    ) -> Result<CircuitId, Refusal> {
        if source == target {
            return Err(Refusal::Itself);
        }
        self.expire(now);
        if !self.reservations.contains_key(&target) {
            return Err(Refusal::NoReservation);
        }
        if self.circuits.len() >= self.config.max_circuits {
            return Err(Refusal::Circuits);
        }
        let of = |peer| self.of_peers.get(peer).copied().unwrap_or_default();
        if of(&source).0 >= self.config.max_circuits_per_peer {
            return Err(Refusal::CircuitsFrom);
        }
        if of(&target).1 >= self.config.max_circuits_per_peer {
            return Err(Refusal::CircuitsTo);
        }
        let id = CircuitId(self.take_number());
        self.circuits.insert(id, (source, target));
        self.of_peers.entry(source).or_default().0 += 1;
        self.of_peers.entry(target).or_default().1 += 1;
        Ok(id)
    }

    /// Ends a circuit.
    pub fn end_circuit(&mut self, id: CircuitId) {
        let Some((source, target)) = self.circuits.remove(&id) else {
            return;
        };
        for (peer, came) in [(source, true), (target, false)] {
            if let Some((from, to)) = self.of_peers.get_mut(&peer) {
                if came {
                    *from = from.saturating_sub(1);
                } else {
                    *to = to.saturating_sub(1);
                }
                if (*from, *to) == (0, 0) {
                    self.of_peers.remove(&peer);
                }
            }
        }
    }

    /// Reservations there are. Those whose time is over may be among them.
    #[must_use]
    pub fn reservations(&self) -> usize {
        self.reservations.len()
    }

    /// Circuits there are.
    #[must_use]
    pub fn circuits(&self) -> usize {
        self.circuits.len()
    }

    fn expire(&mut self, now: Instant) {
        self.reservations.retain(|_, entry| entry.until > now);
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    fn peer(n: u32) -> PeerId {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        Keypair::from_seed(&seed).peer_id()
    }

    fn from(ip: &str) -> Option<Origin> {
        Origin::of(ip.parse().unwrap())
    }

    #[test]
    fn sybils_at_one_address_get_eight() {
        let (mut ledger, now) = (Ledger::new(LedgerConfig::default()), Instant::now());
        let sybils = from("192.0.2.1");
        let got: Vec<_> = (0..1_000)
            .map(|n| ledger.reserve(now, peer(n), sybils))
            .collect();
        assert_eq!(got.iter().filter(|got| got.is_ok()).count(), 8);
        assert_eq!(got[8], Err(Refusal::Address));
        println!("1,000 sybils at one address: 8 of them have a reservation");
        // Those who have one may renew it; somebody else gets one.
        assert!(ledger.reserve(now, peer(3), sybils).unwrap().renewed);
        assert!(ledger.reserve(now, peer(5_000), from("192.0.2.2")).is_ok());
        // IPv6 counts customers, and providers.
        let v6 = |n: u32| from(&format!("2001:db8:{n:x}::1"));
        let of_providers: Vec<_> = (0..40)
            .map(|n| ledger.reserve(now, peer(2_000 + n), v6(n)))
            .collect();
        assert_eq!(
            of_providers[31..33]
                .iter()
                .filter(|got| got.is_ok())
                .count(),
            1
        );
        assert_eq!(of_providers[32], Err(Refusal::Network));
        let all = (0..200).map(|n| ledger.reserve(now, peer(3_000 + n), None));
        let refused = all.filter(|got| *got == Err(Refusal::Reservations)).count();
        assert_eq!(
            (ledger.reservations(), refused),
            (128, 200 - (128 - 8 - 1 - 32))
        );
    }

    #[test]
    fn reservations_end() {
        let (mut ledger, now) = (Ledger::new(LedgerConfig::default()), Instant::now());
        let first = ledger.reserve(now, peer(1), None).unwrap();
        let second = ledger.reserve(now, peer(1), None).unwrap();
        ledger.release(&peer(1), first.number);
        assert_eq!(ledger.reservations(), 1, "it was replaced");
        let end = second.until;
        let circuit = ledger.begin_circuit(end - Duration::from_nanos(1), peer(2), peer(1));
        assert!(circuit.is_ok());
        let late = ledger.begin_circuit(end, peer(2), peer(1));
        assert_eq!(late, Err(Refusal::NoReservation));
        let third = ledger.reserve(end, peer(1), None).unwrap();
        assert!(!third.renewed);
        ledger.release(&peer(1), third.number);
        assert_eq!(ledger.reservations(), 0);
    }

    #[test]
    fn circuits_are_counted_at_both_ends() {
        let config = LedgerConfig {
            max_circuits: 40,
            ..LedgerConfig::default()
        };
        let (mut ledger, now) = (Ledger::new(config), Instant::now());
        for target in [1, 2] {
            ledger.reserve(now, peer(target), None).unwrap();
        }
        let mut begin = |from, to| ledger.begin_circuit(now, peer(from), peer(to));
        assert_eq!(begin(1, 1), Err(Refusal::Itself));
        assert_eq!(begin(1, 3), Err(Refusal::NoReservation));
        let ids: Vec<_> = (0..16).map(|_| begin(7, 1).unwrap()).collect();
        assert_eq!(begin(7, 2), Err(Refusal::CircuitsFrom));
        assert_eq!(begin(8, 1), Err(Refusal::CircuitsTo));
        for from in 100..116 {
            begin(from, 2).unwrap();
        }
        assert_eq!(ledger.circuits(), 32);
        for id in ids {
            ledger.end_circuit(id);
            ledger.end_circuit(id);
        }
        assert_eq!((ledger.circuits(), ledger.of_peers.len()), (16, 17));
        assert!(ledger.begin_circuit(now, peer(8), peer(1)).is_ok());
    }
}
