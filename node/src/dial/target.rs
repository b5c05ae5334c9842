//! What is dialled, and what is told while it is.

use std::{fmt, sync::Arc, time::Duration};

use barewire_base::{Multiaddr, PeerId};
use barewire_transport::{ConnectionInfo, LocalPort, dns::Resolution};

use super::Whom;
use crate::error::DialError;

type Observer = Arc<dyn Fn(&DialEvent) + Send + Sync>;

/// What to connect to: an address, several addresses of one peer, or a peer.
///
/// ```
/// use barewire_node::{Multiaddr, dial::DialTarget};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let quic: Multiaddr = "/ip4/192.0.2.1/udp/4001/quic-v1".parse()?;
/// let tcp: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse()?;
/// let target = DialTarget::from(vec![quic, tcp]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DialTarget {
    pub(super) peer: Option<PeerId>,
    pub(super) addrs: Vec<Multiaddr>,
    pub(super) by_user: bool,
    /// What TCP dials leave from.
    pub(super) port: LocalPort,
    observer: Option<Observer>,
}

impl fmt::Debug for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialTarget")
            .field("peer", &self.peer)
            .field("addrs", &self.addrs)
            .field("by_user", &self.by_user)
            .finish_non_exhaustive()
    }
}

impl DialTarget {
    fn new(peer: Option<PeerId>, addrs: Vec<Multiaddr>, by_user: bool) -> Self {
        Self {
            peer,
            addrs,
            by_user,
            port: LocalPort::Shared,
            observer: None,
        }
    }

    /// Calls `observer` for each step of the dial. It must be quick and must not block. A call that
    /// joins a dial another call has begun observes nothing.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Fn(&DialEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Dials from listening ports, whatever this node leaves to other nodes: to a relay, which does not dial back and is to see them.
    #[must_use]
    pub fn with_listening_ports(mut self) -> Self {
        self.port = LocalPort::Listening;
        self
    }

    /// Dials from new ports: beside dials of the same addresses from listening ones, between which and the remote's there can be one
    /// connection only.
    #[must_use]
    pub(crate) fn with_new_ports(mut self) -> Self {
        self.port = LocalPort::New;
        self
    }

    pub(super) fn tell(&self, event: impl FnOnce() -> DialEvent) {
        if let Some(observer) = &self.observer {
            observer(&event());
        }
    }

    /// Whom calls that share one dial want.
    pub(crate) fn whom(&self) -> Result<Whom, DialError> {
        Ok(match self.peer()? {
            Some(peer) => Whom::Peer(peer),
            None => Whom::At(self.addrs.clone()),
        })
    }

    /// Whose addresses these are, if one of them or the user says so.
    pub(crate) fn peer(&self) -> Result<Option<PeerId>, DialError> {
        let mut peer = self.peer;
        for addr in &self.addrs {
            match (peer, addr.peer_id()) {
                (Some(one), Some(other)) if one != other => {
                    return Err(DialError::SeveralPeers { one, other });
                }
                (None, Some(id)) => peer = Some(id),
                _ => {}
            }
        }
        Ok(peer)
    }
}

/// One address named by the user: tried even if it failed a moment ago. Nothing but `/p2p/…` is a peer.
impl From<Multiaddr> for DialTarget {
    fn from(addr: Multiaddr) -> Self {
        Self::from(vec![addr])
    }
}

/// Addresses of one peer named by the user. One of nothing but `/p2p/…` says who that is.
impl From<Vec<Multiaddr>> for DialTarget {
    fn from(mut addrs: Vec<Multiaddr>) -> Self {
        let peer = addrs.iter().find_map(Multiaddr::peer_id);
        addrs.retain(|addr| !addr.clone().without_peer().is_empty());
        Self::new(peer, addrs, true)
    }
}

/// Addresses of a peer learned from others: those that failed lately are left out. Without any, those
/// of the peer book.
impl From<(PeerId, Vec<Multiaddr>)> for DialTarget {
    fn from((peer, addrs): (PeerId, Vec<Multiaddr>)) -> Self {
        Self::new(Some(peer), addrs, false)
    }
}

/// A peer at the addresses that the peer book has.
impl From<PeerId> for DialTarget {
    fn from(peer: PeerId) -> Self {
        Self::new(Some(peer), Vec::new(), false)
    }
}

/// A step of a dial.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DialEvent {
    /// Since the dial began.
    pub at: Duration,
    /// The address it concerns.
    pub addr: Multiaddr,
    /// What happened.
    pub step: DialStep,
}

/// What happened in a [`DialEvent`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DialStep {
    /// The names in the address are looked up.
    Resolving,
    /// They have been.
    Resolved(Resolution),
    /// An attempt began.
    Started,
    /// The attempt failed, or was not made.
    Failed(DialError),
    /// The attempt became the connection.
    Connected(ConnectionInfo),
    /// Another attempt was faster; this one was stopped.
    Cancelled,
}
