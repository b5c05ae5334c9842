//! What this node says about itself, signed once per list of addresses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use barewire_base::{Keypair, Multiaddr, Protocol, PublicKey, peer_record::PeerRecord};
use barewire_transport::ConnectionInfo;
use bytes::Bytes;
use parking_lot::Mutex;

use super::message::{Outgoing, encode};
use crate::{config::IdentifyConfig, router::Registry};

/// Signed records kept. Lists differ only by the local address a wildcard listener was reached at,
/// and by whether the remote is on this machine.
const MAX_RECORDS: usize = 8;

/// One peer record in the two forms in use.
#[derive(Debug, Clone)]
struct Records {
    standard: Bytes,
    legacy: Bytes,
}

/// A state of this node: replaced whole when a listener or a handler is added, so a connection can
/// tell by it that its peer should be told.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) listen_addrs: Vec<Multiaddr>,
    pub(crate) registry: Arc<Registry>,
    public_key: PublicKey,
    /// Signed records by list of addresses.
    records: Mutex<Vec<(Vec<Multiaddr>, Records)>>,
}

impl Local {
    pub(crate) fn new(
        listen_addrs: Vec<Multiaddr>,
        registry: Arc<Registry>,
        public_key: PublicKey,
    ) -> Self {
        Self {
            listen_addrs,
            registry,
            public_key,
            records: Mutex::default(),
        }
    }

    /// The encoded message for the peer of a connection.
    pub(crate) fn message(
        &self,
        keypair: &Keypair,
        config: &IdentifyConfig,
        connection: &ConnectionInfo,
    ) -> Bytes {
        let addrs = self.addresses_for(&connection.local_addr, &connection.remote_addr);
        let (signed_record, legacy_record) = self
            .records(keypair, &addrs)
            .map(|records| (records.standard, records.legacy))
            .unzip();
        let outgoing = Outgoing {
            public_key: &self.public_key,
            listen_addrs: &addrs,
            protocols: self.registry.names(),
            protocol_version: &config.protocol_version,
            agent_version: &config.agent_version,
            signed_record,
            legacy_record,
        };
        encode(&outgoing, Some(&connection.remote_addr))
    }

    fn records(&self, keypair: &Keypair, addrs: &[Multiaddr]) -> Option<Records> {
        let mut records = self.records.lock();
        if let Some((_, signed)) = records.iter().find(|(of, _)| of == addrs) {
            return Some(signed.clone());
        }
        let record = PeerRecord {
            peer_id: keypair.peer_id(),
            seq: next_seq(),
            addrs: addrs.to_vec(),
        };
        // It is signed by the peer it speaks of, which is all that could be wrong.
        let signed = Records {
            standard: record.sign(keypair).ok()?.into(),
            legacy: record.sign_legacy(keypair).ok()?.into(),
        };
        if records.len() >= MAX_RECORDS {
            records.remove(0);
        }
        records.push((addrs.to_vec(), signed.clone()));
        Some(signed)
    }

    /// Which of our addresses mean something to a peer at `remote` that reached us at `local`:
    /// loopback only when it is on this machine, a wildcard as the address it used.
    pub(crate) fn addresses_for(&self, local: &Multiaddr, remote: &Multiaddr) -> Vec<Multiaddr> {
        let near = remote.ip().is_none_or(|ip| ip.is_loopback());
        let mut out = Vec::with_capacity(self.listen_addrs.len());
        for addr in &self.listen_addrs {
            let addr = match (addr.ip(), local.ip()) {
                (Some(listen), Some(used)) if listen.is_unspecified() => {
                    let Some(reached) = addr.with_ip(used) else {
                        continue;
                    };
                    reached
                }
                (Some(listen), None) if listen.is_unspecified() => continue,
                _ => addr.clone(),
            };
            let hidden = match addr.iter().next() {
                Some(Protocol::Memory(_)) => !near,
                _ => addr.ip().is_some_and(|ip| ip.is_loopback()) && !near,
            };
            if !hidden && !out.contains(&addr) {
                out.push(addr);
            }
        }
        out
    }
}

/// A sequence number later than all before it: the time in nanoseconds, as go-libp2p has it, made
/// strictly increasing.
fn next_seq() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let next = |last: u64| Some(now.max(last.saturating_add(1)));
    match LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
        Ok(last) | Err(last) => now.max(last.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn addrs(list: &[&str]) -> Vec<Multiaddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_peer_hears_of_the_addresses_it_can_use() {
        let keypair = Keypair::generate(&mut rand::rng());
        let local = Local::new(
            addrs(&[
                "/ip4/0.0.0.0/tcp/4001",
                "/ip4/127.0.0.1/tcp/4002",
                "/ip6/::/tcp/4001",
                "/memory/7",
            ]),
            Arc::new(Registry::new(Vec::new())),
            keypair.public().clone(),
        );
        let [a, b] = ["/ip4/10.0.0.1/tcp/4001", "/ip4/10.0.0.2/tcp/9"].map(|t| t.parse().unwrap());
        assert_eq!(
            local.addresses_for(&a, &b),
            addrs(&["/ip4/10.0.0.1/tcp/4001"])
        );
        let [a, b] =
            ["/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/9"].map(|t| t.parse().unwrap());
        assert_eq!(
            local.addresses_for(&a, &b),
            addrs(&[
                "/ip4/127.0.0.1/tcp/4001",
                "/ip4/127.0.0.1/tcp/4002",
                "/memory/7"
            ])
        );
    }

    #[test]
    fn sequence_numbers_only_grow() {
        let mut last = 0;
        for _ in 0..10_000 {
            let next = next_seq();
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn a_list_is_signed_once() {
        let keypair = Keypair::generate(&mut rand::rng());
        let registry = Arc::new(Registry::new(Vec::new()));
        let local = Local::new(Vec::new(), registry, keypair.public().clone());
        let list = addrs(&["/ip4/10.0.0.1/tcp/1"]);
        let standard = || local.records(&keypair, &list).unwrap().standard;
        assert_eq!(standard(), standard());
        for n in 0..20 {
            local.records(&keypair, &addrs(&[&format!("/ip4/10.0.0.1/tcp/{n}")]));
        }
        assert_eq!(local.records.lock().len(), MAX_RECORDS);
    }
}
