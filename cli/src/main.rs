//! The `barewire` command: makes identities, runs a node, talks to others and measures them.

mod args;
mod bench;
mod listen;
mod output;
mod remote;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

/// Freed pages go back to the system sooner than with the system's allocator, which keeps the
/// memory of a listener close to what its connections hold.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One sentence for the person at the terminal: what went wrong, and what to try.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl<T: std::fmt::Display> From<T> for Failure {
    fn from(cause: T) -> Self {
        Self(cause.to_string())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    // One thread: a connection task and the streams it serves hand over to each other without
    // crossing processors, which measured faster for every command.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(args.command)),
        Err(error) => Err(Failure(format!("the runtime could not start: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(sentence)) => {
            eprintln!("barewire: {}", output::printable(&sentence));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Id(args) => listen::id(&args),
        Command::Listen(args) => listen::listen(args).await,
        Command::Identify(args) => remote::identify(&args.remote).await,
        Command::Ping(args) => remote::ping(&args).await,
        Command::Perf(args) => remote::perf(&args).await,
        Command::Echo(args) => remote::echo(&args).await,
        Command::Bench(args) => bench::run(args.what).await,
    }
}
