//! What happens on an endpoint, told to people, logs and metrics. Nothing inside depends on it.

use std::sync::{Arc, OnceLock};

use barewire_base::{Multiaddr, PeerId};
use barewire_nat::autonat::{Reachability, TestedAddr};
use barewire_transport::{CloseReason, LocalReason, Role, UpgradeError};
use tokio::sync::broadcast;

use crate::protocols::{dcutr::PunchStep, identify::PeerInfo};

/// Events kept for a reader that is behind. A slower one is told how many it missed.
const CAPACITY: usize = 256;

/// Something that happened on an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This node can be dialled at an address: a listener is ready, or an interface behind a
    /// wildcard listener has gained the address.
    Listening {
        /// The address, without `/p2p`. A wildcard only where the interfaces cannot be watched.
        addr: Multiaddr,
    },
    /// This node can no longer be dialled at an address: an interface has lost it.
    NotListening {
        /// The address, without `/p2p`.
        addr: Multiaddr,
    },
    /// Enough other nodes see this one at an address: it is announced.
    ExternalAddress {
        /// The address, without `/p2p`.
        addr: Multiaddr,
    },
    /// Too few other nodes still see this one at an address: it is announced no more.
    ExternalAddressLost {
        /// The address, without `/p2p`.
        addr: Multiaddr,
    },
    /// A relay leads to this node: the address is announced.
    RelayAddress {
        /// The address, `/p2p-circuit` at its end.
        addr: Multiaddr,
    },
    /// A relay leads to this node no more.
    RelayAddressLost {
        /// The address, `/p2p-circuit` at its end.
        addr: Multiaddr,
    },
    /// What is known of the addresses at which others can reach this node has changed.
    Reachability {
        /// Of the node.
        reachability: Reachability,
        /// Of each address.
        addrs: Vec<TestedAddr>,
    },
    /// A router sends on what comes at an address: it is announced.
    MappedAddress {
        /// The address, without `/p2p`.
        addr: Multiaddr,
    },
    /// A router sends on what comes at an address no more.
    MappedAddressLost {
        /// The address, without `/p2p`.
        addr: Multiaddr,
    },
    /// Work on a direct connection beside a relayed one.
    HolePunch {
        /// Who is at the other end.
        peer: PeerId,
        /// What happened.
        step: PunchStep,
    },
    /// Accepting failed for lack of resources (such as open files) and waits a moment, or the socket
    /// broke (`NotConnected`) and is opened anew.
    AcceptFailed {
        /// The listener.
        addr: Multiaddr,
        /// What the operating system answered.
        kind: std::io::ErrorKind,
    },
    /// An inbound connection did not finish its upgrade.
    InboundFailed {
        /// Where it came from.
        remote: Multiaddr,
        /// The cause; `None` when it lost its place to a newer one.
        error: Option<UpgradeError>,
    },
    /// A connection was refused by a limit or the gater.
    Refused {
        /// Address of the remote.
        remote: Multiaddr,
        /// Who it is, if it came far enough to say.
        peer: Option<PeerId>,
        /// Why.
        reason: LocalReason,
    },
    /// A connection is established.
    Connected {
        /// Who it is.
        peer: PeerId,
        /// Address of the remote on this connection.
        remote: Multiaddr,
        /// Whether this side dialled.
        role: Role,
    },
    /// A connection ended.
    Disconnected {
        /// Who it was.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
        /// No other connection to the peer is left.
        last: bool,
    },
    /// A peer answered identify, or pushed a change.
    Identified {
        /// What it said.
        info: Arc<PeerInfo>,
    },
    /// A periodic ping was answered.
    Ping {
        /// Who answered.
        peer: PeerId,
        /// Round-trip time.
        rtt: std::time::Duration,
    },
    /// A periodic ping failed.
    PingFailed {
        /// Who did not answer.
        peer: PeerId,
        /// Failures in a row.
        failures: u32,
    },
    /// Two barewire nodes dialled each other at once; the named peer's other connection is kept.
    Superseded {
        /// The peer.
        peer: PeerId,
    },
    /// A protocol handler panicked. Only its stream is gone.
    HandlerPanicked {
        /// Who the stream was with.
        peer: PeerId,
        /// Protocol of the stream.
        protocol: Arc<str>,
    },
}

/// Sending side. Costs nothing until somebody listens.
#[derive(Debug, Default)]
pub(crate) struct EventSender(OnceLock<broadcast::Sender<Event>>);

impl EventSender {
    pub(crate) fn subscribe(&self) -> Events {
        let sender = self.0.get_or_init(|| broadcast::channel(CAPACITY).0);
        Events(sender.subscribe())
    }

    /// `event` runs only if somebody listens.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if let Some(sender) = self.0.get()
            && sender.receiver_count() > 0
        {
            // Fails only when the last reader has just gone.
            let _ = sender.send(event());
        }
    }
}

/// Receiving side of [`Endpoint::events`](crate::Endpoint::events).
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

/// What [`Events::next`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventItem {
    /// The next event.
    Event(Event),
    /// This reader was too slow and missed that many events.
    Missed(u64),
}

impl Events {
    /// The next event; `None` once the endpoint is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<EventItem> {
        match self.0.recv().await {
            Ok(event) => Some(EventItem::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(EventItem::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
