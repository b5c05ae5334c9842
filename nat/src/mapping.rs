//! Which ports a router is asked to map, and when: each before its lease ends, again after a failure, less and less often.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Ports that are mapped at most (own choice: a node listens on a few; routers hold some dozens).
pub const MAX_PORTS: usize = 16;

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP, and what runs over it.
    Tcp,
    /// UDP, and QUIC over it.
    Udp,
}

/// A port of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Of what.
    pub transport: Transport,
    /// Its number.
    pub number: u16,
}

/// Settings of [`Leases`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LeasesConfig {
    /// How long a mapping is asked for. Default 10 minutes (own choice: a router that has restarted is asked again within half of
    /// that, and the mapping of a node that crashed is not there for hours; RFC 6886 recommends two hours, go-libp2p asks for 60 s).
    pub lease: Duration,
    /// What part of what was granted passes before it is renewed. Default ½, as RFC 6886, 3.3.
    pub renew_after: f64,
    /// First pause after a failure; doubles from there. Default 2 s (own choice).
    pub min_pause: Duration,
    /// Longest pause after a failure. Default 5 minutes (own choice).
    pub max_pause: Duration,
}

impl Default for LeasesConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(600),
            renew_after: 0.5,
            min_pause: Duration::from_secs(2),
            max_pause: Duration::from_secs(300),
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask for a mapping, or for more time.
    Map(Port),
    /// Say that it is not needed any more.
    Unmap(Port),
}

#[derive(Debug)]
struct Lease {
    /// Asked for then; `None` while the answer is awaited.
    due: Option<Instant>,
    /// What is mapped, and until when.
    held: Option<(SocketAddr, Instant)>,
    failures: u32,
}

/// The mappings of one node.
#[derive(Debug)]
pub struct Leases {
    config: LeasesConfig,
    leases: BTreeMap<Port, Lease>,
    /// Not wanted any more, and nobody was told.
    unmap: Vec<Port>,
}

impl Leases {
    /// Nothing is mapped.
    #[must_use]
    pub const fn new(config: LeasesConfig) -> Self {
        Self {
            config,
            leases: BTreeMap::new(),
            unmap: Vec::new(),
        }
    }

    /// These are to be mapped from now on, the first [`MAX_PORTS`] of them, and no others.
    pub fn set_ports(&mut self, now: Instant, ports: &[Port]) {
        let mut wanted: Vec<Port> = Vec::new();
        for port in ports {
            if port.number != 0 && wanted.len() < MAX_PORTS && !wanted.contains(port) {
                wanted.push(*port);
            }
        }
        let unmap = &mut self.unmap;
        self.leases.retain(|port, lease| {
            let stays = wanted.contains(port);
            // What is being asked for may be granted yet.
            if !stays && (lease.held.is_some() || lease.due.is_none()) {
                unmap.push(*port);
            }
            stays
        });
        unmap.retain(|port| !wanted.contains(port));
        for port in wanted {
            self.leases.entry(port).or_insert(Lease {
                due: Some(now),
                held: None,
                failures: 0,
            });
        }
    }

    /// What to do now; call it again until it is nothing.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        for lease in self.leases.values_mut() {
            if lease.held.is_some_and(|(_, until)| until <= now) {
                lease.held = None;
            }
        }
        if let Some(port) = self.unmap.pop() {
            return Some(Action::Unmap(port));
        }
        let is_due = |lease: &Lease| lease.due.is_some_and(|at| at <= now);
        let (port, lease) = self.leases.iter_mut().find(|(_, lease)| is_due(lease))?;
        lease.due = None;
        Some(Action::Map(*port))
    }

    /// When to [`poll`](Self::poll) again if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.leases.values().filter_map(|lease| lease.due);
        let held = self.leases.values().filter_map(|lease| lease.held);
        due.chain(held.map(|(_, until)| until)).min()
    }

    /// A port was mapped to `outside` for `lifetime`.
    pub fn mapped(&mut self, now: Instant, port: Port, outside: SocketAddr, lifetime: Duration) {
        let Some(lease) = self.leases.get_mut(&port) else {
            // Not wanted any more since it was asked for.
            if !self.unmap.contains(&port) && self.unmap.len() < MAX_PORTS {
                self.unmap.push(port);
            }
            return;
        };
        // A router that grants seconds would be asked all the time, one that grants for ever never again.
        let lifetime = lifetime.clamp(self.config.min_pause, 2 * self.config.lease);
        lease.held = Some((outside, now + lifetime));
        lease.due = Some(now + lifetime.mul_f64(self.config.renew_after.clamp(0.1, 0.9)));
        lease.failures = 0;
    }

    /// A port was not mapped. What was mapped before stays until its end.
    pub fn failed(&mut self, now: Instant, port: Port) {
        if let Some(lease) = self.leases.get_mut(&port) {
            let doubled = 1 << lease.failures.min(16);
            let pause = self.config.min_pause.saturating_mul(doubled);
            lease.failures = lease.failures.saturating_add(1);
            lease.due = Some(now + pause.min(self.config.max_pause));
        }
    }

    /// Another router is asked from now on: what the last one has mapped counts no more.
    pub fn reset(&mut self, now: Instant) {
        self.unmap.clear();
        for lease in self.leases.values_mut() {
            *lease = Lease {
                due: Some(now),
                held: None,
                failures: 0,
            };
        }
    }

    /// What is mapped, and where.
    pub fn held(&self) -> impl Iterator<Item = (Port, SocketAddr)> {
        let leases = self.leases.iter();
        leases.filter_map(|(port, lease)| Some((*port, lease.held?.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Port = Port {
        transport: Transport::Tcp,
        number: 4001,
    };
    const UDP: Port = Port {
        transport: Transport::Udp,
        number: 4001,
    };

    fn outside(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn leases_are_renewed_and_given_back() {
        let mut leases = Leases::new(LeasesConfig::default());
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        leases.set_ports(begun, &[TCP, UDP, TCP]);
        assert_eq!(leases.poll(begun), Some(Action::Map(TCP)));
        assert_eq!(leases.poll(begun), Some(Action::Map(UDP)));
        assert_eq!((leases.poll(begun), leases.poll_timeout()), (None, None));
        leases.mapped(begun, TCP, outside(7), Duration::from_secs(600));
        leases.failed(begun, UDP);
        assert_eq!(leases.poll_timeout(), Some(at(2)));
        assert_eq!(leases.poll(at(2)), Some(Action::Map(UDP)));
        leases.failed(at(2), UDP);
        assert_eq!(leases.poll_timeout(), Some(at(6)));
        leases.set_ports(at(3), &[TCP]);
        assert_eq!(leases.poll(at(3)), None, "it never was mapped");
        assert_eq!(leases.poll_timeout(), Some(at(300)));
        assert_eq!(leases.poll(at(300)), Some(Action::Map(TCP)));
        // Not renewed, it counts until its end.
        leases.failed(at(301), TCP);
        assert_eq!(leases.held().collect::<Vec<_>>(), [(TCP, outside(7))]);
        assert_eq!(leases.poll(at(600)), Some(Action::Map(TCP)));
        assert_eq!(leases.held().count(), 0);
        // It is not wanted any more when the answer comes.
        leases.set_ports(at(601), &[]);
        assert_eq!(leases.poll(at(601)), Some(Action::Unmap(TCP)));
        leases.mapped(at(602), TCP, outside(7), Duration::from_secs(600));
        assert_eq!(leases.poll(at(602)), Some(Action::Unmap(TCP)));
        assert_eq!(leases.poll_timeout(), None);
    }

    #[test]
    fn a_router_that_grants_nothing_or_for_ever_is_asked_now_and_then() {
        for granted in [Duration::ZERO, Duration::MAX] {
            let mut leases = Leases::new(LeasesConfig::default());
            let now = Instant::now();
            leases.set_ports(now, &[TCP]);
            leases.poll(now);
            leases.mapped(now, TCP, outside(1), granted);
            let due = leases.poll_timeout().map(|at| at - now);
            let usual = Duration::from_secs(1)..=Duration::from_secs(600);
            assert!(due.is_some_and(|due| usual.contains(&due)), "{due:?}");
        }
    }

    #[test]
    fn another_router_is_asked_for_everything() {
        let mut leases = Leases::new(LeasesConfig::default());
        let now = Instant::now();
        leases.set_ports(now, &[TCP, UDP]);
        while leases.poll(now).is_some() {}
        leases.mapped(now, TCP, outside(1), Duration::from_secs(60));
        leases.reset(now);
        assert_eq!(leases.held().count(), 0);
        assert_eq!(leases.poll(now), Some(Action::Map(TCP)));
        assert_eq!(leases.poll(now), Some(Action::Map(UDP)));
    }
}
