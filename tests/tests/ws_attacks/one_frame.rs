//! A peer that puts a whole connection into one WebSocket frame: no implementation may wait for its end.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use barewire_base::{Budget, Keypair};
use barewire_security::noise;
use barewire_transport::{
    Role, Security, UpgradeConfig, upgrade_outbound,
    ws::frame::{Decoder, Limits, apply_mask},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    client::{Client, MASK},
    victim::Victim,
};

/// Bytes the frame announces: the most a node takes.
const FRAME: u64 = 256 << 20;
const UPLOAD: u64 = 200 << 20;

struct OneFrame {
    socket: TcpStream,
    decoder: Decoder,
    /// Masked bytes that wait.
    out: Vec<u8>,
    sent: usize,
    mask: [u8; 4],
}

impl AsyncRead for OneFrame {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            let read = &mut buf.filled_mut()[before..];
            let end = read.is_empty();
            let kept = this
                .decoder
                .decode(Instant::now(), read)
                .map_err(io::Error::other)?;
            buf.set_filled(before + kept);
            if end || kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for OneFrame {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let this = &mut *self;
        this.out.clear();
        this.sent = 0;
        this.out.extend_from_slice(buf);
        apply_mask(&mut this.out, this.mask);
        this.mask.rotate_left(buf.len() % 4);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.sent < this.out.len() {
            let socket = Pin::new(&mut this.socket);
            this.sent += ready!(socket.poll_write(cx, &this.out[this.sent..]))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_frame_of_256_mib_is_streamed() {
    let victim = Victim::start(&[]).await;
    let mut client = Client::open(victim.port).await;
    let mut header = vec![0x82, 0x80 | 127];
    header.extend(FRAME.to_be_bytes());
    header.extend(MASK);
    client.send(&header).await;
    let limits = Limits {
        max_frame: u64::MAX >> 1,
        max_idle_frames_per_second: u32::MAX,
    };
    let io = OneFrame {
        socket: client.socket,
        decoder: Decoder::new(Role::Client, limits),
        out: Vec::new(),
        sent: 0,
        mask: MASK,
    };
    let keypair = Keypair::generate(&mut rand::rng());
    let noise = noise::Config::new(&keypair, vec!["/yamux/1.0.0".into()], &mut rand::rng());
    let config = UpgradeConfig::new(
        vec![Security::Noise(Arc::new(noise.unwrap()))],
        Budget::unlimited(),
    );
    let (connection, _streams) = upgrade_outbound(io, &config, None).await.unwrap();
    let before = victim.peak_kib();
    let begun = Instant::now();
    let mut stream = connection.open_stream("/perf/1.0.0").await.unwrap();
    // Nothing is wanted back.
    let wanted = Bytes::copy_from_slice(&0u64.to_be_bytes());
    stream.write_chunk(wanted).await.unwrap();
    let block = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..UPLOAD >> 20 {
        stream.write_chunk(block.clone()).await.unwrap();
    }
    stream.finish().unwrap();
    assert_eq!(stream.read_chunk(1).await.unwrap(), None);
    let grown = victim.peak_kib() - before;
    println!(
        "row 17: {} MiB inside one frame in {:?}: the victim's peak grows by {grown} KiB",
        UPLOAD >> 20,
        begun.elapsed()
    );
    // What a connection may buffer whatever carries it: slabs and a stream's window.
    assert!(grown < 16 * 1024, "{grown} KiB");
    connection.close(0);
    victim.stop().await;
}
