//! What servers have said of one address, and what to believe.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::Multiaddr;

/// Whether others can open connections to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reachability {
    /// Too little is known.
    #[default]
    Unknown,
    /// They can.
    Public,
    /// They cannot.
    Private,
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Public => "public",
            Self::Private => "private",
        })
    }
}

/// What is known of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestedAddr {
    /// The address, without `/p2p`.
    pub addr: Multiaddr,
    /// What is believed.
    pub reachability: Reachability,
    /// Networks with a server that came through, of those that count.
    pub reached: usize,
    /// Networks with one that did not.
    pub failed: usize,
}

/// Where a server is, as far as its word counts: all servers of one network have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// An IPv4 /24.
    V4([u8; 3]),
    /// An IPv6 /48.
    V6([u8; 6]),
    /// One address in a network that is nobody's, where a range says nothing.
    Single(IpAddr),
    /// No IP address at all.
    None,
}

impl Network {
    /// Of the address of a connection.
    #[must_use]
    pub fn of(ip: Option<IpAddr>) -> Self {
        match ip.map(|ip| ip.to_canonical()) {
            None => Self::None,
            Some(IpAddr::V4(ip)) if ip.is_private() || ip.is_loopback() || ip.is_link_local() => {
                Self::Single(ip.into())
            }
            Some(IpAddr::V6(ip))
                if ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() =>
            {
                Self::Single(ip.into())
            }
            Some(IpAddr::V4(ip)) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

/// Answers that count beyond those needed, as go-libp2p has them: a liar or two among them decide nothing.
const SPARE: usize = 2;

#[derive(Debug)]
struct Vote {
    reached: bool,
    at: Instant,
}

/// The answers about one address, and how many more are wanted.
///
/// They are asked for in rounds. In one of an address that nothing is known of each network is asked, until enough have answered. In
/// one of an address that is known a single one is asked; if it says something else, all are again.
#[derive(Debug)]
pub(super) struct Tested {
    votes: BTreeMap<Network, Vote>,
    /// Asked at present.
    asking: BTreeSet<Network>,
    /// Those that do not dial it, in this round.
    refused: BTreeSet<Network>,
    state: Reachability,
    /// Answers of this round are from then on.
    since: Instant,
    wanted: usize,
    /// When the next round begins.
    next: Instant,
}

/// How rounds go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds {
    pub(super) confirmations: usize,
    pub(super) refresh: Duration,
    pub(super) retry: Duration,
    pub(super) ttl: Duration,
}

impl Rounds {
    fn most(&self) -> usize {
        self.confirmations.max(1).saturating_add(SPARE)
    }
}

impl Tested {
    /// The first round begins at `first`.
    pub(super) fn new(now: Instant, first: Instant) -> Self {
        Self {
            votes: BTreeMap::new(),
            asking: BTreeSet::new(),
            refused: BTreeSet::new(),
            state: Reachability::Unknown,
            since: now,
            wanted: 0,
            next: first,
        }
    }

    /// Begins a round if one is due; whether what is believed has changed by answers that are too old.
    pub(super) fn handle_timeout(&mut self, now: Instant, rounds: &Rounds) -> bool {
        if self.next > now {
            return false;
        }
        let old = self.state;
        let fresh = |vote: &mut Vote| now.saturating_duration_since(vote.at) < rounds.ttl;
        self.votes.retain(|_, vote| fresh(vote));
        if self.votes.is_empty() {
            self.state = Reachability::Unknown;
        }
        self.since = now;
        self.refused.clear();
        (self.wanted, self.next) = match self.state {
            Reachability::Unknown => (rounds.most(), now + rounds.retry),
            _ => (1, now + rounds.refresh),
        };
        old != self.state
    }

    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    fn fresh(&self) -> usize {
        let fresh = self.votes.values().filter(|vote| vote.at >= self.since);
        fresh.count()
    }

    /// Whether it is to be asked about at all now.
    pub(super) fn wants(&self) -> bool {
        self.fresh() + self.asking.len() < self.wanted
    }

    /// Whether a server of this network is one to ask.
    pub(super) fn may_ask(&self, network: &Network) -> bool {
        let voted = self.votes.get(network);
        let voted = voted.is_some_and(|vote| vote.at >= self.since);
        !voted && !self.asking.contains(network) && !self.refused.contains(network)
    }

    pub(super) fn ask(&mut self, network: Network) {
        self.asking.insert(network);
    }

    /// No answer came.
    pub(super) fn asked(&mut self, network: &Network) {
        self.asking.remove(network);
    }

    /// Servers of a network do not dial it.
    pub(super) fn refuse(&mut self, network: Network) {
        self.refused.insert(network);
    }

    /// An answer has come; whether what is believed has changed.
    pub(super) fn vote(
        &mut self,
        now: Instant,
        network: Network,
        reached: bool,
        rounds: &Rounds,
    ) -> bool {
        self.votes.insert(network, Vote { reached, at: now });
        if self.votes.len() > rounds.most() {
            // The newest count: what was true an hour ago does not outweigh what is true now.
            let oldest = self.votes.iter().min_by_key(|(_, vote)| vote.at);
            if let Some(network) = oldest.map(|(network, _)| *network) {
                self.votes.remove(&network);
            }
        }
        let (old, (yes, no)) = (self.state, self.count());
        let enough = rounds.confirmations.max(1);
        // Two of three have to agree: one that lies among three or more changes nothing.
        let decided = match () {
            () if yes >= enough && yes > 2 * no => Reachability::Public,
            () if no >= enough && no > 2 * yes => Reachability::Private,
            () => old,
        };
        self.state = decided;
        let agrees = match decided {
            Reachability::Unknown => return false,
            Reachability::Public => reached,
            Reachability::Private => !reached,
        };
        if decided != old {
            self.wanted = 0;
            self.next = now + rounds.refresh;
        } else if !agrees {
            self.wanted = rounds.most();
            self.next = self.next.min(now + rounds.retry);
        }
        decided != old
    }

    pub(super) const fn state(&self) -> Reachability {
        self.state
    }

    /// Networks that came through, and that did not.
    pub(super) fn count(&self) -> (usize, usize) {
        let yes = self.votes.values().filter(|vote| vote.reached).count();
        (yes, self.votes.len() - yes)
    }

    /// Whether an answer is under way.
    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }
}
