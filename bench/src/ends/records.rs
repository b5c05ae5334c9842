//! barewire's Noise records over TCP without a muxer: the record layer's share of what a stack can reach.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::Keypair;
use barewire_security::{
    MAX_PLAINTEXT, MAX_RECORD, Opened, Session,
    noise::{Config, Handshake},
};
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::arrived;

/// Records of one write or read, as in barewire's own connections.
const BATCH: usize = 4;

/// Receives until the end, then answers with the count of plaintext bytes, outside the secure channel.
pub(super) async fn sink(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let config = config()?;
            let handshake =
                Handshake::responder(&config, &mut rand::rng()).map_err(io::Error::other)?;
            let session = shake_hands(&mut socket, handshake).await?;
            let total = receive(&mut socket, session).await?;
            socket.write_u64(total).await
        });
    }
}

/// Sends `bytes` of plaintext in full records and waits until the other side has opened them all.
pub(super) async fn send(to: SocketAddr, bytes: u64) -> io::Result<Duration> {
    let mut socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let config = config()?;
    let handshake =
        Handshake::initiator(&config, None, &mut rand::rng()).map_err(io::Error::other)?;
    let (mut sealer, _) = shake_hands(&mut socket, handshake).await?.split();
    let payload = vec![0; MAX_PLAINTEXT];
    let mut out = BytesMut::with_capacity(BATCH * MAX_RECORD);
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        out.clear();
        for _ in 0..BATCH {
            let n = left.min(MAX_PLAINTEXT as u64) as usize;
            if n > 0 {
                sealer
                    .seal(std::iter::once(&payload[..n]), &mut out)
                    .map_err(io::Error::other)?;
                left -= n as u64;
            }
        }
        socket.write_all(&out).await?;
    }
    socket.shutdown().await?;
    arrived(bytes, socket.read_u64().await?, start)
}

async fn receive(socket: &mut TcpStream, session: Session) -> io::Result<u64> {
    let (_, mut opener) = session.split();
    let mut slab = vec![0; BATCH * MAX_RECORD];
    let (mut start, mut end) = (0, 0);
    let mut total = 0;
    loop {
        match socket.read(&mut slab[end..]).await? {
            0 => return Ok(total),
            n => end += n,
        }
        while let Opened::Record {
            plaintext,
            consumed,
        } = opener
            .open_in_place(&mut slab[start..end])
            .map_err(io::Error::other)?
        {
            total += plaintext.len() as u64;
            start += consumed;
        }
        if start == end {
            (start, end) = (0, 0);
        } else if end == slab.len() {
            // Full records fill the slab exactly, so only the short last one can get here.
            slab.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
    }
}

fn config() -> io::Result<Arc<Config>> {
    let mut rng = rand::rng();
    let identity = Keypair::generate(&mut rng);
    Config::new(&identity, Vec::new(), &mut rng)
        .map(Arc::new)
        .map_err(io::Error::other)
}

async fn shake_hands(socket: &mut TcpStream, mut handshake: Handshake) -> io::Result<Session> {
    let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
    loop {
        if handshake.poll_transmit(&mut out) {
            socket.write_all(&out).await?;
            out.clear();
        }
        if handshake.is_finished() {
            return Ok(handshake.finish().map_err(io::Error::other)?.session);
        }
        // A byte at a time: what follows the handshake must stay in the socket.
        let byte = socket.read_u8().await?;
        input.extend_from_slice(&[byte]);
        let consumed = handshake.handle_input(&input).map_err(io::Error::other)?;
        input = input.split_off(consumed);
    }
}
