//! `barewire-bench compare` and `barewire-bench gossip` print ratio tables. The other commands are what it starts, usable alone.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use barewire_bench::{Failure, compare, ends, gossip, relay, udp_relay};
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
    ///
    /// Fails when a side of a target was not measured; a target that is missed is marked and no failure.
    Compare(compare::Options),
    /// Run gossipsub of barewire, go-libp2p and rust-libp2p side by side, and print the ratio table.
    ///
    /// Fails when a side of a target was not measured, or messages were lost; a target that is missed is marked and no failure.
    Gossip(gossip::Options),
    /// Relay TCP connections or UDP datagrams, all late; prints its address as JSON and ends with stdin.
    Relay {
        /// Where connections go on to.
        #[arg(long)]
        to: SocketAddr,
        /// Delay of each direction, in milliseconds.
        #[arg(long, default_value_t = 30)]
        delay_ms: u64,
        /// Relay the datagrams of one client instead of connections.
        #[arg(long)]
        udp: bool,
        /// Share of datagrams that is lost in each direction, 0 to 1.
        #[arg(long, default_value_t = 0.0, requires = "udp", value_parser = share)]
        loss: f64,
    },
    /// Serve one end of a limit; prints its address as JSON and ends with stdin.
    Serve {
        limit: ends::Limit,
        /// Largest datagram QUIC tries.
        #[arg(long, default_value_t = 1452)]
        mtu: u16,
    },
    /// Drive one end of a limit against the other; prints its figures as JSON.
    Drive {
        limit: ends::Limit,
        to: SocketAddr,
        #[command(flatten)]
        work: ends::Work,
    },
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{text:?} is not a share from 0 to 1")),
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Gossip(options) => gossip::run(&options),
        Command::Relay {
            to,
            delay_ms,
            udp,
            loss,
        } => serve_relay(to, Duration::from_millis(delay_ms), udp.then_some(loss)),
        Command::Serve { limit, mtu } => ends::serve(limit, mtu),
        Command::Drive { limit, to, work } => ends::drive(limit, to, work),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("barewire-bench: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// Of datagrams if they have a loss.
fn serve_relay(to: SocketAddr, delay: Duration, loss: Option<f64>) -> Result<(), Failure> {
    let addr = match loss {
        Some(loss) => udp_relay::start(to, delay, loss)?,
        None => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let addr = listener.local_addr()?;
            std::thread::spawn(move || relay::serve(&listener, to, delay));
            addr
        }
    };
    println!(
        "{}",
        json!({ "event": "listening", "addr": addr.to_string() })
    );
    ends::stdin_closed();
    Ok(())
}
