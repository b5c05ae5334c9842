//! One protocol of a litep2p node as plain byte streams.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use barewire_peer_cli::Services;
use futures::StreamExt;
use litep2p::{
    PeerId,
    codec::ProtocolCodec,
    protocol::{Direction, TransportEvent, TransportService, UserProtocol},
    substream::Substream,
    types::{SubstreamId, multiaddr::Multiaddr, protocol::ProtocolName},
};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the protocol's task.
const PENDING: usize = 1024;

type OpenReply = oneshot::Sender<Result<Substream, String>>;

enum Request {
    Dial(Multiaddr, oneshot::Sender<Result<(), String>>),
    Open(PeerId, OpenReply),
    Close(PeerId, oneshot::Sender<()>),
}

/// Commands one protocol.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Request>);

const GONE: &str = "the node has ended";

impl Handle {
    /// Starts a dial; the node's events tell how it ends.
    pub(crate) async fn dial(&self, addr: Multiaddr) -> Result<(), String> {
        let (reply, started) = oneshot::channel();
        self.0
            .send(Request::Dial(addr, reply))
            .await
            .map_err(|_| GONE)?;
        started.await.map_err(|_| GONE)?
    }

    pub(crate) async fn open(&self, peer: PeerId) -> Result<Substream, String> {
        let (reply, opened) = oneshot::channel();
        self.0
            .send(Request::Open(peer, reply))
            .await
            .map_err(|_| GONE)?;
        opened.await.map_err(|_| GONE)?
    }

    /// Returns when this protocol has seen the connection go; a stream opened earlier could still be sent down the dead one.
    pub(crate) async fn close(&self, peer: PeerId) -> Result<(), String> {
        let (reply, closed) = oneshot::channel();
        self.0
            .send(Request::Close(peer, reply))
            .await
            .map_err(|_| GONE)?;
        Ok(closed.await.map_err(|_| GONE)?)
    }
}

pub(crate) struct Protocol {
    name: String,
    services: Option<Arc<Services>>,
    requests: mpsc::Receiver<Request>,
}

impl Protocol {
    /// Without services inbound streams are dropped.
    pub(crate) fn new(name: String, services: Option<Arc<Services>>) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(PENDING);
        (
            Self {
                name,
                services,
                requests,
            },
            Handle(sender),
        )
    }
}

/// What the task of one protocol keeps.
#[derive(Default)]
struct State {
    connected: HashSet<PeerId>,
    /// Asked for before this protocol has heard of the connection.
    early: HashMap<PeerId, Vec<OpenReply>>,
    opening: HashMap<SubstreamId, OpenReply>,
    closing: HashMap<PeerId, oneshot::Sender<()>>,
}

impl State {
    fn open(&mut self, service: &mut TransportService, peer: PeerId, reply: OpenReply) {
        if !self.connected.contains(&peer) {
            self.early.entry(peer).or_default().push(reply);
            return;
        }
        match service.open_substream(peer) {
            Ok(id) => {
                self.opening.insert(id, reply);
            }
            Err(cause) => {
                let _ = reply.send(Err(cause.to_string()));
            }
        }
    }
}

#[async_trait::async_trait]
impl UserProtocol for Protocol {
    fn protocol(&self) -> ProtocolName {
        ProtocolName::from(self.name.clone())
    }

    fn codec(&self) -> ProtocolCodec {
        ProtocolCodec::Unspecified
    }

    async fn run(mut self: Box<Self>, mut service: TransportService) -> litep2p::Result<()> {
        let mut state = State::default();
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    // A listener keeps no handle and lives on.
                    None => break,
                    Some(Request::Dial(addr, reply)) => {
                        let _ = reply.send(service.dial_address(addr).map_err(|e| e.to_string()));
                    }
                    Some(Request::Open(peer, reply)) => state.open(&mut service, peer, reply),
                    Some(Request::Close(peer, reply)) => {
                        if service.force_close(peer).is_ok() {
                            state.closing.insert(peer, reply);
                        }
                    }
                },
                event = service.next() => match event {
                    None => return Ok(()),
                    Some(event) => self.on_event(&mut state, &mut service, event),
                },
            }
        }
        while let Some(event) = service.next().await {
            self.on_event(&mut state, &mut service, event);
        }
        Ok(())
    }
}

impl Protocol {
    fn on_event(&self, state: &mut State, service: &mut TransportService, event: TransportEvent) {
        match event {
            TransportEvent::ConnectionEstablished { peer, .. } => {
                state.connected.insert(peer);
                for reply in state.early.remove(&peer).unwrap_or_default() {
                    state.open(service, peer, reply);
                }
            }
            TransportEvent::ConnectionClosed { peer } => {
                state.connected.remove(&peer);
                if let Some(reply) = state.closing.remove(&peer) {
                    let _ = reply.send(());
                }
            }
            TransportEvent::SubstreamOpened {
                substream,
                direction,
                ..
            } => match direction {
                Direction::Outbound(id) => {
                    if let Some(reply) = state.opening.remove(&id) {
                        let _ = reply.send(Ok(substream));
                    }
                }
                Direction::Inbound => {
                    if let Some(services) = self.services.clone() {
                        let name = self.name.clone();
                        tokio::spawn(async move { services.serve(&name, substream).await });
                    }
                }
            },
            TransportEvent::SubstreamOpenFailure { substream, error } => {
                if let Some(reply) = state.opening.remove(&substream) {
                    let _ = reply.send(Err(error.to_string()));
                }
            }
            TransportEvent::DialFailure { .. } => {}
        }
    }
}
