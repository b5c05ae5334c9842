//! Where this node is and where its peers are: listeners, interfaces, what others observe, the peer
//! book.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use barewire_base::{Multiaddr, PeerId};
use barewire_nat::autonat::{Reachability, TestedAddr};
use barewire_transport::Connection;
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use crate::{
    addresses::{Addresses, Ignored, Interfaces, Observation, Scope},
    error::BindError,
    events::Event,
    peer_book::{PeerBook, PeerBookConfig, PeerBookError},
    protocols::identify::PeerInfo,
};

/// First pause before the interfaces are watched anew after a failure; doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Addresses that too few others see to be announced, and that are tested all the same (own choice: anybody may invent them).
const MAX_SEEN: usize = 4;

/// Opens the peer book off the runtime's threads: it reads a file.
pub(super) async fn open_book(config: PeerBookConfig) -> Result<PeerBook, BindError> {
    let path = config.path.clone().unwrap_or_default();
    let opening = tokio::task::spawn_blocking(move || PeerBook::open(&config));
    let opened = opening.await.unwrap_or_else(|_| {
        // Only if the runtime ends meanwhile.
        let kind = io::ErrorKind::Interrupted;
        Err(PeerBookError::Io { path, kind })
    });
    Ok(opened?)
}

impl Shared {
    /// Starts what keeps addresses up to date.
    pub(super) fn start_whereabouts(self: &Arc<Self>) {
        let book = self.peer_book.clone();
        self.tasks.spawn(book.run(self.stop.clone()));
        self.tasks.spawn(expire_observed(Arc::clone(self)));
    }

    /// Changes the addresses of this node and tells everybody whom it concerns: connected peers by
    /// identify push, readers of the state and of events.
    pub(crate) fn change_addresses(&self, change: impl FnOnce(&mut Addresses)) {
        // Held to the end, so that two changes are told in their order.
        let mut addresses = self.addresses.lock();
        change(&mut addresses);
        let listening = addresses.listening();
        addresses.observed.set_listening(&listening);
        let external = addresses.observed.confirmed().to_vec();
        let relayed = addresses.relayed().to_vec();
        let mapped = addresses.mapped().to_vec();
        let (reachability, tested) = addresses.tested();
        let tested = tested.to_vec();
        let old = self.state.borrow().clone();
        let bound = addresses.bound();
        self.state.send_if_modified(|state| {
            let changed = state.listen_addrs != bound
                || state.addresses != listening
                || state.external_addrs != external
                || state.relay_addrs != relayed
                || state.mapped_addrs != mapped
                || state.reachability != reachability
                || state.tested_addrs != tested;
            if changed {
                state.listen_addrs = bound.to_vec();
                state.addresses.clone_from(&listening);
                state.external_addrs.clone_from(&external);
                state.relay_addrs.clone_from(&relayed);
                state.mapped_addrs.clone_from(&mapped);
                state.reachability = reachability;
                state.tested_addrs.clone_from(&tested);
            }
            changed
        });
        for addr in missing(&old.addresses, &listening) {
            tracing::info!(%addr, "not listening any more");
            self.events.emit(|| Event::NotListening { addr });
        }
        for addr in missing(&listening, &old.addresses) {
            tracing::info!(%addr, "listening");
            self.events.emit(|| Event::Listening { addr });
        }
        for addr in missing(&old.external_addrs, &external) {
            tracing::info!(%addr, "too few peers still see this node there");
            self.events.emit(|| Event::ExternalAddressLost { addr });
        }
        for addr in missing(&external, &old.external_addrs) {
            tracing::info!(%addr, "peers agree that they see this node there");
            self.events.emit(|| Event::ExternalAddress { addr });
        }
        for addr in missing(&old.relay_addrs, &relayed) {
            tracing::info!(%addr, "not reached through this relay any more");
            self.events.emit(|| Event::RelayAddressLost { addr });
        }
        for addr in missing(&relayed, &old.relay_addrs) {
            tracing::info!(%addr, "reached through a relay");
            self.events.emit(|| Event::RelayAddress { addr });
        }
        for addr in missing(&old.mapped_addrs, &mapped) {
            tracing::info!(%addr, "the router does not send on any more what comes there");
            self.events.emit(|| Event::MappedAddressLost { addr });
        }
        for addr in missing(&mapped, &old.mapped_addrs) {
            tracing::info!(%addr, "the router sends on what comes there");
            self.events.emit(|| Event::MappedAddress { addr });
        }
        // Another server that says the same is no news.
        if (old.reachability, states(&old.tested_addrs)) != (reachability, states(&tested)) {
            tracing::info!(%reachability, ?tested, "what others can reach of this node");
            self.events.emit(|| Event::Reachability {
                reachability,
                addrs: tested,
            });
        }
        let announced = addresses.announced();
        if self.local.borrow().listen_addrs != announced {
            self.change_local(|local| (announced, Arc::clone(&local.registry)));
        }
    }

    /// The addresses at which this node may be reachable, the likeliest first: its own that `may` accepts, those at which others see
    /// it, and its ports at the IP address at which most see it, which a router may have been told to lead here.
    pub(crate) fn testable(&self, may: impl Fn(&Multiaddr) -> bool) -> Vec<Multiaddr> {
        let (listening, mut all) = {
            let addresses = self.addresses.lock();
            let mut all = addresses.observed.confirmed().to_vec();
            all.extend_from_slice(addresses.mapped());
            let listening = addresses.listening();
            all.extend(listening.iter().filter(|addr| may(addr)).cloned());
            all.extend(addresses.observed.seen().into_iter().take(MAX_SEEN));
            (listening, all)
        };
        for ip in self.seen_ips() {
            let here = listening.iter().any(|addr| addr.ip() == Some(ip));
            let ports = listening.iter().filter(|_| !here);
            all.extend(ports.filter_map(|addr| addr.with_ip(ip)));
        }
        let mut seen = HashSet::new();
        all.retain(|addr| may(addr) && seen.insert(addr.clone()));
        all
    }

    /// The public IP addresses of either family at which most public peers see this node, from whatever port it has reached them.
    fn seen_ips(&self) -> Vec<IpAddr> {
        let mut votes: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (connection, info) in self.table.lock().identified() {
            let ips = info.observed_addr.as_ref().and_then(Multiaddr::ip);
            let ips = ips.zip(connection.info().remote_addr.ip());
            if let Some((seen, by)) = ips
                && [seen, by].map(Scope::of) == [Scope::Public; 2]
            {
                *votes.entry(seen).or_default() += 1;
            }
        }
        let best = |v6| {
            let of_family = votes.iter().filter(move |(ip, _)| ip.is_ipv6() == v6);
            of_family
                .max_by_key(|(_, votes)| **votes)
                .map(|(ip, _)| *ip)
        };
        [false, true].into_iter().filter_map(best).collect()
    }

    /// Connections of identified peers, with what those say.
    pub(crate) fn identified(&self) -> Vec<(Connection, Arc<PeerInfo>)> {
        self.table.lock().identified()
    }

    /// Where anybody sees this node.
    pub(crate) fn seen_at(&self) -> Vec<Multiaddr> {
        self.addresses.lock().observed.seen()
    }

    /// Looks up the addresses of this machine and follows them from now on. Where that is not
    /// possible, wildcards stay as they are and each peer is told the address it reached.
    pub(super) async fn follow_interfaces(self: &Arc<Self>) {
        self.following
            .get_or_init(async || match Interfaces::open().await {
                Ok(interfaces) => {
                    let ips = interfaces.ips();
                    self.change_addresses(|addresses| addresses.set_interfaces(ips));
                    self.tasks.spawn(follow(Arc::clone(self), interfaces));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot watch the network interfaces yet");
                    self.tasks.spawn(follow_later(Arc::clone(self)));
                }
            })
            .await;
    }

    /// Takes note of where a peer sees this node.
    pub(super) fn observed(&self, connection: &Connection, info: &PeerInfo) {
        let Some(observed) = &info.observed_addr else {
            return;
        };
        match self.observe(connection, info.peer_id, observed) {
            Ok(true) => self.change_addresses(|_| {}),
            Ok(false) => {}
            Err(cause) => {
                let peer = info.peer_id;
                tracing::trace!(%peer, %observed, %cause, "an observation does not count");
                return;
            }
        }
        self.observing.notify_one();
    }

    /// Whether the confirmed addresses have changed.
    fn observe(
        &self,
        connection: &Connection,
        peer: PeerId,
        at: &Multiaddr,
    ) -> Result<bool, Ignored> {
        let of = connection.info();
        let observation = Observation {
            peer,
            remote: &of.remote_addr,
            local: &of.local_addr,
            observed: at,
        };
        let now = Instant::now().into_std();
        let mut addresses = self.addresses.lock();
        let listening = addresses.listening();
        addresses.observed.observe(now, &observation, &listening)
    }
}

fn states(tested: &[TestedAddr]) -> Vec<(Multiaddr, Reachability)> {
    let states = tested.iter().map(|of| (of.addr.clone(), of.reachability));
    states.collect()
}

/// Those of `all` that are not in `among`.
fn missing(all: &[Multiaddr], among: &[Multiaddr]) -> Vec<Multiaddr> {
    let missing = all.iter().filter(|addr| !among.contains(addr));
    missing.cloned().collect()
}

/// As [`follow`], once the interfaces can be watched.
async fn follow_later(shared: Arc<Shared>) {
    let opened = tokio::select! {
        () = shared.stop.cancelled() => return,
        opened = until_opened(Interfaces::open) => opened,
    };
    let ips = opened.ips();
    shared.change_addresses(|addresses| addresses.set_interfaces(ips));
    follow(shared, opened).await;
}

/// Tries again, less and less often, until it works. The first try comes after a pause.
async fn until_opened<T>(mut open: impl AsyncFnMut() -> io::Result<T>) -> T {
    let mut pause = MIN_PAUSE;
    loop {
        sleep(pause).await;
        match open().await {
            Ok(opened) => return opened,
            Err(error) => tracing::debug!(%error, "cannot watch the network interfaces yet"),
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Follows the interfaces until the endpoint stops.
async fn follow(shared: Arc<Shared>, mut interfaces: Interfaces) {
    let mut pause = MIN_PAUSE;
    loop {
        let changed = tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = interfaces.changed() => changed,
        };
        match changed {
            Ok(()) => pause = MIN_PAUSE,
            Err(error) => {
                // The kernel drops messages when too many come at once.
                tracing::debug!(%error, "watching the network interfaces anew");
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(MAX_PAUSE);
                match Interfaces::open().await {
                    Ok(opened) => interfaces = opened,
                    Err(_) => continue,
                }
            }
        }
        let ips = interfaces.ips();
        shared.change_addresses(|addresses| addresses.set_interfaces(ips));
    }
}

/// Renews the observations of connected peers and forgets the others when their time is over.
async fn expire_observed(shared: Arc<Shared>) {
    loop {
        let due = shared.addresses.lock().observed.poll_timeout();
        let Some(at) = due else {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = shared.observing.notified() => continue,
            }
        };
        // No later observation is due earlier.
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = sleep_until(at.into()) => {}
        }
        let identified = shared.table.lock().identified();
        for (connection, info) in identified {
            if let Some(observed) = &info.observed_addr {
                // What did not count then does not count now.
                let _ = shared.observe(&connection, info.peer_id, observed);
            }
        }
        let now = Instant::now().into_std();
        shared.change_addresses(|addresses| {
            addresses.observed.handle_timeout(now);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_cannot_be_watched_yet_is_asked_again() {
        let begun = Instant::now();
        let mut failures = 12;
        let opened = until_opened(async || match failures {
            0 => Ok("opened"),
            _ => {
                failures -= 1;
                Err(io::Error::from(io::ErrorKind::QuotaExceeded))
            }
        });
        assert_eq!(opened.await, "opened");
        // 1, 2, 4, … 256 s, and 300 s from then on.
        assert_eq!(begun.elapsed(), Duration::from_secs(511 + 4 * 300));
    }
}
