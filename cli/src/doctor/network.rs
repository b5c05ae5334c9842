//! What the network does with the ports of this machine, as told by where others see it.

use std::{collections::BTreeSet, net::SocketAddr};

use barewire_base::Multiaddr;
use barewire_node::protocols::autonat::{AutonatState, Reachability, TestedAddr};
use serde_json::{Value, json};

use super::Advice;
use crate::autonat;

/// What one server says, or why it does not.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    server: Multiaddr,
    /// This end of the connection, and where the server sees it.
    seen: Result<(Multiaddr, Multiaddr), String>,
}

impl Sight {
    pub(super) const fn new(
        server: Multiaddr,
        seen: Result<(Multiaddr, Multiaddr), String>,
    ) -> Self {
        Self { server, seen }
    }
}

/// A transport that is told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Tcp,
    Quic,
}

impl Over {
    const ALL: [Self; 2] = [Self::Tcp, Self::Quic];

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }

    fn socket(self, addr: &Multiaddr) -> Option<SocketAddr> {
        let socket = match self {
            Self::Tcp => addr.to_tcp(),
            Self::Quic => addr.to_quic(),
        };
        Some(socket?.0)
    }
}

/// How ports are translated (RFC 4787, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// No server was asked over this transport.
    NotAsked,
    /// No server answers over this transport, and some do over another.
    Blocked,
    /// No server answers at all.
    Silent,
    /// Others see this machine's own address and port.
    None,
    /// One server sees another address or port; a second one would tell more.
    Translated,
    /// All see the same.
    EndpointIndependent,
    /// Each sees another: symmetric.
    EndpointDependent,
}

impl Mapping {
    const fn name(self) -> &'static str {
        match self {
            Self::NotAsked => "not-asked",
            Self::Blocked => "blocked",
            Self::Silent => "silent",
            Self::None => "none",
            Self::Translated => "translated",
            Self::EndpointIndependent => "endpoint-independent",
            Self::EndpointDependent => "endpoint-dependent",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::NotAsked => "not known: no server was asked; name some with --server",
            Self::Blocked => "blocked: no server answers over it, though some do otherwise",
            Self::Silent => "not known: no server answers",
            Self::None => "no translation: others see this machine's own address and port",
            Self::Translated => {
                "behind a router that translates; of what kind, a second --server in another network tells"
            }
            Self::EndpointIndependent => {
                "behind a router that shows everybody the same port; holes can be punched"
            }
            Self::EndpointDependent => {
                "behind a router that shows each peer another port (symmetric); holes can hardly be punched"
            }
        }
    }

    const fn todo(self) -> Option<&'static str> {
        match self {
            Self::Blocked => Some(
                "allow it through the firewall; until then listen over TCP too, and let peers know that address",
            ),
            Self::Silent => {
                Some("check the servers' addresses, and whether this machine is online")
            }
            Self::EndpointDependent => Some(
                "turn on UPnP or PCP in the router and use --port-mapping, forward a port by hand, or be reached through --relay",
            ),
            Self::EndpointIndependent | Self::Translated => {
                Some("use --port-mapping, or --relay so that peers meet and punch a hole")
            }
            Self::None | Self::NotAsked => None,
        }
    }
}

/// What is known.
#[derive(Debug)]
pub(super) struct Network {
    listening: Vec<Multiaddr>,
    sights: Vec<Sight>,
    tested: AutonatState,
}

impl Network {
    pub(super) const fn new(
        listening: Vec<Multiaddr>,
        sights: Vec<Sight>,
        tested: AutonatState,
    ) -> Self {
        Self {
            listening,
            sights,
            tested,
        }
    }

    /// Addresses that servers have dialled.
    fn tried(&self) -> impl Iterator<Item = &TestedAddr> {
        let all = self.tested.addrs.iter();
        all.filter(|of| of.reached + of.failed > 0)
    }

    /// Whether a server has come through over a transport; `None` if none has tried.
    fn is_reached(&self, over: Over) -> Option<bool> {
        let tried = self.tried().filter(|of| over.socket(&of.addr).is_some());
        let reached = tried.map(|of| of.reachability == Reachability::Public);
        reached.reduce(|one, other| one || other)
    }

    /// What was seen over one transport: this machine's end, and where the server sees it.
    fn seen(&self, over: Over) -> Vec<(SocketAddr, SocketAddr)> {
        let seen = self
            .sights
            .iter()
            .filter_map(|sight| sight.seen.as_ref().ok());
        let sockets =
            seen.filter_map(|(local, seen)| Some((over.socket(local)?, over.socket(seen)?)));
        sockets.collect()
    }

    pub(super) fn mapping(&self, over: Over) -> Mapping {
        let asked = |sight: &&Sight| over.socket(&sight.server).is_some();
        let asked = self.sights.iter().filter(asked).count();
        let seen = self.seen(over);
        if seen.is_empty() {
            let others = Over::ALL
                .into_iter()
                .any(|other| !self.seen(other).is_empty());
            return match (asked, others) {
                (0, _) => Mapping::NotAsked,
                (_, true) => Mapping::Blocked,
                _ => Mapping::Silent,
            };
        }
        let own = |(local, seen): &(SocketAddr, SocketAddr)| {
            let mut listed = self.listening.iter().filter_map(|addr| over.socket(addr));
            local == seen || listed.any(|own| own == *seen)
        };
        if seen.iter().all(own) {
            return Mapping::None;
        }
        let places: BTreeSet<_> = seen.iter().map(|(_, seen)| seen).collect();
        match (seen.len(), places.len()) {
            (1, _) => Mapping::Translated,
            (_, 1) => Mapping::EndpointIndependent,
            _ => Mapping::EndpointDependent,
        }
    }

    pub(super) fn json(&self) -> Value {
        let over = |over: Over| {
            let seen = self.seen(over);
            let places: BTreeSet<_> = seen.iter().map(|(_, seen)| seen.to_string()).collect();
            let listening = self.listening.iter();
            let listening = listening.filter(|addr| over.socket(addr).is_some());
            json!({
                "listening": listening.map(ToString::to_string).collect::<Vec<_>>(),
                "mapping": self.mapping(over).name(), "seen_at": places,
                "reached": self.is_reached(over),
            })
        };
        let servers = self.sights.iter().map(|sight| {
            let seen = sight.seen.as_ref();
            json!({
                "server": sight.server.to_string(),
                "seen_at": seen.ok().map(|(_, seen)| seen.to_string()),
                "error": seen.err(),
            })
        });
        json!({
            "tcp": over(Over::Tcp), "quic": over(Over::Quic), "servers": servers.collect::<Vec<_>>(),
            "tested": self.tried().map(autonat::tested).collect::<Vec<_>>(),
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for over in Over::ALL {
            let mapping = self.mapping(over);
            lines.push(format!("{:<9} {}", over.name(), mapping.sentence()));
            let seen: BTreeSet<_> = self.seen(over).into_iter().map(|(_, seen)| seen).collect();
            lines.extend(seen.iter().map(|seen| format!("{:<9} seen at {seen}", "")));
        }
        for addr in &self.listening {
            lines.push(format!("{:<9} {addr}", "listening"));
        }
        for of in self.tried() {
            let found = match of.reachability {
                Reachability::Public => "a server has come through",
                _ => "no server has come through",
            };
            lines.push(format!("{:<9} {}: {found}", "dialled", of.addr));
        }
        for sight in &self.sights {
            if let Err(cause) = &sight.seen {
                lines.push(format!("{:<9} {}: {cause}", "server", sight.server));
            }
        }
        lines
    }

    pub(super) fn advice(&self) -> Vec<Advice> {
        let advice = Over::ALL.into_iter().filter_map(|over| {
            let mapping = self.mapping(over);
            Some(Advice {
                problem: format!("{}: {}", over.name(), mapping.sentence()),
                todo: mapping.todo()?,
            })
        });
        let shut = Over::ALL.into_iter().filter(|over| {
            self.mapping(*over) == Mapping::None && self.is_reached(*over) == Some(false)
        });
        let shut = shut.map(|over| Advice {
            problem: format!("{}: no server that dialled has come through", over.name()),
            todo: "let the port through the firewall of this machine and of its network, or be reached through --relay",
        });
        advice.chain(shut).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn sight(server: &str, local: &str, seen: Option<&str>) -> Sight {
        let seen = seen.map(|seen| (local.parse().unwrap(), seen.parse().unwrap()));
        Sight::new(server.parse().unwrap(), seen.ok_or_else(String::new))
    }

    #[test]
    fn where_others_see_a_machine_tells_of_its_router() {
        let quic = |ip: &str, port: u16| format!("/ip4/{ip}/udp/{port}/quic-v1");
        let (one, two) = (quic("192.0.2.1", 1), quic("198.51.100.1", 1));
        let local = quic("10.0.0.2", 4001);
        let of = |seen: &[Option<&str>]| {
            let servers = [&one, &two].into_iter().zip(seen);
            let sights = servers.map(|(server, seen)| sight(server, &local, *seen));
            let local = vec![local.parse().unwrap()];
            let network = Network::new(local, sights.collect(), AutonatState::default());
            network.mapping(Over::Quic)
        };
        let (same, other) = (quic("203.0.113.1", 4001), quic("203.0.113.1", 7));
        for (seen, expected) in [
            (&[][..], Mapping::NotAsked),
            (&[None, None], Mapping::Silent),
            (&[Some(&*local), Some(&*local)], Mapping::None),
            (&[Some(&*same)], Mapping::Translated),
            (&[Some(&*same), None], Mapping::Translated),
            (&[Some(&*same), Some(&*same)], Mapping::EndpointIndependent),
            (&[Some(&*same), Some(&*other)], Mapping::EndpointDependent),
        ] {
            assert_eq!(of(seen), expected, "{seen:?}");
        }
        let tcp = "/ip4/10.0.0.2/tcp/4001";
        let sights = vec![
            sight(&one, &local, None),
            sight(
                "/ip4/192.0.2.1/tcp/1",
                tcp,
                Some("/ip4/203.0.113.1/tcp/4001"),
            ),
        ];
        let network = Network::new(Vec::new(), sights, AutonatState::default());
        assert_eq!(network.mapping(Over::Quic), Mapping::Blocked);
    }
}
