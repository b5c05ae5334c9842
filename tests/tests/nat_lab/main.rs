//! The NAT lab: two nodes behind routers of each kind, with a relay between them, come to a direct connection where that is possible;
//! with go-libp2p at either end and as the relay too, and go-libp2p with itself in the same lab. Needs root, `ip` and `nft`.
//!
//! `BAREWIRE_FULL=1` runs each kind of router against each, `BAREWIRE_RUNS` times each (20 unless it says otherwise), and prints a table.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod doctor;
mod lab;
mod port_mapping;
mod table;

use barewire_tests::{full, nat::Nat};
use futures::{StreamExt, stream};

use self::{
    lab::{Case, Lab, Outcome, Stack, Transport},
    table::Table,
};

/// Attempts side by side, as many as two processors do without getting in each other's way.
const LANES: usize = 6;

const OURS: [Stack; 2] = [Stack::Ours, Stack::Ours];
const FROM_GO: [Stack; 2] = [Stack::Go, Stack::Ours];
const TO_GO: [Stack; 2] = [Stack::Ours, Stack::Go];
const GO: [Stack; 2] = [Stack::Go, Stack::Go];

/// Both ends, the stacks, and whether a direct connection is to come of it.
const TELLING: &[(Transport, [Nat; 2], [Stack; 2], bool)] = {
    use Nat::{
        AddressRestricted, Double, Firewall, Flap, FullCone, Open, PortRestricted, Symmetric,
        UdpBlocked,
    };
    use Transport::{Quic, Tcp};
    &[
        (Quic, [PortRestricted, PortRestricted], OURS, true),
        (Quic, [PortRestricted, PortRestricted], FROM_GO, true),
        (Quic, [PortRestricted, PortRestricted], TO_GO, true),
        (Tcp, [PortRestricted, PortRestricted], OURS, true),
        (Tcp, [PortRestricted, PortRestricted], FROM_GO, true),
        (Tcp, [PortRestricted, PortRestricted], TO_GO, true),
        (Quic, [Symmetric, Symmetric], OURS, false),
        (Quic, [FullCone, Symmetric], OURS, true),
        (Tcp, [Symmetric, AddressRestricted], OURS, true),
        (Quic, [Double, Firewall], OURS, true),
        (Tcp, [UdpBlocked, Double], OURS, true),
        (Quic, [Open, UdpBlocked], OURS, false),
        (Quic, [Flap, PortRestricted], OURS, true),
    ]
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telling_pairs() {
    let Some(lab) = Lab::new().await else { return };
    let tried = stream::iter(TELLING.iter().enumerate()).map(async |(number, telling)| {
        let &(transport, nats, stacks, direct) = telling;
        let case = Case {
            transport,
            nats,
            stacks,
        };
        let relay = Stack::ALL[number % 2];
        let outcome = lab.attempt(case, relay).await;
        let right = match &outcome {
            Ok(outcome) => matches!(outcome, Outcome::Direct(_)) == direct,
            Err(_) => false,
        };
        let said = outcome.map_or_else(|cause| cause.to_string(), |outcome| outcome.to_string());
        let line = format!("{case}, {}'s relay: {said}", relay.name());
        println!("{line}");
        (!right).then_some(line)
    });
    let wrong: Vec<_> = tried.buffer_unordered(LANES).collect().await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_with_every_kind() {
    if !full() {
        println!("left out: BAREWIRE_FULL=1 runs it");
        return;
    }
    let number = |name: &str, default: usize| {
        let set = std::env::var(name).ok();
        set.map_or(default, |text| text.parse().expect("a number"))
    };
    let runs = number("BAREWIRE_RUNS", 20);
    // Of those whose names contain this.
    let only = std::env::var("BAREWIRE_NATS").unwrap_or_default();
    let chosen = |nat: &Nat| only.is_empty() || only.split(',').any(|name| name == nat.name());
    let Some(lab) = Lab::new().await else { return };
    let mut cases = Vec::new();
    for run in 0..runs {
        for transport in Transport::ALL {
            for dialler in Nat::ALL.into_iter().filter(chosen) {
                for listener in Nat::ALL.into_iter().filter(chosen) {
                    for stacks in [OURS, TO_GO, FROM_GO, GO] {
                        let case = Case {
                            transport,
                            nats: [dialler, listener],
                            stacks,
                        };
                        cases.push((case, Stack::ALL[run % 2]));
                    }
                }
            }
        }
    }
    let tried = stream::iter(cases).map(async |(case, relay)| {
        let outcome = lab.attempt(case, relay).await;
        match &outcome {
            Ok(outcome) => println!("{case}: {outcome}"),
            Err(cause) => println!("{case}: {cause}"),
        }
        (case, outcome)
    });
    let mut table = Table::default();
    let mut tried = std::pin::pin!(tried.buffer_unordered(LANES));
    while let Some((case, outcome)) = tried.next().await {
        table.add(case, &outcome);
    }
    println!("{table}");
    let missed = table.missed();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Our time to a direct connection is at most this share of go-libp2p's with itself.
const SHARE: f64 = 0.7;
