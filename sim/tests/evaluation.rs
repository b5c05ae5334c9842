//! The nine attacks of the evaluation report of gossipsub 1.1, with its numbers of connections and its times, on networks of our
//! size: 200 honest nodes with `BAREWIRE_FULL=1`, 40 in CI. The report had 1,000, of which 100 published 120 messages of 2 kB a
//! second, 25 ms apart, and up to 4,000 sybils.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use barewire_gossip::Config;
use barewire_sim::{Latency, Scenario, Simulation};

/// Deadline of the blockchains that the report was made for.
const DEADLINE: Duration = Duration::from_secs(6);

/// Name, sybils for each honest node in the report and here, and what the report says.
const SCENARIOS: [(&str, f64, &str); 10] = [
    ("none", 0.0, "baseline"),
    ("eclipse", 1.0, "1,000 sybils; within 6 s"),
    ("eclipse-network", 4.0, "4,000 sybils; within 6 s"),
    ("eclipse-publishers", 4.0, "4,000 sybils; within 6 s"),
    ("censor", 2.0, "2,000 sybils; within 6 s"),
    ("degradation", 2.0, "2,000 sybils; within 6 s"),
    (
        "cold-boot",
        4.0,
        "4,000 sybils; p99 1.18 s, 1.03 s with opportunistic grafting, at a gossip factor of 0.4",
    ),
    ("flash", 4.0, "4,000 sybils; recovers"),
    ("dawn", 4.0, "4,000 sybils; within 6 s"),
    ("colocation", 4.0, "4,000 sybils; within 6 s"),
];

#[test]
fn evaluation_report() {
    let full = std::env::var_os("BAREWIRE_FULL").is_some();
    println!(
        "scenario            | honest + sybils | delivered | p99     | max     | target | sybils in meshes | the report, 1,000 honest nodes"
    );
    for (name, ratio, reported) in SCENARIOS {
        let mut scenario = Scenario::default();
        scenario.nodes = if full { 200 } else { 40 };
        scenario.degree = if full { 20 } else { 12 };
        scenario.publishers = scenario.nodes / 10;
        scenario.rate = if full { 24.0 } else { 2.0 };
        scenario.size = 2_000;
        scenario.latency = Latency::Fixed(Duration::from_millis(25));
        scenario.router = Config::adversarial();
        scenario.warmup = Duration::from_secs(if full { 30 } else { 15 });
        scenario.publishing = Duration::from_secs(if full { 180 } else { 30 });
        let count = (scenario.nodes as f64 * ratio) as usize;
        let nodes = scenario.nodes;
        if count > 0 {
            scenario = scenario.attacked(name, count).unwrap();
        }
        let mut simulation = Simulation::new(scenario).unwrap();
        simulation.run();
        let report = simulation.report();
        let all = Duration::ZERO..Duration::MAX;
        // The first node is the one that is eclipsed; of the one that is censored, the others' deliveries tell.
        let first = simulation.log().outcome(all, Some(0));
        println!(
            "{name:<19} | {nodes:>6} + {count:<6} | {:>7.3} % | {:>7.1?} | {:>7.1?} | {:>5.1} % | {:>14.0} % | {reported}",
            report.outcome.delivered * 100.0,
            report.outcome.p99,
            report.outcome.max,
            first.delivered * 100.0,
            report.sybil_share * 100.0,
        );
        assert!(
            report.outcome.delivered >= 0.99,
            "{name}: {:?}",
            report.outcome
        );
        assert!(
            report.outcome.p99 <= DEADLINE,
            "{name}: {:?}",
            report.outcome
        );
        assert!(first.delivered >= 0.99, "{name}: {first:?}");
        assert_eq!(simulation.log().honest_graylisted, 0, "{name}");
    }
}
