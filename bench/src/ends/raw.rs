//! tokio TCP without anything on it: what the machine itself carries, and how fast it answers.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::arrived;

/// Bytes of one read or write.
const BLOCK: usize = 256 * 1024;
/// Bytes of one round trip, as in libp2p's ping.
const PING: usize = 32;

/// Receives until the end, then answers with the count.
pub(super) async fn sink(listener: TcpListener) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(count(socket));
    }
}

/// Receives until the end, then answers with the count.
pub(super) async fn count(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut block).await? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_u64(total).await?;
    stream.flush().await
}

/// Sends `bytes` and waits until the other side has them all.
pub(super) async fn send(to: SocketAddr, bytes: u64) -> io::Result<Duration> {
    let socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    push(socket, bytes).await
}

/// Sends `bytes` over a stream and waits until the other side has them all.
pub(super) async fn push(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: u64,
) -> io::Result<Duration> {
    let block = vec![0; BLOCK];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BLOCK as u64) as usize;
        stream.write_all(&block[..n]).await?;
        left -= n as u64;
    }
    stream.shutdown().await?;
    arrived(bytes, stream.read_u64().await?, start)
}

/// Echoes single pings.
pub(super) async fn pong(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut ping = [0; PING];
            while socket.read_exact(&mut ping).await.is_ok() {
                socket.write_all(&ping).await?;
            }
            Ok::<_, io::Error>(())
        });
    }
}

/// Times of `count` round trips, in order.
pub(super) async fn ping(to: SocketAddr, count: usize) -> io::Result<Vec<Duration>> {
    let mut socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let mut times = Vec::with_capacity(count);
    let mut ping = [0; PING];
    for _ in 0..count {
        let start = Instant::now();
        socket.write_all(&ping).await?;
        socket.read_exact(&mut ping).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}
