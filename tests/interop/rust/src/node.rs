//! One swarm, driven by a task and commanded through a channel.

use std::{collections::HashMap, sync::Arc, time::Duration};

use barewire_peer_cli::{
    Connection, DialOptions, Dialer, Failure, GossipOptions, ListenOptions, Listening,
    RendezvousCommand, Services, Stack, StackOptions, emit_line, protocol,
};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, Swarm,
    core::upgrade::Version,
    gossipsub, identify, identity, mdns,
    multiaddr::Protocol,
    relay, rendezvous,
    swarm::{
        self, ConnectionId, DialError, NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::{
    counted::Written,
    gossip,
    streams::{self, Opener},
    transport,
};

const AGENT: &str = concat!("barewire-peer-rust/", env!("CARGO_PKG_VERSION"));

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    identify: Toggle<identify::Behaviour>,
    streams: streams::Behaviour,
    pub(crate) gossip: Toggle<gossipsub::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    relayed: Toggle<relay::client::Behaviour>,
    pub(crate) rendezvous: Toggle<rendezvous::client::Behaviour>,
    point: Toggle<rendezvous::server::Behaviour>,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

enum Command {
    Dial(Multiaddr, oneshot::Sender<Result<Established, String>>),
    Identify(ConnectionId, oneshot::Sender<identify::Info>),
    Close(ConnectionId),
}

struct Established {
    id: ConnectionId,
    peer: PeerId,
    opener: Opener,
}

/// A node lives until its command channel closes.
pub(crate) struct Node {
    commands: mpsc::Sender<Command>,
    target: Option<Multiaddr>,
}

impl Stack for Node {
    type Dialer = Self;
    type Gossip = gossip::Node;

    const GOSSIPS: bool = true;

    async fn listen(
        options: &ListenOptions,
        services: Arc<Services>,
    ) -> Result<Listening<Self>, Failure> {
        let through = options
            .relay
            .iter()
            .map(|relay| format!("{relay}/p2p-circuit"));
        let addrs: Vec<_> = options.listen.iter().cloned().chain(through).collect();
        let mut swarm = new_swarm(
            &options.stack,
            &addrs,
            !options.no_identify,
            Some(services),
            (!options.gossip.topic.is_empty()).then(|| (&options.gossip, Written::default())),
        )?;
        if options.relay_server {
            let mut config = relay::Config::default();
            if let Some(duration) = options.relay_duration {
                config.max_circuit_duration = duration;
            }
            if let Some(data) = options.relay_data {
                config.max_circuit_bytes = data;
            }
            let peer = *swarm.local_peer_id();
            swarm.behaviour_mut().relay = Some(relay::Behaviour::new(peer, config)).into();
        }
        gossip::subscribe(&mut swarm, &options.gossip.topic)?;
        if options.rendezvous_server {
            let config = rendezvous::server::Config::default();
            swarm.behaviour_mut().point = Some(rendezvous::server::Behaviour::new(config)).into();
        }
        if options.mdns {
            let own = *swarm.local_peer_id();
            swarm.behaviour_mut().mdns =
                Some(mdns::tokio::Behaviour::new(mdns::Config::default(), own)?).into();
        }
        let mut waiting = options.listen.len();
        for addr in &options.listen {
            swarm.listen_on(addr.parse()?)?;
        }
        let mut addrs = Vec::new();
        while waiting > 0 {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
                    addrs.push(address.to_string());
                    // identify and its signed record tell only confirmed addresses.
                    swarm.add_external_address(address);
                    waiting -= 1;
                }
                SwarmEvent::ListenerClosed { reason, .. } => reason?,
                _ => {}
            }
        }
        for addr in &options.connect {
            swarm.dial(dial_opts(addr.parse()?))?;
        }
        let peer = swarm.local_peer_id().to_string();
        let mut circuits = options.relay.len();
        for relay in &options.relay {
            swarm.listen_on(relay.parse::<Multiaddr>()?.with(Protocol::P2pCircuit))?;
        }
        while circuits > 0 {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
                    circuits -= 1;
                    barewire_peer_cli::emit(
                        "relay_address",
                        &peer,
                        json!({ "addr": address.to_string() }),
                    );
                }
                SwarmEvent::ListenerClosed { reason, .. } => reason?,
                _ => {}
            }
        }
        Ok(Listening {
            node: spawn(swarm, None, !options.gossip.quiet),
            peer,
            addrs,
        })
    }

    async fn dialer(options: &DialOptions, protocols: &[&str]) -> Result<Self, Failure> {
        let swarm = new_swarm(
            &options.stack,
            std::slice::from_ref(&options.addr),
            protocols.contains(&protocol::IDENTIFY),
            None,
            None,
        )?;
        Ok(spawn(swarm, Some(options.addr.parse()?), false))
    }

    async fn gossip(
        stack: &StackOptions,
        options: &GossipOptions,
        addrs: &[String],
        subscribed: bool,
    ) -> Result<gossip::Node, Failure> {
        gossip::Node::dial(stack, options, addrs, subscribed).await
    }

    async fn rendezvous(command: &RendezvousCommand) -> Result<(), Failure> {
        crate::rendezvous::run(command).await
    }
}

pub(crate) fn new_swarm(
    options: &StackOptions,
    addrs: &[String],
    identifies: bool,
    services: Option<Arc<Services>>,
    gossip: Option<(&GossipOptions, Written)>,
) -> Result<Swarm<Behaviour>, Failure> {
    let key = match &options.key {
        Some(path) => identity::Keypair::from_protobuf_encoding(&std::fs::read(path)?)?,
        None => identity::Keypair::generate_ed25519(),
    };
    let mut transport = transport::build(&key, options, addrs)?;
    let mut relayed = None;
    if addrs.iter().any(|addr| addr.contains("/p2p-circuit")) {
        let circuits;
        (circuits, relayed) = transport::circuits(&key, options)?;
        transport = transport::join(circuits, transport);
    }
    let mut router = None;
    if let Some((options, written)) = gossip {
        router = Some(gossip::behaviour(&key, options)?);
        transport = transport::counted(transport, written);
    }
    let behaviour = Behaviour {
        identify: identifies
            .then(|| {
                identify::Config::new_with_signed_peer_record("barewire-peer/1".to_owned(), &key)
                    .with_agent_version(AGENT.to_owned())
            })
            .map(identify::Behaviour::new)
            .into(),
        streams: streams::Behaviour::new(services),
        gossip: router.into(),
        relay: None.into(),
        relayed: relayed.into(),
        rendezvous: None.into(),
        point: None.into(),
        mdns: None.into(),
    };
    let config = swarm::Config::with_tokio_executor()
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(1024)
        .with_idle_connection_timeout(Duration::from_secs(3600));
    Ok(Swarm::new(
        transport,
        behaviour,
        key.public().to_peer_id(),
        config,
    ))
}

fn spawn(swarm: Swarm<Behaviour>, target: Option<Multiaddr>, telling: bool) -> Node {
    let (commands, receiver) = mpsc::channel(64);
    tokio::spawn(drive(swarm, receiver, target.is_some(), telling));
    Node { commands, target }
}

/// `dialling`: identify's results are kept for whoever asks; a listener has nobody who would.
/// `telling`: every message is printed.
async fn drive(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::Receiver<Command>,
    dialling: bool,
    telling: bool,
) {
    let mut dials = HashMap::new();
    let mut identified = HashMap::new();
    let mut asked: HashMap<ConnectionId, oneshot::Sender<identify::Info>> = HashMap::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Dial(addr, reply)) => {
                    let opts = dial_opts(addr);
                    let id = opts.connection_id();
                    match swarm.dial(opts) {
                        Ok(()) => { dials.insert(id, reply); }
                        Err(cause) => { let _ = reply.send(Err(explain(cause))); }
                    }
                }
                Some(Command::Identify(id, reply)) => match identified.remove(&id) {
                    Some(told) => { let _ = reply.send(told); }
                    None => { asked.insert(id, reply); }
                },
                Some(Command::Close(id)) => { swarm.close_connection(id); }
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { connection_id, peer_id, .. } => {
                    if let Some(reply) = dials.remove(&connection_id)
                        && let Some(opener) = swarm.behaviour().streams.opener(connection_id)
                    {
                        let _ = reply.send(Ok(Established { id: connection_id, peer: peer_id, opener }));
                    }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    if let Some(reply) = dials.remove(&connection_id) {
                        let _ = reply.send(Err(explain(error)));
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Identify(
                    identify::Event::Received { connection_id, info, .. },
                )) if dialling => match asked.remove(&connection_id) {
                    Some(reply) => { let _ = reply.send(info); }
                    None => { identified.insert(connection_id, info); }
                },
                SwarmEvent::Behaviour(BehaviourEvent::Gossip(
                    gossipsub::Event::Message { message, .. },
                )) if telling => gossip::message(message).tell(),
                SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                    for (peer, addr) in found {
                        emit_line(&json!({
                            "event": "mdns", "peer": peer.to_string(), "addr": addr.to_string(),
                        }));
                    }
                }
                SwarmEvent::ConnectionClosed { connection_id, .. } => {
                    identified.remove(&connection_id);
                    asked.remove(&connection_id);
                }
                _ => {}
            },
        }
    }
}

pub(crate) fn dial_opts(addr: Multiaddr) -> DialOpts {
    match addr.iter().last() {
        Some(libp2p::multiaddr::Protocol::P2p(peer)) => DialOpts::peer_id(peer)
            .addresses(vec![addr])
            .condition(PeerCondition::Always)
            .allocate_new_port()
            .build(),
        _ => DialOpts::unknown_peer_id()
            .address(addr)
            .allocate_new_port()
            .build(),
    }
}

pub(crate) fn explain(cause: DialError) -> String {
    use std::error::Error;
    let mut text = cause.to_string();
    let mut source = cause.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

impl Dialer for Node {
    type Connection = OpenConnection;

    async fn dial(&self) -> Result<OpenConnection, Failure> {
        let target = self.target.clone().ok_or("a listener does not dial")?;
        let (reply, established) = oneshot::channel();
        self.commands
            .send(Command::Dial(target, reply))
            .await
            .map_err(|_| GONE)?;
        let established = established.await.map_err(|_| GONE)??;
        Ok(OpenConnection {
            established,
            commands: self.commands.clone(),
        })
    }
}

const GONE: &str = "the swarm has ended";

pub(crate) struct OpenConnection {
    established: Established,
    commands: mpsc::Sender<Command>,
}

impl Connection for OpenConnection {
    type Stream = Compat<Stream>;

    fn peer(&self) -> String {
        self.established.peer.to_string()
    }

    async fn open(&self, protocol: &str) -> Result<Self::Stream, Failure> {
        Ok(self.established.opener.open(protocol).await?.compat())
    }

    async fn identify(&self) -> Result<Value, Failure> {
        let (reply, told) = oneshot::channel();
        self.commands
            .send(Command::Identify(self.established.id, reply))
            .await
            .map_err(|_| GONE)?;
        let info = told
            .await
            .map_err(|_| "the connection closed before the other side identified itself")?;
        Ok(json!({
            "agent": info.agent_version,
            "protocol_version": info.protocol_version,
            "protocols": info.protocols.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "listen_addrs": info.listen_addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "observed_addr": info.observed_addr.to_string(),
            // rust-libp2p hands on only a record whose signature and peer id it has verified.
            "signed_record": info.signed_peer_record.is_some(),
            "early_muxer": false,
        }))
    }

    async fn close(self) -> Result<(), Failure> {
        // A swarm may dial a peer it still has a closing connection to, so nothing is waited for.
        Ok(self
            .commands
            .send(Command::Close(self.established.id))
            .await
            .map_err(|_| GONE)?)
    }
}
