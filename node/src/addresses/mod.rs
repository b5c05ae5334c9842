//! Where this node can be reached: listeners, the interfaces behind wildcards, and what others see.

mod interfaces;
mod observed;
mod scope;

use std::{collections::HashSet, net::IpAddr};

use barewire_base::Multiaddr;
use barewire_nat::autonat::{Reachability, TestedAddr};

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
    /// What others say of some of them when they are asked to dial.
    tested: Vec<TestedAddr>,
    reachability: Reachability,
    /// Those at which a router sends on what comes.
    mapped: Vec<Multiaddr>,
    pub(crate) observed: Observed,
}

impl Addresses {
    pub(crate) fn new(observed: ObservedConfig) -> Self {
        Self {
            bound: Vec::new(),
            interfaces: None,
            relayed: Vec::new(),
            tested: Vec::new(),
            reachability: Reachability::Unknown,
            mapped: Vec::new(),
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

    pub(crate) fn tested(&self) -> (Reachability, &[TestedAddr]) {
        (self.reachability, &self.tested)
    }

    pub(crate) fn set_tested(&mut self, reachability: Reachability, tested: Vec<TestedAddr>) {
        (self.reachability, self.tested) = (reachability, tested);
    }

    /// What peers are told, what the world can reach first: the last ones may not fit a message. An address that servers have dialled
    /// in vain is left out, and one at which they came through is among them, whoever thought of it.
    pub(crate) fn announced(&self) -> Vec<Multiaddr> {
        let tested = |as_what| {
            let tested = self.tested.iter();
            tested.filter(move |tested| tested.reachability == as_what)
        };
        let in_vain: HashSet<_> = tested(Reachability::Private).map(|of| &of.addr).collect();
        let mut announced: Vec<_> = tested(Reachability::Public)
            .map(|of| of.addr.clone())
            .collect();
        announced.extend_from_slice(self.observed.confirmed());
        announced.extend_from_slice(&self.mapped);
        announced.extend_from_slice(&self.relayed);
        announced.extend(self.listening());
        let mut seen = HashSet::new();
        announced.retain(|addr| !in_vain.contains(addr) && seen.insert(addr.clone()));
        announced
    }

    pub(crate) fn mapped(&self) -> &[Multiaddr] {
        &self.mapped
    }

    pub(crate) fn set_mapped(&mut self, addrs: Vec<Multiaddr>) {
        self.mapped = addrs;
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
        let mut seen = HashSet::new();
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

    #[test]
    fn what_others_cannot_reach_is_not_announced() {
        let mut addresses = Addresses::new(ObservedConfig::default());
        let [tcp, quic] = ["/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/udp/1/quic-v1"];
        let near = "/ip4/10.0.0.1/tcp/1";
        for addr in addrs(&[tcp, quic, near]) {
            addresses.bind(addr);
        }
        addresses.set_relayed(addrs(&["/ip4/9.9.9.9/tcp/1/p2p-circuit"]));
        let relayed = "/ip4/9.9.9.9/tcp/1/p2p-circuit";
        assert_eq!(
            addresses.announced(),
            addrs(&[relayed, tcp, quic, near]),
            "nothing is known"
        );
        // What servers say, who dial one port in vain, and get through at one of a router.
        let mut client = barewire_nat::autonat::Client::new(Default::default());
        client.set_addresses(
            std::time::Instant::now(),
            addrs(&[tcp, quic, "/ip4/1.1.1.1/tcp/1"]),
        );
        let mut tested = client.tested();
        tested[0].reachability = Reachability::Private;
        tested[2].reachability = Reachability::Public;
        addresses.set_tested(Reachability::Public, tested);
        assert_eq!(
            addresses.announced(),
            addrs(&["/ip4/1.1.1.1/tcp/1", relayed, quic, near])
        );
    }
}
