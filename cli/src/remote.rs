//! The commands that talk to one node: identify, ping, perf, echo.

use std::{
    future::Future,
    io::IsTerminal,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use barewire_node::{
    Connection, DialError, Endpoint, StreamError,
    protocols::{
        perf::{self, Progress},
        ping::Pinger,
    },
};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;

use crate::{
    args::{EchoArgs, PerfArgs, PingArgs, RemoteArgs},
    failure::Failure,
    listen::endpoint,
    output::{self, mib_per_s, printable, quantile, say, tenth},
};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes of an echo that are made, hashed and sent at once.
const ECHO_CHUNK: usize = 256 * 1024;

/// Connects, or uses the connection that is there.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    remote: &RemoteArgs,
) -> Result<Connection, Failure> {
    in_time(remote, endpoint.connect(remote.addrs.clone())).await
}

/// Waits for a connection as long as the command line says.
pub(crate) async fn in_time(
    remote: &RemoteArgs,
    connecting: impl Future<Output = Result<Connection, DialError>>,
) -> Result<Connection, Failure> {
    match tokio::time::timeout(remote.timeout, connecting).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(format!(
            "{}: no connection within {:?}; check the address or raise --timeout",
            remote.name(),
            remote.timeout
        )
        .into()),
    }
}

async fn dial(remote: &RemoteArgs) -> Result<(Endpoint, Connection), Failure> {
    let endpoint = endpoint(&remote.node).await?;
    let connection = connect(&endpoint, remote).await?;
    let named = remote.addrs.iter().any(|addr| addr.peer_id().is_some());
    if !named && !remote.node.json {
        say(&format!("{} is {}", remote.name(), connection.peer_id()));
    }
    Ok((endpoint, connection))
}

/// Asks for identify.
pub(crate) async fn identify(remote: &RemoteArgs) -> Result<(), Failure> {
    let (endpoint, connection) = dial(remote).await?;
    let info = tokio::time::timeout(remote.timeout, endpoint.identify(&connection))
        .await
        .map_err(|_| "the node did not answer identify in time; raise --timeout")??;
    let connected = connection.info();
    let addrs: Vec<_> = info.listen_addrs.iter().map(ToString::to_string).collect();
    let observed = info.observed_addr.as_ref().map(ToString::to_string);
    let value = json!({
        "event": "identify",
        "peer": info.peer_id.to_string(),
        "agent": info.agent_version,
        "protocol_version": info.protocol_version,
        "protocols": info.protocols.iter().map(|id| &**id).collect::<Vec<_>>(),
        "listen_addrs": addrs,
        "observed_addr": observed,
        "signed_record": info.record_seq.is_some(),
        "transport": connected.transport,
        "security": connected.security,
        "muxer": connected.muxer,
        "early_muxer": connected.early_muxer,
    });
    output::event(remote.node.json, &value, || {
        let muxer_chosen = if connected.early_muxer {
            "in the handshake"
        } else {
            "by multistream-select"
        };
        let mut lines = vec![
            format!("peer id        {}", info.peer_id),
            format!("agent          {}", printable(&info.agent_version)),
            format!("version        {}", printable(&info.protocol_version)),
            format!(
                "connection     {}, {} then {}, muxer chosen {muxer_chosen}",
                connected.transport, connected.security, connected.muxer
            ),
            format!(
                "sees us at     {}",
                observed.as_deref().unwrap_or("not told")
            ),
            format!(
                "signed record  {}",
                if info.record_seq.is_some() {
                    "valid"
                } else {
                    "none"
                }
            ),
        ];
        lines.extend(
            addrs
                .iter()
                .map(|addr| format!("listens on     {}", printable(addr))),
        );
        lines.extend(
            info.protocols
                .iter()
                .map(|protocol| format!("speaks         {}", printable(protocol))),
        );
        lines.join("\n")
    });
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}

/// Measures round trips.
pub(crate) async fn ping(args: &PingArgs) -> Result<(), Failure> {
    let (endpoint, connection) = dial(&args.remote).await?;
    let mut pinger = Pinger::new(&connection, args.remote.timeout);
    let mut samples = Vec::with_capacity(args.count.min(1 << 20) as usize);
    for _ in 0..args.count {
        let rtt = pinger.ping().await?;
        samples.push(rtt.as_secs_f64() * 1e6);
    }
    pinger.finish();
    samples.sort_by(f64::total_cmp);
    let (min, p50, p99) = (
        tenth(quantile(&samples, 0.0)),
        tenth(quantile(&samples, 0.5)),
        tenth(quantile(&samples, 0.99)),
    );
    let value = json!({
        "event": "ping", "peer": connection.peer_id().to_string(), "count": args.count,
        "min_us": min, "p50_us": p50, "p99_us": p99,
    });
    output::event(args.remote.node.json, &value, || {
        format!(
            "{} round trips: min {min} µs, p50 {p50} µs, p99 {p99} µs",
            args.count
        )
    });
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}

/// Measures throughput, each direction on a stream of its own.
pub(crate) async fn perf(args: &PerfArgs) -> Result<(), Failure> {
    let (endpoint, connection) = dial(&args.remote).await?;
    let mut measured = [(0, 0.0); 2];
    let plans = [("upload", args.upload, 0), ("download", 0, args.download)];
    for (slot, (name, up, down)) in measured.iter_mut().zip(plans) {
        let watch = Watch::new(name, up + down, args.remote.node.json);
        let begun = Instant::now();
        let transfer = perf::measure(&connection, up, down, |progress| match progress {
            Progress::Sent(n) | Progress::Received(n) => watch.add(n),
        });
        watch.guard(args.remote.timeout, transfer).await?;
        *slot = (up + down, begun.elapsed().as_secs_f64());
        watch.bar.finish_and_clear();
    }
    let [(upload, upload_s), (download, download_s)] = measured;
    let value = json!({
        "event": "perf", "peer": connection.peer_id().to_string(),
        "upload_bytes": upload, "upload_s": upload_s,
        "download_bytes": download, "download_s": download_s,
    });
    output::event(args.remote.node.json, &value, || {
        let line = |name, bytes, seconds| {
            let rate = mib_per_s(bytes, seconds);
            format!("{name:<9} {bytes} bytes in {seconds:.3} s, {rate:.0} MiB/s")
        };
        [
            line("upload", upload, upload_s),
            line("download", download, download_s),
        ]
        .join("\n")
    });
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}

/// Sends random bytes and compares the SHA-256 of what comes back.
pub(crate) async fn echo(args: &EchoArgs) -> Result<(), Failure> {
    let (endpoint, connection) = dial(&args.remote).await?;
    let watch = Watch::new("echo", args.size, args.remote.node.json);
    let begun = Instant::now();
    let exchange = exchange(&connection, &args.protocol, args.size, &watch);
    let (sent, received) = watch.guard(args.remote.timeout, exchange).await?;
    let seconds = begun.elapsed().as_secs_f64();
    watch.bar.finish_and_clear();
    if sent != received {
        return Err(format!(
            "the echo differs: sent sha256 {sent}, received {received}; the node or the path damages data"
        )
        .into());
    }
    let value = json!({
        "event": "echo", "peer": connection.peer_id().to_string(), "bytes": args.size,
        "secs": seconds, "sha256": sent,
    });
    output::event(args.remote.node.json, &value, || {
        format!(
            "{} bytes came back unchanged in {seconds:.3} s, {:.0} MiB/s each way, sha256 {sent}",
            args.size,
            mib_per_s(args.size, seconds)
        )
    });
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}

/// Sends and receives at once; returns both digests.
async fn exchange(
    connection: &Connection,
    protocol: &str,
    size: u64,
    watch: &Watch,
) -> Result<(String, String), Failure> {
    let mut stream = connection.open_stream(protocol).await?;
    // A node that does not speak the protocol says so before it is sent the bytes.
    stream.negotiate().await?;
    let (mut read, mut write) = stream.split();
    let send = async {
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut left = size;
        while left > 0 {
            let n = left.min(ECHO_CHUNK as u64);
            let mut chunk = vec![0; n as usize];
            rng.fill_bytes(&mut chunk);
            hash.update(&chunk);
            write.write_chunk(Bytes::from(chunk)).await?;
            left -= n;
        }
        write.finish()?;
        Ok::<_, StreamError>(hex(hash))
    };
    let receive = async {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut received = 0;
        while let Some(chunk) = read.read_chunk(usize::MAX).await? {
            hash.update(&chunk);
            received += chunk.len() as u64;
            watch.add(chunk.len() as u64);
            if received > size {
                break;
            }
        }
        Ok::<_, StreamError>((hex(hash), received))
    };
    let (sent, (back, received)) = tokio::try_join!(send, receive)?;
    if received != size {
        return Err(format!(
            "{received} bytes came back of {size}; is {protocol} an echo on that node?"
        )
        .into());
    }
    Ok((sent, back))
}

fn hex(hash: digest::Context) -> String {
    hash.finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Progress of a transfer: a bar for people, a deadline that moves while bytes move.
pub(crate) struct Watch {
    bar: ProgressBar,
    moved: AtomicU64,
}

impl Watch {
    pub(crate) fn new(name: &'static str, bytes: u64, json: bool) -> Self {
        let bar = if json || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(bytes)
        };
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix:<9} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_prefix(name);
        Self {
            bar,
            moved: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
    }

    /// Runs `work` as long as it makes progress.
    pub(crate) async fn guard<T, E>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure>
    where
        Failure: From<E>,
    {
        let mut work = std::pin::pin!(work);
        let mut seen = None;
        loop {
            let moved = Some(self.moved.load(Ordering::Relaxed));
            if seen == moved {
                return Err(format!(
                    "no byte moved for {patience:?}; the node is stuck or gone, raise --timeout if it is slow"
                )
                .into());
            }
            seen = moved;
            if let Ok(done) = tokio::time::timeout(patience, &mut work).await {
                return done.map_err(Failure::from);
            }
        }
    }
}
