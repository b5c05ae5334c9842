//! What many attackers do to many nodes. The figures are of virtual time, so that they are the same on every machine. A
//! smaller network runs in CI, and `BAREWIRE_FULL=1` (in a release build) has 200 honest nodes and four times as many sybils.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{ops::Range, time::Duration};

use barewire_gossip::Config;
use barewire_sim::{Attack, Outcome, Scenario, Simulation, Sybils, Target};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A network of nodes that expect attackers.
fn network() -> Scenario {
    let full = std::env::var_os("BAREWIRE_FULL").is_some();
    let mut scenario = Scenario::default();
    scenario.nodes = if full { 200 } else { 40 };
    scenario.degree = if full { 20 } else { 12 };
    scenario.rate = if full { 5.0 } else { 2.0 };
    scenario.router = Config::adversarial();
    scenario
}

fn run(scenario: Scenario) -> Simulation {
    let mut simulation = Simulation::new(scenario).unwrap();
    simulation.run();
    let log = simulation.log();
    assert_eq!((log.invalid_delivered, log.malformed), (0, 0));
    simulation
}

fn share(outcome: Outcome) -> String {
    format!(
        "{:.2} % in 3 s, p99 {:.0?}",
        outcome.in_time * 100.0,
        outcome.p99
    )
}

/// First second from which on the target, or everybody, gets 99 of 100 messages in time, for good.
fn recovered(simulation: &Simulation, within: Range<u64>, node: Option<usize>) -> Option<u64> {
    within.clone().find(|from| {
        let rest = simulation
            .log()
            .outcome(secs(*from)..secs(within.end), node);
        rest.messages > 0 && rest.in_time >= 0.99
    })
}

#[test]
fn rows_41_to_49_floods() {
    let mut calm = network();
    calm.publishing = secs(15);
    let sybils = calm.nodes / 4;
    let unattacked = run(calm.clone()).report().outcome;
    println!("rows 41 to 49: without attackers {}", share(unattacked));
    for (row, name) in [
        (41, "ihave"),
        (42, "iwant"),
        (43, "idontwant"),
        (44, "graft"),
        (47, "invalid"),
        (49, "repeat"),
    ] {
        let simulation = run(calm.clone().attacked(name, sybils).unwrap());
        let (report, log) = (simulation.report(), simulation.log());
        let amplified = log.to_sybils as f64 / log.from_sybils.max(1) as f64;
        println!(
            "row {row}: {sybils} sybils, {name}: {}; {} graylisted; {:.2} bytes to them for each of theirs; they hold {:.0} % of the meshes",
            share(report.outcome),
            report.sybils_graylisted,
            amplified,
            report.sybil_share * 100.0
        );
        assert!(
            report.outcome.in_time >= 0.99,
            "{name}: {:?}",
            report.outcome
        );
        assert_eq!(log.honest_graylisted, 0, "{name}");
        match name {
            // What they offer and never send, graft or send in vain is remembered.
            "ihave" | "graft" | "invalid" => {
                let all = log.graylisted_within(Duration::ZERO, sybils, 1.0);
                println!("row {row}: all were graylisted after {all:.1?}");
                // They come within five seconds and wait for the first message at most; ten heartbeats are allowed.
                assert!(
                    all.is_some_and(|all| all <= secs(5 + 10)),
                    "{name}: {all:?}"
                );
            }
            "iwant" => assert!(amplified <= 3.0, "{amplified}"),
            _ => {}
        }
    }
}

#[test]
fn row_50_four_sybils_to_a_node() {
    for (name, per_address) in [("one address", usize::MAX), ("an address each", 1)] {
        let mut scenario = network();
        // Sixty heartbeats pass before delivery counts.
        scenario.warmup = secs(60);
        scenario.publishing = secs(40);
        let mut sybils = Sybils::new(4 * scenario.nodes, Attack::Silent);
        sybils.per_address = per_address;
        let (nodes, count) = (scenario.nodes, sybils.count);
        scenario.sybils = Some(sybils);
        let simulation = run(scenario);
        let report = simulation.report();
        println!(
            "row 50: {nodes} nodes, {count} sybils, {name}: {}; sybils hold {:.0} % of the meshes",
            share(report.outcome),
            report.sybil_share * 100.0
        );
        assert!(
            report.outcome.in_time >= 0.99,
            "{name}: {:?}",
            report.outcome
        );
    }
}

#[test]
fn row_51_eclipse_of_a_node() {
    let mut scenario = network();
    scenario.publishing = secs(150);
    let begin = 30;
    let mut sybils = Sybils::new(20 * scenario.degree, Attack::Silent);
    (sybils.target, sybils.degree, sybils.start) = (Target::First, 1, secs(begin));
    scenario.sybils = Some(sybils);
    let simulation = run(scenario);
    let recovered = recovered(&simulation, begin..160, Some(0));
    let (sybils, mesh) = simulation.mesh_of(0);
    let outcome = simulation.log().outcome(secs(begin)..secs(160), Some(0));
    println!(
        "row 51: 20 sybils for each link of the first node: it gets {}; 99 % from {recovered:?} s on (attacked at {begin} s); {sybils} of {mesh} in its mesh are sybils at the end",
        share(outcome)
    );
    assert!(
        recovered.is_some_and(|at| at <= begin + 120),
        "{recovered:?}"
    );
}

#[test]
fn row_52_sybils_come_first() {
    let mut scenario = network();
    (scenario.start, scenario.warmup) = (secs(10), secs(15));
    scenario.publishing = secs(180);
    scenario.rate = 1.0;
    scenario.sybils = Some(Sybils::new(4 * scenario.nodes, Attack::Silent));
    let simulation = run(scenario);
    let half = simulation
        .log()
        .samples
        .iter()
        .find(|s| s.nodes > 0 && s.members > s.nodes * 4 && s.sybil_share() <= 0.5);
    let peak = simulation
        .log()
        .samples
        .iter()
        .map(|s| s.sybil_share())
        .fold(0.0, f64::max);
    let last = recovered(&simulation, 15..195, None);
    println!(
        "row 52: sybils held {:.0} % of the meshes at most, half or less from {:?} on; 99 % in time from {last:?} s on; over all {}",
        peak * 100.0,
        half.map(|s| s.at),
        share(simulation.report().outcome)
    );
    assert!(half.is_some_and(|s| s.at <= secs(10 + 180)));
    assert!(last.is_some_and(|at| at <= 10 + 180), "{last:?}");
}

#[test]
fn row_53_covert_flash() {
    let full = std::env::var_os("BAREWIRE_FULL").is_some();
    let behave = if full { 600 } else { 60 };
    let mut scenario = network();
    scenario.rate = 2.0;
    scenario.publishing = secs(behave + 90);
    let mut sybils = Sybils::new(4 * scenario.nodes, Attack::Silent);
    let begin = 10 + behave;
    sybils.attack_at = secs(begin);
    scenario.sybils = Some(sybils);
    let simulation = run(scenario);
    let share_before = simulation.log().samples[begin as usize - 1].sybil_share();
    let recovered = recovered(&simulation, begin..begin + 90, None);
    let during = simulation
        .log()
        .outcome(secs(begin)..secs(begin + 60), None);
    println!(
        "row 53: sybils that hold {:.0} % of the meshes behave for {behave} s, then fall silent: {} in the minute after; 99 % in time from {recovered:?} s on (they do so at {begin} s)",
        share_before * 100.0,
        share(during)
    );
    assert!(
        recovered.is_some_and(|at| at <= begin + 60),
        "{recovered:?}"
    );
}

/// Discovery that leads honest nodes to attackers: half of what they dial, and what they dial counts as outbound.
#[test]
fn poisoned_dials() {
    let with = |poison| {
        let mut scenario = network();
        scenario.publishing = secs(40);
        // With fewer dials some node has no honest neighbour at all, and nothing that a router does can help it.
        scenario.degree = scenario.degree.max(16);
        let mut sybils = Sybils::new(scenario.nodes, Attack::Silent);
        (sybils.degree, sybils.poison) = (1, poison);
        scenario.sybils = Some(sybils);
        run(scenario)
    };
    let (clean, poisoned) = (with(0.0), with(0.5));
    let held = |simulation: &Simulation| {
        let shares = simulation.log().samples.iter().map(|s| s.sybil_share());
        shares.fold(0.0, f64::max)
    };
    println!(
        "poison: sybils held {:.0} % of the meshes at most instead of {:.0} %, {:.0} % at the end; {}",
        held(&poisoned) * 100.0,
        held(&clean) * 100.0,
        poisoned.report().sybil_share * 100.0,
        share(poisoned.report().outcome)
    );
    assert!(held(&poisoned) > 2.0 * held(&clean), "they are dialled");
    assert!(poisoned.report().outcome.in_time >= 0.99);
    assert_eq!(poisoned.log().honest_graylisted, 0);
}
