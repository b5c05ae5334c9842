//! The `barewire` command: makes identities, runs a node, talks to others and measures them.

mod allocator;
mod announce;
mod args;
mod autonat;
mod bench;
mod dial;
mod discovery;
mod doctor;
mod failure;
mod gossip;
mod gossip_parts;
mod gossip_script;
mod gossip_sim;
mod hole_punch;
mod interop;
mod limits;
mod listen;
mod metrics;
mod output;
mod peers;
mod port_mapping;
mod relay;
mod remote;
mod watch;

use std::{io::IsTerminal, process::ExitCode};

use args::{Args, Command};
use clap::Parser;
use failure::Failure;

/// Measured against the system's allocator: 6.9 instead of 7.2 KiB per idle connection at a
/// listener that holds 2,000, 11.2 instead of 14.1 MiB kept after they have gone, and 4 to 10 %
/// more echo streams of 100 bytes; perf and handshakes are 1 to 6 % slower.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            eprintln!("barewire: {}", usage_sentence(&error.to_string()));
            return ExitCode::from(2);
        }
        // Help and version.
        Err(error) => error.exit(),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    allocator::start();
    // One thread: a connection task and the streams it serves hand over to each other without
    // crossing processors. Measured against two on two quiet processors: a fifth more echo streams
    // of 100 bytes, a tenth to a third more perf, a tenth more handshakes, equal round trips, and a
    // peak of 17 instead of 25 MiB in a perf of 4 GiB.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            // In a task of its own: the runtime polls the future it blocks on less often than tasks,
            // so that a transfer would be read in batches of several MiB.
            let work = runtime.spawn(run(args.command));
            let outcome = runtime
                .block_on(work)
                .unwrap_or_else(|panic| Err(Failure::from(panic)));
            // A thread that still waits for stdin must not hold up the end.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure(format!("the runtime could not start: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(sentence)) => {
            // A line for each address where there are several.
            let lines: Vec<_> = sentence.lines().map(output::printable).collect();
            eprintln!("barewire: {}", lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// Clap's message as one sentence: its first paragraph, and where to read on.
fn usage_sentence(message: &str) -> String {
    let paragraph: Vec<_> = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let sentence = paragraph.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    format!("{sentence}; barewire --help shows the commands, barewire COMMAND --help their options")
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Id(args) => listen::id(&args),
        Command::Listen(args) => listen::listen(*args).await,
        Command::Identify(args) => remote::identify(&args.remote).await,
        Command::Ping(args) => remote::ping(&args).await,
        Command::Perf(args) => remote::perf(&args).await,
        Command::Echo(args) => remote::echo(&args).await,
        Command::Subscribe(args) => gossip::subscribe(&args).await,
        Command::Publish(args) => gossip::publish(&args).await,
        Command::GossipSim(args) => gossip_sim::gossip_sim(&args),
        Command::Doctor(args) => doctor::doctor(&args).await,
        Command::Limits(args) => {
            limits::limits(&args);
            Ok(())
        }
        Command::Interop(args) => interop::run(&args).await,
        Command::Peers(args) => peers::peers(&args),
        Command::Resolve(args) => dial::resolve(&args).await,
        Command::Dial(args) => dial::dial(&args).await,
        Command::Rendezvous(args) => discovery::rendezvous(args).await,
        Command::Bench(args) => bench::run(args.what).await,
    }
}
