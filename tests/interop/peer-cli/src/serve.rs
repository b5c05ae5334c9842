//! The listener's side of every protocol.

use std::{io, sync::Arc};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
};

use crate::{Failure, ListenOptions, PeerStream, Stack, emit, protocol};

/// Large enough that a Noise record (64 KiB) is never split by the application.
pub(crate) const COPY_BUFFER: usize = 256 << 10;

/// Bounds what the half-close protocol keeps until the dialler's end of stream.
const HALF_CLOSE_LIMIT: u64 = 16 << 20;

/// The protocols a listener offers besides identify.
pub struct Services {
    peer: std::sync::OnceLock<String>,
    echo: Vec<String>,
}

impl Services {
    /// Every protocol id, for registration.
    pub fn protocols(&self) -> Vec<String> {
        let others = [
            protocol::PING,
            protocol::PERF,
            protocol::HALF_CLOSE,
            protocol::RESET,
            protocol::HOLD,
        ];
        self.echo
            .iter()
            .cloned()
            .chain(others.map(String::from))
            .collect()
    }

    /// Serves one inbound stream to its end; the stream is reset when this fails.
    pub async fn serve(self: Arc<Self>, protocol: &str, mut stream: impl PeerStream) {
        let served = match protocol {
            protocol::PING => ping(&mut stream).await,
            protocol::PERF => perf(&mut stream).await,
            protocol::HALF_CLOSE => half_close(&mut stream).await,
            protocol::RESET => {
                let _ = stream.read_u8().await;
                return;
            }
            protocol::HOLD => {
                let held = hold(&mut stream).await;
                if let Err(cause) = &held {
                    let own = self.peer.get().map_or("", String::as_str);
                    emit("lost", own, json!({ "error": cause.to_string() }));
                }
                held
            }
            _ => echo(&mut stream).await,
        };
        match served {
            Ok(()) => {
                // The other side may be gone already; there is nobody left to tell.
                let _ = stream.shutdown().await;
            }
            Err(cause) => eprintln!("peer: {protocol}: {cause}"),
        }
    }
}

pub(crate) async fn listen<S: Stack>(options: &ListenOptions) -> Result<(), Failure> {
    if !S::GOSSIPS && !options.gossip.topic.is_empty() {
        return Err("this stack does not gossip".into());
    }
    let services = Arc::new(Services {
        peer: std::sync::OnceLock::new(),
        echo: [protocol::ECHO.to_owned()]
            .into_iter()
            .chain(options.echo_protocol.iter().cloned())
            .collect(),
    });
    let listening = S::listen(options, services.clone()).await?;
    let _ = services.peer.set(listening.peer.clone());
    for addr in &listening.addrs {
        let addr = format!("{addr}/p2p/{}", listening.peer);
        emit("listening", &listening.peer, json!({ "addr": addr }));
    }
    wait_for_end().await?;
    drop(listening.node);
    Ok(())
}

/// Returns when stdin closes or the process is asked to stop.
pub(crate) async fn wait_for_end() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (closed, stdin_closed) = tokio::sync::oneshot::channel();
    // A thread of its own: the runtime must not wait for a blocked read when it ends.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = closed.send(());
    });
    tokio::select! {
        _ = stdin_closed => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

async fn ping(stream: &mut impl PeerStream) -> io::Result<()> {
    let mut payload = [0; 32];
    loop {
        match stream.read_exact(&mut payload).await {
            Ok(_) => {
                stream.write_all(&payload).await?;
                stream.flush().await?;
            }
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(cause) => return Err(cause),
        }
    }
}

async fn echo(stream: &mut impl PeerStream) -> io::Result<()> {
    // Small exchanges are the most common use; a large buffer comes only when the small one fills.
    let mut buffer = vec![0; 4 << 10];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n]).await?;
        stream.flush().await?;
        if n == buffer.len() && n < COPY_BUFFER {
            buffer = vec![0; COPY_BUFFER];
        }
    }
}

async fn perf(stream: &mut impl PeerStream) -> io::Result<()> {
    let wanted = stream.read_u64().await?;
    let mut buffer = vec![0; COPY_BUFFER];
    while stream.read(&mut buffer).await? != 0 {}
    send_zeros(stream, wanted, &mut buffer).await
}

async fn half_close(stream: &mut impl PeerStream) -> io::Result<()> {
    let mut all = Vec::new();
    (&mut *stream)
        .take(HALF_CLOSE_LIMIT)
        .read_to_end(&mut all)
        .await?;
    stream.write_all(&all).await?;
    stream.flush().await
}

/// Proves with one byte that the stream is served, then reads until the other side goes away.
async fn hold(stream: &mut impl PeerStream) -> io::Result<()> {
    stream.write_all(b"h").await?;
    stream.flush().await?;
    let mut buffer = vec![0; COPY_BUFFER];
    while stream.read(&mut buffer).await? != 0 {}
    ended_by_reset(stream).await
}

/// Some yamux implementations report a reset to the reader as an end of stream; only after a real end can one still write.
pub(crate) async fn ended_by_reset(stream: &mut impl PeerStream) -> io::Result<()> {
    stream.write_all(b"?").await?;
    stream.flush().await
}

pub(crate) async fn send_zeros(
    stream: &mut impl PeerStream,
    mut count: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    buffer.fill(0);
    while count > 0 {
        let n = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        stream.write_all(&buffer[..n]).await?;
        count -= n as u64;
    }
    stream.flush().await
}
