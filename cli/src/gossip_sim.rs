//! `barewire gossip-sim`: gossip among thousands of nodes in virtual time.

use std::{
    fs,
    io::IsTerminal,
    path::PathBuf,
    time::{Duration, Instant},
};

use barewire_node::protocols::gossip::Config;
use barewire_sim::{ATTACKS, Latency, Report, Scenario, Simulation, Target, Topology, latency_cdf};
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    args::{Preset, size},
    failure::Failure,
    output::{self, say, tenth},
};

#[derive(Debug, ClapArgs)]
pub(crate) struct GossipSimArgs {
    /// Honest nodes.
    #[arg(long, value_name = "N", default_value_t = 100)]
    nodes: usize,
    /// Who is connected to whom: random, ring, small-world, clusters or full.
    #[arg(long, value_name = "NAME", default_value = "random")]
    topology: Topology,
    /// Honest nodes that each is connected to.
    #[arg(long, value_name = "N", default_value_t = 20)]
    degree: usize,
    /// Time from node to node: geo for seven regions of the earth, 50ms for all the same, 10..100ms for a time by chance.
    #[arg(long, value_name = "LATENCY", default_value = "geo")]
    latency: Latency,
    /// Packets that are lost and sent again, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    loss: f64,
    /// Mbit/s of each node's uplink and of its downlink; without it only latency counts.
    #[arg(long, value_name = "MBIT")]
    bandwidth: Option<f64>,
    /// Honest nodes that leave in a minute, in percent; each comes back after half a minute on average.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    churn: f64,
    /// Nodes that publish, in turns; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    publishers: usize,
    /// Messages a second of all publishers together.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    rate: f64,
    /// Bytes of a message.
    #[arg(long, value_name = "BYTES", default_value = "200", value_parser = size)]
    size: u64,
    /// Milliseconds that a node's processor takes to check a message.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    verify_ms: f64,
    /// Virtual seconds before the first message.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    warmup: u32,
    /// Virtual seconds of publishing.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
    /// Parameters of the routers.
    #[arg(long, value_enum, default_value = "default")]
    preset: Preset,
    /// Choose the mesh at random even if the preset prefers near peers.
    #[arg(long)]
    random_mesh: bool,
    /// Attackers.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "attack")]
    sybils: usize,
    /// What the attackers do; see below.
    #[arg(long, value_name = "NAME", requires = "sybils")]
    attack: Option<String>,
    /// Let the attackers connect to the first node only.
    #[arg(long, requires = "attack")]
    target_first: bool,
    /// Nodes that each attacker connects to.
    #[arg(long, value_name = "N", requires = "attack")]
    sybil_degree: Option<usize>,
    /// Virtual second until which the attackers behave.
    #[arg(long, value_name = "SECONDS", requires = "attack")]
    attack_at: Option<u32>,
    /// Attackers at each IP address.
    #[arg(long, value_name = "N", requires = "attack")]
    sybils_per_address: Option<usize>,
    /// Put the attackers next to the first node.
    #[arg(long, requires = "attack")]
    near: bool,
    /// Dials of honest nodes that lead to attackers, in percent.
    #[arg(
        long,
        value_name = "PERCENT",
        requires = "attack",
        default_value_t = 0.0
    )]
    poison: f64,
    /// The same seed gives the same numbers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Check at each virtual second that every router keeps its bounds; fail if one does not.
    #[arg(long)]
    check: bool,
    /// File to write a picture of the latencies to.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// What the help says behind the options.
pub(crate) fn after_help() -> String {
    let mut help = String::from(
        "Examples:\n  barewire gossip-sim --nodes 1000\n  \
         barewire gossip-sim --nodes 200 --sybils 800 --attack dawn --preset adversarial --svg dawn.svg\n  \
         barewire gossip-sim --topology ring --latency 50ms --loss 2 --bandwidth 10 --size 4KiB --json\n\n\
         Attacks (the last nine as the evaluation report of gossipsub 1.1 describes them):\n",
    );
    for (name, what) in ATTACKS {
        help += &format!("  {name:<19} {what}\n");
    }
    help
}

impl GossipSimArgs {
    fn scenario(&self) -> Result<Scenario, Failure> {
        let seconds = |s: u32| Duration::from_secs(s.into());
        let mut scenario = Scenario::default();
        scenario.seed = self.seed;
        scenario.nodes = self.nodes;
        scenario.topology = self.topology;
        scenario.degree = self.degree;
        scenario.latency = self.latency;
        scenario.loss = self.loss / 100.0;
        scenario.bandwidth = self.bandwidth.map(|mbit| (mbit * 1e6) as u64);
        scenario.churn = self.churn / 100.0;
        scenario.publishers = self.publishers;
        scenario.rate = self.rate;
        scenario.size = usize::try_from(self.size)?;
        scenario.verification = Duration::try_from_secs_f64(self.verify_ms / 1e3)
            .map_err(|error| format!("--verify-ms: {error}"))?;
        scenario.warmup = seconds(self.warmup);
        scenario.publishing = seconds(self.seconds);
        scenario.router = self.preset.config();
        if self.random_mesh {
            scenario.router.rtt_preference = None;
        }
        scenario.checked = self.check;
        if let Some(attack) = &self.attack {
            scenario = scenario.attacked(attack, self.sybils)?;
        }
        if let Some(sybils) = &mut scenario.sybils {
            if self.target_first {
                sybils.target = Target::First;
            }
            sybils.degree = self.sybil_degree.unwrap_or(sybils.degree);
            sybils.attack_at = self.attack_at.map_or(sybils.attack_at, seconds);
            sybils.per_address = self.sybils_per_address.unwrap_or(sybils.per_address);
            sybils.near = self.near;
            sybils.poison = self.poison / 100.0;
        }
        Ok(scenario)
    }
}

impl Preset {
    /// The parameters.
    pub(crate) fn config(self) -> Config {
        match self {
            Self::Default => Config::default(),
            Self::Lan => Config::lan(),
            Self::Wan => Config::wan(),
            Self::Adversarial => Config::adversarial(),
        }
    }
}

/// Simulates and prints.
pub(crate) fn gossip_sim(args: &GossipSimArgs) -> Result<(), Failure> {
    let mut simulation = Simulation::new(args.scenario()?)?;
    let bar = if args.json || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(simulation.scenario().end().as_secs())
    };
    if let Ok(style) =
        ProgressStyle::with_template("{bar:32} {pos}/{len} virtual seconds, {msg}, {eta} left")
    {
        bar.set_style(style);
    }
    let begun = Instant::now();
    simulation.run_with(|simulation| {
        let events = simulation.events() as f64 / begun.elapsed().as_secs_f64().max(1e-9);
        bar.set_position(simulation.now().as_secs());
        bar.set_message(format!("{events:.0} events/s"));
        true
    });
    bar.finish_and_clear();
    let report = simulation.report();
    print(args, &simulation, &report, begun.elapsed().as_secs_f64());
    if let Some(file) = &args.svg {
        let name = format!("{} nodes", args.nodes);
        fs::write(file, latency_cdf(&[(&name, &report)]))
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    match simulation.violations() {
        [] => Ok(()),
        all => Err(format!("routers left their bounds:\n{}", all.join("\n")).into()),
    }
}

fn print(args: &GossipSimArgs, simulation: &Simulation, report: &Report, took: f64) {
    let (outcome, log) = (&report.outcome, simulation.log());
    let ms = |time: Duration| tenth(time.as_secs_f64() * 1e3);
    let percent = |share: f64| (share * 1e5).round() / 1e3;
    let (duplicates, frames_per_s) = (
        (report.duplicates * 100.0).round() / 100.0,
        (log.frames as f64 / took).round(),
    );
    let value = json!({
        "event": "gossip-sim", "seed": args.seed, "nodes": args.nodes, "sybils": args.sybils, "attack": args.attack,
        "messages": outcome.messages, "expected": outcome.expected, "delivered_percent": percent(outcome.delivered),
        "in_3s_percent": percent(outcome.in_time), "p50_ms": ms(outcome.p50), "p99_ms": ms(outcome.p99),
        "max_ms": ms(outcome.max), "duplicates": duplicates, "bytes_per_message": report.bytes_per_message.round(),
        "by_gossip_percent": percent(report.by_gossip), "mesh_min": report.mesh.0, "mesh_max": report.mesh.1,
        "mesh_mean": tenth(report.mesh_mean), "sybils_in_meshes_percent": percent(report.sybil_share),
        "sybils_graylisted": report.sybils_graylisted, "honest_graylisted": log.honest_graylisted,
        "penalties_of_honest": log.honest_penalties, "dropped": log.dropped, "bytes_to_sybils": log.to_sybils,
        "bytes_from_sybils": log.from_sybils, "frames": log.frames, "secs": took, "frames_per_s": frames_per_s,
    });
    if args.json {
        output::event(true, &value, String::new);
        return;
    }
    say(&format!(
        "delivery    {} % of {} deliveries of {} messages, {} % within 3 s",
        percent(outcome.delivered),
        outcome.expected,
        outcome.messages,
        percent(outcome.in_time)
    ));
    say(&format!(
        "latency     p50 {} ms, p99 {} ms, at most {} ms",
        ms(outcome.p50),
        ms(outcome.p99),
        ms(outcome.max)
    ));
    say(&format!(
        "duplicates  {duplicates} for each delivery; {} % of deliveries were copies asked for",
        percent(report.by_gossip)
    ));
    say(&format!(
        "bytes       {:.0} sent by a node for each message",
        report.bytes_per_message
    ));
    say(&format!(
        "meshes      {} to {} peers, {} on average",
        report.mesh.0,
        report.mesh.1,
        tenth(report.mesh_mean)
    ));
    if args.sybils > 0 {
        say(&format!(
            "sybils      hold {} % of the meshes, {} of {} graylisted; {} bytes to them, {} from them",
            percent(report.sybil_share),
            report.sybils_graylisted,
            args.sybils,
            log.to_sybils,
            log.from_sybils
        ));
    }
    say(&format!(
        "simulated   {} frames in {took:.1} s, {frames_per_s} a second",
        log.frames
    ));
}
