//! Gossip among thousands of nodes in virtual time: the routers that run in a node, without its sockets.
//!
//! A [`Scenario`] says who is connected to whom and how well, what is published, and who attacks; [`Simulation`] runs it. Nothing
//! reads a clock or draws randomness beside the scenario's seed, so that the same scenario gives the same [`Report`].
//!
//! Links are reliable streams, as in life: a lost packet is late, and so is what follows it. Uplinks and downlinks have a rate;
//! what does not fit waits in the routers' queues, where it can give way. Messages carry no signature; instead a check may take
//! time of the node's one processor.
//!
//! ```
//! use std::time::Duration;
//! use barewire_sim::{Attack, Latency, Scenario, Simulation, Sybils};
//!
//! let mut scenario = Scenario::default();
//! scenario.nodes = 30;
//! scenario.latency = Latency::Fixed(Duration::from_millis(50));
//! scenario.publishing = Duration::from_secs(5);
//! scenario.sybils = Some(Sybils::new(10, Attack::Silent));
//! let mut simulation = Simulation::new(scenario).expect("a network");
//! simulation.run();
//! let report = simulation.report();
//! assert_eq!(report.outcome.delivered, 1.0);
//! println!("p99 {:?}, {:.1} duplicates per delivery", report.outcome.p99, report.duplicates);
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )
)]

mod link;
mod message;
mod net;
mod queue;
mod report;
mod rng;
mod scenario;
mod svg;
mod sybil;
mod topology;
mod wire;

pub use link::Latency;
pub use net::Simulation;
pub use report::{Log, Outcome, Report, Sample};
pub use scenario::{ATTACKS, Attack, Scenario, ScenarioError, Sybils, Target};
pub use svg::latency_cdf;
pub use topology::Topology;
