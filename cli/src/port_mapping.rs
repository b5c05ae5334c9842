//! What `barewire listen` asks of the router in front of it, and tells of it.

use std::time::Duration;

use barewire_node::{
    Endpoint,
    port_mapping::{MappingProtocol, PortMapper, PortMappingConfig, PortMappingState, Transport},
};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{args::seconds, output};

/// Options of port mapping.
#[derive(Debug, Args)]
pub(crate) struct PortMappingArgs {
    /// Have the router send the ports that are listened on to this node: by UPnP, NAT-PMP or PCP, whichever it speaks.
    #[arg(long)]
    port_mapping: bool,
    /// How long the router is asked to do so; renewed at half of it.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds, requires = "port_mapping")]
    port_mapping_lease: Duration,
    /// Ask the router by this alone; may be repeated.
    #[arg(long, value_enum, value_name = "PROTOCOL", requires = "port_mapping")]
    port_mapping_by: Vec<Mapping>,
}

/// What routers are asked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mapping {
    /// UPnP IGD.
    Upnp,
    /// NAT-PMP.
    NatPmp,
    /// PCP.
    Pcp,
}

impl From<Mapping> for MappingProtocol {
    fn from(mapping: Mapping) -> Self {
        match mapping {
            Mapping::Upnp => Self::Upnp,
            Mapping::NatPmp => Self::NatPmp,
            Mapping::Pcp => Self::Pcp,
        }
    }
}

/// Starts what the options ask for.
pub(crate) fn start(endpoint: &Endpoint, args: &PortMappingArgs) -> Option<PortMapper> {
    args.port_mapping.then(|| {
        let mut config = PortMappingConfig::default();
        config.leases.lease = args.port_mapping_lease;
        if !args.port_mapping_by.is_empty() {
            let by = args.port_mapping_by.iter().copied();
            config.protocols = by.map(Into::into).collect();
        }
        PortMapper::start(endpoint, config)
    })
}

/// Prints what the router sends on, and why it does not, until the mapper is gone.
pub(crate) async fn follow(mapper: PortMapper, json: bool) {
    let mut states = mapper.state();
    // Only the state is held, so that the mapper may end.
    drop(mapper);
    let mut told = PortMappingState::default();
    loop {
        let state = states.borrow_and_update().clone();
        for value in news(&told, &state) {
            output::event(json, &value, || sentence(&value));
        }
        told = state;
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn news(old: &PortMappingState, new: &PortMappingState) -> Vec<Value> {
    let mut values = Vec::new();
    let mapping = |event: &str, one: &barewire_node::port_mapping::MappedPort| {
        json!({
            "event": event, "transport": transport(one.port.transport), "port": one.port.number,
            "outside": one.outside.to_string(),
        })
    };
    for one in old.mapped.iter().filter(|one| !new.mapped.contains(one)) {
        values.push(mapping("port_unmapped", one));
    }
    for one in new.mapped.iter().filter(|one| !old.mapped.contains(one)) {
        let mut value = mapping("port_mapped", one);
        value["protocol"] = json!(new.protocol.map(|protocol| protocol.name()));
        value["behind"] = json!(new.behind.map(|ip| ip.to_string()));
        values.push(value);
    }
    // What fails while something else works is of no interest.
    if new.tried && new.protocol.is_none() && (!old.tried || old.failed != new.failed) {
        for (protocol, error) in &new.failed {
            values.push(json!({
                "event": "port_mapping_failed", "protocol": protocol.name(), "error": error.to_string(),
            }));
        }
    }
    values
}

/// `tcp` or `udp`.
pub(crate) const fn transport(of: Transport) -> &'static str {
    match of {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn sentence(value: &Value) -> String {
    let text = |field: &str| match &value[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let port = || format!("{} port {}", text("transport"), text("port"));
    match value["event"].as_str() {
        Some("port_mapped") if value["behind"].is_string() => format!(
            "the router sends {} on from {}, but is itself behind another router; not announced",
            port(),
            text("outside")
        ),
        Some("port_mapped") => format!(
            "the router sends {} on from {} ({})",
            port(),
            text("outside"),
            text("protocol")
        ),
        Some("port_unmapped") => format!("the router does not send {} on any more", port()),
        _ => format!("no port mapping by {}: {}", text("protocol"), text("error")),
    }
}
