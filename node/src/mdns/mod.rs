//! Finding peers on the local network by mDNS, as libp2p does. Off unless it is [started](Mdns::spawn).
//!
//! On every interface with an IPv4 or IPv6 address the node asks for `_p2p._udp.local` and tells who asks where it
//! listens. What others tell goes into the peer book. Anybody on the network can tell anything; a peer is known by its
//! identity when it is dialled.

mod beacon;
pub mod packet;
mod sockets;

use std::time::Duration;

use barewire_base::{Multiaddr, PeerId};
use rand::{RngExt as _, distr::Alphanumeric};
use tokio::{
    sync::{broadcast, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::beacon::{Beacon, Output};
use self::sockets::Sockets;
use crate::{
    addresses::Interfaces,
    discovery::Discovery,
    endpoint::{Endpoint, WeakEndpoint},
    peer_book::AddressSource,
};

/// Letters of the name, as many as go-libp2p has at least.
const NAME_LEN: usize = 32;
/// Packets that wait to be looked at; more are dropped, as the network may do.
const MAX_PACKETS: usize = 64;
/// Finds kept for a reader that is behind.
const MAX_EVENTS: usize = 256;

/// Settings of [`Mdns`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MdnsConfig {
    /// Longest time between two questions; the first come sooner. Default 60 s, as go-libp2p.
    pub query_interval: Duration,
    /// How long others may believe what they are told. Default 6 min, as rust-libp2p.
    pub ttl: Duration,
}

impl Default for MdnsConfig {
    fn default() -> Self {
        Self {
            query_interval: Duration::from_secs(60),
            ttl: Duration::from_secs(6 * 60),
        }
    }
}

/// A peer that was found on the local network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MdnsFound {
    /// Who.
    pub peer: PeerId,
    /// Where, without the id.
    pub addr: Multiaddr,
}

/// Finds peers on the local network until it is dropped.
#[derive(Debug)]
pub struct Mdns {
    found: broadcast::Sender<MdnsFound>,
    /// Ends the task, which says goodbye.
    _end: DropGuard,
}

impl Mdns {
    /// Starts it. Interfaces that come later are used too; one that cannot be used is left out with a warning.
    #[must_use]
    pub fn spawn(endpoint: &Endpoint, config: MdnsConfig, discovery: Option<Discovery>) -> Self {
        let name = rand::rng().sample_iter(Alphanumeric).take(NAME_LEN);
        let name = name
            .map(|letter| char::from(letter).to_ascii_lowercase())
            .collect();
        let now = Instant::now().into_std();
        let beacon = Beacon::new(config, endpoint.peer_id(), name, now);
        let found = broadcast::Sender::new(MAX_EVENTS);
        let (owner, told) = (endpoint.downgrade(), found.clone());
        let end = CancellationToken::new();
        let ending = end.clone();
        endpoint.spawn_to_the_end(|(stop, _)| async move {
            let ended = async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = ending.cancelled() => {}
                }
            };
            run(owner, beacon, told, discovery, ended).await;
        });
        Self {
            found,
            _end: end.drop_guard(),
        }
    }

    /// What is found from now on.
    #[must_use]
    pub fn found(&self) -> broadcast::Receiver<MdnsFound> {
        self.found.subscribe()
    }
}

async fn run(
    owner: WeakEndpoint,
    mut beacon: Beacon,
    found: broadcast::Sender<MdnsFound>,
    discovery: Option<Discovery>,
    ended: impl Future<Output = ()>,
) {
    let mut ended = std::pin::pin!(ended);
    let (sender, mut packets) = mpsc::channel(MAX_PACKETS);
    let opened = tokio::select! {
        () = &mut ended => return,
        opened = Interfaces::open() => opened,
    };
    let mut interfaces = match opened {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "mDNS needs the network interfaces and cannot watch them");
            return;
        }
    };
    let mut sockets = Sockets::new(sender);
    sockets.set_ips(&interfaces.ips());
    let Some(mut state) = owner.upgrade().map(|endpoint| endpoint.state()) else {
        return;
    };
    loop {
        let now = Instant::now().into_std();
        beacon.set_addresses(now, &state.borrow_and_update().addresses);
        while let Some(output) = beacon.poll_output(now, rand::random()) {
            match output {
                Output::Send(packet) => sockets.send(&packet).await,
                Output::Found { peer, addr } => {
                    let Some(endpoint) = owner.upgrade() else {
                        return;
                    };
                    let book = endpoint.peer_book();
                    book.add_from(&peer, &addr, AddressSource::Dns);
                    if let Some(discovery) = &discovery {
                        discovery.found(peer);
                    }
                    // It fails when nobody reads.
                    let _ = found.send(MdnsFound { peer, addr });
                }
            }
        }
        tokio::select! {
            Some(packet) = packets.recv() => {
                beacon.handle_packet(Instant::now().into_std(), &packet);
            }
            changed = interfaces.changed() => match changed {
                Ok(()) => if sockets.set_ips(&interfaces.ips()) {
                    beacon.network_changed(Instant::now().into_std());
                },
                Err(error) => {
                    tracing::warn!(%error, "mDNS does not see the network interfaces any more");
                    return;
                }
            },
            () = &mut ended => return sockets.send(&beacon.goodbye()).await,
            changed = state.changed() => if changed.is_err() { return },
            () = sleep_until(beacon.poll_timeout().into()) => {}
        }
    }
}
