//! barewire's WebSocket frames over TCP without Noise or a muxer: masked by the client, unmasked by the server.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use barewire_transport::{
    Role,
    ws::frame::{Decoder, Header, Limits, Opcode, push_masked},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::arrived;

/// Payload of one frame, and bytes of one read.
const FRAME: usize = 256 * 1024;
/// What the decoder may take at once before it has seen a header.
const READ: u64 = 32 * 1024;

/// Receives until the end, then answers with the count of payload bytes, outside the frames.
pub(super) async fn sink(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let limits = Limits {
                max_frame: FRAME as u64,
                max_idle_frames_per_second: 128,
            };
            let mut decoder = Decoder::new(Role::Server, limits);
            let mut slab = vec![0; FRAME];
            let mut total = 0_u64;
            loop {
                let limit = decoder.read_limit(READ).min(FRAME as u64) as usize;
                let n = socket.read(&mut slab[..limit]).await?;
                if n == 0 {
                    return socket.write_u64(total).await;
                }
                total += decoder
                    .decode(Instant::now(), &mut slab[..n])
                    .map_err(io::Error::other)? as u64;
            }
        });
    }
}

/// Sends `bytes` in frames and waits until the other side has unmasked them all.
pub(super) async fn send(to: SocketAddr, bytes: u64) -> io::Result<Duration> {
    let mut socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let block = vec![0; FRAME];
    let mut out = Vec::with_capacity(FRAME + 16);
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let n = left.min(FRAME as u64) as usize;
        let mask = rand::random();
        out.clear();
        out.extend_from_slice(Header::new(Opcode::Binary, n, Some(mask)).as_slice());
        push_masked(&block[..n], mask, &mut out);
        socket.write_all(&out).await?;
        left -= n as u64;
    }
    socket.shutdown().await?;
    arrived(bytes, socket.read_u64().await?, start)
}
