//! Observed addresses under arbitrary operations: what is confirmed has enough networks behind it,
//! and everything stays bounded.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_node::addresses::{Observation, Observed, ObservedConfig};
use libfuzzer_sys::fuzz_target;

static PEERS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
    let ids = (0..=31).map(|n| Keypair::from_seed(&[n; 32]).peer_id());
    ids.collect()
});

#[derive(Arbitrary, Debug)]
enum Op {
    Observe {
        peer: u8,
        network: u8,
        host: u8,
        /// The local port of the connection.
        local: u8,
        ip: u8,
        port: u8,
    },
    Pass {
        seconds: u16,
    },
    Listen {
        ports: u8,
    },
}

fn addr(text: String) -> Multiaddr {
    text.parse().expect("an address")
}

fn listening(ports: u8) -> Vec<Multiaddr> {
    let open = (0..4).filter(|port| ports & (1 << port) != 0);
    open.map(|port| addr(format!("/ip4/10.0.0.1/tcp/{}", 4000 + port)))
        .collect()
}

fuzz_target!(|ops: Vec<Op>| {
    let config = ObservedConfig::default();
    let (enough, ttl) = (config.confirmations, config.ttl);
    let mut observed = Observed::new(config);
    let mut now = Instant::now();
    let mut listens = listening(1);
    // Everything that was ever said, by address and network: until when it may count at most.
    let mut said: BTreeMap<Multiaddr, BTreeMap<u8, Instant>> = BTreeMap::new();
    for op in ops.into_iter().take(2_000) {
        let before = observed.confirmed().to_vec();
        let changed = match op {
            Op::Observe {
                peer,
                network,
                host,
                local,
                ip,
                port,
            } => {
                let seen = addr(format!("/ip4/198.51.{ip}.1/tcp/{}", 1 + u16::from(port)));
                let observation = Observation {
                    peer: PEERS[usize::from(peer) % PEERS.len()],
                    remote: &addr(format!("/ip4/203.0.{network}.{host}/tcp/9")),
                    local: &addr(format!("/ip4/10.0.0.1/tcp/{}", 4000 + u16::from(local % 5))),
                    observed: &seen,
                };
                match observed.observe(now, &observation, &listens) {
                    Ok(changed) => {
                        said.entry(seen).or_default().insert(network, now + ttl);
                        changed
                    }
                    Err(_) => false,
                }
            }
            Op::Pass { seconds } => {
                now += Duration::from_secs(u64::from(seconds));
                observed.handle_timeout(now)
            }
            Op::Listen { ports } => {
                listens = listening(ports);
                observed.set_listening(&listens)
            }
        };
        assert_eq!(changed, observed.confirmed() != before);
        assert!(observed.candidates() <= 256);
        assert!(observed.confirmed().len() <= 3 * 4);
        assert!(observed.poll_timeout().is_none_or(|at| at <= now + ttl));
        for confirmed in observed.confirmed() {
            // Timeouts are handled when they are asked for: count what was valid at the last one.
            let networks: BTreeSet<_> = said[confirmed].keys().collect();
            assert!(networks.len() >= enough, "{confirmed} by {networks:?}");
        }
    }
    observed.handle_timeout(now + ttl);
    assert_eq!(observed.candidates(), 0);
    assert!(observed.confirmed().is_empty());
});
