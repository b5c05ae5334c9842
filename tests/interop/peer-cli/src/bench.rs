//! Rates over many connections or streams.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use crate::{
    Connection, DialOptions, Dialer, Failure, PeerStream, Stack,
    client::{ping_once, quantile},
    emit, protocol,
};

/// Payloads up to this size can be written before anything is read, also on as many streams of a QUIC connection, which
/// share a window, as a test opens.
const FITS_WINDOW: usize = 8 << 10;

/// One fresh connection after another: dial, one ping, close. Each worker has nodes of its own.
pub(crate) async fn handshakes<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let mut dialers = Vec::new();
    for _ in 0..options.concurrency * S::IDENTITIES_PER_WORKER {
        dialers.push(Arc::new(S::dialer(options, &[protocol::PING]).await?));
    }
    let turns = Arc::new(AtomicUsize::new(0));
    let (peer, fields) = measure(options, move |worker| {
        let turn = turns.fetch_add(1, Ordering::Relaxed) % S::IDENTITIES_PER_WORKER;
        let dialer = dialers[worker * S::IDENTITIES_PER_WORKER + turn].clone();
        async move {
            let connection = dialer.dial().await?;
            let mut stream = connection.open(protocol::PING).await?;
            ping_once(&mut stream).await?;
            let peer = connection.peer();
            connection.close().await?;
            Ok(peer)
        }
    })
    .await?;
    emit("handshakes", &peer, fields);
    Ok(())
}

/// One stream after another on one connection: open, echo --size bytes, end.
pub(crate) async fn streams<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let dialer = S::dialer(options, &[options.protocol.as_str()]).await?;
    let connection = Arc::new(dialer.dial().await?);
    let size = usize::try_from(options.size.unwrap_or(100))?;
    let payload: Arc<[u8]> = vec![0x5a; size].into();
    let protocol: Arc<str> = options.protocol.as_str().into();
    let peer = connection.peer();
    let (_, mut fields) = measure(options, move |_| {
        let (connection, payload, protocol) =
            (connection.clone(), payload.clone(), protocol.clone());
        async move {
            let stream = connection.open(&protocol).await?;
            echo_once(stream, payload).await?;
            Ok(String::new())
        }
    })
    .await?;
    fields["size"] = json!(size);
    emit("streams", &peer, fields);
    Ok(())
}

async fn echo_once(mut stream: impl PeerStream, payload: Arc<[u8]>) -> Result<(), Failure> {
    let mut back = Vec::with_capacity(payload.len() + 1);
    if payload.len() <= FITS_WINDOW {
        stream.write_all(&payload).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut back).await?;
    } else {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sending = async {
            writer.write_all(&payload).await?;
            writer.shutdown().await
        };
        tokio::try_join!(sending, reader.read_to_end(&mut back))?;
    }
    if back[..] != payload[..] {
        return Err(format!(
            "the echo differs: sent {} bytes, got {}",
            payload.len(),
            back.len()
        )
        .into());
    }
    Ok(())
}

/// Runs --count operations on --concurrency tasks; returns what the last one said and the fields of the event.
async fn measure<F, O>(options: &DialOptions, operation: F) -> Result<(String, Value), Failure>
where
    F: Fn(usize) -> O + Clone + Send + 'static,
    O: Future<Output = Result<String, Failure>> + Send + 'static,
{
    let count = options.count.unwrap_or(1000);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    let start = Instant::now();
    for worker in 0..options.concurrency {
        let (next, operation) = (next.clone(), operation.clone());
        workers.spawn(async move {
            let mut times = Vec::new();
            let mut said = String::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let began = Instant::now();
                said = operation(worker).await?;
                times.push(began.elapsed());
            }
            Ok::<_, Failure>((said, times))
        });
    }
    let mut times = Vec::with_capacity(count);
    let mut peer = String::new();
    while let Some(done) = workers.join_next().await {
        let (said, worker_times) = done??;
        if !worker_times.is_empty() {
            peer = said;
        }
        times.extend(worker_times);
    }
    let secs = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let fields = json!({
        "count": count,
        "concurrency": options.concurrency,
        "secs": secs,
        "per_s": count as f64 / secs,
        "p50_us": quantile(&times, 0.5),
    });
    Ok((peer, fields))
}

/// Opens one connection from each of --count identities, --concurrency at a time; they live as long as the result.
pub(crate) async fn connections<S: Stack>(options: &DialOptions) -> Result<impl Sized, Failure> {
    let count = options.count.unwrap_or(1).max(1);
    let mut opening = JoinSet::new();
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        if opening.len() == options.concurrency
            && let Some(opened) = opening.join_next().await
        {
            held.push(opened??);
        }
        let options = options.clone();
        opening.spawn(async move {
            let dialer = S::dialer(&options, &[protocol::IDENTIFY]).await?;
            let connection = dialer.dial().await?;
            // The listener has all it will keep for this peer once both have identified each other.
            connection.identify().await?;
            Ok::<_, Failure>((dialer, connection))
        });
    }
    while let Some(opened) = opening.join_next().await {
        held.push(opened??);
    }
    let peer = held
        .last()
        .map(|(_, connection)| connection.peer())
        .unwrap_or_default();
    emit("held", &peer, json!({ "count": count }));
    Ok(held)
}
