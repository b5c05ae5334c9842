//! `barewire doctor`: how this machine can be reached, why a peer cannot, and what to do.

mod network;
mod report;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use barewire_base::{Multiaddr, Protocol};
use barewire_node::{
    DialError, Endpoint, Router,
    dial::{DialStep, DialTarget},
    port_mapping::{PortMapper, PortMappingConfig, PortMappingState},
    protocols::autonat::{AutonatClient, AutonatClientConfig, AutonatState, Reachability},
    protocols::relay::{RelayClient, RelayClientConfig, RelayState},
};
use serde_json::json;
use tokio::time::timeout;

use self::{
    network::{Network, Sight},
    report::{Report, Target},
};
use crate::{
    args::{DoctorArgs, Whom},
    dial::target,
    failure::Failure,
    listen::endpoint,
    output,
};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a server that has been identified may take to be known as one that dials (own choice).
const OFFER: Duration = Duration::from_secs(1);
/// Addresses of one server that are asked (own choice: one of each transport and family).
const MAX_PER_SERVER: usize = 4;

/// Looks at everything, and prints one screen.
pub(crate) async fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let endpoint = endpoint(&args.node).await?;
    let client = relay_client(args, &endpoint)?;
    let mut router = Router::builder(endpoint.clone());
    if let Some(client) = &client {
        router = client.register(router);
    }
    let mut config = AutonatClientConfig::default();
    // Whom the user names is believed.
    config.client.confirmations = 1;
    let tested = AutonatClient::new(&endpoint, config);
    router = tested.register(router);
    let router = router.spawn()?;
    for addr in &args.listen {
        endpoint.listen(addr.clone()).await?;
    }
    if let Some(client) = &client {
        client.start();
    }
    // None of these waits for another.
    let (network, mapping, relays, names, target) = tokio::join!(
        look_around(args, &endpoint, &tested),
        try_mapping(args, &endpoint),
        try_relays(args, client.as_ref()),
        look_up(args, &endpoint),
        try_target(args, &endpoint),
    );
    let report = Report {
        network,
        mapping,
        relays,
        names,
        target,
    };
    output::event(args.node.json, &report.json(), || report.text());
    router.shutdown(GOODBYE).await;
    Ok(())
}

fn relay_client(args: &DoctorArgs, endpoint: &Endpoint) -> Result<Option<RelayClient>, Failure> {
    if args.relay.is_empty() {
        return Ok(None);
    }
    let mut config = RelayClientConfig::default();
    config.keeper.wanted = args.relay.len();
    config.timeout = args.timeout;
    let relays = args.relay.clone();
    Ok(Some(RelayClient::new(endpoint, relays, config)?))
}

/// Asks the servers where they see this machine: each at the address given, and over what else it says that it listens on.
async fn look_around(args: &DoctorArgs, endpoint: &Endpoint, client: &AutonatClient) -> Network {
    let mut sights = Vec::new();
    for server in &args.server {
        let resolving = timeout(args.timeout, endpoint.resolve(server)).await;
        let mut addrs = resolving.map_or_else(|_| Vec::new(), |resolution| resolution.addresses);
        addrs.truncate(MAX_PER_SERVER);
        let mut next = 0;
        while let Some(addr) = addrs.get(next).cloned() {
            next += 1;
            let (sight, others) = ask(args, endpoint, &addr).await;
            for other in others {
                // The server itself, by another way.
                let same = other.ip() == addr.ip();
                if same && addrs.len() < MAX_PER_SERVER && !addrs.contains(&other) {
                    addrs.push(other);
                }
            }
            sights.extend(sight);
        }
    }
    let tested = ask_to_dial(args, client).await;
    Network::new(endpoint.addresses(), sights, tested)
}

/// Which addresses the servers come through to, if they dial for others.
async fn ask_to_dial(args: &DoctorArgs, client: &AutonatClient) -> AutonatState {
    let mut state = client.state();
    let offered = timeout(OFFER, state.wait_for(|state| state.servers > 0));
    let offered = offered.await.is_ok();
    if offered {
        let known = state.wait_for(|state| {
            let mut known = state.addrs.iter().map(|of| of.reachability);
            !state.addrs.is_empty() && known.all(|known| known != Reachability::Unknown)
        });
        // What is not known by then was not reached by then.
        drop(timeout(args.timeout + GOODBYE, known).await);
    }
    client.state().borrow().clone()
}

/// Where a server sees this machine, and where else it listens. Nothing for transports that cannot tell.
async fn ask(
    args: &DoctorArgs,
    endpoint: &Endpoint,
    addr: &Multiaddr,
) -> (Option<Sight>, Vec<Multiaddr>) {
    if addr.to_tcp().is_none() && addr.to_quic().is_none() {
        return (None, Vec::new());
    }
    let dialling = endpoint.dial(DialTarget::from(addr.clone()).with_listening_ports());
    let asked = timeout(args.timeout, async {
        let connection = dialling.await.map_err(|error| error.to_string())?;
        let info = endpoint.identify(&connection).await;
        let info = info.map_err(|error| error.to_string())?;
        let local = connection.info().local_addr.clone();
        Ok((local, connection.peer_id(), info))
    });
    let asked = asked.await.unwrap_or_else(|_| {
        let waited = args.timeout.as_secs_f64();
        Err(format!("no answer within {waited} s"))
    });
    match asked {
        Ok((local, peer, info)) => {
            let others = info.listen_addrs.iter();
            let others = others.filter_map(|other| other.clone().with_peer(peer).ok());
            let others = others.collect();
            let seen = info.observed_addr.clone().map(|at| (local, at));
            let seen = seen.ok_or_else(|| "it does not tell where it sees us".to_owned());
            (Some(Sight::new(addr.clone(), seen)), others)
        }
        Err(cause) => (Some(Sight::new(addr.clone(), Err(cause))), Vec::new()),
    }
}

/// Asks the router to send the ports on, and takes that back.
async fn try_mapping(args: &DoctorArgs, endpoint: &Endpoint) -> PortMappingState {
    let mut config = PortMappingConfig::default();
    config.timeout = args.timeout;
    let mapper = PortMapper::start(endpoint, config);
    let mut state = mapper.state();
    let done = state.wait_for(|state| {
        let settled = state.protocol.is_some() && (state.mapped.len() >= args.listen.len());
        settled || (state.tried && state.protocol.is_none())
    });
    // Until then something may come of it.
    drop(timeout(args.timeout + GOODBYE, done).await);
    let state = mapper.state().borrow().clone();
    mapper.release().await;
    state
}

async fn try_relays(args: &DoctorArgs, client: Option<&RelayClient>) -> RelayState {
    let Some(client) = client else {
        return RelayState::default();
    };
    let mut state = client.state();
    let all = args.relay.len();
    let done = state.wait_for(|state| state.reserved.len() + state.failed.len() >= all);
    drop(timeout(args.timeout + GOODBYE, done).await);
    client.state().borrow().clone()
}

/// Looks up the names in what was given.
async fn look_up(args: &DoctorArgs, endpoint: &Endpoint) -> Vec<report::Name> {
    let whom = args.whom.iter().filter_map(|one| match one {
        Whom::Addr(addr) => Some(addr),
        Whom::Peer(_) => None,
    });
    let all = args.server.iter().chain(&args.relay).chain(whom);
    let mut names = Vec::new();
    for addr in all.filter(|addr| has_name(addr)) {
        let found = match timeout(args.timeout, endpoint.resolve(addr)).await {
            Ok(found) => match found.error() {
                Some(error) => Err(error.to_string()),
                None => Ok(found.addresses.len()),
            },
            Err(_) => Err("no answer in time".into()),
        };
        names.push(report::Name {
            addr: addr.to_string(),
            found,
        });
    }
    names
}

fn has_name(addr: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Dnsaddr};
    let name = |part: Protocol<'_>| matches!(part, Dns(_) | Dns4(_) | Dns6(_) | Dnsaddr(_));
    addr.iter().any(name)
}

/// Dials the peer that was asked about, and notes how each of its addresses fares.
async fn try_target(args: &DoctorArgs, endpoint: &Endpoint) -> Option<Target> {
    if args.whom.is_empty() {
        return None;
    }
    let failures: Arc<Mutex<Vec<(String, DialError)>>> = Arc::default();
    let noted = Arc::clone(&failures);
    let whom = match target(&args.whom) {
        Ok(whom) => whom,
        Err(Failure(cause)) => return Some(Target::unreached(cause, Vec::new())),
    };
    let whom = whom.observed_by(move |event| {
        if let DialStep::Failed(error) = &event.step {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.push((event.addr.to_string(), error.clone()));
        }
    });
    let dialled = timeout(args.timeout, endpoint.connect(whom)).await;
    let failures = std::mem::take(&mut *failures.lock().unwrap_or_else(PoisonError::into_inner));
    Some(match dialled {
        Ok(Ok(connection)) => Target::reached(&connection, failures),
        Ok(Err(error)) => Target::unreached(error.to_string(), failures),
        Err(_) => {
            let waited = args.timeout.as_secs_f64();
            Target::unreached(format!("no answer within {waited} s"), failures)
        }
    })
}

/// A line of the report that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Advice {
    problem: String,
    todo: &'static str,
}

impl Advice {
    fn json(&self) -> serde_json::Value {
        json!({"problem": self.problem, "todo": self.todo})
    }
}
