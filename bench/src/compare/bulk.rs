//! Round trips on a connection that downloads at full speed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_node::{
    Endpoint, Keypair, Multiaddr,
    protocols::{perf, ping},
};
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::{Bench, LISTENER_CPU};
use crate::{
    Failure,
    measure::{DEADLINE, Listener, MIB},
    stacks::Program,
    table::Metric,
};

/// More than anybody sends in that time.
const DOWNLOAD: u64 = 1 << 40;
/// Windows have grown by then.
const WARM_UP: Duration = Duration::from_secs(1);
const WATCHED: Duration = Duration::from_secs(3);
const PING: Bytes = Bytes::from_static(&[7; 32]);

impl Bench {
    /// A node of ours downloads and pings, always the same: it is the listener's stack that is compared, because that has
    /// to get its answers out between the bulk.
    pub(super) async fn bulk(&mut self, program: &Program) -> Result<(), Failure> {
        let listener = self.listen(program, &[], Some(LISTENER_CPU)).await?;
        let (mut trips, rate) = timeout(DEADLINE, download_and_ping(&listener)).await??;
        trips.sort_unstable();
        let at = |share: usize| {
            let trip = trips.get(trips.len() * share / 100);
            trip.map(|trip| trip.as_secs_f64() * 1e6)
                .ok_or("no ping came back")
        };
        let [p50, p99] = [at(50)?, at(99)?];
        self.samples.add(Metric::BulkPing50, program.stack, p50);
        self.samples.add(Metric::BulkPing99, program.stack, p99);
        self.samples.add(Metric::BulkDown, program.stack, rate);
        listener.stop().await
    }
}

/// The round trips, and the rate of the download meanwhile.
async fn download_and_ping(listener: &Listener) -> Result<(Vec<Duration>, f64), Failure> {
    let endpoint = Endpoint::builder(Keypair::generate(&mut rand::rng()));
    let endpoint = endpoint.bind().await?;
    let connection = endpoint
        .connect(listener.addr.parse::<Multiaddr>()?)
        .await?;
    let mut bulk = connection.open_stream(perf::PROTOCOL).await?;
    let wanted = Bytes::copy_from_slice(&DOWNLOAD.to_be_bytes());
    bulk.write_last(wanted).await?;
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let reading = tokio::spawn(async move {
        while let Ok(Some(chunk)) = bulk.read_chunk(usize::MAX).await {
            counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    let mut ping = connection.open_stream(ping::PROTOCOL).await?;
    sleep(WARM_UP).await;
    let (begun, before) = (Instant::now(), received.load(Ordering::Relaxed));
    let mut trips = Vec::new();
    while begun.elapsed() < WATCHED {
        let sent = Instant::now();
        ping.write_chunk(PING).await?;
        let mut left = PING.len();
        while left > 0 {
            let chunk = ping.read_chunk(left).await?;
            left -= chunk.ok_or("the ping stream has ended")?.len();
        }
        trips.push(sent.elapsed());
    }
    let moved = received.load(Ordering::Relaxed) - before;
    let rate = moved as f64 / MIB / begun.elapsed().as_secs_f64();
    if reading.is_finished() {
        return Err("the download has ended".into());
    }
    reading.abort();
    endpoint.shutdown(Duration::from_secs(1)).await;
    Ok((trips, rate))
}
