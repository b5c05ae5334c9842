//! A behaviour for plain byte streams: any number may be opened at once, and inbound ones are served by tasks of their own.
//! (libp2p-stream negotiates one outbound stream at a time and drops inbound ones while its reader is busy.)

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use barewire_peer_cli::Services;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, UpgradeInfo, transport::PortUse, upgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt;

/// Opens that one connection's users may have waiting for its task.
const PENDING_OPENS: usize = 1024;

type OpenResult = Result<Stream, String>;

pub(crate) struct Open {
    protocol: StreamProtocol,
    reply: oneshot::Sender<OpenResult>,
}

/// Opens streams on one connection.
#[derive(Clone)]
pub(crate) struct Opener(mpsc::Sender<Open>);

impl Opener {
    pub(crate) async fn open(&self, protocol: &str) -> OpenResult {
        let protocol =
            StreamProtocol::try_from_owned(protocol.to_owned()).map_err(|e| e.to_string())?;
        let (reply, opened) = oneshot::channel();
        let gone = || "the connection is closed".to_owned();
        self.0
            .send(Open { protocol, reply })
            .await
            .map_err(|_| gone())?;
        opened.await.map_err(|_| gone())?
    }
}

pub(crate) struct Behaviour {
    services: Option<Arc<Services>>,
    protocols: Arc<[StreamProtocol]>,
    openers: HashMap<ConnectionId, Opener>,
}

impl Behaviour {
    /// Without services every inbound stream is refused.
    pub(crate) fn new(services: Option<Arc<Services>>) -> Self {
        let protocols = services
            .iter()
            .flat_map(|services| services.protocols())
            .filter_map(|id| StreamProtocol::try_from_owned(id).ok())
            .collect();
        Self {
            services,
            protocols,
            openers: HashMap::new(),
        }
    }

    pub(crate) fn opener(&self, connection: ConnectionId) -> Option<Opener> {
        self.openers.get(&connection).cloned()
    }

    fn handler(&mut self, connection: ConnectionId) -> Handler {
        let (sender, receiver) = mpsc::channel(PENDING_OPENS);
        self.openers.insert(connection, Opener(sender));
        Handler {
            services: self.services.clone(),
            protocols: self.protocols.clone(),
            opens: receiver,
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.openers.remove(&closed.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

pub(crate) struct Handler {
    services: Option<Arc<Services>>,
    protocols: Arc<[StreamProtocol]>,
    opens: mpsc::Receiver<Open>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<OpenResult>;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade(Protocols::Served(self.protocols.clone())), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, Self::OutboundOpenInfo, Infallible>> {
        match self.opens.poll_recv(cx) {
            Poll::Ready(Some(Open { protocol, reply })) => {
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(Upgrade(Protocols::One(protocol)), reply),
                })
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Upgrade, Upgrade, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => {
                if let Some(services) = self.services.clone() {
                    tokio::spawn(async move {
                        services.serve(protocol.as_ref(), stream.compat()).await;
                    });
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: reply,
            }) => {
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let cause = match error {
                    StreamUpgradeError::Timeout => "opening the stream timed out".to_owned(),
                    StreamUpgradeError::Apply(never) => match never {},
                    StreamUpgradeError::NegotiationFailed => {
                        "the other side does not serve the protocol".to_owned()
                    }
                    StreamUpgradeError::Io(cause) => cause.to_string(),
                };
                let _ = reply.send(Err(cause));
            }
            _ => {}
        }
    }
}

/// Negotiates one of the protocols and yields the bare stream.
pub(crate) struct Upgrade(Protocols);

enum Protocols {
    Served(Arc<[StreamProtocol]>),
    One(StreamProtocol),
}

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        match &self.0 {
            Protocols::Served(all) => all.to_vec(),
            Protocols::One(one) => vec![one.clone()],
        }
    }
}

impl upgrade::InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl upgrade::OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
