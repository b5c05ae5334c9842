//! `barewire bench`: handshakes, streams, held connections.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_base::{Keypair, PeerId};
use barewire_node::{
    Endpoint,
    protocols::{echo, ping},
};
use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    args::{Bench, LoadArgs, StreamsArgs},
    failure::Failure,
    listen::{endpoint, endpoint_of, stdin_closed},
    output::{self, quantile, tenth},
    remote::{connect, in_time},
};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) async fn run(what: Bench) -> Result<(), Failure> {
    match what {
        Bench::Handshakes(args) => handshakes(&args).await,
        Bench::Streams(args) => streams(&args).await,
        Bench::Connections(args) => connections(&args).await,
    }
}

/// Hands out numbers up to a count to several workers.
#[derive(Clone)]
struct Tickets {
    taken: Arc<AtomicU64>,
    count: u64,
}

impl Tickets {
    fn new(count: u64) -> Self {
        Self {
            taken: Arc::default(),
            count,
        }
    }

    fn take(&self) -> bool {
        self.taken.fetch_add(1, Ordering::Relaxed) < self.count
    }
}

/// Collects the samples of all workers; the first failure ends the bench.
async fn collect(mut workers: JoinSet<Result<Vec<f64>, Failure>>) -> Result<Vec<f64>, Failure> {
    let mut samples = Vec::new();
    while let Some(done) = workers.join_next().await {
        samples.append(&mut done??);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples)
}

fn report(name: &str, args: &LoadArgs, peer: Option<PeerId>, seconds: f64, samples: &[f64]) {
    let per_s = tenth(args.count as f64 / seconds);
    let (p50, p99) = (
        tenth(quantile(samples, 0.5)),
        tenth(quantile(samples, 0.99)),
    );
    let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let value = json!({
        "event": name, "peer": peer, "count": args.count, "concurrency": args.concurrency,
        "secs": seconds, "per_s": per_s, "p50_us": p50, "p99_us": p99,
    });
    output::event(args.remote.node.json, &value, || {
        format!(
            "{} {name} with {peer}, {} at a time, in {seconds:.3} s: {per_s} per s, \
             p50 {p50} µs, p99 {p99} µs",
            args.count, args.concurrency
        )
    });
}

async fn handshakes(args: &LoadArgs) -> Result<(), Failure> {
    let tickets = Tickets::new(args.count);
    let mut endpoints = Vec::new();
    // An identity for each worker: some nodes take only a few connections of one peer.
    for _ in 0..args.concurrency {
        endpoints.push(endpoint(&args.remote.node).await?);
    }
    let answered = Arc::new(OnceLock::new());
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for endpoint in &endpoints {
        let (endpoint, remote, tickets) = (endpoint.clone(), args.remote.clone(), tickets.clone());
        let answered = Arc::clone(&answered);
        workers.spawn(async move {
            let mut samples = Vec::new();
            while tickets.take() {
                let start = Instant::now();
                let dialling = endpoint.dial(remote.addrs.clone());
                let connection = in_time(&remote, dialling).await?;
                answered.get_or_init(|| connection.peer_id());
                ping::ping(&connection, remote.timeout).await?;
                connection.close(0);
                samples.push(start.elapsed().as_secs_f64() * 1e6);
            }
            Ok(samples)
        });
    }
    let samples = collect(workers).await?;
    let seconds = begun.elapsed().as_secs_f64();
    report(
        "handshakes",
        args,
        answered.get().copied(),
        seconds,
        &samples,
    );
    goodbye(endpoints).await;
    Ok(())
}

/// Says goodbye with many endpoints at once.
async fn goodbye(endpoints: Vec<Endpoint>) {
    let mut ends: JoinSet<_> = endpoints
        .into_iter()
        .map(|endpoint| async move { endpoint.shutdown(GOODBYE).await })
        .collect();
    while ends.join_next().await.is_some() {}
}

async fn streams(args: &StreamsArgs) -> Result<(), Failure> {
    let load = &args.load;
    let endpoint = endpoint(&load.remote.node).await?;
    let connection = connect(&endpoint, &load.remote).await?;
    // Once for all: the streams below send with their proposal and would only be reset.
    connection
        .open_stream_negotiated(&[&args.protocol])
        .await?
        .finish()?;
    let tickets = Tickets::new(load.count);
    let size = usize::try_from(args.size)?;
    let payload: Bytes = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..load.concurrency {
        let (connection, tickets) = (connection.clone(), tickets.clone());
        let (payload, protocol) = (payload.clone(), args.protocol.clone());
        workers.spawn(async move {
            let mut samples = Vec::new();
            while tickets.take() {
                let start = Instant::now();
                echo::round_trip(&connection, &protocol, payload.clone()).await?;
                samples.push(start.elapsed().as_secs_f64() * 1e6);
            }
            Ok(samples)
        });
    }
    let samples = collect(workers).await?;
    let seconds = begun.elapsed().as_secs_f64();
    report(
        "streams",
        load,
        Some(connection.peer_id()),
        seconds,
        &samples,
    );
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}

async fn connections(args: &LoadArgs) -> Result<(), Failure> {
    let tickets = Tickets::new(args.count);
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let (remote, tickets) = (args.remote.clone(), tickets.clone());
        workers.spawn(async move {
            let mut held = Vec::new();
            while tickets.take() {
                let keypair = Keypair::generate(&mut rand::rng());
                let endpoint = endpoint_of(keypair, &remote.node).await?;
                let connection = connect(&endpoint, &remote).await?;
                ping::ping(&connection, remote.timeout).await?;
                let lease = connection.lease("bench");
                held.push((endpoint, connection, lease));
            }
            Ok::<_, Failure>(held)
        });
    }
    let mut held = Vec::new();
    while let Some(done) = workers.join_next().await {
        held.append(&mut done??);
    }
    let value = json!({"event": "held", "count": held.len()});
    output::event(args.remote.node.json, &value, || {
        format!("{} connections held; close stdin to let go", held.len())
    });
    stdin_closed().await;
    if let Some(lost) = held
        .iter()
        .find_map(|(_, connection, _)| connection.close_reason())
    {
        return Err(format!("a held connection was lost: {lost}").into());
    }
    let endpoints = held.into_iter().map(|(endpoint, ..)| endpoint);
    goodbye(endpoints.collect()).await;
    Ok(())
}
