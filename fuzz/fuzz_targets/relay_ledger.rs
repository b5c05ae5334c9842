//! The account of a relay, and the keeper of reservations, as lists of operations: no limit is passed, a renewal never fails, what has
//! ended leaves nothing, and the keeper never sleeps while something is due, nor asks one relay twice at once.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, PeerId};
use barewire_nat::relay::{
    Action, Failure, Keeper, KeeperConfig, Ledger, LedgerConfig, Origin, Refusal,
};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static PEERS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
    (0..16u8)
        .map(|n| Keypair::from_seed(&[n; 32]).peer_id())
        .collect()
});

#[derive(Arbitrary, Clone, Copy, Debug)]
enum LedgerOp {
    Wait(u16),
    Reserve { peer: u8, ip: u8 },
    Release { peer: u8 },
    Begin { source: u8, target: u8 },
    End(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum KeeperOp {
    Wait(u16),
    Reserved { ttl: u16 },
    Failed { refused: bool, random: f64 },
    Lost(u8),
    Wanted(u8),
}

#[derive(Arbitrary, Debug)]
enum Input {
    Ledger {
        config: [u8; 5],
        ops: Vec<LedgerOp>,
    },
    Keeper {
        relays: u8,
        wanted: u8,
        ops: Vec<KeeperOp>,
    },
}

fuzz_target!(|input: Input| match input {
    Input::Ledger { config, ops } => ledger(config, &ops),
    Input::Keeper {
        relays,
        wanted,
        ops,
    } => keeper(relays % 6, wanted % 4, &ops),
});

fn ledger(config: [u8; 5], ops: &[LedgerOp]) {
    let mut limits = LedgerConfig::default();
    let [reservations, per_address, circuits, per_peer, ttl] =
        config.map(|n| usize::from(n % 8) + 1);
    limits.max_reservations = reservations;
    limits.max_per_address = per_address;
    limits.max_circuits = circuits;
    limits.max_circuits_per_peer = per_peer;
    limits.reservation = Duration::from_secs(ttl as u64);
    let mut ledger = Ledger::new(limits.clone());
    let mut now = *START;
    let mut held: HashMap<PeerId, (Instant, u64)> = HashMap::new();
    let mut running = BTreeMap::new();
    for op in ops.iter().take(256) {
        match *op {
            LedgerOp::Wait(ms) => now += Duration::from_millis(ms.into()),
            LedgerOp::Reserve { peer, ip } => {
                let (peer, ip) = (PEERS[usize::from(peer % 16)], ip % 4);
                held.retain(|_, (until, ..)| *until > now);
                let origin = Origin::of(IpAddr::from(Ipv4Addr::new(192, 0, 2, ip)));
                let renews = held.contains_key(&peer);
                match ledger.reserve(now, peer, origin) {
                    Ok(reserved) => {
                        assert_eq!(reserved.renewed, renews);
                        held.insert(peer, (reserved.until, reserved.number));
                    }
                    Err(_) => assert!(!renews, "a renewal was refused"),
                }
                assert!(held.len() <= reservations);
                assert_eq!(ledger.reservations(), held.len());
            }
            LedgerOp::Release { peer } => {
                let peer = PEERS[usize::from(peer % 16)];
                if let Some((_, number)) = held.get(&peer) {
                    ledger.release(&peer, number.wrapping_add(1));
                    ledger.release(&peer, *number);
                    held.remove(&peer);
                }
            }
            LedgerOp::Begin { source, target } => {
                let [source, target] = [source, target].map(|n| PEERS[usize::from(n % 16)]);
                match ledger.begin_circuit(now, source, target) {
                    Ok(id) => {
                        assert!(source != target);
                        assert!(held.get(&target).is_some_and(|(until, ..)| *until > now));
                        assert!(running.insert(id, (source, target)).is_none());
                    }
                    Err(Refusal::NoReservation) => {
                        assert!(held.get(&target).is_none_or(|(until, ..)| *until <= now));
                    }
                    Err(_) => {}
                }
                let from = running.values().filter(|(from, _)| *from == source).count();
                let to = running.values().filter(|(_, to)| *to == target).count();
                assert!(from <= per_peer && to <= per_peer && running.len() <= circuits);
            }
            LedgerOp::End(nth) => {
                if let Some(id) = running.keys().nth(usize::from(nth)).copied() {
                    ledger.end_circuit(id);
                    ledger.end_circuit(id);
                    running.remove(&id);
                }
            }
        }
        assert_eq!(ledger.circuits(), running.len());
    }
}

fn keeper(relays: u8, wanted: u8, ops: &[KeeperOp]) {
    let mut config = KeeperConfig::default();
    config.wanted = wanted.into();
    let mut now = *START;
    let mut keeper = Keeper::new(config.clone(), relays.into(), now);
    let mut asked = BTreeSet::new();
    for op in ops.iter().take(256) {
        let mut steps = 0;
        while let Some(action) = keeper.poll(now) {
            steps += 1;
            assert!(steps < 100, "it never comes to rest");
            match action {
                Action::Reserve(relay) => {
                    assert!(relay < relays.into());
                    assert!(asked.insert(relay), "{relay} is asked twice");
                }
                Action::Drop(relay) => assert!(relay < relays.into()),
            }
        }
        assert!(
            keeper.poll_timeout().is_none_or(|at| at > now),
            "something is due"
        );
        assert!(keeper.held() <= config.wanted);
        match *op {
            KeeperOp::Wait(ms) => now += Duration::from_millis(ms.into()),
            KeeperOp::Reserved { ttl } => {
                if let Some(relay) = asked.pop_first() {
                    keeper.reserved(now, relay, Duration::from_secs(ttl.into()));
                }
            }
            KeeperOp::Failed { refused, random } => {
                if let Some(relay) = asked.pop_last() {
                    let failure = if refused {
                        Failure::Refused
                    } else {
                        Failure::Unreachable
                    };
                    keeper.failed(now, relay, failure, random);
                }
            }
            KeeperOp::Lost(relay) => keeper.lost(now, relay.into()),
            KeeperOp::Wanted(count) => {
                config.wanted = usize::from(count % 4);
                keeper.set_wanted(now, config.wanted);
            }
        }
    }
}
