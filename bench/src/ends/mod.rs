//! The machine's limits, each with two ends in two processes like the stacks that are measured beside them.

mod cipher;
mod frames;
mod muxers;
mod quic;
mod raw;
mod records;
mod tls;

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde_json::json;
use tokio::net::TcpListener;

use crate::Failure;

pub use cipher::{CipherRates, cipher_rates, sha512_rate};

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
    /// tokio-rustls over TCP, without a muxer.
    Tls,
    /// barewire's WebSocket frames over TCP, without Noise or a muxer.
    Frames,
    /// One stream of bare quinn.
    Quic,
    /// Round trips of 32 bytes on one stream of bare quinn.
    QuicPing,
    /// Held connections of bare quinn; only its driving end differs from `quic`.
    QuicHeld,
}

/// A listening socket of either kind.
enum Bound {
    Tcp(TcpListener),
    Quic(quinn::Endpoint),
}

/// Serves connections until stdin closes. `mtu` is the largest datagram that QUIC tries.
pub fn serve(limit: Limit, mtu: u16) -> Result<(), Failure> {
    let runtime = runtime()?;
    let bound = runtime.block_on(async {
        Ok::<_, io::Error>(match limit {
            Limit::Quic | Limit::QuicPing | Limit::QuicHeld => Bound::Quic(quic::listen(mtu)?),
            _ => Bound::Tcp(TcpListener::bind("127.0.0.1:0").await?),
        })
    })?;
    let addr = match &bound {
        Bound::Tcp(listener) => listener.local_addr()?,
        Bound::Quic(endpoint) => endpoint.local_addr()?,
    };
    println!(
        "{}",
        json!({ "event": "listening", "addr": addr.to_string() })
    );
    runtime.spawn(async move {
        let served = match (limit, bound) {
            (Limit::QuicPing, Bound::Quic(endpoint)) => quic::pong(endpoint).await,
            (_, Bound::Quic(endpoint)) => quic::sink(endpoint).await,
            (Limit::PingPong, Bound::Tcp(listener)) => raw::pong(listener).await,
            (Limit::Records, Bound::Tcp(listener)) => records::sink(listener).await,
            (Limit::Yamux, Bound::Tcp(listener)) => muxers::sink_own(listener).await,
            (Limit::YamuxCrate, Bound::Tcp(listener)) => muxers::sink_crate(listener).await,
            (Limit::Tls, Bound::Tcp(listener)) => tls::sink(listener).await,
            (Limit::Frames, Bound::Tcp(listener)) => frames::sink(listener).await,
            (_, Bound::Tcp(listener)) => raw::sink(listener).await,
        };
        if let Err(cause) = served {
            eprintln!("barewire-bench: {cause}");
        }
    });
    stdin_closed();
    runtime.shutdown_background();
    Ok(())
}

/// What one end of a limit is to do.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Work {
    /// Bytes to move.
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
    /// Round trips to make, or connections to hold.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Largest datagram QUIC tries.
    #[arg(long, default_value_t = 1452)]
    mtu: u16,
}

/// Moves `bytes`, or makes `count` round trips, and prints the time; or holds connections until stdin closes.
pub fn drive(limit: Limit, to: SocketAddr, work: Work) -> Result<(), Failure> {
    let Work { bytes, count, mtu } = work;
    let runtime = runtime()?;
    let pings = |mut times: Vec<Duration>| {
        times.sort_unstable();
        json!({ "event": "ping", "count": count, "p50_us": micros(times[times.len() / 2]) })
    };
    let moved =
        |took: Duration| json!({ "event": "moved", "bytes": bytes, "secs": took.as_secs_f64() });
    let event = runtime.block_on(async {
        Ok::<_, io::Error>(match limit {
            Limit::PingPong => pings(raw::ping(to, count).await?),
            Limit::QuicPing => pings(quic::ping(to, mtu, count).await?),
            Limit::QuicHeld => {
                let _held = quic::hold(to, mtu, count).await?;
                println!("{}", json!({ "event": "held", "count": count }));
                tokio::task::spawn_blocking(stdin_closed).await?;
                json!({ "event": "let go" })
            }
            Limit::Tcp => moved(raw::send(to, bytes).await?),
            Limit::Records => moved(records::send(to, bytes).await?),
            Limit::Yamux => moved(muxers::send_own(to, bytes).await?),
            Limit::YamuxCrate => moved(muxers::send_crate(to, bytes).await?),
            Limit::Tls => moved(tls::send(to, bytes).await?),
            Limit::Frames => moved(frames::send(to, bytes).await?),
            Limit::Quic => moved(quic::send(to, mtu, bytes).await?),
        })
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
