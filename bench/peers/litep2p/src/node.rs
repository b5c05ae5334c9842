//! One litep2p node, driven by a task and commanded through channels.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use barewire_peer_cli::{
    Connection, DialOptions, Dialer, Failure, ListenOptions, Listening, NoGossip, Services, Stack,
    StackOptions, protocol,
};
use futures::StreamExt;
use litep2p::{
    Litep2p, Litep2pEvent, PeerId,
    config::ConfigBuilder,
    protocol::libp2p::identify,
    substream::Substream,
    transport::{quic, tcp, websocket},
    types::multiaddr::{Multiaddr, Protocol as Part},
};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::streams::{Handle, Protocol};

const AGENT: &str = concat!("barewire-peer-litep2p/", env!("CARGO_PKG_VERSION"));

type DialReply = oneshot::Sender<Result<PeerId, String>>;

/// What the node's events answer. The events have a task of their own: `Litep2p::next_event` loses events when it is cancelled.
#[derive(Default)]
struct Waiting {
    dialling: Mutex<Option<DialReply>>,
    closing: Mutex<Option<oneshot::Sender<()>>>,
}

pub(crate) struct Node {
    target: Option<Multiaddr>,
    /// The protocol that dials and closes, then all by name.
    control: Option<Handle>,
    protocols: Arc<HashMap<String, Handle>>,
    waiting: Arc<Waiting>,
    identified: Arc<tokio::sync::Mutex<Identified>>,
    events: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.events.abort();
    }
}

impl Stack for Node {
    type Dialer = Self;
    type Gossip = NoGossip;

    /// litep2p refuses a third connection from one peer.
    const IDENTITIES_PER_WORKER: usize = 8;

    async fn listen(
        options: &ListenOptions,
        services: Arc<Services>,
    ) -> Result<Listening<Self>, Failure> {
        let names = services.protocols();
        let (litep2p, identified, _) = new_node(
            &options.stack,
            &options.listen,
            true,
            names,
            !options.no_identify,
            Some(services),
        )?;
        let peer = litep2p.local_peer_id().to_string();
        let addrs = litep2p
            .listen_addresses()
            .map(|addr| {
                addr.iter()
                    .filter(|part| !matches!(part, Part::P2p(_)))
                    .collect::<Multiaddr>()
                    .to_string()
            })
            .collect();
        let node = spawn(litep2p, identified, None, HashMap::new());
        Ok(Listening { node, peer, addrs })
    }

    async fn dialer(options: &DialOptions, protocols: &[&str]) -> Result<Self, Failure> {
        let identifies = protocols.contains(&protocol::IDENTIFY);
        let mut names: Vec<_> = protocols.iter().map(|name| (*name).to_owned()).collect();
        names.retain(|name| name != protocol::IDENTIFY);
        if names.is_empty() {
            // identify itself can neither dial nor close.
            names.push(protocol::PING.to_owned());
        }
        let (litep2p, identified, handles) = new_node(
            &options.stack,
            std::slice::from_ref(&options.addr),
            false,
            names,
            identifies,
            None,
        )?;
        Ok(spawn(
            litep2p,
            identified,
            Some(options.addr.parse()?),
            handles,
        ))
    }
}

type Identified = Box<dyn futures::Stream<Item = identify::IdentifyEvent> + Send + Unpin>;

fn new_node(
    options: &StackOptions,
    addrs: &[String],
    listens: bool,
    names: Vec<String>,
    identifies: bool,
    services: Option<Arc<Services>>,
) -> Result<(Litep2p, Identified, HashMap<String, Handle>), Failure> {
    if options.security != "noise" || options.key.is_some() {
        return Err(
            "over TCP this peer speaks Noise only, and it makes a fresh identity each time".into(),
        );
    }
    // Held connections are idle on purpose.
    let mut config = ConfigBuilder::new().with_keep_alive_timeout(Duration::from_secs(3600));
    // Only the transports the addresses need, so that a measured connection carries nothing else.
    let listen = |part: &str| {
        addrs
            .iter()
            .filter(|_| listens)
            .filter(|addr| addr.contains(part))
            .map(|addr| addr.parse())
            .collect::<Result<Vec<Multiaddr>, _>>()
    };
    let any = |part: &str| addrs.iter().any(|addr| addr.contains(part));
    if any("/quic-v1") {
        config = config.with_quic(quic::config::Config {
            listen_addresses: listen("/quic-v1")?,
            ..Default::default()
        });
    } else if any("/ws") {
        config = config.with_websocket(websocket::config::Config {
            listen_addresses: listen("/ws")?,
            nodelay: true,
            ..Default::default()
        });
    } else {
        config = config.with_tcp(tcp::config::Config {
            listen_addresses: listen("/tcp")?,
            nodelay: true,
            ..Default::default()
        });
    }
    let mut identified: Identified = Box::new(futures::stream::pending());
    if identifies {
        let (identify, events) =
            identify::Config::new("barewire-peer/1".to_owned(), Some(AGENT.to_owned()));
        config = config.with_libp2p_identify(identify);
        identified = events;
    }
    let mut handles = HashMap::new();
    for name in names {
        let (protocol, handle) = Protocol::new(name.clone(), services.clone());
        config = config.with_user_protocol(Box::new(protocol));
        handles.insert(name, handle);
    }
    Ok((Litep2p::new(config.build())?, identified, handles))
}

fn spawn(
    litep2p: Litep2p,
    identified: Identified,
    target: Option<Multiaddr>,
    handles: HashMap<String, Handle>,
) -> Node {
    let waiting = Arc::new(Waiting::default());
    let dialling = target.is_some();
    let mut node = Node {
        target,
        control: handles.values().next().cloned(),
        protocols: Arc::new(handles),
        waiting: waiting.clone(),
        identified: Arc::new(tokio::sync::Mutex::new(
            Box::new(futures::stream::pending()),
        )),
        events: tokio::spawn(drive(litep2p, waiting)),
    };
    if dialling {
        node.identified = Arc::new(tokio::sync::Mutex::new(identified));
    } else {
        tokio::spawn(identified.for_each(|_| std::future::ready(())));
    }
    node
}

async fn drive(mut litep2p: Litep2p, waiting: Arc<Waiting>) {
    let answer_dial = |answer| {
        if let Some(reply) = lock(&waiting.dialling).take() {
            let _ = reply.send(answer);
        }
    };
    while let Some(event) = litep2p.next_event().await {
        match event {
            Litep2pEvent::ConnectionEstablished { peer, .. } => answer_dial(Ok(peer)),
            Litep2pEvent::DialFailure { error, .. } => answer_dial(Err(error.to_string())),
            Litep2pEvent::ListDialFailures { errors } => answer_dial(Err(format!("{errors:?}"))),
            Litep2pEvent::ConnectionClosed { .. } => {
                if let Some(reply) = lock(&waiting.closing).take() {
                    let _ = reply.send(());
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn describe(event: identify::IdentifyEvent) -> Value {
    let identify::IdentifyEvent::PeerIdentified {
        protocol_version,
        user_agent,
        supported_protocols,
        observed_address,
        listen_addresses,
        ..
    } = event;
    json!({
        "agent": user_agent,
        "protocol_version": protocol_version,
        "protocols": supported_protocols.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "listen_addrs": listen_addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "observed_addr": observed_address.to_string(),
        // litep2p neither sends nor reads signed records.
        "signed_record": false,
        "early_muxer": false,
    })
}

const GONE: &str = "the node has ended";

impl Dialer for Node {
    type Connection = OpenConnection;

    async fn dial(&self) -> Result<OpenConnection, Failure> {
        let (Some(target), Some(control)) = (&self.target, &self.control) else {
            return Err("a listener does not dial".into());
        };
        let (reply, established) = oneshot::channel();
        *lock(&self.waiting.dialling) = Some(reply);
        control.dial(target.clone()).await?;
        Ok(OpenConnection {
            peer: established.await.map_err(|_| GONE)??,
            control: control.clone(),
            protocols: self.protocols.clone(),
            waiting: self.waiting.clone(),
            identified: self.identified.clone(),
        })
    }
}

pub(crate) struct OpenConnection {
    peer: PeerId,
    control: Handle,
    protocols: Arc<HashMap<String, Handle>>,
    waiting: Arc<Waiting>,
    identified: Arc<tokio::sync::Mutex<Identified>>,
}

impl Connection for OpenConnection {
    type Stream = Substream;

    fn peer(&self) -> String {
        self.peer.to_string()
    }

    async fn open(&self, protocol: &str) -> Result<Substream, Failure> {
        let handle = self
            .protocols
            .get(protocol)
            .ok_or("the node was not made for this protocol")?;
        Ok(handle.open(self.peer).await?)
    }

    async fn identify(&self) -> Result<Value, Failure> {
        Ok(self
            .identified
            .lock()
            .await
            .next()
            .await
            .map(describe)
            .ok_or(GONE)?)
    }

    async fn close(self) -> Result<(), Failure> {
        let (reply, closed) = oneshot::channel();
        *lock(&self.waiting.closing) = Some(reply);
        self.control.close(self.peer).await?;
        Ok(closed.await.map_err(|_| GONE)?)
    }
}
