//! One screen, or one JSON object.

use barewire_node::{
    Connection, DialError, TransportError,
    port_mapping::PortMappingState,
    protocols::relay::{RelayError, RelayState},
};
use serde_json::{Value, json};

use super::{Advice, network::Network};
use crate::{output::printable, port_mapping::transport};

/// What a name led to.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) addr: String,
    /// Addresses behind it.
    pub(super) found: Result<usize, String>,
}

/// How the peer in question fared.
#[derive(Debug)]
pub(super) struct Target {
    /// How it was reached, or why it was not.
    outcome: Result<String, String>,
    failures: Vec<(String, DialError)>,
}

impl Target {
    pub(super) fn reached(connection: &Connection, failures: Vec<(String, DialError)>) -> Self {
        let info = connection.info();
        let through = if info.is_relayed() {
            ", through a relay only"
        } else {
            ""
        };
        Self {
            outcome: Ok(format!("{} at {}{through}", info.peer_id, info.remote_addr)),
            failures,
        }
    }

    pub(super) const fn unreached(cause: String, failures: Vec<(String, DialError)>) -> Self {
        Self {
            outcome: Err(cause),
            failures,
        }
    }
}

/// Everything that was found out.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) network: Network,
    pub(super) mapping: PortMappingState,
    pub(super) relays: RelayState,
    pub(super) names: Vec<Name>,
    pub(super) target: Option<Target>,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let mapping = &self.mapping;
        let mapped = mapping.mapped.iter().map(|one| {
            json!({
                "transport": transport(one.port.transport), "port": one.port.number,
                "outside": one.outside.to_string(),
            })
        });
        let failed = mapping.failed.iter();
        let failed =
            failed.map(|(by, error)| json!({"protocol": by.name(), "error": error.to_string()}));
        let reserved = self.relays.reserved.iter();
        let relays = reserved.map(|one| json!({"relay": one.relay.to_string(), "reserved": true}));
        let refused = self.relays.failed.iter().map(|(relay, error)| {
            json!({"relay": relay.to_string(), "reserved": false, "error": error.to_string()})
        });
        let names = self.names.iter().map(|name| {
            let found = name.found.as_ref();
            json!({"addr": name.addr, "addresses": found.ok(), "error": found.err()})
        });
        let target = self.target.as_ref().map(|target| {
            let failures = target.failures.iter();
            let failures =
                failures.map(|(addr, error)| json!({"addr": addr, "error": error.to_string()}));
            let outcome = target.outcome.as_ref();
            json!({
                "reached": outcome.ok(), "error": outcome.err(),
                "failures": failures.collect::<Vec<_>>(),
            })
        });
        json!({
            "event": "doctor",
            "network": self.network.json(),
            "port_mapping": {
                "protocol": mapping.protocol.map(|protocol| protocol.name()),
                "mapped": mapped.collect::<Vec<_>>(),
                "behind": mapping.behind.map(|ip| ip.to_string()),
                "failed": failed.collect::<Vec<_>>(),
            },
            "relays": relays.chain(refused).collect::<Vec<_>>(),
            "names": names.collect::<Vec<_>>(),
            "target": target,
            "advice": self.advice().iter().map(Advice::json).collect::<Vec<_>>(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut lines = self.network.lines();
        let mapping = &self.mapping;
        for one in &mapping.mapped {
            let (of, by) = (transport(one.port.transport), mapping.protocol);
            let by = by.map_or("", |protocol| protocol.name());
            lines.push(format!(
                "mapping   the router would send {of} port {} on from {} ({by})",
                one.port.number, one.outside
            ));
        }
        if mapping.mapped.is_empty() {
            for (protocol, error) in &mapping.failed {
                lines.push(format!("mapping   {protocol}: {error}"));
            }
        }
        for one in &self.relays.reserved {
            lines.push(format!("relay     {} gives a reservation", one.relay));
        }
        for (relay, error) in &self.relays.failed {
            lines.push(format!("relay     {relay}: {error}"));
        }
        for name in &self.names {
            let found = match &name.found {
                Ok(count) => format!("{count} address(es)"),
                Err(error) => error.clone(),
            };
            lines.push(format!("name      {}: {found}", name.addr));
        }
        if let Some(target) = &self.target {
            lines.push(match &target.outcome {
                Ok(how) => format!("peer      reached {how}"),
                Err(cause) => format!("peer      not reached: {cause}"),
            });
            for (addr, error) in &target.failures {
                let (error, named) = (error.to_string(), error.to_string().contains(addr));
                lines.push(match named {
                    true => format!("          {error}"),
                    false => format!("          {addr}: {error}"),
                });
            }
        }
        for advice in self.advice() {
            lines.push(format!("→ {}", advice.problem));
            lines.push(format!("  {}", advice.todo));
        }
        let lines: Vec<_> = lines.iter().map(|line| printable(line)).collect();
        lines.join("\n")
    }

    fn advice(&self) -> Vec<Advice> {
        let mut all = self.network.advice();
        if let Some(ip) = self.mapping.behind {
            all.push(Advice {
                problem: format!("the router's own outside, {ip}, is in a private network"),
                todo: "what it maps is of no use to the world: have the outer router map ports, or ask the provider for a public address",
            });
        }
        for (relay, error) in &self.relays.failed {
            let todo = match error {
                RelayError::Expired => "set this machine's clock, or tell the relay's operator to",
                RelayError::Dial(_) => "check the relay's address, and whether it runs",
                RelayError::Refused(_) => "use another relay, or ask its operator why",
                _ => "is it a relay at all? barewire identify lists what it speaks",
            };
            all.push(Advice {
                problem: format!("relay {relay}: {error}"),
                todo,
            });
        }
        for name in self.names.iter().filter(|name| name.found.is_err()) {
            all.push(Advice {
                problem: format!("{} leads nowhere", name.addr),
                todo: "barewire resolve shows each look-up; --dns-server asks another name server",
            });
        }
        if let Some(target) = self.target.as_ref().filter(|one| one.outcome.is_err()) {
            let causes = target.failures.iter().map(|(addr, error)| Advice {
                problem: format!("{addr} does not lead to the peer"),
                todo: what_to_do(error),
            });
            all.extend(causes);
            if target.failures.is_empty() {
                all.push(Advice {
                    problem: "the peer does not answer".into(),
                    todo: "is it running, and does its firewall or router let strangers in? If not it is reached through a relay: /…/p2p/RELAY/p2p-circuit/p2p/PEER",
                });
            }
        }
        all
    }
}

fn what_to_do(error: &DialError) -> &'static str {
    match error {
        DialError::Transport(TransportError::Unsupported(_)) => {
            "that transport is not spoken here; use another of the peer's addresses"
        }
        DialError::Transport(TransportError::Timeout(_)) => {
            "is it running, and does its firewall or router let strangers in? If not it is reached through a relay: /…/p2p/RELAY/p2p-circuit/p2p/PEER"
        }
        DialError::Transport(_) => "is a node listening there? Its log tells where it listens",
        DialError::Upgrade { .. } => {
            "something else answers there, or a node of another kind or private network; barewire identify tells more"
        }
        DialError::WrongPeer { .. } => {
            "the peer's key has changed, or the address is somebody else's"
        }
        DialError::UnknownPeer(_) => "name an address, or a --peer-book that has one",
        DialError::Name { .. } => "barewire resolve shows each look-up",
        DialError::PrivateName { .. } => "--private-names if the peer is meant to be there",
        DialError::Relay { .. } => {
            "the peer has no reservation at that relay, or the relay is gone; ask the peer for its present addresses"
        }
        _ => "barewire dial --trace shows each step",
    }
}
