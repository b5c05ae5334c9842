//! Ports that the router of a private network is asked to send on to this node: UPnP IGD, NAT-PMP and PCP are asked side by side, the first
//! that answers is used, the others take its place when it fails. What is mapped is announced as long as it lasts, unless the router is
//! itself behind another one.
//!
//! Nothing is mapped unless a [`PortMapper`] is started.

mod gateway;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, Protocol};
use barewire_nat::mapping::{Action, Leases};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};

pub use barewire_nat::mapping::{LeasesConfig, Port, Transport};

use self::gateway::{Client, Granted, default_gateway, local_towards};
use crate::{
    Endpoint, State,
    addresses::Scope,
    endpoint::{WeakEndpoint, sleep_until},
    manager::now,
};

/// Failures in a row after which another protocol is tried, or the router is looked for anew (own choice).
const MAX_FAILURES: u32 = 3;
/// What a router that is asked to give a port back may take at most (own choice).
const RELEASE: Duration = Duration::from_secs(3);

/// What routers are asked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MappingProtocol {
    /// UPnP Internet Gateway Device, versions 1 and 2.
    Upnp,
    /// NAT-PMP (RFC 6886).
    NatPmp,
    /// PCP (RFC 6887).
    Pcp,
}

impl MappingProtocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Upnp, Self::NatPmp, Self::Pcp];

    /// `upnp`, `nat-pmp` or `pcp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upnp => "upnp",
            Self::NatPmp => "nat-pmp",
            Self::Pcp => "pcp",
        }
    }
}

impl std::fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Settings of a [`PortMapper`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PortMappingConfig {
    /// When mappings are asked for and renewed.
    pub leases: LeasesConfig,
    /// What is tried. Default all.
    pub protocols: Vec<MappingProtocol>,
    /// The router to ask by NAT-PMP and PCP. Default `None`: the one of the default route, which is known on Linux only.
    pub gateway: Option<Ipv4Addr>,
    /// How long looking for the router, and each request to it, may take. Default 10 s, as go-libp2p.
    pub timeout: Duration,
    /// Pause before the router is looked for again when none has answered; doubles up to a quarter of an hour. Default 1 minute (own
    /// choice: people plug routers in, and move about).
    pub look_again: Duration,
}

impl Default for PortMappingConfig {
    fn default() -> Self {
        Self {
            leases: LeasesConfig::default(),
            protocols: MappingProtocol::ALL.to_vec(),
            gateway: None,
            timeout: Duration::from_secs(10),
            look_again: Duration::from_secs(60),
        }
    }
}

/// Longest such pause.
const MAX_LOOK_AGAIN: Duration = Duration::from_secs(900);

/// Why a router maps nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// There is no router to ask.
    #[error("there is no default route to a router; name the router if there is one")]
    NoGateway,
    /// Nobody answers.
    #[error("no router answers; turn the protocol on in its settings")]
    Timeout,
    /// It says no.
    #[error("the router refuses: {0}")]
    Refused(String),
    /// The operating system says no.
    #[error("the router cannot be asked: {0}")]
    Io(std::io::ErrorKind),
}

impl From<std::io::Error> for MappingError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // Of UDP: nobody has the port.
            std::io::ErrorKind::ConnectionRefused => Self::Timeout,
            kind => Self::Io(kind),
        }
    }
}

/// One port that a router sends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MappedPort {
    /// Of this machine.
    pub port: Port,
    /// Where the router shows it.
    pub outside: SocketAddr,
}

/// What a [`PortMapper`] has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PortMappingState {
    /// What the router is asked by; `None` as long as it answers to nothing.
    pub protocol: Option<MappingProtocol>,
    /// What it sends on.
    pub mapped: Vec<MappedPort>,
    /// Where that leads to this node: the addresses that are announced.
    pub addrs: Vec<Multiaddr>,
    /// The router's own outside, if that is in a private network: it is behind another router, and what it maps is of no use to the world.
    pub behind: Option<IpAddr>,
    /// What did not work, with the last cause.
    pub failed: Vec<(MappingProtocol, MappingError)>,
    /// Every protocol was tried once.
    pub tried: bool,
}

/// Has the ports mapped that the endpoint listens on, for as long as it lives. Cheap to clone. Holds no reference to its endpoint.
///
/// [`release`](Self::release) gives the ports back. Without, the router does so at the end of the lease.
#[derive(Debug, Clone)]
pub struct PortMapper(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    state: watch::Receiver<PortMappingState>,
    release: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PortMapper {
    /// Begins.
    #[must_use]
    pub fn start(endpoint: &Endpoint, config: PortMappingConfig) -> Self {
        let (sender, state) = watch::channel(PortMappingState::default());
        let release = Arc::new(Notify::new());
        let mapping = Mapping {
            endpoint: endpoint.downgrade(),
            listening: endpoint.state(),
            leases: Leases::new(config.leases.clone()),
            network: None,
            clients: Vec::new(),
            granted: BTreeMap::new(),
            failures: 0,
            generation: 0,
            failed: BTreeMap::new(),
            look: Some(now()),
            pause: config.look_again,
            tried: false,
            looking: JoinSet::new(),
            asking: JoinSet::new(),
            releasing: JoinSet::new(),
            state: sender,
            release: Arc::clone(&release),
            config,
        };
        let task = endpoint.spawn_until_stop(mapping.run());
        Self(Arc::new(Owner {
            state,
            release,
            task,
        }))
    }

    /// What it has, and word of each change.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<PortMappingState> {
        self.0.state.clone()
    }

    /// Gives all ports back, and ends. Takes some seconds if the router does not answer. Before the endpoint is shut down.
    pub async fn release(&self) {
        self.0.release.notify_one();
        let mut state = self.state();
        // Until the sender is gone.
        while state.changed().await.is_ok() {}
    }
}

type Asked = (u32, Port, Result<Granted, MappingError>);

/// The task of a [`PortMapper`].
struct Mapping {
    endpoint: WeakEndpoint,
    listening: watch::Receiver<State>,
    config: PortMappingConfig,
    leases: Leases,
    /// The router, and this machine in its network.
    network: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Those that have answered, the one in use first.
    clients: Vec<Client>,
    granted: BTreeMap<Port, Granted>,
    failures: u32,
    /// Rises when another router, or another protocol, is asked: answers of before do not count.
    generation: u32,
    failed: BTreeMap<MappingProtocol, MappingError>,
    /// When the router is looked for.
    look: Option<Instant>,
    pause: Duration,
    tried: bool,
    looking: JoinSet<(u32, MappingProtocol, Result<Client, MappingError>)>,
    asking: JoinSet<Asked>,
    releasing: JoinSet<()>,
    state: watch::Sender<PortMappingState>,
    release: Arc<Notify>,
}

impl Mapping {
    async fn run(mut self) {
        let release = Arc::clone(&self.release);
        self.listening.mark_changed();
        loop {
            let now = now();
            if self.look.is_some_and(|at| at <= now) {
                self.look();
            }
            if let Some(client) = self.clients.first().cloned() {
                while let Some(action) = self.leases.poll(now) {
                    self.act(&client, action);
                }
            }
            if !self.publish() {
                return;
            }
            let leases = self.leases.poll_timeout();
            let due = leases.filter(|_| !self.clients.is_empty());
            let next = due.into_iter().chain(self.look).min();
            tokio::select! {
                () = release.notified() => break,
                Some(found) = self.looking.join_next() => {
                    if let Ok((generation, protocol, result)) = found
                        && generation == self.generation
                    {
                        self.found(protocol, result);
                    }
                }
                Some(asked) = self.asking.join_next() => {
                    if let Ok(asked) = asked {
                        self.asked(asked);
                    }
                }
                Some(_) = self.releasing.join_next() => {}
                changed = self.listening.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.listening_changed();
                }
                () = sleep_until(next.map(Into::into)) => {}
            }
        }
        self.give_back().await;
    }

    /// Asks for the router by every protocol at once.
    fn look(&mut self) {
        self.look = None;
        self.looking.abort_all();
        let gateway = self.network.map(|(gateway, _)| gateway);
        for protocol in self.config.protocols.clone() {
            let (generation, timeout) = (self.generation, self.config.timeout);
            self.looking.spawn(async move {
                let finding = tokio::time::timeout(timeout, Client::find(protocol, gateway));
                let found = finding.await.unwrap_or(Err(MappingError::Timeout));
                (generation, protocol, found)
            });
        }
    }

    fn found(&mut self, protocol: MappingProtocol, result: Result<Client, MappingError>) {
        match result {
            Ok(client) => {
                tracing::debug!(%protocol, "the router answers");
                self.failed.remove(&protocol);
                self.pause = self.config.look_again;
                self.clients.push(client);
            }
            Err(error) => {
                tracing::debug!(%protocol, %error, "no answer of the router");
                self.failed.insert(protocol, error);
            }
        }
        if self.looking.is_empty() {
            self.tried = true;
            if self.clients.is_empty() {
                self.look_later();
            }
        }
    }

    fn look_later(&mut self) {
        self.look = Some(now() + self.pause);
        self.pause = (2 * self.pause).min(MAX_LOOK_AGAIN);
    }

    /// What listens, or where, is not what it was.
    fn listening_changed(&mut self) {
        let now = now();
        let ports = ports(&self.listening.borrow_and_update().addresses);
        let gateway = self.config.gateway.or_else(default_gateway);
        let network = gateway.and_then(|at| Some((at, local_towards(at).ok()?)));
        if network != self.network {
            self.network = network;
            self.start_anew();
            self.pause = self.config.look_again;
            self.look = Some(now);
        }
        self.leases.set_ports(now, &ports);
    }

    /// Nothing that was mapped, asked or found counts any more.
    fn start_anew(&mut self) {
        self.generation += 1;
        self.clients.clear();
        self.granted.clear();
        self.failures = 0;
        self.leases.reset(now());
    }

    fn act(&mut self, client: &Client, action: Action) {
        let (client, timeout) = (client.clone(), self.config.timeout);
        match action {
            Action::Map(port) => {
                let before = self.granted.get(&port).cloned();
                let (generation, lease) = (self.generation, self.config.leases.lease);
                self.asking.spawn(async move {
                    let mapping = client.map(port, lease, before);
                    let mapped = tokio::time::timeout(timeout, mapping).await;
                    (
                        generation,
                        port,
                        mapped.unwrap_or(Err(MappingError::Timeout)),
                    )
                });
            }
            Action::Unmap(port) => {
                if let Some(granted) = self.granted.remove(&port) {
                    self.releasing.spawn(unmap(client, port, granted));
                }
            }
        }
    }

    fn asked(&mut self, (generation, port, result): Asked) {
        let Some(protocol) = self.clients.first().map(Client::protocol) else {
            return;
        };
        if generation != self.generation {
            return;
        }
        match result {
            Ok(granted) => {
                tracing::debug!(%protocol, ?port, outside = %granted.outside, "mapped");
                self.failures = 0;
                self.failed.remove(&protocol);
                self.leases
                    .mapped(now(), port, granted.outside, granted.lifetime);
                self.granted.insert(port, granted);
            }
            Err(error) => {
                tracing::debug!(%protocol, ?port, %error, "not mapped");
                self.failed.insert(protocol, error);
                self.failures += 1;
                self.leases.failed(now(), port);
                if self.failures >= MAX_FAILURES {
                    let mut others = std::mem::take(&mut self.clients);
                    others.remove(0);
                    self.start_anew();
                    self.clients = others;
                    if self.clients.is_empty() {
                        self.look_later();
                    }
                }
            }
        }
    }

    /// Tells what has changed; `false` when the endpoint is gone.
    fn publish(&self) -> bool {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return false;
        };
        let held: Vec<_> = self.leases.held().collect();
        let mapped = held
            .iter()
            .map(|&(port, outside)| MappedPort { port, outside });
        let public = |ip| Scope::of(ip) == Scope::Public;
        let mut outsides = held.iter().map(|(_, outside)| outside.ip());
        let mut addrs: Vec<Multiaddr> = Vec::new();
        let listening = endpoint.listen_addrs();
        for &(port, outside) in held.iter().filter(|(_, outside)| public(outside.ip())) {
            for addr in listening.iter().filter(|addr| port_of(addr) == Some(port)) {
                addrs.extend(moved(addr, outside));
            }
        }
        let new = PortMappingState {
            protocol: self.clients.first().map(Client::protocol),
            mapped: mapped.collect(),
            addrs,
            behind: outsides.find(|ip| !public(*ip)),
            failed: self.failed.clone().into_iter().collect(),
            tried: self.tried,
        };
        if *self.state.borrow() != new {
            // Who hears of a mapping finds its address announced.
            let addrs = new.addrs.clone();
            let change = |all: &mut crate::addresses::Addresses| all.set_mapped(addrs);
            endpoint.shared().change_addresses(change);
            self.state.send_replace(new);
        }
        true
    }

    async fn give_back(mut self) {
        self.looking.abort_all();
        if let Some(client) = self.clients.first().cloned() {
            // What is being asked for may be granted yet.
            while let Ok(Some(asked)) = tokio::time::timeout(RELEASE, self.asking.join_next()).await
            {
                if let Ok((generation, port, Ok(granted))) = asked
                    && generation == self.generation
                {
                    self.granted.insert(port, granted);
                }
            }
            for (port, granted) in std::mem::take(&mut self.granted) {
                self.releasing.spawn(unmap(client.clone(), port, granted));
            }
        }
        let releasing = async { while self.releasing.join_next().await.is_some() {} };
        drop(tokio::time::timeout(RELEASE, releasing).await);
        self.leases.set_ports(now(), &[]);
        self.clients.clear();
        self.publish();
    }
}

async fn unmap(client: Client, port: Port, granted: Granted) {
    if let Err(error) = client.unmap(port, granted).await {
        tracing::debug!(?port, %error, "the router does not give the port back");
    }
}

/// The port an IPv4 listener is at.
fn port_of(addr: &Multiaddr) -> Option<Port> {
    addr.ip().filter(IpAddr::is_ipv4)?;
    let (transport, number) = addr.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some((Transport::Tcp, port)),
        Protocol::Udp(port) => Some((Transport::Udp, port)),
        _ => None,
    })?;
    Some(Port { transport, number })
}

/// Ports that are listened on in a private network, and that nobody else can reach.
fn ports(listening: &[Multiaddr]) -> Vec<Port> {
    let within = |wanted: &[Scope]| {
        let scope = |addr: &&Multiaddr| addr.ip().is_some_and(|ip| wanted.contains(&Scope::of(ip)));
        let ports = listening.iter().filter(scope).filter_map(port_of);
        ports.collect::<Vec<_>>()
    };
    let public = within(&[Scope::Public]);
    let mut private = within(&[Scope::Private]);
    private.retain(|port| !public.contains(port));
    private
}

/// A listener's address as the router shows it.
fn moved(addr: &Multiaddr, outside: SocketAddr) -> Option<Multiaddr> {
    let addr = addr.with_ip(outside.ip())?;
    let mut moved = Multiaddr::empty();
    for part in &addr {
        moved
            .push(match part {
                Protocol::Tcp(_) => Protocol::Tcp(outside.port()),
                Protocol::Udp(_) => Protocol::Udp(outside.port()),
                other => other,
            })
            .ok()?;
    }
    Some(moved)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ports_of_private_networks_are_mapped() {
        let listening = [
            "/ip4/10.0.0.2/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/10.0.0.2/udp/4002/quic-v1",
            "/ip6/fd00::1/tcp/4003",
            "/ip4/10.0.0.2/tcp/4004",
            "/ip4/8.8.8.8/tcp/4004",
            "/memory/7",
        ];
        let listening = listening.map(|addr| addr.parse().unwrap());
        let ports: Vec<_> = ports(&listening).iter().map(|port| port.number).collect();
        assert_eq!(ports, [4001, 4002]);
        let outside = moved(&listening[2], ([192, 0, 2, 1], 7).into()).unwrap();
        assert_eq!(outside.to_string(), "/ip4/192.0.2.1/udp/7/quic-v1");
    }
}
