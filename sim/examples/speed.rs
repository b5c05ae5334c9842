//! How fast the simulator is: `cargo run --release -p barewire-sim --example speed -- [NODES] [SECONDS]`.

use std::{
    env,
    time::{Duration, Instant},
};

use barewire_sim::{Scenario, Simulation};

fn main() {
    let mut numbers = env::args().skip(1).map(|arg| arg.parse().unwrap_or(1_000));
    let (nodes, seconds) = (
        numbers.next().unwrap_or(1_000),
        numbers.next().unwrap_or(30),
    );
    let mut scenario = Scenario::default();
    scenario.nodes = nodes;
    scenario.publishing = Duration::from_secs(seconds as u64);
    let begin = Instant::now();
    let Ok(mut simulation) = Simulation::new(scenario) else {
        eprintln!("2 to 1,000,000 nodes, at most a day");
        return;
    };
    let made = begin.elapsed();
    simulation.run();
    let (took, log) = (begin.elapsed(), simulation.log());
    let report = simulation.report();
    println!(
        "{nodes} nodes, {seconds} s: made in {made:?}, run in {took:?}; {} frames, {:.0} a second; {} events; \
         delivery {:.3} %, p50 {:?}, p99 {:?}, {:.2} duplicates, {:.0} bytes a message, mesh {:?}",
        log.frames,
        log.frames as f64 / took.as_secs_f64(),
        log.events,
        report.outcome.delivered * 100.0,
        report.outcome.p50,
        report.outcome.p99,
        report.duplicates,
        report.bytes_per_message,
        report.mesh,
    );
}
