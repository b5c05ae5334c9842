//! What `barewire listen` does with relays: being one, and being reached through some.

use std::{collections::HashSet, time::Duration};

use barewire_base::{Multiaddr, PeerId};
use barewire_node::{
    Endpoint, RouterBuilder,
    protocols::{
        dcutr::{HolePunchConfig, HolePuncher},
        relay::{
            HOP_PROTOCOL, RelayClient, RelayClientConfig, RelayServer, RelayServerConfig,
            RelayState,
        },
    },
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    args::{seconds, size},
    failure::Failure,
    output,
};

/// How long it is waited for word whether the node needs relays (own choice: the answers of servers that dial in vain take 10 s).
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of relaying.
#[derive(Debug, clap::Args)]
pub(crate) struct RelayArgs {
    /// Carry connections between peers that cannot reach each other (circuit relay v2).
    #[arg(long)]
    relay_server: bool,
    /// Reservations to give at most.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        requires = "relay_server"
    )]
    relay_reservations: usize,
    /// How long a reservation lasts.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds, requires = "relay_server")]
    relay_ttl: Duration,
    /// Circuits to carry at most at once.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        requires = "relay_server"
    )]
    relay_circuits: usize,
    /// Circuits to carry at most at once from one peer, and as many to it.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        requires = "relay_server"
    )]
    relay_circuits_per_peer: usize,
    /// How long a circuit may last.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds, requires = "relay_server")]
    relay_duration: Duration,
    /// Bytes a circuit may carry in each direction.
    #[arg(long, value_name = "BYTES", default_value = "128KiB", value_parser = size, requires = "relay_server")]
    relay_data: u64,
    /// Peer whose circuits have no limit of time and bytes; may be repeated.
    #[arg(long, value_name = "PEER", requires = "relay_server")]
    relay_unlimited: Vec<PeerId>,
    /// Be reached through this relay, for example /ip4/192.0.2.1/tcp/4001/p2p/12D3…; may be repeated: two of them are used at a time.
    #[arg(long, value_name = "ADDR")]
    relay: Vec<Multiaddr>,
    /// Use relays only while others cannot reach this node otherwise.
    #[arg(long, requires = "relay")]
    relay_auto: bool,
    /// Name and dial private addresses too when a relayed connection is to become a direct one.
    #[arg(long)]
    punch_private: bool,
}

/// Registers what the options ask for.
pub(crate) fn register(
    endpoint: &Endpoint,
    mut router: RouterBuilder,
    args: &RelayArgs,
) -> Result<(RouterBuilder, Option<RelayClient>), Failure> {
    if args.relay_server {
        let mut config = RelayServerConfig::default();
        let ledger = &mut config.ledger;
        ledger.max_reservations = args.relay_reservations;
        ledger.reservation = args.relay_ttl;
        ledger.max_circuits = args.relay_circuits;
        ledger.max_circuits_per_peer = args.relay_circuits_per_peer;
        ledger.limit.duration = Some(args.relay_duration);
        ledger.limit.data = Some(args.relay_data);
        config.unlimited = args.relay_unlimited.iter().copied().collect::<HashSet<_>>();
        router = router.accept(HOP_PROTOCOL, RelayServer::new(endpoint, config));
    }
    let mut config = HolePunchConfig::default();
    config.private = args.punch_private;
    let puncher = HolePuncher::new(endpoint, config);
    router = puncher.register(router);
    if args.relay.is_empty() {
        return Ok((router, None));
    }
    let mut config = RelayClientConfig::default();
    config.puncher = Some(puncher);
    config.unless_public = args.relay_auto.then_some(PATIENCE);
    let client = RelayClient::new(endpoint, args.relay.clone(), config)?;
    Ok((client.register(router), Some(client)))
}

/// Begins, and prints where the node is reached through relays, and which relays refuse, until it is gone.
pub(crate) async fn follow(client: RelayClient, peer: PeerId, json: bool) {
    client.start();
    let mut states: watch::Receiver<RelayState> = client.state();
    let mut told = RelayState::default();
    loop {
        let state = states.borrow_and_update().clone();
        let addrs = |state: &RelayState| {
            let reserved = state.reserved.iter().flat_map(|one| one.addrs.clone());
            reserved.collect::<Vec<_>>()
        };
        let (old, new) = (addrs(&told), addrs(&state));
        for addr in old.iter().filter(|addr| !new.contains(addr)) {
            say(
                json,
                peer,
                "relay_address_lost",
                "not reached any more at",
                addr,
                Value::Null,
            );
        }
        for reserved in &state.reserved {
            let limit = json!({
                "seconds": reserved.limit.duration.map(|time| time.as_secs()), "bytes": reserved.limit.data,
            });
            for addr in reserved.addrs.iter().filter(|addr| !old.contains(addr)) {
                say(
                    json,
                    peer,
                    "relay_address",
                    "reached through a relay at",
                    addr,
                    limit.clone(),
                );
            }
        }
        for (relay, error) in state
            .failed
            .iter()
            .filter(|failed| !told.failed.contains(failed))
        {
            let value = json!({
                "event": "relay_failed", "relay": relay.to_string(), "error": error.to_string(),
            });
            output::event(json, &value, || format!("relay {relay}: {error}"));
        }
        told = state;
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn say(json: bool, peer: PeerId, event: &str, text: &str, addr: &Multiaddr, limit: Value) {
    // An address too long for a peer id is printed without.
    let full = addr.clone().with_peer(peer);
    let addr = full.unwrap_or_else(|_| addr.clone()).to_string();
    let value = json!({"event": event, "peer": peer.to_string(), "addr": addr, "limit": limit});
    output::event(json, &value, || format!("{text} {addr}"));
}
