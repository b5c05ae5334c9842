//! What holds in any network: the same seed gives the same numbers, routers keep their bounds, and messages arrive through loss,
//! churn and narrow links.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use barewire_gossip::Config;
use barewire_sim::{Attack, Latency, Scenario, Simulation, Sybils, Topology};

fn scenario(change: impl FnOnce(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::default();
    scenario.nodes = 60;
    scenario.publishing = Duration::from_secs(30);
    scenario.checked = true;
    change(&mut scenario);
    scenario
}

fn run(change: impl FnOnce(&mut Scenario)) -> Simulation {
    let mut simulation = Simulation::new(scenario(change)).unwrap();
    simulation.run();
    simulation
}

fn print(name: &str, simulation: &Simulation) {
    let report = simulation.report();
    println!(
        "{name}: delivery {:.3} %, p50 {:.0?}, p99 {:.0?}, {:.2} duplicates, {:.0} bytes a message, meshes {} to {}, {} frames",
        report.outcome.delivered * 100.0,
        report.outcome.p50,
        report.outcome.p99,
        report.duplicates,
        report.bytes_per_message,
        report.mesh.0,
        report.mesh.1,
        simulation.log().frames
    );
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let busy = |seed| {
        run(|s| {
            s.seed = seed;
            s.nodes = 30;
            s.publishing = Duration::from_secs(10);
            s.loss = 0.01;
            s.churn = 0.5;
            s.bandwidth = Some(10_000_000);
            s.router = Config::adversarial();
            s.sybils = Some(Sybils::new(10, Attack::Degrade(0.5)));
        })
    };
    let (first, second, other) = (busy(1), busy(1), busy(2));
    assert!(
        first.log() == second.log(),
        "every frame, delivery and sample is the same"
    );
    assert_eq!(first.report(), second.report());
    assert!(first.log() != other.log());
}

/// Nothing is done to these networks, so that nothing may go wrong.
#[test]
fn routers_keep_their_bounds() {
    for (name, config) in [
        ("default", Config::default()),
        ("wan", Config::wan()),
        ("adversarial", Config::adversarial()),
    ] {
        let simulation = run(|s| {
            s.router = config;
            // Ids that are older than two minutes have to be forgotten.
            s.router.seen_ttl = Duration::from_secs(20);
            s.publishing = Duration::from_secs(60);
        });
        print(name, &simulation);
        assert_eq!(simulation.violations(), [] as [&str; 0], "{name}");
        let log = simulation.log();
        assert_eq!(
            (log.honest_penalties, log.honest_graylisted, log.malformed),
            (0, 0, 0),
            "{name}"
        );
        assert_eq!(simulation.report().outcome.delivered, 1.0, "{name}");
    }
}

/// The yardstick of the default parameters: an abstract simulator of gossipsub 1.1 with the same degrees and 20 connections
/// counts 6.4 copies for each delivery among 1,000 nodes, thus 5.4 duplicates.
#[test]
fn duplicates_are_those_of_the_parameters() {
    let with = |size, verification| {
        run(|s| {
            s.nodes = 120;
            s.size = size;
            s.verification = Duration::from_millis(verification);
        })
    };
    let simulation = with(200, 0);
    print("default parameters", &simulation);
    let report = simulation.report();
    assert!(
        (4.4..6.4).contains(&report.duplicates),
        "{}",
        report.duplicates
    );
    assert!(
        report.mesh.0 >= 5 && report.mesh.1 <= 14,
        "{:?}",
        report.mesh
    );
    // IDONTWANT needs a head start, which checking a message gives it.
    let (short, long) = (with(1_000, 50), with(2_000, 50));
    print("1,000 bytes, checked for 50 ms", &short);
    print("2,000 bytes, which IDONTWANT is for", &long);
    assert!(long.report().duplicates < short.report().duplicates / 2.0);
}

#[test]
fn loss_churn_and_narrow_links_delay_and_lose_nothing() {
    let calm = run(|s| s.latency = Latency::Fixed(Duration::from_millis(50)));
    print("50 ms", &calm);
    let lossy = run(|s| {
        s.latency = Latency::Fixed(Duration::from_millis(50));
        s.loss = 0.05;
    });
    print("and 5 % loss", &lossy);
    let narrow = run(|s| {
        s.latency = Latency::Fixed(Duration::from_millis(50));
        s.bandwidth = Some(500_000);
        s.size = 1_000;
    });
    print("and 500 kbit/s", &narrow);
    let slow = run(|s| {
        s.latency = Latency::Fixed(Duration::from_millis(50));
        s.verification = Duration::from_millis(20);
    });
    print("and 20 ms for each check", &slow);
    let median = |s: &Simulation| s.report().outcome.p50;
    for other in [&lossy, &narrow, &slow] {
        assert_eq!(other.report().outcome.delivered, 1.0);
        assert!(other.report().outcome.max > calm.report().outcome.max);
    }
    assert_eq!(median(&calm).as_millis() % 50, 0, "whole hops");
    assert!(median(&slow) >= median(&calm) + Duration::from_millis(20));
    let churning = run(|s| {
        s.churn = 1.0;
        s.publishing = Duration::from_secs(60);
    });
    print("each node leaves once a minute", &churning);
    assert!(churning.report().outcome.delivered > 0.999);
    for simulation in [&calm, &lossy, &narrow, &slow, &churning] {
        assert_eq!(simulation.violations(), [] as [&str; 0]);
    }
}

#[test]
fn every_topology_delivers() {
    let mut medians = Vec::new();
    for name in ["full", "random", "small-world", "clusters", "ring"] {
        let topology: Topology = name.parse().unwrap();
        let simulation = run(|s| {
            s.topology = topology;
            s.degree = 10;
            s.publishing = Duration::from_secs(15);
            s.latency = "10..60ms".parse().unwrap();
        });
        print(name, &simulation);
        assert_eq!(simulation.report().outcome.delivered, 1.0, "{name}");
        assert_eq!(simulation.violations(), [] as [&str; 0], "{name}");
        medians.push(simulation.report().outcome.p50);
    }
    assert!(
        medians.last() > medians.first(),
        "a ring has the longest ways"
    );
}

#[test]
fn what_cannot_be_simulated_is_named() {
    type Change = fn(&mut Scenario);
    let changes: [(&str, Change); 5] = [
        ("nodes", |s| s.nodes = 1),
        ("loss", |s| s.loss = f64::NAN),
        ("rate", |s| s.rate = 0.0),
        ("size", |s| s.size = 4),
        ("publishers", |s| s.publishers = 61),
    ];
    for (name, change) in changes {
        let error = Simulation::new(scenario(change)).unwrap_err();
        assert_eq!(error.to_string(), format!("{name} is out of range"));
    }
    let error = Simulation::new(scenario(|s| s.router.d = 0)).unwrap_err();
    assert!(error.to_string().contains("mesh"), "{error}");
}

/// What looks for mistakes finds them: routers whose heartbeat is too slow for what they are checked for.
#[test]
fn the_checks_find_what_is_wrong() {
    let slow = run(|s| {
        // Nodes that come after the first heartbeat are grafted half a minute later.
        s.router.heartbeat_interval = Duration::from_secs(30);
        s.publishing = Duration::from_secs(20);
    });
    let found = slow.violations();
    println!("{} violations, such as: {}", found.len(), found[0]);
    assert!(
        found.iter().any(|what| what.contains("does not graft")),
        "{found:?}"
    );
}
