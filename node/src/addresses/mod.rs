//! Where this node can be reached: listeners, the interfaces behind wildcards, and what others see.

mod interfaces;
mod observed;
mod scope;

use std::net::IpAddr;

use barewire_base::Multiaddr;

pub use self::observed::{Ignored, Observation, Observed, ObservedConfig};
pub(crate) use self::{interfaces::Interfaces, scope::Scope};

/// Concrete addresses of one wildcard listener: hosts with many virtual interfaces have hundreds,
/// and an identify message has room for about this many (own choice).
const MAX_PER_WILDCARD: usize = 32;

/// Whether an address stands for all addresses of this machine.
pub(crate) fn is_wildcard(addr: &Multiaddr) -> bool {
    addr.ip().is_some_and(|ip| ip.is_unspecified())
}

/// The addresses a listener can be dialled at. No I/O.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// As bound, wildcards included, in the order of binding.
    bound: Vec<Multiaddr>,
    /// Addresses of this machine; `None` as long as nobody looked.
    interfaces: Option<Vec<IpAddr>>,
    /// Those that lead here through relays.
    relayed: Vec<Multiaddr>,
    pub(crate) observed: Observed,
}

impl Addresses {
    pub(crate) fn new(observed: ObservedConfig) -> Self {
        Self {
            bound: Vec::new(),
            interfaces: None,
            relayed: Vec::new(),
            observed: Observed::new(observed),
        }
    }

    pub(crate) fn bind(&mut self, addr: Multiaddr) {
        self.bound.push(addr);
    }

    pub(crate) fn bound(&self) -> &[Multiaddr] {
        &self.bound
    }

    pub(crate) fn relayed(&self) -> &[Multiaddr] {
        &self.relayed
    }

    pub(crate) fn set_relayed(&mut self, addrs: Vec<Multiaddr>) {
        self.relayed = addrs;
    }

    pub(crate) fn set_interfaces(&mut self, ips: Vec<IpAddr>) {
        self.interfaces = Some(ips);
    }

    /// Where the listeners can be dialled: each wildcard as the addresses of this machine, those
    /// that reach farthest first. A wildcard stays as it is while the interfaces are not known.
    ///
    /// Link-local IPv6 addresses are left out: without the name of an interface, which differs on
    /// the dialling machine, nobody can dial them.
    pub(crate) fn listening(&self) -> Vec<Multiaddr> {
        let mut all = Vec::with_capacity(self.bound.len());
        for addr in &self.bound {
            let Some(ips) = self.interfaces.as_ref().filter(|_| is_wildcard(addr)) else {
                all.push(addr.clone());
                continue;
            };
            let mut ips: Vec<_> = ips
                .iter()
                .filter(|ip| ip.is_ipv4() || Scope::of(**ip) != Scope::Link)
                .collect();
            ips.sort_by_key(|ip| (reach(**ip), **ip));
            let concrete = ips.into_iter().filter_map(|ip| addr.with_ip(*ip));
            all.extend(concrete.take(MAX_PER_WILDCARD));
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|addr| seen.insert(addr.clone()));
        all
    }
}

/// Farther first.
fn reach(ip: IpAddr) -> u8 {
    match Scope::of(ip) {
        Scope::Public => 0,
        Scope::Private => 1,
        Scope::Link => 2,
        Scope::Loopback | Scope::None => 3,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn addrs(list: &[&str]) -> Vec<Multiaddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn wildcards_stand_for_the_addresses_of_the_machine() {
        let mut addresses = Addresses::new(ObservedConfig::default());
        let bound = addrs(&[
            "/ip4/0.0.0.0/tcp/4001",
            "/ip4/0.0.0.0/udp/4001/quic-v1",
            "/ip6/::/tcp/4001/ws",
            "/ip4/10.0.0.1/tcp/4001",
            "/memory/7",
        ]);
        for addr in &bound {
            addresses.bind(addr.clone());
        }
        assert_eq!(addresses.listening(), bound);
        let ips = [
            "127.0.0.1",
            "10.0.0.1",
            "8.8.8.8",
            "::1",
            "fe80::1",
            "fd00::1",
        ];
        addresses.set_interfaces(ips.map(|ip| ip.parse().unwrap()).to_vec());
        assert_eq!(
            addresses.listening(),
            addrs(&[
                "/ip4/8.8.8.8/tcp/4001",
                "/ip4/10.0.0.1/tcp/4001",
                "/ip4/127.0.0.1/tcp/4001",
                "/ip4/8.8.8.8/udp/4001/quic-v1",
                "/ip4/10.0.0.1/udp/4001/quic-v1",
                "/ip4/127.0.0.1/udp/4001/quic-v1",
                "/ip6/fd00::1/tcp/4001/ws",
                "/ip6/::1/tcp/4001/ws",
                "/memory/7",
            ])
        );
        assert_eq!(addresses.bound(), bound);
        let many = (0..1_000u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        addresses.set_interfaces(many.collect());
        assert!(addresses.listening().len() <= 3 * MAX_PER_WILDCARD + 2);
    }
}
