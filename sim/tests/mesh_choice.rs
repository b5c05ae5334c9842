//! What preferring near peers in the mesh gains, and what it costs when attackers are the nearest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use barewire_gossip::{Config, RttPreference};
use barewire_sim::{Attack, Report, Scenario, Simulation, Sybils, Target};

fn run(preference: Option<RttPreference>, eclipsed: bool, seed: u64) -> (Report, Simulation) {
    let full = std::env::var_os("BAREWIRE_FULL").is_some();
    let mut scenario = Scenario::default();
    scenario.seed = seed;
    scenario.nodes = match (full, eclipsed) {
        (true, false) => 1_000,
        (true, true) => 200,
        (false, _) => 60,
    };
    scenario.checked = true;
    scenario.router = Config::wan();
    // Publishing to everybody would hide what the mesh does.
    scenario.router.flood_publish = false;
    scenario.router.rtt_preference = preference;
    scenario.warmup = Duration::from_secs(60);
    scenario.publishing = Duration::from_secs(30);
    if eclipsed {
        let mut sybils = Sybils::new(60, Attack::Silent);
        (sybils.target, sybils.degree, sybils.near) = (Target::First, 1, true);
        scenario.sybils = Some(sybils);
    }
    let mut simulation = Simulation::new(scenario).unwrap();
    simulation.run();
    assert_eq!(simulation.violations(), [] as [&str; 0]);
    (simulation.report(), simulation)
}

#[test]
fn near_peers_are_faster_and_do_not_help_an_eclipse() {
    let ways = [("random", None), ("near", Some(RttPreference::default()))];
    let mut medians = Vec::new();
    for (name, preference) in ways {
        let (report, _) = run(preference, false, 1);
        println!(
            "mesh by {name:<6}: median {:.1?}, p99 {:.1?}, {:.2} duplicates, meshes {} to {}",
            report.outcome.p50, report.outcome.p99, report.duplicates, report.mesh.0, report.mesh.1
        );
        assert_eq!(report.outcome.delivered, 1.0);
        medians.push(report.outcome.p50);
    }
    assert!(medians[1] < medians[0], "{medians:?}");
    for (name, preference) in ways {
        let (mut held, mut mesh, mut worst) = (0, 0, 1.0f64);
        let mut p99 = Duration::ZERO;
        for seed in 1..=3 {
            let (_, simulation) = run(preference, true, seed);
            let (sybils, members) = simulation.mesh_of(0);
            (held, mesh) = (held + sybils, mesh + members);
            let first = simulation
                .log()
                .outcome(Duration::ZERO..Duration::MAX, Some(0));
            worst = worst.min(first.delivered);
            p99 = p99.max(first.p99);
        }
        println!(
            "mesh by {name:<6}, 60 silent sybils a millisecond from the first node: they hold {held} of {mesh} places in its mesh; it gets {:.1} %, p99 {p99:.0?}",
            worst * 100.0
        );
        assert!(worst >= 0.99, "{name}: {worst}");
        assert!(held < mesh, "{name}: links that it dialled stay");
    }
}
