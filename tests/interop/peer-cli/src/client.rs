//! What a dialler does with one connection.

use std::{
    io,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Connection, DialOptions, Dialer, Failure, PeerStream, Stack, emit, protocol,
    serve::{COPY_BUFFER, ended_by_reset, send_zeros},
};

type ConnectionOf<S> = <<S as Stack>::Dialer as Dialer>::Connection;

async fn connect<S: Stack>(
    options: &DialOptions,
    protocols: &[&str],
) -> Result<(S::Dialer, ConnectionOf<S>), Failure> {
    let dialer = S::dialer(options, protocols).await?;
    let connection = dialer.dial().await?;
    Ok((dialer, connection))
}

pub(crate) async fn identify<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let (_dialer, connection) = connect::<S>(options, &[protocol::IDENTIFY]).await?;
    let told: Value = connection.identify().await?;
    emit("identify", &connection.peer(), told);
    connection.close().await
}

pub(crate) async fn ping<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let (_dialer, connection) = connect::<S>(options, &[protocol::PING]).await?;
    let mut stream = connection.open(protocol::PING).await?;
    let count = options.count.unwrap_or(1).max(1);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        times.push(ping_once(&mut stream).await?);
    }
    stream.shutdown().await?;
    times.sort_unstable();
    let fields = json!({
        "count": count,
        "min_us": quantile(&times, 0.0),
        "p50_us": quantile(&times, 0.5),
        "p99_us": quantile(&times, 0.99),
    });
    emit("ping", &connection.peer(), fields);
    connection.close().await
}

pub(crate) async fn ping_once(stream: &mut impl PeerStream) -> Result<Duration, Failure> {
    let (mut sent, mut got) = ([0; 32], [0; 32]);
    getrandom::fill(&mut sent)?;
    let start = Instant::now();
    stream.write_all(&sent).await?;
    stream.flush().await?;
    stream.read_exact(&mut got).await?;
    let took = start.elapsed();
    if sent != got {
        return Err("the ping came back with other bytes".into());
    }
    Ok(took)
}

pub(crate) async fn perf<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let (_dialer, connection) = connect::<S>(options, &[protocol::PERF]).await?;
    let (upload, download) = (options.upload, options.download);
    let mut buffer = vec![0; COPY_BUFFER];
    let start = Instant::now();
    let mut stream = connection.open(protocol::PERF).await?;
    stream.write_u64(download).await?;
    send_zeros(&mut stream, upload, &mut buffer).await?;
    stream.shutdown().await?;
    // The server answers only after it has seen the end of the upload: its first byte, or the end, closes the upload's time.
    let mut uploaded = start;
    let mut got = 0;
    loop {
        let n = stream.read(&mut buffer).await?;
        if got == 0 && upload > 0 {
            uploaded = Instant::now();
        }
        got += n as u64;
        if n == 0 {
            break;
        }
    }
    let done = Instant::now();
    if got != download {
        return Err(format!("asked for {download} bytes, got {got}").into());
    }
    let fields = json!({
        "upload_bytes": upload,
        "upload_s": (uploaded - start).as_secs_f64(),
        "download_bytes": download,
        "download_s": (done - uploaded).as_secs_f64(),
    });
    emit("perf", &connection.peer(), fields);
    connection.close().await
}

pub(crate) async fn echo<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let (_dialer, connection) = connect::<S>(options, &[options.protocol.as_str()]).await?;
    let size = options.size.unwrap_or(10 << 20);
    let start = Instant::now();
    let stream = connection.open(&options.protocol).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BUFFER];
        let mut left = size;
        while left > 0 {
            let n = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            getrandom::fill(&mut buffer[..n])?;
            hash.update(&buffer[..n]);
            writer.write_all(&buffer[..n]).await?;
            left -= n as u64;
        }
        writer.shutdown().await?;
        Ok::<_, Failure>(hash.finalize())
    };
    let receiving = async {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BUFFER];
        let mut total = 0;
        loop {
            let n = reader.read(&mut buffer).await?;
            if n == 0 {
                return Ok::<_, Failure>((hash.finalize(), total));
            }
            hash.update(&buffer[..n]);
            total += n as u64;
        }
    };
    let (sent, (got, total)) = tokio::try_join!(sending, receiving)?;
    if sent != got || total != size {
        return Err(format!("the echo differs: sent {size} bytes, got {total}").into());
    }
    let sha256: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = json!({ "bytes": size, "secs": start.elapsed().as_secs_f64(), "sha256": sha256 });
    emit("echo", &connection.peer(), fields);
    connection.close().await
}

pub(crate) async fn half_close<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let (_dialer, connection) = connect::<S>(options, &[protocol::HALF_CLOSE]).await?;
    let size = usize::try_from(options.size.unwrap_or(100_000))?;
    let mut payload = vec![0; size];
    getrandom::fill(&mut payload)?;
    let mut stream = connection.open(protocol::HALF_CLOSE).await?;
    stream.write_all(&payload).await?;
    stream.shutdown().await?;
    let mut back = Vec::with_capacity(size);
    stream.read_to_end(&mut back).await?;
    if back != payload {
        return Err(format!("sent {size} bytes, got {} other ones back", back.len()).into());
    }
    emit("half_close", &connection.peer(), json!({ "bytes": size }));
    connection.close().await
}

pub(crate) async fn reset<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let (_dialer, connection) =
        connect::<S>(options, &[protocol::HOLD, protocol::RESET, protocol::PING]).await?;
    if options.by == "local" {
        drop(open_hold(&connection).await?);
    } else {
        let mut stream = connection.open(protocol::RESET).await?;
        stream.write_all(b"reset").await?;
        stream.flush().await?;
        read_until_lost(&mut stream).await?;
    }
    let mut stream = connection.open(protocol::PING).await?;
    ping_once(&mut stream)
        .await
        .map_err(|cause| format!("the connection did not survive the reset: {cause}"))?;
    stream.shutdown().await?;
    emit("reset", &connection.peer(), json!({ "by": options.by }));
    connection.close().await
}

pub(crate) async fn hold<S: Stack>(options: &DialOptions) -> Result<(), Failure> {
    let (_dialer, connection) = connect::<S>(options, &[protocol::HOLD]).await?;
    let mut stream = open_hold(&connection).await?;
    emit("holding", &connection.peer(), json!({}));
    let cause = read_until_lost(&mut stream).await?;
    emit(
        "lost",
        &connection.peer(),
        json!({ "error": cause.to_string() }),
    );
    Ok(())
}

/// Returns once the other side has shown that it serves the stream.
async fn open_hold<C: Connection>(connection: &C) -> Result<C::Stream, Failure> {
    let mut stream = connection.open(protocol::HOLD).await?;
    stream.write_all(b"hold").await?;
    stream.flush().await?;
    stream.read_u8().await?;
    Ok(stream)
}

async fn read_until_lost(stream: &mut impl PeerStream) -> Result<io::Error, Failure> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Err(cause) => Ok(cause),
        Ok(_) => match ended_by_reset(stream).await {
            Err(cause) => Ok(cause),
            Ok(()) => Err("the stream ended cleanly".into()),
        },
    }
}

/// Microseconds, nearest rank, of sorted times.
pub(crate) fn quantile(sorted: &[Duration], q: f64) -> f64 {
    let rank = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted
        .get(rank)
        .map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
