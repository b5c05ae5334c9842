//! The machine's limits, each with two ends in two processes like the stacks that are measured beside them.

mod cipher;
mod muxers;
mod raw;
mod records;

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde_json::json;
use tokio::net::TcpListener;

use crate::Failure;

pub use cipher::{CipherRates, cipher_rates};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Limit {
    /// tokio TCP, nothing on it.
    Tcp,
    /// Round trips of 32 bytes over tokio TCP.
    PingPong,
    /// barewire's full Noise records over TCP, without a muxer.
    Records,
    /// barewire's yamux session over plain TCP.
    Yamux,
    /// The `yamux` crate over plain TCP.
    YamuxCrate,
}

/// Serves connections until stdin closes.
pub fn serve(limit: Limit) -> Result<(), Failure> {
    let runtime = runtime()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!(
        "{}",
        json!({ "event": "listening", "addr": listener.local_addr()?.to_string() })
    );
    runtime.spawn(async move {
        let served = match limit {
            Limit::Tcp => raw::sink(listener).await,
            Limit::PingPong => raw::pong(listener).await,
            Limit::Records => records::sink(listener).await,
            Limit::Yamux => muxers::sink_own(listener).await,
            Limit::YamuxCrate => muxers::sink_crate(listener).await,
        };
        if let Err(cause) = served {
            eprintln!("barewire-bench: {cause}");
        }
    });
    stdin_closed();
    runtime.shutdown_background();
    Ok(())
}

/// Moves `bytes`, or makes `count` round trips, and prints the time.
pub fn drive(limit: Limit, to: SocketAddr, bytes: u64, count: usize) -> Result<(), Failure> {
    let runtime = runtime()?;
    let event = runtime.block_on(async {
        let took = match limit {
            Limit::PingPong => {
                let mut times = raw::ping(to, count).await?;
                times.sort_unstable();
                return Ok(json!({ "event": "ping", "count": count, "p50_us": micros(times[times.len() / 2]) }));
            }
            Limit::Tcp => raw::send(to, bytes).await?,
            Limit::Records => records::send(to, bytes).await?,
            Limit::Yamux => muxers::send_own(to, bytes).await?,
            Limit::YamuxCrate => muxers::send_crate(to, bytes).await?,
        };
        Ok::<_, Failure>(json!({ "event": "moved", "bytes": bytes, "secs": took.as_secs_f64() }))
    })?;
    println!("{event}");
    runtime.shutdown_background();
    Ok(())
}

/// Blocks until stdin ends, which is how the parent process says that it is done.
pub fn stdin_closed() {
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The other end must have received exactly what was sent.
fn arrived(sent: u64, got: u64, since: Instant) -> io::Result<Duration> {
    let took = since.elapsed();
    if got == sent {
        Ok(took)
    } else {
        Err(io::Error::other(format!(
            "sent {sent} bytes, {got} arrived"
        )))
    }
}
