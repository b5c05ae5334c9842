//! The interleaved rounds of gossip: publisher, relay and subscriber of one stack, over TCP with Noise.

mod chain;
mod fan_out;
mod latency;
mod targets;

use clap::ValueEnum;

use crate::{
    Failure,
    compare::{judged, load_before, runtime, show},
    stacks::{Program, Stack},
    table::Samples,
};
use targets::OverTcp;

const TOPIC: &str = "bench";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
/// Longest message, for the figures with long ones: barewire's largest.
const LONGEST: &str = "512MiB";

/// What `gossip` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Interleaved rounds; figures are their medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these groups.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// Measurements that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Messages of 200 bytes through a relay.
    Short,
    /// Messages of 64 KiB through a relay, and how fast they can be hashed.
    Long,
    /// One message of 500 MiB through a relay.
    Huge,
    /// Processor time of a publisher with fifty subscribers.
    FanOut,
    /// How long messages take through ten nodes.
    Latency,
}

/// Runs all rounds and prints the result; progress goes to stderr.
///
/// # Errors
/// A target could not be judged because a side of it was not measured. One that is missed is no error.
pub fn run(options: &Options) -> Result<(), Failure> {
    let runtime = runtime()?;
    let (mut programs, left_out) = Program::build(&[Stack::Barewire, Stack::Go, Stack::Rust]);
    let load = load_before();
    let groups: Vec<_> = Group::value_variants()
        .iter()
        .copied()
        .filter(|group| options.only.is_empty() || options.only.contains(group))
        .collect();
    let mut bench = Bench {
        samples: Samples::new(OverTcp, groups.clone()),
        ours: programs
            .iter()
            .find(|program| program.stack == Stack::Barewire)
            .cloned(),
    };
    for (stack, cause) in &left_out {
        bench.samples.gap(format!("{stack} is left out: {cause}"));
    }
    for round in 1..=options.rounds {
        bench.samples.next_round();
        for group in &groups {
            eprintln!("gossip, round {round} of {}: {group:?}", options.rounds);
            for program in &programs {
                let measured = runtime.block_on(bench.group(*group, program));
                if let Err(cause) = measured {
                    let stack = program.stack;
                    let what = format!("{group:?} of {stack}, round {round}: {cause}");
                    bench.samples.gap(what);
                }
            }
            if *group == Group::Long {
                bench.hashing();
            }
        }
        // What one stack leaves in the caches meets another one next time.
        programs.rotate_left(1);
    }
    judged(show(&bench.samples, options.json, load))
}

struct Bench {
    samples: Samples<OverTcp>,
    /// What takes the place of others' nodes where only one is measured.
    ours: Option<Program>,
}

impl Bench {
    async fn group(&mut self, group: Group, program: &Program) -> Result<(), Failure> {
        match group {
            Group::Short => self.short(program).await,
            Group::Long => self.long(program).await,
            Group::Huge => self.huge(program).await,
            Group::FanOut => self.fan_out(program).await,
            Group::Latency => self.latency(program).await,
        }
    }
}
