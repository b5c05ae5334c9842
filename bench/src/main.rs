//! `barewire-bench compare` prints the ratio table. The other commands are what it starts, usable alone.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use barewire_bench::{Failure, compare, ends, relay};
use clap::{Parser, Subcommand};
use serde_json::json;

#[derive(Parser)]
#[command(about = "barewire beside its peers and the machine's limits")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run barewire, go-libp2p, rust-libp2p, litep2p and the machine's limits side by side, and print the ratio table.
    Compare(compare::Options),
    /// Relay TCP connections, every byte late; prints its address as JSON and ends with stdin.
    Relay {
        /// Where connections go on to.
        #[arg(long)]
        to: SocketAddr,
        /// Delay of each direction, in milliseconds.
        #[arg(long, default_value_t = 30)]
        delay_ms: u64,
    },
    /// Serve one end of a limit; prints its address as JSON and ends with stdin.
    Serve { limit: ends::Limit },
    /// Drive one end of a limit against the other; prints its figures as JSON.
    Drive {
        limit: ends::Limit,
        to: SocketAddr,
        /// Bytes to move.
        #[arg(long, default_value_t = 1 << 30)]
        bytes: u64,
        /// Round trips to make.
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Relay { to, delay_ms } => serve_relay(to, Duration::from_millis(delay_ms)),
        Command::Serve { limit } => ends::serve(limit),
        Command::Drive {
            limit,
            to,
            bytes,
            count,
        } => ends::drive(limit, to, bytes, count),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("barewire-bench: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn serve_relay(to: SocketAddr, delay: Duration) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!(
        "{}",
        json!({ "event": "listening", "addr": listener.local_addr()?.to_string() })
    );
    std::thread::spawn(move || relay::serve(&listener, to, delay));
    ends::stdin_closed();
    Ok(())
}
